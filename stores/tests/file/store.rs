//! The store in one process.

use std::time::Instant;

use coze_auth::store::StoreErrorKind;
use tokio::time::{sleep, timeout};

use super::{left_out::skipped, *};

#[tokio::test]
async fn written_contents_are_loaded_and_a_load_creates_no_folder() {
    let place = Place::new();
    assert!(load(&place.store, &key()).await.is_none());
    assert_eq!(place.store.list().await.unwrap(), Some(Vec::new()));
    assert!(!place.store.folder().exists());

    let first = contents("first");
    set(&place.store, &key(), None, Some(&first)).await;
    sleep(Duration::from_millis(30)).await;
    let stored = load(&place.store, &key()).await.unwrap();
    assert_eq!(stored.contents.expose(), first.expose());
    assert_eq!(stored.version, Version::of(&first));
    let age = stored.age.unwrap();
    assert!(age >= Duration::from_millis(20) && age < TTL, "{age:?}");
    assert!(!place.file("next").exists());
}

#[tokio::test]
async fn an_edited_file_is_another_version() {
    let (place, first) = Place::written().await;
    let edited = String::from_utf8(fs::read(place.file("json")).unwrap()).unwrap();
    for (content, holds, has_age) in [
        (edited.replace("first", "edited"), "edited", true),
        ("edited hush".to_owned(), "edited hush", false),
        (String::new(), "", false),
    ] {
        place.leave("json", content.as_bytes());
        let stored = load(&place.store, &key()).await.unwrap();
        let found = String::from_utf8(stored.contents.expose().to_vec()).unwrap();
        assert!(found.contains(holds), "{found}");
        assert_eq!(stored.age.is_some(), has_age, "{content}");
        let old = Version::of(&first);
        let set_old = place
            .store
            .compare_and_set(&key(), Some(&old), Some(&contents("second")))
            .await;
        assert_eq!(set_old.unwrap(), CompareAndSet::Conflict);
    }
    let edited = load(&place.store, &key()).await.unwrap().version;
    set(
        &place.store,
        &key(),
        Some(&edited),
        Some(&contents("second")),
    )
    .await;
}

#[tokio::test]
async fn a_huge_file_counts_as_damaged_and_can_be_replaced() {
    let place = Place::written().await.0;
    place.leave("json", &vec![b'x'; 3 << 20]);
    let stored = load(&place.store, &key()).await.unwrap();
    assert_eq!(stored.contents.expose().len(), 1 << 20);
    set(
        &place.store,
        &key(),
        Some(&stored.version),
        Some(&contents("second")),
    )
    .await;
}

#[tokio::test]
async fn the_age_is_unknown_if_the_clock_was_set_back() {
    let (place, first) = Place::written().await;
    let later = |seconds: u128| {
        let since_epoch = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
        let header = format!("{{\"written_at_ms\":{}}}\n", since_epoch + seconds * 1000);
        [header.as_bytes(), first.expose()].concat()
    };
    place.leave("json", &later(1));
    assert_eq!(
        load(&place.store, &key()).await.unwrap().age,
        Some(Duration::ZERO)
    );
    place.leave("json", &later(3600));
    let stored = load(&place.store, &key()).await.unwrap();
    assert_eq!(stored.age, None);
    set(
        &place.store,
        &key(),
        Some(&stored.version),
        Some(&contents("second")),
    )
    .await;
    assert!(load(&place.store, &key()).await.unwrap().age.unwrap() < TTL);
}

#[tokio::test]
async fn the_age_counts_from_the_call_of_the_store() {
    let (place, first) = Place::written().await;
    let turn = turn(&place);
    let wait = Duration::from_millis(300);
    let (version, second) = (Version::of(&first), contents("second"));
    let release = async {
        sleep(wait).await;
        drop(turn);
    };
    let key = key();
    tokio::join!(
        set(&place.store, &key, Some(&version), Some(&second)),
        release
    );
    let age = load(&place.store, &key).await.unwrap().age.unwrap();
    // The clock of the file system is coarse.
    assert!(age + Duration::from_millis(20) >= wait, "{age:?}");
}

