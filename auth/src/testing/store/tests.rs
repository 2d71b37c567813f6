//! Tests of the suite: a correct store passes, and each check fails for a faulty store.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
    thread,
};

use super::*;
use crate::store::{Blocking, BlockingStore, MemoryStore, StoreError, StoreErrorKind, StoreFuture};

/// The fault of a store in memory.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Nothing,
    ChangesBytes,
    CreatesThoughExpected,
    CreatesOverWhatIsThere,
    DeletesAnyVersion,
    CountsRowsFromOne,
    SwapsInTwoSteps,
    NeverGrowsOld,
    KnowsNoAge,
    FoldsNames,
    SharesSlots,
    ListsQuarantine,
    LocksForAll,
    DeniesItsOwner,
    UnlocksForAll,
    LocksAllKeys,
    ForgetsTheTtl,
    IsNotBoundToItsProcess,
    WritesUnderLock,
    WaitsInside,
    ReadsAReplica,
    BelongsToItsRuntime,
}

#[derive(Clone)]
struct Subjected {
    fault: Fault,
    store: MemoryStore,
    counters: Arc<Mutex<HashMap<Key, u64>>>,
    turn: Arc<tokio::sync::Mutex<()>>,
    copies: Arc<Mutex<HashMap<Key, Stored>>>,
    runtime: Option<tokio::runtime::Handle>,
}

impl Subjected {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            store: MemoryStore::new(),
            counters: Arc::default(),
            turn: Arc::default(),
            copies: Arc::default(),
            runtime: None,
        }
    }

    fn opened(&self) -> Arc<dyn Store> {
        let runtime = Some(tokio::runtime::Handle::current());
        Arc::new(Self {
            runtime,
            ..self.clone()
        })
    }

    fn key(&self, key: &Key) -> Key {
        let name = key.profile().name();
        match (self.fault, key.slot()) {
            (Fault::FoldsNames, None) => Key::record(&Profile::new(name.to_lowercase()).unwrap()),
            (Fault::SharesSlots, Some(slot)) => Key::quarantine_slots(key.profile())
                .nth(usize::from(slot / 2))
                .unwrap(),
            _ => key.clone(),
        }
    }

    /// A row counter, which restarts after a delete.
    fn version(&self, key: &Key, stored: &Stored) -> Version {
        if self.fault == Fault::CountsRowsFromOne {
            let counters = self.counters.lock().unwrap();
            let count = counters.get(key).copied().unwrap_or_default();
            return Version::new(count.to_be_bytes());
        }
        stored.version.clone()
    }
}

