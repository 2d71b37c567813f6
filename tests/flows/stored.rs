//! A stored sign-in and the providers that share it, with a mock that counts how often each refresh token is
//! redeemed. Whatever the store, the network and the other owners do, the sign-in must not be lost.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use coze_auth::{
    AccessToken, CachedProvider, Endpoint, ErrorCode, ErrorKind, SignIn, Token, TokenProvider,
    WebFlow,
    sign_in::Record,
    store::{
        CompareAndSet, Contents, Key, LockLifetime, MemoryStore, Owner, Profile, Store, StoreError,
        StoreErrorKind, StoreFuture, Stored, TryLock, Version,
    },
};
use coze_mock::{Fault, FaultBody, MockCoze, Target, Times, TokenFamily, When, defaults};
use serde_json::Value;
use tokio::time::Instant;

use crate::support::{Interruption, Stage, millis, pass, secs};

const PROFILE: &str = "default";

/// A memory store whose next operations can be made to fail.
#[derive(Clone)]
struct FaultyStore {
    store: MemoryStore,
    rig: Arc<Mutex<Faults>>,
}

#[derive(Default)]
struct Faults {
    load: VecDeque<StoreFault>,
    intent: VecDeque<StoreFault>,
    withdraw: VecDeque<StoreFault>,
    save: VecDeque<StoreFault>,
    mark: VecDeque<StoreFault>,
    /// Operations that fail until cleared.
    down: bool,
    /// The TTL of locks, whatever was requested.
    ttl: Option<Duration>,
    is_process_bound: bool,
    knows_no_age: bool,
    /// Run once, after the next intent was written.
    suspends: Option<Box<dyn FnOnce() + Send>>,
    /// Stored immediately before the next save or mark.
    moves_on_to: Option<Token>,
    /// What was written to the record, in order.
    written: Vec<Value>,
}

#[derive(Clone, Copy)]
enum StoreFault {
    /// The operation has no effect.
    Fails,
    /// The operation takes effect, but its response is lost.
    LosesItsAnswer,
    /// The operation hangs without effect.
    Hangs,
}

/// The purpose of a write of the record.
#[derive(Debug, Clone, Copy, PartialEq)]
enum For {
    Intent,
    Withdraw,
    Save,
    Mark,
}

impl For {
    fn of(now: Option<&Stored>, new: &Value) -> Self {
        let is_in = |record: &Value, name| record.get(name).is_some();
        let now = now.map(|now| record_in(&now.contents));
        if now.is_none_or(|now| now.get("refresh_token") != new.get("refresh_token")) {
            Self::Save
        } else if is_in(new, "ended") {
            Self::Mark
        } else if is_in(new, "intents") {
            Self::Intent
        } else {
            Self::Withdraw
        }
    }
}

fn record_in(contents: &Contents) -> Value {
    let mut envelope: Value = serde_json::from_slice(contents.expose()).unwrap();
    envelope["record"].take()
}

impl FaultyStore {
    fn new() -> Self {
        Self {
            store: MemoryStore::new(),
            rig: Arc::default(),
        }
    }

    /// Another handle of the same store, with its own faults.
    fn another(&self) -> Self {
        Self {
            rig: Arc::default(),
            ..self.clone()
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Faults) -> T) -> T {
        change(&mut self.rig.lock().unwrap())
    }

    async fn through<T>(
        &self,
        next: impl FnOnce(&mut Faults) -> &mut VecDeque<StoreFault>,
        act: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let failure = || {
            StoreError::new(StoreErrorKind::Transient, "injected store failure")
                .with_source("no answer")
        };
        let (down, mishap) = self.with(|rig| (rig.down, next(rig).pop_front()));
        match mishap {
            None if down => Err(failure()),
            None => act.await,
            Some(StoreFault::Fails) => Err(failure()),
            Some(StoreFault::LosesItsAnswer) => act.await.and(Err(failure())),
            Some(StoreFault::Hangs) => std::future::pending().await,
        }
    }

    fn profile() -> Profile {
        Profile::new(PROFILE).unwrap()
    }

    fn key() -> Key {
        Key::record(&Self::profile())
    }

    fn sign_in(&self) -> SignIn {
        SignIn::new(self.clone(), PROFILE).unwrap()
    }

    /// Bypasses the faults.
    fn behind(&self) -> SignIn {
        SignIn::new(self.store.clone(), PROFILE).unwrap()
    }

    async fn record(&self) -> Record {
        let stored = self.behind().load().await.unwrap();
        stored.expect("a sign-in is stored")
    }

    async fn quarantined(&self) -> Vec<Record> {
        self.behind().quarantined().await.unwrap()
    }

    /// Acquires the lock as another owner.
    async fn hold_lock(&self, ttl: Duration) -> Owner {
        let owner = Owner::new([7; 16], "process 4711");
        let lock = self.store.try_lock(&Self::key(), &owner, ttl).await;
        assert!(matches!(lock, Ok(TryLock::Acquired(_))), "{lock:?}");
        owner
    }

    async fn unlock(&self, owner: &Owner) {
        self.store.unlock(&Self::key(), owner).await.unwrap();
    }
}

