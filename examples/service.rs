//! A whole service: one provider, created at its start, shared by clones, shut down at its end. It requests a token
//! when there is none, and the next one shortly before it expires, not for each call.
//!
//! Against Coze: as for the example `jwt`.

use coze_api::prelude::*;
use coze_auth::{CachedProvider, ConfiguredFlow, Flow};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // In your program: OAuthConfig::from_env_for(Flow::Jwt)?
    let config = coze_examples::mock_unless_configured(Flow::Jwt).await?;
    let ConfiguredFlow::Jwt(jwt) = config.build()? else {
        anyhow::bail!("this is not a JWT app");
    };

    // At the start of the service. Clones are cheap and share the provider.
    let client = jwt.client().clone();
    let provider = CachedProvider::jwt(jwt).build();
    let coze = CozeApi::new(client, provider.clone());

    // Its concurrent requests: typed calls, which recover once from a revoked token.
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

    // Any other HTTP client can send the header value.
    let token = provider.token().await?;
    println!("header {:?}", token.authorization());

    // For metrics, and at the end of the service.
    println!("stats  {:#?}", provider.stats());
    provider.shutdown().await?;
    Ok(())
}
