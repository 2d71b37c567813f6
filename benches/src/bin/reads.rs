//! Warm reads of a cached token. Borrowed and owned, on one thread and on two.

#![forbid(unsafe_code)]

use std::{hint::black_box, sync::Arc, time::Duration};

use anyhow::Result;
use coze_auth::TokenProvider;
use coze_benches::{
    floor::{Floor, both_clocks},
    peers::WarmPeers,
    report::{Goal, Report},
    rounds::{Contender, Rounds},
    run::Run,
    server::TokenServer,
    subject,
};
use futures_util::FutureExt;

const PEERS: [&str; 4] = [
    "gcp_auth",
    "google-cloud-auth, token",
    "google-cloud-auth, headers",
    "yup-oauth2",
];

const REFERENCES: [&str; 9] = [
    "both coarse clocks",
    "floor, borrowed",
    "floor, owned",
    "owned",
    "owned, dyn",
    PEERS[0],
    PEERS[1],
    PEERS[2],
    PEERS[3],
];

fn main() -> Result<()> {
    let run = Run::from_args()?;
    let server = TokenServer::start()?;
    let runtime = tokio::runtime::Runtime::new()?;

    let provider = subject::provider(&server)?;
    let erased: Arc<dyn TokenProvider> = Arc::new(provider.clone());
    let peers = runtime.block_on(async {
        provider.token().await?;
        WarmPeers::of(&server).await
    })?;
    let floor = Floor::new()?;

    macro_rules! contender {
        ($name:expr, $read:expr) => {
            Contender::new($name, |repetitions| {
                for _ in 0..repetitions {
                    black_box($read);
                }
            })
        };
    }
    let reads = || {
        vec![
            contender!("both coarse clocks", both_clocks()),
            contender!(
                "floor, borrowed",
                // The guard is not moved.
                if let Some(entry) = floor.borrow() {
                    black_box(entry.authorization());
                }
            ),
            contender!("floor, owned", floor.cached()),
            contender!("owned", provider.cached()),
            contender!("owned, dyn", black_box(&*erased).cached()),
            contender!("gcp_auth", peers.gcp_auth.token().now_or_never()),
            contender!(
                "google-cloud-auth, token",
                peers.google.token().now_or_never()
            ),
            contender!(
                "google-cloud-auth, headers",
                peers.google_headers.headers().now_or_never()
            ),
            contender!("yup-oauth2", peers.yup.token().now_or_never()),
        ]
    };
    let one_thread = reads();
    let two_threads: Vec<_> = one_thread.iter().map(Contender::on_two_threads).collect();
    let beside: Vec<_> = one_thread.iter().map(Contender::beside_a_spin).collect();
    let (rounds, batch) = run.choose(
        (300, Duration::from_millis(2)),
        (10, Duration::from_micros(200)),
    );
    let measured = Rounds::measure(&[one_thread, two_threads, beside].concat(), rounds, batch);

    let mut report = Report::new();
    for (name, floor, most) in [
        ("owned", "floor, owned", 1.3),
        ("owned, dyn", "floor, owned", 1.3),
    ] {
        goals(&mut report, &measured, name, floor, most);
    }
    for name in REFERENCES {
        report.figure(
            format!("warm read: {name}"),
            measured.nanos(name),
            "ns",
            format!(
                "10th, 50th, 90th percentile {}; two threads {:.2} x one",
                measured.spread(name),
                measured.scaling(name)
            ),
        );
    }
    report.finish(&run)
}

fn goals(report: &mut Report, measured: &Rounds, name: &str, floor: &str, most: f64) {
    report.goal(
        format!("warm read, {name}: against the floor"),
        measured.ratio(name, floor),
        "x",
        Goal::AtMost(most),
        format!(
            "{:.1} ns; floor {:.1} ns",
            measured.nanos(name),
            measured.nanos(floor)
        ),
        "",
    );
    // Our reads share no written memory; if even the bare clocks and guard do not scale, the cores do not.
    let bare_scales = measured.scaling("floor, borrowed");
    let why_not_scaling = if bare_scales < 1.8 {
        format!("on these cores the bare clocks and an arc-swap guard scale {bare_scales:.2} x")
    } else {
        String::new()
    };
    report.goal(
        format!("warm read, {name}: two threads against one"),
        measured.scaling(name),
        "x",
        Goal::AtLeast(1.8),
        format!(
            "against one beside a core that turns in circles; against one alone, whose clock may be higher, {:.2} x; floor {:.2} x, {:.2} x",
            measured.scaling_from_alone(name),
            measured.scaling(floor),
            measured.scaling_from_alone(floor)
        ),
        &why_not_scaling,
    );
    let fastest = measured.fastest(&PEERS);
    report.figure(
        format!("warm read, {name}: faster than the fastest peer"),
        measured.ratio(fastest, name),
        "x",
        format!(
            "{fastest}: {:.1} ns; the floor is {:.2} x faster than that",
            measured.nanos(fastest),
            measured.ratio(fastest, floor)
        ),
    );
}
