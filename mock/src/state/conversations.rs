//! Conversations and their messages. Ids ascend, so they are ordered by time.

use super::chats::Chat;
use crate::limits;
use crate::limits::bytes_of;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// The first id is one more. Ids have the length of Coze's, and differ from those of the description's examples.
const BEFORE_FIRST_ID: u64 = 7_400_000_000_000_000_000;

/// All conversations.
pub(crate) struct Conversations {
    ids: Ids,
    by_id: BTreeMap<u64, Conversation>,
    /// The memory of all conversations, as counted so far.
    bytes: usize,
}

/// The source of the ids of conversations, sections, chats and messages.
pub(crate) struct Ids(u64);

impl Ids {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

/// A conversation with its messages and chats.
pub(crate) struct Conversation {
    pub(crate) id: u64,
    pub(crate) bot_id: Option<String>,
    pub(crate) connector_id: String,
    name: Option<String>,
    meta_data: Value,
    created_at: u64,
    updated_at: u64,
    pub(crate) section_id: u64,
    messages: BTreeMap<u64, Message>,
    pub(crate) chats: BTreeMap<u64, Chat>,
    bytes: usize,
    /// Its share of the sum of all.
    counted: usize,
}

/// The parameters of a new conversation.
#[derive(Default)]
pub(crate) struct NewConversation {
    pub(crate) bot_id: Option<String>,
    pub(crate) connector_id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) meta_data: Value,
}

/// A message.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) id: u64,
    conversation_id: u64,
    section_id: u64,
    pub(crate) chat_id: Option<u64>,
    bot_id: Option<String>,
    pub(crate) new: NewMessage,
    created_at: u64,
    updated_at: u64,
}

/// The parameters of a new message.
#[derive(Clone)]
pub(crate) struct NewMessage {
    pub(crate) role: String,
    pub(crate) kind: String,
    pub(crate) content: String,
    pub(crate) content_type: String,
    pub(crate) meta_data: Value,
}

/// Selects the messages of a conversation.
pub(crate) struct Listing {
    pub(crate) ascending: bool,
    pub(crate) chat_id: Option<u64>,
    pub(crate) before_id: Option<u64>,
    pub(crate) after_id: Option<u64>,
    pub(crate) limit: usize,
    pub(crate) with_middle_messages: bool,
}

impl Default for Conversations {
    fn default() -> Self {
        Self {
            ids: Ids(BEFORE_FIRST_ID),
            by_id: BTreeMap::new(),
            bytes: 0,
        }
    }
}

