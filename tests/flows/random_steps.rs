//! A randomised test of the whole stack, because bugs of caches depend on the order of events: thousands of
//! steps in which time passes, the system suspends, servers fail and the network is interrupted. After each step a caller
//! may request a token, and the mock tells whether that token is valid.
//!
//! A run is determined by its seed, which a failure prints, except for the jitter of the provider.

use std::{sync::Arc, time::Duration};

use coze_auth::{
    CachedProvider, JwtTokenRequest, OAuthClient, PkceFlow, SessionPool, TokenProvider,
};
use coze_mock::{Fault, FaultBody, MockCoze, RetryAfter, Target, Times, When, defaults};

use crate::support::{Interruption, Stage, jwt_flow, millis, pass, secs};

/// Pseudo-random numbers (Knuth's MMIX).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        let number = self.below(choices.len() as u64);
        choices[usize::try_from(number).unwrap()].clone()
    }
}

const STEPS: u32 = 3000;

/// The maximum time steps, in milliseconds.
const STRIDES: [u64; 4] = [1_000, 20_000, 60_000, LIFETIME * 1300];
/// For callers that are never idle.
const SHORT_STRIDES: [u64; 4] = [1_000, 5_000, 10_000, 20_000];

/// The longest backoff of a provider without a token, in seconds.
const LONGEST_PAUSE: u64 = 15;
/// Below the refresh window of a token of [`LIFETIME`] (at least 45 s).
const DEADLINE: u64 = 30;
const LIFETIME: u64 = 300;
/// Longer than that window (at most 75 s), so that a newer token never expires before an older one.
const SHORT_LIFETIME: u64 = 80;
/// The expiry margin.
const MARGIN: u64 = 2;
/// A request to a silent server fails this long after the outage.
const REQUEST_TIMEOUT: u64 = 5;

struct Simulation {
    stage: Stage,
    dice: Random,
    seed: u64,
    /// Whether a caller may get an error although the token outlasted the outage, because of the backoff after the last failure.
    outage_may_be_felt_late: bool,
    strides: [u64; 4],
    /// All times are seconds of the mock's clock.
    outage_until: Option<u64>,
    last_outage_ended: Option<u64>,
    errors: u32,
    served: u32,
}

/// A caller, and the expiry of its last token.
struct Caller {
    provider: Arc<dyn TokenProvider>,
    token_ends: u64,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        Self {
            stage: Stage::new(),
            dice: Random(seed),
            seed,
            outage_may_be_felt_late: true,
            strides: STRIDES,
            outage_until: None,
            last_outage_ended: None,
            errors: 0,
            served: 0,
        }
    }

    fn client(&self) -> OAuthClient {
        let client = self.stage.client_builder();
        client
            .request_timeout(secs(REQUEST_TIMEOUT))
            .build()
            .unwrap()
    }

    fn now(&self) -> u64 {
        self.stage.mock.clock().unix_seconds()
    }

    /// Returns how often a caller got an error.
    async fn go(mut self, providers: Vec<Arc<dyn TokenProvider>>) -> u32 {
        let mut callers: Vec<_> = providers
            .into_iter()
            .map(|provider| Caller {
                provider,
                token_ends: 0,
            })
            .collect();
        let mut slept = 0;
        for step in 0..STEPS {
            match self.dice.below(100) {
                0..60 => {
                    let number = self.dice.below(callers.len() as u64);
                    let caller = &mut callers[usize::try_from(number).unwrap()];
                    self.ask(step, caller).await;
                }
                60..90 => {
                    let longest = self.dice.pick(&self.strides);
                    let span = millis(self.dice.below(longest));
                    self.let_time_pass(span).await;
                }
                90..95 => self.plan_a_fault(),
                95..98 => self.begin_an_outage(),
                // Backoff during suspend is not tested where every second counts.
                _ if !self.outage_may_be_felt_late => {}
                _ => {
                    slept += i64::try_from(self.dice.below(2 * LIFETIME)).unwrap();
                    self.sleep_until(slept);
                }
            }
        }
        let seed = self.seed;
        assert!(self.served > 1000, "seed {seed}: {} served", self.served);
        self.stage.mock.assert_clean();
        self.errors
    }

    async fn ask(&mut self, step: u32, caller: &mut Caller) {
        let where_ = format!("seed {}, step {step}", self.seed);
        match caller.provider.token().await {
            Ok(token) => {
                let granted = self.stage.mock.granted(token.expose());
                let granted = granted.unwrap_or_else(|| panic!("{where_}: an expired token"));
                caller.token_ends = granted.expires_at.unwrap();
                self.served += 1;
            }
            Err(error) => {
                self.errors += 1;
                let now = self.now();
                assert!(
                    caller.token_ends <= now + MARGIN,
                    "{where_}: the last token was still valid: {error}"
                );
                let outage_ended = match (self.outage_until, self.last_outage_ended) {
                    (Some(_), _) => now,
                    (None, ended) => ended.unwrap_or(0),
                };
                let pause = LONGEST_PAUSE + DEADLINE;
                let late = if self.outage_may_be_felt_late {
                    pause
                } else {
                    REQUEST_TIMEOUT
                };
                assert!(
                    now <= outage_ended + pause
                        && caller.token_ends <= outage_ended + late + MARGIN,
                    "{where_}: at {now} s; the token ended at {}, the last outage at {outage_ended}: {error}",
                    caller.token_ends
                );
            }
        }
    }

    /// Lets time pass, and repairs the network at the end of an outage.
    async fn let_time_pass(&mut self, span: Duration) {
        if let Some(until) = self.outage_until {
            let left = secs(until.saturating_sub(self.now()));
            if left <= span {
                pass(left).await;
                self.stage.network.repair();
                self.outage_until = None;
                self.last_outage_ended = Some(self.now());
                pass(span - left).await;
                return;
            }
        }
        pass(span).await;
    }

    /// Plans a temporary fault: never so many that all attempts fail.
    fn plan_a_fault(&mut self) {
        let when = When::BeforeProcessing;
        let fault = self.dice.pick(&[
            Fault::latency(secs(3)),
            Fault::ConnectionReset { when },
            Fault::Timeout { when },
            Fault::too_many_requests(2),
            Fault::internal_error(),
            Fault::Status {
                status: 502,
                body: FaultBody::Html,
                retry_after: None,
            },
            Fault::Status {
                status: 503,
                body: FaultBody::Empty,
                retry_after: Some(RetryAfter::DateInSeconds(1)),
            },
            Fault::ShortLivedTokens {
                seconds: SHORT_LIFETIME,
            },
        ]);
        // Drawn in any case, because the number of pending faults depends on the jitter.
        let faults = self.stage.mock.faults();
        if faults.pending().is_empty() && !self.prolongs_an_outage() {
            faults.add(fault, Target::Any, Times::ONCE);
        }
    }

    /// Whether a request may be in flight whose other attempts failed in an outage, if that must not happen.
    fn prolongs_an_outage(&self) -> bool {
        let is_recent = |ended| self.now() <= ended + DEADLINE + REQUEST_TIMEOUT;
        !self.outage_may_be_felt_late
            && (self.outage_until.is_some() || self.last_outage_ended.is_some_and(is_recent))
    }

    fn begin_an_outage(&mut self) {
        let cut = self
            .dice
            .pick(&[Interruption::Refused, Interruption::Silent]);
        let longest = self.dice.pick(&[10, 100, LIFETIME]);
        let span = self.dice.below(longest);
        if self.outage_until.is_none() {
            self.stage.network.cut(cut);
            self.outage_until = Some(self.now() + span);
            if self.prolongs_an_outage() {
                self.stage.mock.faults().clear();
            }
        }
    }

    /// Suspends the system: the wall clock advances, the monotonic one does not. Also sums the suspended time.
    fn sleep_until(&mut self, slept: i64) {
        let before = self.stage.clock.wall();
        self.stage.clock.set_wall_offset_secs(slept);
        let passed = self.stage.clock.wall().duration_since(before).unwrap();
        self.stage.mock.clock().advance(passed);
        // Backoffs do not elapse during suspend.
        self.last_outage_ended = self.last_outage_ended.map(|ended| ended + passed.as_secs());
    }
}

