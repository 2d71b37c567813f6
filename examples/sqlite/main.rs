//! A store of your own: sign-ins in an SQLite database, here `sign-ins.db` in the current folder.
//!
//! Against Coze: set `COZE_DEVICE_OAUTH_CLIENT_ID` (and `COZE_API_BASE` for coze.cn). Against the mock, the database is in a temporary
//! folder.

mod store;

use coze_auth::{
    CachedProvider, Flow, RefreshMode, SignIn,
    store::{Blocking, Store},
};
use coze_examples::{Stage, approve_soon, flow, shown};
use store::SqliteStore;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let stage = Stage::set(Flow::Device).await?;
    let device = flow!(stage.config, Device);
    let temporary = tempfile::tempdir()?;
    let store = Blocking::new(match &stage.mock {
        Some(_) => SqliteStore::open(temporary.path().join("sign-ins.db"))?,
        None => SqliteStore::open("sign-ins.db")?,
    });

    let sign_in = SignIn::new(store.clone(), "default")?;
    if sign_in.requires_sign_in().await? {
        let authorization = device.start().await?;
        println!("open   {}", authorization.verification_url());
        println!("and confirm the code {}\n", authorization.user_code());
        if let Some(mock) = &stage.mock {
            tokio::spawn(approve_soon(mock, authorization.user_code()));
        }
        sign_in.put(&device.poll(&authorization).await?).await?;
    }
    for profile in store.list().await?.unwrap_or_default() {
        println!("stored {profile}");
    }

    let provider = CachedProvider::stored(device, sign_in)
        .refresh(RefreshMode::InLine)
        .build();
    let token = provider.token().await?;
    println!("token  {}", shown(token.expose()));
    // As if the API had refused it.
    coze_auth::TokenProvider::invalidate(&provider, &token);
    println!("next   {}", shown(provider.token().await?.expose()));
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
