//! A model check of the protocol: owners and users share one store in memory, and all interleavings of their writes and
//! requests are explored, within a budget of faults.
//!
//! Every write and every request of an actor stops at a gate. A schedule opens one gate at a time, drops the write,
//! drops its response, delays it, takes the lock away, or kills the actor. All schedules with at most a few context
//! switches are explored. At the end, every token that Coze's model considers live, and that an owner has received,
//! must be in the store or in quarantine.
//!
//! Result: no loss in the 6,519 schedules. The check fails if a superseded successor is not kept, if a conflict during
//! a save is treated as another sign-in, if a put replaces a record without quarantine, if a put that is retried after
//! a lost response overwrites a later sign-in, and if a tombstone does not name its sign-ins. It does not cover rules
//! that only prevent needless sign-ins (the grace period, unexpired intents, a mark only after another load); tests in
//! `tests/flows/stored.rs` cover those.

use std::{
    cell::{OnceCell, RefCell},
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tokio::{sync::oneshot, task::JoinHandle, time::Instant};

use super::{SignIn, StoredSource};
use crate::{
    Endpoint, OAuthClient, RefreshToken, Token, UserFlow, WebFlow,
    flow::app::sealed::Sealed,
    refresh_window::RefreshMode,
    retry::circuit_breaker::CircuitBreaker,
    store::{
        CompareAndSet, Contents, Key, LockLifetime, MemoryStore, Owner, Profile, Store, StoreError,
        StoreErrorKind, StoreFuture, Stored, TryLock, Version,
    },
    testing::{SendError, SendErrorKind, TestClock, in_process},
};

/// The actors and faults of an exploration.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    owners: usize,
    user: Option<User>,
    /// The stored refresh token is revoked from the start.
    is_revoked: bool,
    lifetime: LockLifetime,
    faults: usize,
    evictions: usize,
    kills: usize,
    /// How often time may advance while every actor is blocked.
    waits: usize,
    switches: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum User {
    Puts,
    SignsOut,
    PutsTwice,
    SignsOutAndPuts,
    /// Two users concurrently.
    PutsBesideAnother,
    PutsBesideASignOut,
}

const TWO: Scenario = Scenario {
    name: "two owners",
    owners: 2,
    user: None,
    is_revoked: false,
    lifetime: LockLifetime::Ttl,
    faults: 1,
    evictions: 1,
    kills: 0,
    waits: 0,
    switches: 3,
};

/// Locks have a TTL that covers a refresh, a request and a save.
const LONGER_THAN_A_LOCK: Duration = Duration::from_secs(200);

enum Act {
    Put(Box<Token>),
    SignOut,
}

/// The fate of a gated step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Goes(usize),
    IsLostBefore(usize),
    IsLostAfter(usize),
    /// Its caller gets a timeout; the step may still be executed later.
    IsSlow(usize),
    /// The server sends `Retry-After`.
    IsHeldBack(usize),
    Evict,
    Kill(usize),
    /// Time advances by more than the TTL of a lock.
    Wait,
}

enum Gate {
    Start(oneshot::Sender<()>),
    Write {
        key: Key,
        expected: Option<Version>,
        new: Option<Contents>,
        reply: oneshot::Sender<Result<CompareAndSet, StoreError>>,
    },
    /// Coze receives a refresh token.
    Commit(String, oneshot::Sender<Answer>),
    /// The response arrives.
    Receive(Answer, oneshot::Sender<bool>),
}

#[derive(Debug, Clone)]
enum Answer {
    Granted(String),
    InvalidGrant,
    Unavailable,
    Lost,
}

struct Pending {
    actor: usize,
    gate: Gate,
}

#[derive(Default)]
struct Coze {
    live: BTreeSet<String>,
    received: Vec<(usize, String)>,
    refused: Vec<(usize, String)>,
    sent: Vec<(usize, String)>,
    /// A refresh token that was sent after its owner had received `invalid_grant` for it.
    sent_again: bool,
    /// Fresh sign-ins, in the order in which they were stored.
    put: Vec<String>,
    /// Successors that nobody has received.
    lost: bool,
}

