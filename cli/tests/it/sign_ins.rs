//! What is said of stored sign-ins, and how they are deleted.

use crate::{
    assert_run,
    support::{Run, World, start_mock},
};

/// The run without the remaining lifetime of the token.
fn without_time(mut run: Run) -> Run {
    let minutes = run
        .stdout
        .find("valid for ")
        .map(|at| at + "valid for ".len());
    if let Some(at) = minutes {
        let end = run.stdout[at..].find(['\n', '"']).unwrap();
        run.stdout.replace_range(at..at + end, "TIME");
    }
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_is_shown() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    assert_run!(world.run(&["whoami"]));
    assert_run!(world.run(&["whoami", "--json"]));
    mock.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_sign_in_needs_no_request() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    let requests = mock.request_count();
    assert_run!(without_time(world.run(&["status"])));
    assert_run!(without_time(world.run(&["status", "--json"])));
    assert_run!(without_time(world.run(&["status", "--profile", "other"])));
    assert_eq!(mock.request_count(), requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_apps_is_shown() {
    let mock = start_mock().await;
    assert_run!(World::with_token(&mock).run(&["status"]));
    assert_run!(World::with_jwt_app(&mock).run(&["status"]));
    let device = World::new()
        .set("COZE_API_BASE", mock.url())
        .set("COZE_DEVICE_OAUTH_CLIENT_ID", "client");
    assert_run!(device.run(&["status"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn profiles_are_listed_and_signed_out_of() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    assert_run!(without_time(world.run(&["profiles"])));
    assert_run!(without_time(world.run(&["profiles", "--json"])));
    assert_run!(world.run(&["logout"]));
    assert_eq!(world.run(&["token"]).code, 3);
    assert_run!(world.run(&["profiles"]));
    assert_run!(world.run(&["logout"]));
    world.run(&["logout", "--all"]).success();
}
