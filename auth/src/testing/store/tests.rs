//! The suite passes the stores that are right, and names what is wrong with each of those that are not.

use std::{
    collections::HashMap,
    env,
    fs::{File, TryLockError},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tempfile::TempDir;

use super::*;
use crate::store::{MemoryStore, StoreFuture};

struct InMemory(MemoryStore);

impl Subject for InMemory {
    fn open(&self) -> SubjectFuture<'_, Arc<dyn Store>> {
        Box::pin(async { Arc::new(self.0.clone()) as Arc<dyn Store> })
    }

    fn damage<'a>(&'a self, _: &'a Profile, _: &'a [u8]) -> SubjectFuture<'a, bool> {
        Box::pin(async { false })
    }

    fn set_aside<'a>(&'a self, profile: &'a Profile) -> SubjectFuture<'a, Vec<Vec<u8>>> {
        let json = |record: Record| record.to_json().unwrap().as_bytes().to_vec();
        let aside = self.0.set_aside(profile).into_iter().map(json).collect();
        Box::pin(async { aside })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_in_memory_passes() {
    check(&InMemory(MemoryStore::new())).await;
}

/// What is wrong with a [`Shelf`].
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    SavesWithoutCompare,
    ComparesThenSaves,
    SavesOnlyOnce,
    SavesWhatWasNeverStored,
    TakesTheSameTokenForTheSameRecord,
    LosesWhatComesTooLate,
    LosesWhatMeetsDamage,
    HandsBackTheSuccessor,
    SavesForTheOwnerOnly,
    SavesOverDamage,
    SaveEndsTheLease,
    PutKeepsTheOld,
    PutUndoesARefresh,
    PutDropsTheDead,
    PutDropsTheDamaged,
    RemovesWithoutCompare,
    RemovesNothing,
    RemovesDamage,
    TakesDamageForNothing,
    DropsDamageOnLoad,
    QuotesDamage,
    LosesUnknownFields,
    WritesInTwoSteps,
    FoldsCase,
    CutsNames,
    HasRoomForFew,
    StaysYoung,
    NeverRenewsItsAge,
    CountsAgeFromItsOpening,
    LeasesToEverybody,
    LeasesRarelyToTwo,
    LeasesAllAtOnce,
    LeaseEndsAtHalfTime,
    LeaseNeverEnds,
    LeaseOutlivesItsRelease,
    ReleaseEndsThatOfTheHeir,
    TakesNothingOver,
    TakesOverWhatWasReleased,
    ReleaseForgetsFormerOwners,
    /// That is none: it may say that it took over each lease.
    CanNotTellWhoReleased,
    ProofForgetsTheLease,
    ProofForgetsTheRecord,
    ProofIsKept,
}

/// How long a fault leaves a change half done: long enough for a machine that stalls to come across it.
const IN_BETWEEN: Duration = Duration::from_millis(100);

/// Where the fault lies in a store whose leases end with their owners.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ProcessFault {
    LeaseEndsWithItsHold,
    LeaseOutlivesItsOwner,
}

/// A store of bytes, which can have a fault.
#[derive(Clone)]
struct Shelf {
    entries: Arc<Mutex<HashMap<String, Entry>>>,
    /// Where the lock files are, if a lease ends with its owner.
    locks: Option<PathBuf>,
    fault: Option<Fault>,
    process_fault: Option<ProcessFault>,
    opened: Instant,
}

#[derive(Default)]
struct Entry {
    current: Option<(Vec<u8>, Instant)>,
    aside: Vec<Vec<u8>>,
    leased: Option<(u64, Instant)>,
    /// Who had the lease last, and until when that one may save if the lease is not released.
    unreleased: Option<(u64, Instant)>,
    formerly_until: Option<Instant>,
    leases: u64,
}

impl Shelf {
    fn with(fault: impl Into<Option<Fault>>) -> Self {
        Self {
            entries: Arc::default(),
            locks: None,
            fault: fault.into(),
            process_fault: None,
            opened: Instant::now(),
        }
    }

