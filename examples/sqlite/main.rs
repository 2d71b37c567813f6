//! A store of your own: sign-ins in an SQLite database.
//!
//! Against Coze: set `COZE_DEVICE_OAUTH_CLIENT_ID` (and `COZE_API_BASE` for coze.cn), and name a file:
//! `cargo run -p coze-examples --example sqlite -- sign-ins.db`. The second run finds the sign-in of the first.

mod store;

use std::path::PathBuf;

use coze_auth::{
    CachedProvider, ConfiguredFlow, Flow, SignIn, TokenProvider,
    store::{Blocking, Store},
};
use store::SqliteStore;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // In your program: OAuthConfig::from_env_for(Flow::Device)?
    let config = coze_examples::mock_unless_configured(Flow::Device).await?;
    let ConfiguredFlow::Device(device) = config.build()? else {
        anyhow::bail!("this is not a device app");
    };

    let temporary = tempfile::tempdir()?;
    let file = std::env::args_os().nth(1).map(PathBuf::from);
    let file = file.unwrap_or(temporary.path().join("sign-ins.db"));
    let store = Blocking::new(SqliteStore::open(file)?);
    let sign_in = SignIn::new(store.clone(), "default")?;
    if sign_in.requires_sign_in().await? {
        let authorization = device.start().await?;
        println!("open   {}", authorization.verification_uri_complete());
        println!("and confirm the code {}\n", authorization.user_code());
        coze_examples::open_in_browser(authorization.verification_uri_complete());
        sign_in.put(&device.poll(&authorization).await?).await?;
    }
    for profile in store.list().await?.unwrap_or_default() {
        println!("stored {profile}");
    }

    let provider = CachedProvider::stored(device, sign_in)
        .refresh(coze_auth::RefreshMode::InLine)
        .build();
    let token = provider.token().await?;
    // As if the API had refused it.
    provider.invalidate(&token);
    provider.token().await?;
    println!("stats  {} requests", provider.stats().requests);
    provider.shutdown().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_store_passes_the_suite() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("sign-ins.db");
        let open = || Blocking::new(SqliteStore::open(&path).expect("a new database"));
        coze_auth::testing::store::check(|| async { Arc::new(open()) as Arc<dyn Store> });
        Ok(())
    }
}
