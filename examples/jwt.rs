//! JWT, for a service that acts as the application itself: only the flow. Each `token()` here sends a request to Coze; a
//! service that calls Coze repeatedly caches its token in one provider: see the example `service`.
//!
//! Against Coze: set `COZE_JWT_OAUTH_CLIENT_ID`, `COZE_JWT_OAUTH_PUBLIC_KEY_ID`,
//! `COZE_JWT_OAUTH_PRIVATE_KEY_FILE_PATH` (or `COZE_JWT_OAUTH_PRIVATE_KEY`), and `COZE_API_BASE` for coze.cn.

use std::time::Duration;

use coze_auth::{Flow, JwtTokenRequest};
use coze_examples::{Stage, flow, shown, users_me};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let stage = Stage::set(Flow::Jwt).await?;
    let endpoint = stage.config.endpoint().clone();
    let jwt = flow!(stage.config, Jwt);

    let token = jwt.token().await?;
    println!(
        "token  {}, for {} s",
        shown(token.access_token().expose()),
        token.remaining().as_secs()
    );
    let user = users_me(&endpoint, token.authorization()).await?;
    println!("user   {} ({})", user.user_name, user.user_id);

    let an_hour = JwtTokenRequest::new().duration(Duration::from_secs(3600));
    let token = jwt.token_for(&an_hour).await?;
    println!(
        "token  {}, for {} s",
        shown(token.access_token().expose()),
        token.remaining().as_secs()
    );
    Ok(())
}