    fn with_locks_in(locks: PathBuf, process_fault: Option<ProcessFault>) -> Self {
        Self {
            locks: Some(locks),
            process_fault,
            ..Self::with(None)
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, profile: &Profile) -> String {
        match self.fault {
            Some(Fault::FoldsCase) => profile.name().to_lowercase(),
            Some(Fault::CutsNames) => profile.name().chars().take(100).collect(),
            _ => profile.name().to_owned(),
        }
    }

    fn with_entry<T>(&self, profile: &Profile, act: impl FnOnce(&mut Entry) -> T) -> T {
        act(self.entries().entry(self.name(profile)).or_default())
    }

    fn read(&self, entry: &mut Entry) -> Result<Option<Stored>> {
        let Some((bytes, since)) = &entry.current else {
            return Ok(None);
        };
        let age = match self.fault {
            Some(Fault::StaysYoung) => Duration::ZERO,
            Some(Fault::CountsAgeFromItsOpening) => self.opened.elapsed(),
            _ => since.elapsed(),
        };
        match Record::from_json(bytes) {
            Ok(record) => Ok(Some(Stored::new(record, age))),
            Err(_) if self.has(Fault::TakesDamageForNothing) => Ok(None),
            Err(error) if self.has(Fault::DropsDamageOnLoad) => {
                entry.current = None;
                Err(error)
            }
            Err(_) if self.has(Fault::QuotesDamage) => Err(Error::new(
                ErrorKind::StoreDamaged,
                String::from_utf8_lossy(bytes),
            )),
            Err(error) => Err(error),
        }
    }

    fn write(&self, entry: &mut Entry, record: &Record) {
        let mut json = record.to_json().unwrap().as_bytes().to_vec();
        if self.has(Fault::LosesUnknownFields) {
            let mut value: Value = serde_json::from_slice(&json).unwrap();
            value.as_object_mut().unwrap().remove("of_the_future");
            json = value.to_string().into_bytes();
        }
        let since = match &entry.current {
            Some((_, since)) if self.has(Fault::NeverRenewsItsAge) => *since,
            _ => Instant::now(),
        };
        entry.current = Some((json, since));
    }

    async fn write_in_two_steps(&self, profile: &Profile, record: &Record) {
        self.with_entry(profile, |entry| {
            self.write(entry, record);
            let (bytes, _) = entry.current.as_mut().unwrap();
            bytes.truncate(bytes.len() / 2);
        });
        sleep(IN_BETWEEN).await;
        self.with_entry(profile, |entry| self.write(entry, record));
    }

    fn save_to(
        &self,
        entry: &mut Entry,
        redeemed: &RefreshToken,
        successor: &Record,
    ) -> Result<Saved> {
        let is_damaged = |found: &Result<Option<Stored>>| found.is_err();
        let found = self.read(entry);
        if self.has(Fault::SavesOverDamage) && is_damaged(&found) {
            entry.aside.extend(entry.current.take().map(|old| old.0));
            self.write(entry, successor);
            return Ok(Saved::Saved);
        }
        if is_damaged(&found) && !self.has(Fault::LosesWhatMeetsDamage) {
            let json = successor.to_json()?;
            entry.aside.push(json.as_bytes().to_vec());
        }
        let stored = found?;
        let same =
            |token: &RefreshToken| stored.as_ref().is_some_and(|now| now.record.holds(token));
        let shortcut = self.has(Fault::TakesTheSameTokenForTheSameRecord);
        if shortcut && same(successor.refresh_token()) {
            return Ok(Saved::Saved);
        }
        let blindly = self.has(Fault::SavesWithoutCompare) && stored.is_some()
            || self.has(Fault::SavesWhatWasNeverStored) && stored.is_none();
        if same(redeemed) || blindly {
            self.write(entry, successor);
            if self.has(Fault::SaveEndsTheLease) {
                entry.leased = None;
            }
            return Ok(Saved::Saved);
        }
        if same(successor.refresh_token()) && !self.has(Fault::SavesOnlyOnce) {
            return Ok(Saved::Saved);
        }
        if !self.has(Fault::LosesWhatComesTooLate) {
            let json = successor.to_json()?;
            entry.aside.push(json.as_bytes().to_vec());
        }
        let handed = match stored {
            Some(_) if self.has(Fault::HandsBackTheSuccessor) => {
                Some(Stored::new(successor.clone(), Duration::ZERO))
            }
            stored => stored,
        };
        Ok(Saved::MovedOn(handed.map(Box::new)))
    }

    fn lock_file(&self, profile: &Profile) -> Option<PathBuf> {
        let name: String = profile
            .name()
            .bytes()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        // Longer than a file's name may be, for the longest profiles.
        let (start, end) = name.split_at(name.len() / 2);
        Some(self.locks.as_ref()?.join(format!("{start}~")).join(end))
    }

    fn compare(&self, profile: &Profile, record: &Record) -> Result<()> {
        let stored = self.with_entry(profile, |entry| self.read(entry))?;
        let is_stored = stored.is_some_and(|now| now.record.holds(record.refresh_token()));
        if is_stored || self.has(Fault::ProofForgetsTheRecord) {
            return Ok(());
        }
        Err(Error::moved_on(profile))
    }

    fn try_lock(&self, profile: &Profile, path: PathBuf) -> Leasing {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let held = || Leasing::Held { by: None };
        if self.process_fault == Some(ProcessFault::LeaseOutlivesItsOwner) {
            return match File::create_new(&path) {
                Ok(_) => Leasing::Got(Box::new(ByExistence(path))),
                Err(_) => held(),
            };
        }
        let file = File::create(path).unwrap();
        match file.try_lock() {
            Ok(()) => Leasing::Got(Box::new(ByLock {
                shelf: self.clone(),
                profile: profile.clone(),
                locked: file,
            })),
            Err(TryLockError::WouldBlock) => held(),
            Err(TryLockError::Error(error)) => panic!("{error}"),
        }
    }

    fn lease_for_its_hold(&self, profile: &Profile, hold: Duration) -> Leasing {
        let name = match self.fault {
            Some(Fault::LeasesAllAtOnce) => Profile::new("all").unwrap(),
            _ => profile.clone(),
        };
        let hold = match self.fault {
            Some(Fault::LeaseEndsAtHalfTime) => hold / 2,
            Some(Fault::LeaseNeverEnds) => LONG_HOLD,
            _ => hold,
        };
        self.with_entry(&name, |entry| {
            let now = Instant::now();
            let shared = self.has(Fault::LeasesToEverybody)
                || self.has(Fault::LeasesRarelyToTwo) && entry.leases % 8 == 7;
            if entry.leased.is_some_and(|(_, until)| now < until) && !shared {
                return Leasing::Held { by: None };
            }
            entry.leases += 1;
            entry.leased = Some((entry.leases, now + hold));
            let last = entry.unreleased.map(|(_, until)| until);
            entry.formerly_until = entry.formerly_until.max(last);
            entry.unreleased = Some((entry.leases, now + hold * 2));
            Leasing::Got(Box::new(ForItsHold {
                shelf: self.clone(),
                profile: name.clone(),
                owner: entry.leases,
                was_taken_over: match self.fault {
                    Some(Fault::TakesNothingOver) => false,
                    Some(Fault::CanNotTellWhoReleased) => true,
                    _ => entry.formerly_until.is_some_and(|until| now < until),
                },
            }))
        })
    }
}

impl Store for Shelf {
    fn load<'a>(&'a self, profile: &'a Profile) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async { self.with_entry(profile, |entry| self.read(entry)) })
    }

