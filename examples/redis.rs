//! Two replicas of a service that share a user's sign-in in Redis: one of them refreshes, and both use the result.
//!
//! Set `REDIS_URL`, such as `redis://127.0.0.1:6379` (how to run Redis: docs/redis.md). Against Coze: also
//! `COZE_DEVICE_OAUTH_CLIENT_ID` (and `COZE_API_BASE` for coze.cn).

use anyhow::Context;
use coze_auth::{CachedProvider, ConfiguredFlow, Flow, SignIn, TokenProvider};
use coze_auth_stores::RedisStore;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("REDIS_URL")
        .context("start Redis (`redis-server`), and set REDIS_URL=redis://127.0.0.1:6379")?;
    // In your program: OAuthConfig::from_env_for(Flow::Device)?
    let config = coze_examples::mock_unless_configured(Flow::Device).await?;
    let ConfiguredFlow::Device(device) = config.build()? else {
        anyhow::bail!("this is not a device app");
    };

    // Each replica has a connection and a provider of its own.
    let replica = || {
        let sign_in = SignIn::new(RedisStore::new(&url)?, "example-customer")?;
        let provider = CachedProvider::stored(device.clone(), sign_in.clone()).build();
        anyhow::Ok((sign_in, provider))
    };
    let (sign_in, one) = replica()?;
    let (_, other) = replica()?;

    // Once, by whichever replica talks to the user.
    let authorization = device.start().await?;
    println!("open   {}", authorization.verification_uri_complete());
    println!("and confirm the code {}\n", authorization.user_code());
    coze_examples::open_in_browser(authorization.verification_uri_complete());
    sign_in.put(&device.poll(&authorization).await?).await?;

    // As if the API had refused the token at both replicas.
    one.invalidate(&one.token().await?);
    other.invalidate(&other.token().await?);
    let (first, second) = tokio::join!(one.token(), other.token());
    let same = first?.expose() == second?.expose();
    println!("same   {same}: the refresh token was redeemed once");
    for (name, stats) in [("one", one.stats()), ("other", other.stats())] {
        let (requests, loads) = (stats.requests, stats.loaded_from_store);
        println!("{name:<6} {requests} requests, loaded {loads} tokens from Redis");
    }

    one.shutdown().await?;
    other.shutdown().await?;
    sign_in.sign_out().await?;
    Ok(())
}
