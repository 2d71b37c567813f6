use std::{process::Stdio, time::Duration};

use coze_mock::{Fault, Target, Times, defaults};

use crate::{
    assert_run,
    support::{World, start_mock},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_environment_is_printed() {
    let mock = start_mock().await;
    let world = World::with_token(&mock);
    assert_run!(world.run(&["token"]));
    assert_run!(world.run(&["token", "--json"]));
    assert_run!(world.run(&["header"]));
    assert_eq!(mock.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_jwt_app_is_new() {
    let mock = start_mock().await;
    let world = World::with_jwt_app(&mock);
    let run = world.run(&["token", "--json"]);
    assert_run!(run);
    let header = world.run(&["header"]);
    assert!(header.success().starts_with("Authorization: Bearer czs_"));
    mock.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_token_is_read_without_a_request() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    let requests = mock.request_count();
    let first = world.run(&["token"]);
    assert_eq!(first.success(), world.run(&["token"]).success());
    assert_run!(world.run(&["token", "--json"]));
    assert_eq!(mock.request_count(), requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_too_soon_is_refreshed() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    let first = world.run(&["token"]);
    assert_eq!(
        world.run(&["token", "--min-validity", "5m"]).success(),
        first.success()
    );
    let next = world.run(&["token", "--min-validity", "16m"]);
    assert_ne!(next.success(), first.success());
    assert_eq!(world.run(&["token"]).success(), next.success());
    assert_eq!(mock.ledger()[0].generations.len(), 2);
    mock.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_programs_at_expiry_refresh_once() {
    let mock = start_mock().await;
    let short = Fault::ShortLivedTokens { seconds: 1 };
    mock.faults().add(short, Target::Any, Times::Forever);
    let world = World::signed_in(&mock);
    mock.faults().clear();
    tokio::time::sleep(Duration::from_millis(1100)).await;

    let children: Vec<_> = (0..50)
        .map(|_| {
            let mut command = world.command(["token"]);
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut tokens: Vec<_> = children
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8(output.stdout).unwrap()
        })
        .collect();
    tokens.dedup();
    assert_eq!(tokens.len(), 1);
    assert!(mock.granted(tokens[0].trim_end()).is_some());
    assert_eq!(mock.ledger()[0].generations.len(), 2);
    mock.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn an_interrupted_refresh_is_saved() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    let slow = Fault::latency(Duration::from_secs(1));
    mock.faults().add(slow, Target::Any, Times::ONCE);
    let refresh = crate::support::Dialog::start(world.command(["token", "--min-validity", "16m"]));
    let mut waited = 0;
    while !mock.faults().pending().is_empty() {
        waited += 1;
        assert!(waited < 6000, "there was no request");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    refresh.interrupt();
    let run = refresh.end();
    assert_eq!(run.code, 130, "{run}");
    assert_eq!(run.stdout, "");
    // The next token is that of the refresh: the sign-in is not lost.
    world.run(&["token"]).success();
    world.run(&["token", "--min-validity", "16m"]).success();
    assert_eq!(mock.ledger()[0].generations.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_sign_in_needs_another() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    let record = world.sign_in().load().await.unwrap().unwrap();
    assert!(mock.revoke_sign_in(record.refresh_token().expose()));
    assert_run!(world.run(&["token", "--min-validity", "16m"]));
    let world = world.set("LANG", "zh_CN.UTF-8");
    let run = world.run(&["token"]);
    assert_eq!(run.code, 3, "{run}");
    assert!(run.stderr.contains("请运行 coze login"), "{run}");
}

#[test]
fn without_credentials_every_place_is_listed() {
    let world = World::new();
    assert_run!(world.run(&["token"]));
}

/// A user without a home folder, as in some containers: root can be one.
#[cfg(target_os = "linux")]
#[test]
fn without_a_home_folder_every_place_is_listed() {
    use std::{
        fs::{self, Permissions},
        os::unix::{
            fs::{MetadataExt as _, PermissionsExt as _},
            process::CommandExt as _,
        },
    };

    use crate::left_out::skipped;

    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return skipped("only root can be a user without a home folder");
    }
    let world = World::new();
    fs::set_permissions(world.path(), Permissions::from_mode(0o755)).unwrap();
    let unknown_user = 54_321;
    for (variables, expected) in [
        (
            &[][..],
            [
                "no credentials were found: the environment has neither COZE_API_TOKEN",
                "profile default: there is no home folder",
            ],
        ),
        (
            &[("COZE_DEVICE_OAUTH_CLIENT_ID", "id")],
            [
                "the environment describes an app of flow device",
                "nobody has: there is no home folder",
            ],
        ),
    ] {
        for command in ["token", "status"] {
            let mut command = world.command([command]);
            command
                .env_clear()
                .envs(variables.iter().copied())
                .uid(unknown_user)
                .gid(unknown_user);
            let is_status = command.get_args().any(|argument| argument == "status");
            let output = match command.output() {
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    return skipped("other users may not run the program");
                }
                output => output.unwrap(),
            };
            assert_eq!(output.status.code(), Some(3), "{output:?}");
            if is_status {
                let said = String::from_utf8(output.stdout).unwrap();
                assert!(said.contains("there is no home folder"), "{said}");
            } else {
                let said = String::from_utf8(output.stderr).unwrap();
                for part in expected {
                    assert!(said.contains(part), "{said}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_the_working_folder_cannot_send_a_sign_in_elsewhere() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    let other = start_mock().await;
    let file = format!(
        r#"{{"client_type":"device","client_id":"{}","coze_api_base":"{}"}}"#,
        defaults::DEVICE_CLIENT_ID,
        other.url()
    );
    std::fs::write(world.path().join("coze_oauth_config.json"), file).unwrap();
    let run = world.run(&["token"]);
    assert_eq!(run.code, 2, "{run}");
    assert_eq!(other.request_count(), 0);
    world.run(&["token", "--profile", "default"]).success();
}
