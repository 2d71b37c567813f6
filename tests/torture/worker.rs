//! One of many processes that continuously request the token of the same sign-in.

use std::io::BufRead as _;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use coze_auth::testing::TestClock;
use coze_auth::{AccessToken, CachedProvider, TokenProvider as _};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::coze::Api;
use crate::setup::Setup;
use crate::tally::{Tally, count, label};
use crate::{Result, coze, millis, random};

#[derive(Args)]
pub(crate) struct Options {
    /// How long it runs
    #[arg(long)]
    seconds: u64,
    /// The skew of its wall clock
    #[arg(long, allow_negative_numbers = true, default_value_t = 0)]
    wrong_by: i64,
    /// Refreshes on demand, like one-shot programs, not in the background
    #[arg(long)]
    in_line: bool,
}

/// The sign-in that all share.
pub(crate) const PROFILE: &str = "shared";

const PAUSE: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(80)];
const BETWEEN_CALLS: [Duration; 2] = [Duration::from_millis(250), Duration::from_millis(1000)];

/// The report, without secrets.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) asked: u64,
    pub(crate) served: u64,
    pub(crate) errors: Tally,
    pub(crate) api_calls: u64,
    pub(crate) refused: u64,
    pub(crate) recovered: u64,
    pub(crate) refused_twice: u64,
    pub(crate) slowest_wait_ms: u64,
    /// Loads of the store, with or without a refresh.
    pub(crate) flights: u64,
    /// Tokens that another process had refreshed.
    pub(crate) loaded: u64,
}

pub(crate) async fn run(setup: Setup, options: Options) -> Result<()> {
    let mut worker = Worker::new(&setup, &options)?;
    println!("{}", json!({"ready": true}));
    wait_for_go()?;
    worker.ask_for(Duration::from_secs(options.seconds)).await;
    // Ending during a refresh would lose the sign-in.
    worker.provider.shutdown().await?;
    let stats = worker.provider.stats();
    worker.summary.flights = stats.refreshes;
    worker.summary.loaded = stats.loaded_from_store;
    println!("{}", serde_json::to_string(&worker.summary)?);
    Ok(())
}

/// Waits for the common start. Afterwards this process ends with its parent.
fn wait_for_go() -> Result<()> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if line.trim() != "go" {
        return Err("the race was cancelled".into());
    }
    std::thread::spawn(|| {
        let _ = std::io::stdin().lock().read_line(&mut String::new());
        std::process::exit(1);
    });
    Ok(())
}

struct Worker {
    provider: CachedProvider,
    api: Api,
    summary: Summary,
}

impl Worker {
    fn new(setup: &Setup, options: &Options) -> Result<Self> {
        let mut client = coze::client(setup)?;
        if options.wrong_by != 0 {
            let clock = TestClock::starting_at(SystemTime::now());
            clock.set_wall_offset_secs(options.wrong_by);
            client = client.test_clock(clock);
        }
        let flow = coze::flow(setup, client.build()?)?;
        let mut provider = coze::provider(&flow, &setup.sign_in(PROFILE)?);
        if options.in_line {
            provider = provider.refresh(coze_auth::RefreshMode::InLine);
        }
        Ok(Self {
            provider: provider.build(),
            api: Api::new(setup)?,
            summary: Summary::default(),
        })
    }

    async fn ask_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        let mut call_at = Instant::now();
        while Instant::now() < end {
            let token = self.ask().await;
            if let Some(token) = token
                && call_at <= Instant::now()
            {
                self.call(&token).await;
                call_at = Instant::now() + random::between(BETWEEN_CALLS[0], BETWEEN_CALLS[1]);
            }
            tokio::time::sleep(random::between(PAUSE[0], PAUSE[1])).await;
        }
    }

    async fn ask(&mut self) -> Option<AccessToken> {
        let began = Instant::now();
        let token = self.provider.token().await;
        let waited = millis(began.elapsed());
        self.summary.asked += 1;
        self.summary.slowest_wait_ms = self.summary.slowest_wait_ms.max(waited);
        match token {
            Ok(token) => {
                self.summary.served += 1;
                Some(token)
            }
            Err(error) => {
                count(&mut self.summary.errors, label(&error));
                None
            }
        }
    }

    /// Uses the token, and requests another one once if it is refused, like a correct client.
    async fn call(&mut self, token: &AccessToken) {
        if self.takes(token).await != Some(false) {
            return;
        }
        self.summary.refused += 1;
        self.provider.invalidate(token);
        let Some(another) = self.ask().await else {
            return;
        };
        match self.takes(&another).await {
            Some(true) => self.summary.recovered += 1,
            Some(false) => self.summary.refused_twice += 1,
            None => {}
        }
    }

    async fn takes(&mut self, token: &AccessToken) -> Option<bool> {
        self.summary.api_calls += 1;
        match self.api.takes(token).await {
            Ok(takes) => Some(takes),
            Err(_) => {
                count(&mut self.summary.errors, "the API did not answer");
                None
            }
        }
    }
}