fn jwt_provider(simulation: &Simulation) -> Arc<dyn TokenProvider> {
    let request = JwtTokenRequest::default().duration(secs(LIFETIME));
    let provider = CachedProvider::jwt_for(jwt_flow(simulation.client()), request);
    Arc::new(provider.deadline(secs(DEADLINE)).build())
}

#[tokio::test(start_paused = true)]
async fn a_service_never_gets_an_expired_token() {
    let mut errors = 0;
    for seed in 1..=5 {
        let simulation = Simulation::new(seed);
        let provider = jwt_provider(&simulation);
        errors += simulation.go(vec![provider]).await;
    }
    assert!(errors > 0, "no outage caused an error");
}

#[tokio::test(start_paused = true)]
async fn a_service_gets_no_error_in_an_outage_shorter_than_its_token() {
    let mut errors = 0;
    for seed in 31..=40 {
        let mut simulation = Simulation::new(seed);
        simulation.outage_may_be_felt_late = false;
        simulation.strides = SHORT_STRIDES;
        let provider = jwt_provider(&simulation);
        errors += simulation.go(vec![provider]).await;
    }
    assert!(errors > 0, "no outage caused an error");
}

#[tokio::test(start_paused = true)]
async fn sessions_never_get_an_expired_token() {
    let mut errors = 0;
    for seed in 11..=12 {
        let simulation = Simulation::new(seed);
        let pool = SessionPool::builder(jwt_flow(simulation.client()))
            .deadline(secs(DEADLINE))
            .build();
        let sessions = (0..5).map(|number| {
            let request = JwtTokenRequest::default().session_name(format!("user-{number}"));
            let provider = pool.provider(request.duration(secs(LIFETIME)));
            Arc::new(provider) as Arc<dyn TokenProvider>
        });
        errors += simulation.go(sessions.collect()).await;
    }
    assert!(errors > 0, "no outage caused an error");
}

#[tokio::test(start_paused = true)]
async fn a_signed_in_user_never_gets_an_expired_token_and_never_has_to_sign_in_again() {
    let mut errors = 0;
    for seed in 21..=24 {
        let mut simulation = Simulation::new(seed);
        let lifetime = secs(LIFETIME);
        simulation.stage = Stage::of(MockCoze::builder().access_token_lifetime(lifetime));
        let first = simulation.stage.pkce_sign_in().await;
        let mock = simulation.stage.mock.clone();
        let refresh_token = first.refresh_token().unwrap().expose().to_owned();
        let pkce = PkceFlow::new(simulation.client(), defaults::PKCE_CLIENT_ID).unwrap();
        let provider = CachedProvider::in_memory(pkce, first)
            .deadline(secs(DEADLINE))
            .build();
        let in_hand = provider.clone();
        errors += simulation.go(vec![Arc::new(provider)]).await;

        in_hand.shutdown().await.unwrap();
        let sign_in = mock.sign_in_of(&refresh_token).unwrap();
        assert!(sign_in.live_refresh_token().is_some(), "seed {seed}");
        assert_eq!(sign_in.reuse_attempts(), 0, "seed {seed}");
        assert!(sign_in.generations.len() > 20, "seed {seed}");
    }
    assert!(errors > 0, "no outage caused an error");
}
