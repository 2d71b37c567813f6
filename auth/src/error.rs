//! What can go wrong, and what to do about it.
//!
//! Callers branch on [`Error::kind`] and [`Error::code`], never on text. Nothing in here ever holds
//! a secret: text that comes from a server is cut to a sane length, stripped of control characters,
//! and searched for the secrets that the request carried.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use coze_wire::{Secret, SendError, SendErrorKind};
use http::StatusCode;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a sign-in flow: what happened, in which flow, at which endpoint, what Coze said about
/// it, and what to do.
///
/// ```
/// use coze_auth::{Endpoint, ErrorKind};
///
/// let error = Endpoint::custom("http://api.example.com").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidInput);
/// println!("{error}\nhint: {}", error.hint());
/// ```
#[derive(Clone)]
pub struct Error(Arc<Details>);

#[derive(Clone)]
struct Details {
    kind: ErrorKind,
    /// A sentence without its full stop, free of secrets.
    what: String,
    flow: Option<Flow>,
    endpoint: Option<String>,
    status: Option<StatusCode>,
    code: Option<ErrorCode>,
    message: Option<String>,
    log_id: Option<String>,
    retry_after: Option<Duration>,
    /// By how many seconds the local clock differs from the server's, if it does.
    wall_correction: Option<i64>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// One of Coze's ways to a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Flow {
    /// A fixed personal or service access token.
    Token,
    /// Authorization code, with a client secret.
    Web,
    /// Authorization code with PKCE, without a secret.
    Pkce,
    /// Device authorization.
    Device,
    /// A signed JWT.
    Jwt,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "token",
            Self::Web => "web",
            Self::Pkce => "pkce",
            Self::Device => "device",
            Self::Jwt => "jwt",
        })
    }
}

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A value that the caller gave can't be used. Nothing was sent.
    InvalidInput,
    /// The configuration file or the environment is incomplete or contradictory. Nothing was sent.
    Configuration,
    /// The private key can't be used. Nothing was sent.
    PrivateKey,
    /// The signer failed. Nothing was sent.
    Signing,
    /// The system lacks something: random bytes, or a tokio runtime. Nothing was sent.
    System,
    /// The provider was shut down, and has no valid token any more.
    ShutDown,
    /// A [`TokenProvider`](crate::TokenProvider) of somebody else's failed: see the source.
    Provider,
    /// The browser came back without the state that this login began with, or with another one:
    /// this answer belongs to somebody else's login.
    StateMismatch,
    /// The browser came back with something that is neither a code nor a refusal.
    InvalidCallback,
    /// Coze, or the person in front of it, said no: see [`Error::code`].
    Refused,
    /// The device code grew too old before the person decided.
    DeviceCodeExpired,
    /// No connection could be made: nothing was sent.
    Connect,
    /// Time ran out before an answer came; Coze may have acted on the request.
    Timeout,
    /// The connection broke before an answer was complete; Coze may have acted on the request.
    Interrupted,
    /// The server pointed to another address, which is never followed with credentials.
    Redirected,
    /// An answer came that is not one of Coze's: HTML, nothing, cut short, too long, or without a
    /// token.
    InvalidAnswer,
    /// Nobody has signed in, or the sign-in was removed: a person must sign in. Nothing was sent.
    NotSignedIn,
    /// The store of sign-ins can't be read or written: the message says why, and what to do.
    Store,
    /// Another owner has the lease on the sign-in, and does not give it back; or the sign-in has changed meanwhile.
    StoreBusy,
    /// What the store holds can't be understood. It stays where it is; a fresh sign-in sets it aside.
    StoreDamaged,
    /// Others than its owner could read or replace what the store holds: it is not used.
    StoreExposed,
}

/// Coze's word for an error, or the number that API calls and gateways use instead.
///
/// Sources: Coze's pages `oauth_code`, `oauth_device_code`, `oauth_jwt` under
/// <https://www.coze.cn/open/docs/developer_guides/authentication>; RFC 6749 section 5.2; RFC 8628
/// section 3.5.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// `authorization_pending`: the person has not decided yet.
    AuthorizationPending,
    /// `slow_down`: polled too fast.
    SlowDown,
    /// `access_denied`: the person refused.
    AccessDenied,
    /// `expired_token`: the device code is too old.
    ExpiredToken,
    /// `invalid_request`: a parameter is wrong.
    InvalidRequest,
    /// `invalid_client`: the client secret or the JWT is not valid.
    InvalidClient,
    /// `invalid_grant`: the code or refresh token is invalid, used, or too old.
    InvalidGrant,
    /// `unsupported_grant_type`.
    UnsupportedGrantType,
    /// `access_deny`: the app is deactivated or of another type, or the login is not valid.
    AccessDeny,
    /// `internal_error`: Coze failed.
    InternalError,
    /// A number from an API call or a gateway, such as 4100 (authentication invalid).
    Api(i64),
    /// A word that this version does not know.
    Other(String),
}

