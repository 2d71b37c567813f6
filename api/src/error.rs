//! What can go wrong with a call.

use std::{fmt, ops::Deref};

use coze_auth::ErrorKind;
use coze_wire::OperationInfo;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a call: what happened, what Coze said about it, and what it happened to.
///
/// It derefs to [`coze_auth::Error`], which answers most questions: [`kind`](coze_auth::Error::kind),
/// [`code`](coze_auth::Error::code), [`message`](coze_auth::Error::message), [`status`](coze_auth::Error::status),
/// [`log_id`](coze_auth::Error::log_id), [`is_retryable`](coze_auth::Error::is_retryable).
#[derive(Clone)]
pub struct Error(Box<Details>);

#[derive(Clone)]
struct Details {
    error: coze_auth::Error,
    operation: Option<&'static OperationInfo>,
    chat_id: Option<String>,
    conversation_id: Option<String>,
    is_fate_unknown: bool,
}

impl Error {
    /// The name of the operation that was called, such as `create_chat`.
    #[must_use]
    pub fn operation(&self) -> Option<&'static str> {
        Some(self.0.operation?.id)
    }

    /// The chat that it happened to, as far as is known: with it and the [conversation](Self::conversation_id), the chat can
    /// be retrieved.
    #[must_use]
    pub fn chat_id(&self) -> Option<&str> {
        self.0.chat_id.as_deref()
    }

    /// The conversation that it happened to, as far as is known.
    #[must_use]
    pub fn conversation_id(&self) -> Option<&str> {
        self.0.conversation_id.as_deref()
    }

    /// Whether Coze may have done what it was asked to do all the same: something was to be changed, and no answer came, or
    /// none that tells. Look before the same is sent again; the [hint](Self::hint) says where.
    #[must_use]
    pub fn is_fate_unknown(&self) -> bool {
        self.0.is_fate_unknown
    }

    /// What to do about it, for the person who reads the message.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        let details = &self.0;
        match (
            details.chat_id.is_some(),
            details.conversation_id.is_some(),
            details.is_fate_unknown,
        ) {
            (true, true, _) if self.is_cut() => {
                "the chat may go on: retrieve it by its chat id and conversation id, and list its messages"
            }
            (_, true, true) => {
                "Coze may have done it: list the messages of the conversation (by its conversation id) before the same is sent again"
            }
            (_, _, true) => {
                "Coze may have done it: look for what was to be created or changed before the same is sent again; with a conversation id in the request, its messages tell"
            }
            _ => details.error.hint(),
        }
    }

    /// Whether an answer broke off, or did not go on.
    fn is_cut(&self) -> bool {
        matches!(self.kind(), ErrorKind::Interrupted | ErrorKind::Timeout)
    }

    /// What happened, as `coze-auth` says it.
    #[must_use]
    pub fn into_inner(self) -> coze_auth::Error {
        self.0.error
    }

    pub(crate) fn in_operation(mut self, operation: &'static OperationInfo) -> Self {
        self.0.operation = Some(operation);
        self
    }

    pub(crate) fn of_chat(
        mut self,
        chat_id: Option<String>,
        conversation_id: Option<String>,
    ) -> Self {
        self.0.chat_id = chat_id.or(self.0.chat_id);
        self.0.conversation_id = conversation_id.or(self.0.conversation_id);
        self
    }

    pub(crate) fn with_log_id(self, log_id: Option<&str>) -> Self {
        let log_id = log_id.map(str::to_owned);
        self.map(|error| error.with_log_id(log_id))
    }

    pub(crate) fn with_unknown_fate(mut self) -> Self {
        self.0.is_fate_unknown = true;
        self
    }

    pub(crate) fn map(mut self, change: impl FnOnce(coze_auth::Error) -> coze_auth::Error) -> Self {
        self.0.error = change(self.0.error);
        self
    }
}

impl From<coze_auth::Error> for Error {
    fn from(error: coze_auth::Error) -> Self {
        Self(Box::new(Details {
            error,
            operation: None,
            chat_id: None,
            conversation_id: None,
            is_fate_unknown: false,
        }))
    }
}

impl Deref for Error {
    type Target = coze_auth::Error;

    fn deref(&self) -> &coze_auth::Error {
        &self.0.error
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let details = &self.0;
        if let Some(operation) = details.operation {
            write!(f, "{}: ", operation.id)?;
        }
        write!(f, "{}", details.error)?;
        if let Some(id) = &details.chat_id {
            write!(f, ", chat id {id}")?;
        }
        if let Some(id) = &details.conversation_id {
            write!(f, ", conversation id {id}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("operation", &self.operation())
            .field("error", &self.0.error)
            .field("chat_id", &self.0.chat_id)
            .field("conversation_id", &self.0.conversation_id)
            .field("is_fate_unknown", &self.0.is_fate_unknown)
            .field("hint", &self.hint())
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0.error)
    }
}
