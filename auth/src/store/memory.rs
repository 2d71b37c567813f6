//! A store in the memory of the process.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    CompareAndSet, Contents, Key, LockLifetime, Owner, Profile, Store, StoreFuture, Stored,
    TryLock, Version,
};
use crate::runtime::lock;

/// Keeps contents in memory: for tests, and for services whose users sign in again after a restart. Clones share the
/// contents.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<HashMap<Key, Entry>>>);

#[derive(Default)]
struct Entry {
    contents: Option<(Contents, Instant)>,
    lock: Option<(Owner, Instant)>,
}

/// The maximum TTL, so that adding it to a clock can't overflow.
const LONGEST_TTL: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

impl Entry {
    fn version(&self) -> Option<Version> {
        let (contents, _) = self.contents.as_ref()?;
        Some(Version::of(contents))
    }

    fn holder(&self) -> Option<&Owner> {
        let (owner, until) = self.lock.as_ref()?;
        (Instant::now() < *until).then_some(owner)
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn load_now(&self, key: &Key) -> Option<Stored> {
        let entries = self.entries();
        let (contents, since) = entries.get(key)?.contents.as_ref()?;
        Some(Stored {
            contents: contents.clone(),
            version: Version::of(contents),
            age: Some(since.elapsed()),
        })
    }

    pub(crate) fn compare_and_set_now(
        &self,
        key: &Key,
        expected: Option<&Version>,
        new: Option<&Contents>,
    ) -> CompareAndSet {
        let mut entries = self.entries();
        let entry = entries.entry(key.clone()).or_default();
        if entry.version().as_ref() != expected {
            return CompareAndSet::Conflict;
        }
        entry.contents = new.map(|new| (new.clone(), Instant::now()));
        let version = entry.version();
        if entry.contents.is_none() && entry.lock.is_none() {
            entries.remove(key);
        }
        CompareAndSet::Done(version)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        lock(&self.0)
    }
}

impl Store for MemoryStore {
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async move { Ok(self.load_now(key)) })
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        new: Option<&'a Contents>,
    ) -> StoreFuture<'a, CompareAndSet> {
        Box::pin(async move { Ok(self.compare_and_set_now(key, expected, new)) })
    }

    fn try_lock<'a>(
        &'a self,
        key: &'a Key,
        owner: &'a Owner,
        ttl: Duration,
    ) -> StoreFuture<'a, TryLock> {
        Box::pin(async move {
            let mut entries = self.entries();
            let entry = entries.entry(key.clone()).or_default();
            if let Some(holder) = entry.holder().filter(|holder| *holder != owner) {
                return Ok(TryLock::Held {
                    by: Some(holder.name().to_owned()),
                });
            }
            entry.lock = Some((owner.clone(), Instant::now() + ttl.min(LONGEST_TTL)));
            Ok(TryLock::Acquired(LockLifetime::Ttl))
        })
    }

    fn unlock<'a>(&'a self, key: &'a Key, owner: &'a Owner) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let mut entries = self.entries();
            if let Some(entry) = entries.get_mut(key)
                && entry
                    .lock
                    .as_ref()
                    .is_some_and(|(holder, _)| holder == owner)
            {
                entry.lock = None;
                if entry.contents.is_none() {
                    entries.remove(key);
                }
            }
            Ok(())
        })
    }

    fn list(&self) -> StoreFuture<'_, Option<Vec<Profile>>> {
        Box::pin(async move {
            let entries = self.entries();
            let held = entries
                .iter()
                .filter(|(key, entry)| key.slot().is_none() && entry.contents.is_some());
            Ok(Some(held.map(|(key, _)| key.profile().clone()).collect()))
        })
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("keys", &self.entries().len())
            .finish()
    }
}
