//! What every [`Store`] must do: a suite to run on one's own.
//!
//! Tell the suite how to reach the store, by implementing [`Subject`], and let [`check`] try it:
//!
//! ```
//! use std::sync::Arc;
//! use coze_auth::{store::{MemoryStore, Profile, Store}, testing::store::{Subject, SubjectFuture, check}};
//!
//! struct InMemory(MemoryStore);
//!
//! impl Subject for InMemory {
//!     fn open(&self) -> SubjectFuture<'_, Arc<dyn Store>> {
//!         Box::pin(async { Arc::new(self.0.clone()) as Arc<dyn Store> })
//!     }
//!
//!     fn damage<'a>(&'a self, _: &'a Profile, _: &'a [u8]) -> SubjectFuture<'a, bool> {
//!         Box::pin(async { false }) // It can hold nothing but records.
//!     }
//!
//!     fn set_aside<'a>(&'a self, profile: &'a Profile) -> SubjectFuture<'a, Vec<Vec<u8>>> {
//!         let aside = self.0.set_aside(profile);
//!         Box::pin(async move {
//!             let json = |record: coze_auth::store::Record| record.to_json().unwrap().as_bytes().to_vec();
//!             aside.into_iter().map(json).collect()
//!         })
//!     }
//! }
//!
//! # fn main() {
//! # #[allow(unused)]
//! #[tokio::test(flavor = "multi_thread")]
//! async fn the_store_is_one() {
//!     check(&InMemory(MemoryStore::new())).await;
//! }
//! # tokio::runtime::Runtime::new().unwrap().block_on(check(&InMemory(MemoryStore::new())));
//! # }
//! ```
//!
//! It needs real time, some seconds of it, and a store that is empty. It stores nothing but made-up tokens. What no
//! suite can see is durability: that what [`save`](Store::save) has said to be saved survives a power failure.

#![allow(
    clippy::panic,
    reason = "this is how a test says that something is wrong"
)]

#[cfg(test)]
mod tests;

use std::{
    fmt::Debug,
    io::{BufRead, BufReader, Read, Write},
    pin::Pin,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    sync::Barrier,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    Error, ErrorKind, RefreshToken, Result,
    store::{
        Lease, LeaseKind, Leasing, Profile, Record, Removed, Saved, Store, Stored, fingerprint,
    },
};

/// What the methods of a [`Subject`] return.
pub type SubjectFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A kind of store, as the suite needs to reach it. Where something fails, it panics.
///
/// The [module's documentation](self) has an example.
pub trait Subject: Send + Sync {
    /// Opens the store once more: each handle is as independent of the others as if another process had opened it,
    /// and all see the same data.
    fn open(&self) -> SubjectFuture<'_, Arc<dyn Store>>;

    /// Goes behind the store's back and puts these bytes where it keeps the profile's record.
    ///
    /// `false` if that can't be, because it can hold nothing but records.
    fn damage<'a>(&'a self, profile: &'a Profile, bytes: &'a [u8]) -> SubjectFuture<'a, bool>;

    /// All that the store has set aside for this profile, and still has. The suite looks in it for the bytes that it
    /// [put there](Self::damage), and for the refresh tokens of records.
    fn set_aside<'a>(&'a self, profile: &'a Profile) -> SubjectFuture<'a, Vec<Vec<u8>>>;

    /// A command for a process that calls [`hold_lease`] for this profile. Only for
    /// [`LeaseKind::UntilOwnerDies`]: the suite kills that process.
    ///
    /// It may well be the test's own program, with a variable in its environment:
    ///
    /// ```no_run
    /// use std::{env, process::Command};
    /// use coze_auth::{store::{MemoryStore, Profile}, testing::store::hold_lease};
    ///
    /// fn lease_holder(profile: &Profile) -> Option<Command> {
    ///     let mut command = Command::new(env::current_exe().unwrap());
    ///     command.args(["holds_a_lease_for_another_test", "--exact"]);
    ///     command.env("TEST_LEASE_OF", profile.name());
    ///     Some(command)
    /// }
    ///
    /// # #[allow(unused)]
    /// #[tokio::test]
    /// async fn holds_a_lease_for_another_test() {
    ///     if let Ok(profile) = env::var("TEST_LEASE_OF") {
    ///         hold_lease(&MemoryStore::new(), &Profile::new(profile).unwrap()).await;
    ///     }
    /// }
    /// ```
    fn lease_holder(&self, profile: &Profile) -> Option<Command> {
        let _ = profile;
        None
    }
}

/// Takes the lease, prints a line with the word `leased`, and keeps it until standard input ends: the rest of
/// [`Subject::lease_holder`].
///
/// # Panics
///
/// When it does not get the lease, or can't say so.
///
/// ```no_run
/// use coze_auth::{store::{MemoryStore, Profile}, testing::store::hold_lease};
///
/// # async fn example() -> coze_auth::Result<()> {
/// hold_lease(&MemoryStore::new(), &Profile::new("default")?).await;
/// # Ok(()) }
/// ```
pub async fn hold_lease(store: &dyn Store, profile: &Profile) {
    let lease = match store.lease(profile, SHORT_HOLD).await {
        Ok(Leasing::Got(lease)) => lease,
        other => panic!("the child process did not get the lease: {other:?}"),
    };
    let until_input_ends = tokio::task::spawn_blocking(|| {
        // Not println!: what a test prints is kept back until it ends.
        let mut out = std::io::stdout();
        writeln!(out, "{LEASED}").and_then(|()| out.flush())?;
        std::io::stdin().read_to_end(&mut Vec::new())
    });
    if let Ok(Err(error)) = until_input_ends.await {
        panic!("the child process could not speak with the suite: {error}");
    }
    drop(lease);
}

