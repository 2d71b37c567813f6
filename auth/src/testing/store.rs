//! The test suite for every [`Store`]: [`check`] runs it on your own.
//!
//! ```
//! use std::sync::Arc;
//! use coze_auth::{store::{MemoryStore, Store}, testing::store::check};
//!
//! // In a plain #[test]: the suite creates its own runtimes, because a store must work on any.
//! let store = MemoryStore::new();
//! check(|| {
//!     let store = store.clone();
//!     async move { Arc::new(store) as Arc<dyn Store> }
//! });
//! ```
//!
//! The suite takes some seconds of real time. It stores made-up contents in profiles whose names begin with `suite`,
//! and deletes them. For a store with [process-bound locks](LockLifetime::ProcessBound), also run
//! [`check_killed_owner`].
//!
//! Durability can't be tested here: that confirmed contents survive a power failure.

#![allow(clippy::panic, reason = "a test suite reports failures by panics")]

#[cfg(test)]
mod tests;

use std::{
    future::Future,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use tokio::{
    runtime::Runtime,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::store::{
    CompareAndSet, Contents, Key, LockLifetime, Owner, Profile, Store, Stored, TryLock, Version,
};

/// The timeout of one check.
const LONGEST_CHECK: Duration = Duration::from_secs(60);
/// The interval between two attempts to acquire a lock that is about to expire, and the tolerance beyond its TTL.
const LOOK: Duration = Duration::from_millis(50);
const SLACK: Duration = Duration::from_secs(5);

/// Runs the suite on a store. `open` opens another handle to the same data, as another process would.
///
/// Call it outside of any runtime.
///
/// # Panics
///
/// When a check fails; the message begins with the name of the check.
pub fn check<F>(open: impl Fn() -> F)
where
    F: Future<Output = Arc<dyn Store>>,
{
    let run = random();
    macro_rules! run {
        ($($check:ident),* $(,)?) => {$(
            let runtime = new_runtime();
            let subject = Subject {
                name: stringify!($check),
                run: &run,
                store: runtime.block_on(open()),
                other: runtime.block_on(open()),
            };
            let checked = runtime.block_on(async { timeout(LONGEST_CHECK, $check(&subject)).await });
            subject.expect(checked.is_ok(), "the check timed out");
            runtime.shutdown_background();
        )*};
    }
    run!(
        contents_are_created_replaced_and_deleted,
        a_conflict_changes_nothing,
        a_version_is_never_used_again,
        one_of_many_writers_wins,
        an_age_counts_from_the_last_write,
        keys_are_independent,
        profiles_are_listed_without_quarantine,
        a_lock_excludes_other_owners,
        a_lock_has_the_reported_lifetime,
        a_write_needs_no_lock,
        a_held_lock_does_not_block_other_keys,
    );
    the_runtime_that_opened_it_may_end(&run, open);
}

/// Checks that a process-bound lock ends when its process is killed. `command` starts a process that calls
/// [`hold_lock`] for the same store and profile.
///
/// # Panics
///
/// When the check fails.
pub async fn check_killed_owner(store: &dyn Store, profile: &Profile, mut command: Command) {
    let fail = |what: &str| -> ! { panic!("check_killed_owner: {what}") };
    let Ok(mut holder) = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
        fail("the holder can't be started")
    };
    let said = holder.stdout.take().is_some_and(|said| {
        let mut lines = BufReader::new(said).lines().map_while(Result::ok);
        lines.any(|line| line.contains(HOLDING))
    });
    let (key, owner) = (Key::record(profile), owner(1));
    let held = store.try_lock(&key, &owner, SLACK).await;
    let killed = holder.kill().and_then(|()| holder.wait());
    if !said || killed.is_err() {
        fail("the holder did not acquire the lock");
    }
    if !matches!(held, Ok(TryLock::Held { .. })) {
        fail("another process acquired the lock while its owner was alive");
    }
    let killed = Instant::now();
    while !matches!(
        store.try_lock(&key, &owner, SLACK).await,
        Ok(TryLock::Acquired(_))
    ) {
        if killed.elapsed() > SLACK {
            fail("the lock did not end when its process was killed");
        }
        sleep(LOOK).await;
    }
    let _ = store.unlock(&key, &owner).await;
}

/// Acquires the lock of a profile's record, reports that on standard output, and holds it until the process is killed
/// or standard input ends.
///
/// # Panics
///
/// When the lock can't be acquired.
pub async fn hold_lock(store: &dyn Store, profile: &Profile) {
    let (key, owner) = (Key::record(profile), owner(2));
    match store.try_lock(&key, &owner, LONGEST_CHECK).await {
        Ok(TryLock::Acquired(_)) => {}
        not => panic!("hold_lock: {not:?}"),
    }
    let mut out = std::io::stdout().lock();
    // The test harness may have written an incomplete line.
    let _ = writeln!(out, "\n{HOLDING}").and_then(|()| out.flush());
    let _ = std::io::stdin().lines().count();
}

const HOLDING: &str = "holding the lock";

/// The store under test, for one check.
struct Subject<'a> {
    name: &'static str,
    run: &'a str,
    store: Arc<dyn Store>,
    /// A second handle to the same data.
    other: Arc<dyn Store>,
}