impl Conversations {
    /// Creates a conversation, with this id if one is given. Returns its id.
    pub(crate) fn create(&mut self, id: Option<u64>, new: NewConversation, now: Duration) -> u64 {
        if self.by_id.len() >= limits::CONVERSATIONS {
            self.forget_first_but(None);
        }
        let id = id.unwrap_or_else(|| self.ids.next());
        let section_id = self.ids.next();
        self.by_id.entry(id).or_insert_with(|| Conversation {
            id,
            bytes: new.bytes(),
            counted: 0,
            bot_id: new.bot_id,
            connector_id: new.connector_id.unwrap_or_else(|| "1024".into()),
            name: new.name,
            meta_data: new.meta_data,
            created_at: now.as_secs(),
            updated_at: now.as_secs(),
            section_id,
            messages: BTreeMap::new(),
            chats: BTreeMap::new(),
        });
        id
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Conversation> {
        self.by_id.get(&id)
    }

    /// A conversation to change, and the source of new ids.
    pub(crate) fn get_mut(&mut self, id: u64) -> Option<(&mut Conversation, &mut Ids)> {
        Some((self.by_id.get_mut(&id)?, &mut self.ids))
    }

    pub(crate) fn remove(&mut self, id: u64) -> bool {
        let removed = self.by_id.remove(&id);
        self.bytes -= removed.as_ref().map_or(0, |one| one.counted);
        removed.is_some()
    }

    fn forget_first_but(&mut self, kept: Option<u64>) -> bool {
        let first = self.by_id.keys().find(|id| Some(**id) != kept).copied();
        first.is_some_and(|id| self.remove(id))
    }

    /// In order of creation.
    pub(crate) fn all(&self) -> impl DoubleEndedIterator<Item = &Conversation> {
        self.by_id.values()
    }

    /// Drops the oldest messages and chats of the given conversation, and then the oldest other conversations, until all are within
    /// the limits. Called after every change of a conversation.
    pub(crate) fn trim(&mut self, kept: u64) {
        if let Some(conversation) = self.by_id.get_mut(&kept) {
            conversation.trim();
            self.bytes = self.bytes - conversation.counted + conversation.bytes;
            conversation.counted = conversation.bytes;
        }
        while self.bytes > limits::CONVERSATION_BYTES && self.forget_first_but(Some(kept)) {}
    }
}

impl NewConversation {
    fn bytes(&self) -> usize {
        let texts = [&self.bot_id, &self.connector_id, &self.name];
        let texts = texts
            .into_iter()
            .map(|text| text.as_ref().map_or(0, String::len));
        256 + texts.sum::<usize>() + bytes_of(&self.meta_data)
    }
}

impl Conversation {
    /// The conversation, as in the API's responses. Without a name, it is named after the first message of the user.
    pub(crate) fn json(&self, creator_id: &str) -> Value {
        let mut messages = self.messages.values();
        let first = messages.find(|message| message.new.role == "user");
        let first = first.map(|message| message.new.content.chars().take(100).collect());
        let name: Option<String> = self.name.clone().or(first);
        json!({
            "id": self.id.to_string(),
            "name": name.unwrap_or_default(),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "creator_id": creator_id,
            "connector_id": self.connector_id,
            "last_section_id": self.section_id.to_string(),
            "meta_data": object(&self.meta_data),
        })
    }

    pub(crate) fn rename(&mut self, name: &str, now: Duration) {
        self.name = Some(name.to_owned());
        self.updated_at = now.as_secs();
    }

    /// Starts a new section.
    pub(crate) fn clear(&mut self, ids: &mut Ids) -> Value {
        self.section_id = ids.next();
        json!({"id": self.section_id.to_string(), "conversation_id": self.id.to_string()})
    }

    /// Adds a message, possibly from a chat with a bot.
    pub(crate) fn add(
        &mut self,
        ids: &mut Ids,
        chat: Option<(u64, &str)>,
        new: NewMessage,
        now: Duration,
    ) -> Message {
        let message = self.message(ids, chat, new, now);
        self.keep(message.clone());
        message
    }

    /// A message that is not added.
    pub(crate) fn message(
        &self,
        ids: &mut Ids,
        chat: Option<(u64, &str)>,
        new: NewMessage,
        now: Duration,
    ) -> Message {
        let is_answer = new.role != "user";
        Message {
            id: ids.next(),
            conversation_id: self.id,
            section_id: self.section_id,
            chat_id: chat.map(|(id, _)| id),
            bot_id: chat
                .filter(|_| is_answer)
                .map(|(_, bot_id)| bot_id.to_owned()),
            new,
            created_at: now.as_secs(),
            updated_at: now.as_secs(),
        }
    }

    pub(crate) fn keep(&mut self, message: Message) {
        self.updated_at = message.updated_at;
        self.bytes += message.bytes();
        self.messages.insert(message.id, message);
    }

    pub(crate) fn keep_chat(&mut self, chat: Chat) {
        self.bytes += chat.bytes();
        self.chats.insert(chat.id, chat);
    }

    pub(crate) fn get(&self, message_id: u64) -> Option<&Message> {
        self.messages.get(&message_id)
    }

    /// The messages in the order of their creation.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &Message> {
        self.messages.values()
    }

