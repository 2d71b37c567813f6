//! A persistent sign-in: stored in a file, refreshed by one process at a time, and shared with all
//! processes that use it.
//!
//! Against Coze: set `COZE_DEVICE_OAUTH_CLIENT_ID` (and `COZE_API_BASE` for coze.cn). The sign-in is stored in the
//! platform's folder for the state of programs; against the mock, in a temporary one.

use coze_auth::{CachedProvider, ErrorKind, Flow, SignIn, StoreErrorKind};
use coze_auth_stores::FileStore;
use coze_examples::{Stage, approve_soon, flow, shown, users_me};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let stage = Stage::set(Flow::Device).await?;
    let endpoint = stage.config.endpoint().clone();
    let device = flow!(stage.config, Device);
    let temporary = tempfile::tempdir()?;
    let store = match &stage.mock {
        Some(_) => FileStore::new(temporary.path().join("sign-ins")),
        None => FileStore::in_default_folder("coze-examples")?,
    };
    println!("store  {}", store.folder().display());
    let sign_in = SignIn::new(store, "default")?;

    let requires_sign_in = match sign_in.requires_sign_in().await {
        // The message says what may be recovered. A new sign-in moves the damaged record into quarantine.
        Err(error) if error.kind() == ErrorKind::Store(StoreErrorKind::Damaged) => {
            println!("error  {error}");
            true
        }
        known => known?,
    };
    if requires_sign_in {
        let authorization = device.start().await?;
        println!("open   {}", authorization.verification_url());
        println!("and confirm the code {}\n", authorization.user_code());
        if let Some(mock) = &stage.mock {
            tokio::spawn(approve_soon(mock, authorization.user_code()));
        }
        sign_in.put(&device.poll(&authorization).await?).await?;
    }

    // Each of these could be a separate process.
    let one = CachedProvider::stored(device.clone(), sign_in.clone()).build();
    let other = CachedProvider::stored(device, sign_in).build();
    let token = one.token().await?;
    println!("token  {}", shown(token.expose()));
    let user = users_me(&endpoint, token.authorization()).await?;
    println!("user   {} ({})", user.user_name, user.user_id);

    // As if the API had refused it: one of them refreshes, and the other loads its result.
    coze_auth::TokenProvider::invalidate(&one, &token);
    println!("next   {}", shown(one.token().await?.expose()));
    println!("other  {}", shown(other.token().await?.expose()));
    println!("stats  {:?}", other.stats());

    one.shutdown().await?;
    other.shutdown().await?;
    Ok(())
}
