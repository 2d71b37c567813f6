//! Responses: Coze's success bodies and the shapes of its error bodies.

use crate::body::Part;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;

/// An error code that Coze documents for its OAuth endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OAuthErrorCode {
    /// The user has not decided yet.
    AuthorizationPending,
    /// The device polls faster than allowed.
    SlowDown,
    /// The user refused.
    AccessDenied,
    /// The device code has expired.
    ExpiredToken,
    /// A parameter is missing or invalid.
    InvalidRequest,
    /// The client secret or the JWT is invalid.
    InvalidClient,
    /// The authorization code, device code or refresh token is unknown, redeemed or expired.
    InvalidGrant,
    /// The grant type is not supported.
    UnsupportedGrantType,
    /// The app is deactivated or of the wrong type, or the user's login has ended.
    AccessDeny,
    /// An internal error of the server.
    InternalError,
}

impl OAuthErrorCode {
    /// The error code as it is sent.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationPending => "authorization_pending",
            Self::SlowDown => "slow_down",
            Self::AccessDenied => "access_denied",
            Self::ExpiredToken => "expired_token",
            Self::InvalidRequest => "invalid_request",
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant => "invalid_grant",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::AccessDeny => "access_deny",
            Self::InternalError => "internal_error",
        }
    }

    /// The HTTP status. Coze documents no status for its error codes: these are RFC 6749's, and 403 for `access_deny`.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::InvalidClient => StatusCode::UNAUTHORIZED,
            Self::AccessDeny => StatusCode::FORBIDDEN,
            Self::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    pub(crate) fn default_message(self) -> &'static str {
        match self {
            Self::AuthorizationPending => "the user has not decided yet",
            Self::SlowDown => "polling too fast",
            Self::AccessDenied => "the user refused",
            Self::ExpiredToken => "the device code has expired",
            Self::InvalidRequest => "invalid request",
            Self::InvalidClient => "the client credential is invalid",
            Self::InvalidGrant => "the code or token is invalid",
            Self::UnsupportedGrantType => "not supported grant type",
            Self::AccessDeny => "access denied",
            Self::InternalError => "Service internal error.",
        }
    }
}

impl fmt::Display for OAuthErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The shapes of error body that Coze sends or documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ErrorShape {
    /// `{"error_code": code, "error": code, "error_message": text, "error_description": text}`: the real token endpoint repeats
    /// the error code, and no other body makes all official SDKs continue to poll. The default of the OAuth endpoints.
    #[default]
    Both,
    /// `{"error_code": code, "error_message": text, "error": text}`, as documented for the token endpoints.
    A,
    /// `{"error": code, "error_description": text}`, as documented for device authorization.
    B,
    /// `{"code": number, "msg": text, "detail": {"logid": ...}}`, of API calls and gateways.
    C,
}

/// A request that an OAuth endpoint refuses.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) code: OAuthErrorCode,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: OAuthErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(crate) fn of(code: OAuthErrorCode) -> Self {
        Self::new(code, code.default_message())
    }

    pub(crate) fn invalid_request(parameter: &str) -> Self {
        Self::new(
            OAuthErrorCode::InvalidRequest,
            format!("invalid request: {parameter}"),
        )
    }

    pub(crate) fn invalid_client(why: &str) -> Self {
        Self::new(OAuthErrorCode::InvalidClient, why)
    }

    pub(crate) fn invalid_grant(why: &str) -> Self {
        Self::new(OAuthErrorCode::InvalidGrant, why)
    }

    pub(crate) fn invalid_app_type() -> Self {
        Self::new(OAuthErrorCode::AccessDeny, "invalid app type")
    }

    /// A JWT whose `kid` is not registered with any app on this site.
    pub(crate) fn unknown_key() -> Self {
        // The text, misspelling included, is Coze's.
        Self::invalid_client("invalid jwt: kid not been registred")
    }

    /// The response of an OAuth endpoint.
    pub(crate) fn answer(self, shape: ErrorShape, log_id: &str) -> Answer {
        let body = error_body(shape, self.code, &self.message, log_id);
        Answer::json(self.code.status(), &body).with_error(self.code.as_str())
    }
}