const LEASED: &str = "leased";

/// Runs all checks on a store, in order.
///
/// # Panics
///
/// At the first check that the store does not pass; with what was expected and what was found.
///
/// The [module's documentation](self) has an example.
pub async fn check(subject: &dyn Subject) {
    macro_rules! run {
        ($($check:ident),* $(,)?) => {
            $({
                let check = Check { name: stringify!($check), subject };
                if timeout(LONGEST_CHECK, $check(&check)).await.is_err() {
                    check.fail(&format!("an end within {LONGEST_CHECK:?}"), &"none");
                }
            })*
        };
    }
    run!(
        what_is_put_can_be_loaded,
        put_replaces_what_lives,
        a_repeated_put_spares_what_was_refreshed_since,
        unknown_fields_are_kept,
        profiles_are_told_apart,
        a_save_replaces_what_was_redeemed,
        a_save_is_refused_when_the_record_moved_on,
        a_save_is_refused_when_nothing_is_stored,
        a_repeated_save_succeeds,
        a_successor_may_keep_the_refresh_token,
        a_save_needs_no_lease,
        readers_see_whole_records,
        one_of_many_saves_wins,
        remove_spares_what_has_changed,
        put_sets_the_dead_aside,
        damage_is_reported_and_kept,
        the_age_is_by_one_clock,
        a_lease_excludes_others,
        a_lease_is_of_one_profile,
        many_tries_make_one_owner,
        a_proof_changes_nothing,
        a_lease_ends_as_its_kind_says,
        a_lease_tells_whether_it_was_taken_over,
        a_proof_is_of_what_is_stored,
        a_thousand_profiles,
    );
}

const LONGEST_CHECK: Duration = Duration::from_secs(600);
/// How long a store may take to notice that a lease has ended.
const PATIENCE: Duration = Duration::from_secs(10);
const SHORT_HOLD: Duration = Duration::from_millis(300);
/// A machine that stalls for too long to say how a short hold ends is asked again, with a longer one.
const LONGER: [u32; 5] = [1, 2, 4, 8, 16];
/// Clocks of machines tick differently, by a few parts in a million.
const SLACK: Duration = Duration::from_millis(10);
/// Longer than any check takes.
const LONG_HOLD: Duration = Duration::from_secs(900);
/// How coarse the clock of a store may be.
const COARSE: Duration = Duration::from_millis(1100);

/// A check that is running: its name, and what it tries.
struct Check<'a> {
    name: &'static str,
    subject: &'a dyn Subject,
}

impl Check<'_> {
    fn fail(&self, expected: &str, found: &dyn Debug) -> ! {
        panic!(
            "the store fails the check {}: expected {expected}, found {found:?}",
            self.name
        );
    }

    fn expect(&self, holds: bool, expected: &str, found: &dyn Debug) {
        if !holds {
            self.fail(expected, found);
        }
    }

    fn ok<T>(&self, result: Result<T>, of: &str) -> T {
        match result {
            Ok(value) => value,
            Err(error) => self.fail(&format!("no error of {of}"), &error),
        }
    }

    async fn open(&self) -> Handle<'_> {
        Handle {
            check: self,
            store: self.subject.open().await,
        }
    }

    /// A profile that no other check uses.
    fn profile(&self, which: &str) -> Profile {
        let name = format!("{} {which}", self.name);
        self.ok(Profile::new(name), "Profile::new")
    }

    fn record_of(&self, json: &Value) -> Record {
        self.ok(
            Record::from_json(json.to_string().as_bytes()),
            "Record::from_json",
        )
    }

    /// Record number so and so: its two tokens carry the number.
    fn record(&self, number: usize) -> Record {
        self.record_of(&record_json(number))
    }

    async fn expect_aside(&self, profile: &Profile, bytes: &[u8], what: &str) {
        let aside = self.subject.set_aside(profile).await;
        self.expect(
            aside.iter().any(|one| contains(one, bytes)),
            &format!("{what} among what is set aside"),
            &format!("{} things, none of them that", aside.len()),
        );
    }
}

fn record_json(number: usize) -> Value {
    json!({
        "version": 1,
        "access_token": format!("{HUSH}-access-{number}-"),
        "refresh_token": refresh_token(number),
        "expires_at": 1_900_000_000,
        "life_ms": 899_000,
        "log_id": "20260101",
        // As much as real tokens are, so that half of it would be seen.
        "of_the_suite": "x".repeat(1024),
    })
}

/// What must be in no error.
const HUSH: &str = "hush";

fn refresh_token(number: usize) -> String {
    format!("{HUSH}-refresh-{number}-")
}

fn is_number(record: &Record, number: usize) -> bool {
    record.refresh_token().expose() == refresh_token(number)
}

fn contains(whole: &[u8], part: &[u8]) -> bool {
    whole.windows(part.len()).any(|window| window == part)
}

/// One handle on the store, whose errors end the check.
struct Handle<'a> {
    check: &'a Check<'a>,
    store: Arc<dyn Store>,
}

