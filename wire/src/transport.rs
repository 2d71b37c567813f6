//! How a request is sent: over the network, or to a service in the same process.

use std::{fmt, future::Future, pin::Pin, time::Duration};

use crate::{ForeignError, Secret, sanitize};

/// The default timeout for establishing a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The default timeout of a whole request, from connecting to the last byte of the response.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What [`Transport::send`] returns.
pub type SendFuture<'a> =
    Pin<Box<dyn Future<Output = Result<reqwest::Response, SendError>> + Send + 'a>>;

/// Sends a request and returns the response.
///
/// By default an [`Exchange`](crate::Exchange) sends through the generated client's [`reqwest::Client`]. Implement this
/// trait to call a service in the same process, without a socket: a test's paused clock then stays exact.
pub trait Transport: Send + Sync + 'static {
    /// Sends the request once.
    ///
    /// # Errors
    ///
    /// [`SendError`] if there is no response. A response with any status is a success here.
    fn send(&self, request: reqwest::Request) -> SendFuture<'_>;
}

/// There is no response, or it is incomplete. Cheap to clone, and safe to display: it contains no URL and no secret.
#[derive(Debug, Clone)]
pub struct SendError {
    kind: SendErrorKind,
    message: String,
}

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// No connection was established: nothing was sent.
    Connect,
    /// The server reported that it did not process the request, so it can be sent again.
    NotProcessed,
    /// The timeout elapsed after the connection was established; the server may have processed the request.
    Timeout,
    /// The established connection failed; the server may have processed the request.
    Interrupted,
    /// The request could not be built; nothing was sent.
    Request,
}

impl SendError {
    /// An error of the given kind. The message is [sanitized](sanitize); it must not contain a secret.
    pub fn new(kind: SendErrorKind, message: impl AsRef<str>) -> Self {
        Self {
            kind,
            message: sanitize(message.as_ref(), &[]),
        }
    }

    /// The same error with these secrets of the request redacted.
    #[must_use]
    pub fn without(self, secrets: &[Secret]) -> Self {
        Self {
            message: sanitize(&self.message, secrets),
            ..self
        }
    }

    /// The kind of the failure.
    #[must_use]
    pub fn kind(&self) -> SendErrorKind {
        self.kind
    }

    /// The cause, without the HTTP client's prefix that names the failed step.
    #[must_use]
    pub fn cause(&self) -> &str {
        match self.message.split_once("): ") {
            Some((step, cause)) if step.starts_with("client error (") => cause,
            _ => &self.message,
        }
    }

    /// Converts an error of reqwest. `secrets` are those of the request. The URL is omitted. The texts of the causes are
    /// [sanitized](sanitize), because they may contain text from the server. The debug data of an HTTP/2 GOAWAY is omitted,
    /// because it may repeat a secret of another request on the connection.
    #[must_use]
    pub fn from_reqwest(error: &reqwest::Error, secrets: &[Secret]) -> Self {
        let kind = if error.is_builder() {
            SendErrorKind::Request
        } else if error.is_connect() {
            SendErrorKind::Connect
        } else if is_refused_stream(error) {
            SendErrorKind::NotProcessed
        } else if error.is_timeout() {
            SendErrorKind::Timeout
        } else {
            SendErrorKind::Interrupted
        };
        // reqwest's own message contains the URL.
        let causes = std::error::Error::source(error)
            .map(|cause| ForeignError::of_request(cause, secrets).chain());
        let message = causes.unwrap_or_else(|| "the HTTP client gave no cause".to_owned());
        Self::new(kind, message)
    }
}

/// RFC 9113 section 8.7: a refused stream was not processed. Neither is a stream with an id above the last one of a GOAWAY,
/// but h2's error does not distinguish it from a stream below that id, which may have been processed.
#[cfg(feature = "http2")]
fn is_refused_stream(error: &reqwest::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            return h2.is_reset()
                && h2.is_remote()
                && h2.reason() == Some(h2::Reason::REFUSED_STREAM);
        }
        source = cause.source();
    }
    false
}

/// Every client speaks HTTP/1.1.
#[cfg(not(feature = "http2"))]
fn is_refused_stream(_: &reqwest::Error) -> bool {
    false
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            SendErrorKind::Connect => "no connection",
            SendErrorKind::NotProcessed => "not processed",
            SendErrorKind::Timeout => "time-out",
            SendErrorKind::Interrupted => "connection broke off",
            SendErrorKind::Request => "request could not be built",
        };
        write!(f, "{what} ({})", self.message)
    }
}

impl std::error::Error for SendError {}
