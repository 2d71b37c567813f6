//! JWT, for a service that acts as the application itself: only the flow. Each `token()` here sends a request to Coze; a
//! service that calls Coze repeatedly caches its token in one provider: see the example `service`.
//!
//! Against Coze: set `COZE_JWT_OAUTH_CLIENT_ID`, `COZE_JWT_OAUTH_PUBLIC_KEY_ID`,
//! `COZE_JWT_OAUTH_PRIVATE_KEY_FILE_PATH` (or `COZE_JWT_OAUTH_PRIVATE_KEY`), and `COZE_API_BASE` for coze.cn.
//! For the token of a channel app, name its bots: `cargo run -p coze-examples --example jwt -- BOT_ID BOT_ID`.

use std::time::Duration;

use coze_api::prelude::*;
use coze_auth::{ConfiguredFlow, FixedToken, Flow, JwtTokenRequest, Scope};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // In your program: OAuthConfig::from_env_for(Flow::Jwt)?
    let config = coze_examples::mock_unless_configured(Flow::Jwt).await?;
    let ConfiguredFlow::Jwt(jwt) = config.build()? else {
        anyhow::bail!("this is not a JWT app");
    };

    let token = jwt.token().await?;
    println!("token  for {} s", token.remaining().as_secs());
    let coze = CozeApi::new(jwt.client().clone(), FixedToken::from(token));
    let me = coze.users().me().send().await?;
    println!("user   {} ({})", me.user_name, me.user_id);

    // For another lifetime, and for a channel app: a token that may only chat with these bots.
    let mut request = JwtTokenRequest::default().duration(Duration::from_secs(3600));
    let bots: Vec<String> = std::env::args().skip(1).collect();
    if !bots.is_empty() {
        request = request.scope(Scope::bot_chat(bots));
    }
    let token = jwt.token_for(&request).await?;
    println!("token  for {} s", token.remaining().as_secs());
    Ok(())
}
