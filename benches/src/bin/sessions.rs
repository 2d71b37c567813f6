//! A million sessions in one pool: the lookup time, compared with a plain sharded map of the same entries. Their
//! memory is measured by `memory`.

#![forbid(unsafe_code)]

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use coze_auth::{
    Endpoint, JwtFlow, OAuthClient, SessionPool, SessionProvider, SignFuture, Signer, TokenProvider,
};
use coze_benches::{
    report::{Goal, Report},
    rounds::{Contender, Rounds},
    run::Run,
    server::TokenServer,
};
use dashmap::DashMap;
use http::HeaderValue;

/// Signs nothing: the cost of a signature is measured elsewhere, and a million of them take minutes.
struct Unsigned;

impl Signer for Unsigned {
    fn sign<'a>(&'a self, _: &'a [u8]) -> SignFuture<'a> {
        Box::pin(async { Ok(vec![0; 256]) })
    }
}

const FILLERS: u64 = 64;
/// Providers that are kept, to look up their sessions without the name.
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
    let flow = JwtFlow::new(
        client,
        "1234567890123".into(),
        "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCdE".into(),
        Unsigned,
    )?;
    let new_pool = |capacity| {
        SessionPool::builder(flow.clone())
            .capacity(capacity)
            .idle_timeout(Duration::from_secs(24 * 3600))
            .max_concurrent_requests(FILLERS as usize)
            .build()
    };

    let map = DashMap::new();
    for number in 0..sessions {
        map.insert(name(number).into_boxed_str(), authorization(number)?);
    }

    let pool = new_pool(sessions + sessions / 5);
    let began = Instant::now();
    runtime.block_on(fill(&pool, sessions))?;
    let filling = began.elapsed();
    let kept = pool.stats().cached;
    ensure!(
        kept == sessions,
        "of {sessions} sessions only {kept} are kept"
    );

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
        Goal::AtMost(2.0),
        format!(
            "{:.0} ns by name; map {:.0} ns",
            measured.nanos("pool"),
            measured.nanos("map")
        ),
        "a look also makes the key, reads two clocks, and notes that it was asked for",
    );
    report.figure(
        format!("sessions, {sessions} cached: lookup by a provider that is kept"),
        measured.nanos("held provider"),
        "ns",
        "",
    );
    report.figure(
        format!("sessions, {sessions}: filled"),
        sessions as f64 / filling.as_secs_f64(),
        "per s",
        "a whole exchange each, without a signature; the server is in the same process",
    );
    report.finish(&run)
}

/// Gets a token for each session, at this concurrency.
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

/// An endless sequence of pseudo-random numbers below a bound.
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
