//! A chat with a bot, whose answer is printed as it arrives.
//!
//! Against Coze: set `COZE_API_TOKEN` (and `COZE_API_BASE` for coze.cn) and `COZE_BOT_ID`. The argument is the question.

use std::io::Write;

use coze_api::{prelude::*, types::ChatEvent};
use coze_auth::Flow;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // In your program: OAuthConfig::from_env_for(Flow::Token)? and std::env::var("COZE_BOT_ID")?
    let config = coze_examples::mock_unless_configured(Flow::Token).await?;
    let bot_id = coze_examples::variable("COZE_BOT_ID")?;
    let coze = CozeApi::builder(config.build()?.provider(None)?).build()?;

    let question = std::env::args().nth(1);
    let question = question.unwrap_or_else(|| "Will it rain in Oslo?".to_owned());
    let chat = coze.chat().stream().bot_id(bot_id).user_id("user_1");
    let mut events = chat.message(question).send().await?;
    while let Some(event) = events.try_next().await? {
        match event {
            ChatEvent::MessageDelta(part) => {
                print!("{}", part.content);
                std::io::stdout().flush()?;
            }
            ChatEvent::ChatFailed(chat) => anyhow::bail!("the chat failed: {:?}", chat.last_error),
            _ => {}
        }
    }
    println!("\n(log id {:?})", events.log_id());
    Ok(())
}
