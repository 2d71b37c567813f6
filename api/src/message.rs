//! [`MessageParts`]: messages with texts, images and files.

use coze_api_client::types::{EnterMessage, MessageContentType, MessageRole, MessageType};
use serde::Serialize;

/// A message of texts, images and files, which the API calls an `object_string`. A file is referred to by the id of its
/// upload, or by a URL.
///
/// It converts into a message of the user with [`EnterMessage::from`]; the setter `message` of an operation takes it
/// directly.
///
/// ```
/// use coze_api::{MessageParts, types::EnterMessage};
///
/// let question = MessageParts::new().text("Where is this?").image_id("7901").file_url("https://example.com/map.pdf");
/// let message = EnterMessage::from(question);
/// assert_eq!(
///     message.content,
///     r#"[{"type":"text","text":"Where is this?"},{"type":"image","file_id":"7901"},{"type":"file","file_url":"https://example.com/map.pdf"}]"#,
/// );
/// ```
///
/// Other messages, such as an earlier response of the bot as context, are built with [`EnterMessage::new`]:
///
/// ```
/// use coze_api::types::{EnterMessage, MessageContentType, MessageRole, MessageType};
///
/// let answer = EnterMessage::new(MessageRole::Assistant, "In Oslo.")
///     .type_(MessageType::Answer)
///     .content_type(MessageContentType::Text);
/// # assert_eq!(answer.content, "In Oslo.");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
#[must_use]
pub struct MessageParts(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part {
    Text { text: String },
    Image(File),
    File(File),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum File {
    FileId(String),
    FileUrl(String),
}

impl MessageParts {
    /// An empty message.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a text.
    pub fn text(self, text: impl Into<String>) -> Self {
        self.with(Part::Text { text: text.into() })
    }

    /// Adds an image by the id of its upload.
    pub fn image_id(self, file_id: impl Into<String>) -> Self {
        self.with(Part::Image(File::FileId(file_id.into())))
    }

    /// Adds an image by a URL that Coze's servers can reach.
    pub fn image_url(self, url: impl Into<String>) -> Self {
        self.with(Part::Image(File::FileUrl(url.into())))
    }

    /// Adds a file by the id of its upload.
    pub fn file_id(self, file_id: impl Into<String>) -> Self {
        self.with(Part::File(File::FileId(file_id.into())))
    }

    /// Adds a file by a URL that Coze's servers can reach.
    pub fn file_url(self, url: impl Into<String>) -> Self {
        self.with(Part::File(File::FileUrl(url.into())))
    }

    /// The content of a message of type `object_string`: JSON in a string.
    #[must_use]
    pub fn to_content(&self) -> String {
        // A list of strings can always be serialised.
        serde_json::to_string(self).unwrap_or_default()
    }

    fn with(mut self, part: Part) -> Self {
        self.0.push(part);
        self
    }
}

/// A message of the user.
impl From<MessageParts> for EnterMessage {
    fn from(parts: MessageParts) -> Self {
        Self::new(MessageRole::User, parts.to_content())
            .type_(MessageType::Question)
            .content_type(MessageContentType::ObjectString)
    }
}