struct World {
    store: MemoryStore,
    owners: usize,
    lifetime: LockLifetime,
    coze: Mutex<Coze>,
    pending: Mutex<Vec<Pending>>,
    holder: Mutex<Option<(usize, Owner)>>,
    killed: Mutex<HashSet<usize>>,
    trace: Mutex<Vec<String>>,
}

thread_local! {
    /// The world of the run on this thread. The client is shared, because creating one per run is too slow.
    static WORLD: RefCell<Option<Arc<World>>> = const { RefCell::new(None) };
    static CLIENT: OnceCell<OAuthClient> = const { OnceCell::new() };
}

fn client() -> OAuthClient {
    let made = || {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        OAuthClient::builder()
            .endpoint(Endpoint::custom("http://localhost").unwrap())
            .transport(in_process(tower::service_fn(serve)))
            .test_clock(TestClock::starting_at(start))
            .build()
            .unwrap()
    };
    CLIENT.with(|client| client.get_or_init(made).clone())
}

async fn serve(
    request: http::Request<reqwest::Body>,
) -> Result<http::Response<Full<Bytes>>, SendError> {
    let secret = request.headers()["authorization"]
        .to_str()
        .unwrap()
        .to_owned();
    let actor = secret.strip_prefix("Bearer ").unwrap().parse().ok();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let sent = body["refresh_token"].as_str().unwrap().to_owned();
    let world = WORLD.with(|world| world.borrow().clone()).unwrap();
    let (status, json) = match world.answer(sent, actor).await {
        Answer::Granted(token) => {
            let life = r#""expires_in":900,"token_type":"Bearer""#;
            let tokens = format!(r#""access_token":"at-{token}","refresh_token":"{token}""#);
            (200, format!("{{{tokens},{life}}}"))
        }
        Answer::InvalidGrant => (400, r#"{"error_code":"invalid_grant"}"#.to_owned()),
        Answer::Unavailable => (503, r#"{"error_code":"internal_error"}"#.to_owned()),
        Answer::Lost => return Err(SendError::new(SendErrorKind::Interrupted, "cut")),
    };
    let mut answer = http::Response::builder()
        .status(status)
        .header("content-type", "application/json");
    if status == 503 {
        answer = answer.header("retry-after", "3");
    }
    Ok(answer.body(Full::from(json)).unwrap())
}

impl World {
    async fn gate<T>(&self, actor: usize, gate: impl FnOnce(oneshot::Sender<T>) -> Gate) -> T {
        let (reply, answer) = oneshot::channel();
        self.pending.lock().unwrap().push(Pending {
            actor,
            gate: gate(reply),
        });
        match answer.await {
            Ok(answer) => answer,
            Err(_) => std::future::pending().await,
        }
    }

    fn redeem(&self, actor: usize, refresh_token: &str) -> Answer {
        let mut coze = self.coze.lock().unwrap();
        let sent = (actor, refresh_token.to_owned());
        coze.sent_again |= coze.refused.contains(&sent);
        coze.sent.push(sent);
        let successor = match refresh_token.split_once('.') {
            None => format!("{refresh_token}.0"),
            Some((family, generation)) => {
                if !coze.live.remove(refresh_token) {
                    return Answer::InvalidGrant;
                }
                format!("{family}.{}", generation.parse::<u32>().unwrap() + 1)
            }
        };
        coze.live.insert(successor.clone());
        Answer::Granted(successor)
    }

    /// The flow of an actor, or one that is not gated.
    fn flow(actor: Option<usize>) -> WebFlow {
        let secret = actor.map_or("nobody".to_owned(), |actor| actor.to_string());
        WebFlow::new(client(), "app".into(), secret.into()).unwrap()
    }

    async fn answer(self: Arc<Self>, sent: String, actor: Option<usize>) -> Answer {
        let Some(actor) = actor else {
            return self.redeem(usize::MAX, &sent);
        };
        let commit = |reply| Gate::Commit(sent, reply);
        let answer = self.gate(actor, commit).await;
        let told = answer.clone();
        let comes = self.gate(actor, |reply| Gate::Receive(told, reply)).await;
        if comes { answer } else { Answer::Lost }
    }

    fn handle(self: &Arc<Self>, actor: usize) -> SignIn {
        let store = Gated {
            world: Arc::clone(self),
            actor,
        };
        SignIn::new(store, "user").unwrap()
    }

    fn key() -> Key {
        Key::record(&Profile::new("user").unwrap())
    }
}

/// One actor's handle to the store.
struct Gated {
    world: Arc<World>,
    actor: usize,
}

impl Store for Gated {
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        self.world.store.load(key)
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        new: Option<&'a Contents>,
    ) -> StoreFuture<'a, CompareAndSet> {
        Box::pin(async move {
            let write = |reply| Gate::Write {
                key: key.clone(),
                expected: expected.cloned(),
                new: new.cloned(),
                reply,
            };
            self.world.gate(self.actor, write).await
        })
    }

    fn try_lock<'a>(
        &'a self,
        key: &'a Key,
        owner: &'a Owner,
        ttl: Duration,
    ) -> StoreFuture<'a, TryLock> {
        Box::pin(async move {
            let lifetime = self.world.lifetime;
            // A process-bound lock does not end while the process lives.
            let ttl = match lifetime {
                LockLifetime::Ttl => ttl,
                LockLifetime::ProcessBound => Duration::from_secs(1_000_000),
            };
            Ok(match self.world.store.try_lock(key, owner, ttl).await? {
                TryLock::Acquired(_) => {
                    *self.world.holder.lock().unwrap() = Some((self.actor, owner.clone()));
                    TryLock::Acquired(lifetime)
                }
                held => held,
            })
        })
    }

    fn unlock<'a>(&'a self, key: &'a Key, owner: &'a Owner) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            // A killed actor releases nothing.
            if !self.world.killed.lock().unwrap().contains(&self.actor) {
                self.world.store.unlock(key, owner).await?;
            }
            Ok(())
        })
    }

    fn list(&self) -> StoreFuture<'_, Option<Vec<Profile>>> {
        self.world.store.list()
    }
}