    fn save<'a>(
        &'a self,
        profile: &'a Profile,
        redeemed: &'a RefreshToken,
        successor: &'a Record,
    ) -> StoreFuture<'a, Saved> {
        Box::pin(async move {
            if self.has(Fault::SavesForTheOwnerOnly)
                && self.with_entry(profile, |entry| entry.leased.is_some())
            {
                return Err(Error::lease_lost(profile));
            }
            if self.has(Fault::ComparesThenSaves) {
                let stored = self.load(profile).await?;
                sleep(IN_BETWEEN).await;
                if stored.is_some_and(|stored| stored.record.holds(redeemed)) {
                    self.with_entry(profile, |entry| self.write(entry, successor));
                    return Ok(Saved::Saved);
                }
            }
            let saved = self.with_entry(profile, |entry| self.save_to(entry, redeemed, successor));
            if self.has(Fault::WritesInTwoSteps) && matches!(saved, Ok(Saved::Saved)) {
                self.write_in_two_steps(profile, successor).await;
            }
            saved
        })
    }

    fn put<'a>(&'a self, profile: &'a Profile, record: &'a Record) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            if self.has(Fault::HasRoomForFew) && self.entries().len() > 500 {
                return Err(Error::new(ErrorKind::Store, "the shelf is full"));
            }
            self.with_entry(profile, |entry| {
                let found = self.read(entry);
                if self.has(Fault::PutKeepsTheOld) && matches!(found, Ok(Some(_))) {
                    return;
                }
                let is_late =
                    matches!(&found, Ok(Some(now)) if now.record.descends_from(record.refresh_token()));
                if is_late && !self.has(Fault::PutUndoesARefresh) {
                    return;
                }
                let aside = match found {
                    Err(_) => !self.has(Fault::PutDropsTheDamaged),
                    Ok(Some(old)) if old.record.dead().is_some() => {
                        !self.has(Fault::PutDropsTheDead)
                    }
                    Ok(_) => false,
                };
                let old = entry.current.clone().filter(|_| aside);
                entry.aside.extend(old.map(|old| old.0));
                self.write(entry, record);
            });
            Ok(())
        })
    }

    fn remove<'a>(&'a self, profile: &'a Profile, read: &'a Record) -> StoreFuture<'a, Removed> {
        Box::pin(async move {
            self.with_entry(profile, |entry| {
                let found = self.read(entry);
                if self.has(Fault::RemovesDamage) && found.is_err() {
                    entry.current = None;
                    return Ok(Removed::Removed);
                }
                let moved_on = found?.is_some_and(|now| !now.record.holds(read.refresh_token()));
                if moved_on && !self.has(Fault::RemovesWithoutCompare) {
                    return Ok(Removed::MovedOn);
                }
                if !self.has(Fault::RemovesNothing) {
                    entry.current = None;
                }
                Ok(Removed::Removed)
            })
        })
    }

    fn lease<'a>(&'a self, profile: &'a Profile, hold: Duration) -> StoreFuture<'a, Leasing> {
        Box::pin(async move {
            if self.process_fault == Some(ProcessFault::LeaseEndsWithItsHold) {
                return Ok(self.lease_for_its_hold(profile, hold));
            }
            Ok(match self.lock_file(profile) {
                Some(path) => self.try_lock(profile, path),
                None => self.lease_for_its_hold(profile, hold),
            })
        })
    }

    fn lease_kind(&self) -> LeaseKind {
        match self.locks {
            Some(_) => LeaseKind::UntilOwnerDies,
            None => LeaseKind::ForItsHold,
        }
    }
}

