//! Authorization code with PKCE, for a program on the user's own machine: it listens on a loopback port,
//! opens the browser, and catches the callback (RFC 8252).
//!
//! Against Coze: set `COZE_PKCE_OAUTH_CLIENT_ID`, `COZE_PKCE_OAUTH_REDIRECT_URI` (a loopback address with a
//! port, such as `http://127.0.0.1:8080/callback`), and `COZE_API_BASE` for coze.cn.

use anyhow::Context;
use axum::{Router, extract::RawQuery, routing::get};
use coze_auth::{Flow, Url};
use coze_examples::{Stage, approve_in_browser, flow, shown, users_me};
use tokio::{net::TcpListener, sync::mpsc};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let stage = Stage::set(Flow::Pkce).await?;
    let endpoint = stage.config.endpoint().clone();
    let redirect_uri = stage.redirect_uri().to_owned();
    let pkce = flow!(stage.config, Pkce);

    let (url, login) = pkce.login(&redirect_uri).begin()?;
    println!("open   {url}\n");
    let callback = match &stage.mock {
        Some(mock) => approve_in_browser(mock, url.as_str())?,
        None => catch_callback(&redirect_uri).await?,
    };

    let token = pkce.complete(login, &callback).await?;
    println!(
        "token  {}, for {} s",
        shown(token.access_token().expose()),
        token.remaining().as_secs()
    );
    let user = users_me(&endpoint, token.authorization()).await?;
    println!("user   {} ({})", user.user_name, user.user_id);

    if let Some(refresh_token) = token.refresh_token() {
        let next = pkce.refresh(refresh_token).await?;
        println!(
            "next   {}, by the refresh token",
            shown(next.access_token().expose())
        );
    }
    Ok(())
}

/// Listens for the callback of the browser, and returns its query.
async fn catch_callback(redirect_uri: &str) -> anyhow::Result<String> {
    let redirect_uri = Url::parse(redirect_uri)?;
    let port = redirect_uri.port_or_known_default().unwrap_or(80);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;

    let (caught, mut callbacks) = mpsc::channel(1);
    let catch = async move |RawQuery(query): RawQuery| {
        // Only the first one counts.
        let _ = caught.try_send(format!("?{}", query.unwrap_or_default()));
        "You may close this page."
    };
    let router = Router::new().route(redirect_uri.path(), get(catch));
    let server = tokio::spawn(async { axum::serve(listener, router).await });
    let callback = callbacks.recv().await.context("the listener stopped")?;
    server.abort();
    Ok(callback)
}
