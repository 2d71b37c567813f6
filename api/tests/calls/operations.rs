//! Handwritten operations of the form that the generator produces.

use coze_api::{
    CozeApi,
    operation::{
        Call, Data, Dispatcher, Empty, EventNames, Events, Operation, OperationInfo, Page, Paged,
        Position, Raw, Retry, StreamEvent, Unbuilt, Whole,
    },
};
use serde::{Deserialize, Deserializer, Serialize};

const BASE: &str = "http://localhost";

/// The groups of a generated client.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    dispatcher: Dispatcher,
}

impl Client {
    pub(crate) fn new(api: &CozeApi) -> Self {
        Self {
            http: coze_wire::http_client(BASE).unwrap(),
            dispatcher: api.dispatcher(),
        }
    }

    fn call(
        self,
        info: &'static OperationInfo,
        request: reqwest::RequestBuilder,
    ) -> Result<Call, Unbuilt> {
        let request = request.build().map_err(Unbuilt::new)?;
        Ok(Call::new(self.dispatcher, info, request))
    }

    pub(crate) fn stream_chat(&self) -> StreamChat {
        StreamChat(self.clone(), Ok("user_1".to_owned()))
    }

    pub(crate) fn create_chat(&self) -> CreateChat {
        CreateChat(self.clone(), false)
    }

    pub(crate) fn retrieve_chat(&self) -> RetrieveChat {
        RetrieveChat(self.clone())
    }

    pub(crate) fn delete(&self) -> DeleteConversation {
        DeleteConversation(self.clone())
    }

    pub(crate) fn download(&self) -> Download {
        Download(self.clone())
    }

    pub(crate) fn messages(&self) -> MessagesOf {
        MessagesOf(self.clone())
    }

    pub(crate) fn bots(&self, page_num: i64) -> ListBots {
        ListBots(self.clone(), page_num)
    }

    pub(crate) fn files(&self) -> ListByToken {
        ListByToken(self.clone(), None)
    }
}

#[derive(Debug, PartialEq, Deserialize)]
pub(crate) struct Chat {
    pub(crate) id: String,
    pub(crate) status: String,
}

#[derive(Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Message {
    pub(crate) content: String,
}

#[derive(Debug, PartialEq)]
pub(crate) enum ChatEvent {
    ChatCreated(Chat),
    ChatCompleted(Chat),
    MessageDelta(Message),
    Interrupted(Message),
    Other { event: String, data: String },
}

impl StreamEvent for ChatEvent {
    const NAMES: &'static EventNames = &EventNames {
        end: &["done", "Done"],
        interrupt: &["Interrupt"],
        error: &["error", "Error"],
    };

    fn read<'de, D: Deserializer<'de>>(event: &str, data: D) -> Result<Option<Self>, D::Error> {
        let event = match event {
            "conversation.chat.created" => Chat::deserialize(data).map(Self::ChatCreated)?,
            "conversation.chat.completed" => Chat::deserialize(data).map(Self::ChatCompleted)?,
            "conversation.message.delta" => Message::deserialize(data).map(Self::MessageDelta)?,
            "Interrupt" => Message::deserialize(data).map(Self::Interrupted)?,
            _ => return Ok(None),
        };
        Ok(Some(event))
    }

    fn other(event: String, data: String) -> Self {
        Self::Other { event, data }
    }
}

#[derive(Clone)]
pub(crate) struct StreamChat(Client, Result<String, String>);

impl StreamChat {
    pub(crate) fn without_user(mut self) -> Self {
        self.1 = Err("user_id was not initialized".to_owned());
        self
    }
}

impl Operation for StreamChat {
    type Answer = Events<ChatEvent>;

    const INFO: &'static OperationInfo = &OperationInfo {
        id: "stream_chat",
        retry: Retry::Write,
    };

    fn into_call(self) -> Result<Call, Unbuilt> {
        let user_id = self.1.map_err(Unbuilt::new)?;
        let request = self.0.http.post(format!("{BASE}/v3/chat"));
        let request = request.query(&[("conversation_id", "7381")]);
        let request = request.json(&serde_json::json!({"user_id": user_id, "stream": true}));
        self.0.call(Self::INFO, request)
    }
}

#[derive(Clone)]
pub(crate) struct CreateChat(Client, bool);

impl CreateChat {
    /// With a body that can't be cloned.
    pub(crate) fn streaming(mut self) -> Self {
        self.1 = true;
        self
    }
}

impl Operation for CreateChat {
    type Answer = Data<Chat>;

