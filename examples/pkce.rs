//! Authorization code with PKCE, for a program on the user's own machine: it listens on a loopback port,
//! opens the browser, and receives the callback (RFC 8252).
//!
//! Against Coze: set `COZE_PKCE_OAUTH_CLIENT_ID`, `COZE_PKCE_OAUTH_REDIRECT_URI` (a loopback address with a
//! port, such as `http://127.0.0.1:8080/callback`), and `COZE_API_BASE` for coze.cn.

use anyhow::Context;
use axum::{Router, extract::RawQuery, routing::get};
use coze_api::prelude::*;
use coze_auth::{ConfiguredFlow, FixedToken, Flow, Url, UserFlow};
use tokio::{net::TcpListener, sync::mpsc};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // In your program: OAuthConfig::from_env_for(Flow::Pkce)?
    let config = coze_examples::mock_unless_configured(Flow::Pkce).await?;
    let redirect_uri = config.redirect_uri().context("no redirect URI")?;
    let redirect_uri = Url::parse(redirect_uri)?;
    let ConfiguredFlow::Pkce(pkce) = config.build()? else {
        anyhow::bail!("this is not a PKCE app");
    };

    // Listen first, so that the browser finds the program.
    let port = redirect_uri.port_or_known_default().unwrap_or(80);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let (sender, mut callbacks) = mpsc::channel(1);
    let receive = async move |RawQuery(query): RawQuery| {
        // Only the first one counts.
        let _ = sender.try_send(format!("?{}", query.unwrap_or_default()));
        "You may close this page."
    };
    let router = Router::new().route(redirect_uri.path(), get(receive));
    tokio::spawn(async { axum::serve(listener, router).await });

    let (url, login) = pkce.login(redirect_uri.as_str()).begin()?;
    println!("open   {url}\n");
    coze_examples::open_in_browser(&url);

    let callback = callbacks.recv().await.context("the listener stopped")?;
    let token = pkce.complete(login, &callback).await?;
    println!("token  for {} s", token.remaining().as_secs());

    // The refresh token is single-use: keep the next one, or let a provider do all this (see the example `stored`).
    let refresh_token = token.refresh_token().context("no refresh token")?;
    let next = pkce.refresh(refresh_token).await?;
    println!("next   for {} s", next.remaining().as_secs());

    let coze = CozeApi::new(pkce.client().clone(), FixedToken::from(next));
    let me = coze.users().me().send().await?;
    println!("user   {} ({})", me.user_name, me.user_id);
    Ok(())
}
