//! [`ApiCall`]: one attempt of a call to Coze's API.

use std::time::Duration;

use coze_wire::{
    Captured, LOG_ID_HEADER, Secret, SendError, SendErrorKind, sanitize, sanitize_log_id,
};
use http::HeaderMap;
use serde::de::DeserializeOwned;

use crate::{
    AccessToken, Error, ErrorCode, ErrorKind, OAuthClient, Result,
    answer::{Answer, not_as_described},
    client::Call,
    error::Meaning,
    expiry::Timing,
};

/// A timeout that never fires, in place of reqwest's own, which would end a long stream and can't be removed: 100
/// years.
const NO_TIMEOUT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// One attempt of a call to Coze's API: sends a finished request with an access token, reads the response, and makes the errors
/// of the call, with its endpoint and without its secrets.
///
/// `coze-api` is built on it. Use it for your own client, such as one from another generator:
///
/// ```
/// # async fn example(client: coze_auth::OAuthClient, token: coze_auth::AccessToken) -> coze_auth::Result<()> {
/// use coze_auth::reqwest::{Method, Request};
///
/// #[derive(serde::Deserialize)]
/// struct Me {
///     data: User,
/// }
/// #[derive(serde::Deserialize)]
/// struct User {
///     user_name: String,
/// }
///
/// let url = format!("{}/v1/users/me", client.endpoint().api_base());
/// let call = client.api_call(&token);
/// let response = call.open(Request::new(Method::GET, url.parse().unwrap())).await?;
/// let response = call.capture(response, 1024 * 1024).await;
/// let me: Me = call.read(&response)?;
/// println!("{}", me.data.user_name);
/// # Ok(()) }
/// ```
pub struct ApiCall {
    client: OAuthClient,
    call: Call,
}

impl OAuthClient {
    /// Starts a call to Coze's API with this token.
    #[must_use]
    pub fn api_call(&self, token: &AccessToken) -> ApiCall {
        ApiCall {
            client: self.clone(),
            call: self.call_with(token),
        }
    }
}

impl ApiCall {
    /// Sends the request and returns when the head of the response has arrived. Of the client's timeouts, only the
    /// connect timeout applies.
    ///
    /// # Errors
    ///
    /// If there is no response.
    pub async fn open(&self, mut request: reqwest::Request) -> Result<reqwest::Response> {
        *request.timeout_mut() = Some(NO_TIMEOUT);
        let opened = self.call.exchange.open(self.client.http(), request).await;
        opened.map_err(|error| self.unanswered(error))
    }

    /// Reads the body of a response, at most `limit` bytes of it.
    pub async fn capture(&self, response: reqwest::Response, limit: usize) -> Captured {
        self.call.exchange.capture(response, limit).await
    }

    /// Reads a response as `T`.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) if it holds an error, at any HTTP status; other kinds if it is incomplete, or not a `T`.
    pub fn read<T: DeserializeOwned>(&self, captured: &Captured) -> Result<T> {
        self.with_answer(captured, |answer| answer.typed())
            .map_err(|error| self.locate(error))
    }

    /// The error in a response that is not what was `expected`, such as "an event stream".
    #[must_use]
    pub fn unexpected(&self, captured: &Captured, expected: &str) -> Error {
        let read = self.with_answer(captured, |answer| {
            answer.read(|_| {
                let what = format!("the response is JSON; expected {expected}");
                Err::<std::convert::Infallible, _>(not_as_described(what))
            })
        });
        match read {
            Err(error) => self.locate(error),
            Ok(never) => match never {},
        }
    }

    /// The log id of a response: the header's, or else the body's.
    #[must_use]
    pub fn log_id(&self, captured: &Captured) -> Option<String> {
        let header = captured.log_id().map(str::to_owned);
        header.or_else(|| self.with_answer(captured, |answer| answer.log_id_of_whole()))
    }

    /// The log id in the headers of a response.
    #[must_use]
    pub fn log_id_of(&self, headers: &HeaderMap) -> Option<String> {
        let log_id = headers.get(LOG_ID_HEADER)?.to_str().ok()?;
        sanitize_log_id(log_id, self.secrets())
    }

    /// The secrets of this call, which must not be displayed.
    #[must_use]
    pub fn secrets(&self) -> &[Secret] {
        self.call.exchange.secrets()
    }

    /// An error of this call. `what` may contain untrusted text.
    #[must_use]
    pub fn error(&self, kind: ErrorKind, what: &str) -> Error {
        self.locate(Error::new(kind, sanitize(what, self.secrets())))
    }

    /// An error of the transport.
    #[must_use]
    pub fn unanswered(&self, error: SendError) -> Error {
        self.locate(Error::unanswered(error))
    }

    /// A timeout.
    #[must_use]
    pub fn timed_out(&self, what: &str) -> Error {
        self.unanswered(SendError::new(SendErrorKind::Timeout, what))
    }

    /// An error that Coze reported with this code and message, such as the event `error` of a stream.
    #[must_use]
    pub fn refused(&self, code: Option<i64>, message: &str) -> Error {
        let code = code.map(ErrorCode::Api);
        let meaning = Meaning::of(code.as_ref(), message);
        let message = sanitize(message, self.secrets());
        let error = Error::new(ErrorKind::Refused, "Coze reported an error");
        let error = match code {
            Some(code) => error.with_code(code),
            None => error,
        };
        let error = error.with_message(Some(message).filter(|message| !message.is_empty()));
        self.locate(error.with_meaning(meaning))
    }

    fn locate(&self, error: Error) -> Error {
        self.call.locate(error)
    }

    fn with_answer<T>(&self, captured: &Captured, read: impl FnOnce(&Answer<'_>) -> T) -> T {
        let clock = self.client.clock();
        let (now, wall) = (clock.monotonic(), clock.wall());
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
            secrets: self.secrets(),
        })
    }
}

impl std::fmt::Debug for ApiCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiCall")
            .field("exchange", &self.call.exchange)
            .finish_non_exhaustive()
    }
}