impl ErrorCode {
    const WORDS: [(&'static str, Self); 10] = [
        ("authorization_pending", Self::AuthorizationPending),
        ("slow_down", Self::SlowDown),
        ("access_denied", Self::AccessDenied),
        ("expired_token", Self::ExpiredToken),
        ("invalid_request", Self::InvalidRequest),
        ("invalid_client", Self::InvalidClient),
        ("invalid_grant", Self::InvalidGrant),
        ("unsupported_grant_type", Self::UnsupportedGrantType),
        ("access_deny", Self::AccessDeny),
        ("internal_error", Self::InternalError),
    ];

    pub(crate) fn from_word(word: &str) -> Self {
        Self::WORDS
            .into_iter()
            .find_map(|(known, code)| (known == word).then_some(code))
            .unwrap_or_else(|| Self::Other(word.to_owned()))
    }

    /// The word or number as Coze writes it.
    #[must_use]
    pub fn as_str(&self) -> Cow<'_, str> {
        match self {
            Self::Api(number) => Cow::Owned(number.to_string()),
            Self::Other(word) => Cow::Borrowed(word),
            known => Self::WORDS
                .into_iter()
                .find_map(|(word, code)| (code == *known).then_some(word))
                .unwrap_or_default()
                .into(),
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.as_str())
    }
}

/// The API code for "authentication invalid".
const AUTHENTICATION_INVALID: i64 = 4100;
/// The API code for "no permission for this resource".
const NO_PERMISSION: i64 = 4101;
/// The API code for "too many requests".
const RATE_LIMIT: i64 = 4013;
/// The API code for "access token invalid": expired or revoked.
const ACCESS_TOKEN_INVALID: i64 = 700_012_006;

impl Error {
    /// An error of a [`TokenProvider`](crate::TokenProvider) of one's own. Neither the text nor the source may hold
    /// a secret.
    ///
    /// ```
    /// use coze_auth::{Error, ErrorKind};
    ///
    /// let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
    /// let error = Error::of_provider("the mounted token can't be read", missing);
    /// assert_eq!(error.kind(), ErrorKind::Provider);
    /// ```
    pub fn of_provider(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::new(ErrorKind::Provider, what).with_source(source)
    }

    /// What kind of thing went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The flow in which it happened.
    #[must_use]
    pub fn flow(&self) -> Option<Flow> {
        self.0.flow
    }