struct ByLock {
    shelf: Shelf,
    profile: Profile,
    locked: File,
}

impl Drop for ByLock {
    fn drop(&mut self) {
        // Not only closed: a child process that another test starts at this moment holds it open, too.
        let _ = self.locked.unlock();
    }
}

impl Lease for ByLock {
    fn prove_save<'a>(&'a self, record: &'a Record) -> StoreFuture<'a, ()> {
        Box::pin(async { self.shelf.compare(&self.profile, record) })
    }

    fn release(self: Box<Self>) -> StoreFuture<'static, ()> {
        Box::pin(async { Ok(()) })
    }
}

struct ByExistence(PathBuf);

impl Lease for ByExistence {
    fn prove_save<'a>(&'a self, _: &'a Record) -> StoreFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn release(self: Box<Self>) -> StoreFuture<'static, ()> {
        std::fs::remove_file(self.0).unwrap();
        Box::pin(async { Ok(()) })
    }
}

struct ForItsHold {
    shelf: Shelf,
    profile: Profile,
    owner: u64,
    was_taken_over: bool,
}

impl Lease for ForItsHold {
    fn prove_save<'a>(&'a self, record: &'a Record) -> StoreFuture<'a, ()> {
        Box::pin(async {
            let shelf = &self.shelf;
            shelf.with_entry(&self.profile, |entry| {
                let owner = entry.leased.filter(|(_, until)| Instant::now() < *until);
                let is_ours = owner.is_some_and(|(owner, _)| owner == self.owner);
                if !is_ours && !shelf.has(Fault::ProofForgetsTheLease) {
                    return Err(Error::lease_lost(&self.profile));
                }
                if shelf.has(Fault::ProofIsKept) {
                    shelf.write(entry, record);
                }
                Ok(())
            })?;
            shelf.compare(&self.profile, record)
        })
    }