impl Store for FaultyStore {
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async move {
            let load = self.store.load(key);
            let mut stored = self.through(|rig| &mut rig.load, load).await?;
            if let (Some(stored), true) = (&mut stored, self.with(|rig| rig.knows_no_age)) {
                stored.age = None;
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
            let set = self.store.compare_and_set(key, expected, new);
            let Some(record) = new.filter(|_| key.slot().is_none()).map(record_in) else {
                return self.through(|rig| &mut rig.save, set).await;
            };
            let purpose = For::of(self.store.load(key).await?.as_ref(), &record);
            if matches!(purpose, For::Save | For::Mark)
                && let Some(token) = self.with(|rig| rig.moves_on_to.take())
            {
                self.behind().put(&token).await.unwrap();
            }
            self.with(|rig| rig.written.push(record));
            let suspends = (purpose == For::Intent).then(|| self.with(|rig| rig.suspends.take()));
            if let Some(suspend) = suspends.flatten() {
                suspend();
            }
            self.through(
                |rig| match purpose {
                    For::Intent => &mut rig.intent,
                    For::Withdraw => &mut rig.withdraw,
                    For::Save => &mut rig.save,
                    For::Mark => &mut rig.mark,
                },
                set,
            )
            .await
        })
    }

    fn try_lock<'a>(
        &'a self,
        key: &'a Key,
        owner: &'a Owner,
        ttl: Duration,
    ) -> StoreFuture<'a, TryLock> {
        Box::pin(async move {
            let (shorter, is_process_bound) = self.with(|rig| (rig.ttl, rig.is_process_bound));
            let lock = self
                .store
                .try_lock(key, owner, shorter.unwrap_or(ttl))
                .await?;
            Ok(match lock {
                TryLock::Acquired(_) if is_process_bound => {
                    TryLock::Acquired(LockLifetime::ProcessBound)
                }
                lock => lock,
            })
        })
    }

    fn unlock<'a>(&'a self, key: &'a Key, owner: &'a Owner) -> StoreFuture<'a, ()> {
        self.store.unlock(key, owner)
    }

    fn list(&self) -> StoreFuture<'_, Option<Vec<Profile>>> {
        self.store.list()
    }
}

/// A stage with a stored sign-in.
async fn signed_in(stage: &Stage) -> (FaultyStore, Token) {
    let store = FaultyStore::new();
    let first = stage.web_sign_in().await;
    store.sign_in().put(&first).await.unwrap();
    (store, first)
}

fn replica(stage: &Stage, store: &FaultyStore) -> CachedProvider {
    CachedProvider::stored(stage.web(), store.sign_in()).build()
}

fn ledger(stage: &Stage, first: &Token) -> TokenFamily {
    let refresh_token = first.refresh_token().unwrap();
    stage.mock.sign_in_of(refresh_token.expose()).unwrap()
}

/// The stored refresh token is the current one of an unbroken chain.
#[track_caller]
fn assert_nothing_lost(stage: &Stage, first: &Token, stored: &Record) {
    let sign_in = ledger(stage, first);
    let stored = coze_mock::fingerprint(stored.refresh_token().expose());
    assert_eq!(sign_in.live_refresh_token(), Some(stored.as_str()));
    assert_eq!(sign_in.reuse_attempts(), 0);
}

/// How often the refresh token was redeemed.
fn refreshes(stage: &Stage, first: &Token) -> usize {
    ledger(stage, first).generations.len() - 1
}

// Replicas