impl Subject<'_> {
    #[track_caller]
    fn expect(&self, holds: bool, what: &str) {
        assert!(holds, "{}: {what}", self.name);
    }

    #[track_caller]
    fn ok<T, E: std::fmt::Debug>(&self, result: Result<T, E>) -> T {
        match result {
            Ok(value) => value,
            Err(error) => panic!("{}: {error:?}", self.name),
        }
    }

    fn profile(&self, name: &str) -> Profile {
        self.ok(Profile::new(format!("suite {} {name}", self.run)))
    }

    fn key(&self, name: &str) -> Key {
        Key::record(&self.profile(name))
    }

    async fn load(&self, key: &Key) -> Option<Stored> {
        // Reads through the other handle: a load must see the writes of every handle.
        self.ok(self.other.load(key).await)
    }

    async fn set(
        &self,
        key: &Key,
        expected: Option<&Version>,
        new: Option<&Contents>,
    ) -> CompareAndSet {
        self.ok(self.store.compare_and_set(key, expected, new).await)
    }

    /// Writes, and returns the version. The write must succeed.
    async fn write(&self, key: &Key, expected: Option<&Version>, new: &Contents) -> Version {
        match self.set(key, expected, Some(new)).await {
            CompareAndSet::Done(Some(version)) => version,
            other => panic!("{}: a write returned {other:?}", self.name),
        }
    }

    async fn delete(&self, key: &Key) {
        if let Some(stored) = self.load(key).await {
            let deleted = self.set(key, Some(&stored.version), None).await;
            self.expect(
                deleted == CompareAndSet::Done(None),
                "a delete of the loaded version fails, or returns a version",
            );
        }
    }

    async fn holds(&self, key: &Key, contents: &Contents, version: &Version) {
        let Some(stored) = self.load(key).await else {
            panic!("{}: the written contents are missing", self.name)
        };
        self.expect(
            stored.contents.expose() == contents.expose(),
            "the loaded contents differ from the written ones",
        );
        self.expect(
            stored.version == *version,
            "the loaded version differs from the written one",
        );
    }

    async fn try_lock(
        &self,
        store: &Arc<dyn Store>,
        key: &Key,
        owner: &Owner,
        ttl: Duration,
    ) -> TryLock {
        self.ok(store.try_lock(key, owner, ttl).await)
    }
}

async fn contents_are_created_replaced_and_deleted(subject: &Subject<'_>) {
    let key = subject.key("life");
    subject.expect(
        subject.load(&key).await.is_none(),
        "a key has contents before it was created",
    );
    let (first, second) = (contents("first"), contents("second"));
    let version = subject.write(&key, None, &first).await;
    subject.holds(&key, &first, &version).await;
    let version = subject.write(&key, Some(&version), &second).await;
    subject.holds(&key, &second, &version).await;
    subject.delete(&key).await;
    subject.expect(
        subject.load(&key).await.is_none(),
        "a key has contents after it was deleted",
    );
}

async fn a_conflict_changes_nothing(subject: &Subject<'_>) {
    let key = subject.key("conflict");
    let (first, second, third) = (contents("first"), contents("second"), contents("third"));
    let conflicts = async |expected: Option<&Version>, new: Option<&Contents>, what: &str| {
        let set = subject.set(&key, expected, new).await;
        subject.expect(set == CompareAndSet::Conflict, what);
    };
    let old = subject.write(&key, None, &first).await;
    let current = subject.write(&key, Some(&old), &second).await;
    conflicts(None, Some(&third), "an existing key was created").await;
    conflicts(Some(&old), Some(&third), "another version was replaced").await;
    conflicts(Some(&old), None, "another version was deleted").await;
    conflicts(None, None, "an existing key was reported as absent").await;
    subject.holds(&key, &second, &current).await;
    subject.delete(&key).await;
    conflicts(
        Some(&current),
        Some(&third),
        "a missing key was created though a version was expected",
    )
    .await;
    conflicts(
        Some(&current),
        None,
        "a missing key was deleted though a version was expected",
    )
    .await;
    subject.expect(
        subject.load(&key).await.is_none(),
        "a conflict created the key",
    );
}