    fn was_taken_over(&self) -> bool {
        self.was_taken_over
    }

    fn release(self: Box<Self>) -> StoreFuture<'static, ()> {
        let shelf = &self.shelf;
        shelf.with_entry(&self.profile, |entry| {
            let was_last = entry.unreleased.is_some_and(|(last, _)| last == self.owner);
            if was_last && !shelf.has(Fault::TakesOverWhatWasReleased) {
                entry.unreleased = None;
            }
            if shelf.has(Fault::ReleaseForgetsFormerOwners) {
                entry.formerly_until = None;
            }
            let is_ours = entry.leased.is_some_and(|(owner, _)| owner == self.owner);
            let ends = is_ours || shelf.has(Fault::ReleaseEndsThatOfTheHeir);
            if ends && !shelf.has(Fault::LeaseOutlivesItsRelease) {
                entry.leased = None;
            }
        });
        Box::pin(async { Ok(()) })
    }
}

const LOCKS: &str = "COZE_AUTH_TEST_LOCKS";
const PROFILE: &str = "COZE_AUTH_TEST_PROFILE";
const LEAVES_IT: &str = "COZE_AUTH_TEST_LEAVES_IT";

impl Subject for Shelf {
    fn open(&self) -> SubjectFuture<'_, Arc<dyn Store>> {
        Box::pin(async {
            let opened = Instant::now();
            Arc::new(Self {
                opened,
                ..self.clone()
            }) as Arc<dyn Store>
        })
    }

    fn damage<'a>(&'a self, profile: &'a Profile, bytes: &'a [u8]) -> SubjectFuture<'a, bool> {
        Box::pin(async {
            let damaged = (bytes.to_vec(), Instant::now());
            self.with_entry(profile, |entry| entry.current = Some(damaged));
            true
        })
    }

    fn set_aside<'a>(&'a self, profile: &'a Profile) -> SubjectFuture<'a, Vec<Vec<u8>>> {
        Box::pin(async { self.with_entry(profile, |entry| entry.aside.clone()) })
    }

    fn lease_holder(&self, profile: &Profile) -> Option<Command> {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args([
                "testing::store::tests::holds_a_lease_for_another_test",
                "--exact",
            ])
            .env(LOCKS, self.locks.as_ref()?)
            .env(PROFILE, profile.name());
        if self.process_fault == Some(ProcessFault::LeaseOutlivesItsOwner) {
            command.env(LEAVES_IT, "");
        }
        Some(command)
    }
}

#[tokio::test]
async fn holds_a_lease_for_another_test() {
    let (Some(locks), Ok(profile)) = (env::var_os(LOCKS), env::var(PROFILE)) else {
        return;
    };
    let fault = env::var_os(LEAVES_IT).map(|_| ProcessFault::LeaseOutlivesItsOwner);
    let shelf = Shelf::with_locks_in(locks.into(), fault);
    hold_lease(&shelf, &Profile::new(profile).unwrap()).await;
}