impl From<crate::secret::NoRandomness> for Refusal {
    fn from(_: crate::secret::NoRandomness) -> Self {
        Self::of(OAuthErrorCode::InternalError)
    }
}

pub(crate) fn shape_c(code: i64, message: &str, log_id: &str) -> Value {
    json!({"code": code, "msg": message, "detail": {"logid": log_id}})
}

/// Any error code in any shape. Shape C has numeric codes only: it carries 4000.
pub(crate) fn error_body(
    shape: ErrorShape,
    code: OAuthErrorCode,
    message: &str,
    log_id: &str,
) -> Value {
    let code = code.as_str();
    match shape {
        ErrorShape::Both => {
            json!({"error_code": code, "error": code, "error_message": message, "error_description": message})
        }
        ErrorShape::A => json!({"error_code": code, "error_message": message, "error": message}),
        ErrorShape::B => json!({"error": code, "error_description": message}),
        ErrorShape::C => shape_c(4000, message, log_id),
    }
}

pub(crate) const LOG_ID: HeaderName = HeaderName::from_static("x-tt-logid");

/// How a body ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    /// After `Content-Length` bytes.
    #[default]
    Whole,
    /// Chunked, closed before the last chunk.
    NoLastChunk,
    /// Closed this many bytes before `Content-Length`.
    Missing(u64),
}

/// A header to set, or to remove.
pub(crate) type HeaderEdit = (HeaderName, Option<HeaderValue>);

/// An HTTP response before its log id and its date are added.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The error code, for the record.
    pub(crate) error: Option<String>,
    /// Headers that a fault sets or removes; applied last.
    pub(crate) header_edits: Vec<HeaderEdit>,
    pub(crate) end: End,
    /// For an event stream, how it is sent: the parts instead of `body`, without `Content-Length`.
    pub(crate) parts: Option<Vec<Part>>,
    /// Whether `body` is an event stream, each event of which is sent on its own.
    pub(crate) is_stream: bool,
    /// Whether a stream falls silent after its last event, and does not end.
    pub(crate) stalls: bool,
}

pub(crate) const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
pub(crate) const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

impl Answer {
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            error: None,
            header_edits: Vec::new(),
            end: End::Whole,
            parts: None,
            is_stream: false,
            stalls: false,
        }
    }

    pub(crate) fn of_type(
        status: StatusCode,
        content_type: HeaderValue,
        body: impl Into<Bytes>,
    ) -> Self {
        let mut answer = Self {
            body: body.into(),
            ..Self::empty(status)
        };
        answer.headers.insert(header::CONTENT_TYPE, content_type);
        answer
    }

    pub(crate) fn json(status: StatusCode, body: &Value) -> Self {
        Self::of_type(status, JSON, body.to_string())
    }

    /// An event stream.
    pub(crate) fn stream(body: impl Into<Bytes>) -> Self {
        Self {
            is_stream: true,
            ..Self::of_type(StatusCode::OK, EVENT_STREAM, body)
        }
        .with_header(header::CACHE_CONTROL, "no-cache")
    }

    pub(crate) fn api_error(status: StatusCode, code: i64, message: &str, log_id: &str) -> Self {
        Self::json(status, &shape_c(code, message, log_id)).with_error(&code.to_string())
    }

    pub(crate) fn with_error(mut self, error: &str) -> Self {
        self.error = Some(error.to_owned());
        self
    }

    /// Adds a header, unless its value is invalid in a header.
    pub(crate) fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Tokens and codes must not be kept by caches (RFC 6749 section 5.1).
    pub(crate) fn uncached(self) -> Self {
        self.with_header(header::CACHE_CONTROL, "no-store")
    }
}
