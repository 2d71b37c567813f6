//! An exchange of your own: services that may not hold Coze's credentials get their tokens from a gateway of their company.

use std::time::Duration;

use axum::{Router, routing::get};
use coze_api::prelude::*;
use coze_auth::{AccessToken, CachedProvider, Endpoint, Error, Result};
use coze_mock::{MockCoze, defaults};
use tokio::net::TcpListener;

/// Asks the gateway for a token. The provider calls this when it needs one, for all its callers.
async fn ask_gateway(http: reqwest::Client, url: String) -> Result<(AccessToken, Duration)> {
    // A failure of the network, or a 5xx, may pass: the provider tries again within its deadline.
    let transient = |error| Error::of_provider("the gateway", error).transient();
    let response = http.get(url).send().await.map_err(transient)?;
    let response = response.error_for_status().map_err(transient)?;
    let token = response.text().await.map_err(transient)?;
    Ok((AccessToken::new(token)?, Duration::from_secs(900)))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // In your program: Endpoint::COM or Endpoint::CN
    let mock = MockCoze::start().await?;
    let endpoint = Endpoint::custom(mock.url())?;

    // The gateway, which is another machine in reality.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/coze-token", listener.local_addr()?);
    let issue = async || defaults::PERSONAL_ACCESS_TOKEN;
    let gateway = Router::new().route("/coze-token", get(issue));
    tokio::spawn(async { axum::serve(listener, gateway).await });

    let http = reqwest::Client::builder().no_proxy().build()?;
    let provider = CachedProvider::from_fn(move || ask_gateway(http.clone(), url.clone())).build();
    let coze = CozeApi::builder(provider.clone())
        .endpoint(endpoint)
        .build()?;
    for _ in 0..3 {
        let me = coze.users().me().send().await?;
        println!("user   {}", me.user_name);
    }
    println!(
        "stats  {} requests to the gateway",
        provider.stats().requests
    );
    Ok(())
}