/// The name of the check that a store does not pass.
async fn failed_check(shelf: Shelf) -> String {
    let checked = tokio::spawn(async move { check(&shelf).await }).await;
    let panic = match checked {
        Ok(()) => return "none".to_owned(),
        Err(error) => error.into_panic(),
    };
    let message = panic.downcast::<String>().unwrap();
    let after = message
        .split_once("fails the check ")
        .map_or(&**message, |(_, after)| after);
    after.split(':').next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shelf_without_a_fault_passes() {
    check(&Shelf::with(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shelf_with_lock_files_passes() {
    let locks = TempDir::new().unwrap();
    check(&Shelf::with_locks_in(locks.path().to_owned(), None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_is_found_by_its_check() {
    let faults = [
        (
            Fault::SavesWithoutCompare,
            "a_save_is_refused_when_the_record_moved_on",
        ),
        (Fault::ComparesThenSaves, "one_of_many_saves_wins"),
        (Fault::SavesOnlyOnce, "a_repeated_save_succeeds"),
        (
            Fault::SavesWhatWasNeverStored,
            "a_save_is_refused_when_nothing_is_stored",
        ),
        (
            Fault::TakesTheSameTokenForTheSameRecord,
            "a_successor_may_keep_the_refresh_token",
        ),
        (
            Fault::LosesWhatComesTooLate,
            "a_save_is_refused_when_the_record_moved_on",
        ),
        (
            Fault::HandsBackTheSuccessor,
            "a_save_is_refused_when_the_record_moved_on",
        ),
        (Fault::SavesForTheOwnerOnly, "a_save_needs_no_lease"),
        (Fault::LosesWhatMeetsDamage, "damage_is_reported_and_kept"),
        (Fault::SavesOverDamage, "damage_is_reported_and_kept"),
        (Fault::SaveEndsTheLease, "a_lease_excludes_others"),
        (Fault::PutKeepsTheOld, "put_replaces_what_lives"),
        (
            Fault::PutUndoesARefresh,
            "a_repeated_put_spares_what_was_refreshed_since",
        ),
        (Fault::PutDropsTheDead, "put_sets_the_dead_aside"),
        (Fault::PutDropsTheDamaged, "damage_is_reported_and_kept"),
        (
            Fault::RemovesWithoutCompare,
            "remove_spares_what_has_changed",
        ),
        (Fault::RemovesNothing, "profiles_are_told_apart"),
        (Fault::RemovesDamage, "damage_is_reported_and_kept"),
        (Fault::TakesDamageForNothing, "damage_is_reported_and_kept"),
        (Fault::DropsDamageOnLoad, "damage_is_reported_and_kept"),
        (Fault::QuotesDamage, "damage_is_reported_and_kept"),
        (Fault::LosesUnknownFields, "unknown_fields_are_kept"),
        (Fault::WritesInTwoSteps, "readers_see_whole_records"),
        (Fault::FoldsCase, "profiles_are_told_apart"),
        (Fault::CutsNames, "profiles_are_told_apart"),
        (Fault::HasRoomForFew, "a_thousand_profiles"),
        (Fault::StaysYoung, "the_age_is_by_one_clock"),
        (Fault::NeverRenewsItsAge, "the_age_is_by_one_clock"),
        (Fault::CountsAgeFromItsOpening, "the_age_is_by_one_clock"),
        (Fault::LeasesToEverybody, "profiles_are_told_apart"),
        (Fault::LeasesRarelyToTwo, "many_tries_make_one_owner"),
        (Fault::LeasesAllAtOnce, "profiles_are_told_apart"),
        (Fault::LeaseEndsAtHalfTime, "a_lease_ends_as_its_kind_says"),
        (Fault::LeaseNeverEnds, "a_lease_ends_as_its_kind_says"),
        (Fault::LeaseOutlivesItsRelease, "a_lease_excludes_others"),
        (
            Fault::ReleaseEndsThatOfTheHeir,
            "a_lease_ends_as_its_kind_says",
        ),
        (
            Fault::TakesNothingOver,
            "a_lease_tells_whether_it_was_taken_over",
        ),
        (
            Fault::TakesOverWhatWasReleased,
            "a_lease_tells_whether_it_was_taken_over",
        ),
        (
            Fault::ReleaseForgetsFormerOwners,
            "a_lease_tells_whether_it_was_taken_over",
        ),
        (Fault::CanNotTellWhoReleased, "none"),
        (Fault::ProofForgetsTheLease, "a_lease_ends_as_its_kind_says"),
        (Fault::ProofForgetsTheRecord, "a_proof_is_of_what_is_stored"),
        (Fault::ProofIsKept, "a_proof_changes_nothing"),
    ];
    let mut tried = JoinSet::new();
    for (fault, check) in faults {
        tried.spawn(async move { (fault, check, failed_check(Shelf::with(fault)).await) });
    }
    for (fault, expected, found) in tried.join_all().await {
        assert_eq!(found, expected, "for {fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_the_wrong_kind_is_found() {
    for fault in [
        ProcessFault::LeaseEndsWithItsHold,
        ProcessFault::LeaseOutlivesItsOwner,
    ] {
        let locks = TempDir::new().unwrap();
        let shelf = Shelf::with_locks_in(locks.path().to_owned(), Some(fault));
        let found = failed_check(shelf).await;
        assert_eq!(found, "a_lease_ends_as_its_kind_says", "for {fault:?}");
    }
}
