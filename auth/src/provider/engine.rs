//! The engine behind all providers and pools: it fetches, refreshes and invalidates tokens.
//!
//! A [`Key`] stores its own token: a single provider has one key, whose token all cores read; a pool has many, in a bounded
//! cache. A limited number of worker tasks run the requests; further requests wait in a queue of small entries.
//! [`runtime`](crate::runtime) decides where the tasks run. What turns a refused token (code 4100) into a refresh is
//! [`invalidate`].

use std::{
    collections::VecDeque,
    mem,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::time::Instant;

use super::{
    Stats,
    single_flight::{Begin, Outcome, Purpose, SingleFlight},
    source::Source,
};
use crate::{
    AccessToken, Error, ErrorKind, Result, Token,
    clock::{Clock, Tick},
    refresh_window::Lifespan,
    refresh_window::RefreshMode,
    retry::circuit_breaker::CircuitBreaker,
    retry::{CircuitOpen, FIRST_BACKOFF, LONGEST_DEADLINE},
    runtime::{self, RunsOn, lock},
    sign_in::StoredSource,
};

/// One key, and the storage of its token. Cheap to clone.
pub(super) trait Key: Clone + Send + Sync + 'static {
    fn engine(&self) -> &Engine<Self>;

    /// The state of its requests, created on first use.
    fn requests(&self) -> Arc<Requests>;

    /// Creates the source of its tokens.
    fn new_source(&self) -> Result<Arc<dyn Source>>;

    /// Reads its token, if that is valid.
    fn read<T>(&self, now: Tick, read: impl FnOnce(&AccessToken, &Lifespan) -> T) -> Option<T>;

    /// Replaces its token.
    fn install(&self, token: &Token, life: Lifespan, now: Tick) -> AccessToken;

    /// Removes its token, if it is this one.
    fn remove(&self, token: &AccessToken) -> bool;

    /// Called when a request has ended, so that idle state can be dropped.
    fn release(&self, requests: &Arc<Requests>);
}

/// The state of the requests for one key.
#[derive(Default)]
pub(super) struct Requests {
    pub(super) flight: SingleFlight,
    source: Mutex<Option<Arc<dyn Source>>>,
}

impl Requests {
    pub(super) fn of(source: Arc<dyn Source>) -> Self {
        Self {
            source: Mutex::new(Some(source)),
            ..Self::default()
        }
    }

    pub(super) fn source(&self) -> Option<Arc<dyn Source>> {
        lock(&self.source).clone()
    }

    fn source_of<K: Key>(&self, key: &K) -> Result<Arc<dyn Source>> {
        let mut source = lock(&self.source);
        if let Some(source) = &*source {
            return Ok(Arc::clone(source));
        }
        let new = key.new_source()?;
        let engine = key.engine();
        if let Some(stored) = new.stored() {
            key.read(engine.clock.tick(), |token, _| stored.serves(token));
            if engine.is_closed() {
                stored.close();
            }
        }
        *source = Some(Arc::clone(&new));
        Ok(new)
    }

    /// Starts no more requests, and waits for the one in flight and for its save.
    pub(super) async fn shut_down(&self) -> Result<()> {
        if let Some(source) = self.source()
            && let Some(stored) = source.stored()
        {
            stored.close();
        }
        self.settle().await
    }

    /// Waits for the request in flight and for its save.
    pub(super) async fn settle(&self) -> Result<()> {
        let source = self.source();
        if let Some(in_flight) = self.flight.in_flight() {
            // Its callers get the result.
            in_flight.outcome().await;
        }
        let source = self.source().or(source);
        let Some(stored) = source.as_ref().and_then(|source| source.stored()) else {
            return Ok(());
        };
        stored.sign_in().settle().await;
        stored.sign_in().why_unsaved().map_or(Ok(()), Err)
    }

    /// Ends the backoff, outdates the request in flight and drops the token, because the sign-in has changed.
    pub(super) fn forget(&self, drop_token: impl FnOnce()) {
        self.flight.outdate();
        drop_token();
        self.serves_none();
    }

    fn serves_none(&self) {
        if let Some(source) = self.source()
            && let Some(stored) = source.stored()
        {
            stored.serves_none();
        }
    }

    /// Whether this state can be dropped.
    pub(super) fn is_idle(&self) -> bool {
        let source = lock(&self.source);
        let stored = source.as_ref().and_then(|source| source.stored());
        self.flight.is_idle() && stored.is_none_or(StoredSource::is_idle)
    }

    /// Adds the figures of its source.
    pub(super) fn add_to(&self, stats: &mut Stats) {
        let source = self.source();
        if let Some(stored) = source.as_ref().and_then(|source| source.stored()) {
            let why = stored.sign_in().why_unsaved();
            stats.loaded_from_store += stored.loaded();
            stats.unsaved += u64::from(why.is_some());
            stats.unsaved_error = why.or(stats.unsaved_error.take());
        }
    }
}

