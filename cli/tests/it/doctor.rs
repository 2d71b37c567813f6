//! What `coze doctor` says about a right configuration, and about wrong ones.

use std::time::Duration;

use coze_mock::{App, MockCoze, defaults};

use crate::{
    assert_run,
    support::{Run, World, start_mock},
};

/// Asks no site but the mock.
fn doctor(world: &World, mock: &MockCoze) -> Run {
    world.run(&["doctor", "--site", mock.url()])
}

/// The lines of one check.
fn check(run: &Run, name: &str) -> String {
    let mut lines = run
        .stdout
        .lines()
        .skip_while(|line| !line.contains(&format!("  {name} ")));
    let first = lines.next().unwrap_or_else(|| panic!("no {name} in {run}"));
    let advice = lines
        .next()
        .filter(|line| line.trim_start().starts_with("->"));
    format!("{first}\n{}", advice.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_configuration_is_confirmed() {
    let mock = start_mock().await;
    assert_run!(doctor(&World::with_jwt_app(&mock), &mock));
    assert_run!(doctor(&World::with_token(&mock), &mock));
    let world = World::signed_in(&mock);
    let run = doctor(&world, &mock);
    assert_eq!(run.code, 0, "{run}");
    for (name, found) in [
        ("store", "wrote, read and deleted"),
        ("sign-in", "signed in"),
        ("API call", "mock_user"),
    ] {
        assert!(check(&run, name).contains(found), "{run}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_site_that_knows_the_app_is_found() {
    let knowing = start_mock().await;
    let configured = MockCoze::builder()
        .no_default_apps()
        .app(App::device("another"));
    let configured = configured.start().await.unwrap();
    let world = World::with_jwt_app(&knowing).set("COZE_API_BASE", configured.url());
    let run = world.run(&[
        "doctor",
        "--site",
        configured.url(),
        "--site",
        knowing.url(),
    ]);
    assert_eq!(run.code, 2, "{run}");
    let found = check(&run, "app");
    assert!(
        found.contains(&format!("set the base URL: {}", knowing.url())),
        "{found}"
    );

    // The same with the console's file.
    let file = serde_json::json!({"client_type": "device", "client_id": defaults::DEVICE_CLIENT_ID,
        "coze_api_base": configured.url(), "coze_www_base": configured.url()});
    let world = World::new();
    std::fs::write(
        world.path().join("coze_oauth_config.json"),
        file.to_string(),
    )
    .unwrap();
    let run = world.run(&["doctor", "--site", knowing.url()]);
    let found = check(&run, "app");
    assert!(
        found.contains(&format!("set the base URL: {}", knowing.url())),
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_found() {
    let mock = start_mock().await;
    let world = World::with_jwt_app(&mock).set("COZE_JWT_OAUTH_PUBLIC_KEY_ID", "other");
    let run = doctor(&world, &mock);
    assert_eq!(run.code, 4, "{run}");
    assert!(check(&run, "app").contains("fingerprint"), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_form_is_found() {
    let mock = start_mock().await;
    let world = World::with_jwt_app(&mock).set(
        "COZE_JWT_OAUTH_PRIVATE_KEY",
        "-----BEGIN PUBLIC KEY-----\nhush\n-----END PUBLIC KEY-----",
    );
    let run = doctor(&world, &mock);
    assert_eq!(run.code, 2, "{run}");
    assert!(check(&run, "configuration").contains("public key"), "{run}");
    assert!(!run.to_string().contains("hush"), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_is_found() {
    let mock = start_mock().await;
    mock.clock().advance(Duration::from_secs(3600));
    let run = doctor(&World::with_jwt_app(&mock), &mock);
    assert_eq!(run.code, 2, "{run}");
    let found = check(&run, "clock");
    assert!(
        found.contains("behind the server") && found.contains("set the clock"),
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_probed_only_if_requests_go_through_it() {
    let mock = start_mock().await;
    let proxy = "http://ann:hush@127.0.0.1:9";
    let world = World::with_token(&mock).set("HTTPS_PROXY", proxy);
    let run = doctor(&world, &mock);
    assert_eq!(run.code, 0, "{run}");
    assert!(
        check(&run, "proxy").contains("do not go through it"),
        "{run}"
    );

    let world = world.set("COZE_API_BASE", "https://coze.invalid");
    let run = doctor(&world, &mock);
    assert_eq!(run.code, 5, "{run}");
    let found = check(&run, "proxy");
    assert!(
        found.contains("NO  proxy") && found.contains("HTTPS_PROXY names http://127.0.0.1:9"),
        "{found}"
    );
    assert!(!run.to_string().contains("hush"), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn a_file_that_others_may_read_is_found() {
    use std::os::unix::fs::PermissionsExt as _;

    let mock = start_mock().await;
    let key = mock.default_jwt_private_key_pem().unwrap();
    let file = serde_json::json!({"client_type": "jwt", "client_id": defaults::JWT_CLIENT_ID, "private_key": key,
        "public_key_id": defaults::JWT_PUBLIC_KEY_ID, "coze_api_base": mock.url(), "coze_www_base": mock.url()});
    let world = World::new();
    let path = world.path().join("coze_oauth_config.json");
    std::fs::write(&path, file.to_string()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let run = doctor(&world, &mock);
    assert_eq!(run.code, 0, "{run}");
    let found = check(&run, "permissions");
    assert!(
        found.contains("mode 644") && found.contains("chmod 600"),
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_can_be_json() {
    let mock = start_mock().await;
    let world = World::with_jwt_app(&mock);
    let run = world.run(&["doctor", "--json", "--site", mock.url()]);
    let report: serde_json::Value = serde_json::from_str(run.success()).unwrap();
    let checks = report.as_array().unwrap();
    assert!(checks.iter().all(|check| check["state"] == "ok"), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_configuration_is_a_problem() {
    let mock = start_mock().await;
    let run = doctor(&World::new(), &mock);
    assert!(check(&run, "sign-in").contains("coze login"), "{run}");
    assert_ne!(run.code, 0);
}
