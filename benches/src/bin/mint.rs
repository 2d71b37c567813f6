//! Minting a JWT, claims and signature, compared with the raw signature, on one thread and on two. Also how signing on an
//! executor's threads delays other tasks, compared with signing on blocking threads.

#![forbid(unsafe_code)]

use std::{
    hint::black_box,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coze_auth::{Endpoint, JwtFlow, OAuthClient, PrivateKey, SignFuture, Signer};
use coze_benches::{
    keys::{self, RawSigner},
    report::{Goal, Report},
    rounds::{Contender, Rounds, median},
    run::Run,
};
use futures_util::FutureExt;
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::interval,
};

/// Signs and then returns an error, so that a token call ends before the
/// request. The measurement includes the whole JWT, plus the small cost of the error.
struct StopsHere<S> {
    key: S,
    /// The last signed message.
    message: Option<Arc<Mutex<Vec<u8>>>>,
}

impl<S: Signer> Signer for StopsHere<S> {
    fn sign<'a>(&'a self, message: &'a [u8]) -> SignFuture<'a> {
        if let Some(kept) = &self.message {
            message.clone_into(&mut kept.lock().unwrap_or_else(PoisonError::into_inner));
        }
        let signing = self.key.sign(message);
        Box::pin(async move {
            let mut jwt = String::from_utf8_lossy(message).into_owned();
            jwt.push('.');
            URL_SAFE_NO_PAD.encode_string(signing.await?, &mut jwt);
            black_box(&jwt);
            Err("stopped before the request".into())
        })
    }
}

/// Signs a copy of the message on a blocking thread of the executor.
struct OnABlockingThread(Arc<PrivateKey>);

impl Signer for OnABlockingThread {
    fn sign<'a>(&'a self, message: &'a [u8]) -> SignFuture<'a> {
        let (key, message) = (Arc::clone(&self.0), message.to_vec());
        Box::pin(async move {
            let signing = spawn_blocking(move || key.sign(&message).now_or_never());
            signing.await?.ok_or("signing must complete immediately")?
        })
    }
}

fn key() -> Result<PrivateKey> {
    Ok(PrivateKey::from_pem(keys::private_key_pem()?)?)
}

fn flow(key: impl Signer, message: Option<Arc<Mutex<Vec<u8>>>>) -> Result<JwtFlow> {
    let signer = StopsHere { key, message };
    let flow = JwtFlow::new(
        OAuthClient::new(Endpoint::COM)?,
        "1234567890123".into(),
        "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCdE".into(),
        signer,
    )?;
    Ok(flow)
}

fn main() -> Result<()> {
    let run = Run::from_args()?;
    let mut report = Report::new();
    against_the_raw_signature(&run, &mut report)?;
    beside_a_bystander(&run, &mut report)?;
    report.finish(&run)
}

fn against_the_raw_signature(run: &Run, report: &mut Report) -> Result<()> {
    // The raw signature signs a message of the same length.
    let message = Arc::new(Mutex::new(Vec::new()));
    let ended = flow(key()?, Some(Arc::clone(&message)))?
        .token()
        .now_or_never();
    ended
        .context("signing must complete immediately")?
        .err()
        .context("the call must not send a request")?;
    let message = message
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();

    let raw = RawSigner::new()?;
    let flow = flow(key()?, None)?;
    let one_thread = vec![
        Contender::new("raw signature", |repetitions| {
            for _ in 0..repetitions {
                black_box(raw.sign(black_box(&message)));
            }
        }),
        Contender::new("mint", |repetitions| {
            for _ in 0..repetitions {
                let _ = black_box(flow.token().now_or_never());
            }
        }),
    ];
    let two_threads: Vec<_> = one_thread.iter().map(Contender::on_two_threads).collect();
    let (rounds, batch) = run.choose(
        (300, Duration::from_millis(10)),
        (5, Duration::from_millis(2)),
    );
    let measured = Rounds::measure(&[one_thread, two_threads].concat(), rounds, batch);

    for threads in ["", ", two threads"] {
        let (mint, raw) = (format!("mint{threads}"), format!("raw signature{threads}"));
        report.goal(
            format!("JWT {mint}: against the raw signature"),
            measured.ratio(&mint, &raw),
            "x",
            Goal::AtMost(1.03),
            format!(
                "{:.1} us; raw {:.1} us (claims of {} bytes, encoded)",
                measured.seconds(&mint) * 1e6,
                measured.seconds(&raw) * 1e6,
                message.len()
            ),
            "",
        );
    }
    Ok(())
}

