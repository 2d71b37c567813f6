//! `FileStore` on real files.
//!
//! | module | tests |
//! |---|---|
//! | [`store`] | one process |
//! | [`access`] | files and folders with too open permissions, and file systems that fail |
//! | [`processes`] | other processes: stopped, stuck, killed |
//! | [`durability`] | the system calls of a change, and failing ones |

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests and their helpers panic on failure, and child processes print their results"
)]

#[cfg(unix)]
mod access;
#[cfg(target_os = "linux")]
mod durability;
#[cfg_attr(not(unix), allow(dead_code, reason = "used by the tests for Unix"))]
#[path = "../support/left_out.rs"]
mod left_out;
#[cfg(unix)]
mod processes;
mod store;

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use coze_auth::store::{
    CompareAndSet, Contents, Key, Owner, Profile, Store, StoreError, Stored, TryLock, Version,
};
use coze_auth_stores::FileStore;
use tempfile::TempDir;

const TTL: Duration = Duration::from_secs(60);

/// A store in a folder that does not exist.
struct Place {
    #[cfg_attr(not(unix), allow(dead_code, reason = "its drop removes the folder"))]
    parent: TempDir,
    store: FileStore,
}

impl Place {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let store = FileStore::new(parent.path().join("sign-ins"));
        Self { parent, store }
    }

    /// A store that contains a value.
    async fn written() -> (Self, Contents) {
        let place = Self::new();
        let first = contents("first");
        set(&place.store, &key(), None, Some(&first)).await;
        (place, first)
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.store.folder().join(format!("default.{ending}"))
    }

    /// Writes a file as a killed process would leave it.
    fn leave(&self, ending: &str, content: &[u8]) {
        let _ = fs::remove_file(self.file(ending));
        fs::write(self.file(ending), content).unwrap();
        own(&self.file(ending));
    }

    #[cfg(unix)]
    async fn names(&self) -> Vec<String> {
        let files = fs::read_dir(self.store.folder()).unwrap();
        let mut names: Vec<_> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[cfg(unix)]
fn own(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[cfg(not(unix))]
fn own(_: &std::path::Path) {}

fn profile() -> Profile {
    Profile::new("default").unwrap()
}

fn key() -> Key {
    Key::record(&profile())
}

fn slot(number: u8) -> Key {
    Key::quarantine_slots(&profile())
        .nth(number.into())
        .unwrap()
}

fn owner(number: u8) -> Owner {
    Owner::new([number; 16], &format!("owner {number}"))
}

/// Unique contents of the length of a sign-in.
fn contents(name: &str) -> Contents {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let hush = "hush ".repeat(200);
    Contents::from(
        format!("{{\"name\":\"{name}\",\"count\":{count},\"token\":\"{hush}\"}}\n").into_bytes(),
    )
}

/// The file format of contents that replace this version.
fn sealed(contents: &Contents, replaces: Option<&Version>) -> Vec<u8> {
    let hex = |version: &Version| {
        let bytes = version.as_ref().iter();
        bytes.map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let replaces = replaces.map_or("null".to_owned(), |version| format!("\"{}\"", hex(version)));
    let sha256 = hex(&Version::of(contents));
    let header =
        format!("{{\"written_at_ms\":1,\"replaces\":{replaces},\"sha256\":\"{sha256}\"}}\n");
    [header.as_bytes(), contents.expose()].concat()
}

async fn load(store: &FileStore, key: &Key) -> Option<Stored> {
    store.load(key).await.unwrap()
}

/// The contents of a key; empty if it does not exist.
async fn held(store: &FileStore, key: &Key) -> Vec<u8> {
    let stored = load(store, key).await;
    stored.map_or_else(Vec::new, |stored| stored.contents.expose().to_vec())
}

/// A change that succeeds.
async fn set(store: &FileStore, key: &Key, expected: Option<&Version>, new: Option<&Contents>) {
    let done = store.compare_and_set(key, expected, new).await.unwrap();
    assert_eq!(done, CompareAndSet::Done(new.map(Version::of)));
}

async fn locked(store: &FileStore, number: u8) -> TryLock {
    store.try_lock(&key(), &owner(number), TTL).await.unwrap()
}

async fn lock(store: &FileStore, number: u8) {
    let lock = locked(store, number).await;
    assert!(matches!(lock, TryLock::Acquired(_)), "{lock:?}");
}

/// The text of an error, which must not contain a secret.
fn told(error: &StoreError) -> String {
    let text = format!("{error} {error:?}");
    assert!(!text.contains("hush"), "{text}");
    text
}