impl Handle<'_> {
    async fn load(&self, profile: &Profile) -> Option<Stored> {
        self.check.ok(self.store.load(profile).await, "load")
    }

    async fn loaded(&self, profile: &Profile) -> Stored {
        match self.load(profile).await {
            Some(stored) => stored,
            None => self.check.fail("a record", &"none"),
        }
    }

    async fn put(&self, profile: &Profile, record: &Record) {
        self.check.ok(self.store.put(profile, record).await, "put");
    }

    async fn save(&self, profile: &Profile, redeemed: &Record, successor: &Record) -> Saved {
        let redeemed = redeemed.refresh_token();
        let saved = self.store.save(profile, redeemed, successor).await;
        self.check.ok(saved, "save")
    }

    async fn remove(&self, profile: &Profile, read: &Record) -> Removed {
        self.check
            .ok(self.store.remove(profile, read).await, "remove")
    }

    async fn expect_removed(&self, profile: &Profile, read: &Record) {
        let removed = self.remove(profile, read).await;
        self.check.expect(
            removed == Removed::Removed,
            "that what is unchanged is removed",
            &removed,
        );
    }

    async fn lease(&self, profile: &Profile, hold: Duration) -> Option<Box<dyn Lease>> {
        match self
            .check
            .ok(self.store.lease(profile, hold).await, "lease")
        {
            Leasing::Got(lease) => Some(lease),
            Leasing::Held { .. } => None,
        }
    }

    async fn leased(&self, profile: &Profile, hold: Duration) -> Box<dyn Lease> {
        match self.lease(profile, hold).await {
            Some(lease) => lease,
            None => self.check.fail("to get a lease that nobody has", &"held"),
        }
    }

    /// Tries until the lease has ended that somebody else has.
    async fn leased_in_time(
        &self,
        profile: &Profile,
        hold: Duration,
        ends: &str,
    ) -> Box<dyn Lease> {
        let began = Instant::now();
        loop {
            if let Some(lease) = self.lease(profile, hold).await {
                return lease;
            }
            if began.elapsed() > PATIENCE {
                self.check.fail(
                    &format!("that a lease ends {ends}"),
                    &format!("held {PATIENCE:?} later"),
                );
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn release(&self, lease: Box<dyn Lease>) {
        self.check.ok(lease.release().await, "release");
    }

    async fn prove(&self, lease: &dyn Lease, record: &Record) {
        self.check.ok(lease.prove_save(record).await, "prove_save");
    }

    async fn expect_number(&self, profile: &Profile, number: usize) {
        let stored = self.loaded(profile).await;
        self.check.expect(
            is_number(&stored.record, number),
            "the record that was stored last",
            &"another",
        );
    }

    async fn expect_nothing(&self, profile: &Profile) {
        let stored = self.load(profile).await;
        self.check
            .expect(stored.is_none(), "that nothing is stored", &stored);
    }

    async fn expect_held(&self, profile: &Profile, why: &str) {
        let lease = self.lease(profile, SHORT_HOLD).await;
        self.check.expect(
            lease.is_none(),
            &format!("that the lease is held: {why}"),
            &"a second owner",
        );
    }
}

async fn what_is_put_can_be_loaded(check: &Check<'_>) {
    let (one, other) = (check.open().await, check.open().await);
    let profile = check.profile("");
    one.expect_nothing(&profile).await;
    let record = check.record(1);
    one.put(&profile, &record).await;
    for handle in [one, other, check.open().await] {
        let stored = handle.loaded(&profile).await;
        expect_same(check, &stored.record, &record);
    }
}

fn expect_same(check: &Check<'_>, found: &Record, stored: &Record) {
    let of = |record: &Record| {
        let json = check.ok(record.to_json(), "Record::to_json");
        serde_json::from_str::<Value>(&json).ok()
    };
    check.expect(
        of(found) == of(stored),
        "every field as it was stored",
        &"others",
    );
}

async fn put_replaces_what_lives(check: &Check<'_>) {
    let (one, other) = (check.open().await, check.open().await);
    let profile = check.profile("");
    one.put(&profile, &check.record(1)).await;
    let lease = one.leased(&profile, LONG_HOLD).await;
    other.put(&profile, &check.record(2)).await;
    one.expect_number(&profile, 2).await;
    one.release(lease).await;
}

async fn a_repeated_put_spares_what_was_refreshed_since(check: &Check<'_>) {
    let (one, other) = (check.open().await, check.open().await);
    let profile = check.profile("");
    let signed_in = check.record(1);
    one.put(&profile, &signed_in).await;
    let mut current = signed_in.clone();
    for number in 2..4 {
        let mut json = record_json(number);
        json["follows"] = fingerprint(current.refresh_token()).into();
        json["began_with"] = fingerprint(signed_in.refresh_token()).into();
        let successor = check.record_of(&json);
        expect_saved(check, &other.save(&profile, &current, &successor).await);
        // As if its answer had been lost.
        one.put(&profile, &signed_in).await;
        one.expect_number(&profile, number).await;
        current = successor;
    }
    one.put(&profile, &check.record(4)).await;
    other.expect_number(&profile, 4).await;
}

async fn unknown_fields_are_kept(check: &Check<'_>) {
    let (one, other) = (check.open().await, check.open().await);
    let profile = check.profile("");
    let of_the_future = |number| {
        let mut json = record_json(number);
        json["of_the_future"] = json!({"a": [1, null, {"b": "ü\u{0}\"\\"}], "c": 1.5});
        check.record_of(&json)
    };
    let (first, second) = (of_the_future(1), of_the_future(2));
    one.put(&profile, &first).await;
    expect_same(check, &other.loaded(&profile).await.record, &first);
    expect_saved(check, &one.save(&profile, &first, &second).await);
    expect_same(check, &other.loaded(&profile).await.record, &second);
}

fn expect_saved(check: &Check<'_>, saved: &Saved) {
    check.expect(matches!(saved, Saved::Saved), "that it is saved", saved);
}

/// Names that a store may confuse: by folding case, by normalising, by taking them for its own, or for folders.
async fn profiles_are_told_apart(check: &Check<'_>) {
    let longest = "l".repeat(127);
    let names = [
        "a",
        "A",
        "b",
        " b",
        "b ",
        ".",
        "..",
        "...",
        "a/b",
        "a",
        "a\\b",
        "../a",
        "a.",
        "a:b",
        "a*",
        "a?b",
        "a%2fb",
        "%",
        "con",
        "nul.txt",
        "ä",
        "a\u{308}",
        "Ä",
        "日本語",
        "🦀",
        "x",
        "x.json",
        "x.lock",
        "x.tmp",
        "x.probe",
        "x.aside",
        "x.aside-1-1",
        "x:lease",
        "{x}",
        "x\"",
        "x'; --",
        "-x",
        "~",
    ]
    .map(str::to_owned);
    let long = ["1", "2"].map(|end| format!("{longest}{end}"));
    let mut profiles = Vec::new();
    for name in names.into_iter().chain(long) {
        let profile = check.ok(Profile::new(name), "Profile::new");
        if !profiles.contains(&profile) {
            profiles.push(profile);
        }
    }
    let (one, other) = (check.open().await, check.open().await);
    let mut leases = Vec::new();
    for (number, profile) in profiles.iter().enumerate() {
        other.expect_nothing(profile).await;
        one.put(profile, &check.record(number)).await;
        let lease = one.leased(profile, LONG_HOLD).await;
        one.prove(&*lease, &check.record(number)).await;
        leases.push(lease);
    }
    for (number, profile) in profiles.iter().enumerate() {
        other.expect_number(profile, number).await;
        other.expect_held(profile, "each profile has its own").await;
    }
    for (profile, lease) in profiles.iter().zip(leases) {
        one.release(lease).await;
        let stored = one.loaded(profile).await;
        one.expect_removed(profile, &stored.record).await;
        other.expect_nothing(profile).await;
    }
}

async fn a_save_replaces_what_was_redeemed(check: &Check<'_>) {
    let (one, other) = (check.open().await, check.open().await);
    let profile = check.profile("");
    one.put(&profile, &check.record(0)).await;
    for number in 1..4 {
        let (redeemed, successor) = (check.record(number - 1), check.record(number));
        expect_saved(check, &one.save(&profile, &redeemed, &successor).await);
        expect_same(check, &other.loaded(&profile).await.record, &successor);
    }
}

async fn a_save_is_refused_when_the_record_moved_on(check: &Check<'_>) {
    let (one, other) = (check.open().await, check.open().await);
    let profile = check.profile("");
    one.put(&profile, &check.record(1)).await;
    let saved = other
        .save(&profile, &check.record(1), &check.record(2))
        .await;
    expect_saved(check, &saved);
    let saved = one.save(&profile, &check.record(1), &check.record(3)).await;
    expect_moved_on_to(check, &saved, 2);
    other.expect_number(&profile, 2).await;
    check
        .expect_aside(&profile, refresh_token(3).as_bytes(), "the refused record")
        .await;
}

fn expect_moved_on_to(check: &Check<'_>, saved: &Saved, number: usize) {
    let Saved::MovedOn(Some(stored)) = saved else {
        check.fail("that the record has moved on, with what is stored", saved);
    };
    check.expect(
        is_number(&stored.record, number),
        "to be handed what is stored",
        &"another record",
    );
}

async fn a_save_is_refused_when_nothing_is_stored(check: &Check<'_>) {
    let one = check.open().await;
    let never = check.profile("never");
    let removed = check.profile("removed");
    one.put(&removed, &check.record(1)).await;
    one.expect_removed(&removed, &check.record(1)).await;
    for profile in [never, removed] {
        let saved = one.save(&profile, &check.record(1), &check.record(2)).await;
        check.expect(
            matches!(saved, Saved::MovedOn(None)),
            "that the record has moved on, to nothing",
            &saved,
        );
        one.expect_nothing(&profile).await;
        check
            .expect_aside(&profile, refresh_token(2).as_bytes(), "the refused record")
            .await;
    }
}

async fn a_repeated_save_succeeds(check: &Check<'_>) {
    let (one, other) = (check.open().await, check.open().await);
    let profile = check.profile("");
    one.put(&profile, &check.record(1)).await;
    for handle in [&one, &one, &other] {
        let saved = handle
            .save(&profile, &check.record(1), &check.record(2))
            .await;
        expect_saved(check, &saved);
        other.expect_number(&profile, 2).await;
    }
}

/// RFC 6749 section 6: an answer without a new refresh token. And a sign-in that is marked as over keeps its own.
async fn a_successor_may_keep_the_refresh_token(check: &Check<'_>) {
    let (one, other) = (check.open().await, check.open().await);
    let profile = check.profile("");
    let first = check.record(1);
    one.put(&profile, &first).await;
    let mut json = record_json(1);
    json["access_token"] = json!("another");
    let renewed = check.record_of(&json);
    json["dead"] = json!({"code": "invalid_grant"});
    let dead = check.record_of(&json);
    for successor in [&renewed, &dead] {
        expect_saved(check, &one.save(&profile, &first, successor).await);
        expect_same(check, &other.loaded(&profile).await.record, successor);
    }
}

async fn a_save_needs_no_lease(check: &Check<'_>) {
    let (one, other) = (check.open().await, check.open().await);
    let profile = check.profile("");
    one.put(&profile, &check.record(1)).await;
    let of_another = other.leased(&profile, LONG_HOLD).await;
    let saved = one.save(&profile, &check.record(1), &check.record(2)).await;
    expect_saved(check, &saved);
    other.expect_number(&profile, 2).await;
    other.release(of_another).await;
}

async fn readers_see_whole_records(check: &Check<'_>) {
    const READERS: usize = 4;
    const WRITES: usize = 60;
    let writer = check.open().await;
    let profile = check.profile("");
    writer.put(&profile, &check.record(0)).await;
    let finished = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let (store, profile) = (check.open().await.store, profile.clone());
        let finished = Arc::clone(&finished);
        readers.spawn(async move {
            let mut last = 0;
            while !finished.load(Ordering::Relaxed) {
                match store.load(&profile).await {
                    Ok(Some(stored)) => last = in_step(&stored.record, last)?,
                    Ok(None) => return Err("nothing".to_owned()),
                    Err(error) => return Err(error.to_string()),
                }
                tokio::task::yield_now().await;
            }
            Ok(())
        });
    }
    for number in 1..WRITES {
        if number % 2 == 0 {
            writer.put(&profile, &check.record(number)).await;
        } else {
            let (redeemed, successor) = (check.record(number - 1), check.record(number));
            expect_saved(check, &writer.save(&profile, &redeemed, &successor).await);
        }
        tokio::task::yield_now().await;
    }
    finished.store(true, Ordering::Relaxed);
    for read in readers.join_all().await {
        if let Err(found) = read {
            check.fail(
                "that each reader sees one whole record after the other",
                &found,
            );
        }
    }
}

/// The number of a record, whose two tokens must carry the same one, and not a lower one than was seen before.
fn in_step(record: &Record, last: usize) -> Result<usize, String> {
    let number = |token: &str| token.split('-').nth(2).and_then(|n| n.parse().ok());
    let (access, refresh) = (
        number(record.access_token().expose()),
        number(record.refresh_token().expose()),
    );
    match access {
        Some(number) if access == refresh && number >= last => Ok(number),
        _ => Err(format!("tokens {access:?} and {refresh:?} after {last}")),
    }
}

async fn one_of_many_saves_wins(check: &Check<'_>) {
    const SAVERS: usize = 6;
    let profile = check.profile("");
    let mut stored = check.record(0);
    check.open().await.put(&profile, &stored).await;
    for round in 1..6 {
        let start = Arc::new(Barrier::new(SAVERS));
        let mut savers = JoinSet::new();
        for saver in 0..SAVERS {
            let store = check.open().await.store;
            let (profile, redeemed) = (profile.clone(), stored.refresh_token().clone());
            let number = round * 100 + saver;
            let successor = check.record(number);
            let start = Arc::clone(&start);
            savers.spawn(async move {
                start.wait().await;
                let saved = store.save(&profile, &redeemed, &successor).await;
                (number, saved)
            });
        }
        let mut won = Vec::new();
        let mut moved_on_to = Vec::new();
        for (number, saved) in savers.join_all().await {
            match check.ok(saved, "save") {
                Saved::Saved => won.push(number),
                Saved::MovedOn(Some(stored)) => moved_on_to.push(stored),
                Saved::MovedOn(None) => check.fail("to be handed what is stored", &"nothing"),
            }
        }
        let [winner] = won[..] else {
            check.fail(
                &format!("that one of {SAVERS} saves is saved"),
                &format!("{} that say so", won.len()),
            );
        };
        check.open().await.expect_number(&profile, winner).await;
        let moved_on = moved_on_to.iter().all(|to| is_number(&to.record, winner));
        check.expect(
            moved_on,
            "that the others are handed the winner's record",
            &"another",
        );
        stored = check.record(winner);
    }
    let aside = check.subject.set_aside(&profile).await;
    check.expect(
        !aside.is_empty(),
        "refused records among what is set aside",
        &"nothing",
    );
}

async fn remove_spares_what_has_changed(check: &Check<'_>) {
    let (one, other) = (check.open().await, check.open().await);
    let profile = check.profile("");
    // What is not there counts as removed.
    one.expect_removed(&profile, &check.record(1)).await;
    one.put(&profile, &check.record(1)).await;
    let read = other.loaded(&profile).await.record;
    let saved = one.save(&profile, &check.record(1), &check.record(2)).await;
    expect_saved(check, &saved);
    let removed = other.remove(&profile, &read).await;
    check.expect(
        removed == Removed::MovedOn,
        "that a changed record is not removed",
        &removed,
    );
    one.expect_number(&profile, 2).await;
    other.expect_removed(&profile, &check.record(2)).await;
    one.expect_nothing(&profile).await;
}

async fn put_sets_the_dead_aside(check: &Check<'_>) {
    let one = check.open().await;
    let profile = check.profile("");
    let mut dead = record_json(1);
    dead["dead"] = json!({"code": "invalid_grant", "log_id": "2026"});
    one.put(&profile, &check.record_of(&dead)).await;
    let stored = one.loaded(&profile).await;
    check.expect(
        stored.record.dead().is_some(),
        "that a dead record is stored as such",
        &"a live one",
    );
    one.put(&profile, &check.record(2)).await;
    one.expect_number(&profile, 2).await;
    check
        .expect_aside(&profile, refresh_token(1).as_bytes(), "the dead record")
        .await;
}

async fn damage_is_reported_and_kept(check: &Check<'_>) {
    let whole = record_json(1).to_string();
    let newer = whole.replacen("\"version\":1", "\"version\":2", 1);
    let damages: [&[u8]; 5] = [
        b"hush\xff\x00\xfe",
        b"",
        &whole.as_bytes()[..whole.len() / 2],
        newer.as_bytes(),
        br#"{"hush":1}"#,
    ];
    for (nth, bytes) in damages.into_iter().enumerate() {
        let profile = check.profile(&nth.to_string());
        let one = check.open().await;
        one.put(&profile, &check.record(1)).await;
        if !check.subject.damage(&profile, bytes).await {
            return;
        }
        // Again by others: it must not go away by being looked at, or by what a refresh does.
        for handle in [check.open().await, one, check.open().await] {
            expect_damaged(check, handle.store.load(&profile).await);
            let read = check.record(1);
            let removed = handle.store.remove(&profile, &read).await;
            check.expect(
                !matches!(removed, Ok(Removed::Removed)),
                "that damage is not removed",
                &removed,
            );
            let redeemed = read.refresh_token();
            let successor = check.record(2);
            let saved = handle.store.save(&profile, redeemed, &successor).await;
            check.expect(
                !matches!(saved, Ok(Saved::Saved)),
                "that damage is not replaced by a save",
                &saved,
            );
            if let Err(error) = &saved {
                expect_quotes_nothing(check, error);
            }
            let token = refresh_token(2);
            check
                .expect_aside(&profile, token.as_bytes(), "what met the damage")
                .await;
            expect_damaged(check, handle.store.load(&profile).await);
        }
        let another = check.open().await;
        another.put(&profile, &check.record(3)).await;
        another.expect_number(&profile, 3).await;
        if !bytes.is_empty() {
            check.expect_aside(&profile, bytes, "the damage").await;
        }
    }
}

fn expect_damaged(check: &Check<'_>, loaded: Result<Option<Stored>>) {
    match loaded {
        Err(error) if error.kind() == ErrorKind::StoreDamaged => {
            expect_quotes_nothing(check, &error);
        }
        other => check.fail("an error of the kind StoreDamaged", &other),
    }
}

fn expect_quotes_nothing(check: &Check<'_>, error: &Error) {
    let mut text = format!("{error} {error:?}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(" {cause} {cause:?}");
        source = cause.source();
    }
    check.expect(
        !text.contains(HUSH),
        "an error that quotes nothing of what is stored",
        &text,
    );
}

async fn the_age_is_by_one_clock(check: &Check<'_>) {
    const WAIT: Duration = Duration::from_millis(2500);
    let (one, other) = (check.open().await, check.open().await);
    let profile = check.profile("");
    let began = Instant::now();
    one.put(&profile, &check.record(1)).await;
    let age = one.loaded(&profile).await.age;
    expect_age(check, age, Duration::ZERO, began.elapsed());
    let put = Instant::now();
    sleep(WAIT).await;
    for handle in [&other, &one, &check.open().await] {
        let at_least = put.elapsed();
        let age = handle.loaded(&profile).await.age;
        expect_age(check, age, at_least, began.elapsed());
    }
    let began = Instant::now();
    let saved = other
        .save(&profile, &check.record(1), &check.record(2))
        .await;
    expect_saved(check, &saved);
    let age = one.loaded(&profile).await.age;
    expect_age(check, age, Duration::ZERO, began.elapsed());
}

fn expect_age(check: &Check<'_>, age: Duration, at_least: Duration, at_most: Duration) {
    check.expect(
        age.saturating_add(COARSE) >= at_least && age <= at_most + COARSE,
        &format!("an age from {at_least:?} to {at_most:?}, give or take {COARSE:?}"),
        &age,
    );
}

async fn a_lease_excludes_others(check: &Check<'_>) {
    let (one, other) = (check.open().await, check.open().await);
    let profile = check.profile("");
    one.put(&profile, &check.record(1)).await;
    for (first, second) in [(&one, &other), (&other, &one), (&one, &one)] {
        let lease = first.leased(&profile, LONG_HOLD).await;
        second.expect_held(&profile, "its owner has it").await;
        first.prove(&*lease, &check.record(1)).await;
        first.release(lease).await;
    }
    let lease = one.leased(&profile, LONG_HOLD).await;
    expect_saved(
        check,
        &one.save(&profile, &check.record(1), &check.record(2)).await,
    );
    other
        .expect_held(&profile, "its owner has saved, not released")
        .await;
    one.release(lease).await;
}

async fn a_lease_is_of_one_profile(check: &Check<'_>) {
    let (one, other) = (check.open().await, check.open().await);
    let (first, second) = (check.profile("1"), check.profile("2"));
    let of_first = one.leased(&first, LONG_HOLD).await;
    let of_second = other.leased(&second, LONG_HOLD).await;
    one.release(of_first).await;
    one.expect_held(&second, "the lease of another profile was released")
        .await;
    other.release(of_second).await;
}

async fn many_tries_make_one_owner(check: &Check<'_>) {
    const TRIERS: usize = 16;
    const TRIES: usize = 20;
    let profile = check.profile("");
    let owners = Arc::new(AtomicUsize::new(0));
    let mut triers = JoinSet::new();
    for _ in 0..TRIERS {
        let (store, profile) = (check.open().await.store, profile.clone());
        let owners = Arc::clone(&owners);
        triers.spawn(async move {
            for _ in 0..TRIES {
                let Leasing::Got(lease) = store.lease(&profile, LONG_HOLD).await? else {
                    sleep(Duration::from_millis(2)).await;
                    continue;
                };
                let others = owners.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(2)).await;
                owners.fetch_sub(1, Ordering::SeqCst);
                lease.release().await?;
                if others > 0 {
                    return Ok(others);
                }
            }
            Ok(0)
        });
    }
    for others in triers.join_all().await {
        let others = check.ok(others, "lease or release");
        check.expect(
            others == 0,
            "one owner at a time",
            &format!("{others} more"),
        );
    }
    let one = check.open().await;
    let lease = one.leased(&profile, LONG_HOLD).await;
    one.release(lease).await;
}

