//! What `coze-api` needs of this crate to send a call of its own and to read the answer: hidden, and promised to nobody else.

use std::time::Duration;

use coze_wire::{Captured, SendError, SendErrorKind, sanitize};
use http::StatusCode;
use serde::de::DeserializeOwned;

use crate::{
    Call, Error, ErrorCode, ErrorKind, OAuthClient, Result,
    answer::{Answer, not_as_described},
    error::Told,
    expiry::Timing,
    random,
};

/// reqwest's own time-out would cut a stream, and can only be replaced: 100 years.
const NO_TIMEOUT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl OAuthClient {
    /// How long a whole request may take, unless the call says otherwise.
    #[doc(hidden)]
    #[must_use]
    pub fn api_timeout(&self) -> Duration {
        self.request_timeout()
    }

    /// Sends a request, and returns the head of its answer. No time-out but the one for connecting holds.
    #[doc(hidden)]
    pub async fn api_open(
        &self,
        call: &Call,
        mut request: reqwest::Request,
    ) -> Result<reqwest::Response> {
        *request.timeout_mut() = Some(NO_TIMEOUT);
        let opened = call.exchange().open(self.http(), request).await;
        opened.map_err(|error| call.locate(Error::unanswered(error)))
    }

    /// Reads an answer as `T`, tolerantly: an error is one at any status.
    #[doc(hidden)]
    pub fn api_read<T: DeserializeOwned>(&self, call: &Call, captured: &Captured) -> Result<T> {
        self.with_answer(call, captured, |answer| answer.typed())
    }

    /// Reads an answer that can only be an error: if it is none, it is not what was `expected`.
    #[doc(hidden)]
    pub fn api_error(&self, call: &Call, captured: &Captured, expected: &str) -> Error {
        let read = self.with_answer(call, captured, |answer| {
            answer.read(|_| {
                let what = format!("the answer is JSON, where {expected} was expected");
                Err::<(), _>(not_as_described(what))
            })
        });
        match read {
            Err(error) => error,
            Ok(()) => Error::new(ErrorKind::InvalidAnswer, "the answer is not as described"),
        }
    }

    /// The log id of an answer: the header's, else the one in the body.
    #[doc(hidden)]
    #[must_use]
    pub fn api_log_id(&self, call: &Call, captured: &Captured) -> Option<String> {
        let header = captured.log_id().map(str::to_owned);
        header.or_else(|| self.with_answer(call, captured, |answer| answer.log_id_of_whole()))
    }

    fn with_answer<T>(
        &self,
        call: &Call,
        captured: &Captured,
        read: impl FnOnce(&Answer<'_>) -> T,
    ) -> T {
        let (now, wall) = (self.clock().monotonic(), self.clock().wall());
        let timing = Timing {
            began: now,
            began_wall: wall,
            ended: now,
            ended_wall: wall,
            date: captured.date(),
        };
        read(&Answer {
            captured,
            timing: &timing,
            secrets: call.exchange().secrets(),
        })
    }
}

impl Call {
    /// Says where an error happened.
    #[doc(hidden)]
    #[must_use]
    pub fn api_locate(&self, error: Error) -> Error {
        self.locate(error)
    }
}

/// Makes errors of the API.
#[doc(hidden)]
#[derive(Debug)]
pub struct ApiError;

impl ApiError {
    /// An error of this kind.
    #[must_use]
    pub fn of(kind: ErrorKind, what: &str) -> Error {
        Error::new(kind, what)
    }

    /// Time ran out.
    #[must_use]
    pub fn timeout(what: &str) -> Error {
        Error::unanswered(SendError::new(SendErrorKind::Timeout, what))
    }

    /// The transport failed.
    #[must_use]
    pub fn unanswered(error: SendError) -> Error {
        Error::unanswered(error)
    }

    /// What an event says that reports an error.
    #[must_use]
    pub fn of_event(call: &Call, code: Option<i64>, message: &str) -> Error {
        let code = code.map(ErrorCode::Api);
        let told = Told::by(code.as_ref(), message);
        let message = sanitize(message, call.exchange().secrets());
        let error = Error::new(ErrorKind::Refused, "Coze reported an error in the stream");
        let error = match code {
            Some(code) => error.with_code(code),
            None => error,
        };
        let error = error.with_message(Some(message).filter(|message| !message.is_empty()));
        error.with_told(told)
    }

    /// A text that the API sent and that is not as described.
    #[must_use]
    pub fn not_as_described(call: &Call, what: &str) -> Error {
        not_as_described(sanitize(what, call.exchange().secrets()))
    }

    /// The same error, of an answer with this head.
    #[must_use]
    pub fn answered(error: Error, status: StatusCode, log_id: Option<String>) -> Error {
        error.with_status(status).with_log_id(log_id)
    }

    /// The same error, with a log id.
    #[must_use]
    pub fn with_log_id(error: Error, log_id: Option<String>) -> Error {
        error.with_log_id(log_id)
    }

    /// The same error, with what is left to wait.
    #[must_use]
    pub fn retry_after(error: Error, wait: Duration) -> Error {
        error.with_retry_after(Some(wait))
    }
}

/// Spreads the attempts of many clients: 0.75 to 1.25.
#[doc(hidden)]
#[must_use]
pub fn retry_jitter() -> f64 {
    random::jitter()
}
