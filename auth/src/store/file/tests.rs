//! What the store does with files, as one process sees it; other processes and faults of the file system are in
//! [`faults`].

use std::{fs, path::PathBuf, time::Duration};

use tempfile::TempDir;

use super::*;
use crate::store::record::fingerprint;
use crate::store::{envelope, folder, lock};

mod faults;
#[cfg(unix)]
mod left_out;
#[cfg(feature = "testing")]
mod suite;

/// A store in a folder that does not exist yet.
struct Place {
    _parent: TempDir,
    store: FileStore,
}

impl Place {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let store = FileStore::new(parent.path().join("sign-ins"));
        Self {
            _parent: parent,
            store,
        }
    }

    /// With the record `rt_0` in it.
    async fn signed_in() -> Self {
        let place = Self::new();
        place.store.put(&profile(), &record("rt_0")).await.unwrap();
        place
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.store.folder().join(format!("default.{ending}"))
    }

    /// Leaves what a killed process would.
    fn leave(&self, ending: &str, content: &[u8]) {
        let mut options = fs::OpenOptions::new();
        let options = folder::owners_alone(options.write(true).create(true).truncate(true));
        let mut file = options.open(self.file(ending)).unwrap();
        std::io::Write::write_all(&mut file, content).unwrap();
    }

    fn aside(&self) -> Vec<PathBuf> {
        let mut aside: Vec<_> = fs::read_dir(self.store.folder())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_str().unwrap().contains(".aside-"))
            .collect();
        aside.sort();
        aside
    }

    async fn stored(&self) -> Option<String> {
        let stored = self.store.load(&profile()).await.unwrap()?;
        Some(stored.record.refresh_token().expose().to_owned())
    }

    async fn lease(&self) -> Box<dyn Lease> {
        match self.store.lease(&profile(), HOLD).await.unwrap() {
            Leasing::Got(lease) => lease,
            held => panic!("{held:?}"),
        }
    }
}

const HOLD: Duration = Duration::from_secs(60);

fn profile() -> Profile {
    Profile::new("default").unwrap()
}

fn record(refresh_token: &str) -> Record {
    let json = format!(
        r#"{{"version":1,"access_token":"czu_hush","refresh_token":"{refresh_token}",
        "expires_at":1800000000,"life_ms":899000,"of_the_future":[1]}}"#
    );
    Record::from_json(json.as_bytes()).unwrap()
}

