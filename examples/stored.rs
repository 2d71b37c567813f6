//! A persistent sign-in: stored in files, refreshed by one process at a time, and shared with all processes that use it.
//!
//! Against Coze: set `COZE_DEVICE_OAUTH_CLIENT_ID` (and `COZE_API_BASE` for coze.cn), and name a folder:
//! `cargo run -p coze-examples --example stored -- FOLDER`. The second run finds the sign-in of the first.

use std::path::PathBuf;

use coze_auth::{CachedProvider, ConfiguredFlow, Flow, SignIn, TokenProvider};
use coze_auth_stores::FileStore;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // In your program: OAuthConfig::from_env_for(Flow::Device)?
    let config = coze_examples::mock_unless_configured(Flow::Device).await?;
    let ConfiguredFlow::Device(device) = config.build()? else {
        anyhow::bail!("this is not a device app");
    };

    // In your program: FileStore::in_default_folder("my-program")?
    let temporary = tempfile::tempdir()?;
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let store = FileStore::new(folder.unwrap_or(temporary.path().join("sign-ins")));
    let sign_in = SignIn::new(store, "default")?;
    if sign_in.requires_sign_in().await? {
        let authorization = device.start().await?;
        println!("open   {}", authorization.verification_uri_complete());
        println!("and confirm the code {}\n", authorization.user_code());
        coze_examples::open_in_browser(authorization.verification_uri_complete());
        sign_in.put(&device.poll(&authorization).await?).await?;
    }

    // Each of these could be a separate process.
    let one = CachedProvider::stored(device.clone(), sign_in.clone()).build();
    let other = CachedProvider::stored(device, sign_in).build();
    let token = one.token().await?;
    // As if the API had refused it: one of them refreshes, and the other loads its result.
    one.invalidate(&token);
    one.token().await?;
    other.token().await?;
    for (name, stats) in [("one", one.stats()), ("other", other.stats())] {
        let (requests, loads) = (stats.requests, stats.loaded_from_store);
        println!("{name:<6} {requests} requests, loaded {loads} tokens from the store");
    }

    one.shutdown().await?;
    other.shutdown().await?;
    Ok(())
}