#[tokio::test(start_paused = true)]
async fn replicas_share_one_refresh() {
    for builder in [
        MockCoze::builder(),
        MockCoze::builder().reuse_revokes_family(true),
        MockCoze::builder().refresh_revokes_access_token(true),
    ] {
        let stage = Stage::of(builder);
        let (store, first) = signed_in(&stage).await;
        stage.network.takes(millis(80));
        let replicas: Vec<_> = (0..8).map(|_| replica(&stage, &store)).collect();
        for _ in 0..500 {
            for replica in &replicas {
                let mut token = replica.token().await.unwrap();
                if !stage.takes(&token) {
                    replica.invalidate(&token);
                    token = replica.token().await.unwrap();
                }
                assert!(stage.takes(&token));
            }
            pass(secs(10)).await;
        }
        for replica in &replicas {
            replica.shutdown().await.unwrap();
        }
        let refreshes = refreshes(&stage, &first);
        assert!((5..=9).contains(&refreshes), "{refreshes} in 5,000 s");
        let reused: u64 = replicas
            .iter()
            .map(|one| one.stats().loaded_from_store)
            .sum();
        assert!(reused >= 7 * refreshes as u64, "{reused}");
        assert_nothing_lost(&stage, &first, &store.record().await);
        stage.mock.assert_clean();
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_with_clock_skew_neither_refreshes_constantly_nor_serves_expired_tokens() {
    for offset in [3600, -3600] {
        let stage = Stage::new();
        let (store, first) = signed_in(&stage).await;
        let right = replica(&stage, &store);
        let skewed = coze_auth::testing::TestClock::starting_at(stage.clock.wall());
        skewed.set_wall_offset_secs(offset);
        let client = stage.client_builder().test_clock(skewed).build().unwrap();
        let secret = coze_mock::defaults::WEB_CLIENT_SECRET;
        let web = coze_auth::WebFlow::new(
            client,
            coze_mock::defaults::WEB_CLIENT_ID.into(),
            secret.into(),
        )
        .unwrap();
        let wrong = CachedProvider::stored(web, store.sign_in()).build();
        for _ in 0..1000 {
            for provider in [&wrong, &right] {
                let token = provider.token().await.unwrap();
                assert!(stage.takes(&token), "{offset}");
            }
            pass(secs(5)).await;
        }
        let refreshes = refreshes(&stage, &first);
        assert!((5..=9).contains(&refreshes), "{offset}: {refreshes}");
        assert_nothing_lost(&stage, &first, &store.record().await);
    }
}

#[tokio::test(start_paused = true)]
async fn in_the_refresh_window_a_replica_without_the_lock_serves_its_token_and_polls_the_store() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    let (one, other) = (replica(&stage, &store), replica(&stage, &store));
    let old = one.token().await.unwrap();
    other.token().await.unwrap();
    pass(secs(860)).await;
    stage.network.takes(secs(10));
    for _ in 0..9 {
        for provider in [&one, &other] {
            let served = provider.cached().expect("nobody waits");
            assert_eq!(served.expose(), old.expose());
        }
        pass(secs(1)).await;
    }
    pass(secs(2)).await;
    let new = one.cached().unwrap();
    assert_ne!(new.expose(), old.expose());
    assert_eq!(other.cached().unwrap().expose(), new.expose());
    assert_eq!(refreshes(&stage, &first), 1);
    assert_eq!(
        one.stats().loaded_from_store + other.stats().loaded_from_store,
        3,
        "cold twice"
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_valid_token_a_replica_waits_for_the_refreshing_one() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    pass(secs(1000)).await;
    stage.network.takes(secs(5));
    let (one, other) = (replica(&stage, &store), replica(&stage, &store));
    let began = Instant::now();
    let (a, b) = tokio::join!(one.token(), other.token());
    assert_eq!(a.unwrap().expose(), b.unwrap().expose());
    assert!(began.elapsed() < secs(6), "{:?}", began.elapsed());
    assert_eq!(refreshes(&stage, &first), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stored_token_is_reused_and_a_one_shot_program_renews_one_near_expiry() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    let before = stage.network.attempts();
    let one_shot = || {
        CachedProvider::stored(stage.web(), store.sign_in())
            .refresh(coze_auth::RefreshMode::InLine)
            .build()
    };
    pass(secs(600)).await;
    one_shot().token().await.unwrap();
    assert_eq!(stage.network.attempts(), before, "it is valid for long");
    pass(secs(290)).await;
    let token = one_shot().token().await.unwrap();
    assert_eq!(refreshes(&stage, &first), 1);
    assert!(stage.takes(&token));
    pass(secs(890)).await;
    stage.network.cut(Interruption::Refused);
    let token = one_shot().token().await.unwrap();
    assert!(
        stage.takes(&token),
        "a token that cannot be renewed is still valid"
    );
    assert_eq!(refreshes(&stage, &first), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_replaced_from_the_store_without_a_request() {
    let stage = Stage::of(MockCoze::builder().refresh_revokes_access_token(true));
    let (store, first) = signed_in(&stage).await;
    let (one, other) = (replica(&stage, &store), replica(&stage, &store));
    let old = one.token().await.unwrap();
    other.token().await.unwrap();
    // Refused by the API although no replica refreshed: one request for all replicas.
    one.invalidate(&old);
    let new = one.token().await.unwrap();
    other.invalidate(&old);
    assert_eq!(other.token().await.unwrap().expose(), new.expose());
    assert_eq!(refreshes(&stage, &first), 1);
    // An API that refuses every token causes at most one refresh in ten seconds.
    for _ in 0..30 {
        let token = one.token().await.unwrap();
        one.invalidate(&token);
        pass(secs(1)).await;
    }
    let refreshes = refreshes(&stage, &first);
    assert!((3..=5).contains(&refreshes), "{refreshes} in 30 s");
}

// The store fails

#[tokio::test(start_paused = true)]
async fn no_refresh_is_sent_if_the_store_cannot_save_its_result() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    let provider = replica(&stage, &store);
    let token = provider.token().await.unwrap();
    let before = stage.network.attempts();
    store.with(|rig| rig.intent = vec![StoreFault::Fails; 1000].into());
    let mut served = 0;
    while let Some(still) = provider.cached() {
        assert_eq!(still.expose(), token.expose());
        served += 1;
        pass(secs(1)).await;
    }
    assert!(served >= 895, "{served}: until its expiry");
    let error = provider.token().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Store(_)), "{error}");
    assert_eq!(stage.network.attempts(), before, "nothing was sent");
    store.with(|rig| rig.intent.clear());
    pass(secs(61)).await;
    assert!(stage.takes(&provider.token().await.unwrap()));
    assert_nothing_lost(&stage, &first, &store.record().await);
}

#[tokio::test(start_paused = true)]
async fn an_unsaved_result_is_served_and_saved_as_soon_as_possible() {
    for mishap in [StoreFault::Fails, StoreFault::LosesItsAnswer] {
        let stage = Stage::new();
        let (store, first) = signed_in(&stage).await;
        let provider = replica(&stage, &store);
        provider.invalidate(&provider.token().await.unwrap());
        store.with(|rig| rig.save = vec![mishap; 12].into());
        let token = provider.token().await.unwrap();
        assert!(stage.takes(&token));
        // The next reads save it.
        for _ in 0..20 {
            assert!(provider.token().await.is_ok());
            pass(secs(1)).await;
        }
        assert_eq!(refreshes(&stage, &first), 1);
        assert_nothing_lost(&stage, &first, &store.record().await);
        assert!(store.quarantined().await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn the_sign_in_of_another_app_is_neither_used_nor_redeemed() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    let other = stage.pkce();
    let provider = CachedProvider::stored(other, store.sign_in()).build();
    let error = provider.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("profile default"), "{error}");
    assert_eq!(refreshes(&stage, &first), 0);
    // Nor when it is due.
    pass(secs(1000)).await;
    provider.token().await.unwrap_err();
    assert_eq!(refreshes(&stage, &first), 0);
    let stored = store.record().await;
    assert!(stored.ended().is_none());
    // It still belongs to the first app, and so does its successor.
    replica(&stage, &store).token().await.unwrap();
    assert_eq!(store.record().await.client_id(), stored.client_id());
    provider.token().await.unwrap_err();
    assert_eq!(refreshes(&stage, &first), 1);
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_is_not_sent_to_another_endpoint() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    let client = stage.client_builder().endpoint(Endpoint::CN).build();
    let (id, secret) = (defaults::WEB_CLIENT_ID, defaults::WEB_CLIENT_SECRET);
    let elsewhere = WebFlow::new(client.unwrap(), id.into(), secret.into()).unwrap();
    let provider = CachedProvider::stored(elsewhere, store.sign_in()).build();
    let here = stage.mock.url();
    let requests = stage.mock.request_count();
    for _ in 0..2 {
        let error = provider.token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let expected = format!("its API base is {here}, not https://api.coze.cn");
        assert!(error.to_string().contains(&expected), "{error}");
        // Nor when it is due.
        pass(secs(1000)).await;
    }
    assert_eq!(stage.mock.request_count(), requests);
    assert!(store.record().await.ended().is_none());
    // Each successor is bound to the endpoint, too.
    replica(&stage, &store).token().await.unwrap();
    let base = store.record().await.api_base().map(str::to_owned);
    assert_eq!(base.as_deref(), Some(here));
    provider.token().await.unwrap_err();
    assert_eq!(refreshes(&stage, &first), 1);
}

#[tokio::test(start_paused = true)]
async fn shutdown_retries_a_failed_save() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    let provider = replica(&stage, &store);
    provider.invalidate(&provider.token().await.unwrap());
    store.with(|rig| rig.save = vec![StoreFault::Fails; 9].into());
    provider.token().await.unwrap();
    provider.shutdown().await.unwrap();
    assert_nothing_lost(&stage, &first, &store.record().await);
}

#[tokio::test(start_paused = true)]
async fn shutdown_reports_a_failed_save_and_can_be_repeated() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    let provider = replica(&stage, &store);
    provider.invalidate(&provider.token().await.unwrap());
    store.with(|rig| rig.save = vec![StoreFault::Fails; 1000].into());
    provider.token().await.unwrap();
    let error = provider.shutdown().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Store(_)), "{error}");
    store.with(|rig| rig.save.clear());
    provider.shutdown().await.unwrap();
    assert_nothing_lost(&stage, &first, &store.record().await);
}

