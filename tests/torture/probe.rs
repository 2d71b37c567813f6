//! A store with a watch beside it: how long a refresh is in danger.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use coze_auth::RefreshToken;
use coze_auth::store::{
    Lease, LeaseKind, Leasing, Profile, Record, Removed, Saved, Store, StoreFuture, Stored,
};

/// The steps of the refreshes that were saved. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Timings(Arc<Mutex<Watch>>);

#[derive(Default)]
struct Watch {
    /// When the store last proved that it can save: what follows is the request.
    proved: Option<Instant>,
    steps: Vec<Steps>,
}

#[derive(Clone, Copy)]
pub(crate) struct Steps {
    /// From the proof to the answer: the request, to the server and back.
    pub(crate) request: Duration,
    /// From the answer to the durable record.
    pub(crate) save: Duration,
}

impl Timings {
    pub(crate) fn take(&self) -> Vec<Steps> {
        std::mem::take(&mut self.watch().steps)
    }

    fn watch(&self) -> std::sync::MutexGuard<'_, Watch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_proved(&self) {
        self.watch().proved = Some(Instant::now());
    }

    fn has_saved(&self, began: Instant) {
        let mut watch = self.watch();
        if let Some(proved) = watch.proved.take() {
            watch.steps.push(Steps {
                request: began.saturating_duration_since(proved),
                save: began.elapsed(),
            });
        }
    }
}

pub(crate) struct Probe {
    store: Arc<dyn Store>,
    timings: Timings,
}

impl Probe {
    pub(crate) fn new(store: Arc<dyn Store>, timings: Timings) -> Self {
        Self { store, timings }
    }
}

impl Store for Probe {
    fn load<'a>(&'a self, profile: &'a Profile) -> StoreFuture<'a, Option<Stored>> {
        self.store.load(profile)
    }

    fn save<'a>(
        &'a self,
        profile: &'a Profile,
        redeemed: &'a RefreshToken,
        successor: &'a Record,
    ) -> StoreFuture<'a, Saved> {
        Box::pin(async move {
            let began = Instant::now();
            let saved = self.store.save(profile, redeemed, successor).await?;
            self.timings.has_saved(began);
            Ok(saved)
        })
    }

    fn put<'a>(&'a self, profile: &'a Profile, record: &'a Record) -> StoreFuture<'a, ()> {
        self.store.put(profile, record)
    }

    fn remove<'a>(&'a self, profile: &'a Profile, read: &'a Record) -> StoreFuture<'a, Removed> {
        self.store.remove(profile, read)
    }

    fn lease<'a>(&'a self, profile: &'a Profile, hold: Duration) -> StoreFuture<'a, Leasing> {
        Box::pin(async move {
            Ok(match self.store.lease(profile, hold).await? {
                Leasing::Got(lease) => Leasing::Got(Box::new(ProbedLease {
                    lease,
                    timings: self.timings.clone(),
                })),
                held => held,
            })
        })
    }

    fn lease_kind(&self) -> LeaseKind {
        self.store.lease_kind()
    }
}

struct ProbedLease {
    lease: Box<dyn Lease>,
    timings: Timings,
}

impl Lease for ProbedLease {
    fn prove_save<'a>(&'a self, record: &'a Record) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            self.lease.prove_save(record).await?;
            self.timings.has_proved();
            Ok(())
        })
    }

    fn was_taken_over(&self) -> bool {
        self.lease.was_taken_over()
    }

    fn release(self: Box<Self>) -> StoreFuture<'static, ()> {
        self.lease.release()
    }
}
