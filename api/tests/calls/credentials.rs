//! A client of the credentials that a process has in its environment.

use std::{env, process::Command};

use coze_api::{CozeApi, ErrorKind, SendExt};
use coze_mock::{MockCoze, defaults};

/// Set in the process that [`in_a_process`] starts.
const CHILD: &str = "COZE_TESTS_CHILD";

/// Runs [`a_process`] with this environment only, and returns what it wrote.
async fn in_a_process(variables: &[(&str, &str)]) -> String {
    let folder = env::temp_dir().join("coze-tests-no-such-home");
    let mut child = Command::new(env::current_exe().unwrap());
    child
        .args(["credentials::a_process", "--exact", "--nocapture"])
        .env_clear()
        .env(CHILD, "1")
        .env("HOME", folder)
        .envs(variables.iter().copied())
        .current_dir(env::temp_dir());
    let output = tokio::task::spawn_blocking(move || child.output());
    let output = output.await.unwrap().unwrap();
    let written = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{written}");
    written
}

#[tokio::test]
async fn a_process() {
    if env::var_os(CHILD).is_none() {
        return;
    }
    match CozeApi::from_default().await {
        Ok(coze) => println!("user {}", coze.users().me().send().await.unwrap().user_name),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NotSignedIn);
            println!("none: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_the_default_credentials_of_its_process() {
    let mock = MockCoze::start().await.unwrap();
    let token = defaults::PERSONAL_ACCESS_TOKEN;
    let written = in_a_process(&[("COZE_API_TOKEN", token), ("COZE_API_BASE", mock.url())]).await;
    assert!(written.contains("user "), "{written}");
    assert_eq!(mock.request_count(), 1);
    let written = in_a_process(&[]).await;
    assert!(
        written.contains("none: no credentials were found"),
        "{written}"
    );
}
