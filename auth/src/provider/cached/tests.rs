//! Tests of the provider with tokio's paused time and a scripted source.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy does not recognize a module with two conditions as one of tests"
)]

use std::{collections::VecDeque, sync::Mutex, time::SystemTime};

use super::*;
use tokio::{runtime::Handle, time::Instant};

use crate::{
    DeviceFlow, Error, ErrorKind, provider::source::SourceFuture, retry::FIRST_BACKOFF,
    testing::TestClock,
};

/// The response to one request.
enum Act {
    /// A token with this lifetime in seconds.
    Grant(u64),
    Fail(ErrorKind),
    Panic,
}

struct Script {
    acts: Mutex<VecDeque<Act>>,
    takes: Duration,
    requests: AtomicU64,
    clock: Clock,
}

impl Source for Arc<Script> {
    fn mint(&self, _: RefreshMode, deadline: Instant) -> SourceFuture<'_, Result<Token>> {
        Box::pin(async move {
            let number = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
            let act = self.acts.lock().unwrap().pop_front();
            let took = tokio::time::timeout_at(deadline, tokio::time::sleep(self.takes)).await;
            if took.is_err() {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    "no token before the deadline",
                ));
            }
            match act.expect("the script has a response for this request") {
                Act::Grant(lifetime) => Ok(token(number, lifetime, &self.clock)),
                Act::Fail(kind) => Err(Error::new(kind, "scripted")),
                Act::Panic => panic!("scripted"),
            }
        })
    }
}

fn token(number: u64, lifetime: u64, clock: &Clock) -> Token {
    let lifetime = Duration::from_secs(lifetime);
    Token::for_test(&format!("czs_{number}"), lifetime, clock)
}

struct Stage {
    provider: CachedProvider,
    script: Arc<Script>,
    clock: TestClock,
}

/// A provider whose server takes 100 ms for each response.
fn stage(acts: impl IntoIterator<Item = Act>) -> Stage {
    stage_with(acts, Duration::from_millis(100), |builder| builder)
}

fn stage_with(
    acts: impl IntoIterator<Item = Act>,
    takes: Duration,
    options: impl FnOnce(CachedProviderBuilder) -> CachedProviderBuilder,
) -> Stage {
    let clock = TestClock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let script = Arc::new(Script {
        acts: Mutex::new(acts.into_iter().collect()),
        takes,
        requests: AtomicU64::new(0),
        clock: Clock::Test(clock.clone()),
    });
    let builder = CachedProviderBuilder::new(|_| Arc::clone(&script)).test_clock(clock.clone());
    Stage {
        provider: options(builder).build(),
        script,
        clock,
    }
}

impl Stage {
    fn requests(&self) -> u64 {
        self.script.requests.load(Ordering::SeqCst)
    }

    /// The number of the served token.
    async fn served(&self) -> Result<u64> {
        let token = self.provider.token().await?;
        Ok(token
            .expose()
            .strip_prefix("czs_")
            .unwrap()
            .parse()
            .unwrap())
    }
}

async fn pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_thousand_callers_on_an_empty_cache_cause_one_request() {
    let stage = stage([Act::Grant(900)]);
    let callers: Vec<_> = (0..1000)
        .map(|_| {
            tokio::spawn({
                let provider = stage.provider.clone();
                async move { provider.token().await }
            })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap().expose(), "czs_1");
    }
    assert_eq!(stage.requests(), 1);
    let stats = stage.provider.stats();
    assert_eq!((stats.refreshes, stats.coalesced), (1, 999));
}

