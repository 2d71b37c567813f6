use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use coze_mock::{Decision, Fault, MockCoze, Target, Times, defaults};

use crate::{
    assert_run,
    support::{Dialog, World, start_mock},
};

fn device(mock: &MockCoze) -> [&str; 5] {
    [
        "login",
        "--client-id",
        defaults::DEVICE_CLIENT_ID,
        "--site",
        mock.url(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_login_is_kept_in_a_profile() {
    let mock = start_mock().await;
    let world = World::new();
    let mut login = Dialog::start(world.command(device(&mock)));
    let code = login.user_code();
    mock.approve_device(&code).unwrap();
    let mut run = login.end();
    run.stderr = run.stderr.replace(&code, "USER-CODE");
    let spaced: String = code.chars().flat_map(|c| [' ', c]).collect();
    run.stderr = run.stderr.replace(&spaced, " U S E R - C O D E");
    assert_run!(run);
    let token = world.run(&["token"]);
    assert!(mock.granted(token.success().trim_end()).is_some());
    mock.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_user_is_reported() {
    let mock = start_mock().await;
    let world = World::new();
    let mut login = Dialog::start(world.command(device(&mock)));
    mock.deny_device(&login.user_code()).unwrap();
    let mut run = login.end();
    assert_eq!(run.code, 4, "{run}");
    run.stderr = run.stderr.split_off(run.stderr.find("error:").unwrap());
    assert_run!(run);
    assert_eq!(world.run(&["token"]).code, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_ends_by_itself_when_its_code_expires() {
    let mock = MockCoze::builder()
        .device_interval(Duration::from_secs(1))
        .device_code_lifetime(Duration::from_secs(2));
    let mock = mock.start().await.unwrap();
    let world = World::new().set("LANG", "zh_CN.UTF-8");
    let mut run = world.run(&device(&mock));
    assert_eq!(run.code, 3, "{run}");
    run.stderr = run.stderr.split_off(run.stderr.find("提示").unwrap());
    assert_run!(run);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn an_interrupted_login_leaves_nothing() {
    let mock = start_mock().await;
    let world = World::new();
    let mut login = Dialog::start(world.command(device(&mock)));
    login.user_code();
    login.interrupt();
    let run = login.end();
    assert_eq!(run.code, 130, "{run}");
    assert_eq!(world.run(&["profiles", "--json"]).success(), "[]\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_work_is_found_before_the_user_signs_in() {
    let mock = start_mock().await;
    let world = World::new();
    std::fs::write(world.path().join("state"), "a file where a folder must be").unwrap();
    let run = world.run(&device(&mock));
    assert_eq!(run.code, 1, "{run}");
    assert!(run.stderr.contains("nobody has signed in yet"), "{run}");
    assert_eq!(mock.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_os = "linux")]
async fn without_a_keyring_a_file_is_suggested_before_the_user_signs_in() {
    let mock = start_mock().await;
    let world = World::new().set("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent/bus");
    let [login, id, client, site, url] = device(&mock);
    let run = world.run(&[login, id, client, site, url, "--store", "keyring"]);
    assert_eq!(run.code, 1, "{run}");
    assert!(run.stderr.contains("coze login --store file"), "{run}");
    assert_eq!(mock.request_count(), 0);
}

/// Sends the browser to the callback, and returns the page.
fn visit(callback: &coze_auth::Url) -> String {
    let address = (callback.host_str().unwrap(), callback.port().unwrap());
    let mut stream = TcpStream::connect(address).unwrap();
    let target = format!("{}?{}", callback.path(), callback.query().unwrap());
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nHost: {}:{}\r\nConnection: close\r\n\r\n",
        address.0, address.1
    )
    .unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_comes_back_to_the_program() {
    let mock = start_mock().await;
    let world = World::new();
    let mut login = Dialog::start(world.command([
        "login",
        "--flow",
        "pkce",
        "--client-id",
        defaults::PKCE_CLIENT_ID,
        "--site",
        mock.url(),
        "--no-browser",
        "--redirect-uri",
        "http://127.0.0.1:0/callback",
    ]));
    let url = login.url();
    let callback = mock.authorize(&url, Decision::Approve).unwrap();
    // An old tab does not end the login.
    let mut stray = callback.clone();
    stray.set_query(Some("code=x&state=y"));
    visit(&stray);
    visit(&callback);
    login.end().success();
    assert!(world.run(&["token"]).success().starts_with("czu_"));
    mock.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_that_a_browser_was_sent_to_can_be_pasted() {
    let mock = start_mock().await;
    let world = World::new()
        .set("COZE_API_BASE", mock.url())
        .set("COZE_WEB_OAUTH_CLIENT_ID", defaults::WEB_CLIENT_ID)
        .set("COZE_WEB_OAUTH_CLIENT_SECRET", defaults::WEB_CLIENT_SECRET)
        .set(
            "COZE_WEB_OAUTH_REDIRECT_URI",
            "https://example.com/callback",
        );
    let mut login = Dialog::start(world.command(["login", "--paste", "--profile", "work"]));
    let url = login.url();
    login.write("https://example.com/callback?code=x&state=y\n");
    let callback = mock.authorize(&url, Decision::Approve).unwrap();
    login.write(&format!("{callback}\n"));
    login.end().success();

    // The client secret is in the store: the profile is refreshed without the environment.
    let after = world.without_variables();
    let first = after.run(&["token", "--profile", "work"]);
    let next = after.run(&["token", "--profile", "work", "--min-validity", "16m"]);
    assert_ne!(first.success(), next.success());
    assert!(!next.stdout.contains(defaults::WEB_CLIENT_SECRET));
    mock.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_can_be_signed_in_again_without_options() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    let mut login = Dialog::start(world.command(["login"]));
    mock.approve_device(&login.user_code()).unwrap();
    login.end().success();
    assert_eq!(mock.ledger().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_server_does_not_end_a_login() {
    let mock = start_mock().await;
    let world = World::new();
    let fault = Fault::status(503);
    mock.faults().add(
        fault,
        Target::GrantType("urn:ietf:params:oauth:grant-type:device_code".into()),
        Times::ONCE,
    );
    let mut login = Dialog::start(world.command(device(&mock)));
    mock.approve_device(&login.user_code()).unwrap();
    login.end().success();
}

#[test]
fn a_login_needs_an_app() {
    assert_run!(World::new().run(&["login"]));
    assert_run!(World::new().set("COZE_API_TOKEN", "pat").run(&["login"]));
    let web = ["login", "--flow", "web", "--client-id", "x"];
    assert_run!(World::new().run(&web));
}