    const INFO: &'static OperationInfo = &OperationInfo {
        id: "create_chat",
        retry: Retry::Write,
    };

    fn into_call(self) -> Result<Call, Unbuilt> {
        let request = self.0.http.post(format!("{BASE}/v3/chat"));
        let request = request.query(&[("conversation_id", "7381")]);
        let request = if self.1 {
            let parts = futures_util::stream::iter([Ok::<_, std::io::Error>("{}")]);
            request.body(reqwest::Body::wrap_stream(parts))
        } else {
            request.json(&serde_json::json!({"user_id": "user_1"}))
        };
        self.0.call(Self::INFO, request)
    }
}

#[derive(Clone)]
pub(crate) struct RetrieveChat(Client);

impl Operation for RetrieveChat {
    type Answer = Data<Chat>;

    const INFO: &'static OperationInfo = &OperationInfo {
        id: "retrieve_chat",
        retry: Retry::Read,
    };

    fn into_call(self) -> Result<Call, Unbuilt> {
        let request = self.0.http.get(format!("{BASE}/v3/chat/retrieve"));
        self.0.call(Self::INFO, request)
    }
}

#[derive(Clone)]
pub(crate) struct DeleteConversation(Client);

impl Operation for DeleteConversation {
    type Answer = Empty;

    const INFO: &'static OperationInfo = &OperationInfo {
        id: "delete_conversation",
        retry: Retry::Write,
    };

    fn into_call(self) -> Result<Call, Unbuilt> {
        let request = self.0.http.delete(format!("{BASE}/v1/conversations/7381"));
        self.0.call(Self::INFO, request)
    }
}

#[derive(Clone)]
pub(crate) struct Download(Client);

impl Operation for Download {
    type Answer = Raw;

    const INFO: &'static OperationInfo = &OperationInfo {
        id: "download",
        retry: Retry::Read,
    };

    fn into_call(self) -> Result<Call, Unbuilt> {
        let request = self.0.http.get(format!("{BASE}/v1/download"));
        self.0.call(Self::INFO, request)
    }
}

#[derive(Clone)]
pub(crate) struct MessagesOf(Client);

#[derive(Debug, Deserialize)]
pub(crate) struct MessagePage {
    pub(crate) data: Vec<Message>,
    pub(crate) has_more: bool,
}

impl Operation for MessagesOf {
    type Answer = Whole<MessagePage>;

    const INFO: &'static OperationInfo = &OperationInfo {
        id: "list_messages",
        retry: Retry::Read,
    };

    fn into_call(self) -> Result<Call, Unbuilt> {
        let request = self
            .0
            .http
            .post(format!("{BASE}/v1/conversation/message/list"));
        self.0.call(Self::INFO, request)
    }
}

#[derive(Deserialize)]
pub(crate) struct Listed {
    items: Vec<Message>,
    total: Option<u64>,
    has_more: Option<bool>,
    next: Option<String>,
}

impl From<Listed> for Page<Message> {
    fn from(listed: Listed) -> Self {
        Self {
            items: listed.items,
            total: listed.total,
            has_more: listed.has_more,
            next: listed.next,
        }
    }
}

#[derive(Clone)]
pub(crate) struct ListBots(Client, i64);

impl Operation for ListBots {
    type Answer = Data<Listed>;

    const INFO: &'static OperationInfo = &OperationInfo {
        id: "list_bots",
        retry: Retry::Read,
    };

    fn into_call(self) -> Result<Call, Unbuilt> {
        let request = self.0.http.get(format!("{BASE}/v1/bots"));
        let request = request.query(&[("page_num", self.1), ("page_size", 2)]);
        self.0.call(Self::INFO, request)
    }
}

impl Paged for ListBots {
    type Item = Message;
    type Page = Listed;

    fn position(&self) -> Position {
        Position::Number(self.1)
    }

    fn at(mut self, position: Position) -> Self {
        self.1 = position.number().unwrap_or(1);
        self
    }

    fn page(&self, page: Listed) -> Page<Message> {
        page.into()
    }
}

#[derive(Clone)]
pub(crate) struct ListByToken(Client, Option<String>);

impl Operation for ListByToken {
    type Answer = Data<Listed>;

    const INFO: &'static OperationInfo = &OperationInfo {
        id: "list_by_token",
        retry: Retry::Read,
    };

    fn into_call(self) -> Result<Call, Unbuilt> {
        let request = self.0.http.get(format!("{BASE}/v1/tokens"));
        self.0
            .clone()
            .call(Self::INFO, request.query(&[("page_token", self.1)]))
    }
}

impl Paged for ListByToken {
    type Item = Message;
    type Page = Listed;

    fn position(&self) -> Position {
        Position::Token(self.1.clone().unwrap_or_default())
    }

    fn at(mut self, position: Position) -> Self {
        self.1 = position.token();
        self
    }

    fn page(&self, page: Listed) -> Page<Message> {
        page.into()
    }
}
