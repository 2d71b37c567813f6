//! A whole service: one provider, made when it starts, shared by clones, shut down when it ends. It asks for a token
//! when there is none, and for the next one shortly before that ends; not for each call.
//!
//! Against Coze: as the example `jwt`.

use anyhow::ensure;
use coze_api::CozeApi;
use coze_auth::{AccessToken, CachedProvider, Flow, TokenProvider};
use coze_examples::{Stage, flow};
use coze_mock::{Endpoint, MockCoze};
use reqwest::{Response, StatusCode};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let stage = Stage::set(Flow::Jwt).await?;
    let endpoint = stage.config.endpoint().clone();
    let me_url = format!("{}/v1/users/me", endpoint.api_base());
    // Any other HTTP client takes the ready header.
    let http = coze_wire::http_client(endpoint.api_base())?;

    // When the service starts. Clones are cheap, and are the same provider.
    let provider = CachedProvider::jwt(flow!(stage.config, Jwt)).build();
    let coze = CozeApi::builder(provider.clone())
        .endpoint(endpoint)
        .product("my-service/1.0")
        .build()?;

    // Its requests, many at once: typed calls, which recover by themselves from a token that died early.
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let coze = coze.clone();
            tokio::spawn(async move {
                coze.call(|api| async move { api.get_current_user().exchange().await })
                    .await
            })
        })
        .collect();
    for call in calls {
        let me = call.await??;
        println!("call   {} (log id {:?})", me.data.user_name, me.log_id());
    }

    println!("get    {}", get(&http, &provider, &me_url).await?.status());

    if let Some(mock) = &stage.mock {
        ensure!(token_requests(mock) == 1, "four calls, one token");

        // A token that dies before its time costs one request for another.
        mock.revoke_access_token(provider.token().await?.expose());
        let status = get(&http, &provider, &me_url).await?.status();
        println!("get    {status}, though the token was revoked");
        ensure!(status == StatusCode::OK);
        ensure!(token_requests(mock) == 2, "one more token");
    }

    // For one's metrics; and when the service ends.
    println!("stats  {:#?}", provider.stats());
    provider.shutdown().await?;
    Ok(())
}

/// A GET request with a token, made once more with the next one when the API refuses the first.
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
