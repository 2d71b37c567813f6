//! [`Error`]: why a call failed.

use std::{fmt, ops::Deref};

use coze_auth::ErrorKind;
use coze_wire::OperationInfo;

/// The result of the fallible functions of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a call: what happened, Coze's response, and the operation and chat concerned.
///
/// It derefs to [`coze_auth::Error`]: [`kind`](coze_auth::Error::kind), [`code`](coze_auth::Error::code),
/// [`message`](coze_auth::Error::message), [`status`](coze_auth::Error::status), [`log_id`](coze_auth::Error::log_id).
/// Its [`is_retryable`](Self::is_retryable) is stricter: a request that may have been processed is not retryable.
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
    /// The name of the operation, such as `create_chat`.
    #[must_use]
    pub fn operation(&self) -> Option<&'static str> {
        Some(self.0.operation?.id)
    }

    /// The id of the chat, if it is known: with it and the [conversation id](Self::conversation_id), the chat can be
    /// retrieved.
    #[must_use]
    pub fn chat_id(&self) -> Option<&str> {
        self.0.chat_id.as_deref()
    }

    /// The id of the conversation, if it is known.
    #[must_use]
    pub fn conversation_id(&self) -> Option<&str> {
        self.0.conversation_id.as_deref()
    }

    /// Whether Coze may have processed the request: the operation changes something, and there was no response, or none
    /// that says whether it was processed. Check that before you send it again; the [hint](Self::hint) says how.
    #[must_use]
    pub fn is_fate_unknown(&self) -> bool {
        self.0.is_fate_unknown
    }

    /// Whether the same call may succeed later: the cause may be temporary
    /// ([`coze_auth::Error::is_retryable`]), and its fate is not [unknown](Self::is_fate_unknown).
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        !self.is_fate_unknown() && self.0.error.is_retryable()
    }

    /// What to do about it, for the user who reads the message.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        let details = &self.0;
        match (
            details.chat_id.is_some(),
            details.conversation_id.is_some(),
            details.is_fate_unknown,
        ) {
            (true, true, is_fate_unknown) if is_fate_unknown || self.is_cut() => {
                "the chat may still be running: retrieve it by its chat id and conversation id, and list its messages"
            }
            (_, true, true) => {
                "Coze may have processed the request: list the messages of the conversation (by its conversation id) before you send it again"
            }
            (_, _, true) => {
                "Coze may have processed the request: check what it was to create or change before you send it again; if it has a conversation id, list the messages of that conversation"
            }
            _ => details.error.hint(),
        }
    }

    /// Whether a response was interrupted or timed out.
    fn is_cut(&self) -> bool {
        matches!(self.kind(), ErrorKind::Interrupted | ErrorKind::Timeout)
    }

    /// The error of `coze-auth`.
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
