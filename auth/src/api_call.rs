//! [`ApiCall`]: one attempt of a call to Coze's API.

use std::{sync::OnceLock, time::Duration};

use coze_wire::{Captured, LOG_ID_HEADER, Secret, SendError, sanitize, sanitize_log_id};
use http::{HeaderValue, StatusCode};
use serde::de::DeserializeOwned;

use crate::{
    AccessToken, Error, ErrorCode, ErrorKind, OAuthClient, Result,
    answer::{Answer, not_as_described, wrong_type},
    client::Call,
    error::Meaning,
    expires_in::Timing,
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
    head: OnceLock<Head>,
}

/// What is known of a response before its body.
struct Head {
    status: StatusCode,
    /// As it was received: most responses need it only in the captured form.
    log_id: Option<HeaderValue>,
}

impl OAuthClient {
    /// Starts a call to Coze's API with this token: an [`AccessToken`], or the [`Token`](crate::Token) of a flow.
    #[must_use]
    pub fn api_call(&self, token: impl Into<AccessToken>) -> ApiCall {
        ApiCall {
            client: self.clone(),
            call: self.call_with(&token.into()),
            head: OnceLock::new(),
        }
    }
}

impl ApiCall {
    /// Sends the request and returns when the head of the response has arrived. Of the client's timeouts, only the
    /// connect timeout applies.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput), before anything is sent, if the URL's scheme, host or port is not that of the
    /// client's endpoint: the token is sent nowhere else. The errors of the transport, if there is no response.
    pub async fn open(&self, mut request: reqwest::Request) -> Result<reqwest::Response> {
        if !self.client.is_at_endpoint(request.url()) {
            let what = "the URL is not at the client's endpoint, and the access token is sent nowhere else";
            return Err(self.error(ErrorKind::InvalidInput, what));
        }
        *request.timeout_mut() = Some(NO_TIMEOUT);
        let opened = self.call.exchange.open(self.client.http(), request).await;
        let response = opened.map_err(|error| self.unanswered(error))?;
        self.head.get_or_init(|| Head {
            status: response.status(),
            log_id: response.headers().get(LOG_ID_HEADER).cloned(),
        });
        Ok(response)
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

    /// Coze's log id of the response: its header's, or else that in the body, if that has been captured.
    #[must_use]
    pub fn log_id(&self, captured: Option<&Captured>) -> Option<String> {
        let of_body = |captured| self.with_answer(captured, |answer| answer.log_id_of_whole());
        captured
            .and_then(|captured| captured.log_id().map(str::to_owned))
            .or_else(|| self.log_id_of_head())
            .or_else(|| of_body(captured?))
    }

    fn log_id_of_head(&self) -> Option<String> {
        let log_id = self.head.get()?.log_id.as_ref()?.to_str().ok()?;
        sanitize_log_id(log_id, self.secrets())
    }

    /// The secrets of this call, which must not be displayed.
    #[must_use]
    pub fn secrets(&self) -> &[Secret] {
        self.call.exchange.secrets()
    }

    /// An error of this call, with the status and the log id of its response, if there is one. `what` may contain untrusted text.
    #[must_use]
    pub fn error(&self, kind: ErrorKind, what: &str) -> Error {
        self.locate(Error::new(kind, sanitize(what, self.secrets())))
    }

    /// An error for JSON that does not match its description, such as an event of a stream: `why` is the error of
    /// serde_json, `path` the member that it concerns, and `subject` the name of the JSON in the message. The message names
    /// the member and its type, but not its value.
    #[must_use]
    pub fn not_as_described(
        &self,
        subject: &str,
        path: &str,
        why: &dyn std::fmt::Display,
        json: &str,
    ) -> Error {
        let what = wrong_type(subject, path, why, json);
        self.locate(not_as_described(sanitize(&what, self.secrets())))
    }

    /// An error of the transport.
    #[must_use]
    pub fn unanswered(&self, error: SendError) -> Error {
        self.locate(Error::unanswered(error))
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
        let error = self.call.locate(error);
        match self.head.get() {
            Some(head) => error.at_head(head.status, self.log_id_of_head().as_deref()),
            None => error,
        }
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
