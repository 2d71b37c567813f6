//! Authorization code with PKCE, for a program on the user's own machine: it listens on a loopback port,
//! opens the browser, and receives the callback (RFC 8252).
//!
//! Against Coze: set `COZE_PKCE_OAUTH_CLIENT_ID`, `COZE_PKCE_OAUTH_REDIRECT_URI` (a loopback address with a
//! port, such as `http://127.0.0.1:8080/callback`), and `COZE_API_BASE` for coze.cn.

use anyhow::Context;
use coze_api::prelude::*;
use coze_auth::{ConfiguredFlow, FixedToken, Flow, UserFlow};
use coze_credentials::LoopbackLogin;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // In your program: OAuthConfig::from_env_for(Flow::Pkce)?
    let config = coze_examples::mock_unless_configured(Flow::Pkce).await?;
    let redirect_uri = config.redirect_uri().context("no redirect URI")?.to_owned();
    let ConfiguredFlow::Pkce(pkce) = config.build()? else {
        anyhow::bail!("this is not a PKCE app");
    };

    // In your program: without `open_with`, which opens the user's browser.
    let login = LoopbackLogin::new(&pkce, redirect_uri).open_with(|url| async move {
        println!("open   {url}\n");
        coze_examples::open_in_browser(&url);
        Ok(())
    });
    let token = login.run().await?;
    println!("token  for {} s", token.remaining().as_secs());

    // The refresh token is single-use: keep the next one, or let a provider do all this (see the example `desktop`).
    let refresh_token = token.refresh_token().context("no refresh token")?;
    let next = pkce.refresh(refresh_token).await?;
    println!("next   for {} s", next.remaining().as_secs());

    let coze = CozeApi::new(pkce.client().clone(), FixedToken::from(next));
    let me = coze.users().me().send().await?;
    println!("user   {} ({})", me.user_name, me.user_id);
    Ok(())
}
