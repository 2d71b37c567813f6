//! `KeyringStore` on the Credential Manager of Windows.
//!
//! There is only one for each user, so the tests can't create their own. They run only if an environment variable allows them to write
//! to it, and delete what they wrote.

#![cfg(windows)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests panic on failure"
)]

#[allow(dead_code, reason = "these tests are never required")]
#[path = "../support/left_out.rs"]
mod left_out;

use std::{env, sync::Arc};

use coze_auth::store::{CompareAndSet, Contents, Key, Profile, Store, StoreErrorKind, Version};
use coze_auth_stores::KeyringStore;

const ALLOWED: &str = "COZE_TESTS_USE_CREDENTIAL_MANAGER";

fn store() -> Option<KeyringStore> {
    if env::var_os(ALLOWED).is_none() {
        left_out::skipped(&format!(
            "it writes to the user's Credential Manager: set {ALLOWED}"
        ));
        return None;
    }
    Some(KeyringStore::new("coze-tests").unwrap())
}

#[test]
fn it_passes_the_suite() {
    let Some(store) = store() else { return };
    coze_auth::testing::store::check(|| {
        let store = store.clone();
        async move { Arc::new(store) as Arc<dyn Store> }
    });
}

#[tokio::test]
async fn profiles_that_differ_only_in_case_are_separate() {
    let Some(store) = store() else { return };
    let [lower, upper] = ["case", "CASE"].map(|name| {
        let key = Key::record(&Profile::new(name).unwrap());
        (key, Contents::from(name.as_bytes().to_vec()))
    });
    for (key, contents) in [&lower, &upper] {
        let set = store.compare_and_set(key, None, Some(contents)).await;
        assert_eq!(
            set.unwrap(),
            CompareAndSet::Done(Some(Version::of(contents)))
        );
    }
    for (key, contents) in [&lower, &upper] {
        let stored = store.load(key).await.unwrap().unwrap();
        assert_eq!(stored.contents.expose(), contents.expose());
        let set = store.compare_and_set(key, Some(&stored.version), None);
        assert_eq!(set.await.unwrap(), CompareAndSet::Done(None));
    }
}

#[tokio::test]
async fn a_value_that_is_too_long_is_refused_and_changes_nothing() {
    let Some(store) = store() else { return };
    let key = Key::record(&Profile::new("long").unwrap());
    let fits = Contents::from(vec![b'x'; 2560 - 32]);
    let long = Contents::from(vec![b'x'; 2560 - 31]);
    let set = store.compare_and_set(&key, None, Some(&fits)).await;
    assert_eq!(set.unwrap(), CompareAndSet::Done(Some(Version::of(&fits))));
    let version = Version::of(&fits);
    let set = store.compare_and_set(&key, Some(&version), Some(&long));
    assert_eq!(set.await.unwrap_err().kind(), StoreErrorKind::Full);
    let stored = store.load(&key).await.unwrap().unwrap();
    assert_eq!(stored.version, version);
    let set = store.compare_and_set(&key, Some(&version), None).await;
    assert_eq!(set.unwrap(), CompareAndSet::Done(None));
}
