//! A chat in which the bot calls a tool of the program. The program submits the output, and the answer continues as a
//! stream.
//!
//! Against Coze: set `COZE_API_TOKEN` (and `COZE_API_BASE` for coze.cn), and `COZE_TOOL_BOT_ID` to a bot that has a function of the client's,
//! such as `read_thermometer`.

use std::io::Write;

use anyhow::Context;
use coze_api::{
    EventStream,
    prelude::*,
    types::{Chat, ChatEvent, ChatToolCall, MessageType, ToolOutput},
};
use coze_auth::Flow;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // In your program: OAuthConfig::from_env_for(Flow::Token)? and std::env::var("COZE_TOOL_BOT_ID")?
    let config = coze_examples::mock_unless_configured(Flow::Token).await?;
    let bot_id = coze_examples::variable("COZE_TOOL_BOT_ID")?;
    let coze = CozeApi::builder(config.build()?.provider(None)?).build()?;

    let chat = coze.chat().stream().bot_id(bot_id).user_id("user_1");
    let mut events = chat.message("How warm is it in the hall?").send().await?;
    // A bot may need a tool more than once.
    while let Some(chat) = print_answer(&mut events).await? {
        let action = chat.required_action.context("there is no action")?;
        let calls = action
            .submit_tool_outputs
            .and_then(|calls| calls.tool_calls);
        let outputs: Vec<_> = calls.iter().flatten().map(run_tool).collect();
        let submit = coze.chat().stream_tool_outputs().tool_outputs(outputs);
        let submit = submit
            .conversation_id(chat.conversation_id)
            .chat_id(chat.id);
        events = submit.send().await?;
    }
    Ok(())
}

/// Prints the answer as it arrives, to its end or until the chat requires tools, and returns the chat in that case.
async fn print_answer(events: &mut EventStream<ChatEvent>) -> anyhow::Result<Option<Chat>> {
    let mut waiting = None;
    while let Some(event) = events.try_next().await? {
        match event {
            ChatEvent::MessageDelta(part) => {
                print!("{}", part.content);
                std::io::stdout().flush()?;
            }
            ChatEvent::MessageCompleted(message) if message.type_ == Some(MessageType::Answer) => {
                println!();
            }
            ChatEvent::ChatRequiresAction(chat) => waiting = Some(chat),
            ChatEvent::ChatFailed(chat) => anyhow::bail!("the chat failed: {:?}", chat.last_error),
            _ => {}
        }
    }
    Ok(waiting)
}

fn run_tool(call: &ChatToolCall) -> ToolOutput {
    let (name, arguments) = match &call.function {
        Some(function) => (
            &*function.name,
            function.arguments.as_deref().unwrap_or("{}"),
        ),
        None => ("", "{}"),
    };
    let output = match name {
        "read_thermometer" => r#"{"celsius":21}"#,
        _ => r#"{"error":"there is no such tool"}"#,
    };
    println!("tool   {name} {arguments} -> {output}");
    ToolOutput::new(&call.id, output)
}