    /// The URL that was asked, when a request was made. It holds ids, never secrets.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.0.endpoint.as_deref()
    }

    /// The HTTP status, when an answer came.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        self.0.status
    }

    /// Coze's word for it, when Coze said one.
    #[must_use]
    pub fn code(&self) -> Option<&ErrorCode> {
        self.0.code.as_ref()
    }

    /// Coze's message, when Coze sent one.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.0.message.as_deref()
    }

    /// Coze's log id (`x-tt-logid`), to quote to Coze's support.
    #[must_use]
    pub fn log_id(&self) -> Option<&str> {
        self.0.log_id.as_deref()
    }

    /// How long to wait before the next try: what the server asked for in its `Retry-After` header (RFC 9110
    /// section 10.2.3; a day at most), or what is left of a provider's own pause after a failure. It does not
    /// say that a next try can help: see [`is_retryable`](Self::is_retryable).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the cause may pass by itself: no connection, a time-out, a broken connection, HTTP 408, 429
    /// or 5xx, `internal_error`, or the API's rate limit (4013).
    ///
    /// It says nothing about whether the *same* request may be sent again. Codes are single-use, so
    /// an exchange that was interrupted may have spent its code; a device poll or a JWT exchange may
    /// simply be called again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        use ErrorKind::{Connect, Interrupted, InvalidAnswer, Refused, Timeout};
        match self.0.kind {
            Connect | Timeout | Interrupted => true,
            Refused | InvalidAnswer => {
                let by_status = self.0.status.is_some_and(|status| {
                    status.is_server_error()
                        || status == StatusCode::TOO_MANY_REQUESTS
                        || status == StatusCode::REQUEST_TIMEOUT
                });
                match &self.0.code {
                    Some(ErrorCode::InternalError | ErrorCode::Api(RATE_LIMIT)) => true,
                    // A word of OAuth's is a decision, whatever status a gateway put around it.
                    Some(ErrorCode::Api(_) | ErrorCode::Other(_)) | None => by_status,
                    Some(_) => false,
                }
            }
            _ => false,
        }
    }

    /// Whether the API refused the access token itself: HTTP 401, code 4100 or 700012006. Then
    /// [`invalidate`](crate::TokenProvider::invalidate) it and try once more.
    #[must_use]
    pub fn is_token_refused(&self) -> bool {
        match self.0.code {
            Some(ErrorCode::Api(AUTHENTICATION_INVALID | ACCESS_TOKEN_INVALID)) => true,
            Some(ErrorCode::Api(NO_PERMISSION)) => false,
            _ => self.0.status == Some(StatusCode::UNAUTHORIZED),
        }
    }

    /// Whether only a person can help, by signing in again: nobody is signed in, or the refresh token is invalid, used
    /// or too old.
    #[must_use]
    pub fn needs_sign_in(&self) -> bool {
        self.0.kind == ErrorKind::NotSignedIn || self.0.code == Some(ErrorCode::InvalidGrant)
    }

    /// What to do about it, for the person who reads the message.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match (&self.0.kind, &self.0.code, self.0.flow) {
            (_, Some(code), flow) => hint_for_code(code, self.0.message.as_deref(), flow),
            (ErrorKind::InvalidInput, ..) => "correct the value and try again",
            (ErrorKind::Configuration, ..) => {
                "complete the configuration; the console offers it as coze_oauth_config.json"
            }
            (ErrorKind::PrivateKey, ..) => {
                "use the RSA key that the Coze console offered as private_key.pem (BEGIN PRIVATE KEY), or make a new key pair there"
            }
            (ErrorKind::Signing, ..) => {
                "check the signer: the key service, its key and permissions"
            }
            (ErrorKind::System, ..) => {
                "check the system, and that this runs inside a tokio runtime"
            }
            (ErrorKind::ShutDown, ..) => "make a new provider",
            (ErrorKind::Provider, ..) => "see the provider's own error",
            (ErrorKind::StateMismatch, ..) => {
                "start the login again in this browser; if it happens often, check that sessions survive between the two requests"
            }
            (ErrorKind::InvalidCallback, ..) => {
                "pass the callback's whole query (code and state, once each)"
            }
            (ErrorKind::DeviceCodeExpired, ..) => "start again, and approve within the time shown",
            (ErrorKind::Connect, ..) => {
                "check the network, the proxy and the base URL, then try again"
            }
            (ErrorKind::Timeout | ErrorKind::Interrupted, ..) => {
                "try again; a code or refresh token that was in the request may be spent"
            }
            (ErrorKind::Redirected, ..) => {
                "check the API base URL: Coze's endpoints do not redirect"
            }
            (ErrorKind::InvalidAnswer, ..) if self.is_retryable() => "try again later",
            (ErrorKind::InvalidAnswer, ..) => {
                "check the API base URL and what stands between (proxy, gateway); quote the log id to Coze's support"
            }
            (ErrorKind::NotSignedIn, ..) => "sign in",
            (ErrorKind::Store, ..) => {
                "make the store work again (disk space, permissions, connection); a token that is in memory is not lost meanwhile"
            }
            (ErrorKind::StoreBusy, ..) => "wait for the other owner, or end it if it is stuck",
            (ErrorKind::StoreDamaged, ..) => {
                "restore or update what the message names, or sign in again: what is there will be set aside"
            }
            (ErrorKind::StoreExposed, ..) => {
                "do as the message says, or keep the sign-in elsewhere"
            }
            (ErrorKind::Refused, ..) if self.is_retryable() => "try again later",
            (ErrorKind::Refused, ..) => "see the message; quote the log id to Coze's support",
        }
    }
}