/// Locks a key for a change, like another process that is stuck.
fn turn(place: &Place) -> fs::File {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(place.file("change"));
    let file = file.unwrap();
    file.lock().unwrap();
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_a_stuck_key_does_not_block_other_keys() {
    let (place, first) = Place::written().await;
    let turn = turn(&place);
    let began = Instant::now();
    let waiting: Vec<_> = (0..64)
        .map(|_| {
            let store = place.store.clone();
            let version = Version::of(&first);
            tokio::spawn(async move {
                let new = contents("late");
                store
                    .compare_and_set(&key(), Some(&version), Some(&new))
                    .await
            })
        })
        .collect();
    sleep(Duration::from_millis(100)).await;
    let others = async {
        assert_eq!(
            held(&place.store, &key()).await,
            first.expose(),
            "loading its key"
        );
        let other = Key::record(&Profile::new("other").unwrap());
        set(&place.store, &other, None, Some(&contents("other"))).await;
        assert!(load(&place.store, &other).await.is_some());
        lock_of(&place.store, &other).await;
        set(&place.store, &slot(0), None, Some(&contents("quarantine"))).await;
    };
    timeout(Duration::from_secs(2), others).await.unwrap();
    for waiting in waiting {
        let error = waiting.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Busy);
        assert!(told(&error).contains("default.change"), "{error}");
    }
    let waited = began.elapsed();
    assert!(
        waited < Duration::from_secs(15),
        "all callers fail at the same time: {waited:?}"
    );
    drop(turn);
    set(&place.store, &key(), Some(&Version::of(&first)), None).await;
}

async fn lock_of(store: &FileStore, key: &Key) {
    let lock = store.try_lock(key, &owner(1), TTL).await.unwrap();
    assert!(matches!(lock, TryLock::Acquired(_)));
    store.unlock(key, &owner(1)).await.unwrap();
}

#[tokio::test]
async fn a_leftover_is_completed_if_it_replaces_the_current_version() {
    for finished_by_lock in [true, false] {
        let (place, first) = Place::written().await;
        let second = contents("second");
        place.leave("next", &sealed(&second, Some(&Version::of(&first))));
        if finished_by_lock {
            lock(&place.store, 1).await;
        } else {
            let late = contents("late");
            let set = place
                .store
                .compare_and_set(&key(), Some(&Version::of(&first)), Some(&late))
                .await;
            assert_eq!(set.unwrap(), CompareAndSet::Conflict);
        }
        assert_eq!(held(&place.store, &key()).await, second.expose());
        assert!(!place.file("next").exists());
    }
    let place = Place::new();
    set(&place.store, &slot(0), None, Some(&contents("other"))).await;
    let created = contents("created");
    place.leave("next", &sealed(&created, None));
    lock(&place.store, 1).await;
    assert_eq!(held(&place.store, &key()).await, created.expose());
}

#[tokio::test]
async fn a_truncated_leftover_is_replaced() {
    let (place, first) = Place::written().await;
    let complete = sealed(&contents("second"), Some(&Version::of(&first)));
    for cut in [&complete[..complete.len() - 1], &complete[..60], b""] {
        place.leave("next", cut);
        lock(&place.store, 1).await;
        assert_eq!(held(&place.store, &key()).await, first.expose());
    }
    set(
        &place.store,
        &key(),
        Some(&Version::of(&first)),
        Some(&contents("third")),
    )
    .await;
    assert!(
        load(&place.store, &slot(0)).await.is_none(),
        "nothing is quarantined"
    );
}

#[tokio::test]
async fn another_leftover_is_quarantined_before_it_is_replaced() {
    let (place, first) = Place::written().await;
    let elsewhere = Version::of(&contents("elsewhere"));
    let mut current = first;
    for leftover in 0..9u8 {
        let left = contents("left");
        for replaces in [None, Some(&elsewhere)] {
            place.leave("next", &sealed(&left, replaces));
            lock(&place.store, 1).await;
            assert_eq!(
                held(&place.store, &key()).await,
                current.expose(),
                "the leftover is not put in place"
            );
            let next = contents("next");
            set(
                &place.store,
                &key(),
                Some(&Version::of(&current)),
                Some(&next),
            )
            .await;
            current = next;
            // The same contents are quarantined only once. If all slots are taken, the oldest is replaced.
            assert_eq!(held(&place.store, &slot(leftover % 8)).await, left.expose());
        }
        sleep(Duration::from_millis(10)).await;
    }
    for slot in Key::quarantine_slots(&profile()) {
        assert!(load(&place.store, &slot).await.is_some());
    }
}