async fn a_version_is_never_used_again(subject: &Subject<'_>) {
    let key = subject.key("versions");
    let mut seen: Vec<Version> = Vec::new();
    for round in 0..4 {
        let mut current = None;
        for write in 0..3 {
            let new = contents(&format!("{round} {write}"));
            let version = subject.write(&key, current.as_ref(), &new).await;
            subject.expect(!seen.contains(&version), "two writes have the same version");
            for old in &seen {
                let set = subject.set(&key, Some(old), Some(&contents("late"))).await;
                subject.expect(
                    set == CompareAndSet::Conflict,
                    "a write with an old version succeeds",
                );
            }
            seen.push(version.clone());
            current = Some(version);
        }
        subject.delete(&key).await;
    }
}

async fn one_of_many_writers_wins(subject: &Subject<'_>) {
    let key = subject.key("race");
    let mut current = None;
    for _ in 0..5 {
        let mut writers = JoinSet::new();
        for writer in 0..8 {
            let store = if writer % 2 == 0 {
                Arc::clone(&subject.store)
            } else {
                Arc::clone(&subject.other)
            };
            let (key, expected) = (key.clone(), current.clone());
            writers.spawn(async move {
                let new = contents(&format!("writer {writer}"));
                let set = store.compare_and_set(&key, expected.as_ref(), Some(&new));
                (set.await, new)
            });
        }
        let mut winners = Vec::new();
        while let Some(writer) = writers.join_next().await {
            let (set, new) = subject.ok(writer);
            match set {
                Ok(CompareAndSet::Done(Some(version))) => winners.push((version, new)),
                Ok(CompareAndSet::Done(None)) => {
                    subject.expect(false, "a write returned no version");
                }
                // A busy store may fail a writer, but must not confirm two.
                Ok(CompareAndSet::Conflict) | Err(_) => {}
            }
        }
        subject.expect(
            winners.len() == 1,
            &format!("{} writers with the same version succeeded", winners.len()),
        );
        if let Some((version, new)) = winners.pop() {
            subject.holds(&key, &new, &version).await;
            current = Some(version);
        }
    }
    subject.delete(&key).await;
}

async fn an_age_counts_from_the_last_write(subject: &Subject<'_>) {
    let key = subject.key("age");
    let pause = Duration::from_millis(2500);
    let began = Instant::now();
    let old = subject.write(&key, None, &contents("old")).await;
    sleep(pause).await;
    // The clock of a store may have a resolution of whole seconds.
    let uneven = Duration::from_millis(1100);
    let plausible = async |at_least: Duration, at_most: Duration| {
        let age = subject.load(&key).await.and_then(|stored| stored.age);
        let fits = age.is_some_and(|age| age + uneven >= at_least && age <= at_most + uneven);
        subject.expect(
            fits,
            &format!("the age is {age:?}, not {at_least:?} to {at_most:?}"),
        );
    };
    plausible(pause, began.elapsed()).await;
    let rewritten = Instant::now();
    subject.write(&key, Some(&old), &contents("new")).await;
    plausible(Duration::ZERO, rewritten.elapsed()).await;
    subject.delete(&key).await;
}

async fn keys_are_independent(subject: &Subject<'_>) {
    let long = "x".repeat(128 - subject.profile("").name().len());
    let names = [
        "a", "A", "a.", "a/b", "a\\b", "../a", "a:0", "a*", "a ", "用户", "NUL", &long,
    ];
    let mut written = Vec::new();
    for name in names {
        let profile = subject.profile(name);
        for key in std::iter::once(Key::record(&profile)).chain(Key::quarantine_slots(&profile)) {
            let new = contents(&format!("{name} {:?}", key.slot()));
            let version = subject.write(&key, None, &new).await;
            written.push((key, new, version));
        }
    }
    for (key, contents, version) in &written {
        subject.holds(key, contents, version).await;
    }
    for (key, ..) in &written {
        subject.delete(key).await;
    }
}