/// The number of mints that start together; the next ones start when all have ended.
const AT_A_TIME: usize = 64;
const WORKERS: usize = 2;
/// The interval of the bystander.
const TICK: Duration = Duration::from_millis(1);

/// The result of a round.
struct Beside {
    mints_per_second: f64,
    /// The delay of the bystander at each tick, in milliseconds.
    delays: Vec<f64>,
}

fn beside_a_bystander(run: &Run, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()?;
    let inline = flow(key()?, None)?;
    let blocking = flow(OnABlockingThread(Arc::new(key()?)), None)?;
    let contenders = [
        (
            format!("{AT_A_TIME} JWT mints at a time, inline"),
            Some(&inline),
        ),
        (
            format!("{AT_A_TIME} JWT mints at a time, on blocking threads"),
            Some(&blocking),
        ),
        ("no JWT mint".to_owned(), None),
    ];
    let (rounds, lasting) =
        run.choose((5, Duration::from_secs(1)), (1, Duration::from_millis(200)));
    // The first round starts the blocking threads and does not count.
    let mut kept = [const { Vec::new() }; 3];
    for round in 0..=rounds {
        for ((_, flow), kept) in contenders.iter().zip(&mut kept) {
            let beside = runtime.block_on(mint_beside_a_bystander(*flow, lasting))?;
            if round > 0 {
                kept.push(beside);
            }
        }
    }

    for ((name, flow), kept) in contenders.iter().zip(kept) {
        if flow.is_some() {
            report.figure(
                format!("{name}: mints"),
                median(kept.iter().map(|beside| beside.mints_per_second).collect()),
                "per s",
                format!("on an executor with {WORKERS} worker threads"),
            );
        }
        let mut delays: Vec<f64> = kept.into_iter().flat_map(|beside| beside.delays).collect();
        delays.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = delays.len().saturating_sub(1) as f64 * share;
            delays.get(index as usize).copied().unwrap_or(f64::NAN)
        };
        for (which, share) in [("99th percentile", 0.99), ("longest", 1.0)] {
            report.figure(
                format!("{name}: a bystander is late, {which}"),
                at(share),
                "ms",
                format!(
                    "{} ticks, one each {TICK:?}; median {:.2} ms",
                    delays.len(),
                    at(0.5)
                ),
            );
        }
    }
    Ok(())
}

/// Mints for this time, if there is a flow, while another task of the same executor ticks.
async fn mint_beside_a_bystander(flow: Option<&JwtFlow>, lasting: Duration) -> Result<Beside> {
    let began = Instant::now();
    let bystander = tokio::spawn(async move {
        let mut delays = Vec::new();
        // Missed ticks follow immediately, so that each has its delay.
        let mut ticks = interval(TICK);
        while began.elapsed() < lasting {
            let due = ticks.tick().await;
            delays.push(due.elapsed().as_secs_f64() * 1e3);
        }
        delays
    });
    let mut mints = 0;
    if let Some(flow) = flow {
        while began.elapsed() < lasting {
            let minting = (0..AT_A_TIME).map(|_| {
                let flow = flow.clone();
                async move {
                    let _ = black_box(flow.token().await);
                }
            });
            minting.collect::<JoinSet<_>>().join_all().await;
            mints += AT_A_TIME;
        }
    }
    let mints_per_second = mints as f64 / began.elapsed().as_secs_f64();
    Ok(Beside {
        mints_per_second,
        delays: bystander.await?,
    })
}
