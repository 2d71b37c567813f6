#[cfg(unix)]
use std::time::Duration;

#[cfg(unix)]
use coze_mock::{Fault, Target, Times};
use coze_mock::{MockCoze, defaults};

#[cfg(unix)]
use crate::support::Dialog;
#[cfg(target_os = "linux")]
use crate::support::{Running, events};
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
    assert_eq!(count, 11);
}

/// Without a terminal there are no colours; with one, `NO_COLOR` turns them off.
#[test]
fn errors_have_no_colours_without_a_terminal() {
    let run = World::new().run(&["jwt"]);
    assert!(!run.stderr.contains('\u{1b}'), "{run}");
}

#[test]
fn hints_name_the_profile_that_the_command_was_given() {
    let world = World::new();
    assert_run!(world.run(&["token", "--profile", "work"]));
    assert_run!(world.run(&["status", "--profile", "work"]));
    let world = world.set("LANG", "zh_CN.UTF-8");
    let run = world.run(&["api", "/v1/users/me", "--profile", "work"]);
    assert_eq!(run.code, 3, "{run}");
    assert!(
        run.stderr.contains("请运行 coze login --profile work"),
        "{run}"
    );
}

#[test]
fn variables_of_several_flows_are_explained_to_users() {
    let world = World::new()
        .set("COZE_WEB_OAUTH_CLIENT_ID", "a")
        .set("COZE_WEB_OAUTH_CLIENT_SECRET", "hush")
        .set("COZE_DEVICE_OAUTH_CLIENT_ID", "b");
    assert_run!(world.run(&["token"]));
    for arguments in [
        &["api", "/v1/users/me"][..],
        &["chat", "--bot", "1", "Hi"],
        &["status"],
        &["login"],
    ] {
        let run = world.run(arguments);
        assert_eq!(run.code, 2, "{run}");
        assert!(
            run.stderr.contains("COZE_WEB_OAUTH_…, COZE_DEVICE_OAUTH_…"),
            "{run}"
        );
        assert!(!run.stderr.contains("from_env"), "{run}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn ctrl_c_ends_a_command_that_reads_its_input() {
    let world = World::new()
        .set("COZE_API_TOKEN", "pat_hush")
        .set("COZE_BOT_ID", "7101");
    for arguments in [&["api", "/v1/nothing", "--input", "-"][..], &["chat"]] {
        let mut dialog = Dialog::start(world.command(arguments));
        dialog.wait_until_it_listens();
        dialog.interrupt();
        dialog.ends();
        let run = dialog.end();
        assert_eq!((run.code, run.stderr.as_str()), (130, ""), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_os = "linux")]
async fn ctrl_c_ends_a_command_whose_output_is_not_read() {
    let server = wiremock::MockServer::start().await;
    let long = wiremock::ResponseTemplate::new(200).set_body_raw("x".repeat(1 << 20), "text/plain");
    let any = wiremock::Mock::given(wiremock::matchers::any());
    any.respond_with(long).mount(&server).await;
    let world = World::new()
        .set("COZE_API_BASE", server.uri())
        .set("COZE_API_TOKEN", "pat_hush");
    let mut dialog = Dialog::start(world.command(["api", "/v9/file"]));
    // Of the megabyte, it has written what a pipe holds.
    dialog.wait_for_output();
    dialog.interrupt();
    dialog.ends();
    assert_eq!(dialog.end().code, 130);

    // Also if the output is printed in parts.
    let server = wiremock::MockServer::start().await;
    let part = serde_json::json!({"id": "1", "role": "assistant", "type": "answer",
        "content": "x".repeat(1 << 10), "content_type": "text"});
    let part = part.to_string();
    let stream = events(&vec![
        ("conversation.message.delta", part.as_str());
        1 << 10
    ]);
    let stream = wiremock::ResponseTemplate::new(200).set_body_raw(stream, "text/event-stream");
    let any = wiremock::Mock::given(wiremock::matchers::any());
    any.respond_with(stream).mount(&server).await;
    let world = world.set("COZE_API_BASE", server.uri());
    let mut dialog = Dialog::start(world.command(["chat", "--bot", "7101", "Hi"]));
    dialog.wait_for_output();
    // It has written what a pipe holds.
    std::thread::sleep(Duration::from_millis(500));
    dialog.interrupt();
    dialog.ends();
    assert_eq!(dialog.end().code, 130);
}

/// Starts a command whose first request, a refresh, is answered after so long.
#[cfg(unix)]
async fn refresh(world: &World, mock: &MockCoze, arguments: &[&str], latency: u64) -> Dialog {
    let latency = Fault::latency(Duration::from_secs(latency));
    mock.faults().add(latency, Target::Any, Times::ONCE);
    let dialog = Dialog::start(world.command(arguments));
    let mut waited = 0;
    while !mock.faults().pending().is_empty() {
        waited += 1;
        assert!(waited < 6000, "there was no request");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    dialog
}

#[cfg(unix)]
const REFRESH: &[&str] = &["token", "--min-validity", "16m"];

#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn a_second_ctrl_c_abandons_what_is_being_saved() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    let mut dialog = refresh(&world, &mock, REFRESH, 600).await;
    dialog.interrupt();
    dialog.read_until(|line| line.contains("Ctrl-C again abandons it").then_some(()));
    dialog.interrupt();
    let run = dialog.end();
    assert_eq!(run.code, 130, "{run}");
    assert!(run.stderr.contains("may be lost"), "{run}");
}

/// Makes the store unusable for a program that has it open.
#[cfg(unix)]
fn break_store(world: &World) {
    let folder = world.path().join("state/coze/sign-ins");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "a file where a folder must be").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn what_could_not_be_saved_is_reported_after_ctrl_c() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    let dialog = refresh(&world, &mock, REFRESH, 2).await;
    break_store(&world);
    dialog.interrupt();
    let run = dialog.end();
    assert_eq!(run.code, 130, "{run}");
    assert!(run.stderr.contains("sign-ins can't be opened"), "{run}");
    assert!(run.stderr.contains("is lost"), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn what_could_not_be_saved_is_reported_after_a_failure() {
    let mock = start_mock().await;
    let short = Fault::ShortLivedTokens { seconds: 1 };
    mock.faults().add(short, Target::Any, Times::Forever);
    let world = World::signed_in(&mock);
    mock.faults().clear();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let dialog = refresh(&world, &mock, &["api", "/v1/bots/1"], 2).await;
    break_store(&world);
    let run = dialog.end();
    // The refreshed token is used, and the API refuses the request.
    assert_eq!(run.code, 4, "{run}");
    assert!(run.stderr.contains("sign-ins can't be opened"), "{run}");
    assert!(run.stderr.contains("is lost"), "{run}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_signal_ends_the_program_unless_it_is_ignored() {
    let world = World::new();
    let arguments = ["mock", "--listen", "127.0.0.1:0"];
    let mock = Running::start(world.command(arguments), 1);
    assert_eq!(mock.signal("HUP"), Some(129));

    // As nohup does, or a script with its background jobs.
    for (ignored, other, code) in [
        ("HUP", "TERM", 143),
        ("INT", "TERM", 143),
        ("TERM", "INT", 130),
    ] {
        let command = world.command(arguments);
        let mut ignoring = std::process::Command::new("sh");
        let script = format!(r#"trap "" {ignored}; exec "$@""#);
        ignoring.args(["-c", &script, "sh"]);
        ignoring.arg(command.get_program()).args(command.get_args());
        ignoring.env_clear();
        for (name, value) in command.get_envs() {
            ignoring.env(name, value.unwrap());
        }
        let mock = Running::start(ignoring, 1);
        mock.send(ignored);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(mock.signal(other), Some(code), "{ignored}");
    }
}

/// A server that says this of the user of any token.
async fn server_of_user(user_name: &str) -> (wiremock::MockServer, World) {
    let server = wiremock::MockServer::start().await;
    let user = serde_json::json!({"code": 0, "data": {"user_id": "1", "user_name": user_name,
        "nick_name": user_name, "avatar_url": ""}});
    let user = wiremock::ResponseTemplate::new(200).set_body_json(user);
    let any = wiremock::Mock::given(wiremock::matchers::path("/v1/users/me"));
    any.respond_with(user).mount(&server).await;
    let world = World::new()
        .set("COZE_API_BASE", server.uri())
        .set("COZE_API_TOKEN", "pat_hush");
    (server, world)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_of_the_server_does_not_forge_a_line() {
    let (server, world) = server_of_user("eve\nNO  key  forged\r\tat\u{2028}x").await;
    let escaped = r"eve\u{a}NO  key  forged\u{d}\u{9}at\u{2028}x";
    let run = world.run(&["whoami"]);
    assert_eq!(run.success().lines().count(), 1, "{run}");
    assert!(run.stdout.contains(escaped), "{run}");
    let run = world.run(&["doctor", "--site", &server.uri()]);
    assert!(run.success().contains(escaped), "{run}");
    assert!(
        !run.stdout.lines().any(|line| line.starts_with("NO")),
        "{run}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_nobody_named_is_not_used_silently() {
    let mock = MockCoze::start().await.unwrap();
    let foreign = "https://api.coze.example";
    let file = |base: &str| {
        let file = serde_json::json!({"client_type": "jwt", "client_id": defaults::JWT_CLIENT_ID,
            "public_key_id": defaults::JWT_PUBLIC_KEY_ID,
            "private_key": mock.default_jwt_private_key_pem().unwrap(),
            "coze_api_base": base, "coze_www_base": base});
        file.to_string()
    };
    let world = World::new().set("HTTPS_PROXY", "http://127.0.0.1:9");
    let path = world.path().join("coze_oauth_config.json");
    std::fs::write(&path, file(foreign)).unwrap();
    for arguments in [
        &["status"][..],
        &["--quiet", "status"],
        &["token"],
        &["jwt"],
        &["api", "/v1/users/me"],
    ] {
        let run = world.run(arguments);
        let warnings = run.stderr.lines().filter(|line| line.contains("warning: "));
        let warnings: Vec<_> = warnings.collect();
        assert_eq!(warnings.len(), 1, "{arguments:?}: {run}");
        for expected in ["coze_oauth_config.json", foreign, "neither site of Coze"] {
            assert!(warnings[0].contains(expected), "{arguments:?}: {run}");
        }
    }
    let (sites, here) = (["https://api.coze.com", "https://api.coze.cn"], mock.url());
    for base in sites.into_iter().chain([here]) {
        let pages = base.replace("api.coze", "www.coze");
        let file = file(base).replace(
            &format!(r#""coze_www_base":"{base}""#),
            &format!(r#""coze_www_base":"{pages}""#),
        );
        std::fs::write(&path, file).unwrap();
        for arguments in [&["status"][..], &["--quiet", "status"]] {
            let run = world.run(arguments);
            run.success();
            let told = "Using coze_oauth_config.json in the working folder (COZE_OAUTH_CONFIG is not set).\n";
            assert_eq!(run.stderr, told, "{base}");
        }
    }
    // The file is that of the mock.
    let token = world.run(&["--quiet", "token"]);
    assert!(token.success().starts_with("czs_"), "{token}");
    assert_eq!(token.stdout.lines().count(), 1, "{token}");
    for arguments in [
        &["header"][..],
        &["jwt"],
        &["whoami"],
        &["api", "/v1/users/me"],
    ] {
        let run = world.run(arguments);
        let told = run.stderr.matches("Using coze_oauth_config.json").count();
        assert_eq!(told, 1, "{run}");
        assert!(!run.stdout.contains("Using"), "{run}");
    }
    std::fs::write(&path, file(foreign)).unwrap();
    let world = world.set("COZE_OAUTH_CONFIG", "coze_oauth_config.json");
    let run = world.run(&["status"]);
    run.success();
    assert_eq!(run.stderr, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_profile_of_another_app_is_told() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock)
        .set("COZE_API_BASE", mock.url())
        .set("COZE_PKCE_OAUTH_CLIENT_ID", defaults::PKCE_CLIENT_ID);
    let run = world.run(&["status"]);
    assert_eq!(run.code, 3, "{run}");
    let expected = "profile default is a sign-in to another app: see coze doctor";
    assert!(run.stdout.contains(expected), "{run}");
    assert!(!run.stdout.contains("nobody"), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_profiles_says_how_to_sign_in_to_each() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    let profile = world.profile();
    // Whose sign-ins are missing.
    for name in ["home", "work"] {
        std::fs::copy(&profile, profile.with_file_name(format!("{name}.json"))).unwrap();
    }
    let states = |world: &World| {
        let run = world.run(&["profiles"]);
        let lines = run.success().lines().map(|line| {
            let (_, state) = line.split_once("file ").unwrap();
            state.trim().to_owned()
        });
        lines.collect::<Vec<_>>()
    };
    let nobody = |profile: &str| format!("nobody has signed in: coze login --profile {profile}");
    let found = states(&world);
    assert!(found[0].starts_with("signed in"), "{found:?}");
    assert_eq!(found[1..], [nobody("home"), nobody("work")]);
    world.run(&["logout"]).success();
    std::fs::copy(profile.with_file_name("home.json"), &profile).unwrap();
    assert_eq!(states(&world)[0], "nobody has signed in: coze login");
    // Where the default is another one.
    let world = world.set("COZE_PROFILE", "work");
    let expected = ["default", "home", "work"].map(nobody);
    assert_eq!(states(&world), expected);
}