async fn profiles_are_listed_without_quarantine(subject: &Subject<'_>) {
    let (signed_in, quarantined) = (subject.profile("listed"), subject.profile("quarantined"));
    let record = Key::record(&signed_in);
    subject.write(&record, None, &contents("record")).await;
    let mut slots: Vec<Key> = Key::quarantine_slots(&quarantined).collect();
    slots.extend(Key::quarantine_slots(&signed_in));
    for slot in &slots {
        subject.write(slot, None, &contents("slot")).await;
    }
    if let Some(listed) = subject.ok(subject.other.list().await) {
        let count = |profile| listed.iter().filter(|listed| *listed == profile).count();
        subject.expect(
            count(&signed_in) == 1,
            "a profile with a record is not listed once",
        );
        subject.expect(
            count(&quarantined) == 0,
            "a profile with only a quarantine is listed",
        );
    }
    for key in slots.iter().chain([&record]) {
        subject.delete(key).await;
    }
    if let Some(listed) = subject.ok(subject.other.list().await) {
        subject.expect(
            !listed.contains(&signed_in),
            "a profile whose record was deleted is listed",
        );
    }
}

async fn a_lock_excludes_other_owners(subject: &Subject<'_>) {
    let key = subject.key("lock");
    let ttl = LONGEST_CHECK;
    let (one, two) = (owner(1), owner(2));
    let acquired = async |store: &Arc<dyn Store>, key: &Key, owner: &Owner, what: &str| {
        let lock = subject.try_lock(store, key, owner, ttl).await;
        subject.expect(matches!(lock, TryLock::Acquired(_)), what);
    };
    let held = async |what: &str| {
        for store in [&subject.store, &subject.other] {
            match subject.try_lock(store, &key, &two, ttl).await {
                TryLock::Held { by } => subject.expect(
                    by.is_none_or(|by| by == one.name()),
                    "the reported owner of a lock is not its owner",
                ),
                TryLock::Acquired(_) => subject.expect(false, what),
            }
        }
    };
    acquired(&subject.store, &key, &one, "a free lock was not acquired").await;
    held("a held lock was acquired by another owner").await;
    acquired(
        &subject.store,
        &key,
        &one,
        "the owner of a lock did not acquire it again",
    )
    .await;
    subject.ok(subject.store.unlock(&key, &two).await);
    held("a lock was released for another owner").await;
    acquired(
        &subject.store,
        &subject.key("another lock"),
        &two,
        "the lock of one key blocks another key",
    )
    .await;
    for _ in 0..2 {
        subject.ok(subject.store.unlock(&key, &one).await);
    }
    acquired(
        &subject.other,
        &key,
        &two,
        "a released lock was not acquired",
    )
    .await;
    subject.ok(subject.other.unlock(&key, &two).await);
    let another = subject.key("another lock");
    subject.ok(subject.store.unlock(&another, &two).await);
}

async fn a_lock_has_the_reported_lifetime(subject: &Subject<'_>) {
    let key = subject.key("lifetime");
    let (one, two) = (owner(1), owner(2));
    let ttl = Duration::from_millis(1500);
    let began = Instant::now();
    let lock = subject.try_lock(&subject.store, &key, &one, ttl).await;
    let TryLock::Acquired(lifetime) = lock else {
        panic!("{}: a free lock is {lock:?}", subject.name)
    };
    if lifetime == LockLifetime::Ttl {
        // The owner acquires it again, which restarts the TTL.
        sleep(ttl / 2).await;
        let again = subject.try_lock(&subject.store, &key, &one, ttl).await;
        subject.expect(
            again == TryLock::Acquired(lifetime),
            "the owner acquires it again, with another lifetime",
        );
    }
    let asked = began.elapsed();
    while matches!(
        subject.try_lock(&subject.other, &key, &two, ttl).await,
        TryLock::Held { .. }
    ) {
        if began.elapsed() > asked + ttl + SLACK {
            subject.expect(
                lifetime == LockLifetime::ProcessBound,
                "a lock is held beyond its TTL",
            );
            subject.ok(subject.store.unlock(&key, &one).await);
            return;
        }
        sleep(LOOK).await;
    }
    subject.expect(
        lifetime == LockLifetime::Ttl,
        "a process-bound lock ended while its owner was alive",
    );
    // Measured by the store's clock, which may differ from this one.
    let early = Duration::from_millis(100);
    subject.expect(
        began.elapsed() + early >= asked + ttl,
        "a lock ended before its TTL",
    );
    subject.ok(subject.other.unlock(&key, &two).await);
}

