//! Session names: one token per end user, so that no user sees another's conversations. A pool keeps each
//! user's token fresh.
//!
//! Against Coze: as for the example `jwt`.

use coze_auth::{ConfiguredFlow, Flow, JwtTokenRequest, SessionPool};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // In your program: OAuthConfig::from_env_for(Flow::Jwt)?
    let config = coze_examples::mock_unless_configured(Flow::Jwt).await?;
    let ConfiguredFlow::Jwt(jwt) = config.build()? else {
        anyhow::bail!("this is not a JWT app");
    };
    let pool = SessionPool::builder(jwt).build();

    for user in ["alice", "bob", "alice"] {
        let request = JwtTokenRequest::default()
            .session_name(user)
            .device_id(format!("{user}-laptop"));
        pool.provider(request).token().await?;
        println!("{user:<7} has a token; {} requests", pool.stats().requests);
    }
    Ok(())
}