/// As a refresh with that refresh token would bring it.
fn successor(of: &str, refresh_token: &str) -> Record {
    let follows = fingerprint(&token(of));
    with(&record(refresh_token), &format!(r#""follows":"{follows}""#))
}

fn dead(refresh_token: &str) -> Record {
    with(&record(refresh_token), r#""dead":{"code":"invalid_grant"}"#)
}

fn with(record: &Record, field: &str) -> Record {
    let json = record
        .to_json()
        .unwrap()
        .replacen('{', &format!("{{{field},"), 1);
    Record::from_json(json.as_bytes()).unwrap()
}

fn token(refresh_token: &str) -> RefreshToken {
    RefreshToken::new(refresh_token).unwrap()
}

fn sealed_now(record: &Record) -> Vec<u8> {
    let json = record.to_json().unwrap();
    envelope::sealed(&json, std::time::SystemTime::now()).to_vec()
}

/// The text of an error that holds no secret.
fn told(error: &Error) -> String {
    let text = format!("{error} {error:?}");
    for secret in ["hush", "rt_"] {
        assert!(!text.contains(secret), "{text}");
    }
    text
}

#[tokio::test]
async fn what_is_put_is_loaded_with_its_age_and_the_fields_of_the_future() {
    let place = Place::new();
    assert!(place.store.load(&profile()).await.unwrap().is_none());
    assert!(!place.store.folder().exists(), "a read creates nothing");

    place.store.put(&profile(), &record("rt_0")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    let stored = place.store.load(&profile()).await.unwrap().unwrap();
    assert!(stored.age >= Duration::from_millis(20), "{stored:?}");
    assert!(stored.age < Duration::from_secs(60), "{stored:?}");
    assert_eq!(
        *stored.record.to_json().unwrap(),
        *record("rt_0").to_json().unwrap()
    );
    assert!(!place.file("next").exists());
}

#[tokio::test]
async fn a_record_of_a_later_time_is_of_unknown_age() {
    let place = Place::signed_in().await;
    for (later, age) in [(1, Duration::ZERO), (3600, Duration::MAX)] {
        let later = std::time::SystemTime::now() + Duration::from_secs(later);
        let json = record("rt_1").to_json().unwrap();
        place.leave("json", &envelope::sealed(&json, later));
        let stored = place.store.load(&profile()).await.unwrap().unwrap();
        assert_eq!(stored.age, age);
    }
    let saved = place
        .store
        .save(&profile(), &token("rt_1"), &successor("rt_1", "rt_2"))
        .await;
    assert!(matches!(saved.unwrap(), Saved::Saved));
    let stored = place.store.load(&profile()).await.unwrap().unwrap();
    assert!(stored.age < Duration::from_secs(60), "{stored:?}");
}

#[tokio::test]
async fn the_age_counts_from_when_the_store_was_asked() {
    let place = Place::signed_in().await;
    let turn = lock::Lock::try_take(&Folder::new(place.store.folder().into()), "default.lock");
    let turn = turn.unwrap().unwrap();
    let wait = Duration::from_millis(300);
    let (redeemed, next, profile) = (token("rt_0"), record("rt_1"), profile());
    let save = place.store.save(&profile, &redeemed, &next);
    let (saved, ()) = tokio::join!(save, async {
        tokio::time::sleep(wait).await;
        drop(turn);
    });
    assert!(matches!(saved.unwrap(), Saved::Saved));
    let stored = place.store.load(&profile).await.unwrap().unwrap();
    // The clock that stamps files is coarse.
    assert!(stored.age + Duration::from_millis(20) >= wait, "{stored:?}");
}

#[tokio::test]
async fn a_proof_is_of_what_is_stored() {
    let place = Place::new();
    let lease = place.lease().await;
    let refused = async |proven: &str| {
        let error = lease.prove_save(&record(proven)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreBusy);
        assert!(told(&error).contains("moved on"), "{error}");
    };
    refused("rt_0").await;
    place.store.put(&profile(), &record("rt_0")).await.unwrap();
    lease.prove_save(&record("rt_0")).await.unwrap();
    // What a process has left that saved without the lease and was killed.
    place.leave("next", &sealed_now(&successor("rt_0", "rt_1")));
    refused("rt_0").await;
    assert_eq!(place.stored().await.unwrap(), "rt_1");
    lease.prove_save(&record("rt_1")).await.unwrap();
}

#[tokio::test]
async fn what_meets_damage_is_set_aside_once_and_named() {
    let place = Place::signed_in().await;
    let gone = token("rt_gone");
    let _ = place.store.save(&profile(), &gone, &record("rt_a")).await;
    place.leave("json", b"{}");
    for life in 0..10 {
        // As a provider tries again: less is left of its life.
        let json = record("rt_1").to_json().unwrap();
        let json = json.replace("899000", &format!("8990{life}"));
        let next = Record::from_json(json.as_bytes()).unwrap();
        let saved = place.store.save(&profile(), &token("rt_0"), &next).await;
        let error = saved.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreDamaged);
        let aside = place.aside();
        assert_eq!(aside.len(), 2);
        assert!(told(&error).contains(aside[1].to_str().unwrap()), "{error}");
        let kept = envelope::opened("", &fs::read(&aside[1]).unwrap()).unwrap();
        assert!(kept.record.holds(&token("rt_1")));
    }
    assert_eq!(fs::read(place.file("json")).unwrap(), b"{}");
}

#[tokio::test]
async fn not_all_of_the_runtimes_threads_wait_for_a_file_system() {
    let place = Place::signed_in().await;
    let store = &place.store;
    // As if they hung there.
    let all = u32::try_from(MOST_WORKING).unwrap();
    let hanging = store.working.0.acquire_many(all).await.unwrap();
    let profile = profile();
    let load = tokio::time::timeout(Duration::from_millis(20), store.load(&profile));
    assert!(load.await.is_err());
    drop(hanging);
    assert!(store.load(&profile).await.unwrap().is_some());
}

#[cfg(unix)]
#[tokio::test]
async fn what_is_created_is_its_owners_alone() {
    use std::{os::unix::fs::PermissionsExt, path::Path};
    let place = Place::signed_in().await;
    let lease = place.lease().await;
    lease.prove_save(&record("rt_0")).await.unwrap();
    let saved = place
        .store
        .save(&profile(), &token("rt_gone"), &record("rt_1"))
        .await;
    assert!(matches!(saved.unwrap(), Saved::MovedOn(Some(_))));

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(place.store.folder()), 0o700);
    let mut files = 0;
    for entry in fs::read_dir(place.store.folder()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        files += 1;
    }
    assert_eq!(files, 4, "json, lease, lock, aside");
}

#[tokio::test]
async fn a_save_replaces_what_was_redeemed() {
    let place = Place::signed_in().await;
    let next = successor("rt_0", "rt_1");
    for _ in 0..2 {
        let saved = place.store.save(&profile(), &token("rt_0"), &next).await;
        assert!(matches!(saved.unwrap(), Saved::Saved));
        assert_eq!(place.stored().await.unwrap(), "rt_1");
    }
    assert!(place.aside().is_empty());
}

#[tokio::test]
async fn a_save_after_the_record_moved_on_is_set_aside() {
    let place = Place::signed_in().await;
    let late = successor("rt_gone", "rt_late");
    let saved = place.store.save(&profile(), &token("rt_gone"), &late).await;
    match saved.unwrap() {
        Saved::MovedOn(Some(stored)) => assert!(stored.record.holds(&token("rt_0"))),
        other => panic!("{other:?}"),
    }
    assert_eq!(place.stored().await.unwrap(), "rt_0");
    let aside = place.aside();
    let kept = envelope::opened(aside[0].display(), &fs::read(&aside[0]).unwrap()).unwrap();
    assert!(kept.record.holds(&token("rt_late")));

    for n in 0..12 {
        let late = record(&format!("rt_{n}_late"));
        let _ = place.store.save(&profile(), &token("rt_gone"), &late).await;
    }
    let asides = place.aside();
    assert_eq!(asides.len(), 8);
    assert!(!asides.contains(&aside[0]), "the oldest made room");
}

#[tokio::test]
async fn a_save_where_nothing_is_stored_is_set_aside() {
    let place = Place::new();
    let saved = place
        .store
        .save(&profile(), &token("rt_0"), &record("rt_1"))
        .await;
    assert!(matches!(saved.unwrap(), Saved::MovedOn(None)));
    assert_eq!(place.stored().await, None);
    assert_eq!(place.aside().len(), 1);
}

#[tokio::test]
async fn only_what_was_read_is_removed() {
    let place = Place::signed_in().await;
    let remove = |read: &'static str| {
        let store = place.store.clone();
        async move { store.remove(&profile(), &record(read)).await.unwrap() }
    };
    assert_eq!(remove("rt_other").await, Removed::MovedOn);
    assert_eq!(place.stored().await.unwrap(), "rt_0");
    place.leave("next", &sealed_now(&successor("rt_0", "rt_1")));
    assert_eq!(remove("rt_0").await, Removed::Removed);
    assert_eq!(place.stored().await, None);
    assert!(!place.file("next").exists());
    assert_eq!(remove("rt_0").await, Removed::Removed);
}

#[tokio::test]
async fn what_is_damaged_stays_until_a_put_sets_it_aside() {
    let whole = sealed_now(&record("rt_0"));
    let newer = String::from_utf8(whole.clone())
        .unwrap()
        .replace("\"version\":1", "\"version\":9");
    let large = vec![b' '; 1024 * 1024 + 1];
    for (content, says) in [
        (&whole[..whole.len() / 2], "cut short"),
        (b"", "cut short"),
        (b"{}", "field"),
        (b"rt_hush", "no JSON"),
        (newer.as_bytes(), "newer"),
        (large.as_slice(), "1048577 bytes"),
    ] {
        let place = Place::signed_in().await;
        place.leave("json", content);
        let store = &place.store;
        let errors = [
            store.load(&profile()).await.unwrap_err(),
            store
                .save(&profile(), &token("rt_0"), &record("rt_1"))
                .await
                .unwrap_err(),
            store.remove(&profile(), &record("rt_0")).await.unwrap_err(),
            place
                .lease()
                .await
                .prove_save(&record("rt_0"))
                .await
                .unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::StoreDamaged);
            let text = told(&error);
            assert!(text.contains(says), "{text}");
            assert!(text.contains("default.json"), "{text}");
        }
        assert_eq!(fs::read(place.file("json")).unwrap(), content);

        store.put(&profile(), &record("rt_new")).await.unwrap();
        assert_eq!(place.stored().await.unwrap(), "rt_new");
        let aside = place.aside();
        assert_eq!(aside.len(), 2, "it, and what was to be saved");
        let is_kept = |path: &PathBuf| fs::read(path).unwrap() == content;
        assert!(aside.iter().any(is_kept));
    }
}

