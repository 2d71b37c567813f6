//! Thundering herds: 1,000 and 10,000 concurrent callers on an empty cache, on a token that has just expired, and
//! on one that is about to. The server has a latency of 50 ms.

#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use coze_auth::{CachedProvider, JwtFlow};
use coze_benches::{
    floor::BareExchange,
    herd::{Herd, herd},
    peers::{GcpAuth, GoogleCloudAuth, YupOauth2},
    report::{Goal, Report},
    rounds::median,
    run::Run,
    server::{A_DAY, TokenServer},
    subject,
};
use futures_util::FutureExt;
use tokio::time::{sleep, timeout};

const SERVER_TAKES: Duration = Duration::from_millis(50);
const SIZES: [usize; 2] = [1_000, 10_000];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cache {
    Empty,
    JustExpired,
    InsideTheWindow,
}

impl Cache {
    const ALL: [Self; 3] = [Self::Empty, Self::JustExpired, Self::InsideTheWindow];

    fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::JustExpired => "just expired",
            Self::InsideTheWindow => "inside the refresh window",
        }
    }
}

/// The results of all rounds.
#[derive(Default)]
struct Kept {
    /// Seconds until the last caller was served.
    last_served: Vec<f64>,
    /// The same as a multiple of the round trip or of the bare shared future of the same round.
    round_trips: Vec<f64>,
    bare_shared: Vec<f64>,
    requests: Vec<u64>,
    errors: usize,
}

impl Kept {
    fn most_requests(&self) -> f64 {
        self.requests
            .iter()
            .max()
            .map_or(f64::NAN, |most| *most as f64)
    }
}

fn main() -> Result<()> {
    let run = Run::from_args()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut report = Report::new();
    runtime.block_on(ours(&run, &mut report))?;
    runtime.block_on(peers(&run, &mut report))?;
    report.finish(&run)
}

async fn ours(run: &Run, report: &mut Report) -> Result<()> {
    let server = TokenServer::start()?;
    let bare = Arc::new(BareExchange::new(&server)?);
    let flow = subject::jwt_flow(&server)?;
    // Both have an open connection.
    bare.post().await?;
    flow.token().await?;

    let mut kept: BTreeMap<(Cache, usize), Kept> = BTreeMap::new();
    let mut shared: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    let mut round_trips = Vec::new();
    for _ in 0..run.choose(9, 1) {
        for callers in SIZES {
            for cache in Cache::ALL {
                let provider = prepared(cache, &flow, &server).await?;
                server.set_delay(SERVER_TAKES);

                // The old token expires in a few hundred milliseconds, so this herd is first.
                let before = server.requests();
                let asking = || {
                    let provider = provider.clone();
                    async move { provider.token().await }
                };
                let served = herd(callers, asking).await?;
                // A background refresh may be in flight.
                sleep(2 * SERVER_TAKES).await;
                let requests = server.requests() - before;

                let began = Instant::now();
                bare.post().await?;
                let round_trip = began.elapsed();
                let bare_shared = shared_future(&bare, callers).await?;
                server.set_delay(Duration::ZERO);

                let seconds = served.last_served.as_secs_f64();
                let kept = kept.entry((cache, callers)).or_default();
                kept.last_served.push(seconds);
                kept.round_trips.push(seconds / round_trip.as_secs_f64());
                kept.bare_shared
                    .push(seconds / bare_shared.last_served.as_secs_f64());
                kept.requests.push(requests);
                kept.errors += served.errors;
                round_trips.push(round_trip.as_secs_f64());
                let relative = bare_shared.last_served.as_secs_f64() / round_trip.as_secs_f64();
                shared.entry(callers).or_default().push(relative);
            }
        }
    }

    for ((cache, callers), kept) in &kept {
        let name = cache.name();
        report.goal(
            format!("herd of {callers}, {name}: requests"),
            kept.most_requests(),
            "",
            Goal::Exactly(1.0),
            format!("most of {} rounds", kept.requests.len()),
            "",
        );
        report.goal(
            format!("herd of {callers}, {name}: callers with an error"),
            kept.errors as f64,
            "",
            Goal::Exactly(0.0),
            "",
            "",
        );
        let took = format!(
            "{:.1} ms; a round trip takes {:.1} ms",
            median(kept.last_served.clone()) * 1e3,
            median(round_trips.clone()) * 1e3
        );
        let in_round_trips = median(kept.round_trips.clone());
        let against_shared = median(kept.bare_shared.clone());
        if *callers == SIZES[0] {
            let shared = median(shared.get(callers).cloned().unwrap_or_default());
            // The lower bound is a task per caller and the bare request.
            let why = if shared > 1.2 && *cache != Cache::InsideTheWindow {
                format!("a bare shared future takes {shared:.2} of them")
            } else {
                String::new()
            };
            report.goal(
                format!("herd of {callers}, {name}: last caller served"),
                in_round_trips,
                "round trips",
                Goal::AtMost(1.2),
                took,
                &why,
            );
        } else {
            report.goal(
                format!("herd of {callers}, {name}: against a bare shared future"),
                against_shared,
                "x",
                Goal::AtMost(1.1),
                format!("{took}; that is {in_round_trips:.2} of them"),
                "",
            );
        }
    }
    for (callers, relative) in shared {
        report.figure(
            format!("herd of {callers}: a bare shared future"),
            median(relative),
            "round trips",
            "",
        );
    }
    Ok(())
}

