//! What `coze doctor` says about a right configuration, and about wrong ones.

use std::time::Duration;

use coze_mock::{
    App, Endpoint, ErrorShape, Fault, FaultBody, MockCoze, OAuthErrorCode, ScriptedResponse,
    Target, Times, defaults,
};

use crate::{
    assert_run,
    support::{Run, World, start_mock},
};

/// Asks no site but the mock.
fn doctor(world: &World, mock: &MockCoze) -> Run {
    world.run(&["doctor", "--site", mock.url()])
}

/// A user with a `coze_oauth_config.json` for the mock's device app.
fn with_device_file(base: &str) -> World {
    with_file(device_file(base))
}

fn device_file(base: &str) -> String {
    let file = serde_json::json!({"client_type": "device", "client_id": defaults::DEVICE_CLIENT_ID,
        "coze_api_base": base, "coze_www_base": base});
    file.to_string()
}

fn with_file(contents: impl AsRef<[u8]>) -> World {
    let world = World::new();
    std::fs::write(world.path().join("coze_oauth_config.json"), contents).unwrap();
    world
}

/// A site that does not know the mock's apps.
async fn start_other_site() -> MockCoze {
    let other = MockCoze::builder()
        .no_default_apps()
        .app(App::device("another"));
    other.start().await.unwrap()
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
    let configured = start_other_site().await;
    let expected = format!("set the base URL: {}", knowing.url());
    let sites = ["--site", configured.url(), "--site", knowing.url()];
    let arguments = [&["doctor"][..], &sites].concat();
    let world = World::with_jwt_app(&knowing).set("COZE_API_BASE", configured.url());
    let run = world.run(&arguments);
    assert_eq!(run.code, 2, "{run}");
    assert!(check(&run, "app").contains(&expected), "{run}");
    // What a token request would say again.
    assert!(!run.stdout.contains("exchange"), "{run}");

    // The same with the console's file.
    let run = with_device_file(configured.url()).run(&arguments);
    assert!(check(&run, "app").contains(&expected), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_as_windows_editors_save_it_is_asked_about_at_each_site() {
    let knowing = start_mock().await;
    let configured = start_other_site().await;
    let text = format!("\u{feff}{}", device_file(configured.url()));
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for contents in [text.into_bytes(), utf16] {
        let run = with_file(contents).run(&["doctor", "--site", knowing.url()]);
        let expected = format!("set the base URL: {}", knowing.url());
        assert!(check(&run, "app").contains(&expected), "{run}");
    }
}

/// What a server answers that does not decide about an app.
fn failures() -> Vec<Fault> {
    let overloaded = r#"{"code": 4013, "msg": "too many requests"}"#;
    let gateway = r#"{"message": "no route matched"}"#;
    vec![
        Fault::status(503),
        Fault::Status {
            status: 500,
            body: FaultBody::Html,
            retry_after: None,
        },
        Fault::ErrorWithStatus200 {
            shape: ErrorShape::A,
            code: OAuthErrorCode::InternalError,
        },
        Fault::Scripted(ScriptedResponse::new(502, r#"{"error": "invalid_client"}"#)),
        Fault::Scripted(ScriptedResponse::new(429, overloaded)),
        Fault::Scripted(ScriptedResponse::new(404, gateway)),
        Fault::Scripted(ScriptedResponse::new(200, "<html>Please sign in</html>")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_a_site_says_nothing_about_the_app() {
    let (configured, other) = (start_mock().await, start_mock().await);
    let arguments = ["doctor", "--site", other.url()];
    let jwt = World::with_jwt_app(&configured);
    let device = with_device_file(configured.url());
    for fault in failures() {
        // Of the other site.
        other
            .faults()
            .add(fault.clone(), Target::Any, Times::Forever);
        let run = jwt.run(&arguments);
        assert_eq!(run.code, 0, "{fault:?}: {run}");
        let expected = format!("??  app            {} could not be asked: ", other.url());
        assert!(run.stdout.contains(&expected), "{fault:?}: {run}");

        // Of both.
        configured
            .faults()
            .add(fault.clone(), Target::Any, Times::Forever);
        let found = check(&device.run(&arguments), "app");
        let expected = format!(
            "??  app            {} could not be asked: ",
            configured.url()
        );
        assert!(found.contains(&expected), "{fault:?}: {found}");

        // Of the configured site.
        other.faults().clear();
        let found = check(&device.run(&arguments), "app");
        for expected in [
            "??  app ",
            "could not be asked: ",
            &format!("; {} knows the app", other.url()),
            "-> try again",
        ] {
            assert!(found.contains(expected), "{fault:?}: {found}");
        }
        configured.faults().clear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_without_a_connection_says_nothing_about_the_app() {
    let mock = start_mock().await;
    let unreachable = "http://127.0.0.1:9";
    let world = World::with_jwt_app(&mock);
    let run = world.run(&["doctor", "--site", unreachable]);
    assert_eq!(run.code, 0, "{run}");
    let expected = "??  app            http://127.0.0.1:9 could not be asked: ";
    assert!(run.stdout.contains(expected), "{run}");

    let world = world.set("COZE_API_BASE", unreachable);
    let run = doctor(&world, &mock);
    assert_eq!(run.code, 5, "{run}");
    let found = check(&run, "app");
    assert!(
        found.starts_with("??") && found.contains(&format!("; {} knows the app", mock.url())),
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
    let found = check(&run, "proxy");
    assert!(found.contains("go directly"), "{found}");

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

/// The state of the check of the proxy, and what was found, with these variables and an `https` endpoint that does not exist.
fn proxy_with(variables: &[(&str, &str)]) -> String {
    let mut world = World::new()
        .set("COZE_API_BASE", "https://coze.invalid")
        .set("COZE_API_TOKEN", "pat_abc");
    for (name, value) in variables {
        world = world.set(name, *value);
    }
    check(
        &world.run(&["doctor", "--site", "https://coze.invalid"]),
        "proxy",
    )
}

// On Windows, the names of variables are not case-sensitive.
#[test]
#[cfg(unix)]
fn the_variables_of_proxies_count_as_for_the_requests() {
    let closed = "http://127.0.0.1:9";
    for (variables, expected) in [
        (
            &[][..],
            "ok  proxy          requests to coze.invalid go directly: no proxy is set",
        ),
        (&[("HTTP_PROXY", closed)], "go directly: no proxy is set"),
        (
            &[("https_proxy", closed)],
            "NO  proxy          https_proxy names http://127.0.0.1:9",
        ),
        (
            &[("ALL_PROXY", "socks5://127.0.0.1:9")],
            "ALL_PROXY names socks5://127.0.0.1:9",
        ),
        // Of each pair, the first that is set counts, even if it is empty.
        (
            &[("HTTPS_PROXY", ""), ("https_proxy", closed)],
            "go directly: no proxy is set",
        ),
        (
            &[("HTTPS_PROXY", closed), ("NO_PROXY", "example.com")],
            "HTTPS_PROXY names",
        ),
        (
            &[
                ("HTTPS_PROXY", closed),
                ("NO_PROXY", "example.com, .invalid"),
            ],
            "ok  proxy          requests to coze.invalid go directly: NO_PROXY excludes them from HTTPS_PROXY",
        ),
        (
            &[("ALL_PROXY", closed), ("no_proxy", "*")],
            "NO_PROXY excludes them from ALL_PROXY",
        ),
        (
            &[("HTTPS_PROXY", closed), ("REQUEST_METHOD", "GET")],
            "REQUEST_METHOD is set",
        ),
        (
            &[("HTTPS_PROXY", "ftp://ann:hush@127.0.0.1")],
            "??  proxy          HTTPS_PROXY is not the URL of a proxy, and is ignored",
        ),
        (
            &[("HTTPS_PROXY", "ftp://127.0.0.1"), ("ALL_PROXY", closed)],
            "ALL_PROXY names",
        ),
    ] {
        let found = proxy_with(variables);
        assert!(found.contains(expected), "{variables:?}: {found}");
        assert!(!found.contains("hush"), "{found}");
    }
}

#[test]
fn a_proxy_that_accepts_connections_is_right() {
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = proxy.local_addr().unwrap();
    // It closes each connection.
    std::thread::spawn(move || proxy.incoming().for_each(drop));
    // Without a scheme.
    let found = proxy_with(&[("HTTPS_PROXY", &address.to_string())]);
    let expected = format!("ok  proxy          HTTPS_PROXY names http://{address}, which accepts");
    assert!(found.contains(&expected), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_of_another_app_is_found() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock)
        .set("COZE_API_BASE", mock.url())
        .set("COZE_PKCE_OAUTH_CLIENT_ID", defaults::PKCE_CLIENT_ID);
    let run = doctor(&world, &mock);
    assert_eq!(run.code, 2, "{run}");
    let found = check(&run, "sign-in");
    for expected in [
        "NO  sign-in",
        "profile default is a sign-in to another app",
        defaults::DEVICE_CLIENT_ID,
        "coze login; or, to use this sign-in, add --profile default",
    ] {
        assert!(found.contains(expected), "{found}");
    }
    // Which ignores the environment.
    let named = ["doctor", "--profile", "default", "--site", mock.url()];
    assert_eq!(world.run(&named).code, 0);

    // A login to the profile that is named would sign in to the app of that profile.
    let profile = world.profile();
    std::fs::rename(&profile, profile.with_file_name("work.json")).unwrap();
    let world = world.set("COZE_PROFILE", "work");
    let found = check(&doctor(&world, &mock), "sign-in");
    let advice = "as a new profile: coze login --profile NEW, then COZE_PROFILE=NEW; or, to use this sign-in, add --profile work";
    assert!(found.ends_with(advice), "{found}");
    let found = check(&doctor(&world.set("LANG", "zh_CN"), &mock), "sign-in");
    let advice = "coze login --profile NEW，然后设置 COZE_PROFILE=NEW；如要使用现有的登录，请加上 --profile work";
    assert!(found.ends_with(advice), "{found}");
}

// Windows has other folders.
#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn advice_to_sign_in_names_the_profile() {
    let mock = start_mock().await;
    let named = ["doctor", "--profile", "work", "--site", mock.url()];
    let run = World::new().run(&named);
    assert_eq!(run.code, 3, "{run}");
    let found = check(&run, "sign-in");
    assert!(
        found.ends_with("-> sign in: coze login --profile work"),
        "{found}"
    );

    // A sign-in that ends while it is used.
    let world = World::signed_in(&mock).set("COZE_PROFILE", "work");
    let rename = |folder: &str, from: &str, to: &str| {
        let folder = world.path().join(folder);
        std::fs::rename(folder.join(from), folder.join(to)).unwrap();
    };
    rename("config/coze/profiles", "default.json", "work.json");
    let run = doctor(&world, &mock);
    assert_eq!(run.code, 3, "{run}");
    let found = check(&run, "sign-in");
    assert!(found.contains("nobody has signed in"), "{found}");
    assert!(
        found.ends_with("-> sign in: coze login --profile work"),
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_has_ended_needs_another() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    let record = world.sign_in().load().await.unwrap().unwrap();
    assert!(mock.revoke_access_token(record.access_token().unwrap().expose()));
    assert!(mock.revoke_sign_in(record.refresh_token().expose()));
    // The API refuses the stored token, and a refresh fails.
    let run = doctor(&world, &mock);
    let found = check(&run, "API call");
    assert!(found.ends_with("-> sign in: coze login"), "{run}");
    // And now that is known.
    let run = doctor(&world, &mock);
    let found = check(&run, "sign-in");
    assert!(
        found.contains("the sign-in has ended (invalid_grant)"),
        "{run}"
    );
    assert!(found.ends_with("-> sign in: coze login"), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_not_read_its_user_is_no_failure() {
    let mock = start_mock().await;
    let answers = |body: &str, status| {
        mock.faults().clear();
        let answer = ScriptedResponse::new(status, body.to_owned());
        mock.faults()
            .add(Fault::Scripted(answer), Endpoint::UsersMe, Times::Forever);
    };
    for world in [World::with_jwt_app(&mock), World::with_token(&mock)] {
        answers(
            r#"{"code": 4101, "msg": "no permission to access this resource"}"#,
            403,
        );
        let run = doctor(&world, &mock);
        assert_eq!(run.code, 0, "{run}");
        let found = check(&run, "API call");
        assert!(
            found.starts_with("??") && found.contains("4101") && found.contains("grant"),
            "{found}"
        );

        answers(r#"{"code": 4100, "msg": "authentication is invalid"}"#, 401);
        let run = doctor(&world, &mock);
        assert_eq!(run.code, 4, "{run}");
        assert!(check(&run, "API call").starts_with("NO"), "{run}");
    }
}

/// The hints of other commands.
#[tokio::test(flavor = "multi_thread")]
async fn chinese_hints_send_no_app_to_log_in() {
    let mock = start_mock().await;
    let refusal = r#"{"code": 4100, "msg": "authentication is invalid"}"#;
    let refusal = Fault::Scripted(ScriptedResponse::new(401, refusal));
    mock.faults()
        .add(refusal, Endpoint::UsersMe, Times::Forever);
    let whoami = |world: World| world.set("LANG", "zh_CN.UTF-8").run(&["whoami"]);
    // The token of an app is replaced once, and so is a user's; a fixed one can't be.
    for (world, expected) in [
        (World::with_jwt_app(&mock), "新签发的令牌同样被拒绝"),
        (World::signed_in(&mock), "新签发的令牌同样被拒绝"),
        (
            World::with_token(&mock),
            "访问令牌无效、已过期或已被撤销；同时请确认",
        ),
    ] {
        let run = whoami(world);
        assert_eq!(run.code, 4, "{run}");
        assert!(run.stderr.contains(expected), "{run}");
        assert!(!run.stderr.contains("登录"), "{run}");
    }
    // What is wrong with a configuration, its message says.
    let run = whoami(World::with_jwt_app(&mock).set("COZE_JWT_OAUTH_PRIVATE_KEY", "hush"));
    assert_eq!(run.code, 2, "{run}");
    assert!(!run.stderr.contains("请补全配置"), "{run}");
}

#[cfg(unix)]
fn set_mode(world: &World, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;

    let path = world.path().join("coze_oauth_config.json");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[cfg(unix)]
fn with_jwt_file(mock: &MockCoze) -> World {
    let key = mock.default_jwt_private_key_pem().unwrap();
    let file = serde_json::json!({"client_type": "jwt", "client_id": defaults::JWT_CLIENT_ID, "private_key": key,
        "public_key_id": defaults::JWT_PUBLIC_KEY_ID, "coze_api_base": mock.url(), "coze_www_base": mock.url()});
    with_file(file.to_string())
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn a_file_with_a_secret_that_others_may_read_is_found() {
    let mock = start_mock().await;
    let jwt = with_jwt_file(&mock);
    let web = serde_json::json!({"client_type": "web", "client_id": defaults::WEB_CLIENT_ID,
        "client_secret": "hush", "coze_api_base": mock.url(), "coze_www_base": mock.url()});
    for world in [jwt, with_file(web.to_string())] {
        for mode in [0o644, 0o640, 0o604] {
            set_mode(&world, mode);
            let found = check(&doctor(&world, &mock), "permissions");
            assert!(
                found.starts_with("??") && found.contains("mode 6") && found.contains("chmod 600"),
                "{found}"
            );
        }
        set_mode(&world, 0o600);
        let found = check(&doctor(&world, &mock), "permissions");
        assert!(found.starts_with("ok"), "{found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn the_command_that_is_advised_quotes_the_path() {
    let mock = start_mock().await;
    let world = with_jwt_file(&mock);
    set_mode(&world, 0o644);
    let name = "it's; $(mine).json";
    let path = world.path().join(name);
    std::fs::rename(world.path().join("coze_oauth_config.json"), &path).unwrap();
    let world = world.set("COZE_OAUTH_CONFIG", path.display().to_string());
    let found = check(&doctor(&world, &mock), "permissions");
    let (_, advised) = found.split_once("-> ").unwrap();
    let advised = advised.replace("HOME", &world.path().display().to_string());
    let run = std::process::Command::new("sh")
        .args(["-c", &advised])
        .status()
        .unwrap();
    assert!(run.success(), "{found}");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "{found}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn a_key_file_that_others_may_read_is_found() {
    let mock = start_mock().await;
    let world = with_file(mock.default_jwt_private_key_pem().unwrap());
    let path = world.path().join("coze_oauth_config.json");
    let quoted = format!("\"{}\"", path.display());
    let world = world
        .set("COZE_API_BASE", mock.url())
        .set("COZE_JWT_OAUTH_CLIENT_ID", defaults::JWT_CLIENT_ID)
        .set("COZE_JWT_OAUTH_PUBLIC_KEY_ID", defaults::JWT_PUBLIC_KEY_ID)
        .set("COZE_JWT_OAUTH_PRIVATE_KEY_FILE_PATH", quoted);
    set_mode(&world, 0o644);
    let run = doctor(&world, &mock);
    assert_eq!(run.code, 0, "{run}");
    let found = check(&run, "permissions");
    assert!(
        found.contains("mode 644") && found.contains("chmod 600"),
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn a_file_without_a_secret_may_be_read_by_others() {
    let mock = start_mock().await;
    for client_type in ["device", "pkce"] {
        let world =
            with_file(device_file(mock.url()).replace("\"device\"", &format!("\"{client_type}\"")));
        set_mode(&world, 0o644);
        let found = check(&doctor(&world, &mock), "permissions");
        assert!(
            found.starts_with("ok") && found.contains("no secret"),
            "{client_type}: {found}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn a_file_that_others_may_change_is_a_problem() {
    let mock = start_mock().await;
    for (world, advice) in [
        (with_jwt_file(&mock), "chmod 600"),
        (with_device_file(mock.url()), "chmod go-w"),
    ] {
        for mode in [0o666, 0o620, 0o602] {
            set_mode(&world, mode);
            let run = doctor(&world, &mock);
            assert_eq!(run.code, 2, "{run}");
            let found = check(&run, "permissions");
            assert!(
                found.starts_with("NO")
                    && found.contains("may change it")
                    && found.contains(advice),
                "{found}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn advice_is_in_chinese_too() {
    let mock = start_mock().await;
    let other = start_other_site().await;
    let chinese = |world: World| world.set("LANG", "zh_CN.UTF-8");
    let wrong_site = World::with_jwt_app(&mock).set("COZE_API_BASE", other.url());
    let unreachable_proxy = World::with_token(&mock)
        .set("COZE_API_BASE", "https://coze.invalid")
        .set("HTTPS_PROXY", "http://127.0.0.1:9");
    let unknown_key = World::with_jwt_app(&mock).set("COZE_JWT_OAUTH_PUBLIC_KEY_ID", "other");
    let another_app = World::signed_in(&mock)
        .set("COZE_API_BASE", mock.url())
        .set("COZE_PKCE_OAUTH_CLIENT_ID", defaults::PKCE_CLIENT_ID);
    for (world, name, expected) in [
        (World::new(), "sign-in", "请登录：coze login"),
        (wrong_site, "app", "请将 API 地址改为 http://127.0.0.1:"),
        (
            unreachable_proxy,
            "proxy",
            "请更正 HTTPS_PROXY，或取消该变量",
        ),
        (unknown_key, "app", "该站点未登记此公钥"),
        (another_app, "sign-in", "请登录所配置的应用：coze login"),
    ] {
        let run = doctor(&chinese(world), &mock);
        let found = check(&run, name);
        assert!(found.contains(&format!("-> {expected}")), "{run}");
    }
    #[cfg(unix)]
    {
        let world = chinese(with_jwt_file(&mock));
        set_mode(&world, 0o644);
        let found = check(&doctor(&world, &mock), "permissions");
        assert!(found.contains("-> 请运行：chmod 600 "), "{found}");
    }
    mock.clock().advance(Duration::from_secs(3600));
    let world = chinese(World::with_jwt_app(&mock));
    let found = check(&doctor(&world, &mock), "clock");
    assert!(found.contains("-> 请校准本机时间"), "{found}");
    // Programs read the same in every locale.
    let run = world.run(&["doctor", "--json", "--site", mock.url()]);
    assert!(run.stdout.contains("set the clock"), "{run}");
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
