//! In a pseudo-terminal.

use std::process::Stdio;

use coze_mock::{MockCoze, defaults};
use rexpect::{
    process::WaitStatus,
    session::{PtySession, spawn_command},
};

use crate::support::{World, start_mock};

/// Starts the program with a terminal for its input and output.
fn spawn(world: &World, arguments: &[&str]) -> PtySession {
    let mut command = world.command(arguments);
    command.stdin(Stdio::inherit());
    spawn_command(command, Some(60_000)).unwrap()
}

/// The exit code, after all output.
fn exit_code(mut terminal: PtySession) -> (i32, String) {
    let said = terminal.exp_eof().unwrap();
    match terminal.process().wait().unwrap() {
        WaitStatus::Exited(_, code) => (code, said),
        other => panic!("{other:?}: {said}"),
    }
}

fn login<'a>(mock: &'a MockCoze, more: &[&'a str]) -> Vec<&'a str> {
    let id = defaults::DEVICE_CLIENT_ID;
    let login = ["login", "--client-id", id, "--site", mock.url()];
    [&login[..], more].concat()
}

/// The user code in the address.
fn user_code(terminal: &mut PtySession) -> String {
    let (_, code) = terminal.exp_regex("user_code=[A-Z0-9-]+").unwrap();
    code.strip_prefix("user_code=").unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_login_shows_code_picture_and_time() {
    let mock = start_mock().await;
    let world = World::new().set("TERM", "xterm-256color");
    let mut terminal = spawn(&world, &login(&mock, &[]));
    terminal.exp_string("confirm the code").unwrap();
    let code = user_code(&mut terminal);
    let spaced: String = code.chars().flat_map(|c| [' ', c]).collect();
    terminal.exp_string(spaced.trim()).unwrap();
    // The picture of the address, black on white.
    terminal.exp_string("\u{1b}[30m").unwrap();
    // The bytes of ▀: each is read as a character of its own.
    terminal.exp_string("\u{e2}\u{96}\u{80}").unwrap();
    terminal.exp_string("left").unwrap();
    mock.approve_device(&code).unwrap();
    terminal.exp_string("Signed in").unwrap();
    terminal.exp_eof().unwrap();
    assert!(world.run(&["token"]).success().starts_with("czu_"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_secret_is_typed_without_echo() {
    let mock = start_mock().await;
    let world = World::new();
    let arguments = [
        "login",
        "--flow",
        "web",
        "--client-id",
        defaults::WEB_CLIENT_ID,
        "--site",
        mock.url(),
        "--paste",
        "--redirect-uri",
        "https://example.com/callback",
    ];
    let mut terminal = spawn(&world, &arguments);
    terminal.exp_string("not shown").unwrap();
    terminal.send_line(defaults::WEB_CLIENT_SECRET).unwrap();
    terminal.exp_string("Open this address").unwrap();
    terminal.send_line("no callback").unwrap();
    let said = terminal.exp_string("Paste the whole address").unwrap();
    assert!(!said.contains(defaults::WEB_CLIENT_SECRET), "{said}");
    // Nothing more is pasted.
    terminal.send_control('d').unwrap();
    terminal.exp_eof().unwrap();
}

#[test]
fn errors_have_colours_unless_they_are_not_wanted() {
    let world = World::new().set("TERM", "xterm-256color");
    let mut terminal = spawn(&world, &["jwt"]);
    assert!(terminal.exp_eof().unwrap().contains("\u{1b}["));
    let world = world.set("NO_COLOR", "1");
    let mut terminal = spawn(&world, &["jwt"]);
    let said = terminal.exp_eof().unwrap();
    assert!(
        said.contains("error:") && !said.contains("\u{1b}["),
        "{said}"
    );
}

/// The characters are light on a dark terminal, so the light modules are drawn, and the dark ones left out.
#[tokio::test(flavor = "multi_thread")]
async fn without_colours_the_picture_is_dark_on_light() {
    // The bytes of █: each is read as a character of its own.
    const BLOCK: &str = "\u{e2}\u{96}\u{88}";
    let mock = start_mock().await;
    let world = World::new().set("TERM", "xterm-256color");
    let coloured = {
        let mut terminal = spawn(&world, &login(&mock, &[]));
        let code = user_code(&mut terminal);
        mock.approve_device(&code).unwrap();
        terminal.exp_eof().unwrap()
    };
    let world = world.set("NO_COLOR", "1");
    let mut terminal = spawn(&world, &login(&mock, &[]));
    let code = user_code(&mut terminal);
    mock.approve_device(&code).unwrap();
    let said = terminal.exp_eof().unwrap();
    // Only the margin of the picture has so many modules of one colour.
    let margin = BLOCK.repeat(20);
    assert!(said.contains(&margin), "{said}");
    assert!(!coloured.contains(&margin), "{coloured}");
    assert!(!said.contains("\u{1b}[30m"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_login_has_no_countdown() {
    let mock = start_mock().await;
    let world = World::new().set("TERM", "xterm-256color");
    let mut terminal = spawn(&world, &login(&mock, &["--quiet"]));
    let code = user_code(&mut terminal);
    mock.approve_device(&code).unwrap();
    let (exit, said) = exit_code(terminal);
    assert_eq!(exit, 0, "{said}");
    assert!(!said.contains("Waiting"), "{said}");
    assert!(!said.contains("Signed in"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_prompt_has_the_exit_code_of_ctrl_c() {
    let mock = start_mock().await;
    let world = World::new();
    let arguments = [
        "login",
        "--flow",
        "web",
        "--client-id",
        defaults::WEB_CLIENT_ID,
        "--site",
        mock.url(),
    ];
    let mut terminal = spawn(&world, &arguments);
    terminal.exp_string("not shown").unwrap();
    terminal.send_control('c').unwrap();
    let (exit, said) = exit_code(terminal);
    assert_eq!(exit, 130, "{said}");
    assert!(!said.contains("error"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_is_asked_before_a_profile_is_replaced() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    let other = start_mock().await;
    let ask = || {
        let mut terminal = spawn(&world, &login(&other, &[]));
        terminal.exp_string("Replace it? [y/N]").unwrap();
        terminal
    };
    let mut terminal = ask();
    terminal.send_line("n").unwrap();
    let (exit, said) = exit_code(terminal);
    assert_eq!(exit, 4, "{said}");
    assert!(said.contains("cancelled: nothing was changed"), "{said}");

    let mut terminal = ask();
    terminal.send_control('c').unwrap();
    assert_eq!(exit_code(terminal).0, 130);
    assert_eq!(other.request_count(), 0);
    world.run(&["token"]).success();

    let mut terminal = ask();
    terminal.send_line("y").unwrap();
    let code = user_code(&mut terminal);
    other.approve_device(&code).unwrap();
    let (exit, said) = exit_code(terminal);
    assert_eq!(exit, 0, "{said}");
    assert!(said.contains("Signed in"), "{said}");
}

#[test]
fn the_user_is_asked_whether_a_file_of_the_working_folder_is_trusted() {
    let world = World::new();
    let app =
        r#"{"client_type":"pkce","client_id":"id","coze_api_base":"https://api.evil.example"}"#;
    std::fs::write(world.path().join("coze_oauth_config.json"), app).unwrap();
    for (answer, expected) in [
        ("n", (4, "cancelled: nothing was changed")),
        ("", (4, "cancelled: nothing was changed")),
        // The login ends before any request.
        ("y", (2, "the redirect URI is missing")),
    ] {
        let mut terminal = spawn(&world, &["login"]);
        terminal.exp_string("api.evil.example").unwrap();
        terminal.exp_string("trust it? [y/N]").unwrap();
        terminal.send_line(answer).unwrap();
        let (exit, said) = exit_code(terminal);
        assert_eq!(exit, expected.0, "{said}");
        assert!(said.contains(expected.1), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_could_not_be_kept_is_not_lost_while_the_user_fixes_the_store() {
    let mock = start_mock().await;
    let world = World::new();
    let mut terminal = spawn(&world, &login(&mock, &[]));
    let code = user_code(&mut terminal);
    // After the check, before the save.
    let in_the_way = world.path().join("state/coze/sign-ins/default.json");
    std::fs::create_dir(&in_the_way).unwrap();
    mock.approve_device(&code).unwrap();
    terminal.exp_string("press Enter to try again").unwrap();
    terminal.send_line("").unwrap();
    terminal.exp_string("press Enter to try again").unwrap();
    std::fs::remove_dir(&in_the_way).unwrap();
    terminal.send_line("").unwrap();
    let (exit, said) = exit_code(terminal);
    assert_eq!(exit, 0, "{said}");
    assert!(said.contains("Signed in"), "{said}");
    assert!(world.run(&["token"]).success().starts_with("czu_"));
    assert_eq!(mock.ledger().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_the_prompt_for_a_secret_and_the_terminal_shows_what_is_typed_again() {
    const SHELL: &str =
        r#"stty echo; sh -c 'echo $$ >pid; exec "$@"' sh "$@"; echo "code $?"; stty -a"#;
    let mock = start_mock().await;
    let world = World::new();
    let id = defaults::WEB_CLIENT_ID;
    let arguments = [
        "login",
        "--flow",
        "web",
        "--client-id",
        id,
        "--site",
        mock.url(),
    ];
    let program = world.command(arguments);
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", SHELL, "sh"])
        .arg(program.get_program())
        .args(arguments)
        .current_dir(world.path())
        .env_clear();
    for (name, value) in program.get_envs() {
        shell.envs(value.map(|value| (name, value)));
    }
    let mut terminal = spawn_command(shell, Some(60_000)).unwrap();
    terminal.exp_string("not shown").unwrap();
    let pid = std::fs::read_to_string(world.path().join("pid")).unwrap();
    let mut kill = std::process::Command::new("kill");
    let killed = kill.args(["-s", "TERM", pid.trim()]).status().unwrap();
    assert!(killed.success());
    terminal.exp_string("code 143").unwrap();
    let settings = terminal.exp_eof().unwrap();
    for shown in [" echo ", " icanon "] {
        assert!(settings.contains(shown), "{settings}");
    }
}
