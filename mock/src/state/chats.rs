//! Chats: a question, the bot's reply, and the status of the chat.
//!
//! A chat that is not streamed is in progress from the start, because official SDKs poll only then. It ends with the mock's
//! clock, or when it is retrieved for the second time, so that polling ends under any clock. A streamed chat is completed
//! immediately.

use super::conversations::{Conversation, Ids, Message, NewMessage, object};
use crate::limits::bytes_of;
use crate::stream::ScriptedReply;
use serde_json::{Value, json};
use std::time::Duration;

/// How long the bot takes, by the mock's clock.
const REPLY_TIME: Duration = Duration::from_secs(2);
/// After how many polls a chat ends, if the clock has not ended it.
const POLLS: u8 = 2;
/// The maximum number of deltas of an answer.
const MOST_DELTAS: usize = 16;

/// An event of a stream: its name and its data.
pub(crate) type Event = (&'static str, Value);

/// A chat.
pub(crate) struct Chat {
    pub(crate) id: u64,
    conversation_id: u64,
    section_id: u64,
    bot_id: String,
    meta_data: Value,
    created_at: u64,
    /// When the bot started or continued.
    running_since: Duration,
    /// How often it was retrieved since then.
    polls: u8,
    ended_at: Option<u64>,
    status: Status,
    question: String,
    reply: ScriptedReply,
    /// The length of the answer in characters, once there is one.
    answered: usize,
    /// The submitted outputs of tools.
    tool_outputs: Option<Vec<String>>,
    inserted: Vec<u64>,
    /// Whether its messages are saved in the conversation.
    is_saved: bool,
}

/// The parameters of a new chat.
pub(crate) struct NewChat {
    pub(crate) bot_id: String,
    pub(crate) messages: Vec<NewMessage>,
    pub(crate) meta_data: Value,
    pub(crate) reply: ScriptedReply,
    pub(crate) is_saved: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Created,
    InProgress,
    RequiresAction,
    Completed,
    Failed,
    Canceled,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::InProgress => "in_progress",
            Self::RequiresAction => "requires_action",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}

impl Chat {
    /// Starts a chat in a conversation and adds its messages to it.
    pub(crate) fn start(
        new: NewChat,
        conversation: &mut Conversation,
        ids: &mut Ids,
        now: Duration,
    ) -> Self {
        let id = ids.next();
        let earlier = conversation.last_question().map(said);
        let mut messages = new.messages.iter().rev();
        let asked = messages.find(|message| message.role == "user").map(said);
        let mut chat = Self {
            id,
            conversation_id: conversation.id,
            section_id: conversation.section_id,
            bot_id: new.bot_id,
            meta_data: new.meta_data,
            created_at: now.as_secs(),
            running_since: now,
            polls: 0,
            ended_at: None,
            status: Status::Created,
            question: asked.or(earlier).unwrap_or_default(),
            reply: new.reply,
            answered: 0,
            tool_outputs: None,
            inserted: Vec::new(),
            is_saved: new.is_saved,
        };
        for message in new.messages {
            if chat.is_saved {
                let message = conversation.add(ids, Some((id, &chat.bot_id)), message, now);
                chat.inserted.push(message.id);
            }
        }
        chat
    }

    /// The chat, as in the API's responses.
    pub(crate) fn json(&self) -> Value {
        let (code, msg) = match &self.reply.failure {
            Some(failure) if self.status == Status::Failed => (failure.code, failure.msg.as_str()),
            _ => (0, ""),
        };
        let output = self.answered;
        let input = match self.status {
            Status::Completed => self.question.chars().count(),
            _ => 0,
        };
        let mut chat = json!({
            "id": self.id.to_string(),
            "conversation_id": self.conversation_id.to_string(),
            "bot_id": self.bot_id,
            "section_id": self.section_id.to_string(),
            "created_at": self.created_at,
            "last_error": {"code": code, "msg": msg},
            "status": self.status.as_str(),
            "meta_data": object(&self.meta_data),
            "usage": {"token_count": input + output, "output_count": output, "input_count": input},
        });
        match self.status {
            Status::Completed => {
                chat["completed_at"] = self.ended_at.into();
                let inserted = self.inserted.iter().map(|id| json!({"id": id.to_string()}));
                chat["inserted_additional_messages"] = inserted.collect();
            }
            Status::Failed => chat["failed_at"] = self.ended_at.into(),
            Status::RequiresAction => {
                let calls: Vec<Value> = self
                    .tool_calls()
                    .map(|(id, name, arguments)| {
                        json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
                    })
                    .collect();
                chat["required_action"] = json!({
                    "type": "submit_tool_outputs",
                    "submit_tool_outputs": {"tool_calls": calls},
                });
            }
            Status::Created | Status::InProgress | Status::Canceled => {}
        }
        chat
    }

    /// The tool calls: id, name and arguments.
    fn tool_calls(&self) -> impl Iterator<Item = (String, &str, &str)> {
        let calls = self.reply.tool_calls.iter().enumerate();
        calls.map(|(at, call)| {
            let id = format!("call_{}", at + 1);
            (id, call.name.as_str(), call.arguments.as_str())
        })
    }

    /// Whether this message is from the request that started the chat.
    pub(crate) fn has_inserted(&self, message_id: u64) -> bool {
        self.inserted.contains(&message_id)
    }

    /// Whether the chat is in progress or requires an action.
    pub(crate) fn is_running(&self) -> bool {
        matches!(
            self.status,
            Status::Created | Status::InProgress | Status::RequiresAction
        )
    }

    pub(crate) fn cancel(&mut self, now: Duration) {
        self.status = Status::Canceled;
        self.ended_at = Some(now.as_secs());
    }

    /// Submits the outputs of tools by the ids of their calls, if they match the calls that the chat requires.
    pub(crate) fn submit(
        &mut self,
        outputs: &[(&str, &str)],
        now: Duration,
    ) -> Result<(), &'static str> {
        if self.status != Status::RequiresAction {
            return Err("the chat does not wait for outputs of tools");
        }
        let output = |id: String| {
            let mut known = outputs.iter().filter(|(known, _)| *known == id);
            match (known.next(), known.next()) {
                (Some((_, output)), None) => Some((*output).to_owned()),
                _ => None,
            }
        };
        let calls = self.tool_calls().map(|(id, ..)| output(id));
        let submitted: Option<Vec<String>> = calls.collect();
        let submitted = submitted.filter(|submitted| submitted.len() == outputs.len());
        self.tool_outputs =
            Some(submitted.ok_or("one output for each call of a tool is expected")?);
        self.status = Status::InProgress;
        self.running_since = now;
        self.polls = 0;
        Ok(())
    }

    /// Starts the bot.
    pub(crate) fn begin(&mut self) {
        self.status = Status::InProgress;
    }

    /// Updates the chat to the current time; `polled` counts as one of the polls that end it.
    pub(crate) fn advance(
        &mut self,
        conversation: &mut Conversation,
        ids: &mut Ids,
        now: Duration,
        polled: bool,
    ) {
        if self.status != Status::InProgress {
            return;
        }
        self.polls = self.polls.saturating_add(u8::from(polled));
        let is_due = now.saturating_sub(self.running_since) >= REPLY_TIME;
        if is_due || self.polls >= POLLS {
            self.run(conversation, ids, now);
        }
    }

    /// Continues the chat until it ends or requires an action. Returns the events.
    pub(crate) fn run(
        &mut self,
        conversation: &mut Conversation,
        ids: &mut Ids,
        now: Duration,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        if self.status == Status::Created {
            events.push(("conversation.chat.created", self.json()));
        }
        self.status = Status::InProgress;
        events.push(("conversation.chat.in_progress", self.json()));
        if !self.reply.tool_calls.is_empty() && self.tool_outputs.is_none() {
            let calls: Vec<String> = self
                .tool_calls()
                .map(|(_, name, arguments)| {
                    json!({"name": name, "arguments": arguments}).to_string()
                })
                .collect();
            for call in calls {
                let call = NewMessage::text("assistant", "function_call", call);
                let message = self.message(conversation, ids, call, now);
                events.push(("conversation.message.completed", message.json()));
            }
            self.status = Status::RequiresAction;
            events.push(("conversation.chat.requires_action", self.json()));
            return events;
        }
        if self.reply.unfinished {
            return events;
        }
        self.ended_at = Some(now.as_secs());
        if self.reply.failure.is_some() {
            self.status = Status::Failed;
            events.push(("conversation.chat.failed", self.json()));
            return events;
        }
        for output in self.tool_outputs.clone().unwrap_or_default() {
            let output = NewMessage::text("assistant", "tool_response", output);
            let message = self.message(conversation, ids, output, now);
            events.push(("conversation.message.completed", message.json()));
        }
        let answer = NewMessage::text("assistant", "answer", self.answer());
        let answer = self.message(conversation, ids, answer, now);
        for piece in pieces(&answer.new.content) {
            let mut delta = answer.json();
            delta["content"] = piece.into();
            events.push(("conversation.message.delta", delta));
        }
        events.push(("conversation.message.completed", answer.json()));
        self.answered = answer.new.content.chars().count();
        // The conversation has them, so they are not needed here.
        self.tool_outputs = Some(Vec::new());
        self.status = Status::Completed;
        events.push(("conversation.chat.completed", self.json()));
        events
    }

    /// Whether the stream of the chat falls silent.
    pub(crate) fn is_silent(&self) -> bool {
        self.status == Status::InProgress
    }

    fn message(
        &self,
        conversation: &mut Conversation,
        ids: &mut Ids,
        new: NewMessage,
        now: Duration,
    ) -> Message {
        let message = conversation.message(ids, Some((self.id, &self.bot_id)), new, now);
        if self.is_saved {
            conversation.keep(message.clone());
        }
        message
    }

    fn answer(&self) -> String {
        match (&self.reply.text, &self.tool_outputs) {
            (Some(text), _) => text.clone(),
            (None, Some(outputs)) => format!("The tools answered: {}", outputs.join(", ")),
            (None, None) => format!("You said: {}", self.question),
        }
    }

    /// The approximate memory that it uses.
    pub(crate) fn bytes(&self) -> usize {
        512 + self.bot_id.len()
            + self.question.len()
            + self.reply.bytes()
            + bytes_of(&self.meta_data)
    }
}

/// The text of a message, or the texts of a message with several parts.
fn said(message: &NewMessage) -> String {
    if message.content_type != "object_string" {
        return message.content.clone();
    }
    let parts: Vec<Value> = serde_json::from_str(&message.content).unwrap_or_default();
    let texts = parts.iter().filter_map(|part| part.get("text")?.as_str());
    texts.collect::<Vec<_>>().join(" ")
}

/// Splits the text into pieces that end after white space.
fn pieces(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_inclusive(char::is_whitespace).collect();
    let words_each = words.len().div_ceil(MOST_DELTAS).max(1);
    words.chunks(words_each).map(<[&str]>::concat).collect()
}
