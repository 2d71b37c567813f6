//! `coze chat`: a bot's answers as they are written.

use coze_api::{
    EventStream, SendExt,
    types::{ChatError, ChatEvent, Message, MessageType},
};
use coze_wire::RATE_LIMIT;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    args::Chat,
    failure::{Exit, Failure, Result},
    session::{Api, Session},
    terminal::{STRONG, input_is_terminal},
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
        let mut input = BufReader::new(tokio::io::stdin());
        let mut line = Vec::new();
        for number in 1_u64.. {
            if is_interactive {
                terminal.note_part(format_args!("{STRONG}> {STRONG:#}"));
            }
            line.clear();
            if input.read_until(b'\n', &mut line).await? == 0 {
                break;
            }
            let text = str::from_utf8(&line)
                .map_err(|_| Failure::usage(format!("line {number} of the input is not UTF-8")))?;
            let text = text.strip_suffix('\n').unwrap_or(text);
            let text = text.strip_suffix('\r').unwrap_or(text);
            if !text.trim().is_empty() {
                self.ask(text).await?;
            }
        }
        Ok(())
    }

    /// Sends a message, and prints the answer as it comes.
    async fn ask(&mut self, text: &str) -> Result<()> {
        let mut call = self.api.chat().stream();
        call = call.bot_id(&self.bot).user_id(&self.user).message(text);
        if let Some(id) = &self.id {
            call = call.conversation_id(id);
        }
        let mut events = call.send().await?;
        let mut printed = Printed::default();
        let outcome = self.print_answer(&mut events, &mut printed).await;
        if outcome.is_ok() || !printed.0.is_empty() {
            self.session.terminal.print("").await?;
        }
        outcome
    }

    /// Prints the answer without a line break at its end.
    async fn print_answer(
        &mut self,
        events: &mut EventStream<ChatEvent>,
        printed: &mut Printed,
    ) -> Result<()> {
        while let Some(event) = events.try_next().await? {
            match event {
                ChatEvent::ChatCreated(chat) => {
                    self.id = Some(chat.conversation_id);
                }
                ChatEvent::MessageDelta(message) if message.type_ == Some(MessageType::Answer) => {
                    self.print_part(message, printed).await?;
                }
                // A short answer may come without deltas.
                ChatEvent::MessageCompleted(message)
                    if message.type_ == Some(MessageType::Answer)
                        && !printed.has(message.id.as_ref()) =>
                {
                    self.print_part(message, printed).await?;
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

    /// Prints a part of a message, or all of it. Each message begins on a line of its own.
    async fn print_part(&self, message: Message, printed: &mut Printed) -> Result<()> {
        // A delta with a part of the reasoning has no content.
        if message.content.is_empty() {
            return Ok(());
        }
        let mut text = message.content;
        if !printed.begin(message.id) {
            text.insert(0, '\n');
        }
        self.session.terminal.print_text(text).await
    }
}

/// The ids of the messages of which something was printed; the last one is that of the last part. A message without an id is the
/// same as any other.
#[derive(Default)]
struct Printed(Vec<Option<String>>);

impl Printed {
    fn has(&self, id: Option<&String>) -> bool {
        self.0.iter().any(|printed| is_same(printed.as_ref(), id))
    }

    /// Adds the message of the next part. Returns whether that continues the last line: it is the first message, or the same again.
    fn begin(&mut self, id: Option<String>) -> bool {
        let last = self.0.last();
        if last.is_some_and(|last| is_same(last.as_ref(), id.as_ref())) {
            return true;
        }
        let is_first = self.0.is_empty();
        self.0.push(id);
        is_first
    }
}

fn is_same(one: Option<&String>, other: Option<&String>) -> bool {
    one.is_none() || other.is_none() || one == other
}

fn failed(error: Option<ChatError>, events: &EventStream<ChatEvent>) -> Failure {
    let error = error.unwrap_or_default();
    let exit = match error.code {
        Some(RATE_LIMIT) => Exit::Server,
        _ => Exit::Refused,
    };
    let code = error.code.map(|code| format!(" with code {code}"));
    let why = error.msg.map(|why| format!(": {}", events.sanitized(&why)));
    let message = format!(
        "the chat failed{}{}",
        code.unwrap_or_default(),
        why.unwrap_or_default()
    );
    Failure::new(exit, message)
}
