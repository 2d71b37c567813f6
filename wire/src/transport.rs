//! How a request leaves this process, or does not leave it at all.

use std::{fmt, future::Future, pin::Pin, time::Duration};

use crate::{ForeignError, Secret, sanitize};

/// How long a connection may take, unless the caller says otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a whole exchange may take, from connecting to the last byte of the answer, unless the
/// caller says otherwise.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What [`Transport::send`] returns.
pub type SendFuture<'a> =
    Pin<Box<dyn Future<Output = Result<reqwest::Response, SendError>> + Send + 'a>>;

/// Takes a finished request to a server and brings its answer back.
///
/// [`reqwest::Client`] is the one for production, and what an [`Exchange`](crate::Exchange) uses by
/// itself. Implement it to call a service in the same process, without a socket: then a test's
/// paused clock stays exact.
pub trait Transport: Send + Sync + 'static {
    /// Sends the request once.
    ///
    /// # Errors
    ///
    /// [`SendError`] when no answer came. An answer of any status is not an error here.
    fn send(&self, request: reqwest::Request) -> SendFuture<'_>;
}

/// No answer came, or it broke off. Cheap to clone, free of URLs and secrets, and fit to be shown.
#[derive(Debug, Clone)]
pub struct SendError {
    kind: SendErrorKind,
    message: String,
}

/// What went wrong on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// No connection could be made: no byte of the request was sent.
    Connect,
    /// The server says that it has not processed the request: the same may be sent again.
    NotProcessed,
    /// Time ran out after a connection was made; the server may have acted.
    Timeout,
    /// The connection failed once it was made; the server may have acted.
    Interrupted,
    /// The request itself could not be built; nothing was sent.
    Request,
}

impl SendError {
    /// An error of the given kind. The message is for people: it is [sanitized](sanitize), and must hold no secret.
    pub fn new(kind: SendErrorKind, message: impl AsRef<str>) -> Self {
        Self {
            kind,
            message: sanitize(message.as_ref(), &[]),
        }
    }

    /// The same, of a request that carried these secrets: they are redacted.
    #[must_use]
    pub fn without(self, secrets: &[Secret]) -> Self {
        Self {
            message: sanitize(&self.message, secrets),
            ..self
        }
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> SendErrorKind {
        self.kind
    }

    /// Why, for people, without the name that the HTTP client has for the step that failed.
    #[must_use]
    pub fn cause(&self) -> &str {
        match self.message.split_once("): ") {
            Some((step, cause)) if step.starts_with("client error (") => cause,
            _ => &self.message,
        }
    }

    /// Classes an error of reqwest, which a request that carried these secrets has met. Its URL is left out; what its causes
    /// say is [sanitized](sanitize), for a server may have written it. The debug data of an HTTP/2 GOAWAY is left out: it may
    /// repeat a secret of another request on the connection.
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
        // reqwest's own message would quote the URL.
        let causes = std::error::Error::source(error)
            .map(|cause| ForeignError::of_request(cause, secrets).chain());
        let message = causes.unwrap_or_else(|| "the HTTP client gave no cause".to_owned());
        Self::new(kind, message)
    }
}

/// RFC 9113 section 8.7: a refused stream was not processed. The same would hold for a stream above the last id of a
/// GOAWAY, but the error does not tell that from one below it, which may have been processed.
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
