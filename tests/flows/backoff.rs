//! What is retried and when, and that a new sign-in ends a backoff, wherever it was stored.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use coze_auth::{
    AccessToken, CachedProvider, Error, ErrorCode, ErrorKind, JwtFlow, SignFuture, SignIn, Signer,
    TokenProvider, store::MemoryStore,
};
use coze_mock::defaults;
use tokio::time::Instant;

use crate::support::{Interruption, Stage, edit_json, millis, pass, secs};

/// A sign-in in a store that other processes use too.
async fn signed_in(stage: &Stage) -> (Arc<MemoryStore>, SignIn) {
    let store = Arc::new(MemoryStore::new());
    let sign_in = SignIn::new(Arc::clone(&store), "default").unwrap();
    sign_in.put(&stage.web_sign_in().await).await.unwrap();
    (store, sign_in)
}

async fn refused(stage: &Stage, provider: &CachedProvider) {
    let live = stage.mock.ledger().pop().unwrap();
    assert!(live.live_refresh_token().is_some());
    let token = provider.token().await.unwrap();
    provider.invalidate(&token);
    // Some attempts fail first, to increase the backoff.
    stage.network.cut(Interruption::Refused);
    for _ in 0..4 {
        let error = provider.token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
        pass(error.retry_after().unwrap()).await;
    }
    let error = provider.token().await.unwrap_err();
    let backoff = error.retry_after().unwrap();
    assert!(backoff > secs(5), "{backoff:?}");
}

#[tokio::test(start_paused = true)]
async fn a_new_sign_in_ends_the_backoff_of_an_outage() {
    let stage = Stage::new();
    let (_, sign_in) = signed_in(&stage).await;
    let provider = CachedProvider::stored(stage.web(), sign_in.clone()).build();
    refused(&stage, &provider).await;
    stage.network.repair();
    let fresh = stage.web_sign_in().await;
    sign_in.put(&fresh).await.unwrap();
    let began = Instant::now();
    let token = provider.token().await.unwrap();
    assert_eq!(token.expose(), fresh.access_token().expose());
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_new_sign_in_by_another_replica_is_used_within_a_second() {
    let stage = Stage::new();
    let (store, sign_in) = signed_in(&stage).await;
    let provider = CachedProvider::stored(stage.web(), sign_in).build();
    refused(&stage, &provider).await;
    stage.network.repair();
    let attempts = stage.network.attempts();
    // It loads the record, finds no change, and does not load again immediately.
    provider.token().await.unwrap_err();
    let other = SignIn::new(store, "default").unwrap();
    let fresh = stage.web_sign_in().await;
    let signing_in = stage.network.attempts() - attempts;
    other.put(&fresh).await.unwrap();
    let began = Instant::now();
    let token = loop {
        match provider.token().await {
            Ok(token) => break token,
            Err(_) => pass(millis(50)).await,
        }
    };
    assert_eq!(token.expose(), fresh.access_token().expose());
    assert!(began.elapsed() <= secs(1), "{:?}", began.elapsed());
    assert_eq!(
        stage.network.attempts() - attempts,
        signing_in,
        "it only loads the record"
    );
}

#[tokio::test(start_paused = true)]
async fn a_new_sign_in_after_invalid_grant_is_used_immediately() {
    let stage = Stage::new();
    let store = MemoryStore::new();
    let sign_in = SignIn::new(store, "default").unwrap();
    let first = stage.web_sign_in().await;
    sign_in.put(&first).await.unwrap();
    let provider = CachedProvider::stored(stage.web(), sign_in.clone()).build();
    let token = provider.token().await.unwrap();
    let refresh_token = first.refresh_token().unwrap().expose();
    assert!(stage.mock.revoke_sign_in(refresh_token));
    provider.invalidate(&token);
    let error = provider.token().await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::InvalidGrant), "{error}");

    let fresh = stage.web_sign_in().await;
    sign_in.put(&fresh).await.unwrap();
    let token = provider.token().await.unwrap();
    assert_eq!(token.expose(), fresh.access_token().expose());
}

#[tokio::test(start_paused = true)]
async fn during_a_backoff_the_store_is_loaded_once_a_second_and_no_request_is_sent() {
    let stage = Stage::new();
    let (_, sign_in) = signed_in(&stage).await;
    let provider = CachedProvider::stored(stage.web(), sign_in).build();
    refused(&stage, &provider).await;
    let (attempts, stats) = (stage.network.attempts(), provider.stats());
    for _ in 0..40 {
        provider.token().await.unwrap_err();
        pass(millis(100)).await;
    }
    assert_eq!(stage.network.attempts(), attempts);
    let now = provider.stats();
    assert_eq!(now.refreshes, stats.refreshes, "loading is not a refresh");
    assert_eq!(
        now.requests,
        attempts - 1,
        "all requests except the sign-in"
    );
}

