//! `coze chat`: a bot's answers as they are written.

use coze_api::{
    EventStream, SendExt,
    types::{ChatError, ChatEvent, MessageType},
};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    args::Chat,
    failure::{Exit, Failure, Result},
    session::{Api, Session},
    terminal::{PrintableLines, STRONG, input_is_terminal},
};

pub(crate) async fn run(options: Chat, session: &Session<'_>) -> Result<()> {
    let mut chat = Conversation {
        api: session.api().await?,
        session,
        bot: options.bot,
        user: options.user,
        id: options.conversation,
    };
    match options.text {
        Some(text) => chat.ask(&text).await,
        None => chat.ask_line_by_line().await,
    }
}

struct Conversation<'s> {
    api: Api,
    session: &'s Session<'s>,
    bot: String,
    user: String,
    /// Known after the first answer.
    id: Option<String>,
}

impl Conversation<'_> {
    async fn ask_line_by_line(&mut self) -> Result<()> {
        let terminal = self.session.terminal;
        let is_interactive = input_is_terminal();
        if is_interactive {
            terminal.note("Ctrl-D ends the conversation.");
        }
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        loop {
            if is_interactive {
                terminal.note_part(format_args!("{STRONG}> {STRONG:#}"));
            }
            let Some(line) = lines.next_line().await? else {
                return Ok(());
            };
            if !line.trim().is_empty() {
                self.ask(&line).await?;
            }
        }
    }

    /// Sends a message, and prints the answer as it comes.
    async fn ask(&mut self, text: &str) -> Result<()> {
        let mut call = self.api.chat().stream();
        call = call.bot_id(&self.bot).user_id(&self.user).message(text);
        if let Some(id) = &self.id {
            call = call.conversation_id(id);
        }
        let mut events = call.send().await?;
        let mut has_printed = false;
        let outcome = self.print_answer(&mut events, &mut has_printed).await;
        if outcome.is_ok() || has_printed {
            self.session.terminal.print("").await?;
        }
        outcome
    }

    /// Prints the answer without a line break at its end.
    async fn print_answer(
        &mut self,
        events: &mut EventStream<ChatEvent>,
        has_printed: &mut bool,
    ) -> Result<()> {
        while let Some(event) = events.try_next().await? {
            match event {
                ChatEvent::ChatCreated(chat) => {
                    self.id = Some(chat.conversation_id);
                }
                ChatEvent::MessageDelta(message) if message.type_ == Some(MessageType::Answer) => {
                    *has_printed = true;
                    let text = PrintableLines(&message.content);
                    self.session.terminal.print_part(text).await?;
                }
                ChatEvent::ChatFailed(chat) => {
                    return Err(failed(chat.last_error, events));
                }
                ChatEvent::ChatRequiresAction(_) => {
                    let message =
                        "the bot waits for the output of a tool, which this command cannot give";
                    return Err(Failure::new(Exit::Refused, message));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn failed(error: Option<ChatError>, events: &EventStream<ChatEvent>) -> Failure {
    let error = error.unwrap_or_default();
    let code = error.code.map(|code| format!(" with code {code}"));
    let why = error.msg.map(|why| format!(": {}", events.sanitized(&why)));
    let message = format!(
        "the chat failed{}{}",
        code.unwrap_or_default(),
        why.unwrap_or_default()
    );
    Failure::new(Exit::Refused, message)
}
