use coze_mock::MockCoze;

use crate::{assert_run, support::World};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_printed_alone() {
    let mock = MockCoze::start().await.unwrap();
    let world = World::with_jwt_app(&mock);
    let run = world.run(&["jwt"]);
    assert_eq!(run.stderr, "");
    let token = run.success().trim_end();
    assert!(mock.granted(token).is_some(), "{run}");
    mock.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn options_reach_the_request() {
    let mock = MockCoze::start().await.unwrap();
    let world = World::with_jwt_app(&mock);
    let run = world.run(&[
        "jwt",
        "--duration",
        "1h",
        "--session-name",
        "ann",
        "--scope-bots",
        "7101,7102",
        "--account",
        "9001",
        "--json",
    ]);
    let answer: serde_json::Value = serde_json::from_str(run.success()).unwrap();
    let granted = mock
        .granted(answer["access_token"].as_str().unwrap())
        .unwrap();
    insta::assert_debug_snapshot!((granted.session_name, granted.account_id, granted.scope));
    let lifetime = answer["expires_in"].as_u64().unwrap();
    assert!((3500..=3600).contains(&lifetime), "{lifetime}");
    mock.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_printed_without_a_request() {
    let mock = MockCoze::start().await.unwrap();
    let world = World::with_jwt_app(&mock);
    let run = world.run(&["jwt", "--print-claims", "--session-name", "ann"]);
    assert_run!(run);
    assert_eq!(mock.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_site_does_not_know_is_refused_with_a_hint() {
    let mock = MockCoze::start().await.unwrap();
    let world = World::with_jwt_app(&mock).set("COZE_JWT_OAUTH_PUBLIC_KEY_ID", "other");
    assert_run!(world.run(&["jwt"]));
    let world = world.set("LANG", "zh_CN.UTF-8");
    assert_run!(world.run(&["jwt"]));
}

#[test]
fn a_missing_configuration_is_wrong_usage() {
    assert_run!(World::new().run(&["jwt"]));
}
