//! How a request leaves this process, or does not leave it at all.

use std::{fmt, future::Future, pin::Pin, time::Duration};

/// How long a connection may take, unless the caller says otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a whole exchange may take, from connecting to the last byte of the answer, unless the
/// caller says otherwise.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A [`reqwest::ClientBuilder`] for credentials: hardened, with [`CONNECT_TIMEOUT`] and
/// [`REQUEST_TIMEOUT`].
///
/// ```
/// let client = coze_wire::http_client_builder().build()?;
/// # Ok::<(), reqwest::Error>(())
/// ```
pub fn http_client_builder() -> reqwest::ClientBuilder {
    harden(reqwest::Client::builder())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
}

/// Makes any builder fit to carry credentials.
///
/// - No redirect is followed: a 307 would hand the body, with its code or refresh token, to
///   another host.
/// - No request is repeated by the HTTP stack: codes, refresh tokens and JWTs are single-use.
/// - No `Referer` is sent.
pub fn harden(builder: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
    builder
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
}

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

/// No answer came, or it broke off. Cheap to clone, and free of URLs and secrets.
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
    /// An error of the given kind. The message is for people and must hold no secret.
    pub fn new(kind: SendErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
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

    /// Classes an error of reqwest. Its URL is left out.
    #[must_use]
    pub fn from_reqwest(error: &reqwest::Error) -> Self {
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
        Self::new(kind, causes(error))
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

/// The causes below reqwest's own message, which would quote the URL.
fn causes(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    if text.is_empty() {
        text.push_str("the HTTP client gave no cause");
    }
    text
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
