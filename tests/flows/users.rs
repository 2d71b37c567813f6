//! A pool of signed-in users: no user may get another user's token or lose a sign-in, and a hundred thousand users
//! are still one client for the server.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use coze_auth::{
    AccessToken, ErrorKind, Token, TokenProvider, UserPool,
    store::{
        CompareAndSet, Contents, Key, MemoryStore, Owner, Profile, Store, StoreError,
        StoreErrorKind, StoreFuture, Stored, TryLock, Version,
    },
};
use tokio::time::Instant;

use crate::support::{Interruption, Stage, millis, pass, secs};

/// A pool of some users who have signed in.
async fn pool(stage: &Stage, users: u32) -> (UserPool, HashMap<String, Token>) {
    let pool = UserPool::builder(stage.web(), MemoryStore::new()).build();
    let signed_in = sign_in(stage, &pool, users).await;
    (pool, signed_in)
}

async fn sign_in(stage: &Stage, pool: &UserPool, users: u32) -> HashMap<String, Token> {
    let mut signed_in = HashMap::new();
    for number in 0..users {
        let user = format!("user-{number}");
        let token = stage.web_sign_in().await;
        pool.user(&user).put(&token).await.unwrap();
        signed_in.insert(user, token);
    }
    signed_in
}

/// The number of generations of a user's sign-in; also checks that none was lost.
fn generations(stage: &Stage, first: &Token) -> usize {
    let refresh_token = first.refresh_token().unwrap().expose();
    let sign_in = stage.mock.sign_in_of(refresh_token).unwrap();
    assert_eq!(sign_in.reuse_attempts(), 0);
    sign_in.generations.len()
}

