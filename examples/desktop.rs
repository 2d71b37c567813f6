//! A desktop program: at the first start the user signs in with the browser (RFC 8252), and later starts find the sign-in.
//!
//! Against Coze: set `COZE_PKCE_OAUTH_CLIENT_ID`, `COZE_PKCE_OAUTH_REDIRECT_URI` (a loopback address with a
//! port, such as `http://localhost:8080/callback`), and `COZE_API_BASE` for coze.cn.

use anyhow::Context;
use coze_api::prelude::*;
use coze_auth::{ConfiguredFlow, Flow, TokenProvider};
use coze_credentials::{DefaultCredentials, LoopbackLogin, ProfileConfig, Profiles};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // In your program: Profiles::in_default_folder("my-program")?
    let temporary = tempfile::tempdir()?;
    let profiles = Profiles::in_folder(temporary.path(), "my-program");

    if profiles.load("default")?.is_none() {
        sign_in(&profiles).await?;
    }

    let credentials = DefaultCredentials::builder()
        .profiles(profiles)
        .profile("default")
        .find()
        .await?;
    println!("from   {}", credentials.source());
    let coze = CozeApi::new(credentials.client().clone(), credentials.clone());
    let me = coze.users().me().send().await?;
    println!("user   {} ({})", me.user_name, me.user_id);
    // Before the program ends: saves a refreshed sign-in that is not saved yet.
    credentials.shutdown().await?;
    Ok(())
}

async fn sign_in(profiles: &Profiles) -> anyhow::Result<()> {
    // In your program: OAuthConfig::from_env_for(Flow::Pkce)?
    let config = coze_examples::mock_unless_configured(Flow::Pkce).await?;
    let profile = ProfileConfig::of(&config)?;
    let redirect_uri = profile.redirect_uri().context("no redirect URI")?;
    let ConfiguredFlow::Pkce(pkce) = config.build()? else {
        anyhow::bail!("this is not a PKCE app");
    };

    // A store that does not work must not cost a sign-in.
    profiles.check("default", &profile).await?;
    let login = LoopbackLogin::new(&pkce, redirect_uri).program("the example");
    // In your program: without `open_with`, which opens the user's browser.
    let login = login.open_with(|url| async move {
        println!("open   {url}\n");
        coze_examples::open_in_browser(&url);
        Ok(())
    });
    let token = login.run().await?;
    profiles.put("default", &profile, None, &token).await?;
    Ok(())
}
