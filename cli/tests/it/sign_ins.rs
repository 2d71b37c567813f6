//! What is said of stored sign-ins, and how they are deleted.

#[cfg(unix)]
use std::{
    fs::{self, File},
    time::Duration,
};

use coze_auth::{Endpoint, SignIn};
use coze_auth_stores::FileStore;
#[cfg(unix)]
use coze_mock::{Decision, defaults};

#[cfg(unix)]
use crate::support::Dialog;
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

/// A login that ended before its profile was written, or a profile whose file was deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_without_its_profile_is_signed_out_of() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    std::fs::remove_file(world.profile()).unwrap();
    assert_eq!(world.run(&["token"]).code, 3);
    let logout = world.run(&["logout"]);
    logout.success();
    assert!(logout.stderr.starts_with("Signed out"), "{logout}");
    assert!(world.sign_in().load().await.unwrap().is_none());
    let logout = world.run(&["logout"]);
    assert!(logout.stderr.starts_with("There is no profile"), "{logout}");
}

/// Its file is damaged, or others may change it.
#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_can_not_be_used_is_signed_out_of() {
    let mock = start_mock().await;
    let damage = |world: &World| std::fs::write(world.profile(), "{").unwrap();
    #[cfg(unix)]
    let open_to_others = |world: &World| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(world.profile(), fs::Permissions::from_mode(0o660)).unwrap();
    };
    let spoils: &[&dyn Fn(&World)] = &[
        &damage,
        #[cfg(unix)]
        &open_to_others,
    ];
    for spoil in spoils {
        let world = World::signed_in(&mock);
        spoil(&world);
        let run = world.run(&["token"]);
        assert_eq!(run.code, 2, "{run}");
        assert!(run.stderr.contains(": coze login --replace\n"), "{run}");
        let logout = world.run(&["logout"]);
        logout.success();
        assert!(logout.stderr.starts_with("Signed out"), "{logout}");
        assert!(logout.stderr.contains("could not be used"), "{logout}");
        assert!(!world.profile().exists());
        assert!(world.sign_in().load().await.unwrap().is_none());
    }
}

// Windows has other folders.
#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn all_sign_ins_are_signed_out_of_and_each_failure_is_reported() {
    let mock = start_mock().await;
    let world = World::signed_in(&mock);
    let store = FileStore::new(world.path().join("state/coze/sign-ins"));
    let record = world.sign_in().load().await.unwrap().unwrap();
    let config = std::fs::read_to_string(world.profile()).unwrap();
    let sign_in = async |name: &str| {
        let sign_in = SignIn::new(store.clone(), name).unwrap();
        let endpoint = Endpoint::custom(mock.url()).unwrap();
        let id = record.client_id().unwrap();
        let put = sign_in.put_refresh_token(record.refresh_token(), id, &endpoint);
        put.await.unwrap();
        sign_in
    };
    let lost = sign_in("lost").await;
    for name in ["first", "second"] {
        let profile = world.profile().with_file_name(format!("{name}.json"));
        std::fs::write(profile, &config).unwrap();
        let in_the_way = format!("state/coze/sign-ins/{name}.json");
        std::fs::create_dir(world.path().join(in_the_way)).unwrap();
    }
    let run = world.run(&["logout", "--all"]);
    assert_eq!(run.code, 1, "{run}");
    for name in ["first", "second"] {
        assert!(run.stderr.contains(&format!("{name}.json is not")), "{run}");
    }
    for name in ["default", "lost"] {
        let signed_out = format!("Signed out of profile {name}.");
        assert!(run.stderr.contains(&signed_out), "{run}");
    }
    assert!(lost.load().await.unwrap().is_none());
    assert!(world.sign_in().load().await.unwrap().is_none());
}

/// Ctrl-C comes after the tokens are deleted, and before the client secret is.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_logout_leaves_nothing_behind() {
    let mock = start_mock().await;
    let world = World::new()
        .set("COZE_API_BASE", mock.url())
        .set("COZE_WEB_OAUTH_CLIENT_ID", defaults::WEB_CLIENT_ID)
        .set("COZE_WEB_OAUTH_CLIENT_SECRET", defaults::WEB_CLIENT_SECRET)
        .set(
            "COZE_WEB_OAUTH_REDIRECT_URI",
            "https://example.com/callback",
        );
    let mut login = Dialog::start(world.command(["login", "--paste"]));
    let callback = mock.authorize(&login.url(), Decision::Approve).unwrap();
    login.write(&format!("{callback}\n"));
    login.end().success();

    let files = || {
        let files = fs::read_dir(world.path().join("state/coze/sign-ins")).unwrap();
        files.map(|file| file.unwrap().path())
    };
    let is_lock_of_secret = |path: &std::path::PathBuf| {
        let path = path.display().to_string();
        path.contains("secret") && path.ends_with(".change")
    };
    let lock = files().find(is_lock_of_secret).unwrap();
    let lock = File::options().read(true).write(true).open(lock).unwrap();
    lock.lock().unwrap();
    let logout = Dialog::start(world.command(["logout"]));
    let mut waited = 0;
    while world.sign_in().load().await.unwrap().is_some() {
        waited += 1;
        assert!(waited < 6000, "the tokens were not deleted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    logout.interrupt();
    tokio::time::sleep(Duration::from_millis(200)).await;
    lock.unlock().unwrap();
    let run = logout.end();
    assert_eq!(run.code, 130, "{run}");
    assert_eq!(world.run(&["profiles", "--json"]).success(), "[]\n");
    for path in files() {
        let contents = fs::read_to_string(&path).unwrap();
        let has_secret = contents.contains(defaults::WEB_CLIENT_SECRET);
        assert!(!has_secret, "{}", path.display());
    }
}
