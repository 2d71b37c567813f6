//! Conversations, messages and chats: the operations of the API that have state.

use crate::context::{RequestContext, text};
use crate::endpoint::Endpoint;
use crate::envelope::{Contents, Refused};
use crate::fault::Fault;
use crate::state::{
    Chat, Conversation, Conversations, Event, Ids, Listing, NewChat, NewConversation, NewMessage,
};
use crate::stream;
use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use std::time::Duration;

/// Executes an operation. The contract has validated its parameters and body, the bot exists, and the token may access
/// it.
pub(crate) fn call(context: &mut RequestContext<'_>, body: &Value) -> Result<Contents, Refused> {
    check_fields(context, body)?;
    let (now, endpoint) = (context.now, context.endpoint);
    let core = context.core;
    let creator_id = core.options.user.user_id.as_str();
    let mut state = core.state();
    let all = &mut state.conversations;
    let data = match endpoint {
        Endpoint::CreateConversation => {
            let (conversation, ids) = create(all, None, body, now)?;
            for message in list(body, "messages") {
                conversation.add(ids, None, NewMessage::of(message), now);
            }
            let (id, data) = (conversation.id, conversation.json(creator_id));
            all.trim(id);
            return Ok(Contents::Data(data));
        }
        Endpoint::ListConversations => return Ok(Contents::Data(page(all, context, creator_id))),
        Endpoint::CreateChat => return create_chat(all, context, body),
        _ => {
            let id = id(context, body, "conversation_id")?;
            if endpoint == Endpoint::DeleteConversation {
                let removed = all.remove(id);
                return removed.then_some(Contents::Nothing).ok_or(Refused::Unknown);
            }
            let (conversation, ids) = all.get_mut(id).ok_or(Refused::Unknown)?;
            let message_id = || self::id(context, body, "message_id");
            match endpoint {
                Endpoint::RetrieveConversation => Contents::Data(conversation.json(creator_id)),
                Endpoint::UpdateConversation => {
                    conversation.rename(text(body, "name"), now);
                    Contents::Data(conversation.json(creator_id))
                }
                Endpoint::ClearConversation => Contents::Data(conversation.clear(ids)),
                Endpoint::CreateMessage => {
                    let message = conversation.add(ids, None, NewMessage::of(body), now);
                    Contents::Data(message.json())
                }
                Endpoint::ListMessages => Contents::Whole(conversation.page(&listing(body)?)),
                Endpoint::RetrieveMessage => {
                    let message = conversation.get(message_id()?);
                    Contents::Data(message.ok_or(Refused::Unknown)?.json())
                }
                Endpoint::UpdateMessage => {
                    let message = conversation.update(message_id()?, body, now);
                    let message = message.ok_or(Refused::Unknown)?;
                    Contents::Whole(json!({"message": message.json()}))
                }
                Endpoint::DeleteMessage => {
                    let id = message_id()?;
                    let message = conversation.get(id).ok_or(Refused::Unknown)?;
                    if !matches!(message.new.kind.as_str(), "question" | "answer") {
                        let rule = "the id of a question or an answer";
                        context.findings.violation("query/message_id", rule);
                        return Err(Refused::bad_request("invalid request: message_id"));
                    }
                    let message = conversation.delete(id);
                    Contents::Data(message.ok_or(Refused::Unknown)?.json())
                }
                Endpoint::CreateMessageFeedback | Endpoint::DeleteMessageFeedback => {
                    let message = conversation.get(message_id()?);
                    let message = message.ok_or(Refused::Unknown)?;
                    if message.chat_id.is_none() || message.new.kind != "answer" {
                        return Err(Refused::bad_request("feedback is for answers of a chat"));
                    }
                    Contents::Nothing
                }
                _ => {
                    let chat_id = self::id(context, body, "chat_id")?;
                    let chat = conversation.chats.remove(&chat_id);
                    let mut chat = chat.ok_or(Refused::Unknown)?;
                    let polled = endpoint == Endpoint::RetrieveChat;
                    chat.advance(conversation, ids, now, polled);
                    let done = match endpoint {
                        Endpoint::RetrieveChat => Ok(Contents::Data(chat.json())),
                        Endpoint::ListChatMessages => {
                            Ok(Contents::Data(written(conversation, &chat)))
                        }
                        Endpoint::CancelChat => cancel(&mut chat, now),
                        _ => submit(&mut chat, body, now).map(|()| {
                            if !streams(body) {
                                return Contents::Data(chat.json());
                            }
                            let events = chat.run(conversation, ids, now);
                            Contents::Stream(stream_of(&events, &chat), chat.is_silent())
                        }),
                    };
                    // Its memory has been counted since its start.
                    conversation.chats.insert(chat_id, chat);
                    done?
                }
            }
        }
    };
    if let Ok(id) = id(context, body, "conversation_id") {
        all.trim(id);
    }
    Ok(data)
}