async fn token(pool: &UserPool, user: &str) -> AccessToken {
    pool.user(user).token().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_user_gets_the_stored_token_without_a_request() {
    let stage = Stage::new();
    let (pool, signed_in) = pool(&stage, 20).await;
    let before = stage.network.attempts();
    for _ in 0..3 {
        for (user, first) in &signed_in {
            let token = token(&pool, user).await;
            assert_eq!(token.expose(), first.access_token().expose());
        }
    }
    assert_eq!(stage.network.attempts(), before);
    let stats = pool.stats();
    assert_eq!(
        (stats.refreshes, stats.loaded_from_store, stats.requests),
        (20, 20, 0)
    );
    assert_eq!((stats.cached, stats.served_from_cache), (20, 40));
}

#[tokio::test(start_paused = true)]
async fn users_stay_signed_in_for_hours() {
    let stage = Stage::new();
    let (pool, signed_in) = pool(&stage, 5).await;
    for _ in 0..300 {
        for user in signed_in.keys() {
            let (one, other) = (pool.user(user), pool.user(user));
            let (one, other) = tokio::join!(one.token(), other.token());
            assert_eq!(one.as_ref().unwrap().expose(), other.unwrap().expose());
            assert!(stage.takes(&one.unwrap()));
        }
        pass(secs(20)).await;
    }
    pool.shutdown().await.unwrap();
    for first in signed_in.values() {
        let generations = generations(&stage, first);
        assert!((7..=10).contains(&generations), "{generations} in 6,000 s");
    }
    let stats = pool.stats();
    assert!((30..46).contains(&stats.requests), "{stats:?}");
    assert_eq!(stats.failures, 0);
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn an_idle_user_is_evicted_and_loaded_again_from_the_store() {
    let stage = Stage::new();
    let builder = UserPool::builder(stage.web(), MemoryStore::new());
    let pool = builder.idle_timeout(secs(100)).build();
    let signed_in = sign_in(&stage, &pool, 2).await;
    let before = stage.network.attempts();
    token(&pool, "user-0").await;
    pass(secs(200)).await;
    assert_eq!(pool.stats().cached, 0);
    let again = token(&pool, "user-0").await;
    assert_eq!(again.expose(), signed_in["user-0"].access_token().expose());
    assert_eq!(stage.network.attempts(), before);
}

#[tokio::test(start_paused = true)]
async fn the_capacity_is_respected() {
    let stage = Stage::new();
    let builder = UserPool::builder(stage.web(), MemoryStore::new());
    let pool = builder.capacity(10).build();
    let signed_in = sign_in(&stage, &pool, 30).await;
    for (user, first) in &signed_in {
        let token = token(&pool, user).await;
        assert_eq!(token.expose(), first.access_token().expose());
    }
    assert!(pool.stats().cached <= 10);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_not_returned_by_the_next_provider() {
    let stage = Stage::new();
    let builder = UserPool::builder(stage.web(), MemoryStore::new());
    let pool = builder.capacity(2).build();
    let signed_in = sign_in(&stage, &pool, 30).await;
    let refused = token(&pool, "user-0").await;
    assert!(stage.mock.revoke_access_token(refused.expose()));
    // The handle is dropped, and other users fill the pool.
    pool.user("user-0").invalidate(&refused);
    for user in signed_in.keys().filter(|user| *user != "user-0") {
        token(&pool, user).await;
    }
    pass(secs(60)).await;
    let next = token(&pool, "user-0").await;
    assert_ne!(next.expose(), refused.expose());
    assert!(stage.takes(&next));
    assert_eq!(generations(&stage, &signed_in["user-0"]), 2);
    // The refusal is reported late, after its token was evicted.
    let refused = token(&pool, "user-1").await;
    // An entry that is used more often than others stays longer, and the order of the users is random.
    for user in signed_in.keys().filter(|user| *user != "user-1") {
        for _ in 0..8 {
            token(&pool, user).await;
        }
    }
    assert!(pool.user("user-1").cached().is_none());
    pool.user("user-1").invalidate(&refused);
    assert_ne!(token(&pool, "user-1").await.expose(), refused.expose());
}

#[tokio::test(start_paused = true)]
async fn an_api_that_refuses_every_token_does_not_cause_a_refresh_per_call() {
    let stage = Stage::new();
    let (pool, signed_in) = pool(&stage, 1).await;
    for _ in 0..100 {
        let refused = token(&pool, "user-0").await;
        pool.user("user-0").invalidate(&refused);
        pass(millis(10)).await;
    }
    assert_eq!(generations(&stage, &signed_in["user-0"]), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_sign_in_or_sign_out_takes_effect_immediately() {
    let stage = Stage::new();
    let (pool, _) = pool(&stage, 1).await;
    let alice = pool.user("user-0");
    alice.token().await.unwrap();
    let fresh = stage.web_sign_in().await;
    alice.put(&fresh).await.unwrap();
    let served = alice.token().await.unwrap();
    assert_eq!(served.expose(), fresh.access_token().expose());
    alice.sign_out().await.unwrap();
    let error = alice.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSignedIn, "{error}");
    assert!(alice.sign_in().unwrap().requires_sign_in().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_invalid_profile_name_is_an_error_of_the_caller() {
    let stage = Stage::new();
    let (pool, _) = pool(&stage, 0).await;
    let error = pool.user("").token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_limits_requests_and_serves_stored_tokens() {
    let stage = Stage::new();
    let builder = UserPool::builder(stage.web(), MemoryStore::new());
    let pool = builder.max_concurrent_requests(4).build();
    let signed_in = sign_in(&stage, &pool, 40).await;
    pass(secs(1000)).await;
    let fresh = stage.web_sign_in().await;
    stage.network.cut(Interruption::Refused);
    let before = stage.network.attempts();
    for _ in 0..10 {
        let asks = signed_in.keys().map(|user| {
            let user = pool.user(user);
            async move { user.token().await.map(drop).unwrap_err() }
        });
        for error in futures_join(asks).await {
            assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
            assert!(error.retry_after().is_some(), "{error}");
        }
        pass(secs(1)).await;
    }
    let attempts = stage.network.attempts() - before;
    assert!((4..=60).contains(&attempts), "{attempts} attempts");
    // A sign-in by another replica needs no request.
    let sign_in = pool.user("user-1").sign_in().unwrap();
    sign_in.put(&fresh).await.unwrap();
    pass(secs(1)).await;
    let served = token(&pool, "user-1").await;
    assert_eq!(served.expose(), fresh.access_token().expose());

    stage.network.repair();
    pass(secs(16)).await;
    for user in signed_in.keys() {
        assert!(stage.takes(&token(&pool, user).await));
    }
    for first in signed_in.values() {
        generations(&stage, first);
    }
}

async fn futures_join<F>(futures: impl Iterator<Item = F>) -> Vec<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    let tasks: Vec<_> = futures.map(tokio::spawn).collect();
    let mut outputs = Vec::new();
    for task in tasks {
        outputs.push(task.await.unwrap());
    }
    outputs
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_refreshes_in_flight_and_starts_no_other() {
    let stage = Stage::new();
    let (pool, signed_in) = pool(&stage, 10).await;
    for user in signed_in.keys() {
        token(&pool, user).await;
    }
    pass(secs(890)).await;
    stage.network.takes(secs(3));
    for user in signed_in.keys() {
        assert!(pool.user(user).cached().is_some(), "a refresh begins");
    }
    let began = Instant::now();
    pass(secs(1)).await;
    pool.shutdown().await.unwrap();
    assert_eq!(began.elapsed(), secs(3));
    for first in signed_in.values() {
        assert_eq!(generations(&stage, first), 2);
    }
    pass(secs(900)).await;
    let error = pool.user("user-0").token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ShutDown);
}

/// A store in which another owner never releases the locks of some users, and releases the locks of others
/// late, whose quarantine hangs for others, and which can fail to save.
#[derive(Clone)]
struct OneStuck {
    store: Arc<MemoryStore>,
    fails_to_save: Arc<Mutex<bool>>,
}

impl Store for OneStuck {
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        if key.profile().name().starts_with("hangs") && key.slot().is_some() {
            return Box::pin(std::future::pending());
        }
        self.store.load(key)
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        new: Option<&'a Contents>,
    ) -> StoreFuture<'a, CompareAndSet> {
        // Intents are accepted, so that the refresh is sent.
        let is_intent = new.is_some_and(|new| {
            let json = std::str::from_utf8(new.expose()).unwrap();
            json.contains("\"intents\"")
        });
        if *self.fails_to_save.lock().unwrap() && !is_intent {
            let full = StoreError::new(StoreErrorKind::Full, "full");
            return Box::pin(async { Err(full) });
        }
        self.store.compare_and_set(key, expected, new)
    }

    fn try_lock<'a>(
        &'a self,
        key: &'a Key,
        owner: &'a Owner,
        ttl: Duration,
    ) -> StoreFuture<'a, TryLock> {
        if key.profile().name().starts_with("stuck") {
            return Box::pin(async { Ok(TryLock::Held { by: None }) });
        }
        self.store.try_lock(key, owner, ttl)
    }

    fn unlock<'a>(&'a self, key: &'a Key, owner: &'a Owner) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            if key.profile().name().starts_with("slow") {
                tokio::time::sleep(secs(1)).await;
            }
            self.store.unlock(key, owner).await
        })
    }

    fn list(&self) -> StoreFuture<'_, Option<Vec<Profile>>> {
        self.store.list()
    }
}