async fn a_proof_changes_nothing(check: &Check<'_>) {
    let (one, other) = (check.open().await, check.open().await);
    let profile = check.profile("");
    let lease = one.leased(&profile, LONG_HOLD).await;
    let stored = check.record(1);
    one.put(&profile, &stored).await;
    // Told from what is stored by another field than the one that is compared.
    let mut json = record_json(1);
    json["access_token"] = json!("another");
    let proven = check.record_of(&json);
    for _ in 0..3 {
        one.prove(&*lease, &proven).await;
    }
    expect_same(check, &other.loaded(&profile).await.record, &stored);
    let aside = check.subject.set_aside(&profile).await;
    check.expect(
        aside.is_empty(),
        "that nothing is set aside by a proof",
        &aside.len(),
    );
    other.expect_held(&profile, "a proof does not end it").await;
    one.release(lease).await;
}

async fn a_proof_is_of_what_is_stored(check: &Check<'_>) {
    let (one, other) = (check.open().await, check.open().await);
    let profile = check.profile("");
    let lease = one.leased(&profile, LONG_HOLD).await;
    let (first, second) = (check.record(1), check.record(2));
    expect_busy(check, &*lease, &first, "where nothing is stored").await;
    one.put(&profile, &first).await;
    one.prove(&*lease, &first).await;
    expect_saved(check, &other.save(&profile, &first, &second).await);
    expect_busy(check, &*lease, &first, "of a record that has moved on").await;
    one.prove(&*lease, &second).await;
    other.expect_removed(&profile, &second).await;
    expect_busy(check, &*lease, &second, "of a record that was removed").await;
    other
        .expect_held(&profile, "a proof that fails does not end it")
        .await;
    one.release(lease).await;
}