/// The choices of a run: a prefix set by the search, then always the first option.
#[derive(Default)]
struct Schedule {
    prefix: Vec<usize>,
    taken: Vec<(usize, usize)>,
}

impl Schedule {
    fn choose(&mut self, options: usize) -> usize {
        let chosen = self.prefix.get(self.taken.len()).copied().unwrap_or(0);
        self.taken.push((chosen, options));
        chosen
    }

    fn next(self) -> Option<Self> {
        let mut taken = self.taken;
        while let Some((chosen, options)) = taken.pop() {
            if chosen + 1 < options {
                let mut prefix: Vec<usize> = taken.iter().map(|(chosen, _)| *chosen).collect();
                prefix.push(chosen + 1);
                return Some(Self {
                    prefix,
                    taken: Vec::new(),
                });
            }
        }
        None
    }
}

/// What a run has observed besides Coze and the store.
#[derive(Default)]
struct Seen {
    has_put: Vec<Result<(), ()>>,
    has_signed_out: Vec<Result<(), ()>>,
}

async fn run(scenario: Scenario, schedule: &mut Schedule) -> Result<(), String> {
    let world = Arc::new(World {
        store: MemoryStore::new(),
        owners: scenario.owners,
        lifetime: scenario.lifetime,
        coze: Mutex::default(),
        pending: Mutex::default(),
        holder: Mutex::default(),
        killed: Mutex::default(),
        trace: Mutex::default(),
    });
    WORLD.set(Some(Arc::clone(&world)));
    let unhindered = World::flow(None);
    let fresh = async |family: &str| -> Token {
        let seed = RefreshToken::new(family).unwrap();
        unhindered.refresh(&seed).await.unwrap()
    };
    let behind = SignIn::new(world.store.clone(), "user").unwrap();
    behind.put(&fresh("a").await).await.unwrap();
    if scenario.is_revoked {
        world.coze.lock().unwrap().live.clear();
    }
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (f, g) = (Box::new(fresh("f").await), Box::new(fresh("g").await));
    tokio::time::sleep(Duration::from_secs(1000)).await;

    let mut actors: Vec<JoinHandle<()>> = Vec::new();
    for actor in 0..scenario.owners {
        let source = StoredSource::new(
            Arc::clone(World::flow(Some(actor)).app()),
            world.handle(actor),
            Arc::new(CircuitBreaker::always_closed()),
        );
        let world = Arc::clone(&world);
        actors.push(tokio::spawn(async move {
            world.gate(actor, Gate::Start).await;
            let deadline = Instant::now() + Duration::from_secs(60);
            let _ = source.mint(RefreshMode::InBackground, deadline).await;
            source.sign_in().settle().await;
            while source.sign_in().why_unsaved().is_some() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }));
    }
    let scripts: Vec<Vec<Act>> = match scenario.user {
        None => Vec::new(),
        Some(User::Puts) => vec![vec![Act::Put(f)]],
        Some(User::SignsOut) => vec![vec![Act::SignOut]],
        Some(User::PutsTwice) => vec![vec![Act::Put(f), Act::Put(g)]],
        Some(User::SignsOutAndPuts) => vec![vec![Act::SignOut, Act::Put(f)]],
        Some(User::PutsBesideAnother) => vec![vec![Act::Put(f)], vec![Act::Put(g)]],
        Some(User::PutsBesideASignOut) => vec![vec![Act::Put(f)], vec![Act::SignOut]],
    };
    for script in scripts {
        let actor = actors.len();
        let (world, sign_in, seen) = (Arc::clone(&world), world.handle(actor), Arc::clone(&seen));
        actors.push(tokio::spawn(async move {
            world.gate(actor, Gate::Start).await;
            for act in script {
                match act {
                    Act::SignOut => {
                        let done = sign_in.sign_out().await.map_err(drop);
                        seen.lock().unwrap().has_signed_out.push(done);
                    }
                    Act::Put(token) => {
                        let done = sign_in.put(&token).await.map_err(drop);
                        seen.lock().unwrap().has_put.push(done);
                    }
                }
            }
        }));
    }

    let (mut left, mut last) = (scenario, None);
    let began = Instant::now();
    loop {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        let steps = steps(&world, &left, last);
        if steps.is_empty() {
            if actors.iter().all(JoinHandle::is_finished) {
                break;
            }
            if began.elapsed() > Duration::from_secs(4 * 3600) {
                return Err(format!("stuck\n{}", world.trace.lock().unwrap().join("\n")));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        }
        let step = steps[schedule.choose(steps.len())];
        let actor = take(&world, step).await;
        match step {
            Step::Goes(_) => {}
            Step::Evict => left.evictions -= 1,
            Step::Wait => {
                left.waits -= 1;
                tokio::time::sleep(LONGER_THAN_A_LOCK).await;
            }
            Step::Kill(actor) => {
                left.kills -= 1;
                world.killed.lock().unwrap().insert(actor);
                actors[actor].abort();
                let holder = world.holder.lock().unwrap().clone();
                if let Some((held_by, owner)) = holder
                    && held_by == actor
                    && scenario.lifetime == LockLifetime::ProcessBound
                {
                    world.store.unlock(&World::key(), &owner).await.unwrap();
                }
            }
            _ => left.faults -= 1,
        }
        if let Some(actor) = actor {
            let has_switched = last.is_some_and(|last| last != actor);
            left.switches -= usize::from(has_switched && left.switches > 0);
            last = Some(actor);
        }
    }
    for pending in &*world.pending.lock().unwrap() {
        // Its owner had timed out.
        if matches!(&pending.gate, Gate::Receive(Answer::Granted(_), _)) {
            world.coze.lock().unwrap().lost = true;
        }
    }
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    judge(scenario, &world, &behind, &seen)
        .await
        .map_err(|what| format!("{what}\n{}", world.trace.lock().unwrap().join("\n")))
}

/// The possible next steps.
fn steps(world: &World, left: &Scenario, last: Option<usize>) -> Vec<Step> {
    let pending = world.pending.lock().unwrap();
    let killed = world.killed.lock().unwrap();
    // A request whose caller has ended is not executed.
    let is_open = |pending: &Pending| match &pending.gate {
        Gate::Start(reply) => !reply.is_closed(),
        Gate::Write { .. } => true,
        Gate::Commit(_, reply) => !reply.is_closed(),
        Gate::Receive(_, reply) => !reply.is_closed(),
    };
    let mut open: Vec<usize> = (0..pending.len())
        .filter(|i| is_open(&pending[*i]))
        .collect();
    // The writes of one actor are executed in order, except delayed ones.
    let is_late = |i: usize| match &pending[i].gate {
        Gate::Write { reply, .. } => reply.is_closed(),
        _ => false,
    };
    let mut seen = HashSet::new();
    open.retain(|i| seen.insert((pending[*i].actor, is_late(*i))));
    open.sort_by_key(|i| (Some(pending[*i].actor) != last, *i));
    let first_is_last = open
        .first()
        .is_some_and(|i| Some(pending[*i].actor) == last);
    if first_is_last && left.switches == 0 {
        open.retain(|i| Some(pending[*i].actor) == last);
    }
    let mut steps: Vec<Step> = open.iter().map(|i| Step::Goes(*i)).collect();
    if left.faults > 0 {
        for i in open.iter().copied().filter(|i| !is_late(*i)) {
            match &pending[i].gate {
                Gate::Start(_) => {}
                Gate::Write { .. } => {
                    steps.extend([Step::IsLostBefore(i), Step::IsLostAfter(i), Step::IsSlow(i)])
                }
                Gate::Commit(..) => steps.extend([Step::IsLostBefore(i), Step::IsHeldBack(i)]),
                Gate::Receive(..) => steps.push(Step::IsLostAfter(i)),
            }
        }
    }
    if left.evictions > 0 && world.holder.lock().unwrap().is_some() && !open.is_empty() {
        steps.push(Step::Evict);
    }
    if left.kills > 0
        && let Some(last) = last.filter(|last| !killed.contains(last))
        && !open.is_empty()
    {
        steps.push(Step::Kill(last));
    }
    if left.waits > 0 && !open.is_empty() {
        steps.push(Step::Wait);
    }
    steps
}

async fn take(world: &World, step: Step) -> Option<usize> {
    let (index, fate) = match step {
        Step::Evict => {
            let holder = world.holder.lock().unwrap().take();
            if let Some((_, owner)) = holder {
                world.store.unlock(&World::key(), &owner).await.unwrap();
            }
            world
                .trace
                .lock()
                .unwrap()
                .push("the lock is lost".to_owned());
            return None;
        }
        Step::Wait => {
            let mut trace = world.trace.lock().unwrap();
            trace.push("time passes".to_owned());
            return None;
        }
        Step::Kill(actor) => {
            world
                .trace
                .lock()
                .unwrap()
                .push(format!("{actor} is killed"));
            return None;
        }
        Step::Goes(i)
        | Step::IsLostBefore(i)
        | Step::IsLostAfter(i)
        | Step::IsSlow(i)
        | Step::IsHeldBack(i) => (i, step),
    };
    let Pending { actor, gate } = world.pending.lock().unwrap().remove(index);
    let lost =
        || StoreError::new(StoreErrorKind::Transient, "the response is lost").with_source("model");
    let is_late = matches!(&gate, Gate::Write { reply, .. } if reply.is_closed());
    let is_lost_before = matches!(fate, Step::IsLostBefore(_));
    let said = match gate {
        Gate::Start(reply) => {
            let _ = reply.send(());
            "starts".to_owned()
        }
        Gate::Write {
            key,
            expected,
            new,
            reply,
        } => {
            let text = new
                .as_ref()
                .map(|new| String::from_utf8_lossy(new.expose()).into_owned());
            let text = text.unwrap_or_default();
            let find = |what: &str| {
                text.split_once(what)
                    .map(|(_, rest)| rest.split('"').next().unwrap_or_default().to_owned())
            };
            let said = format!(
                "writes {key}{}{}{}{}{}",
                find("\"refresh_token\":\"").unwrap_or_default(),
                if text.contains("\"intents\"") {
                    " with intents"
                } else {
                    ""
                },
                if text.contains("\"ended\"") {
                    " ended"
                } else {
                    ""
                },
                if text.contains("\"not_before\"") {
                    " not before"
                } else {
                    ""
                },
                if text.contains("\"signed_out\"") {
                    " tombstone"
                } else {
                    ""
                },
            );
            match fate {
                Step::IsLostBefore(_) => drop(reply.send(Err(lost()))),
                Step::IsSlow(_) => {
                    drop(reply.send(Err(lost())));
                    let (reply, _) = oneshot::channel();
                    world.pending.lock().unwrap().push(Pending {
                        actor,
                        gate: Gate::Write {
                            key,
                            expected,
                            new,
                            reply,
                        },
                    });
                }
                _ => {
                    let done =
                        world
                            .store
                            .compare_and_set_now(&key, expected.as_ref(), new.as_ref());
                    let is_user = actor >= world.owners && key.slot().is_none();
                    if let (true, CompareAndSet::Done(_)) = (is_user, &done) {
                        let token = find("\"refresh_token\":\"");
                        world.coze.lock().unwrap().put.extend(token);
                    }
                    let said = matches!(fate, Step::IsLostAfter(_));
                    let _ = reply.send(if said { Err(lost()) } else { Ok(done) });
                }
            }
            said
        }
        Gate::Commit(refresh_token, reply) => {
            let answer = match fate {
                Step::IsHeldBack(_) => Answer::Unavailable,
                _ if is_lost_before => Answer::Lost,
                _ => world.redeem(actor, &refresh_token),
            };
            let said = format!("sends {refresh_token}: {answer:?}");
            let _ = reply.send(answer);
            said
        }
        Gate::Receive(answer, reply) => {
            let comes = !matches!(fate, Step::IsLostAfter(_));
            let is_heard = reply.send(comes).is_ok() && comes;
            let mut coze = world.coze.lock().unwrap();
            match answer {
                Answer::Granted(granted) if is_heard => coze.received.push((actor, granted)),
                Answer::Granted(_) => coze.lost = true,
                Answer::InvalidGrant if is_heard => {
                    let sent = coze.sent.iter().rev().find(|(sender, _)| *sender == actor);
                    let sent = sent.cloned();
                    coze.refused.extend(sent);
                }
                _ => {}
            }
            "receives".to_owned()
        }
    };
    let late = if is_late { " late" } else { "" };
    world
        .trace
        .lock()
        .unwrap()
        .push(format!("{actor} {said}{late} {fate:?}"));
    Some(actor)
}

async fn judge(
    scenario: Scenario,
    world: &World,
    behind: &SignIn,
    seen: &Seen,
) -> Result<(), String> {
    let stored = behind
        .load()
        .await
        .map_err(|error| format!("damaged: {error}"))?;
    let quarantined = behind.quarantined().await.unwrap();
    let coze = world.coze.lock().unwrap();
    let is_live = |token: &str| coze.live.contains(token);
    let stored_token = stored
        .as_ref()
        .map(|record| record.refresh_token().expose().to_owned());
    let in_quarantine = |token: &str| {
        quarantined
            .iter()
            .any(|record| record.refresh_token().expose() == token)
    };
    let has_killed = !world.killed.lock().unwrap().is_empty();
    let has_signed_out = !seen.has_signed_out.is_empty();
    // Only a successor that a killed owner held, or that nobody received, may be lost.
    let is_excused = coze.lost || has_killed;
    for (actor, token) in &coze.received {
        let is_killed_owner = world.killed.lock().unwrap().contains(actor);
        let is_kept = stored_token.as_ref() == Some(token) || in_quarantine(token);
        if is_live(token) && !is_kept && !is_killed_owner && !has_signed_out {
            return Err(format!(
                "{token} is live, was received by {actor}, and is lost"
            ));
        }
    }
    if let (Some(record), Some(token)) = (&stored, &stored_token) {
        if record.has_ended() && is_live(token) {
            return Err(format!("{token} is live and marked as ended"));
        }
        if !is_live(token) && !is_excused && !scenario.is_revoked && scenario.user.is_none() {
            return Err(format!("{token} is stored but redeemed"));
        }
    }
    if stored.is_none() && !has_signed_out {
        return Err("nothing is stored".to_owned());
    }
    let last_put = match scenario.user {
        Some(User::Puts | User::SignsOutAndPuts) => Some("f."),
        Some(User::PutsTwice) => Some("g."),
        _ => None,
    };
    if let Some(family) = last_put
        && seen.has_put.last() == Some(&Ok(()))
    {
        let is_stored = stored_token
            .as_ref()
            .is_some_and(|token| token.starts_with(family));
        if !is_stored {
            return Err(format!("{family}* was put, and {stored_token:?} is stored"));
        }
    }
    if scenario.user == Some(User::SignsOut) && seen.has_signed_out == [Ok(())] {
        if stored.is_some() {
            return Err(format!("{stored_token:?} is stored after a sign-out"));
        }
        if let Some(left) = quarantined
            .iter()
            .find(|record| is_live(record.refresh_token().expose()))
        {
            return Err(format!(
                "{} is live in quarantine after a sign-out",
                left.refresh_token().expose()
            ));
        }
    }
    for (i, put) in coze.put.iter().enumerate() {
        if coze.put[..i].contains(put) {
            return Err(format!("{put} was put again over its replacement"));
        }
    }
    if coze.sent_again {
        return Err("a refresh token was sent again after invalid_grant".to_owned());
    }
    Ok(())
}

fn explore(scenario: Scenario) -> usize {
    let mut schedule = Some(Schedule::default());
    let mut runs = 0;
    let began = std::time::Instant::now();
    while let Some(mut this) = schedule.take() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let outcome = runtime.block_on(run(scenario, &mut this));
        runs += 1;
        if let Err(what) = outcome {
            panic!("{}, schedule {runs}: {what}", scenario.name);
        }
        schedule = this.next();
    }
    println!(
        "{}: {runs} schedules in {:?}",
        scenario.name,
        began.elapsed()
    );
    runs
}