    /// The last message of the user.
    pub(crate) fn last_question(&self) -> Option<&NewMessage> {
        let mut messages = self.messages.values().rev().map(|message| &message.new);
        messages.find(|message| message.role == "user")
    }

    /// Changes a message by the fields of the body.
    pub(crate) fn update(&mut self, id: u64, body: &Value, now: Duration) -> Option<&Message> {
        let message = self.messages.get_mut(&id)?;
        self.bytes -= message.bytes();
        let text = |name: &str| body.get(name).and_then(Value::as_str);
        if let Some(content) = text("content") {
            message.new.content = content.to_owned();
        }
        if let Some(content_type) = text("content_type") {
            message.new.content_type = content_type.to_owned();
        }
        if let Some(meta_data) = body.get("meta_data") {
            message.new.meta_data = meta_data.clone();
        }
        message.updated_at = now.as_secs();
        self.bytes += message.bytes();
        Some(message)
    }

    /// Deletes a message; for an answer, its tool calls, too.
    pub(crate) fn delete(&mut self, id: u64) -> Option<Message> {
        let message = self.drop_message(id)?;
        if message.new.kind == "answer" && message.chat_id.is_some() {
            let leads_to_it =
                |one: &&Message| one.chat_id == message.chat_id && one.is_middle_message();
            let middle: Vec<u64> = self
                .messages
                .values()
                .filter(leads_to_it)
                .map(|one| one.id)
                .collect();
            for id in middle {
                self.drop_message(id);
            }
        }
        Some(message)
    }

    fn drop_message(&mut self, id: u64) -> Option<Message> {
        let message = self.messages.remove(&id)?;
        self.bytes -= message.bytes();
        Some(message)
    }

    /// A page of messages. The position may be the id of a deleted message.
    pub(crate) fn page(&self, listing: &Listing) -> Value {
        let mut all: Vec<&Message> = self.messages.values().collect();
        if !listing.ascending {
            all.reverse();
        }
        let is_before = |one: u64, other: u64| {
            if listing.ascending {
                one < other
            } else {
                one > other
            }
        };
        all.retain(|message| {
            listing.chat_id.is_none_or(|id| message.chat_id == Some(id))
                && listing.before_id.is_none_or(|id| is_before(message.id, id))
                && listing.after_id.is_none_or(|id| is_before(id, message.id))
                && (listing.with_middle_messages || !message.is_middle_message())
        });
        let has_more = all.len() > listing.limit;
        // Backwards, the page is directly before the position.
        if listing.before_id.is_some() && listing.after_id.is_none() {
            all.drain(..all.len().saturating_sub(listing.limit));
        }
        all.truncate(listing.limit);
        let id = |message: Option<&&Message>| {
            message.map_or(String::new(), |message| message.id.to_string())
        };
        json!({
            "data": all.iter().map(|message| message.json()).collect::<Vec<_>>(),
            "first_id": id(all.first()),
            "last_id": id(all.last()),
            "has_more": has_more,
        })
    }

    fn trim(&mut self) {
        while self.messages.len() > 1
            && (self.messages.len() > limits::MESSAGES_OF_A_CONVERSATION
                || self.bytes > limits::CONVERSATION_BYTES)
        {
            if let Some((_, oldest)) = self.messages.pop_first() {
                self.bytes -= oldest.bytes();
            }
        }
        while self.chats.len() > 1
            && (self.chats.len() > limits::CHATS_OF_A_CONVERSATION
                || self.bytes > limits::CONVERSATION_BYTES)
        {
            if let Some((_, oldest)) = self.chats.pop_first() {
                self.bytes -= oldest.bytes();
            }
        }
    }
}

impl NewMessage {
    /// A text message.
    pub(crate) fn text(role: &str, kind: &str, content: impl Into<String>) -> Self {
        Self {
            role: role.to_owned(),
            kind: kind.to_owned(),
            content: content.into(),
            content_type: "text".into(),
            meta_data: Value::Null,
        }
    }

