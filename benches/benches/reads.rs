//! Detailed measurements of warm reads, for tuning: `cargo bench --manifest-path benches/Cargo.toml`. The published figures
//! are those of the program `reads`, which alternates between floor, peers and subject.

#![forbid(unsafe_code)]

use std::sync::{Arc, LazyLock};

use coze_auth::{AccessToken, CachedProvider, TokenProvider};
use coze_benches::{
    floor::{self, Floor},
    server::TokenServer,
    subject,
};
use http::HeaderValue;

fn main() {
    divan::main();
}

static FLOOR: LazyLock<Option<Floor>> = LazyLock::new(|| Floor::new().ok());
static PROVIDER: LazyLock<Option<CachedProvider>> = LazyLock::new(|| warm_provider().ok());
static ERASED: LazyLock<Option<Arc<dyn TokenProvider>>> = LazyLock::new(|| {
    let provider = PROVIDER.clone()?;
    Some(Arc::new(provider))
});

fn warm_provider() -> anyhow::Result<CachedProvider> {
    let server = TokenServer::start()?;
    let provider = subject::provider(&server)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(provider.token())?;
    Ok(provider)
}

#[divan::bench(threads = [1, 2])]
fn both_coarse_clocks() -> (u64, u64) {
    floor::both_clocks()
}

#[divan::bench(threads = [1, 2])]
fn floor_borrowed() -> Option<usize> {
    let entry = FLOOR.as_ref()?.borrow()?;
    Some(divan::black_box(entry.authorization()).len())
}

#[divan::bench(threads = [1, 2])]
fn floor_owned() -> Option<HeaderValue> {
    FLOOR.as_ref()?.cached()
}

#[divan::bench(threads = [1, 2])]
fn borrowed() -> Option<usize> {
    let token = PROVIDER.as_ref()?.borrow()?;
    Some(divan::black_box(token.authorization()).len())
}

#[divan::bench(threads = [1, 2])]
fn owned() -> Option<AccessToken> {
    PROVIDER.as_ref()?.cached()
}

#[divan::bench(threads = [1, 2])]
fn owned_dyn() -> Option<AccessToken> {
    divan::black_box(&**ERASED.as_ref()?).cached()
}
