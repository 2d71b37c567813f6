//! A store that ends with its process.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Lease, LeaseKind, Leasing, Profile, Record, Removed, Saved, Store, StoreFuture, Stored,
};
use crate::{Error, RefreshToken};

/// Keeps sign-ins in memory: for tests, and for services whose users sign in anew after a restart. Clones are the
/// same store.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<HashMap<Profile, Entry>>>);

#[derive(Default)]
struct Entry {
    current: Option<(Record, Instant)>,
    aside: Vec<Record>,
    /// Who has the lease, or had it last and has not released it.
    leased: Option<Leased>,
    /// Until when owners before that may still save who have not released it.
    formerly_until: Option<Instant>,
    leases: u64,
}

struct Leased {
    by: u64,
    until: Instant,
    may_save_until: Instant,
}

/// So many records are kept aside for each profile; older ones make room.
const MOST_ASIDE: usize = 8;
/// How long after its hold an owner that has not released its lease is remembered.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// More than this can't be added to every clock.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

impl Entry {
    fn stored(&self) -> Option<Stored> {
        let (record, since) = self.current.as_ref()?;
        Some(Stored::new(record.clone(), since.elapsed()))
    }

    fn set_aside(&mut self, record: Record) {
        if self.aside.len() == MOST_ASIDE {
            self.aside.remove(0);
        }
        self.aside.push(record);
    }

    fn is_leased_by(&self, owner: u64) -> bool {
        let leased = self.leased.as_ref();
        leased.is_some_and(|leased| leased.by == owner && Instant::now() < leased.until)
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was set aside for a profile, the oldest first: sign-ins that were over when a fresh one came, and
    /// answers that came too late.
    #[must_use]
    pub fn set_aside(&self, profile: &Profile) -> Vec<Record> {
        let entries = self.entries();
        let entry = entries.get(profile);
        entry.map(|entry| entry.aside.clone()).unwrap_or_default()
    }

    pub(crate) fn put_now(&self, profile: &Profile, record: Record) {
        let mut entries = self.entries();
        let entry = entries.entry(profile.clone()).or_default();
        if let Some((current, _)) = &entry.current
            && current.descends_from(record.refresh_token())
        {
            return;
        }
        let replaced = entry.current.replace((record, Instant::now()));
        if let Some((replaced, _)) = replaced.filter(|(replaced, _)| replaced.dead().is_some()) {
            entry.set_aside(replaced);
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Profile, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn load<'a>(&'a self, profile: &'a Profile) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async move { Ok(self.entries().get(profile).and_then(Entry::stored)) })
    }

    fn save<'a>(
        &'a self,
        profile: &'a Profile,
        redeemed: &'a RefreshToken,
        successor: &'a Record,
    ) -> StoreFuture<'a, Saved> {
        Box::pin(async move {
            let mut entries = self.entries();
            let entry = entries.entry(profile.clone()).or_default();
            match &entry.current {
                Some((current, _)) if current.holds(redeemed) => {
                    entry.current = Some((successor.clone(), Instant::now()));
                    Ok(Saved::Saved)
                }
                Some((current, _)) if current.holds(successor.refresh_token()) => Ok(Saved::Saved),
                _ => {
                    entry.set_aside(successor.clone());
                    Ok(Saved::MovedOn(entry.stored().map(Box::new)))
                }
            }
        })
    }

    fn put<'a>(&'a self, profile: &'a Profile, record: &'a Record) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            self.put_now(profile, record.clone());
            Ok(())
        })
    }

    fn remove<'a>(&'a self, profile: &'a Profile, read: &'a Record) -> StoreFuture<'a, Removed> {
        Box::pin(async move {
            let mut entries = self.entries();
            let Some(entry) = entries.get_mut(profile) else {
                return Ok(Removed::Removed);
            };
            if let Some((current, _)) = &entry.current
                && !current.holds(read.refresh_token())
            {
                return Ok(Removed::MovedOn);
            }
            entry.current = None;
            Ok(Removed::Removed)
        })
    }

    fn lease<'a>(&'a self, profile: &'a Profile, hold: Duration) -> StoreFuture<'a, Leasing> {
        Box::pin(async move {
            let mut entries = self.entries();
            let entry = entries.entry(profile.clone()).or_default();
            let now = Instant::now();
            let last = entry.leased.as_ref();
            if last.is_some_and(|last| now < last.until) {
                return Ok(Leasing::Held {
                    by: Some("this process".to_owned()),
                });
            }
            let last_until = last.map(|last| last.may_save_until);
            entry.formerly_until = entry.formerly_until.max(last_until);
            entry.leases += 1;
            let until = now + hold.min(FOR_EVER);
            entry.leased = Some(Leased {
                by: entry.leases,
                until,
                may_save_until: until + REMEMBERED,
            });
            Ok(Leasing::Got(Box::new(MemoryLease {
                store: self.clone(),
                profile: profile.clone(),
                owner: entry.leases,
                was_taken_over: entry.formerly_until.is_some_and(|until| now < until),
            })))
        })
    }

    fn lease_kind(&self) -> LeaseKind {
        LeaseKind::ForItsHold
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("profiles", &self.entries().len())
            .finish()
    }
}

struct MemoryLease {
    store: MemoryStore,
    profile: Profile,
    owner: u64,
    was_taken_over: bool,
}

impl Lease for MemoryLease {
    fn prove_save<'a>(&'a self, record: &'a Record) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let entries = self.store.entries();
            let held = entries.get(&self.profile);
            let Some(entry) = held.filter(|entry| entry.is_leased_by(self.owner)) else {
                return Err(Error::lease_lost(&self.profile));
            };
            match &entry.current {
                Some((current, _)) if current.holds(record.refresh_token()) => Ok(()),
                _ => Err(Error::moved_on(&self.profile)),
            }
        })
    }

    fn was_taken_over(&self) -> bool {
        self.was_taken_over
    }

    fn release(self: Box<Self>) -> StoreFuture<'static, ()> {
        drop(self);
        Box::pin(async { Ok(()) })
    }
}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        let mut entries = self.store.entries();
        if let Some(entry) = entries.get_mut(&self.profile)
            && let Some(leased) = &entry.leased
            && leased.by == self.owner
        {
            entry.leased = None;
        }
    }
}