#[tokio::test]
async fn a_delete_removes_a_leftover_too() {
    let elsewhere = Version::of(&contents("elsewhere"));
    let (place, first) = Place::written().await;
    for expected in [Some(&Version::of(&first)), None] {
        place.leave("next", &sealed(&contents("left"), Some(&elsewhere)));
        set(&place.store, &key(), expected, None).await;
        assert!(load(&place.store, &key()).await.is_none());
        assert!(!place.file("next").exists());
    }
    // A leftover that replaces the deleted version does not restore the key.
    place.leave(
        "next",
        &sealed(&contents("left"), Some(&Version::of(&first))),
    );
    lock(&place.store, 1).await;
    assert!(load(&place.store, &key()).await.is_none());
}

#[tokio::test]
async fn an_obstacle_to_a_save_fails_the_intent_too() {
    let (place, first) = Place::written().await;
    fs::create_dir(place.file("next")).unwrap();
    for _intent_and_save in 0..2 {
        let (version, new) = (Version::of(&first), contents("second"));
        let set = place
            .store
            .compare_and_set(&key(), Some(&version), Some(&new))
            .await;
        let error = set.unwrap_err();
        let text = told(&error);
        assert!(text.contains("default.next can't be removed"), "{text}");
    }
    assert_eq!(held(&place.store, &key()).await, first.expose());
    fs::remove_dir(place.file("next")).unwrap();
    set(
        &place.store,
        &key(),
        Some(&Version::of(&first)),
        Some(&contents("second")),
    )
    .await;
}

#[tokio::test]
async fn a_lock_is_held_until_its_owner_unlocks_it() {
    let (place, _) = Place::written().await;
    let other = FileStore::new(place.store.folder());
    lock(&place.store, 1).await;
    lock(&place.store.clone(), 1).await;
    assert_held_by(locked(&place.store, 2).await, 1);
    assert_held_by(locked(&other, 2).await, 1);
    place.store.unlock(&key(), &owner(2)).await.unwrap();
    assert_held_by(locked(&other, 2).await, 1);
    place.store.unlock(&key(), &owner(1)).await.unwrap();
    lock(&other, 2).await;
    drop(other);
    lock(&place.store, 3).await;
}

fn assert_held_by(lock: TryLock, number: u8) {
    let TryLock::Held { by } = lock else {
        panic!("{lock:?}");
    };
    // On Windows a locked file can't be read, but under Wine it can.
    if by.is_some() || cfg!(unix) {
        assert_eq!(by, Some(format!("owner {number}")));
    }
}

#[tokio::test]
async fn a_lock_without_its_file_does_not_count() {
    let (place, _) = Place::written().await;
    lock(&place.store, 1).await;
    fs::remove_file(place.file("lock")).unwrap();
    let named = fs::symlink_metadata(place.file("lock"));
    if !named.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return skipped("an open file keeps its name here until it is closed");
    }
    lock(&place.store, 2).await;
    assert_held_by(locked(&place.store, 1).await, 2);
    place.store.unlock(&key(), &owner(1)).await.unwrap();
    assert!(matches!(
        locked(&place.store, 3).await,
        TryLock::Held { .. }
    ));
}

#[tokio::test]
async fn a_dropped_lock_call_does_not_conflict_with_the_next_one_of_its_owner() {
    let (place, _) = Place::written().await;
    for wait in (0..400).map(Duration::from_micros) {
        let owner = owner(1);
        let (key, store) = (key(), &place.store);
        let _ = timeout(wait, store.try_lock(&key, &owner, TTL)).await;
        lock(store, 1).await;
        store.unlock(&key, &owner).await.unwrap();
    }
}