impl Store for Subjected {
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async move {
            let key = self.key(key);
            if self.fault == Fault::ReadsAReplica {
                return Ok(self.copies.lock().unwrap().get(&key).cloned());
            }
            let mut stored = self.store.load(&key).await?;
            if let Some(stored) = &mut stored {
                stored.version = self.version(&key, stored);
                match self.fault {
                    Fault::ChangesBytes => stored.contents = b"{}".to_vec().into(),
                    Fault::NeverGrowsOld => stored.age = Some(Duration::ZERO),
                    Fault::KnowsNoAge => stored.age = None,
                    _ => {}
                }
            }
            Ok(stored)
        })
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        new: Option<&'a Contents>,
    ) -> StoreFuture<'a, CompareAndSet> {
        Box::pin(async move {
            let key = self.key(key);
            if self.fault == Fault::WaitsInside {
                drop(self.turn.lock().await);
            }
            let now = self.store.load(&key).await?;
            if let (Fault::ReadsAReplica, Some(now)) = (self.fault, &now) {
                // The replica is one write behind.
                self.copies.lock().unwrap().insert(key.clone(), now.clone());
            }
            if self.fault == Fault::WritesUnderLock {
                let owner = owner(200);
                match self.store.try_lock(&key, &owner, SLACK).await? {
                    TryLock::Acquired(_) => self.store.unlock(&key, &owner).await?,
                    TryLock::Held { .. } => {
                        return Err(StoreError::new(StoreErrorKind::Busy, "locked"));
                    }
                }
            }
            if self.fault == Fault::SwapsInTwoSteps {
                let version = now.as_ref().map(|now| &now.version);
                if version != expected {
                    return Ok(CompareAndSet::Conflict);
                }
                sleep(Duration::from_millis(5)).await;
                loop {
                    let now = self.store.load(&key).await?.map(|now| now.version);
                    let set = self.store.compare_and_set(&key, now.as_ref(), new).await?;
                    if set != CompareAndSet::Conflict {
                        return Ok(set);
                    }
                }
            }
            let real = now.as_ref().map(|now| now.version.clone());
            let shown = now.as_ref().map(|now| self.version(&key, now));
            let fits = shown.as_ref() == expected
                || match self.fault {
                    Fault::CreatesThoughExpected => now.is_none() && new.is_some(),
                    Fault::CreatesOverWhatIsThere => expected.is_none() && new.is_some(),
                    Fault::DeletesAnyVersion => new.is_none(),
                    _ => false,
                };
            if !fits {
                return Ok(CompareAndSet::Conflict);
            }
            let set = self.store.compare_and_set(&key, real.as_ref(), new).await?;
            if self.fault != Fault::CountsRowsFromOne {
                return Ok(set);
            }
            let mut counters = self.counters.lock().unwrap();
            if new.is_none() {
                counters.remove(&key);
                return Ok(set);
            }
            let counter = counters.entry(key).or_default();
            *counter += 1;
            Ok(CompareAndSet::Done(Some(Version::new(
                counter.to_be_bytes(),
            ))))
        })
    }

    fn try_lock<'a>(
        &'a self,
        key: &'a Key,
        owner: &'a Owner,
        ttl: Duration,
    ) -> StoreFuture<'a, TryLock> {
        Box::pin(async move {
            let key = match self.fault {
                Fault::LocksAllKeys => Key::record(&Profile::new("all").unwrap()),
                _ => key.clone(),
            };
            let ttl = match self.fault {
                Fault::ForgetsTheTtl => LONGEST_CHECK,
                _ => ttl,
            };
            let mut waited = false;
            let lock = loop {
                let turn = self.turn.lock().await;
                let lock = self.store.try_lock(&key, owner, ttl).await?;
                let waits = self.fault == Fault::WaitsInside
                    && matches!(lock, TryLock::Held { .. })
                    && !waited;
                if !waits {
                    break lock;
                }
                sleep(SLACK / 2).await;
                waited = true;
                drop(turn);
            };
            let acquired = TryLock::Acquired(LockLifetime::Ttl);
            Ok(match self.fault {
                Fault::LocksForAll => acquired,
                Fault::IsNotBoundToItsProcess if lock == acquired => {
                    TryLock::Acquired(LockLifetime::ProcessBound)
                }
                Fault::DeniesItsOwner if lock == acquired => {
                    let mut counters = self.counters.lock().unwrap();
                    if counters.insert(key, 1).is_some() {
                        TryLock::Held { by: None }
                    } else {
                        acquired
                    }
                }
                _ => lock,
            })
        })
    }

    fn unlock<'a>(&'a self, key: &'a Key, by: &'a Owner) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            if self.fault == Fault::BelongsToItsRuntime {
                // The task of its connection has ended with its runtime.
                let runtime = self.runtime.clone().unwrap();
                let driven = runtime.spawn(async {});
                driven.await.map_err(|error| {
                    StoreError::new(StoreErrorKind::Transient, "the connection is closed")
                        .with_source(error)
                })?;
            }
            if self.fault == Fault::UnlocksForAll {
                for number in 0..=100 {
                    self.store.unlock(key, &owner(number)).await?;
                }
            }
            if self.fault == Fault::LocksAllKeys {
                let all = Key::record(&Profile::new("all").unwrap());
                return self.store.unlock(&all, by).await;
            }
            self.store.unlock(key, by).await
        })
    }

    fn list(&self) -> StoreFuture<'_, Option<Vec<Profile>>> {
        Box::pin(async move {
            let mut listed = self.store.list().await?;
            if let (Fault::ListsQuarantine, Some(listed)) = (self.fault, &mut listed) {
                let again = listed.clone();
                listed.extend(again);
            }
            Ok(listed)
        })
    }
}