/// The state that all keys share.
pub(super) struct Engine<K: Key> {
    pub(super) clock: Clock,
    pub(super) breaker: Arc<CircuitBreaker>,
    pub(super) counters: Counters,
    options: Options,
    is_closed: AtomicBool,
    workers: Mutex<Workers<K>>,
    last_error: Mutex<Option<Error>>,
    /// Whether the warning about an unreadable token lifetime was logged.
    has_warned_of_lifetime: AtomicBool,
}

pub(super) struct Options {
    pub(super) refresh: RefreshMode,
    /// For one request, including the time in the queue and all attempts.
    pub(super) deadline: Duration,
    /// Whether the tokens belong to stored sign-ins.
    pub(super) is_stored: bool,
}

impl Options {
    /// Refreshes of stored sign-ins outlive the caller's runtime, so that a rotated refresh token is not lost with it.
    fn runs_on(&self) -> RunsOn {
        match self.is_stored {
            true => RunsOn::Process,
            false => RunsOn::Callers,
        }
    }
}

#[derive(Default)]
pub(super) struct Counters {
    refreshes: AtomicU64,
    coalesced: AtomicU64,
    failures: AtomicU64,
    /// Tokens loaded from the store by sources that have been dropped.
    loaded: AtomicU64,
}

impl Counters {
    pub(super) fn add_loaded(&self, loaded: u64) {
        self.loaded.fetch_add(loaded, Ordering::Relaxed);
    }
}

struct Workers<K: Key> {
    running: usize,
    queue: VecDeque<Job<K>>,
}

/// The number of worker tasks, of a few kilobytes each. It is larger than the number of permits, so that requests that wait
/// for a store or for a retry don't block others.
const MOST_WORKERS: usize = 1024;

/// How many requests a caller waits for, if each is abandoned because its runtime ended.
const MOST_STARTS: usize = 3;

impl<K: Key> Engine<K> {
    pub(super) fn new(clock: Clock, breaker: Arc<CircuitBreaker>, options: Options) -> Self {
        Self {
            clock,
            breaker,
            counters: Counters::default(),
            options,
            is_closed: AtomicBool::new(false),
            workers: Mutex::new(Workers {
                running: 0,
                queue: VecDeque::new(),
            }),
            last_error: Mutex::default(),
            has_warned_of_lifetime: AtomicBool::new(false),
        }
    }

    pub(super) fn refresh_mode(&self) -> RefreshMode {
        self.options.refresh
    }

    /// Allows no more requests.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// The totals over all keys, without the figures of their sources.
    pub(super) fn stats(&self) -> Stats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        Stats {
            refreshes: count(&counters.refreshes),
            requests: self.breaker.requests(),
            coalesced: count(&counters.coalesced),
            failures: count(&counters.failures),
            loaded_from_store: count(&counters.loaded),
            last_error: lock(&self.last_error).clone(),
            ..Stats::default()
        }
    }

    /// The next job for a worker; `None` ends the worker.
    fn next_job(&self) -> Option<Job<K>> {
        let mut workers = lock(&self.workers);
        let next = workers.queue.pop_front();
        if next.is_none() {
            workers.running -= 1;
            // Frees the memory of the queue.
            workers.queue = VecDeque::new();
        }
        next
    }

    /// The reason why no request may start, if there is one.
    fn refusal(&self) -> Option<Error> {
        if self.is_closed() {
            let what = "the provider was shut down";
            return Some(Error::new(ErrorKind::ShutDown, what));
        }
        // While the circuit is open, the store may still be checked.
        let refuses = !self.options.is_stored;
        refuses.then(|| self.breaker.refusal()).flatten()
    }
}

