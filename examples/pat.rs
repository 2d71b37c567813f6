//! A personal or service access token: created in the console, sent unchanged.
//!
//! Against Coze: set `COZE_API_TOKEN` (and `COZE_API_BASE` for coze.cn).

use coze_auth::Flow;
use coze_examples::{Stage, flow, shown, users_me};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let stage = Stage::set(Flow::Token).await?;
    let endpoint = stage.config.endpoint().clone();
    let token = flow!(stage.config, Token);
    println!("token  {}", shown(token.access_token().expose()));

    let user = users_me(&endpoint, token.authorization()).await?;
    println!("user   {} ({})", user.user_name, user.user_id);
    Ok(())
}