#[tokio::test(start_paused = true)]
async fn a_response_with_an_expired_token_causes_one_refresh_and_then_a_backoff() {
    let stage = Stage::new();
    let (_, sign_in) = signed_in(&stage).await;
    let provider = CachedProvider::stored(stage.web(), sign_in).build();
    let token = provider.token().await.unwrap();
    provider.invalidate(&token);
    stage.network.rewrites(|response| {
        edit_json(response, |json| json["expires_in"] = 0.into());
    });
    let before = stage.network.attempts();
    for _ in 0..100 {
        let error = provider.token().await.unwrap_err();
        assert!(error.retry_after().is_some(), "{error}");
        pass(millis(4)).await;
    }
    assert_eq!(stage.network.attempts() - before, 1);
    // The backoff grows.
    for _ in 0..100 {
        provider.token().await.unwrap_err();
        pass(millis(600)).await;
    }
    let attempts = stage.network.attempts() - before;
    assert!(attempts <= 10, "{attempts} in a minute");
}

/// A key service whose first calls fail.
struct FailingSigner {
    failures: AtomicU32,
    transient: bool,
}

impl Signer for FailingSigner {
    fn sign<'a>(&'a self, message: &'a [u8]) -> SignFuture<'a> {
        Box::pin(async move {
            let left = self.failures.load(Ordering::SeqCst);
            if left == 0 {
                let key = coze_auth::PrivateKey::from_pem(defaults::jwt_private_key_pem()?)?;
                return key.sign(message).await;
            }
            self.failures.store(left - 1, Ordering::SeqCst);
            let error = Error::of_provider("the key service is busy", "code 17");
            Err(if self.transient {
                error.transient()
            } else {
                error
            }
            .into())
        })
    }
}

fn signing(stage: &Stage, failures: u32, transient: bool) -> CachedProvider {
    let flow = JwtFlow::new(
        stage.client(),
        defaults::JWT_CLIENT_ID.into(),
        defaults::JWT_PUBLIC_KEY_ID.into(),
        FailingSigner {
            failures: failures.into(),
            transient,
        },
    );
    CachedProvider::jwt(flow.unwrap()).build()
}

#[tokio::test(start_paused = true)]
async fn a_temporary_failure_of_the_signer_is_retried() {
    let stage = Stage::new();
    let provider = signing(&stage, 3, true);
    let token = provider.token().await.unwrap();
    assert!(stage.takes(&token));
    assert_eq!(stage.network.attempts(), 1, "nothing was sent before");
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_of_the_signer_is_not_retried() {
    let stage = Stage::new();
    let error = signing(&stage, 1, false).token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Signing);
    for cause in ["the key service is busy", "code 17"] {
        assert!(error.to_string().contains(cause), "{error}");
    }
    let error = signing(&stage, 9, true).token().await.unwrap_err();
    assert!(error.to_string().contains("code 17"), "{error}");
}

// Custom exchanges

/// A gateway whose first calls fail, and which then returns tokens that live 100 seconds.
fn gateway(stage: &Stage, failures: u32, transient: bool) -> (CachedProvider, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    let exchange = move || {
        let number = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            pass(millis(50)).await;
            if number < failures {
                let error = Error::of_provider("the gateway is down", "code 17");
                return Err(if transient { error.transient() } else { error });
            }
            Ok((AccessToken::new(format!("gw_{number}"))?, secs(100)))
        }
    };
    let provider = CachedProvider::from_fn(exchange).test_clock(stage.clock.clone());
    (provider.build(), asked)
}

#[tokio::test(start_paused = true)]
async fn a_custom_exchange_is_shared_and_refreshed_ahead_of_expiry() {
    let stage = Stage::new();
    let (provider, asked) = gateway(&stage, 0, false);
    let (one, other) = tokio::join!(provider.token(), provider.token());
    assert_eq!(one.unwrap().expose(), other.unwrap().expose());
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    pass(secs(90)).await;
    assert_eq!(
        provider.token().await.unwrap().expose(),
        "gw_0",
        "served on"
    );
    pass(secs(1)).await;
    assert_eq!(provider.token().await.unwrap().expose(), "gw_1");
    let stats = provider.stats();
    assert_eq!(
        (stats.refreshes, stats.requests, stats.coalesced),
        (2, 2, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_custom_exchange_is_retried_if_retryable_and_backs_off() {
    let stage = Stage::new();
    let (provider, asked) = gateway(&stage, 2, true);
    provider.token().await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 3);

    let (provider, asked) = gateway(&stage, 9, false);
    for _ in 0..5 {
        let error = provider.token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Provider);
        assert!(error.to_string().contains("code 17"), "{error}");
        assert_eq!(error.flow(), None, "not one of Coze's flows");
        assert!(error.retry_after().is_some());
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

/// Gets a token from any provider.
async fn asked(provider: impl TokenProvider) -> String {
    provider.token().await.unwrap().expose().to_owned()
}

#[tokio::test(start_paused = true)]
async fn providers_work_as_generics_and_as_trait_objects() {
    let stage = Stage::new();
    let (provider, _) = gateway(&stage, 0, false);
    assert_eq!(asked(provider.clone()).await, "gw_0");
    let erased: Arc<dyn TokenProvider> = Arc::new(provider);
    assert_eq!(asked(Arc::clone(&erased)).await, "gw_0");
    assert_eq!((*erased).token().await.unwrap().expose(), "gw_0");
}