async fn expect_busy(check: &Check<'_>, lease: &dyn Lease, record: &Record, of: &str) {
    match lease.prove_save(record).await {
        Err(error) if error.kind() == ErrorKind::StoreBusy => {}
        other => check.fail(&format!("that a proof {of} says StoreBusy"), &other),
    }
}

async fn a_lease_ends_as_its_kind_says(check: &Check<'_>) {
    match check.open().await.store.lease_kind() {
        LeaseKind::ForItsHold => {
            a_lease_lasts_its_hold(check).await;
            a_lease_ends_with_its_hold(check).await;
        }
        LeaseKind::UntilOwnerDies => {
            a_long_lease_outlives_its_hold(check).await;
            a_lease_ends_with_its_owner(check).await;
        }
    }
}

async fn a_lease_lasts_its_hold(check: &Check<'_>) {
    let (owner, other) = (check.open().await, check.open().await);
    for longer in LONGER {
        let hold = SHORT_HOLD * longer;
        let profile = check.profile(&format!("for {hold:?}"));
        let began = Instant::now();
        let lease = owner.leased(&profile, hold).await;
        sleep(hold * 3 / 4).await;
        let another = other.lease(&profile, hold).await;
        let held = began.elapsed();
        if another.is_none() {
            // By now it may be lost.
            let _ = lease.release().await;
            return;
        }
        check.expect(
            held + SLACK >= hold,
            &format!("that a lease lasts {hold:?} as asked for"),
            &format!("another's after {held:?}"),
        );
    }
}

