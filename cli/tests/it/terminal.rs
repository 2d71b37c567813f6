//! In a pseudo-terminal.

use std::process::Stdio;

use coze_mock::defaults;
use rexpect::session::{PtySession, spawn_command};

use crate::support::{World, start_mock};

/// Starts the program with a terminal for its input and output.
fn spawn(world: &World, arguments: &[&str]) -> PtySession {
    let mut command = world.command(arguments);
    command.stdin(Stdio::inherit());
    spawn_command(command, Some(60_000)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_login_shows_code_picture_and_time() {
    let mock = start_mock().await;
    let world = World::new().set("TERM", "xterm-256color");
    let arguments = [
        "login",
        "--client-id",
        defaults::DEVICE_CLIENT_ID,
        "--site",
        mock.url(),
    ];
    let mut terminal = spawn(&world, &arguments);
    terminal.exp_string("confirm the code").unwrap();
    let (_, code) = terminal.exp_regex("user_code=[A-Z0-9-]+").unwrap();
    let code = code.strip_prefix("user_code=").unwrap().to_owned();
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