/// Gets a token for a caller that has found none in the cache.
pub(super) async fn fetch<K: Key>(key: &K) -> Result<AccessToken> {
    let engine = key.engine();
    let in_line = engine.options.refresh == RefreshMode::InLine;
    let served = || {
        let now = engine.clock.tick();
        key.read(now, |token, life| {
            (!in_line || life.is_fresh(now)).then(|| token.clone())
        })
    };
    let known = || {
        let token = served().flatten().map(Ok);
        token.or_else(|| engine.refusal().map(Err))
    };
    let mut outcome = Outcome::Abandoned;
    for start in 0..MOST_STARTS {
        let requests = key.requests();
        let news = || Some(requests.source()?.stored()?.has_news());
        let in_flight = match requests.flight.begin(known, news) {
            Err(Ok(token)) => return Ok(token),
            Err(Err(refusal)) => {
                outcome = Outcome::Completed(Err(refusal));
                break;
            }
            Ok(Begin::BackOff(error)) => {
                outcome = Outcome::Completed(Err(error));
                break;
            }
            Ok(Begin::Joined(in_flight)) => {
                engine.counters.coalesced.fetch_add(1, Ordering::Relaxed);
                in_flight
            }
            Ok(Begin::Leader(in_flight, purpose)) => {
                // After an abandoned request, the caller's runtime may be the one that ended.
                let on = match start {
                    0 => engine.options.runs_on(),
                    _ => RunsOn::Process,
                };
                start_request(key, Arc::clone(&requests), purpose, on)?;
                in_flight
            }
        };
        // While waiting, the caller holds only the request in flight, so that the key's state can be dropped after it.
        drop(requests);
        outcome = in_flight.outcome().await;
        if matches!(outcome, Outcome::Completed(_)) {
            break;
        }
    }
    match outcome {
        Outcome::Completed(Ok(token)) => Ok(token),
        // After a failed refresh, the old token is served while it is valid.
        Outcome::Completed(Err(error)) => valid_token(key).ok_or(error),
        Outcome::Abandoned => valid_token(key).ok_or_else(interrupted),
    }
}

fn valid_token<K: Key>(key: &K) -> Option<AccessToken> {
    key.read(key.engine().clock.tick(), |token, _| token.clone())
}

fn interrupted() -> Error {
    Error::new(
        ErrorKind::Interrupted,
        "the token request was interrupted: it panicked, or its runtime was shut down",
    )
}

/// Refreshes a token that is due, unless another caller already does.
#[cold]
pub(super) fn refresh_when_due<K: Key>(key: &K, now: Tick) {
    if key.read(now, |_, life| life.claim_refresh(now)) != Some(true) {
        return;
    }
    let engine = key.engine();
    let requests = key.requests();
    let backoff = match requests.flight.begin(|| engine.refusal(), || None) {
        // The request in flight installs a new token or releases the claim.
        Ok(Begin::Joined(_)) => return,
        Ok(Begin::Leader(_, purpose)) => {
            match start_request(key, requests, purpose, engine.options.runs_on()) {
                Ok(()) => return,
                // There is no runtime here; the next caller may have one.
                Err(_) => Duration::ZERO,
            }
        }
        Ok(Begin::BackOff(error)) | Err(error) => {
            error.retry_after().unwrap_or(engine.options.deadline)
        }
    };
    key.read(now, |_, life| life.refresh_again(now + backoff));
}

/// Removes a token that the API refused, so that the next caller gets a new one.
pub(super) fn invalidate<K: Key>(key: &K, token: &AccessToken) {
    let now = key.engine().clock.tick();
    let current = key.read(now, |current, life| {
        current.is(token).then(|| life.remaining(now))
    });
    let left = match current {
        Some(Some(left)) => left,
        // The cache has dropped it, but it may still be in the store.
        None if key.engine().options.is_stored => ACCESS_TOKEN_LIFE,
        // It is no longer current.
        _ => return,
    };
    let requests = key.requests();
    if current.is_none() && requests.source().is_some() {
        return; // A request is in flight, or another token was refused.
    }
    let Ok(source) = requests.source_of(key) else {
        return;
    };
    if let Some(stored) = source.stored() {
        stored.note_refused_token(token, Instant::now() + left);
        key.remove(token);
    } else {
        requests.flight.invalidate(|| key.remove(token));
    }
    tracing::debug!("the API refused the access token; the next caller gets a new one");
}

/// The lifetime that Coze grants by default.
const ACCESS_TOKEN_LIFE: Duration = Duration::from_secs(900);

fn start_request<K: Key>(
    key: &K,
    requests: Arc<Requests>,
    purpose: Purpose,
    on: RunsOn,
) -> Result<()> {
    let engine = key.engine();
    let timeout = engine.options.deadline.min(LONGEST_DEADLINE);
    let job = Job {
        key: key.clone(),
        requests,
        purpose,
        deadline: Instant::now() + timeout,
        is_complete: false,
    };
    {
        let mut workers = lock(&engine.workers);
        if workers.running >= MOST_WORKERS {
            workers.queue.push_back(job);
            return Ok(());
        }
        workers.running += 1;
    }
    let worker = Worker {
        job: Some(job),
        is_replacement: false,
    };
    runtime::spawn(&engine.clock, on, worker.run())
}

/// A task that runs jobs until the queue is empty.
struct Worker<K: Key> {
    /// `None` if the queue was empty.
    job: Option<Job<K>>,
    is_replacement: bool,
}