/// A provider with its cache in this state.
async fn prepared(cache: Cache, flow: &JwtFlow, server: &TokenServer) -> Result<CachedProvider> {
    let provider = CachedProvider::jwt(flow.clone()).build();
    if cache == Cache::Empty {
        return Ok(provider);
    }
    server.set_expires_in(2);
    let got = Instant::now();
    provider.token().await?;
    server.set_expires_in(A_DAY);
    if cache == Cache::JustExpired {
        while provider.stats().expires_in.is_some() {
            sleep(Duration::from_millis(5)).await;
        }
    } else {
        // The refresh window of a token of 2 s is its last 0.3 to 0.5 s, and its expiry margin is 40 ms.
        sleep(Duration::from_millis(1750).saturating_sub(got.elapsed())).await;
        ensure!(
            provider.stats().expires_in.is_some(),
            "the machine is too busy: a token expired before it was requested"
        );
    }
    Ok(provider)
}

async fn shared_future(bare: &Arc<BareExchange>, callers: usize) -> Result<Herd> {
    let bare = Arc::clone(bare);
    let shared = async move { bare.post().await.map_err(Arc::new) }
        .boxed()
        .shared();
    herd(callers, || shared.clone()).await
}

/// The timeout of a herd of a peer.
const HERD_TIMEOUT: Duration = Duration::from_secs(15);

async fn peers(run: &Run, report: &mut Report) -> Result<()> {
    let server = TokenServer::start()?;
    let bare = BareExchange::new(&server)?;
    bare.post().await?;
    server.set_delay(SERVER_TAKES);
    let began = Instant::now();
    bare.post().await?;
    let mut herds = PeerHerds {
        server,
        round_trip: began.elapsed(),
        report,
    };
    for callers in run.choose(SIZES.as_slice(), &SIZES[..1]) {
        for cache in Cache::ALL {
            herds.of_gcp_auth(cache, *callers).await?;
            herds.of_yup_oauth2(cache, *callers).await?;
            if run.quick && cache == Cache::JustExpired {
                continue;
            }
            herds.of_google_cloud_auth(cache, *callers).await?;
        }
    }
    Ok(())
}

/// Shared by the herds of the peers.
struct PeerHerds<'a> {
    server: TokenServer,
    round_trip: Duration,
    report: &'a mut Report,
}

