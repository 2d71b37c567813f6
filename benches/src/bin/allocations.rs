//! Allocations of a warm read. A separate program, because its counting allocator, that of
//! `allocation_counter`, takes time.

#![forbid(unsafe_code)]

use std::{hint::black_box, sync::Arc};

use anyhow::Result;
use coze_auth::TokenProvider;
use coze_benches::{
    peers::WarmPeers,
    report::{Goal, Report},
    run::Run,
    server::TokenServer,
    subject,
};
use futures_util::FutureExt;

const READS: usize = 1000;

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

    let mut report = Report::new();
    let owned = of_a_read(|| {
        black_box(provider.cached());
    });
    let through_dyn = of_a_read(|| {
        black_box(black_box(&*erased).cached());
    });
    for (name, allocations) in [
        ("owned", owned),
        ("owned, dyn", through_dyn),
    ] {
        report.goal(
            format!("warm read, {name}: allocations"),
            allocations,
            "",
            Goal::Exactly(0.0),
            "",
            "",
        );
    }
    let peers = [
        (
            "gcp_auth",
            of_a_read(|| {
                black_box(peers.gcp_auth.token().now_or_never());
            }),
        ),
        (
            "google-cloud-auth, token",
            of_a_read(|| {
                black_box(peers.google.token().now_or_never());
            }),
        ),
        (
            "google-cloud-auth, headers",
            of_a_read(|| {
                black_box(peers.google_headers.headers().now_or_never());
            }),
        ),
        (
            "yup-oauth2",
            of_a_read(|| {
                black_box(peers.yup.token().now_or_never());
            }),
        ),
    ];
    for (name, allocations) in peers {
        report.figure(
            format!("warm read: allocations of {name}"),
            allocations,
            "",
            "",
        );
    }
    report.finish(&run)
}

/// Allocations of one warm read by this thread.
fn of_a_read(read: impl Fn()) -> f64 {
    read();
    let counted = allocation_counter::measure(|| {
        for _ in 0..READS {
            read();
        }
    });
    counted.count_total as f64 / READS as f64
}