    /// A message of a request, validated by the contract.
    pub(crate) fn of(body: &Value) -> Self {
        let text = |name: &str| body.get(name).and_then(Value::as_str);
        let role = text("role").unwrap_or("user");
        let kind = if role == "user" { "question" } else { "answer" };
        Self {
            role: role.to_owned(),
            kind: text("type").unwrap_or(kind).to_owned(),
            content: text("content").unwrap_or_default().to_owned(),
            content_type: text("content_type").unwrap_or("text").to_owned(),
            meta_data: body.get("meta_data").cloned().unwrap_or_default(),
        }
    }
}

impl Message {
    pub(crate) fn json(&self) -> Value {
        json!({
            "id": self.id.to_string(),
            "conversation_id": self.conversation_id.to_string(),
            "section_id": self.section_id.to_string(),
            "bot_id": self.bot_id.as_deref().unwrap_or_default(),
            "chat_id": self.chat_id.map_or(String::new(), |id| id.to_string()),
            "role": self.new.role,
            "type": self.new.kind,
            "content": self.new.content,
            "content_type": self.new.content_type,
            "meta_data": object(&self.new.meta_data),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        })
    }

    /// Whether it is neither a question of a user nor an answer of a bot.
    fn is_middle_message(&self) -> bool {
        !matches!(self.new.kind.as_str(), "question" | "answer")
    }

    /// The approximate memory that it uses.
    fn bytes(&self) -> usize {
        let new = &self.new;
        let bot_id = self.bot_id.as_ref().map_or(0, String::len);
        256 + new.role.len()
            + new.kind.len()
            + new.content.len()
            + bytes_of(&new.meta_data)
            + bot_id
    }
}

/// Meta data as an object, even if there are none.
pub(crate) fn object(meta_data: &Value) -> Value {
    match meta_data {
        Value::Object(_) => meta_data.clone(),
        _ => Value::Object(Map::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn created(all: &mut Conversations) -> u64 {
        let id = all.create(None, NewConversation::default(), NOW);
        all.trim(id);
        id
    }

    fn add(all: &mut Conversations, id: u64, content: &str) {
        let (conversation, ids) = all.get_mut(id).expect("a conversation");
        conversation.add(
            ids,
            None,
            NewMessage::text("user", "question", content),
            NOW,
        );
        all.trim(id);
    }

    #[test]
    fn the_oldest_messages_of_a_conversation_are_dropped() {
        let mut all = Conversations::default();
        let id = created(&mut all);
        let empty = all.bytes;
        for number in 0..=limits::MESSAGES_OF_A_CONVERSATION {
            add(&mut all, id, &number.to_string());
        }
        let conversation = all.get(id).expect("a conversation");
        assert_eq!(
            conversation.messages.len(),
            limits::MESSAGES_OF_A_CONVERSATION
        );
        let first = conversation.messages().next().expect("a message").clone();
        assert_eq!(first.new.content, "1");

        // Whatever is removed is no longer counted.
        let (conversation, _) = all.get_mut(id).expect("a conversation");
        let messages: Vec<u64> = conversation.messages.keys().copied().collect();
        for message in messages {
            conversation.delete(message);
        }
        all.trim(id);
        assert_eq!(all.bytes, empty);
        assert!(all.remove(id) && all.bytes == 0);
    }

    #[test]
    fn the_oldest_conversations_make_room_for_a_large_one() {
        let mut all = Conversations::default();
        let (first, second) = (created(&mut all), created(&mut all));
        let quarter = "x".repeat(limits::CONVERSATION_BYTES / 4);
        add(&mut all, first, &quarter);
        for _ in 0..3 {
            add(&mut all, second, &quarter);
        }
        assert!(all.get(first).is_none() && all.bytes <= limits::CONVERSATION_BYTES);
        // One that is too large by itself loses its own messages.
        for _ in 0..3 {
            add(&mut all, second, &quarter);
        }
        let left = all.get(second).expect("a conversation").messages().count();
        assert_eq!(left, 3);
    }
}