#[tokio::test(start_paused = true)]
async fn callers_on_an_expired_cache_share_one_request_and_its_error() {
    let stage = stage([Act::Grant(10), Act::Fail(ErrorKind::Connect)]);
    stage.served().await.unwrap();
    pass(secs(11)).await;
    let (one, other) = tokio::join!(stage.provider.token(), stage.provider.token());
    assert_eq!(one.unwrap_err().kind(), ErrorKind::Connect);
    assert_eq!(other.unwrap_err().kind(), ErrorKind::Connect);
    assert_eq!(stage.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_caller_does_not_cancel_the_request_of_others() {
    let stage = stage([Act::Grant(900)]);
    let impatient = tokio::time::timeout(Duration::from_millis(10), stage.provider.token()).await;
    assert!(impatient.is_err());
    assert_eq!(stage.served().await.unwrap(), 1);
    assert_eq!(stage.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_ends_by_its_own_deadline() {
    let stage = stage_with([Act::Grant(900)], secs(3600), |builder| {
        builder.deadline(secs(7))
    });
    let began = Instant::now();
    assert_eq!(stage.served().await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(began.elapsed(), secs(7));
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_source_does_not_wedge_the_cache() {
    let stage = stage([Act::Panic, Act::Grant(900)]);
    assert_eq!(
        stage.served().await.unwrap_err().kind(),
        ErrorKind::Interrupted
    );
    pass(secs(1)).await;
    assert_eq!(stage.served().await.unwrap(), 2);
}

#[test]
fn a_runtime_that_is_shut_down_does_not_wedge_the_cache() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let first = runtime();
    let stage = first.block_on(async {
        let stage = stage([Act::Grant(900), Act::Grant(900)]);
        let given_up = tokio::time::timeout(Duration::from_millis(10), stage.provider.token());
        assert!(given_up.await.is_err());
        stage
    });
    drop(first);
    assert_eq!(
        stage.provider.stats().failures,
        1,
        "the request was abandoned when its runtime was dropped"
    );
}

#[tokio::test(start_paused = true)]
async fn after_an_error_callers_get_it_immediately_with_the_time_of_the_next_attempt() {
    let stage = stage([Act::Fail(ErrorKind::Connect), Act::Grant(900)]);
    stage.served().await.unwrap_err();
    for _ in 0..100 {
        let error = stage.served().await.unwrap_err();
        assert_eq!(error.retry_after(), Some(FIRST_BACKOFF));
    }
    assert_eq!(stage.requests(), 1, "no request during the backoff");
    pass(secs(1)).await;
    assert_eq!(stage.served().await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn in_the_refresh_window_the_old_token_is_served_while_one_request_runs() {
    let stage = stage([Act::Grant(100), Act::Grant(100)]);
    stage.served().await.unwrap();
    pass(secs(60)).await;
    assert!(stage.provider.cached().is_some());
    pass(Duration::ZERO).await;
    assert_eq!(stage.requests(), 1, "not due");

    pass(secs(30)).await;
    for _ in 0..100 {
        assert_eq!(
            stage.provider.cached().unwrap().expose(),
            "czs_1",
            "no caller waits"
        );
    }
    pass(Duration::from_millis(150)).await;
    assert_eq!(stage.provider.cached().unwrap().expose(), "czs_2");
    assert_eq!(stage.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failing_refresh_is_retried_and_the_old_token_is_served_until_it_expires() {
    let failures = std::iter::repeat_with(|| Act::Fail(ErrorKind::Timeout)).take(50);
    let stage = stage([Act::Grant(100)].into_iter().chain(failures));
    stage.served().await.unwrap();
    pass(secs(90)).await;
    let mut served = 0;
    while stage.provider.cached().is_some() {
        served += 1;
        pass(Duration::from_millis(100)).await;
    }
    assert!((70..=100).contains(&served), "{served}");
    // At 90 s, then after backoffs of 0.5, 1 and 2 s, then after half of the remaining lifetime, but at least half a
    // second.
    assert_eq!(stage.requests(), 1 + 7, "with growing backoff");
    assert!(
        stage.served().await.is_err(),
        "an expired token is not served"
    );
    let stats = stage.provider.stats();
    assert_eq!(stats.last_error.unwrap().kind(), ErrorKind::Timeout);
    assert_eq!(stats.expires_in, None);
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_shorter_than_any_margin_is_served_until_it_ends() {
    let stage = stage([Act::Grant(1), Act::Grant(1)]);
    stage.served().await.unwrap();
    pass(Duration::from_millis(700)).await;
    assert_eq!(stage.served().await.unwrap(), 1);
    assert_eq!(stage.requests(), 1, "not one request per call");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_has_expired_on_arrival_is_an_error_and_not_served() {
    let stage = stage([Act::Grant(0)]);
    let error = stage.served().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidAnswer);
    assert!(stage.provider.cached().is_none());
}

#[tokio::test(start_paused = true)]
async fn on_demand_the_caller_waits_for_the_new_token_and_gets_the_old_if_the_refresh_fails() {
    let acts = [
        Act::Grant(100),
        Act::Fail(ErrorKind::Connect),
        Act::Grant(100),
    ];
    let stage = stage_with(acts, Duration::from_millis(100), |builder| {
        builder.refresh(crate::RefreshMode::InLine)
    });
    stage.served().await.unwrap();
    pass(secs(90)).await;
    assert!(stage.provider.cached().is_none(), "the refresh is due");
    assert_eq!(stage.served().await.unwrap(), 1, "the refresh failed");
    assert_eq!(stage.served().await.unwrap(), 1, "during the backoff");
    assert_eq!(stage.requests(), 2);
    pass(secs(1)).await;
    assert_eq!(stage.served().await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_invalidated_token_is_replaced_and_a_stale_one_is_ignored() {
    let stage = stage([Act::Grant(900), Act::Grant(900)]);
    let first = stage.provider.token().await.unwrap();
    stage.provider.invalidate(&first);
    assert!(stage.provider.cached().is_none());
    assert_eq!(stage.served().await.unwrap(), 2);
    stage.provider.invalidate(&first);
    assert_eq!(
        stage.served().await.unwrap(),
        2,
        "the first token is no longer current"
    );
    assert_eq!(stage.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_api_that_refuses_every_token_does_not_cause_a_request_for_each_call() {
    let grants = std::iter::repeat_with(|| Act::Grant(900)).take(9);
    let stage = stage(grants);
    for _ in 0..100 {
        let token = stage.provider.token().await.unwrap();
        stage.provider.invalidate(&token);
    }
    assert_eq!(stage.requests(), 2);
    pass(secs(10)).await;
    let token = stage.provider.token().await.unwrap();
    stage.provider.invalidate(&token);
    assert_eq!(stage.served().await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_callers_invalid_input_causes_no_backoff_for_others() {
    let stage = stage([Act::Fail(ErrorKind::InvalidInput), Act::Grant(900)]);
    let error = stage.served().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(stage.served().await.unwrap(), 2);
}

#[test]
fn outside_of_any_runtime_there_is_an_error_and_no_backoff() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let stage = runtime.block_on(async { stage([Act::Grant(900)]) });
    let mut outside = std::pin::pin!(stage.provider.token());
    let polled = outside
        .as_mut()
        .poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    let std::task::Poll::Ready(Err(error)) = polled else {
        panic!("the future should be ready");
    };
    assert_eq!(error.kind(), ErrorKind::System);
    assert_eq!(runtime.block_on(stage.served()).unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_the_request_in_flight_and_starts_no_other() {
    let stage = stage([Act::Grant(100), Act::Grant(100)]);
    stage.served().await.unwrap();
    pass(secs(90)).await;
    assert!(stage.provider.cached().is_some());
    let began = Instant::now();
    stage.provider.shutdown().await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_millis(100));
    assert_eq!(stage.provider.cached().unwrap().expose(), "czs_2");
    pass(secs(101)).await;
    assert!(stage.served().await.is_err());
    assert_eq!(stage.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_not_served_after_a_system_suspend() {
    let stage = stage([Act::Grant(900), Act::Grant(900)]);
    stage.served().await.unwrap();
    stage.clock.set_wall_offset_secs(3600);
    assert!(stage.provider.cached().is_none());
    assert_eq!(stage.served().await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn no_task_runs_while_idle() {
    let stage = stage([Act::Grant(100), Act::Grant(100)]);
    let tasks = || Handle::current().metrics().num_alive_tasks();
    stage.served().await.unwrap();
    pass(secs(90)).await;
    assert_eq!(tasks(), 0, "not even in the refresh window, before a call");
    stage.provider.cached().unwrap();
    assert_eq!(tasks(), 1);
    pass(secs(1)).await;
    assert_eq!(tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn reads_are_counted_and_debug_prints_no_token() {
    let stage = stage([Act::Grant(900)]);
    stage.served().await.unwrap();
    for _ in 0..3 {
        stage.provider.cached().unwrap();
        assert_eq!(stage.provider.cached().unwrap().expose(), "czs_1");
    }
    let stats = stage.provider.stats();
    assert_eq!(stats.served_from_cache, 6);
    let shown = format!("{:?} {stats:?}", stage.provider);
    assert!(!shown.contains("czs_"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_without_a_refresh_token_serves_its_token_and_then_requires_a_sign_in() {
    let clock = TestClock::starting_at(SystemTime::UNIX_EPOCH + secs(1_800_000_000));
    let client = crate::OAuthClient::builder()
        .test_clock(clock.clone())
        .build()
        .unwrap();
    let device = DeviceFlow::new(client, "client-id").unwrap();
    let signed_in = token(1, 100, &Clock::Test(clock));
    let provider = CachedProvider::in_memory(device, signed_in).build();
    assert_eq!(provider.token().await.unwrap().expose(), "czs_1");
    pass(secs(101)).await;
    let error = provider.token().await.unwrap_err();
    assert!(error.needs_sign_in(), "{error}");
    assert!(error.hint().contains("sign in"), "{error}");
}