impl<K: Key> Worker<K> {
    async fn run(mut self) {
        while let Some(job) = &mut self.job {
            job.run().await;
            let key = job.key.clone();
            self.job = key.engine().next_job();
            tokio::task::yield_now().await;
        }
    }
}

impl<K: Key> Drop for Worker<K> {
    /// If the worker's runtime has ended, a replacement starts on the process's runtime. If that is not possible either,
    /// the queued jobs are abandoned, and their callers retry.
    fn drop(&mut self) {
        let Some(job) = self.job.take() else {
            return;
        };
        let key = job.key.clone();
        drop(job);
        let engine = key.engine();
        let may_be_replaced = !self.is_replacement && engine.clock.is_systems();
        let (next, abandoned) = {
            let mut workers = lock(&engine.workers);
            if may_be_replaced && let Some(job) = workers.queue.pop_front() {
                (Some(job), VecDeque::new())
            } else {
                workers.running -= 1;
                (None, mem::take(&mut workers.queue))
            }
        };
        drop(abandoned);
        if next.is_some() {
            let replacement = Self {
                job: next,
                is_replacement: true,
            };
            let _ = runtime::spawn(&engine.clock, RunsOn::Process, replacement.run());
        }
    }
}

/// A request for the token of a key. If it is dropped before it completes, it is abandoned.
struct Job<K: Key> {
    key: K,
    requests: Arc<Requests>,
    purpose: Purpose,
    deadline: Instant,
    is_complete: bool,
}

impl<K: Key> Job<K> {
    async fn run(&mut self) {
        let minted = AssertUnwindSafe(self.mint()).catch_unwind().await;
        match minted.unwrap_or_else(|_panic| Some(Err(interrupted()))) {
            Some(minted) => self.complete(minted),
            None => self.requests.flight.back_off(),
        }
        self.is_complete = true;
        self.key.release(&self.requests);
    }

    /// Gets a token. `None` if there is a backoff and the store has no fresh sign-in.
    async fn mint(&self) -> Option<Result<Token>> {
        let engine = self.key.engine();
        if Instant::now() >= self.deadline {
            let late =
                "the request was queued until its deadline, because too many others were in flight";
            return Some(Err(Error::new(ErrorKind::Timeout, late)));
        }
        let source = match self.requests.source_of(&self.key) {
            Ok(source) => source,
            Err(error) => return Some(Err(error)),
        };
        if self.purpose == Purpose::CheckStore {
            if !source.stored()?.has_fresh_sign_in().await {
                return None;
            }
            self.requests.flight.end_backoff();
        }
        engine.counters.refreshes.fetch_add(1, Ordering::Relaxed);
        Some(source.mint(engine.options.refresh, self.deadline).await)
    }

    fn complete(&self, minted: Result<Token>) {
        let (key, flight) = (&self.key, &self.requests.flight);
        let engine = key.engine();
        let now = engine.clock.tick();
        let installed = minted.and_then(|token| {
            if token.is_lifetime_assumed()
                && !engine.has_warned_of_lifetime.swap(true, Ordering::Relaxed)
            {
                tracing::warn!(
                    lifetime = ?token.lifetime(), log_id = token.log_id(),
                    "the token response has no valid expires_in; assuming Coze's default lifetime"
                );
            }
            let life = Lifespan::of(&token, now, crate::random::jitter())?;
            Ok(key.install(&token, life, now))
        });
        let error = match installed {
            Ok(token) => {
                *lock(&engine.last_error) = None;
                flight.complete(token, |token| {
                    key.remove(token);
                    self.requests.serves_none();
                });
                return;
            }
            Err(error) => error,
        };
        let flow = self.requests.source().and_then(|source| source.flow());
        let error = match flow {
            Some(flow) => error.in_flow(flow),
            None => error,
        };
        tracing::warn!(
            kind = ?error.kind(), code = ?error.code(), log_id = error.log_id(),
            "the token request failed"
        );
        if !CircuitOpen::caused(&error) {
            engine.counters.failures.fetch_add(1, Ordering::Relaxed);
            *lock(&engine.last_error) = Some(error.clone());
        }
        // The old token, if there is one, is still served. Its next refresh is after the backoff.
        let left = key.read(now, |_, life| life.remaining(now));
        let backoff = flight.fail(error, left);
        let next = now + backoff.unwrap_or(FIRST_BACKOFF);
        key.read(now, |_, life| life.refresh_again(next));
    }
}

impl<K: Key> Drop for Job<K> {
    fn drop(&mut self) {
        if self.is_complete {
            return;
        }
        let engine = self.key.engine();
        engine.counters.failures.fetch_add(1, Ordering::Relaxed);
        let now = engine.clock.tick();
        self.key.read(now, |_, life| life.refresh_again(now));
        self.requests.flight.abandon();
        self.key.release(&self.requests);
    }
}