#[test]
fn two_owners_lose_nothing_to_a_lost_lock_and_a_fault() {
    assert!(explore(TWO) > 100);
}

#[test]
fn two_owners_lose_nothing_to_two_faults() {
    explore(Scenario {
        name: "two faults",
        faults: 2,
        evictions: 0,
        switches: 1,
        ..TWO
    });
}

#[test]
fn a_slow_owner_saves_over_concurrent_writes() {
    explore(Scenario {
        name: "slow",
        waits: 1,
        evictions: 0,
        faults: 0,
        ..TWO
    });
    explore(Scenario {
        name: "slow, and a fault",
        waits: 1,
        evictions: 0,
        switches: 1,
        ..TWO
    });
    explore(Scenario {
        name: "slow, process bound",
        lifetime: LockLifetime::ProcessBound,
        waits: 1,
        evictions: 0,
        faults: 0,
        ..TWO
    });
}

#[test]
fn a_killed_owner_loses_only_what_it_held_in_memory() {
    for lifetime in [LockLifetime::Ttl, LockLifetime::ProcessBound] {
        explore(Scenario {
            name: "a kill",
            lifetime,
            kills: 1,
            evictions: 0,
            faults: 0,
            ..TWO
        });
    }
}

#[test]
fn a_process_bound_lock_loses_nothing_to_a_fault() {
    explore(Scenario {
        name: "process bound",
        lifetime: LockLifetime::ProcessBound,
        evictions: 0,
        ..TWO
    });
}

