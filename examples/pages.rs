//! Lists, which come in pages: by item, or by page.
//!
//! Against Coze: as for the example `pat`.

use coze_api::prelude::*;
use coze_auth::Flow;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // In your program: OAuthConfig::from_env_for(Flow::Token)?
    let config = coze_examples::mock_unless_configured(Flow::Token).await?;
    let coze = CozeApi::builder(config.build()?.provider(None)?).build()?;

    // The items of all pages. The next page is requested when its first item is.
    let mut workspaces = coze.workspaces().list().by_item();
    while let Some(workspace) = workspaces.try_next().await? {
        println!("workspace {} {}", workspace.id, workspace.name);

        let bots = coze.bots().list().workspace_id(workspace.id).page_size(20);
        let bots: Vec<_> = bots.by_item().take(100).try_collect().await?;
        for bot in bots {
            println!("bot       {} {}", bot.id, bot.name);
            conversations(&coze, &bot.id).await?;
        }
    }
    Ok(())
}

/// By page: each page has a log id, and the total if Coze returns it.
async fn conversations(coze: &CozeApi, bot_id: &str) -> coze_api::Result<()> {
    let list = coze.conversations().list().bot_id(bot_id).page_size(2);
    let mut pages = list.by_page().take(3);
    while let Some(page) = pages.try_next().await? {
        println!(
            "  a page of {} (log id {:?})",
            page.items.len(),
            page.log_id()
        );
        for conversation in &page.items {
            messages(coze, &conversation.id).await?;
        }
    }
    Ok(())
}

/// The page after a message is requested with the id of that message.
async fn messages(coze: &CozeApi, conversation_id: &str) -> coze_api::Result<()> {
    let list = coze.messages().list().conversation_id(conversation_id);
    let mut messages = list.limit(20).by_item().take(100);
    while let Some(message) = messages.try_next().await? {
        let role = message.role.as_ref().map_or("", |role| role.as_str());
        println!("    {role}: {}", message.content);
    }
    Ok(())
}
