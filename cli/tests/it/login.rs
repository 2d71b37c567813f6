use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use coze_mock::{
    Decision, Edit, EditedResponse, Endpoint, Fault, MockCoze, RequestRecord, Target, Times,
    defaults,
};

use crate::{
    assert_run,
    support::{Dialog, Run, World, start_mock},
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
async fn a_folder_of_profiles_that_does_not_work_is_found_before_the_user_signs_in() {
    let mock = start_mock().await;
    let world = World::new();
    let profile = world.profile();
    let folder = profile.parent().unwrap();
    std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
    std::fs::write(folder, "a file where a folder must be").unwrap();
    let run = world.run(&device(&mock));
    assert_eq!(run.code, 1, "{run}");
    assert!(
        run.stderr.contains("default.json can't be written"),
        "{run}"
    );
    assert!(run.stderr.contains("nobody has signed in yet"), "{run}");
    assert_eq!(mock.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_os = "linux")]
async fn without_a_keyring_a_file_is_suggested_before_the_user_signs_in() {
    let mock = start_mock().await;
    let world = World::new().set("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent/bus");
    let [login, id, client, site, url] = device(&mock);
    let keyring = [login, id, client, site, url, "--store", "keyring"];
    let run = world.run(&keyring);
    assert_eq!(run.code, 1, "{run}");
    assert!(run.stderr.ends_with(": coze login --store file\n"), "{run}");
    let run = world.run(&[&keyring[..], &["--profile", "work"]].concat());
    assert_eq!(run.code, 1, "{run}");
    let suggestion = ": coze login --profile work --store file\n";
    assert!(run.stderr.ends_with(suggestion), "{run}");
    // A file is not suggested where it would fail, too.
    let sign_ins = world.path().join("state/coze/sign-ins");
    std::fs::remove_dir_all(&sign_ins).unwrap();
    std::fs::write(&sign_ins, "").unwrap();
    let run = world.run(&keyring);
    assert_eq!(run.code, 1, "{run}");
    assert!(!run.stderr.contains("--store file"), "{run}");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_login_does_not_depend_on_the_name_of_the_user() {
    let mock = start_mock().await;
    let world = World::new();
    let fault = Fault::status(503);
    let me = Target::Endpoint(Endpoint::UsersMe);
    mock.faults().add(fault, me, Times::Forever);
    let mut login = Dialog::start(world.command(device(&mock)));
    mock.approve_device(&login.user_code()).unwrap();
    let run = login.end();
    run.success();
    let expected = format!("Signed in at {}, as profile default.\n", mock.url());
    assert!(run.stderr.ends_with(&expected), "{run}");
    world.run(&["token"]).success();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_login_says_what_is_needed_and_no_more() {
    let mock = start_mock().await;
    let world = World::new();
    let [login, id, client, site, url] = device(&mock);
    let mut login = Dialog::start(world.command([login, id, client, site, url, "--quiet"]));
    mock.approve_device(&login.user_code()).unwrap();
    let run = login.end();
    run.success();
    let first = format!(
        "Signing in to app {} at {} (from the command line).\n",
        defaults::DEVICE_CLIENT_ID,
        mock.url()
    );
    assert!(run.stderr.starts_with(&first), "{run}");
    assert!(!run.stderr.contains("Signed in"), "{run}");
    let asked_for_name = |request: &RequestRecord| request.path.contains("users");
    assert!(!mock.requests().iter().any(asked_for_name));
}

/// What a stranger may put into a folder: an app, and whose server gets the sign-in.
fn write_app(world: &World, client_type: &str, client_id: &str, bases: &[&str]) {
    let bases: String = { ["coze_api_base", "coze_www_base"].iter().zip(bases) }
        .map(|(name, base)| format!(r#","{name}":"{base}""#))
        .collect();
    let app = format!(r#"{{"client_type":"{client_type}","client_id":"{client_id}"{bases}}}"#);
    std::fs::write(world.path().join("coze_oauth_config.json"), app).unwrap();
}

/// The PKCE app has no redirect URI, so the login ends before any request.
#[test]
fn a_file_that_lies_in_the_working_folder_does_not_choose_who_gets_the_sign_in() {
    const EVIL: &str = "https://api.evil.example";
    let goes_on = |run: &Run| {
        let before = "Signing in to app app-id at https://";
        run.stderr.starts_with(before) && run.stderr.contains("the redirect URI is missing")
    };
    let world = World::new();
    write_app(&world, "pkce", "app-id", &[EVIL]);
    let run = world.run(&["login"]);
    assert!(!goes_on(&run), "{run}");
    assert_run!(run);

    let named = world.run(&["login", "--site", EVIL]);
    assert!(goes_on(&named), "{named}");
    assert!(named.stderr.contains(EVIL), "{named}");
    let elsewhere = world.run(&["login", "--site", "cn"]);
    assert!(goes_on(&elsewhere), "{elsewhere}");
    assert!(!elsewhere.stderr.contains("evil"), "{elsewhere}");

    for (bases, is_trusted) in [
        (&[][..], true),
        (&["https://api.coze.cn"], true),
        (&["https://api.coze.com", "https://www.evil.example"], false),
        (&["https://api.coze.com.evil.example"], false),
        (&["https://api.coze.cn:8443"], false),
        (&["http://127.0.0.1:1", "https://www.evil.example"], false),
        (&["https://localhost.evil.example"], false),
    ] {
        write_app(&world, "pkce", "app-id", bases);
        let run = world.run(&["login", "--profile", "new"]);
        assert_eq!(run.code, 2, "{run}");
        assert_eq!(goes_on(&run), is_trusted, "{bases:?}: {run}");
    }
    // What the user names, is trusted.
    write_app(&world, "pkce", "app-id", &[EVIL]);
    let world = world.set("COZE_OAUTH_CONFIG", "coze_oauth_config.json");
    let run = world.run(&["login"]);
    assert!(goes_on(&run), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_and_its_source_are_told_before_any_request() {
    let mock = start_mock().await;
    let world = World::new();
    std::fs::write(world.path().join("state"), "a file where a folder must be").unwrap();
    write_app(&world, "device", "app-id", &[mock.url()]);
    let place = format!("Signing in to app app-id at {} (from ", mock.url());
    let run = world.run(&["login", "--quiet"]);
    let expected = format!("{place}coze_oauth_config.json).\n");
    assert!(run.stderr.starts_with(&expected), "{run}");
    let world = world
        .set("COZE_API_BASE", mock.url())
        .set("COZE_DEVICE_OAUTH_CLIENT_ID", "app-id");
    let run = world.run(&["login", "--quiet"]);
    let expected = format!("{place}the environment).\n");
    assert!(run.stderr.starts_with(&expected), "{run}");
    assert_eq!(mock.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_profile_comes_before_the_environment_and_files() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    let other = start_mock().await;
    write_app(&world, "device", defaults::DEVICE_CLIENT_ID, &[other.url()]);
    let world = world
        .set("COZE_API_BASE", other.url())
        .set("COZE_DEVICE_OAUTH_CLIENT_ID", "another-app");
    let sign_in_again = |world: &World, arguments: &[&str]| {
        let mut login = Dialog::start(world.command(arguments));
        mock.approve_device(&login.user_code()).unwrap();
        let run = login.end();
        run.success();
        assert!(run.stderr.contains("(from profile default)"), "{run}");
    };
    sign_in_again(&world, &["login", "--profile", "default"]);
    let world = world.set("COZE_PROFILE", "default");
    sign_in_again(&world, &["login"]);
    assert_eq!(other.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_of_another_app_or_endpoint_is_not_replaced_by_mistake() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    let before = mock.request_count();
    let other = start_mock().await;
    let [login, id, client, site, url] = device(&other);
    assert_run!(world.run(&[login, id, client, site, url]));
    assert_run!(world.run(&[
        login,
        id,
        "another-app",
        site,
        mock.url(),
        "--profile",
        "default"
    ]));
    write_app(&world, "device", "another-app", &[mock.url()]);
    let run = world.run(&["login"]);
    assert_eq!(run.code, 2, "{run}");
    assert!(
        run.stderr
            .contains("(from coze_oauth_config.json) would replace it"),
        "{run}"
    );
    assert_eq!(mock.request_count(), before);
    assert_eq!(other.request_count(), 0);
    world.run(&["token", "--profile", "default"]).success();

    let replace = [login, id, client, site, url, "--replace"];
    let mut login = Dialog::start(world.command(replace));
    other.approve_device(&login.user_code()).unwrap();
    login.end().success();
    let whoami = world.run(&["whoami", "--profile", "default"]);
    assert!(whoami.success().contains(other.url()), "{whoami}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_profile_is_replaced_on_request() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    let path = world.profile();
    std::fs::write(&path, "damaged").unwrap();
    let before = mock.request_count();
    let [login, id, client, site, url] = device(&mock);
    let run = world.run(&[login, id, client, site, url]);
    assert_eq!(run.code, 2, "{run}");
    assert!(run.stderr.ends_with(": coze login --replace\n"), "{run}");
    assert_eq!(mock.request_count(), before);
    let replace = [login, id, client, site, url, "--replace"];
    let mut login = Dialog::start(world.command(replace));
    mock.approve_device(&login.user_code()).unwrap();
    login.end().success();
    world.run(&["token"]).success();
}

/// Each response has a usable refresh token, and can't be requested again.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_is_kept_if_the_rest_of_the_response_is_unusable() {
    let mock = start_mock().await;
    let bad = Edit::Set {
        at: "/access_token".to_owned(),
        value: "not a token".into(),
    };
    let fault = || Fault::from(EditedResponse::new([bad.clone()]));
    let grant = |name: &str| Target::GrantType(name.into());
    let device_code = grant("urn:ietf:params:oauth:grant-type:device_code");
    let world = World::new();
    let mut login = Dialog::start(world.command(device(&mock)));
    let code = login.user_code();
    mock.faults().add(fault(), device_code, Times::Forever);
    mock.approve_device(&code).unwrap();
    let by_device = login.end();

    let browser = World::new();
    mock.faults().clear();
    mock.faults()
        .add(fault(), grant("authorization_code"), Times::ONCE);
    let mut login = Dialog::start(browser.command([
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
    visit(&mock.authorize(&login.url(), Decision::Approve).unwrap());
    mock.faults().clear();
    for (run, world) in [(by_device, world), (login.end(), browser)] {
        run.success();
        assert!(run.stderr.contains("refresh token, which is kept"), "{run}");
        assert!(world.run(&["token"]).success().starts_with("czu_"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ends_does_not_say_that_its_token_is_kept() {
    let mock = start_mock().await;
    let world = World::new();
    let mut login = Dialog::start(world.command(device(&mock)));
    let code = login.user_code();
    std::fs::create_dir(world.path().join("state/coze/sign-ins/default.json")).unwrap();
    mock.approve_device(&code).unwrap();
    let run = login.end();
    assert_eq!(run.code, 1, "{run}");
    assert!(run.stderr.contains("hint: the sign-in is lost"), "{run}");
    assert!(!run.stderr.contains("in memory"), "{run}");
}

/// Two programs signed in at once, and the configuration of one is beside the sign-in of the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_is_not_sent_to_the_endpoint_of_another_profile() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    let other = start_mock().await;
    let profile = std::fs::read_to_string(world.profile()).unwrap();
    std::fs::write(world.profile(), profile.replace(mock.url(), other.url())).unwrap();
    for arguments in [
        &["token"][..],
        &["token", "--min-validity", "16m"],
        &["whoami"],
    ] {
        let run = world.run(arguments);
        assert_eq!(run.code, 2, "{run}");
        assert!(run.stderr.contains("at another endpoint"), "{run}");
    }
    assert_eq!(other.request_count(), 0);
}

/// On a real GNOME Keyring, in a D-Bus session of its own.
#[cfg(target_os = "linux")]
mod keyring {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt as _,
        process::{Command, Stdio},
    };

    use super::*;
    use crate::left_out::left_out;

    /// If this variable is set, the test fails without a keyring.
    const REQUIRED: &str = "COZE_TESTS_REQUIRE_KEYRING";
    const START: &str = r#"
printf '\n' | gnome-keyring-daemon --unlock --components=secrets --foreground >/dev/null 2>"$HOME/keyring.log" &
tries=0
until dbus-send --session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.NameHasOwner \
    string:org.freedesktop.secrets 2>&1 | grep -q true; do
    tries=$((tries + 1))
    [ $tries -lt 600 ]
    sleep 0.05
done
"$@"
"#;

    fn is_installed(program: &str) -> bool {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// The program in a session with an unlocked keyring, which later sessions of the same folders share.
    fn in_session(world: &World, arguments: &[&str]) -> Command {
        let program = world.command(arguments);
        let mut session = Command::new("dbus-run-session");
        session
            .args(["--", "sh", "-ec", START, "sh"])
            .arg(program.get_program())
            .args(arguments)
            .current_dir(world.path())
            .env_clear()
            .stdin(Stdio::null());
        for (name, value) in program.get_envs() {
            session.envs(value.map(|value| (name, value)));
        }
        for (name, folder) in [("XDG_DATA_HOME", "data"), ("XDG_RUNTIME_DIR", "run")] {
            let folder = world.path().join(folder);
            fs::create_dir_all(&folder).unwrap();
            fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
            session.env(name, folder);
        }
        session
    }

    fn sign_in(world: &World, mock: &MockCoze, arguments: &[&str]) {
        let mut login = Dialog::start(in_session(world, arguments));
        mock.approve_device(&login.user_code()).unwrap();
        login.end().success();
    }

    fn token(world: &World) -> (bool, String) {
        let output = in_session(world, &["token"]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.success(), said)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_sign_in_moves_between_stores_and_leaves_nothing_behind() {
        let mut programs = ["dbus-run-session", "gnome-keyring-daemon"].into_iter();
        if let Some(missing) = programs.find(|program| !is_installed(program)) {
            return left_out(&format!("{missing} is not installed"), REQUIRED);
        }
        let mock = start_mock().await;
        let world = World::signed_in(&mock);
        let profile = world.profile();
        let has_store = |kind: &str| {
            let profile = fs::read_to_string(&profile).unwrap();
            profile.contains(&format!(r#""store": "{kind}""#))
        };
        assert!(has_store("file"));
        assert!(world.sign_in().load().await.unwrap().is_some());

        sign_in(&world, &mock, &["login", "--store", "keyring"]);
        assert!(has_store("keyring"));
        assert!(world.sign_in().load().await.unwrap().is_none());
        assert!(token(&world).0);

        // The store of the profile is the default.
        sign_in(&world, &mock, &["login"]);
        assert!(has_store("keyring"));

        sign_in(&world, &mock, &["login", "--store", "file"]);
        assert!(has_store("file"));
        world.run(&["token"]).success();
        let text = fs::read_to_string(&profile).unwrap();
        fs::write(&profile, text.replace(r#""file""#, r#""keyring""#)).unwrap();
        let (is_signed_in, said) = token(&world);
        assert!(
            !is_signed_in && said.contains("no sign-in in the keyring"),
            "{said}"
        );

        // It is not known which store a damaged profile was in.
        sign_in(&world, &mock, &["login", "--store", "keyring"]);
        let config = fs::read_to_string(&profile).unwrap();
        fs::write(&profile, "damaged").unwrap();
        let [login, id, client, site, url] = device(&mock);
        sign_in(&world, &mock, &[login, id, client, site, url, "--replace"]);
        assert!(has_store("file"));
        fs::write(&profile, config).unwrap();
        let (is_signed_in, said) = token(&world);
        assert!(
            !is_signed_in && said.contains("no sign-in in the keyring"),
            "{said}"
        );
    }
}

#[test]
fn a_login_needs_an_app() {
    assert_run!(World::new().run(&["login"]));
    assert_run!(World::new().set("COZE_API_TOKEN", "pat").run(&["login"]));
    let web = ["login", "--flow", "web", "--client-id", "x"];
    assert_run!(World::new().run(&web));
}