async fn a_write_needs_no_lock(subject: &Subject<'_>) {
    let key = subject.key("write");
    let lock = subject
        .try_lock(&subject.other, &key, &owner(1), LONGEST_CHECK)
        .await;
    subject.expect(
        matches!(lock, TryLock::Acquired(_)),
        "a free lock was not acquired",
    );
    let late = contents("late");
    let version = subject.write(&key, None, &late).await;
    subject.holds(&key, &late, &version).await;
    subject.delete(&key).await;
    subject.ok(subject.other.unlock(&key, &owner(1)).await);
}

async fn a_held_lock_does_not_block_other_keys(subject: &Subject<'_>) {
    let (stuck, free) = (subject.key("stuck"), subject.key("free"));
    let lock = subject
        .try_lock(&subject.store, &stuck, &owner(1), LONGEST_CHECK)
        .await;
    subject.expect(
        matches!(lock, TryLock::Acquired(_)),
        "a free lock was not acquired",
    );
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..64 {
        let (store, stuck) = (Arc::clone(&subject.store), stuck.clone());
        callers.spawn(async move { store.try_lock(&stuck, &owner(caller + 2), SLACK).await });
    }
    let work = async {
        for _ in 0..3 {
            let version = subject.write(&free, None, &contents("free")).await;
            subject.ok(subject.store.load(&free).await);
            let deleted = subject.set(&free, Some(&version), None).await;
            subject.expect(
                deleted == CompareAndSet::Done(None),
                "a delete returned a version",
            );
        }
    };
    subject.expect(
        timeout(SLACK, work).await.is_ok(),
        "another key is blocked while callers try to acquire a held lock",
    );
    while let Some(caller) = callers.join_next().await {
        let lock = subject.ok(subject.ok(caller));
        subject.expect(
            matches!(lock, TryLock::Held { .. }),
            "a held lock was acquired by another owner",
        );
    }
    subject.expect(
        began.elapsed() < 2 * SLACK,
        "`try_lock` waits for a held lock",
    );
    subject.ok(subject.store.unlock(&stuck, &owner(1)).await);
}

fn the_runtime_that_opened_it_may_end<F>(run: &str, open: impl Fn() -> F)
where
    F: Future<Output = Arc<dyn Store>>,
{
    let (first, second) = (new_runtime(), new_runtime());
    let store = first.block_on(open());
    let subject = Subject {
        name: "the_runtime_that_opened_it_may_end",
        run,
        other: Arc::clone(&store),
        store,
    };
    let (key, one) = (subject.key("runtime"), owner(1));
    let (old, new) = (contents("old"), contents("new"));
    let version = first.block_on(async {
        let lock = subject.try_lock(&subject.store, &key, &one, LONGEST_CHECK);
        subject.expect(
            matches!(lock.await, TryLock::Acquired(_)),
            "a free lock was not acquired",
        );
        subject.write(&key, None, &old).await
    });
    drop(first);
    let work = async {
        subject.holds(&key, &old, &version).await;
        let version = subject.write(&key, Some(&version), &new).await;
        subject.holds(&key, &new, &version).await;
        subject.ok(subject.store.unlock(&key, &one).await);
        subject.delete(&key).await;
    };
    let used = second.block_on(async { timeout(2 * SLACK, work).await });
    subject.expect(
        used.is_ok(),
        "the store is blocked after the runtime that opened it has ended",
    );
    second.shutdown_background();
}

fn new_runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap_or_else(|error| panic!("no runtime: {error}"))
}

fn owner(number: u8) -> Owner {
    Owner::new([number; 16], &format!("owner {number} of the suite"))
}

/// Contents like those of a record: JSON, partly random, of the size of a sign-in.
fn contents(name: &str) -> Contents {
    let text = "\\u0007 不 ".repeat(160);
    format!(
        r#"{{"name":"{name}","random":"{}","text":"{text}"}}"#,
        random()
    )
    .into_bytes()
    .into()
}

fn random() -> String {
    match crate::random::string() {
        Ok(random) => random.expose().to_owned(),
        Err(error) => panic!("{error}"),
    }
}