#[test]
fn a_concurrent_put_is_not_undone() {
    explore(Scenario {
        name: "two puts",
        owners: 0,
        user: Some(User::PutsBesideAnother),
        evictions: 0,
        ..TWO
    });
    for (user, switches) in [(User::Puts, 3), (User::PutsTwice, 2)] {
        explore(Scenario {
            name: "a put",
            owners: 1,
            user: Some(user),
            evictions: 0,
            switches,
            ..TWO
        });
    }
}

#[test]
fn a_concurrent_sign_out_is_final() {
    explore(Scenario {
        name: "a put and a sign-out",
        owners: 0,
        user: Some(User::PutsBesideASignOut),
        evictions: 0,
        ..TWO
    });
    for user in [User::SignsOut, User::SignsOutAndPuts] {
        explore(Scenario {
            name: "a sign-out",
            owners: 1,
            user: Some(user),
            evictions: 0,
            ..TWO
        });
    }
}

#[test]
fn a_sign_in_that_has_ended_is_marked_and_a_put_survives_the_mark() {
    explore(Scenario {
        name: "ended",
        owners: 1,
        user: Some(User::Puts),
        is_revoked: true,
        evictions: 0,
        ..TWO
    });
    explore(Scenario {
        name: "ended for two",
        is_revoked: true,
        evictions: 0,
        switches: 2,
        ..TWO
    });
}