#[tokio::test]
async fn a_dead_record_is_set_aside_by_a_put_and_a_live_one_is_not() {
    let place = Place::signed_in().await;
    place.store.put(&profile(), &record("rt_1")).await.unwrap();
    assert!(place.aside().is_empty());
    let saved = place
        .store
        .save(&profile(), &token("rt_1"), &dead("rt_1"))
        .await;
    assert!(matches!(saved.unwrap(), Saved::Saved));
    place.store.put(&profile(), &record("rt_2")).await.unwrap();
    let aside = fs::read_to_string(&place.aside()[0]).unwrap();
    assert!(aside.contains("invalid_grant"), "{aside}");
}

#[tokio::test]
async fn a_leftover_is_put_in_place_if_it_follows_the_current_record() {
    let follows = sealed_now(&successor("rt_0", "rt_1"));
    let foreign = sealed_now(&successor("rt_other", "rt_1"));
    let fresh = sealed_now(&record("rt_1"));
    for (left, then) in [
        (follows.as_slice(), "rt_1"),
        (&follows[..follows.len() - 10], "rt_0"),
        (b"", "rt_0"),
        (foreign.as_slice(), "rt_0"),
        (fresh.as_slice(), "rt_0"),
    ] {
        let place = Place::signed_in().await;
        place.leave("next", left);
        drop(place.lease().await);
        assert_eq!(place.stored().await.unwrap(), then);

        let redeemed = token(then);
        let saved = place
            .store
            .save(&profile(), &redeemed, &successor(then, "rt_2"))
            .await;
        assert!(matches!(saved.unwrap(), Saved::Saved));
        assert_eq!(place.stored().await.unwrap(), "rt_2");
        assert!(!place.file("next").exists());
    }
}