async fn a_lease_ends_with_its_hold(check: &Check<'_>) {
    let (former, heir, third) = (check.open().await, check.open().await, check.open().await);
    let profile = check.profile("held");
    former.put(&profile, &check.record(1)).await;
    let lost = former.leased(&profile, SHORT_HOLD).await;
    let lease = heir
        .leased_in_time(&profile, LONG_HOLD, "with its hold")
        .await;
    expect_busy(check, &*lost, &check.record(1), "of a lost lease").await;
    third
        .expect_held(
            &profile,
            "the proof of a lost lease is not one of its heir's",
        )
        .await;
    let saved = former
        .save(&profile, &check.record(1), &check.record(2))
        .await;
    expect_saved(check, &saved);
    third
        .expect_held(&profile, "a save by the former owner does not end it")
        .await;
    // Whether it says so or not.
    let _ = lost.release().await;
    third
        .expect_held(
            &profile,
            "the release of a lost lease is not one of its heir's",
        )
        .await;
    heir.prove(&*lease, &check.record(2)).await;
    heir.release(lease).await;
    let lease = third.leased(&profile, LONG_HOLD).await;
    third.release(lease).await;
}

async fn a_lease_tells_whether_it_was_taken_over(check: &Check<'_>) {
    if check.open().await.store.lease_kind() == LeaseKind::ForItsHold {
        a_lease_after_a_release_is_not_taken_over(check).await;
        a_lease_after_its_hold_is_taken_over(check).await;
    }
}

