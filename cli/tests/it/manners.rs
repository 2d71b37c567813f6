use coze_mock::MockCoze;

use crate::{
    assert_run,
    support::{World, start_mock},
};

#[test]
fn the_help_tells_the_exit_codes() {
    assert_run!("help", World::new().run(&["--help"]));
}

#[test]
fn every_command_has_a_help() {
    let world = World::new();
    let help = world.run(&["--help"]);
    let commands = help
        .success()
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    let mut count = 0;
    for name in commands.filter_map(|line| line.split_whitespace().next()) {
        assert_run!(format!("help_of_{name}"), world.run(&[name, "--help"]));
        count += 1;
    }
    assert!(count > 4, "{help}");
}

#[test]
fn wrong_usage_has_exit_code_2() {
    let world = World::new();
    assert_eq!(world.run(&[]).code, 2);
    assert_eq!(world.run(&["nothing"]).code, 2);
    assert_eq!(world.run(&["jwt", "--duration", "soon"]).code, 2);
}

#[test]
fn completions_know_the_paths_of_the_api() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let run = world.run(&["completions", shell]);
        assert!(!run.success().is_empty());
        // The scripts of the others complete options only.
        if ["bash", "zsh"].contains(&shell) {
            assert!(run.stdout.contains("/v1/users/me"), "{shell}");
            assert!(run.stdout.contains("/v3/chat"), "{shell}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_requests_has_no_secret() {
    let mock = MockCoze::start().await.unwrap();
    let world = World::with_jwt_app(&mock);
    let run = world.run(&["--verbose", "api", "/v1/users/me"]);
    run.success();
    assert!(run.stderr.contains("DEBUG"), "{run}");
    assert!(!run.stderr.contains("czs_"), "{run}");
    assert!(!run.stderr.contains("eyJ"), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_output_ends_the_program_silently() {
    let mock = MockCoze::start().await.unwrap();
    let world = World::with_token(&mock);
    let mut command = world.command(["api", "/v1/users/me"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command.stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_printed_unless_it_is_asked_for() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["whoami"],
        &["profiles", "--json"],
        &["doctor", "--site", mock.url()],
        &["api", "/v1/users/me"],
        &["api", "/v1/nothing"],
        &["logout"],
    ] {
        let record = world.sign_in().load().await.unwrap().unwrap();
        let run = world.run(&[&["--verbose"], arguments].concat());
        let secrets = [
            record.access_token().unwrap().expose(),
            record.refresh_token().expose(),
        ];
        for secret in secrets {
            assert!(!run.to_string().contains(secret), "{arguments:?}");
        }
    }
}

#[test]
fn the_readme_tells_the_exit_codes_of_the_help() {
    let readme = include_str!("../../README.md");
    let help = World::new().run(&["--help"]);
    let codes = help.success().split_once("Exit codes:\n").unwrap().1;
    let mut count = 0;
    for (code, meaning) in codes.lines().filter_map(|line| line.trim().split_once(' ')) {
        let row = format!("| {code} | {} |", meaning.trim());
        assert!(readme.contains(&row), "{row}");
        count += 1;
    }
    assert_eq!(count, 10);
}

/// Without a terminal there are no colours; with one, `NO_COLOR` turns them off.
#[test]
fn errors_have_no_colours_without_a_terminal() {
    let run = World::new().run(&["jwt"]);
    assert!(!run.stderr.contains('\u{1b}'), "{run}");
}