#[tokio::test(start_paused = true)]
async fn a_failing_or_hanging_store_does_not_block_a_valid_token() {
    for hangs in [false, true] {
        let stage = Stage::new();
        let (store, first) = signed_in(&stage).await;
        let provider = replica(&stage, &store);
        provider.token().await.unwrap();
        store.with(|rig| {
            rig.down = !hangs;
            rig.load = vec![StoreFault::Hangs; if hangs { 1000 } else { 0 }].into();
        });
        let mut served = 0;
        while provider.cached().is_some() {
            served += 1;
            pass(secs(1)).await;
        }
        assert!(served >= 895, "{served}");
        let began = Instant::now();
        let error = provider.token().await.unwrap_err();
        assert!(began.elapsed() <= secs(60), "{:?}", began.elapsed());
        assert!(matches!(error.kind(), ErrorKind::Store(_)), "{error}");
        let reported = provider.stats().last_error.unwrap();
        assert!(matches!(reported.kind(), ErrorKind::Store(_)));
        store.with(|rig| {
            rig.down = false;
            rig.load.clear();
        });
        pass(secs(61)).await;
        assert!(stage.takes(&provider.token().await.unwrap()));
        assert_nothing_lost(&stage, &first, &store.record().await);
    }
}

// The lock

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_never_released_is_not_stolen_and_its_owner_is_named() {
    let stage = Stage::new();
    let (store, _) = signed_in(&stage).await;
    pass(secs(1000)).await;
    let _stuck = store.hold_lock(secs(100_000)).await;
    let before = stage.network.attempts();
    let provider = replica(&stage, &store);
    let began = Instant::now();
    let error = provider.token().await.unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::Store(StoreErrorKind::Busy),
        "{error}"
    );
    assert!(error.to_string().contains("process 4711"), "{error}");
    assert!(began.elapsed() <= secs(61), "{:?}", began.elapsed());
    assert_eq!(stage.network.attempts(), before);
}

#[tokio::test(start_paused = true)]
async fn a_lock_lost_during_a_refresh_loses_nothing() {
    let stage = Stage::of(MockCoze::builder().reuse_revokes_family(false));
    let (store, first) = signed_in(&stage).await;
    pass(secs(1000)).await;
    store.with(|rig| rig.ttl = Some(secs(2)));
    stage.network.takes(secs(5));
    let (slow, other) = (replica(&stage, &store), replica(&stage, &store));
    let former = tokio::spawn(async move { slow.token().await.unwrap() });
    pass(secs(3)).await;
    // The other one acquires the lock, gets `invalid_grant`, and loads what the former owner saved.
    let got = other.token().await.unwrap();
    assert!(stage.takes(&got));
    assert_eq!(former.await.unwrap().expose(), got.expose());
    let live = ledger(&stage, &first);
    let stored = coze_mock::fingerprint(store.record().await.refresh_token().expose());
    assert_eq!(live.live_refresh_token(), Some(stored.as_str()));
}

#[tokio::test(start_paused = true)]
async fn after_invalid_grant_a_former_owner_has_time_to_save() {
    let stage = Stage::new();
    let (store, _) = signed_in(&stage).await;
    pass(secs(1000)).await;
    store.with(|rig| {
        rig.ttl = Some(secs(1));
        rig.save = vec![StoreFault::Fails; 10].into();
    });
    let (former, other) = (replica(&stage, &store), replica(&stage, &store));
    let former = tokio::spawn(async move { former.token().await.unwrap() });
    pass(secs(2)).await;
    let began = Instant::now();
    let got = other.token().await.unwrap();
    assert!(began.elapsed() >= secs(1), "{:?}", began.elapsed());
    assert_eq!(former.await.unwrap().expose(), got.expose());
    assert!(store.record().await.ended().is_none());
}