fn checked(fault: Fault) -> Result<(), String> {
    let subject = Subjected::new(fault);
    let checked = catch_unwind(AssertUnwindSafe(|| {
        check(|| async { subject.opened() });
    }));
    checked.map_err(|panic| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(_) => String::new(),
    })
}

#[test]
fn a_correct_store_passes() {
    checked(Fault::Nothing).unwrap();
}

#[test]
fn each_check_fails_a_faulty_store() {
    let faults = [
        (Fault::ChangesBytes, "contents_are_created_replaced"),
        (Fault::ReadsAReplica, "contents_are_created_replaced"),
        (Fault::CreatesThoughExpected, "a_conflict_changes_nothing"),
        (Fault::CreatesOverWhatIsThere, "a_conflict_changes_nothing"),
        (Fault::DeletesAnyVersion, "a_conflict_changes_nothing"),
        (Fault::CountsRowsFromOne, "a_version_is_never_used_again"),
        (Fault::SwapsInTwoSteps, "one_of_many_writers_wins"),
        (Fault::NeverGrowsOld, "an_age_counts"),
        (Fault::KnowsNoAge, "an_age_counts"),
        (Fault::FoldsNames, "keys_are_independent"),
        (Fault::SharesSlots, "keys_are_independent"),
        (Fault::ListsQuarantine, "profiles_are_listed"),
        (Fault::LocksForAll, "a_lock_excludes"),
        (Fault::DeniesItsOwner, "a_lock_excludes"),
        (Fault::UnlocksForAll, "a_lock_excludes"),
        (Fault::LocksAllKeys, "a_lock_excludes"),
        (Fault::ForgetsTheTtl, "a_lock_has_the_reported"),
        (Fault::IsNotBoundToItsProcess, "a_lock_has_the_reported"),
        (Fault::WritesUnderLock, "a_write_needs_no_lock"),
        (Fault::WaitsInside, "a_held_lock_does_not_block"),
        (Fault::BelongsToItsRuntime, "the_runtime_that_opened_it"),
    ];
    // Concurrently: the checks mostly sleep.
    let checks = faults.map(|(fault, by)| (fault, by, thread::spawn(move || checked(fault))));
    for (fault, by, check) in checks {
        match check.join().unwrap() {
            Ok(()) => panic!("{fault:?} passes"),
            Err(said) => assert!(said.starts_with(by), "{fault:?}: {said}"),
        }
    }
}

/// A store with a blocking client.
struct Slow(MemoryStore);

fn wait<T>(future: StoreFuture<'_, T>) -> Result<T, StoreError> {
    thread::sleep(Duration::from_millis(1));
    futures_util::FutureExt::now_or_never(future).unwrap()
}

impl BlockingStore for Slow {
    fn load(&self, key: &Key) -> Result<Option<Stored>, StoreError> {
        wait(self.0.load(key))
    }

    fn compare_and_set(
        &self,
        key: &Key,
        expected: Option<&Version>,
        new: Option<&Contents>,
    ) -> Result<CompareAndSet, StoreError> {
        wait(self.0.compare_and_set(key, expected, new))
    }

    fn try_lock(&self, key: &Key, owner: &Owner, ttl: Duration) -> Result<TryLock, StoreError> {
        wait(self.0.try_lock(key, owner, ttl))
    }

    fn unlock(&self, key: &Key, owner: &Owner) -> Result<(), StoreError> {
        wait(self.0.unlock(key, owner))
    }

    fn list(&self) -> Result<Option<Vec<Profile>>, StoreError> {
        wait(self.0.list())
    }
}

#[test]
fn a_blocking_store_passes_with_the_adapter() {
    let store = Blocking::new(Slow(MemoryStore::new()));
    check(|| async { Arc::new(store.clone()) as Arc<dyn Store> });
}