fn hint_for_code(code: &ErrorCode, message: Option<&str>, flow: Option<Flow>) -> &'static str {
    if message.is_some_and(|m| m.contains("connector app should bind connector id")) {
        return "bind the channel app to its channel in the Coze console";
    }
    match code {
        ErrorCode::AuthorizationPending => "keep polling until the person has decided",
        ErrorCode::SlowDown => "poll more slowly: add 5 seconds to the interval",
        ErrorCode::AccessDenied => "the person refused; start again if that was a mistake",
        ErrorCode::ExpiredToken => "the device code is too old; start again",
        ErrorCode::InvalidRequest => "check the parameter that the message names",
        ErrorCode::InvalidClient => match flow {
            Some(Flow::Jwt) => {
                "check the client id, the private key, its key id (public key fingerprint), the audience, and this machine's clock"
            }
            Some(Flow::Web) => "check the client id and the client secret",
            _ => "check the client id, and that the app is of this flow's type",
        },
        ErrorCode::InvalidGrant => {
            "the code or refresh token is invalid, used or too old; sign in again"
        }
        ErrorCode::UnsupportedGrantType => "the app does not allow this flow; check its type",
        ErrorCode::AccessDeny => {
            "enable the app in the Coze console, use an app of the right type, or sign in again, as the message says"
        }
        ErrorCode::InternalError => "Coze failed; try again later",
        ErrorCode::Api(AUTHENTICATION_INVALID | ACCESS_TOKEN_INVALID) => {
            "the access token is missing, expired or revoked; get a new one"
        }
        ErrorCode::Api(NO_PERMISSION) => {
            "the token lacks a permission for this resource; grant it to the app or the token"
        }
        ErrorCode::Api(RATE_LIMIT) => "too many requests; wait, then try again",
        ErrorCode::Api(_) | ErrorCode::Other(_) => {
            "see the message; quote the log id to Coze's support"
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details {
            what,
            flow,
            endpoint,
            status,
            code,
            message,
            log_id,
            ..
        } = &*self.0;
        if let Some(flow) = flow {
            write!(f, "{flow}: ")?;
        }
        f.write_str(what)?;
        if let Some(code) = code {
            write!(f, ": {code}")?;
        }
        if let Some(message) = message {
            write!(f, ": {message}")?;
        }
        let mut notes = Vec::new();
        if let Some(status) = status {
            notes.push(format!("HTTP {}", status.as_u16()));
        }
        if let Some(endpoint) = endpoint {
            notes.push(endpoint.clone());
        }
        if let Some(log_id) = log_id {
            notes.push(format!("log id {log_id}"));
        }
        if !notes.is_empty() {
            write!(f, " ({})", notes.join(", "))?;
        }
        write!(f, "; {}", self.hint())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("what", &self.0.what)
            .field("flow", &self.0.flow)
            .field("endpoint", &self.0.endpoint)
            .field("status", &self.0.status)
            .field("code", &self.0.code)
            .field("message", &self.0.message)
            .field("log_id", &self.0.log_id)
            .field("retry_after", &self.0.retry_after)
            .field("source", &self.0.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

// How the rest of the crate makes errors.
impl Error {
    pub(crate) fn what(&self) -> &str {
        &self.0.what
    }

    pub(crate) fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self(Arc::new(Details {
            kind,
            what: what.into(),
            flow: None,
            endpoint: None,
            status: None,
            code: None,
            message: None,
            log_id: None,
            retry_after: None,
            wall_correction: None,
            source: None,
        }))
    }

    pub(crate) fn invalid_input(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, what)
    }

    /// An error of the transport, which becomes the source.
    pub(crate) fn unanswered(error: SendError) -> Self {
        let (kind, what) = match error.kind() {
            SendErrorKind::Connect => (ErrorKind::Connect, "no connection to the server"),
            SendErrorKind::Timeout => (ErrorKind::Timeout, "no answer in time"),
            SendErrorKind::Request => (ErrorKind::InvalidInput, "the request could not be built"),
            _ => (ErrorKind::Interrupted, "the connection broke off"),
        };
        Self::new(kind, what).with_source(error)
    }

    fn with(mut self, change: impl FnOnce(&mut Details)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// What others than the one to whom it happened may hear of it: that it did, but no URL, text or log id of a
    /// request that was not theirs.
    pub(crate) fn for_others(&self, what: impl Into<String>) -> Self {
        Self::new(self.kind(), what).with(|d| {
            d.status = self.0.status;
            d.code.clone_from(&self.0.code);
        })
    }

    pub(crate) fn in_flow(self, flow: Flow) -> Self {
        self.with(|d| d.flow = Some(flow))
    }

    pub(crate) fn at_endpoint(self, endpoint: String) -> Self {
        self.with(|d| d.endpoint = Some(endpoint))
    }

    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        self.with(|d| d.status = Some(status))
    }

    pub(crate) fn with_code(self, code: ErrorCode) -> Self {
        self.with(|d| d.code = Some(code))
    }

    pub(crate) fn with_message(self, message: Option<String>) -> Self {
        self.with(|d| d.message = message)
    }

    pub(crate) fn with_log_id(self, log_id: Option<String>) -> Self {
        self.with(|d| d.log_id = log_id)
    }

    pub(crate) fn with_retry_after(self, retry_after: Option<Duration>) -> Self {
        self.with(|d| d.retry_after = retry_after)
    }

    pub(crate) fn with_wall_correction(self, wall_correction: Option<i64>) -> Self {
        self.with(|d| d.wall_correction = wall_correction)
    }

    pub(crate) fn wall_correction(&self) -> Option<i64> {
        self.0.wall_correction
    }

    pub(crate) fn with_source(
        self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let source = Arc::from(source.into());
        self.with(|d| d.source = Some(source))
    }
}

/// The most characters of a foreign text that get into an error.
const FOREIGN_TEXT_LIMIT: usize = 300;

/// Makes a text that somebody else wrote fit to be shown: on one line, of a sane length, and without
/// any of these secrets.
pub(crate) fn presentable(text: &str, secrets: &[Secret]) -> String {
    let mut shown = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        shown = shown.replace(secret.expose(), "****");
    }
    let one_line: String = shown
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let trimmed = one_line.trim();
    match trimmed.char_indices().nth(FOREIGN_TEXT_LIMIT) {
        None => trimmed.to_owned(),
        Some((end, _)) => format!("{}…", &trimmed[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_plain<T: Clone + Send + Sync + std::error::Error + 'static>() {}

    #[test]
    fn an_error_can_be_cloned_sent_and_shared() {
        assert_plain::<Error>();
    }

    #[test]
    fn every_documented_word_is_known_and_written_back() {
        for (word, code) in ErrorCode::WORDS {
            assert_eq!(ErrorCode::from_word(word), code);
            assert_eq!(code.as_str(), word);
        }
        assert_eq!(
            ErrorCode::from_word("new_word"),
            ErrorCode::Other("new_word".to_owned())
        );
        assert_eq!(ErrorCode::Api(4100).to_string(), "4100");
    }

    #[test]
    fn a_word_of_oauth_is_final_even_inside_a_server_error() {
        let refused = |status: u16, code: Option<ErrorCode>| {
            let error = Error::new(ErrorKind::Refused, "refused")
                .with_status(StatusCode::from_u16(status).unwrap());
            match code {
                Some(code) => error.with_code(code),
                None => error,
            }
            .is_retryable()
        };
        assert!(!refused(500, Some(ErrorCode::InvalidGrant)));
        assert!(refused(200, Some(ErrorCode::InternalError)));
        assert!(refused(502, None));
        assert!(refused(429, Some(ErrorCode::Api(1))));
        assert!(refused(200, Some(ErrorCode::Api(RATE_LIMIT))));
        assert!(!refused(401, Some(ErrorCode::Api(AUTHENTICATION_INVALID))));
        assert!(!refused(400, None));
    }

    #[test]
    fn foreign_text_is_shown_short_on_one_line_and_without_secrets() {
        let secrets = [Secret::from("hush"), Secret::from("")];
        assert_eq!(
            presentable("bad\r\ncode hush!\u{1b}[31m", &secrets),
            "bad  code ****! [31m"
        );
        let long = presentable(&"é".repeat(1000), &[]);
        assert_eq!(long.chars().count(), FOREIGN_TEXT_LIMIT + 1);
    }

    #[test]
    fn the_text_tells_flow_code_message_status_endpoint_log_id_and_hint() {
        let error = Error::new(ErrorKind::Refused, "the token request was refused")
            .in_flow(Flow::Web)
            .with_code(ErrorCode::InvalidClient)
            .with_message(Some("bad secret".to_owned()))
            .with_status(StatusCode::UNAUTHORIZED)
            .at_endpoint("https://api.coze.com/api/permission/oauth2/token".to_owned())
            .with_log_id(Some("2026".to_owned()));
        assert_eq!(
            error.to_string(),
            "web: the token request was refused: invalid_client: bad secret (HTTP 401, \
             https://api.coze.com/api/permission/oauth2/token, log id 2026); \
             check the client id and the client secret"
        );
    }
}