async fn a_lease_after_a_release_is_not_taken_over(check: &Check<'_>) {
    let (one, other) = (check.open().await, check.open().await);
    let profile = check.profile("released");
    let first = one.leased(&profile, LONG_HOLD).await;
    // From nobody: so the store can't tell.
    let is_said_of_all = first.was_taken_over();
    one.release(first).await;
    let second = other.leased(&profile, LONG_HOLD).await;
    check.expect(
        !second.was_taken_over() || is_said_of_all,
        "that a lease which was released is not taken over",
        &"one that is",
    );
    other.release(second).await;
}

async fn a_lease_after_its_hold_is_taken_over(check: &Check<'_>) {
    let former = check.open().await;
    let heirs = [check.open().await, check.open().await];
    'longer: for longer in LONGER {
        let hold = SHORT_HOLD * longer;
        let profile = check.profile(&format!("kept for {hold:?}"));
        let began = Instant::now();
        let kept = former.leased(&profile, hold).await;
        for heir in &heirs {
            let lease = heir.leased_in_time(&profile, LONG_HOLD, "with its hold");
            let lease = lease.await;
            let took = began.elapsed();
            if !lease.was_taken_over() {
                check.expect(
                    took + SLACK >= hold * 2,
                    "that a lease is taken over whose owner has not released it, though the next one has",
                    &format!("one that is not, {took:?} after it was given for {hold:?}"),
                );
                heir.release(lease).await;
                continue 'longer;
            }
            heir.release(lease).await;
        }
        // It is lost.
        let _ = kept.release().await;
        return;
    }
}