#[tokio::test(start_paused = true)]
async fn users_with_stuck_locks_do_not_block_others() {
    let stage = Stage::new();
    let store = OneStuck {
        store: Arc::new(MemoryStore::new()),
        fails_to_save: Arc::default(),
    };
    let builder = UserPool::builder(stage.web(), store);
    let pool = builder.max_concurrent_requests(2).build();
    for user in ["stuck-1", "stuck-2", "stuck-3", "free"] {
        let token = stage.web_sign_in().await;
        pool.user(user).put(&token).await.unwrap();
    }
    pass(secs(1000)).await;
    let stuck: Vec<_> = (1..=3)
        .map(|number| {
            let user = pool.user(format!("stuck-{number}"));
            tokio::spawn(async move { user.token().await.map(drop).unwrap_err() })
        })
        .collect();
    pass(secs(1)).await;
    let began = Instant::now();
    token(&pool, "free").await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    for stuck in stuck {
        assert_eq!(
            stuck.await.unwrap().kind(),
            ErrorKind::Store(StoreErrorKind::Busy)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_finishing_refresh_does_not_undo_a_sign_out() {
    let stage = Stage::new();
    let store = OneStuck {
        store: Arc::new(MemoryStore::new()),
        fails_to_save: Arc::default(),
    };
    let pool = UserPool::builder(stage.web(), store).build();
    let user = pool.user("slow-1");
    user.put(&stage.web_sign_in().await).await.unwrap();
    pass(secs(1000)).await;
    let asking = tokio::spawn({
        let user = user.clone();
        async move { user.token().await.map(drop) }
    });
    // The successor is saved, but the lock is not released.
    pass(millis(500)).await;
    user.sign_out().await.unwrap();
    // A caller from before the sign-out may get a token; it is not cached.
    let _ = asking.await.unwrap();
    assert!(user.cached().is_none());
    let after = user.token().await.unwrap_err();
    assert_eq!(after.kind(), ErrorKind::NotSignedIn);
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_whose_future_is_dropped_leaves_no_token_in_the_pool() {
    let stage = Stage::new();
    let store = OneStuck {
        store: Arc::new(MemoryStore::new()),
        fails_to_save: Arc::default(),
    };
    let pool = UserPool::builder(stage.web(), store).build();
    let user = pool.user("hangs-1");
    user.put(&stage.web_sign_in().await).await.unwrap();
    user.token().await.unwrap();
    // As when a browser closes the connection of its sign-out.
    let signed_out = tokio::time::timeout(secs(1), user.sign_out()).await;
    assert!(signed_out.is_err(), "the quarantine is not deleted yet");
    let after = user.token().await.unwrap_err();
    assert_eq!(after.kind(), ErrorKind::NotSignedIn, "{after}");
}

#[tokio::test(start_paused = true)]
async fn the_shutdown_of_a_user_waits_for_its_refresh_and_leaves_the_pool_running() {
    let stage = Stage::new();
    let (pool, _) = pool(&stage, 2).await;
    pass(secs(1000)).await;
    stage.network.takes(secs(5));
    let user = pool.user("user-0");
    let asking = tokio::spawn({
        let user = user.clone();
        async move { user.token().await.map(drop) }
    });
    pass(secs(1)).await;
    let began = Instant::now();
    TokenProvider::shutdown(&user).await.unwrap();
    assert!(began.elapsed() >= secs(4), "{:?}", began.elapsed());
    assert!(user.cached().is_some());
    asking.await.unwrap().unwrap();
    token(&pool, "user-1").await;
}

#[tokio::test(start_paused = true)]
async fn an_unsaved_sign_in_is_reported_and_kept_until_it_is_saved() {
    let stage = Stage::new();
    let store = OneStuck {
        store: Arc::new(MemoryStore::new()),
        fails_to_save: Arc::default(),
    };
    let fails_to_save = Arc::clone(&store.fails_to_save);
    let pool = UserPool::builder(stage.web(), store)
        .capacity(1)
        .idle_timeout(secs(1))
        .build();
    let signed_in = sign_in(&stage, &pool, 3).await;
    pass(secs(1000)).await;
    *fails_to_save.lock().unwrap() = true;
    let unsaved = token(&pool, "user-0").await;
    assert!(stage.takes(&unsaved));
    assert_eq!(pool.stats().unsaved, 1);
    // Its token was evicted, but its sign-in is kept.
    pass(secs(100)).await;
    assert_eq!(pool.stats().cached, 0);
    assert_eq!(token(&pool, "user-0").await.expose(), unsaved.expose());
    assert!(pool.shutdown().await.is_err());
    *fails_to_save.lock().unwrap() = false;
    pool.shutdown().await.unwrap();
    assert_eq!(pool.stats().unsaved, 0);
    assert_eq!(generations(&stage, &signed_in["user-0"]), 2);
}

#[tokio::test(start_paused = true)]
async fn debug_output_contains_no_secret() {
    let stage = Stage::new();
    let builder = UserPool::builder(stage.web(), MemoryStore::new());
    let mut shown = format!("{builder:?}");
    let pool = builder.build();
    let signed_in = sign_in(&stage, &pool, 1).await;
    let token = token(&pool, "user-0").await;
    shown += &format!("{pool:?} {:?} {:?}", pool.user("user-0"), pool.stats());
    for secret in [
        token.expose(),
        signed_in["user-0"].refresh_token().unwrap().expose(),
        coze_mock::defaults::WEB_CLIENT_SECRET,
    ] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
