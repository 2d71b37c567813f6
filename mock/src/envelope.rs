//! The envelope that all answers of the API share, and the API's error codes.

use crate::answer::Answer;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

const BAD_REQUEST: i64 = 4000;
const AUTHENTICATION_INVALID: i64 = 4100;
/// Also for a wrong token.
const NO_PERMISSION: i64 = 4101;
/// A conversation runs one chat at a time.
const CONVERSATION_BUSY: i64 = 4016;
const BOT_NOT_FOUND: i64 = 4200;
const ACCESS_TOKEN_INVALID: i64 = 700_012_006;

/// What the envelope holds.
pub(crate) enum Contents {
    /// Its field `data`.
    Data(Value),
    /// Its fields besides `code`, `msg` and `detail`.
    Whole(Value),
    Nothing,
    /// An event stream instead, and whether it falls silent.
    Stream(Bytes, bool),
}

/// Why an API call is refused.
pub(crate) enum Refused {
    /// It names something that does not exist.
    Unknown,
    /// It names something that the token may not use.
    Forbidden,
    /// HTTP status, error code, message.
    With(StatusCode, i64, String),
}

impl Contents {
    pub(crate) fn answer(self, log_id: &str) -> Answer {
        let mut envelope = json!({"code": 0, "msg": "", "detail": {"logid": log_id}});
        match self {
            Self::Stream(events, stalls) => {
                return Answer {
                    stalls,
                    ..Answer::stream(events)
                };
            }
            Self::Data(data) => envelope["data"] = data,
            Self::Whole(Value::Object(fields)) => {
                for (name, field) in fields {
                    envelope[name] = field;
                }
            }
            Self::Whole(_) | Self::Nothing => {}
        }
        Answer::json(StatusCode::OK, &envelope)
    }
}

impl Refused {
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::With(StatusCode::BAD_REQUEST, BAD_REQUEST, message.into())
    }

    pub(crate) fn no_authentication() -> Self {
        let message = "authentication is invalid".into();
        Self::With(StatusCode::UNAUTHORIZED, AUTHENTICATION_INVALID, message)
    }

    pub(crate) fn access_token_invalid() -> Self {
        let message = "access token invalid".into();
        Self::With(StatusCode::UNAUTHORIZED, ACCESS_TOKEN_INVALID, message)
    }

    /// How a chat is refused for a bad token.
    pub(crate) fn incorrect_token() -> Self {
        let message = "The token you entered is incorrect.".into();
        Self::With(StatusCode::OK, NO_PERMISSION, message)
    }

    /// How a chat with an unknown bot is refused.
    pub(crate) fn bot_not_found() -> Self {
        let message = "the bot does not exist".into();
        Self::With(StatusCode::OK, BOT_NOT_FOUND, message)
    }

    /// How a chat is refused while its conversation runs another one. The code is documented, the status is that of the
    /// other refusals of a chat.
    pub(crate) fn conversation_busy() -> Self {
        let message = "the conversation runs another chat".into();
        Self::With(StatusCode::OK, CONVERSATION_BUSY, message)
    }

    pub(crate) fn answer(self, log_id: &str) -> Answer {
        match self {
            // A client can't tell one from the other.
            Self::Unknown | Self::Forbidden => {
                let message = "no permission for this resource";
                Answer::api_error(StatusCode::FORBIDDEN, NO_PERMISSION, message, log_id)
            }
            Self::With(status, code, message) => Answer::api_error(status, code, &message, log_id),
        }
    }
}