#[tokio::test]
async fn a_leftover_without_a_current_record_is_never_put_in_place() {
    let place = Place::signed_in().await;
    place.leave("next", &sealed_now(&successor("rt_0", "rt_1")));
    fs::remove_file(place.file("json")).unwrap();
    drop(place.lease().await);
    assert_eq!(place.stored().await, None);
}

#[tokio::test]
async fn a_save_meets_a_leftover() {
    let left = || successor("rt_0", "rt_1");
    for (redeemed, ours, then, aside) in [
        // The same, and the next of the process whose first save failed.
        ("rt_0", left(), "rt_1", 0),
        ("rt_0", successor("rt_1", "rt_2"), "rt_2", 0),
        ("rt_1", successor("rt_1", "rt_2"), "rt_2", 0),
        // The leftover came first.
        ("rt_0", successor("rt_0", "rt_late"), "rt_1", 1),
        ("rt_0", dead("rt_0"), "rt_1", 1),
        ("rt_gone", record("rt_late"), "rt_1", 1),
    ] {
        let place = Place::signed_in().await;
        place.leave("next", &sealed_now(&left()));
        let saved = place
            .store
            .save(&profile(), &token(redeemed), &ours)
            .await
            .unwrap();
        assert_eq!(
            matches!(saved, Saved::Saved),
            aside == 0,
            "{redeemed} {ours:?}"
        );
        assert_eq!(place.stored().await.unwrap(), then);
        assert_eq!(place.aside().len(), aside);
    }
}

#[tokio::test]
async fn a_put_over_a_leftover_is_what_is_stored() {
    let place = Place::signed_in().await;
    place.leave("next", &sealed_now(&successor("rt_0", "rt_1")));
    place
        .store
        .put(&profile(), &record("rt_new"))
        .await
        .unwrap();
    drop(place.lease().await);
    assert_eq!(place.stored().await.unwrap(), "rt_new");
}