/// Checks the documented rules that the schema of the body does not express.
fn check_fields(context: &mut RequestContext<'_>, body: &Value) -> Result<(), Refused> {
    let broken = match context.endpoint {
        Endpoint::CreateChat => broken_chat(body),
        Endpoint::UpdateMessage => broken_change(body),
        _ => None,
    };
    let Some((field, rule)) = broken else {
        return Ok(());
    };
    let place = format!("body/{field}");
    context.findings.violation(place, rule);
    Err(Refused::bad_request(format!("invalid request: {field}")))
}

/// The first field of a chat that breaks a rule, and the rule.
fn broken_chat(body: &Value) -> Option<(&'static str, &'static str)> {
    let status = body.get("publish_status").and_then(Value::as_str);
    let is_draft = status == Some("unpublished_draft");
    if !is_draft && status.is_some_and(|status| status != "published_online") {
        let rule = r#"one of ["published_online","unpublished_draft"]"#;
        return Some(("publish_status", rule));
    }
    if is_draft && body.get("bot_version").is_some() {
        return Some(("bot_version", "not with the draft of the bot"));
    }
    let is_saved = body.get("auto_save_history") != Some(&Value::Bool(false));
    (!is_saved && !streams(body)).then_some(("auto_save_history", "must be true without stream"))
}

/// The first field of a change of a message that breaks a rule, and the rule.
fn broken_change(body: &Value) -> Option<(&'static str, &'static str)> {
    let has_meta_data = body
        .get("meta_data")
        .and_then(Value::as_object)
        .is_some_and(|pairs| !pairs.is_empty());
    if text(body, "content").is_empty() && !has_meta_data {
        return Some(("content", "required without meta_data"));
    }
    let has_type = body.get("content_type").is_some();
    (body.get("content").is_some() && !has_type)
        .then_some(("content_type", "required with content"))
}

/// Creates a conversation, with this id if one is given.
fn create<'c>(
    all: &'c mut Conversations,
    id: Option<u64>,
    body: &Value,
    now: Duration,
) -> Result<(&'c mut Conversation, &'c mut Ids), Refused> {
    let owned = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
    let new = NewConversation {
        bot_id: owned("bot_id"),
        connector_id: owned("connector_id"),
        name: owned("name"),
        meta_data: body.get("meta_data").cloned().unwrap_or_default(),
    };
    let id = all.create(id, new, now);
    all.get_mut(id).ok_or(Refused::Unknown)
}

fn create_chat(
    all: &mut Conversations,
    context: &mut RequestContext<'_>,
    body: &Value,
) -> Result<Contents, Refused> {
    let now = context.now;
    let asked = parameter(context, "conversation_id");
    let messages: Vec<NewMessage> = list(body, "additional_messages")
        .iter()
        .map(NewMessage::of)
        .collect();
    let has_input = ["shortcut_command", "parameters"]
        .iter()
        .any(|name| body.get(name).is_some());
    if asked.is_none() && messages.is_empty() && !has_input {
        context.findings.violation(
            "body/additional_messages",
            "at least one in a new conversation",
        );
        return Err(Refused::bad_request("invalid request: additional_messages"));
    }
    let bot_id = text(body, "bot_id").to_owned();
    let id = match asked {
        None => None,
        Some(_) => Some(id(context, body, "conversation_id")?),
    };
    let known = id.filter(|id| all.get(*id).is_some());
    let (conversation, ids) = match (known, id, asked) {
        (Some(id), ..) => all.get_mut(id).ok_or(Refused::Unknown)?,
        // The conversation of the description's examples is created on demand.
        (None, Some(_), Some(asked)) if !context.core.contract.is_example_id(asked) => {
            return Err(Refused::Unknown);
        }
        _ => {
            let empty = json!({"bot_id": bot_id});
            create(all, id, &empty, now)?
        }
    };
    let running: Vec<u64> = conversation.chats.keys().rev().copied().collect();
    for id in running {
        if let Some(mut chat) = conversation.chats.remove(&id) {
            chat.advance(conversation, ids, now, false);
            let is_running = chat.is_running();
            conversation.chats.insert(id, chat);
            if is_running {
                return Err(Refused::conversation_busy());
            }
        }
    }
    let new = NewChat {
        bot_id,
        messages,
        meta_data: body.get("meta_data").cloned().unwrap_or_default(),
        reply: context.take_script(Fault::as_reply).unwrap_or_default(),
        is_saved: body.get("auto_save_history") != Some(&Value::Bool(false)),
    };
    let is_saved = new.is_saved;
    let mut chat = Chat::start(new, conversation, ids, now);
    let contents = if streams(body) {
        let events = chat.run(conversation, ids, now);
        Contents::Stream(stream_of(&events, &chat), chat.is_silent())
    } else {
        chat.begin();
        Contents::Data(chat.json())
    };
    let id = conversation.id;
    if is_saved {
        conversation.keep_chat(chat);
    }
    all.trim(id);
    Ok(contents)
}

