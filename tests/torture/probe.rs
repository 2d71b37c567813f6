//! A store that measures the steps of a refresh.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use coze_auth::store::{
    CompareAndSet, Contents, Key, Owner, Profile, Store, StoreFuture, Stored, TryLock, Version,
};

/// The steps of the saved refreshes. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Timings(Arc<Mutex<Watch>>);

#[derive(Default)]
struct Watch {
    /// When the intent of the current attempt was written, which the request follows.
    intended: Option<Instant>,
    steps: Vec<Steps>,
}

#[derive(Clone, Copy)]
pub(crate) struct Steps {
    /// From the intent to the response: the round trip of the request.
    pub(crate) request: Duration,
    /// From the response to the durable record.
    pub(crate) save: Duration,
}

impl Timings {
    pub(crate) fn take(&self) -> Vec<Steps> {
        std::mem::take(&mut self.watch().steps)
    }

    fn watch(&self) -> std::sync::MutexGuard<'_, Watch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under one lock, an undisturbed refresh writes twice: its intent, and the successor.
    fn has_written(&self, began: Instant) {
        let mut watch = self.watch();
        match watch.intended.take() {
            None => watch.intended = Some(Instant::now()),
            Some(intended) => watch.steps.push(Steps {
                request: began.saturating_duration_since(intended),
                save: began.elapsed(),
            }),
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
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        self.store.load(key)
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        new: Option<&'a Contents>,
    ) -> StoreFuture<'a, CompareAndSet> {
        Box::pin(async move {
            let began = Instant::now();
            let done = self.store.compare_and_set(key, expected, new).await?;
            if matches!(done, CompareAndSet::Done(_)) {
                self.timings.has_written(began);
            }
            Ok(done)
        })
    }

    fn try_lock<'a>(
        &'a self,
        key: &'a Key,
        owner: &'a Owner,
        ttl: Duration,
    ) -> StoreFuture<'a, TryLock> {
        self.timings.watch().intended = None;
        self.store.try_lock(key, owner, ttl)
    }

    fn unlock<'a>(&'a self, key: &'a Key, owner: &'a Owner) -> StoreFuture<'a, ()> {
        self.store.unlock(key, owner)
    }

    fn list(&self) -> StoreFuture<'_, Option<Vec<Profile>>> {
        self.store.list()
    }
}