async fn a_long_lease_outlives_its_hold(check: &Check<'_>) {
    let (owner, other) = (check.open().await, check.open().await);
    let profile = check.profile("long");
    owner.put(&profile, &check.record(1)).await;
    let lease = owner.leased(&profile, SHORT_HOLD).await;
    sleep(SHORT_HOLD * 4).await;
    other
        .expect_held(&profile, "its owner lives, though its time is over")
        .await;
    owner.prove(&*lease, &check.record(1)).await;
    owner.release(lease).await;
}

async fn a_lease_ends_with_its_owner(check: &Check<'_>) {
    let other = check.open().await;
    let profile = check.profile("killed");
    other.put(&profile, &check.record(1)).await;
    let Some(command) = check.subject.lease_holder(&profile) else {
        check.fail(
            "a command that holds a lease, from Subject::lease_holder",
            &"none",
        );
    };
    let mut owner = match Owner::start(command).await {
        Ok(owner) => owner,
        Err(found) => check.fail("a child process that holds a lease", &found),
    };
    other
        .expect_held(&profile, "the child process has it")
        .await;
    sleep(SHORT_HOLD * 4).await;
    other
        .expect_held(&profile, "the child process lives, though its time is over")
        .await;
    owner.kill();
    let lease = other
        .leased_in_time(&profile, LONG_HOLD, "when its owner is killed")
        .await;
    other.expect_number(&profile, 1).await;
    other.prove(&*lease, &check.record(1)).await;
    other.release(lease).await;
}

/// A child process that holds a lease, and ends with this.
struct Owner(Child);

impl Owner {
    async fn start(mut command: Command) -> Result<Self, String> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut owner = Self(command.spawn().map_err(|error| error.to_string())?);
        let out = owner.0.stdout.take().ok_or("a child without output")?;
        let leased = tokio::task::spawn_blocking(move || {
            let lines = BufReader::new(out).lines();
            // The test harness may have written before, on the same line.
            lines
                .map_while(std::io::Result::ok)
                .any(|line| line.contains(LEASED))
        });
        match leased.await {
            Ok(true) => Ok(owner),
            _ => Err("one that ended without the lease".to_owned()),
        }
    }

    fn kill(&mut self) {
        // It fails only where the process has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn a_thousand_profiles(check: &Check<'_>) {
    const PROFILES: usize = 1000;
    const SOME: usize = 10;
    let all: Vec<_> = (0..PROFILES)
        .map(|number| check.profile(&number.to_string()))
        .collect();
    let stores = [check.open().await.store, check.open().await.store];
    in_crowds(check, &all, |number, profile| {
        let (store, record) = (Arc::clone(&stores[0]), check.record(number));
        async move { store.put(&profile, &record).await }
    })
    .await;
    let redeemed: Arc<[RefreshToken]> = (0..PROFILES)
        .map(|number| check.record(number).refresh_token().clone())
        .collect();
    // Some move on.
    in_crowds(check, &all, |number, profile| {
        let (store, redeemed) = (Arc::clone(&stores[1]), Arc::clone(&redeemed));
        let successor = check.record(PROFILES + number);
        async move {
            if number % SOME == 0 {
                let _ = store.save(&profile, &redeemed[number], &successor).await?;
            }
            Ok(())
        }
    })
    .await;
    let one = check.open().await;
    for (number, profile) in all.iter().enumerate() {
        let moved_on = if number % SOME == 0 { PROFILES } else { 0 };
        one.expect_number(profile, number + moved_on).await;
    }
    for (number, profile) in all.iter().enumerate().step_by(SOME) {
        one.expect_removed(profile, &check.record(PROFILES + number))
            .await;
    }
    for (number, profile) in all.iter().enumerate() {
        match number % SOME {
            0 => one.expect_nothing(profile).await,
            1 => one.expect_number(profile, number).await,
            _ => {}
        }
    }
}

/// Does the same for each profile, for some of them at a time.
async fn in_crowds<F>(check: &Check<'_>, profiles: &[Profile], act: impl Fn(usize, Profile) -> F)
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    const CROWD: usize = 16;
    let numbered: Vec<_> = profiles.iter().cloned().enumerate().collect();
    for some in numbered.chunks(CROWD) {
        let mut crowd = JoinSet::new();
        for (number, profile) in some {
            crowd.spawn(act(*number, profile.clone()));
        }
        for done in crowd.join_all().await {
            check.ok(done, "put or save");
        }
    }
}