#[tokio::test]
async fn a_lease_excludes_all_others_and_names_its_owner() {
    let place = Place::signed_in().await;
    let lease = place.lease().await;
    let other = FileStore::new(place.store.folder());
    match other.lease(&profile(), HOLD).await.unwrap() {
        Leasing::Held { by: Some(by) } => {
            assert_eq!(by, format!("process {}", std::process::id()));
        }
        other => panic!("{other:?}"),
    }
    let elsewhere = Profile::new("Default").unwrap();
    let free = other.lease(&elsewhere, HOLD).await.unwrap();
    assert!(matches!(free, Leasing::Got(_)));

    lease.prove_save(&record("rt_0")).await.unwrap();
    assert!(!place.file("proof").exists());
    lease.release().await.unwrap();
    drop(place.lease().await);
    drop(place.lease().await);
}

#[tokio::test]
async fn a_lease_on_a_file_that_was_deleted_is_lost() {
    let place = Place::signed_in().await;
    let lease = place.lease().await;
    fs::remove_file(place.file("lease")).unwrap();
    for _ in 0..2 {
        let error = lease.prove_save(&record("rt_0")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreBusy);
        drop(place.lease().await);
    }
}

#[tokio::test]
async fn a_held_lease_blocks_no_save_put_or_remove() {
    let place = Place::signed_in().await;
    let _lease = place.lease().await;
    let saved = place
        .store
        .save(&profile(), &token("rt_0"), &record("rt_1"))
        .await;
    assert!(matches!(saved.unwrap(), Saved::Saved));
    place.store.put(&profile(), &record("rt_2")).await.unwrap();
    let removed = place.store.remove(&profile(), &record("rt_2")).await;
    assert_eq!(removed.unwrap(), Removed::Removed);
}

#[tokio::test]
async fn a_save_goes_on_when_nobody_waits_for_it() {
    let place = Place::signed_in().await;
    let turn = lock::Lock::try_take(&Folder::new(place.store.folder().into()), "default.lock");
    let turn = turn.unwrap().unwrap();
    let (redeemed, next, profile) = (token("rt_0"), record("rt_1"), profile());
    let save = place.store.save(&profile, &redeemed, &next);
    let given_up = tokio::time::timeout(Duration::from_millis(20), save).await;
    assert!(given_up.is_err());
    drop(turn);
    for _ in 0..500 {
        if place.stored().await.unwrap() == "rt_1" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the save was given up");
}

#[tokio::test]
async fn profiles_are_told_apart_by_every_byte() {
    let place = Place::new();
    let names = ["a", "A", "a/b", "..", "é", "e\u{301}", "%41", "con"];
    let long = [
        "x".repeat(127),
        "x".repeat(128),
        "中".repeat(42),
        format!("{}z", "中".repeat(42)),
    ];
    let names: Vec<_> = names.into_iter().map(str::to_owned).chain(long).collect();
    for name in &names {
        let profile = Profile::new(name.as_str()).unwrap();
        let fresh = record(&format!("rt_{name}"));
        place.store.put(&profile, &fresh).await.unwrap();
        let late = place.store.save(&profile, &token("rt_gone"), &fresh).await;
        assert!(matches!(late.unwrap(), Saved::Saved));
    }
    for name in &names {
        let profile = Profile::new(name.as_str()).unwrap();
        let stored = place.store.load(&profile).await.unwrap().unwrap();
        assert!(stored.record.holds(&token(&format!("rt_{name}"))), "{name}");
    }
}

#[test]
fn without_a_runtime_it_is_an_error() {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };
    let place = Place::new();
    let profile = profile();
    let mut load = pin!(place.store.load(&profile));
    match load.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Err(error)) => assert_eq!(error.kind(), ErrorKind::System),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_program_has_a_name_that_is_one_of_a_folder() {
    for bad in ["", ".", "..", ".hidden", "a/b", "a\\b", "a\0"] {
        let error = FileStore::in_default_folder(bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad:?}");
    }
}

#[test]
fn a_slash_at_the_end_of_the_folder_does_not_matter() {
    let plain = FileStore::new("/somewhere/sign-ins");
    for path in [
        "/somewhere/sign-ins/",
        "/somewhere/./sign-ins//",
        "/somewhere/sign-ins/.",
    ] {
        assert_eq!(FileStore::new(path).folder(), plain.folder());
    }
    assert!(FileStore::new("sign-ins").folder().is_absolute());
}