impl PeerHerds<'_> {
    async fn of_gcp_auth(&mut self, cache: Cache, callers: usize) -> Result<()> {
        let gcp_auth = Arc::new(GcpAuth::new(&self.server)?);
        match cache {
            Cache::Empty => {}
            Cache::JustExpired => {
                // It counts as expired 20 s before its expiry.
                self.while_tokens_live(22, gcp_auth.token()).await?;
                sleep(UNTIL_EXPIRED).await;
            }
            // It has no refresh window.
            Cache::InsideTheWindow => return Ok(()),
        }
        let before = self.server.requests();
        let asking = || {
            let gcp_auth = Arc::clone(&gcp_auth);
            async move { gcp_auth.token().await }
        };
        let served = in_time(herd(callers, asking)).await?;
        self.row("gcp_auth", cache, callers, before, served).await;
        Ok(())
    }

    async fn of_yup_oauth2(&mut self, cache: Cache, callers: usize) -> Result<()> {
        let yup = Arc::new(YupOauth2::new(&self.server).await?);
        match cache {
            Cache::Empty => {}
            Cache::JustExpired => {
                // It counts as expired 60 s before its expiry.
                self.while_tokens_live(62, yup.token()).await?;
                sleep(UNTIL_EXPIRED).await;
            }
            // It has no refresh window.
            Cache::InsideTheWindow => return Ok(()),
        }
        let before = self.server.requests();
        let asking = || {
            let yup = Arc::clone(&yup);
            async move { yup.token().await }
        };
        let served = in_time(herd(callers, asking)).await?;
        self.row("yup-oauth2", cache, callers, before, served).await;
        Ok(())
    }

    async fn of_google_cloud_auth(&mut self, cache: Cache, callers: usize) -> Result<()> {
        let server = self.server.clone();
        // Its task requests the first token immediately.
        let with_a_token = async {
            let google = GoogleCloudAuth::new(&server)?;
            google.token().await?;
            Ok(google)
        };
        let (google, before) = match cache {
            Cache::Empty => {
                let before = self.server.requests();
                (GoogleCloudAuth::new(&self.server)?, before)
            }
            Cache::JustExpired => {
                let google = self.while_tokens_live(2, with_a_token).await?;
                sleep(UNTIL_EXPIRED).await;
                (google, self.server.requests())
            }
            Cache::InsideTheWindow => {
                // Its task refreshes 240 s before the expiry. The herd starts when that request has reached the server.
                let google = self.while_tokens_live(242, with_a_token).await?;
                let before = self.server.requests();
                let refreshing = async {
                    while server.requests() == before {
                        sleep(Duration::from_millis(1)).await;
                    }
                };
                let begun = timeout(HERD_TIMEOUT, refreshing).await;
                begun.context("google-cloud-auth does not refresh its token")?;
                (google, before)
            }
        };
        let google = Arc::new(google);
        let asking = || {
            let google = Arc::clone(&google);
            async move { google.token().await }
        };
        let served = in_time(herd(callers, asking)).await?;
        self.row("google-cloud-auth", cache, callers, before, served)
            .await;
        Ok(())
    }

    /// Runs a future while the server has no latency and its tokens have this lifetime in seconds.
    async fn while_tokens_live<T>(
        &self,
        seconds: u64,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.server.set_delay(Duration::ZERO);
        self.server.set_expires_in(seconds);
        let done = work.await;
        self.server.set_delay(SERVER_TAKES);
        self.server.set_expires_in(A_DAY);
        done
    }

    /// The result of a herd; `None` after a timeout.
    async fn row(
        &mut self,
        name: &str,
        cache: Cache,
        callers: usize,
        requests_before: u64,
        herd: Option<Herd>,
    ) {
        let requests = self.server.requests() - requests_before;
        let note = match herd {
            Some(herd) => format!(
                "{requests} requests, {} errors; {:.1} ms",
                herd.errors,
                herd.last_served.as_secs_f64() * 1e3
            ),
            None => format!("{requests} requests; not all served within {HERD_TIMEOUT:?}"),
        };
        let served = herd.map_or(HERD_TIMEOUT, |herd| herd.last_served);
        self.report.figure(
            format!("herd of {callers}, {}: {name}", cache.name()),
            served.as_secs_f64() / self.round_trip.as_secs_f64(),
            "round trips",
            note,
        );
        // Requests in flight must not affect the next herd.
        sleep(2 * SERVER_TAKES).await;
    }
}

/// A primed token counts as expired 2 s later.
const UNTIL_EXPIRED: Duration = Duration::from_millis(2_100);

async fn in_time(herd: impl Future<Output = Result<Herd>>) -> Result<Option<Herd>> {
    timeout(HERD_TIMEOUT, herd).await.ok().transpose()
}