/// An owner that redeems the refresh token, but whose saves fail until its lock expires. Returns its store handle, its provider
/// and the token.
async fn redeemed_and_unsaved(
    stage: &Stage,
    store: &FaultyStore,
) -> (FaultyStore, CachedProvider, AccessToken) {
    let cut_off = store.another();
    cut_off.with(|rig| {
        rig.ttl = Some(secs(1));
        rig.save = vec![StoreFault::Fails; 1000].into();
    });
    let owner = replica(stage, &cut_off);
    let got = owner.token().await.unwrap();
    (cut_off, owner, got)
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_cannot_save_for_minutes_is_awaited() {
    let stage = Stage::new();
    let (store, _) = signed_in(&stage).await;
    pass(secs(1000)).await;
    let (cut_off, _former, got) = redeemed_and_unsaved(&stage, &store).await;
    pass(secs(300)).await;
    cut_off.with(|rig| rig.save.clear());
    // It retries every ten seconds.
    let other = replica(&stage, &store);
    assert_eq!(other.token().await.unwrap().expose(), got.expose());
    assert!(store.record().await.ended().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_late_save_restores_a_sign_in_that_was_marked_ended() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    pass(secs(1000)).await;
    let (cut_off, former, got) = redeemed_and_unsaved(&stage, &store).await;
    // Another owner does not know that, and marks the sign-in as ended immediately.
    store.with(|rig| rig.is_process_bound = true);
    let other = replica(&stage, &store);
    assert!(other.token().await.unwrap_err().needs_sign_in());
    assert!(store.record().await.ended().is_some());

    cut_off.with(|rig| rig.save.clear());
    for _ in 0..3 {
        assert_eq!(former.token().await.unwrap().expose(), got.expose());
        pass(secs(1)).await;
    }
    assert!(store.record().await.ended().is_none());
    assert_eq!(other.token().await.unwrap().expose(), got.expose());
    assert_eq!(refreshes(&stage, &first), 1);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_cannot_save_keeps_the_lock() {
    let stage = Stage::of(MockCoze::builder().reuse_revokes_family(true));
    let (store, first) = signed_in(&stage).await;
    pass(secs(1000)).await;
    let cut_off = store.another();
    cut_off.with(|rig| rig.save = vec![StoreFault::Fails; 9].into());
    let (former, other) = (replica(&stage, &cut_off), replica(&stage, &store));
    let got = former.token().await.unwrap();
    assert!(matches!(
        former.stats().unsaved_error.unwrap().kind(),
        ErrorKind::Store(_)
    ));
    // No caller uses the former owner again.
    assert_eq!(other.token().await.unwrap().expose(), got.expose());
    assert!(former.stats().unsaved_error.is_none());
    assert_eq!(refreshes(&stage, &first), 1);
    assert_nothing_lost(&stage, &first, &store.record().await);
}

#[tokio::test(start_paused = true)]
async fn a_lock_lost_between_two_attempts_ends_them() {
    let stage = Stage::of(MockCoze::builder().reuse_revokes_family(true));
    let (store, first) = signed_in(&stage).await;
    pass(secs(1000)).await;
    let faults = stage.mock.faults();
    faults.add(Fault::too_many_requests(10), Target::refresh(), Times::ONCE);
    store.with(|rig| rig.ttl = Some(secs(2)));
    let (slow, other) = (replica(&stage, &store), replica(&stage, &store));
    let former = tokio::spawn(async move { slow.token().await.unwrap() });
    pass(secs(5)).await;
    let got = other.token().await.unwrap();
    assert_eq!(former.await.unwrap().expose(), got.expose());
    assert_eq!(refreshes(&stage, &first), 1);
    assert_nothing_lost(&stage, &first, &store.record().await);
}

#[tokio::test(start_paused = true)]
async fn shutdown_sends_nothing_and_does_not_wait_for_the_lock() {
    let stage = Stage::new();
    let (store, _) = signed_in(&stage).await;
    pass(secs(1000)).await;
    let lock = store.hold_lock(secs(1000)).await;
    let before = stage.network.attempts();
    let provider = replica(&stage, &store);
    let waiting = tokio::spawn({
        let provider = provider.clone();
        async move { provider.token().await.unwrap_err() }
    });
    pass(secs(1)).await;
    let began = Instant::now();
    provider.shutdown().await.unwrap();
    assert!(began.elapsed() < secs(1), "{:?}", began.elapsed());
    assert_eq!(waiting.await.unwrap().kind(), ErrorKind::ShutDown);
    store.unlock(&lock).await;
    pass(secs(10)).await;
    assert_eq!(stage.network.attempts(), before);
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_the_retries_of_a_refresh() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    pass(secs(1000)).await;
    let faults = stage.mock.faults();
    faults.add(Fault::too_many_requests(10), Target::refresh(), Times::ONCE);
    let provider = replica(&stage, &store);
    let waiting = tokio::spawn({
        let provider = provider.clone();
        async move { provider.token().await }
    });
    pass(secs(1)).await;
    provider.shutdown().await.unwrap();
    waiting.await.unwrap().unwrap_err();
    assert_eq!(refreshes(&stage, &first), 0);
}

#[tokio::test(start_paused = true)]
async fn a_one_shot_program_with_a_valid_token_does_not_wait_for_the_lock() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    pass(secs(800)).await;
    let _stuck = store.hold_lock(secs(1000)).await;
    let provider = CachedProvider::stored(stage.web(), store.sign_in())
        .refresh(coze_auth::RefreshMode::InLine)
        .build();
    for _ in 0..2 {
        let began = Instant::now();
        let token = provider.token().await.unwrap();
        assert_eq!(token.expose(), first.access_token().expose());
        assert!(began.elapsed() < secs(1), "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_final_if_no_former_owner_can_save() {
    for was_released in [true, false] {
        let stage = Stage::new();
        let (store, first) = signed_in(&stage).await;
        let refresh_token = first.refresh_token().unwrap().expose();
        assert!(stage.mock.revoke_sign_in(refresh_token));
        let former = store.hold_lock(secs(30)).await;
        let _kept = if was_released {
            store.unlock(&former).await;
            None
        } else {
            Some(former)
        };
        // A former owner is no longer awaited either.
        pass(secs(4000)).await;
        let provider = CachedProvider::stored(stage.web(), store.sign_in())
            .deadline(secs(5))
            .build();
        let began = Instant::now();
        let error = provider.token().await.unwrap_err();
        assert!(error.needs_sign_in(), "{error}");
        assert!(began.elapsed() < secs(1), "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_within_the_grace_period_does_not_require_sign_in() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    let refresh_token = first.refresh_token().unwrap().expose();
    assert!(stage.mock.revoke_sign_in(refresh_token));
    pass(secs(1000)).await;
    // An owner whose request hangs, and that cannot withdraw its intent.
    let cut_off = store.another();
    cut_off.with(|rig| rig.withdraw = vec![StoreFault::Fails; 10].into());
    stage.network.cut(Interruption::Silent);
    let former = CachedProvider::stored(stage.web(), cut_off.sign_in())
        .deadline(secs(5))
        .build();
    former.token().await.unwrap_err();
    stage.network.repair();
    pass(secs(100)).await;
    let before = stage.network.attempts();
    let provider = CachedProvider::stored(stage.web(), store.sign_in())
        .deadline(secs(5))
        .build();
    let began = Instant::now();
    loop {
        let error = provider.token().await.unwrap_err();
        if error.needs_sign_in() {
            break;
        }
        assert_eq!(
            error.kind(),
            ErrorKind::Store(StoreErrorKind::Busy),
            "{error}"
        );
        assert!(store.record().await.ended().is_none());
        pass(error.retry_after().unwrap()).await;
    }
    assert!(began.elapsed() >= secs(35), "{:?}", began.elapsed());
    assert_eq!(stage.network.attempts() - before, 1, "it is sent only once");
}

// The record changes

#[tokio::test(start_paused = true)]
async fn a_sign_in_replaced_during_a_refresh_is_used_and_the_result_quarantined() {
    let stage = Stage::new();
    let (store, _) = signed_in(&stage).await;
    pass(secs(1000)).await;
    stage.network.takes(secs(5));
    let provider = replica(&stage, &store);
    let refreshing = tokio::spawn(async move { provider.token().await.unwrap() });
    pass(secs(1)).await;
    stage.network.takes(Duration::ZERO);
    let fresh = stage.web_sign_in().await;
    store.sign_in().put(&fresh).await.unwrap();
    let got = refreshing.await.unwrap();
    assert_eq!(got.expose(), fresh.access_token().expose());
    assert_eq!(
        store.quarantined().await.len(),
        2,
        "the replaced record and the late result"
    );
    assert_nothing_lost(&stage, &fresh, &store.record().await);
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_during_a_refresh_is_permanent() {
    let stage = Stage::new();
    let (store, _) = signed_in(&stage).await;
    pass(secs(1000)).await;
    stage.network.takes(secs(5));
    let provider = replica(&stage, &store);
    let refreshing = tokio::spawn(async move { provider.token().await.unwrap_err() });
    pass(secs(1)).await;
    store.sign_in().sign_out().await.unwrap();
    let error = refreshing.await.unwrap();
    assert_eq!(error.kind(), ErrorKind::NotSignedIn, "{error}");
    assert!(error.to_string().contains("was signed out"), "{error}");
    assert!(store.sign_in().load().await.unwrap().is_none());
    assert!(
        store.quarantined().await.is_empty(),
        "no valid token is left"
    );
}

#[tokio::test(start_paused = true)]
async fn a_fresh_sign_in_or_sign_out_takes_effect_in_the_provider_immediately() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    let sign_in = store.sign_in();
    let provider = CachedProvider::stored(stage.web(), sign_in.clone()).build();
    let served = || async {
        provider
            .token()
            .await
            .map(|token| token.expose().to_owned())
    };
    assert_eq!(served().await.unwrap(), first.access_token().expose());

    let fresh = stage.web_sign_in().await;
    sign_in.put(&fresh).await.unwrap();
    assert!(provider.cached().is_none());
    assert_eq!(served().await.unwrap(), fresh.access_token().expose());

    // A repeated put of the same sign-in costs no refresh.
    stage.network.cut(Interruption::Refused);
    sign_in.put(&fresh).await.unwrap();
    assert_eq!(served().await.unwrap(), fresh.access_token().expose());

    // Nothing can have changed if the store can't even be read.
    store.with(|rig| rig.down = true);
    sign_in.put(&first).await.unwrap_err();
    assert_eq!(served().await.unwrap(), fresh.access_token().expose());
    store.with(|rig| rig.down = false);

    sign_in.sign_out().await.unwrap();
    assert!(provider.cached().is_none());
    let after = served().await.unwrap_err();
    assert_eq!(after.kind(), ErrorKind::NotSignedIn, "{after}");
}

#[tokio::test(start_paused = true)]
async fn a_failing_refresh_of_the_former_sign_in_is_no_error_of_a_fresh_one() {
    let stage = Stage::new();
    let (store, _) = signed_in(&stage).await;
    let sign_in = store.sign_in();
    let provider = CachedProvider::stored(stage.web(), sign_in.clone()).build();
    pass(secs(1000)).await;
    let fresh = stage.web_sign_in().await;
    stage.network.takes(secs(20));
    let faults = stage.mock.faults();
    faults.add(Fault::status(503), Target::refresh(), Times::Next(100));
    let former = tokio::spawn({
        let provider = provider.clone();
        async move { provider.token().await }
    });
    pass(secs(1)).await;
    sign_in.put(&fresh).await.unwrap();
    let after = provider.token().await.unwrap();
    assert_eq!(after.expose(), fresh.access_token().expose());
    let former = former.await.unwrap().unwrap();
    assert_eq!(former.expose(), fresh.access_token().expose());
}

// The sign-in ends

#[tokio::test(start_paused = true)]
async fn an_ended_sign_in_is_reported_without_requests_until_a_new_sign_in() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    let refresh_token = first.refresh_token().unwrap().expose();
    assert!(stage.mock.revoke_sign_in(refresh_token));
    pass(secs(1000)).await;
    let (one, other) = (replica(&stage, &store), replica(&stage, &store));
    let error = one.token().await.unwrap_err();
    assert!(error.needs_sign_in(), "{error}");
    assert!(error.log_id().is_some());
    let before = stage.network.attempts();
    for _ in 0..100 {
        let error = other.token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotSignedIn, "{error}");
        assert!(one.token().await.unwrap_err().needs_sign_in());
        pass(millis(500)).await;
    }
    assert_eq!(stage.network.attempts(), before, "it is not sent again");
    let ended = store.record().await;
    assert!(holds(&ended, &first), "kept");
    assert_eq!(
        ended.ended().unwrap().code(),
        Some(&ErrorCode::InvalidGrant)
    );

    let fresh = stage.web_sign_in().await;
    store.sign_in().put(&fresh).await.unwrap();
    assert!(holds(&store.quarantined().await[0], &first));
    for provider in [&one, &other] {
        let token = provider.token().await.unwrap();
        assert_eq!(token.expose(), fresh.access_token().expose());
    }
}

#[tokio::test(start_paused = true)]
async fn invalid_grant_is_ignored_if_the_record_has_changed() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    pass(secs(1000)).await;
    stage.network.takes(secs(5));
    assert!(
        stage
            .mock
            .revoke_sign_in(first.refresh_token().unwrap().expose())
    );
    let provider = replica(&stage, &store);
    let refreshing = tokio::spawn(async move { provider.token().await.unwrap() });
    pass(secs(1)).await;
    stage.network.takes(Duration::ZERO);
    let fresh = stage.web_sign_in().await;
    store.sign_in().put(&fresh).await.unwrap();
    let got = refreshing.await.unwrap();
    assert_eq!(got.expose(), fresh.access_token().expose());
    assert!(store.record().await.ended().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_replaced_just_before_it_is_marked_ended_is_used() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    let refresh_token = first.refresh_token().unwrap().expose();
    assert!(stage.mock.revoke_sign_in(refresh_token));
    pass(secs(1000)).await;
    let fresh = stage.web_sign_in().await;
    store.with(|rig| rig.moves_on_to = Some(fresh.clone()));
    let got = replica(&stage, &store).token().await.unwrap();
    assert_eq!(got.expose(), fresh.access_token().expose());
    assert_nothing_lost(&stage, &fresh, &store.record().await);
}

#[tokio::test(start_paused = true)]
async fn a_missing_sign_in_is_an_error_without_backoff() {
    let stage = Stage::new();
    let store = FaultyStore::new();
    let provider = replica(&stage, &store);
    let error = provider.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSignedIn, "{error}");
    assert!(error.needs_sign_in());
    assert_eq!(stage.network.attempts(), 0);
    let first = stage.web_sign_in().await;
    store.sign_in().put(&first).await.unwrap();
    assert!(provider.token().await.is_ok(), "without a backoff");
}

#[tokio::test(start_paused = true)]
async fn only_a_lost_response_ends_a_sign_in() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    pass(secs(1000)).await;
    let provider = replica(&stage, &store);
    let lost = Fault::ConnectionReset {
        when: When::AfterProcessing,
    };
    let faults = stage.mock.faults();
    faults.add(lost, Target::refresh(), Times::ONCE);
    let error = provider.token().await.unwrap_err();
    assert!(error.needs_sign_in(), "{error}");
    assert_eq!(
        refreshes(&stage, &first),
        1,
        "redeemed with a lost response"
    );
    assert!(store.record().await.ended().is_some());
}

// Rules of the protocol over time

#[tokio::test(start_paused = true)]
async fn the_intent_is_rewritten_before_every_attempt_and_withdrawn_after_the_last() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    pass(secs(1000)).await;
    let faults = stage.mock.faults();
    faults.add(
        Fault::too_many_requests(1),
        Target::refresh(),
        Times::Forever,
    );
    let provider = replica(&stage, &store);
    let before = stage.network.attempts();
    provider.token().await.unwrap_err();
    let sent = (stage.network.attempts() - before) as usize;
    assert!(sent >= 3, "{sent}");
    let written = store.with(|rig| std::mem::take(&mut rig.written));
    let intents = written.iter().filter_map(|record| record.get("intents"));
    let holds: Vec<u64> = intents
        .filter_map(|intents| intents[0]["hold_ms"].as_u64())
        .collect();
    assert_eq!(holds.len(), sent);
    assert!(
        holds.is_sorted_by(|before, after| before > after),
        "{holds:?}: the rest of the lock"
    );
    let last = written.last().unwrap();
    assert!(
        last.get("intents").is_none() && last.get("not_before").is_some(),
        "{last}"
    );
    assert_eq!(refreshes(&stage, &first), 0);
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_applies_to_other_replicas_until_a_new_sign_in() {
    let stage = Stage::new();
    let (store, _) = signed_in(&stage).await;
    pass(secs(1000)).await;
    let faults = stage.mock.faults();
    faults.add(
        Fault::too_many_requests(600),
        Target::refresh(),
        Times::ONCE,
    );
    replica(&stage, &store).token().await.unwrap_err();
    let before = stage.network.attempts();
    let other = replica(&stage, &store);
    let began = Instant::now();
    let error = other.token().await.unwrap_err();
    assert_eq!(began.elapsed(), Duration::ZERO, "at once");
    assert_eq!(crate::support::status(&error), Some(429));
    let left = error.retry_after().unwrap();
    assert!(
        left > secs(10) && left <= secs(15),
        "{left:?}: at most 15 s"
    );
    assert_eq!(stage.network.attempts(), before);
    let fresh = stage.web_sign_in().await;
    store.sign_in().put(&fresh).await.unwrap();
    let third = replica(&stage, &store).token().await.unwrap();
    assert_eq!(third.expose(), fresh.access_token().expose());
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_server_backs_off_only_the_processes_of_one_machine() {
    for is_process_bound in [true, false] {
        let stage = Stage::new();
        let (store, _) = signed_in(&stage).await;
        store.with(|rig| rig.is_process_bound = is_process_bound);
        pass(secs(1000)).await;
        stage.network.cut(Interruption::Refused);
        replica(&stage, &store).token().await.unwrap_err();
        let before = stage.network.attempts();
        let error = replica(&stage, &store).token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
        let sent = stage.network.attempts() - before;
        assert_eq!(sent == 0, is_process_bound, "{sent}");
        stage.network.repair();
        pass(secs(16)).await;
        assert!(replica(&stage, &store).token().await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn programs_waiting_for_the_lock_do_not_repeat_a_failed_refresh() {
    let stage = Stage::new();
    let (store, _) = signed_in(&stage).await;
    store.with(|rig| rig.is_process_bound = true);
    pass(secs(1000)).await;
    stage.network.cut(Interruption::Refused);
    let (before, began) = (stage.network.attempts(), Instant::now());
    let programs: Vec<_> = (0..20)
        .map(|_| {
            let program = replica(&stage, &store);
            tokio::spawn(async move { program.token().await.unwrap_err().kind() })
        })
        .collect();
    for program in programs {
        assert_eq!(program.await.unwrap(), ErrorKind::Connect);
    }
    assert_eq!(
        stage.network.attempts() - before,
        5,
        "the attempts of one program"
    );
    assert!(began.elapsed() < secs(10), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_after_a_suspend_longer_than_the_lock() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    pass(secs(1000)).await;
    // Suspended between lock and request: only the wall clock shows it.
    let clock = stage.clock.clone();
    store.with(|rig| rig.suspends = Some(Box::new(move || clock.set_wall_offset_secs(300))));
    let before = stage.network.attempts();
    let token = replica(&stage, &store).token().await.unwrap();
    assert!(stage.takes(&token));
    assert_eq!(stage.network.attempts() - before, 1, "with a new lock");
    let written = store.with(|rig| std::mem::take(&mut rig.written));
    let intents = written
        .iter()
        .filter(|record| record.get("intents").is_some());
    assert_eq!(intents.count(), 2, "the first was abandoned");
    assert_nothing_lost(&stage, &first, &store.record().await);
}

#[tokio::test(start_paused = true)]
async fn a_suspend_between_two_attempts_is_followed_by_an_immediate_attempt() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    pass(secs(1000)).await;
    let unavailable = Fault::Status {
        status: 503,
        body: FaultBody::Empty,
        retry_after: None,
    };
    let faults = stage.mock.faults();
    faults.add(unavailable, Target::refresh(), Times::ONCE);
    let suspend = async {
        while !stage.mock.faults().pending().is_empty() {
            tokio::task::yield_now().await;
        }
        stage.clock.set_wall_offset_secs(300);
    };
    let provider = replica(&stage, &store);
    let (token, ()) = tokio::join!(provider.token(), suspend);
    assert!(stage.takes(&token.unwrap()));
    assert_nothing_lost(&stage, &first, &store.record().await);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_lost_its_lock_is_awaited_as_if_it_held_it() {
    let stage = Stage::of(MockCoze::builder().reuse_revokes_family(true));
    let (store, first) = signed_in(&stage).await;
    pass(secs(1000)).await;
    // Its lock disappears after a second, as after a failover; its intent does not.
    let cut_short = store.another();
    cut_short.with(|rig| rig.ttl = Some(secs(1)));
    stage.network.takes(secs(8));
    let (slow, other) = (replica(&stage, &cut_short), replica(&stage, &store));
    let former = tokio::spawn(async move { slow.token().await.unwrap() });
    pass(secs(3)).await;
    let got = other.token().await.unwrap();
    assert_eq!(former.await.unwrap().expose(), got.expose());
    assert_eq!(refreshes(&stage, &first), 1);
    assert_nothing_lost(&stage, &first, &store.record().await);
}

#[tokio::test(start_paused = true)]
async fn a_save_that_a_failover_rolled_back_is_repeated() {
    let stage = Stage::of(MockCoze::builder().reuse_revokes_family(true));
    let (store, first) = signed_in(&stage).await;
    let key = FaultyStore::key();
    let old = store.store.load(&key).await.unwrap().unwrap();
    pass(secs(1000)).await;
    let provider = replica(&stage, &store);
    let token = provider.token().await.unwrap();
    let now = store.store.load(&key).await.unwrap().unwrap();
    let back = store
        .store
        .compare_and_set(&key, Some(&now.version), Some(&old.contents));
    assert_ne!(back.await.unwrap(), CompareAndSet::Conflict);
    assert_eq!(
        store.record().await.refresh_token().expose(),
        first.refresh_token().unwrap().expose()
    );
    provider.invalidate(&token);
    assert!(stage.takes(&provider.token().await.unwrap()));
    assert_eq!(refreshes(&stage, &first), 2);
    assert_nothing_lost(&stage, &first, &store.record().await);
}

#[tokio::test(start_paused = true)]
async fn a_stored_token_of_unknown_age_is_refreshed() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    store.with(|rig| rig.knows_no_age = true);
    assert!(stage.takes(&replica(&stage, &store).token().await.unwrap()));
    assert_eq!(refreshes(&stage, &first), 1);
    assert_nothing_lost(&stage, &first, &store.record().await);
}

#[tokio::test(start_paused = true)]
async fn a_new_version_alone_does_not_end_the_wait_for_another_owner() {
    let stage = Stage::new();
    let (store, first) = signed_in(&stage).await;
    pass(secs(1000)).await;
    // With an unknown age, a rewritten record does not look fresher.
    store.with(|rig| rig.knows_no_age = true);
    let other = store.hold_lock(secs(40)).await;
    let before = stage.network.attempts();
    let provider = replica(&stage, &store);
    let waiting = tokio::spawn(async move { provider.token().await.unwrap() });
    let key = FaultyStore::key();
    for _ in 0..10 {
        pass(secs(1)).await;
        // The same record, rewritten.
        let now = store.store.load(&key).await.unwrap().unwrap();
        let mut longer = now.contents.expose().to_vec();
        longer.push(b' ');
        let again = longer.into();
        let set = store
            .store
            .compare_and_set(&key, Some(&now.version), Some(&again));
        assert_ne!(set.await.unwrap(), CompareAndSet::Conflict);
    }
    assert_eq!(stage.network.attempts(), before);
    assert!(!waiting.is_finished());
    store.unlock(&other).await;
    assert!(stage.takes(&waiting.await.unwrap()));
    assert_eq!(refreshes(&stage, &first), 1);
}

fn holds(record: &Record, token: &Token) -> bool {
    token.refresh_token().unwrap().expose() == record.refresh_token().expose()
}
