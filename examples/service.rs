//! A whole service: one provider, created at its start, shared by clones, shut down at its end. It requests a token
//! when there is none, and the next one shortly before it expires, not for each call.
//!
//! Against Coze: as for the example `jwt`.

use anyhow::ensure;
use coze_api::{CozeApi, SendExt};
use coze_auth::{AccessToken, CachedProvider, Flow, TokenProvider};
use coze_examples::{Stage, flow};
use coze_mock::{Endpoint, MockCoze};
use reqwest::{Response, StatusCode};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let stage = Stage::set(Flow::Jwt).await?;
    let endpoint = stage.config.endpoint().clone();
    let me_url = format!("{}/v1/users/me", endpoint.api_base());
    // Any other HTTP client can send the header value.
    let http = coze_wire::http_client(endpoint.api_base())?;

    // At the start of the service. Clones are cheap and share the provider.
    let provider = CachedProvider::jwt(flow!(stage.config, Jwt)).build();
    let coze = CozeApi::builder(provider.clone())
        .endpoint(endpoint)
        .product("my-service/1.0")
        .build()?;

    // Its concurrent requests: typed calls, which recover automatically from a revoked token.
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let coze = coze.clone();
            tokio::spawn(async move { coze.users().me().send().await })
        })
        .collect();
    for call in calls {
        let me = call.await??;
        println!("call   {} (log id {:?})", me.user_name, me.log_id());
    }

    println!("get    {}", get(&http, &provider, &me_url).await?.status());

    if let Some(mock) = &stage.mock {
        ensure!(token_requests(mock) == 1, "four calls, one token");

        // A revoked token costs one request for a new one.
        mock.revoke_access_token(provider.token().await?.expose());
        let status = get(&http, &provider, &me_url).await?.status();
        println!("get    {status}, though the token was revoked");
        ensure!(status == StatusCode::OK);
        ensure!(token_requests(mock) == 2, "one more token");
    }

    // For metrics, and at the end of the service.
    println!("stats  {:#?}", provider.stats());
    provider.shutdown().await?;
    Ok(())
}

/// A GET request with a token, repeated once with the next token if the API refuses the first.
async fn get(
    http: &reqwest::Client,
    provider: &CachedProvider,
    url: &str,
) -> anyhow::Result<Response> {
    let get = |token: &AccessToken| {
        let request = http.get(url);
        request
            .header("Authorization", token.authorization())
            .send()
    };
    let token = provider.token().await?;
    let answer = get(&token).await?;
    if answer.status() != StatusCode::UNAUTHORIZED {
        return Ok(answer);
    }
    provider.invalidate(&token);
    Ok(get(&provider.token().await?).await?)
}

fn token_requests(mock: &MockCoze) -> usize {
    let requests = mock.requests().into_iter();
    requests
        .filter(|request| request.endpoint == Some(Endpoint::Token))
        .count()
}