/// The messages of the bot in a chat.
fn written(conversation: &Conversation, chat: &Chat) -> Value {
    let messages = conversation.messages();
    let of_chat = messages.filter(|message| message.chat_id == Some(chat.id));
    of_chat
        .filter(|message| !chat.has_inserted(message.id))
        .map(|message| message.json())
        .collect()
}

fn cancel(chat: &mut Chat, now: Duration) -> Result<Contents, Refused> {
    if !chat.is_running() {
        return Err(Refused::bad_request("the chat has ended"));
    }
    chat.cancel(now);
    Ok(Contents::Data(chat.json()))
}

fn submit(chat: &mut Chat, body: &Value, now: Duration) -> Result<(), Refused> {
    let outputs: Vec<(&str, &str)> = list(body, "tool_outputs")
        .iter()
        .map(|output| (text(output, "tool_call_id"), text(output, "output")))
        .collect();
    chat.submit(&outputs, now).map_err(Refused::bad_request)
}

/// The events of a stream, with the end marker unless the stream falls silent.
fn stream_of(events: &[Event], chat: &Chat) -> Bytes {
    let mut bytes = BytesMut::new();
    for (name, data) in events {
        bytes.extend_from_slice(&stream::event(name, data));
    }
    if !chat.is_silent() {
        bytes.extend_from_slice(&stream::event("done", &json!("[DONE]")));
    }
    bytes.freeze()
}

/// A page of the conversations with a bot.
fn page(all: &Conversations, context: &RequestContext<'_>, creator_id: &str) -> Value {
    let bot_id = parameter(context, "bot_id");
    let connector_id = parameter(context, "connector_id").unwrap_or("1024");
    let number = |name: &str, default: usize| {
        let text = parameter(context, name);
        text.and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let mut matching: Vec<&Conversation> = all
        .all()
        .filter(|one| one.bot_id.as_deref() == bot_id && one.connector_id == connector_id)
        .collect();
    if parameter(context, "sort_order") != Some("ASC") {
        matching.reverse();
    }
    let size = number("page_size", 50);
    let from = size.saturating_mul(number("page_num", 1).saturating_sub(1));
    let shown = matching.iter().skip(from).take(size);
    let shown: Vec<Value> = shown.map(|one| one.json(creator_id)).collect();
    let has_more = matching.len() > from.saturating_add(size);
    json!({"conversations": shown, "has_more": has_more})
}

fn listing(body: &Value) -> Result<Listing, Refused> {
    // "0" and an empty string mean no position.
    let position = |name: &str| match text(body, name) {
        "" | "0" => Ok(None),
        id => id
            .parse()
            .map(Some)
            .map_err(|_| Refused::bad_request(format!("invalid request: {name}"))),
    };
    let limit = body.get("limit").and_then(Value::as_u64).unwrap_or(50);
    Ok(Listing {
        ascending: text(body, "order") == "asc",
        chat_id: position("chat_id")?,
        before_id: position("before_id")?,
        after_id: position("after_id")?,
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
        with_middle_messages: body.get("include_middle_message") == Some(&Value::Bool(true)),
    })
}

fn streams(body: &Value) -> bool {
    body.get("stream") == Some(&Value::Bool(true))
}

fn list<'b>(body: &'b Value, name: &str) -> &'b [Value] {
    let list = body.get(name).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

/// A query parameter.
fn parameter<'r>(context: &RequestContext<'r>, name: &str) -> Option<&'r str> {
    let query = context.incoming.query.iter();
    let mut values = query.filter(|(known, value)| known == name && !value.is_empty());
    values.next().map(|(_, value)| value.as_str())
}

/// An id from the path, the query or the body.
fn id(context: &RequestContext<'_>, body: &Value, name: &str) -> Result<u64, Refused> {
    let in_path = context.path_ids.iter().find(|(known, _)| known == name);
    let id = in_path.map(|(_, id)| id.as_str());
    let id = id.or_else(|| parameter(context, name));
    let id = id.unwrap_or_else(|| text(body, name));
    id.parse().map_err(|_| Refused::Unknown)
}
