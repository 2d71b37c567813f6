//! 100,000 reads per second with tokens that live 5 seconds: only the first caller waits, and no caller gets an
//! error. The mock has a latency of 50 ms.

#![forbid(unsafe_code)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use coze_auth::{
    CachedProvider, Endpoint, JwtFlow, JwtTokenRequest, OAuthClient, PrivateKey, TokenProvider,
};
use coze_benches::{
    report::{Goal, Report},
    run::Run,
};
use coze_mock::{Fault, MockCoze, Target, Times, defaults};

const READERS: u64 = 2;
const READS_PER_SECOND: u64 = 100_000;

#[derive(Default)]
struct Counts {
    reads: AtomicU64,
    waits: AtomicU64,
    errors: AtomicU64,
    slowest_nanos: AtomicU64,
}

fn main() -> Result<()> {
    let run = Run::from_args()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mock = runtime.block_on(MockCoze::start())?;
    let latency = Fault::latency(Duration::from_millis(50));
    mock.faults().add(latency, Target::Any, Times::Forever);

    let client = OAuthClient::new(Endpoint::custom(mock.url())?)?;
    let flow = JwtFlow::new(
        client,
        defaults::JWT_CLIENT_ID.into(),
        defaults::JWT_PUBLIC_KEY_ID.into(),
        PrivateKey::from_pem(mock.default_jwt_private_key_pem()?)?,
    )?;
    let request = JwtTokenRequest::default().duration(Duration::from_secs(5));
    let provider = CachedProvider::jwt_for(flow, request).build();
    // The first caller waits.
    runtime.block_on(provider.token())?;

    let lasting = run.choose(Duration::from_secs(30), Duration::from_secs(6));
    let counts = Arc::new(Counts::default());
    let began = Instant::now();
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let (provider, counts) = (provider.clone(), Arc::clone(&counts));
            let runtime = runtime.handle().clone();
            thread::spawn(move || {
                read_steadily(began, lasting, &counts, || {
                    if provider.cached().is_some() {
                        return;
                    }
                    counts.waits.fetch_add(1, Ordering::Relaxed);
                    if runtime.block_on(provider.token()).is_err() {
                        counts.errors.fetch_add(1, Ordering::Relaxed);
                    }
                });
            })
        })
        .collect();
    for reader in readers {
        reader.join().map_err(|_| anyhow!("a reader panicked"))?;
    }
    let took = began.elapsed().as_secs_f64();
    let stats = provider.stats();
    mock.assert_clean();

    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    let reads = count(&counts.reads);
    let load = format!(
        "{:.0} reads/s for {took:.0} s; {} tokens; slowest batch of reads {:.2} ms",
        reads / took,
        stats.refreshes,
        count(&counts.slowest_nanos) / 1e6
    );
    let why = match stats.failures {
        0 => String::new(),
        failures => format!("{failures} of {} refreshes failed", stats.refreshes),
    };
    let mut report = Report::new();
    report.goal(
        "background refresh under load: callers who waited after the first",
        count(&counts.waits),
        "",
        Goal::Exactly(0.0),
        load,
        &why,
    );
    report.goal(
        "background refresh under load: errors",
        count(&counts.errors),
        "",
        Goal::Exactly(0.0),
        "",
        &why,
    );
    report.goal(
        "background refresh under load: reads",
        reads / took,
        "per s",
        // On a machine that is too slow for the rate the result means nothing.
        Goal::AtLeast(0.95 * READS_PER_SECOND as f64),
        "",
        "",
    );
    report.finish(&run)
}

/// Reads in batches of a millisecond, so that all readers together reach the rate.
fn read_steadily(began: Instant, lasting: Duration, counts: &Counts, read: impl Fn()) {
    let mut done = 0;
    while began.elapsed() < lasting {
        let due = began.elapsed().as_micros() as u64 * (READS_PER_SECOND / READERS) / 1_000_000;
        let batch = Instant::now();
        for _ in done..due {
            read();
        }
        counts
            .slowest_nanos
            .fetch_max(batch.elapsed().as_nanos() as u64, Ordering::Relaxed);
        done = due;
        thread::sleep(Duration::from_millis(1));
    }
    counts.reads.fetch_add(done, Ordering::Relaxed);
}
