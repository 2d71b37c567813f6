//! A million sessions in one pool: how fast they are found, and how much memory they take, beside a plain sharded
//! map of the same entries.

#![forbid(unsafe_code)]

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use coze_auth::{
    Endpoint, JwtFlow, OAuthClient, SessionPool, SessionProvider, SignFuture, Signer, TokenProvider,
};
use coze_benches::{
    report::{Goal, Report},
    rounds::{Contender, Rounds},
    run::Run,
    server::{TOKEN_LENGTH, TokenServer},
};
use dashmap::DashMap;
use http::HeaderValue;

/// Signs nothing: what a signature costs is measured elsewhere, and a million of them take minutes.
struct Unsigned;

impl Signer for Unsigned {
    fn sign<'a>(&'a self, _: &'a [u8]) -> SignFuture<'a> {
        Box::pin(async { Ok(vec![0; 256]) })
    }
}

const FILLERS: u64 = 64;
/// Providers that are kept, to look their sessions up without the name.
const HELD: u64 = 1000;

fn name(number: u64) -> String {
    format!("user-{number:07}")
}

fn main() -> Result<()> {
    let run = Run::from_args()?;
    let sessions = run.choose(1_000_000, 20_000);
    let server = TokenServer::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let client = OAuthClient::new(Endpoint::custom(server.base())?)?;
    let flow = JwtFlow::builder(client)
        .client_id("1234567890123")
        .key_id("AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCdE")
        .signer(Unsigned)
        .build()?;
    let new_pool = |capacity| {
        SessionPool::builder(flow.clone())
            .capacity(capacity)
            .idle_timeout(Duration::from_secs(24 * 3600))
            .max_concurrent_requests(FILLERS as usize)
            .build()
    };

    // What connections and buffers take is there before it is measured.
    let warm = new_pool(sessions);
    runtime.block_on(fill(&warm, sessions.min(5_000)))?;
    drop(warm);

    let before = resident()?;
    let map = DashMap::new();
    for number in 0..sessions {
        map.insert(name(number).into_boxed_str(), authorization(number)?);
    }
    let map_takes = resident()?.saturating_sub(before);

    let before = resident()?;
    let pool = new_pool(sessions + sessions / 5);
    let began = Instant::now();
    runtime.block_on(fill(&pool, sessions))?;
    let filling = began.elapsed();
    let kept = pool.stats().cached;
    ensure!(
        kept == sessions,
        "of {sessions} sessions only {kept} are kept"
    );
    let pool_takes = resident()?.saturating_sub(before);

    let names: Vec<String> = scattered(sessions).take(100_000).map(name).collect();
    let held: Vec<SessionProvider> = scattered(sessions)
        .take(HELD as usize)
        .map(|number| pool.session(name(number)))
        .collect();
    let next = AtomicU64::new(0);
    let turn = |count: usize| next.fetch_add(1, Ordering::Relaxed) as usize % count;
    let contenders = [
        Contender::new("map", |repetitions| {
            for _ in 0..repetitions {
                let name = &names[turn(names.len())];
                black_box(map.get(name.as_str()).map(|entry| entry.clone()));
            }
        }),
        Contender::new("pool", |repetitions| {
            for _ in 0..repetitions {
                let name = &names[turn(names.len())];
                black_box(pool.session(name.as_str()).cached());
            }
        }),
        Contender::new("held provider", |repetitions| {
            for _ in 0..repetitions {
                black_box(held[turn(held.len())].cached());
            }
        }),
    ];
    let (rounds, batch) = run.choose(
        (200, Duration::from_millis(5)),
        (10, Duration::from_millis(1)),
    );
    let measured = Rounds::measure(&contenders, rounds, batch);

    let mut report = Report::new();
    report.goal(
        format!("sessions, {sessions} cached: lookup against a plain sharded map"),
        measured.ratio("pool", "map"),
        "x",
        Goal::AtMost(3.0),
        format!(
            "{:.0} ns by name; map {:.0} ns",
            measured.nanos("pool"),
            measured.nanos("map")
        ),
        "a look also makes the request that the session is named by, reads two clocks, and notes that it was asked for",
    );
    report.figure(
        format!("sessions, {sessions} cached: lookup by a provider that is kept"),
        measured.nanos("held provider"),
        "ns",
        "",
    );
    let entry = TOKEN_LENGTH + name(0).len();
    report.goal(
        format!("sessions, {sessions} cached: resident bytes per session"),
        pool_takes as f64 / sessions as f64,
        "bytes",
        Goal::AtMost((2 * entry + 300) as f64),
        format!(
            "2 x (token of {TOKEN_LENGTH} + key of {}) + 300; the map takes {:.0}",
            name(0).len(),
            map_takes as f64 / sessions as f64
        ),
        "the life of the token, when it was last asked for, and its place in the order of eviction",
    );
    report.figure(
        format!("sessions, {sessions}: filled"),
        sessions as f64 / filling.as_secs_f64(),
        "per s",
        "a whole exchange each, without a signature; the server is in the same process",
    );
    report.finish(&run)
}

/// Gets a token for each session, so many at a time.
async fn fill(pool: &SessionPool, sessions: u64) -> Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let fillers: Vec<_> = (0..FILLERS)
        .map(|_| {
            let (pool, next) = (pool.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= sessions {
                        return anyhow::Ok(());
                    }
                    pool.session(name(number)).token().await?;
                }
            })
        })
        .collect();
    for filler in fillers {
        filler.await??;
    }
    Ok(())
}

fn authorization(number: u64) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(zeroize::Zeroizing::new(
        format!("Bearer czs_{number:060}").into_bytes(),
    )))?;
    value.set_sensitive(true);
    Ok(value)
}

/// All over the numbers below a bound, without end.
fn scattered(below: u64) -> impl Iterator<Item = u64> {
    // The multiplier of Knuth's MMIX generator.
    let step = |state: &u64| {
        Some(
            state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407),
        )
    };
    std::iter::successors(Some(1_u64), step).map(move |state| (state >> 33) % below)
}

/// Bytes of this process that are in memory, as Linux counts them.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("no /proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kibibytes: u64 = line
        .and_then(|line| line.split_whitespace().nth(1))
        .context("no VmRSS")?
        .parse()?;
    Ok(kibibytes * 1024)
}
