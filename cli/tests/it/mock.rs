use coze_mock::MockCoze;

#[cfg(unix)]
use crate::support::Dialog;
use crate::{
    assert_run,
    support::{Running, World},
};

#[test]
#[cfg(unix)]
fn the_variables_of_the_mock_give_a_token() {
    let world = World::new();
    let mock = Running::start(
        world.command(["mock", "--listen", "127.0.0.1:0", "--flow", "token"]),
        3,
    );
    let script = format!(
        "{}\nexec {} api /v1/users/me",
        mock.first_lines.join("\n"),
        env!("CARGO_BIN_EXE_coze")
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .current_dir(world.path())
        .output()
        .unwrap();
    let user = String::from_utf8(output.stdout).unwrap();
    assert!(
        user.contains("mock_user"),
        "{user} {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn every_app_is_shown_with_its_variables() {
    let world = World::new();
    let mock = Running::start(world.command(["mock", "--listen", "127.0.0.1:0"]), 26);
    assert_run!(mock.first_lines.join("\n"));
}

#[test]
fn a_configuration_file_is_written_for_this_user_only() {
    let world = World::new();
    let arguments = [
        "mock",
        "--listen",
        "127.0.0.1:0",
        "--flow",
        "jwt",
        "--config",
        "coze_oauth_config.json",
    ];
    let mock = Running::start(world.command(arguments), 4);
    assert!(mock.first_lines[0].contains("'http://127.0.0.1:"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let file = std::fs::metadata(world.path().join("coze_oauth_config.json")).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
    }
    // The file is found in the working folder.
    assert!(world.run(&["jwt"]).success().starts_with("czs_"));
    // A second one is not written over it.
    assert_run!(world.run(&arguments));
    let arguments = [&arguments[..6], &["nowhere/app.json"]].concat();
    let run = world.run(&arguments);
    assert_eq!(run.code, 1, "{run}");
    assert!(run.stderr.contains("in a folder that exists"), "{run}");
}

#[test]
#[cfg(unix)]
fn the_note_says_which_lines_are_to_be_run() {
    let world = World::new();
    for (more, expected) in [
        (&[][..], "run the lines of one group above, then coze"),
        (&["--flow", "token"], "run the lines above, then coze"),
    ] {
        let arguments = [&["mock", "--listen", "127.0.0.1:0"][..], more].concat();
        let mut mock = Dialog::start(world.command(arguments));
        let note = mock.read_until(|line| line.contains("listens").then(|| line.to_owned()));
        assert!(note.contains(expected), "{note}");
        mock.interrupt();
        assert_eq!(mock.end().code, 130);
    }
}

#[test]
fn a_port_in_use_is_reported() {
    let world = World::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let other = runtime.block_on(MockCoze::start()).unwrap();
    let address = other.address().unwrap().to_string();
    assert_run!(world.run(&["mock", "--listen", &address]));
}

#[test]
#[cfg(unix)]
fn signals_stop_the_mock() {
    let world = World::new();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mock = Running::start(world.command(["mock", "--listen", "127.0.0.1:0"]), 1);
        assert_eq!(mock.signal(signal), Some(code));
    }
}
