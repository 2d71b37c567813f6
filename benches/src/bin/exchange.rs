//! A whole exchange on loopback: signature, request, response. One at a time, and 64 at a time.

#![forbid(unsafe_code)]

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::Result;
use coze_auth::JwtFlow;
use coze_benches::{
    floor::BareExchange,
    peers::{GcpAuth, YupOauth2},
    report::{Goal, Report},
    rounds::median,
    run::Run,
    server::TokenServer,
    subject,
};
use tokio::task::JoinSet;

/// All contenders, each with its own connection pool.
#[derive(Clone)]
struct Contenders {
    bare: Arc<BareExchange>,
    flow: JwtFlow,
    gcp_auth: Arc<GcpAuth>,
    yup: Arc<YupOauth2>,
    /// gcp_auth sends a request only for a new scope.
    scope: Arc<AtomicU64>,
}

const NAMES: [&str; 4] = ["floor", "exchange", "gcp_auth", "yup-oauth2"];

fn main() -> Result<()> {
    let run = Run::from_args()?;
    let server = TokenServer::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut report = Report::new();
    runtime.block_on(async {
        let everybody = Contenders {
            bare: Arc::new(BareExchange::new(&server)?),
            flow: subject::jwt_flow(&server)?,
            gcp_auth: Arc::new(GcpAuth::new(&server)?),
            yup: Arc::new(YupOauth2::new(&server).await?),
            scope: Arc::default(),
        };
        for (concurrent, each, rounds) in [
            (1, run.choose(40, 5), run.choose(60, 3)),
            (64, run.choose(4, 1), run.choose(40, 2)),
        ] {
            let mut seconds: HashMap<&str, Vec<f64>> = HashMap::new();
            for round in 0..=rounds {
                for turn in 0..NAMES.len() {
                    let name = NAMES[(turn + round) % NAMES.len()];
                    let taken = everybody.take_turn(name, concurrent, each).await?;
                    // The first round opens connections.
                    if round > 0 {
                        seconds.entry(name).or_default().push(taken);
                    }
                }
            }
            rows(&mut report, concurrent, &seconds);
        }
        anyhow::Ok(())
    })?;
    report.finish(&run)
}

fn rows(report: &mut Report, concurrent: usize, seconds: &HashMap<&str, Vec<f64>>) {
    let of = |name: &str| seconds.get(name).cloned().unwrap_or_default();
    let micros = |name: &str| median(of(name)) * 1e6;
    let ratios = of("exchange")
        .iter()
        .zip(of("floor"))
        .map(|(ours, floor)| ours / floor)
        .collect();
    report.goal(
        format!("whole exchange, {concurrent} concurrent: against the floor"),
        median(ratios),
        "x",
        Goal::AtMost(1.1),
        format!(
            "{:.0} us; floor {:.0} us",
            micros("exchange"),
            micros("floor")
        ),
        "",
    );
    for (name, note) in [
        ("exchange", "coze-auth"),
        ("floor", "bare reqwest JSON POST and raw signature"),
        ("gcp_auth", "one at a time, whatever is asked of it"),
        ("yup-oauth2", "a new connection for each"),
    ] {
        report.figure(
            format!("whole exchange, {concurrent} concurrent: {name}"),
            micros(name),
            "us",
            note,
        );
    }
}

impl Contenders {
    /// Seconds per exchange at this concurrency and number of repetitions.
    async fn take_turn(&self, name: &str, concurrent: usize, each: usize) -> Result<f64> {
        let began = Instant::now();
        match name {
            "floor" => {
                all_at_once(concurrent, each, self, |all| async move {
                    all.bare.exchange().await?;
                    Ok(())
                })
                .await?;
            }
            "exchange" => {
                all_at_once(concurrent, each, self, |all| async move {
                    all.flow.token().await?;
                    Ok(())
                })
                .await?;
            }
            "gcp_auth" => {
                all_at_once(concurrent, each, self, |all| async move {
                    let scope = all.scope.fetch_add(1, Ordering::Relaxed);
                    all.gcp_auth.fetch(scope).await?;
                    Ok(())
                })
                .await?;
            }
            _ => {
                all_at_once(concurrent, each, self, |all| async move {
                    all.yup.fetch().await?;
                    Ok(())
                })
                .await?;
            }
        }
        Ok(began.elapsed().as_secs_f64() / (concurrent * each) as f64)
    }
}

async fn all_at_once<F, D>(
    concurrent: usize,
    each: usize,
    everybody: &Contenders,
    exchange: F,
) -> Result<()>
where
    F: Fn(Contenders) -> D + Copy + Send + 'static,
    D: Future<Output = Result<()>> + Send,
{
    let mut tasks = JoinSet::new();
    for _ in 0..concurrent {
        let everybody = everybody.clone();
        tasks.spawn(async move {
            for _ in 0..each {
                exchange(everybody.clone()).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}
