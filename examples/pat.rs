//! A personal or service access token: created in the console, sent unchanged.
//!
//! Against Coze: set `COZE_API_TOKEN` (and `COZE_API_BASE` for coze.cn).

use coze_api::prelude::*;
use coze_auth::Flow;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // In your program: OAuthConfig::from_env_for(Flow::Token)?
    let config = coze_examples::mock_unless_configured(Flow::Token).await?;
    let coze = CozeApi::builder(config.build()?.provider(None)?).build()?;

    let me = coze.users().me().send().await?;
    println!("user   {} ({})", me.user_name, me.user_id);
    Ok(())
}