#[tokio::test]
async fn a_lock_is_released_if_its_call_is_dropped() {
    let (place, _) = Place::written().await;
    let turn = turn(&place);
    let (key, owner) = (key(), owner(1));
    let waiting = place.store.try_lock(&key, &owner, TTL);
    assert!(timeout(Duration::from_millis(50), waiting).await.is_err());
    drop(turn);
    lock(&FileStore::new(place.store.folder()), 2).await;
}

#[tokio::test]
async fn profiles_with_long_and_unusual_names_are_listed_and_other_files_are_not() {
    let place = Place::new();
    let names = [
        "a",
        "A/..",
        "e\u{301}",
        "con",
        &"x".repeat(128),
        &"中".repeat(42),
    ]
    .map(str::to_owned);
    for name in &names {
        let profile = Profile::new(name.as_str()).unwrap();
        set(
            &place.store,
            &Key::record(&profile),
            None,
            Some(&contents(name)),
        )
        .await;
        let slot = Key::quarantine_slots(&profile).nth(7).unwrap();
        set(&place.store, &slot, None, Some(&contents(name))).await;
    }
    for other in [
        "UPPER.json",
        "a%zz.json",
        "+.json",
        ".json",
        "b.next",
        "notes.txt",
    ] {
        fs::write(place.store.folder().join(other), b"{}").unwrap();
        own(&place.store.folder().join(other));
    }
    let mut listed = place.store.list().await.unwrap().unwrap();
    listed.sort();
    let mut expected = names.map(|name| Profile::new(name).unwrap());
    expected.sort();
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn a_file_that_another_program_has_open_is_replaced_and_removed() {
    let (place, first) = Place::written().await;
    let mut current = first;
    let open_for_a_moment = |options: &fs::OpenOptions| {
        let file = options.open(place.file("json")).unwrap();
        tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(300));
            drop(file);
        })
    };
    let mut options = fs::OpenOptions::new();
    options.read(true);
    let shared = options.clone();
    #[cfg(windows)]
    std::os::windows::fs::OpenOptionsExt::share_mode(&mut options, 0);
    for options in [shared, options] {
        let open = open_for_a_moment(&options);
        let next = contents("next");
        set(
            &place.store,
            &key(),
            Some(&Version::of(&current)),
            Some(&next),
        )
        .await;
        open.await.unwrap();
        let open = open_for_a_moment(&options);
        assert_eq!(held(&place.store, &key()).await, next.expose());
        open.await.unwrap();
        let open = open_for_a_moment(&options);
        set(&place.store, &key(), Some(&Version::of(&next)), None).await;
        open.await.unwrap();
        assert!(load(&place.store, &key()).await.is_none());
        current = contents("again");
        set(&place.store, &key(), None, Some(&current)).await;
    }
}

#[tokio::test]
async fn a_path_may_be_long() {
    let parent = tempfile::tempdir().unwrap();
    let folder = (0..8).fold(parent.path().to_owned(), |path, _| {
        path.join("long".repeat(12))
    });
    assert!(folder.as_os_str().len() > 300);
    let store = FileStore::new(folder);
    let first = contents("first");
    set(&store, &key(), None, Some(&first)).await;
    lock(&store, 1).await;
    assert_eq!(held(&store, &key()).await, first.expose());
    set(&store, &key(), Some(&Version::of(&first)), None).await;
}

#[test]
fn the_name_of_a_program_must_be_a_valid_folder_name() {
    for bad in [
        "", ".", "..", ".hidden", "a/b", "a\\b", "a\0", "a\n", "c:", "a:b", "a?", "a.", "a ",
        "con", "NUL", "Aux.d", "prn .d", "COM1", "lpt³", "CONIN$",
    ] {
        let error = FileStore::in_default_folder(bad).unwrap_err();
        assert!(
            error.to_string().contains("name of the program"),
            "{bad}: {error}"
        );
    }
    for valid in [
        "my-program",
        "My Program 2.0",
        "console",
        "com10",
        "программа",
    ] {
        FileStore::in_default_folder(valid).unwrap();
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

#[test]
fn it_passes_the_suite() {
    let place = Place::new();
    coze_auth::testing::store::check(|| {
        let store = FileStore::new(place.store.folder());
        async move { std::sync::Arc::new(store) as std::sync::Arc<dyn Store> }
    });
}
