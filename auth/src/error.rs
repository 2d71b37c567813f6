//! [`Error`]: what went wrong, and what to do about it.
//!
//! Callers branch on [`Error::kind`] and [`Error::code`], never on text. No error shows a secret or an invisible
//! character: every text from outside passes [`coze_wire::sanitize`], and an error of another library becomes a
//! [`ForeignError`].

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc, time::Duration};

use coze_wire::{
    ACCESS_TOKEN_INVALID, AUTHENTICATION_INVALID, ForeignError, HttpClientError, NO_PERMISSION,
    RATE_LIMIT, SendError, SendErrorKind, refuses_token, sanitize, sanitize_sentence,
};
use http::StatusCode;

pub(crate) mod store;

use store::{StoreError, StoreErrorKind};

use crate::RefreshToken;

/// The result of the fallible functions of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error: what happened, in which flow, at which endpoint, and Coze's response. `Display` says what happened and
/// why, once; [`hint`](Self::hint) says what to do about it. `Debug`, which `main` prints, includes both.
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
    /// A sentence without its full stop and without secrets.
    what: String,
    flow: Option<Flow>,
    endpoint: Option<String>,
    status: Option<StatusCode>,
    code: Option<ErrorCode>,
    message: Option<String>,
    /// The meaning of the message, determined before the message was redacted.
    meaning: Meaning,
    /// The refused token had been issued immediately before.
    is_renewed: bool,
    log_id: Option<String>,
    retry_after: Option<Duration>,
    refresh_token: Option<RefreshToken>,
    /// The correction of the local clock in seconds, if it is wrong.
    wall_correction: Option<i64>,
    /// Your own code has marked the error as retryable.
    is_transient: bool,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// The ways to get a token from Coze.
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

impl Flow {
    pub(crate) const ALL: [Self; 5] = [Self::Token, Self::Web, Self::Pkce, Self::Device, Self::Jwt];

    fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Web => "web",
            Self::Pkce => "pkce",
            Self::Device => "device",
            Self::Jwt => "jwt",
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Parses the name that `Display` prints, ignoring case.
///
/// ```
/// use coze_auth::Flow;
///
/// assert_eq!("PKCE".parse::<Flow>()?, Flow::Pkce);
/// # Ok::<(), coze_auth::Error>(())
/// ```
impl FromStr for Flow {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let mut flows = Self::ALL.into_iter();
        let known = flows.find(|flow| flow.name().eq_ignore_ascii_case(text));
        known.ok_or_else(|| {
            Error::invalid_input("unknown flow; it is token, web, pkce, device or jwt")
        })
    }
}

/// The kind of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A value from the caller can't be used. Nothing was sent.
    InvalidInput,
    /// The configuration file or the environment is incomplete or contradictory, or the private key can't be used. Nothing
    /// was sent.
    Configuration,
    /// The signer failed. Nothing was sent.
    Signing,
    /// The system lacks something: random bytes, CA certificates or a tokio runtime. Nothing was sent.
    System,
    /// The provider was shut down and has no valid token.
    ShutDown,
    /// Your own [`TokenProvider`](crate::TokenProvider) failed: see the source.
    Provider,
    /// The callback has no `state`, or not that of this login: it belongs to another login, or is forged (CSRF).
    StateMismatch,
    /// The callback has neither a code nor an error.
    InvalidCallback,
    /// Coze or the user refused: see [`Error::code`].
    Refused,
    /// The device code expired before the user decided.
    DeviceCodeExpired,
    /// The connection could not be established, or the server did not process the request (HTTP/2 `REFUSED_STREAM`, RFC
    /// 9113 section 8.7): Coze has not acted on it.
    Connect,
    /// No response before the timeout; Coze may have processed the request.
    Timeout,
    /// The connection was closed before the response was complete; Coze may have processed the request.
    Interrupted,
    /// The response is not one of Coze's: not JSON, empty, truncated, too long, without a token, or with a member of
    /// another type than documented. Or the server sent a redirect, which is never followed with credentials: then the
    /// [status](Error::status) is a redirection.
    InvalidAnswer,
    /// The request succeeded, but the access token in the response can't be used. Its refresh token, if there is one,
    /// is kept: in the store, or in [`Error::refresh_token`].
    UnusableToken,
    /// No user is signed in, the sign-in has ended, or no credentials were found anywhere: the user must sign in. Nothing
    /// was sent.
    NotSignedIn,
    /// The store failed, or its contents can't be used: see the message.
    Store(StoreErrorKind),
}

/// A short name, for a log line or a metric. The [`Error`] says what happened and what to do.
impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::InvalidInput => "invalid input",
            Self::Configuration => "configuration",
            Self::Signing => "signing",
            Self::System => "system",
            Self::ShutDown => "shut down",
            Self::Provider => "provider",
            Self::StateMismatch => "state mismatch",
            Self::InvalidCallback => "invalid callback",
            Self::Refused => "refused",
            Self::DeviceCodeExpired => "device code expired",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Interrupted => "interrupted",
            Self::InvalidAnswer => "invalid answer",
            Self::UnusableToken => "unusable token",
            Self::NotSignedIn => "not signed in",
            Self::Store(StoreErrorKind::Transient) => "store: transient",
            Self::Store(StoreErrorKind::Busy) => "store: busy",
            Self::Store(StoreErrorKind::NotPermitted) => "store: not permitted",
            Self::Store(StoreErrorKind::Full) => "store: full",
            Self::Store(StoreErrorKind::Damaged) => "store: damaged",
            Self::Store(StoreErrorKind::Other) => "store",
        })
    }
}

/// Coze's error code: a word, or the number that API calls and gateways return.
///
/// Sources: Coze's pages `oauth_code`, `oauth_device_code`, `oauth_jwt` under
/// <https://www.coze.cn/open/docs/developer_guides/authentication>; RFC 6749 section 5.2; RFC 8628
/// section 3.5.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// `authorization_pending`: the user has not decided yet.
    AuthorizationPending,
    /// `slow_down`: the device flow polls too fast.
    SlowDown,
    /// `access_denied`: the user refused.
    AccessDenied,
    /// `expired_token`: the device code has expired.
    ExpiredToken,
    /// `invalid_request`: a parameter is wrong.
    InvalidRequest,
    /// `invalid_client`: the client secret or the JWT is not valid.
    InvalidClient,
    /// `invalid_grant`: the code or refresh token is invalid, redeemed or expired.
    InvalidGrant,
    /// `unsupported_grant_type`.
    UnsupportedGrantType,
    /// `access_deny`: the app is deactivated or of another type, or the login session is invalid.
    AccessDeny,
    /// `internal_error`: an internal error of Coze's.
    InternalError,
    /// A number from an API call or a gateway, such as 4100 (authentication invalid).
    Api(i64),
    /// A word that this version of the crate does not know.
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
        Self::known(word).unwrap_or_else(|| Self::Other(sanitize(word, &[])))
    }

    pub(crate) fn known(word: &str) -> Option<Self> {
        let mut words = Self::WORDS.into_iter();
        words.find_map(|(known, code)| (known == word).then_some(code))
    }

    /// The word or number as Coze writes it.
    fn as_str(&self) -> Cow<'_, str> {
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

/// The meaning of Coze's message, where it is more specific than the code. Messages are interpreted only here, from the
/// raw text; callers branch on [`Error::code`] and on methods of [`Error`].
///
/// The texts are from the documentation (`oauth_jwt`, `troubleshooting_4100_4101` under
/// <https://www.coze.cn/open/docs/developer_guides/authentication>) and from public issues: coze-py 123, 148, 230;
/// coze-go 43; coze-js 212, 313, 314.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Meaning {
    /// Not more specific than the code.
    #[default]
    Nothing,
    /// The access token is wrong. The code alone could also mean a missing permission.
    WrongToken,
    /// The user's login session has ended.
    LoginInvalid,
    /// The app is of another type.
    AppType,
    /// The app was deactivated by its owner.
    Deactivated,
    /// The channel app is not bound to a channel.
    Unbound,
    /// The key id is unknown: `invalid jwt: kid not been registred`.
    UnknownKey,
    /// The audience is wrong.
    Audience,
    /// `iat` or `exp` of the JWT is wrong.
    JwtTimes,
    /// The `jti` of the JWT was used before.
    JwtId,
    /// The request had no JWT.
    NoJwt,
    /// The client secret is missing or wrong.
    ClientSecret,
    /// Not from a message: the members of a success are not as documented.
    NotAsDescribed,
    /// Not a message: the private key of the configuration can't be used.
    PrivateKey,
}

impl Meaning {
    /// Interprets a message and its code.
    pub(crate) fn of(code: Option<&ErrorCode>, message: &str) -> Self {
        let message = message.to_lowercase();
        let says = |text: &str| message.contains(text);
        let names = |words: &[&str]| {
            let mut all = message.split(|c: char| !c.is_alphanumeric() && c != '_');
            all.any(|word| words.contains(&word))
        };
        if says("connector app should bind connector id") {
            return Self::Unbound;
        }
        match code {
            Some(ErrorCode::Api(NO_PERMISSION)) if refuses_token(NO_PERMISSION, &message) => {
                Self::WrongToken
            }
            Some(ErrorCode::AccessDeny) if says("login session invalid") => Self::LoginInvalid,
            Some(ErrorCode::AccessDeny) if says("app type") => Self::AppType,
            Some(ErrorCode::AccessDeny) if says("deactivated") => Self::Deactivated,
            Some(ErrorCode::InvalidClient) if says("jwt empty") => Self::NoJwt,
            Some(ErrorCode::InvalidClient) if names(&["kid"]) => Self::UnknownKey,
            Some(ErrorCode::InvalidClient) if names(&["aud", "audience"]) => Self::Audience,
            Some(ErrorCode::InvalidClient) if names(&["iat", "exp", "nbf", "expired"]) => {
                Self::JwtTimes
            }
            Some(ErrorCode::InvalidClient) if names(&["jti"]) => Self::JwtId,
            Some(ErrorCode::InvalidRequest | ErrorCode::InvalidClient)
                if names(&["client_secret"]) =>
            {
                Self::ClientSecret
            }
            _ => Self::Nothing,
        }
    }
}

/// The API code for a bot, or another resource, that does not exist or is not published.
const NOT_FOUND: i64 = 4200;
/// The API code for a conversation that already runs a chat.
const CONVERSATION_BUSY: i64 = 4016;

impl Error {
    /// An error of your own [`TokenProvider`](crate::TokenProvider). Neither the text nor the source may contain a
    /// secret. A source that is not an [`Error`] is wrapped in a [`ForeignError`].
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

    /// Marks an error as retryable: an error of your own [provider](Self::of_provider), exchange or
    /// [signer](crate::Signer) is then retried within the deadline.
    ///
    /// ```
    /// use coze_auth::Error;
    ///
    /// let busy = std::io::Error::from(std::io::ErrorKind::ResourceBusy);
    /// let error = Error::of_provider("the gateway is busy", busy).transient();
    /// assert!(error.is_retryable());
    /// ```
    #[must_use]
    pub fn transient(self) -> Self {
        self.with(|d| d.is_transient = true)
    }

    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The flow in which it happened.
    #[must_use]
    pub fn flow(&self) -> Option<Flow> {
        self.0.flow
    }

    /// The URL of the request, if one was sent. It contains ids, never secrets.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.0.endpoint.as_deref()
    }

    /// The HTTP status, if there was a response.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        self.0.status
    }

    /// Coze's error code, if the response has one.
    #[must_use]
    pub fn code(&self) -> Option<&ErrorCode> {
        self.0.code.as_ref()
    }

    /// Coze's message, if the response has one.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.0.message.as_deref()
    }

    /// Coze's log id (`x-tt-logid`); quote it to Coze's support.
    #[must_use]
    pub fn log_id(&self) -> Option<&str> {
        self.0.log_id.as_deref()
    }

    /// The refresh token of a response that was otherwise unusable: its access token is
    /// [unusable](ErrorKind::UnusableToken), or the response was [truncated](ErrorKind::Interrupted) after the refresh
    /// token. This is the only copy: store it with [`SignIn::put_refresh_token`](crate::SignIn::put_refresh_token), or
    /// redeem it. A provider with a stored sign-in has stored it already.
    #[must_use]
    pub fn refresh_token(&self) -> Option<&RefreshToken> {
        self.0.refresh_token.as_ref()
    }

    /// The delay before the next attempt: the server's `Retry-After` (RFC 9110 section 10.2.3; at most a day), or the
    /// remaining backoff of a provider. It does not mean that another attempt can succeed: see
    /// [`is_retryable`](Self::is_retryable).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the cause may be temporary: no connection, a timeout, a closed connection, HTTP 408, 429 or 5xx,
    /// `internal_error`, the API's rate limit (4013), or an error that you have marked as [transient](Self::transient).
    ///
    /// This does not mean that the *same* request may be sent again. Codes are single-use, so an interrupted exchange
    /// may have redeemed its code. A device poll or a JWT exchange can be repeated.
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
                    // An OAuth error code is final, whatever the status of a gateway.
                    Some(ErrorCode::Api(_) | ErrorCode::Other(_)) | None => by_status,
                    Some(_) => false,
                }
            }
            _ => self.0.is_transient,
        }
    }

    /// Whether the API refused the access token: HTTP 401, code 4100 or 700012006, or 4101 with a message about the
    /// token (`POST /v3/chat` returns it with HTTP 200). If so, [`invalidate`](crate::TokenProvider::invalidate) the
    /// token and retry once.
    ///
    /// Source: <https://www.coze.cn/open/docs/developer_guides/troubleshooting_4100_4101>.
    #[must_use]
    pub fn is_token_refused(&self) -> bool {
        match self.0.code {
            Some(ErrorCode::Api(AUTHENTICATION_INVALID | ACCESS_TOKEN_INVALID)) => true,
            Some(ErrorCode::Api(NO_PERMISSION)) => {
                self.0.meaning == Meaning::WrongToken && !self.0.is_renewed
            }
            _ => self.0.status == Some(StatusCode::UNAUTHORIZED),
        }
    }

    /// Whether the refused token had been issued immediately before, so that another one would be refused as well: see
    /// [`with_renewed_token`](Self::with_renewed_token).
    #[must_use]
    pub fn has_renewed_token(&self) -> bool {
        self.0.is_renewed
    }

    /// Whether the user must sign in again: no user is signed in; the refresh token is invalid, redeemed or expired; or
    /// the login session has ended.
    #[must_use]
    pub fn needs_sign_in(&self) -> bool {
        self.0.kind == ErrorKind::NotSignedIn
            || self.0.code == Some(ErrorCode::InvalidGrant)
            || self.0.meaning == Meaning::LoginInvalid
    }

    fn is_redirect(&self) -> bool {
        self.0.status.is_some_and(|status| status.is_redirection())
    }

    fn lacks_certificates(&self) -> bool {
        let source = self.0.source.as_deref();
        source
            .and_then(|source| source.downcast_ref::<HttpClientError>())
            .is_some_and(HttpClientError::is_missing_certificates)
    }

    /// What to do about it, for the user who reads the message.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        if let Some(hint) = self.hint_for_meaning() {
            return hint;
        }
        match (&self.0.kind, &self.0.code, self.0.flow) {
            (_, Some(code), flow) => hint_for_code(code, flow),
            (ErrorKind::InvalidInput, ..) => "correct the value and try again",
            (ErrorKind::Configuration, ..) => {
                "correct what the message names; the console offers a complete coze_oauth_config.json"
            }
            (ErrorKind::Signing, ..) => {
                "check the signer: the key service, its key and permissions"
            }
            (ErrorKind::System, ..) if self.lacks_certificates() => HttpClientError::ADVICE,
            (ErrorKind::System, ..) => {
                "check the system, and that this runs inside a tokio runtime"
            }
            (ErrorKind::ShutDown, ..) => "make a new provider",
            (ErrorKind::Provider, ..) => "see the provider's own error",
            (ErrorKind::StateMismatch, ..) => {
                "start the login again in this browser; if it happens often, check that sessions survive between the two requests"
            }
            (ErrorKind::InvalidCallback, ..) => {
                "pass the whole query of the callback (code and state, once each)"
            }
            (ErrorKind::DeviceCodeExpired, ..) => "start again, and approve within the time limit",
            (ErrorKind::Connect, ..) => {
                "check the network, the proxy and the base URL, then try again"
            }
            (ErrorKind::Timeout | ErrorKind::Interrupted, ..) => {
                "try again; a code or refresh token in the request may have been redeemed"
            }
            (ErrorKind::InvalidAnswer, ..) if self.is_redirect() => {
                "check the API base URL: Coze's endpoints do not redirect"
            }
            (ErrorKind::UnusableToken, ..) if self.0.refresh_token.is_some() => {
                "redeem the refresh token of the response, which is kept; quote the log id to Coze's support"
            }
            (ErrorKind::UnusableToken, ..) => {
                "try again; if it happens again, quote the log id to Coze's support"
            }
            (ErrorKind::InvalidAnswer, ..) if self.is_retryable() => "try again later",
            (ErrorKind::InvalidAnswer, ..) => {
                "check the API base URL, and any proxy or gateway in front of it; quote the log id to Coze's support"
            }
            (ErrorKind::NotSignedIn, ..) => "sign in",
            (
                ErrorKind::Store(
                    StoreErrorKind::Transient | StoreErrorKind::Full | StoreErrorKind::Other,
                ),
                ..,
            ) => "make the store work again (disk space, permissions, connection)",
            (ErrorKind::Store(StoreErrorKind::Busy), ..) => {
                "wait for the other owner, or end it if it is stuck"
            }
            (ErrorKind::Store(StoreErrorKind::Damaged), ..) => {
                "restore or update the stored contents, or sign in again, which moves them into quarantine"
            }
            (ErrorKind::Store(StoreErrorKind::NotPermitted), ..) => {
                "follow the message, or use another store"
            }
            (ErrorKind::Refused, ..) if self.is_retryable() => "try again later",
            (ErrorKind::Refused, ..) => "see the message; quote the log id to Coze's support",
        }
    }
}

/// Coze's site, by the endpoint of the request.
enum Site {
    Com,
    Cn,
    Other,
}

impl Error {
    fn site(&self) -> Site {
        let url = self
            .0
            .endpoint
            .as_deref()
            .and_then(|url| url::Url::parse(url).ok());
        match url.as_ref().and_then(url::Url::host_str) {
            Some("api.coze.com") => Site::Com,
            Some("api.coze.cn") => Site::Cn,
            _ => Site::Other,
        }
    }

    /// The hint for a message that is more specific than its code.
    fn hint_for_meaning(&self) -> Option<&'static str> {
        let is_permission = self.0.code == Some(ErrorCode::Api(NO_PERMISSION));
        let hint = match self.0.meaning {
            _ if self.0.is_renewed && !is_permission => {
                "a newly issued token was refused too, so the token is not the cause: check the API base (an app and its tokens belong to api.coze.com or to api.coze.cn), the requested resource, and that no proxy changes the Authorization header"
            }
            Meaning::WrongToken if !self.0.is_renewed => match self.site() {
                Site::Com => {
                    "check the access token (the key): it is wrong, expired, or was issued on coze.cn and sent to api.coze.com; then check its permissions and workspaces"
                }
                Site::Cn => {
                    "check the access token (the key): it is wrong, expired, or was issued on coze.com and sent to api.coze.cn; then check its permissions and workspaces"
                }
                Site::Other => {
                    "check the access token (the key): it is wrong, expired, or was issued on another site (coze.com, coze.cn) than the one it was sent to; then check its permissions and workspaces"
                }
            },
            _ if is_permission => match self.site() {
                Site::Com => {
                    "grant the access token (the key) the permission for this resource and its workspace; if it has the permission, check the token itself, and that it was issued on coze.com, like the API base, not on coze.cn"
                }
                Site::Cn => {
                    "grant the access token (the key) the permission for this resource and its workspace; if it has the permission, check the token itself, and that it was issued on coze.cn, like the API base, not on coze.com"
                }
                Site::Other => {
                    "grant the access token (the key) the permission for this resource and its workspace; if it has the permission, check the token itself, and that it was issued on the site of the API base (coze.com, coze.cn)"
                }
            },
            Meaning::Nothing | Meaning::WrongToken => return None,
            Meaning::NotAsDescribed => {
                "Coze's response is not as documented: update this crate, or report it with the log id"
            }
            Meaning::PrivateKey => {
                "use the RSA key that the Coze console offered as private_key.pem (BEGIN PRIVATE KEY), or make a new key pair there"
            }
            Meaning::Unbound => "bind the channel app to its channel in the Coze console",
            Meaning::LoginInvalid => "the login session has ended: sign in again",
            Meaning::AppType => {
                "the app is of another type than this flow requires: use an app of that type, or the flow of the app's type"
            }
            Meaning::Deactivated => {
                "the app's owner has deactivated it: enable it in the Coze console"
            }
            Meaning::UnknownKey => match self.site() {
                Site::Com => {
                    "api.coze.com does not know this key: if the app was created on coze.cn, use https://api.coze.cn (Endpoint::CN); else compare the key id with the public key's fingerprint in the console"
                }
                Site::Cn => {
                    "api.coze.cn does not know this key: if the app was created on coze.com, use https://api.coze.com (Endpoint::COM); else compare the key id with the public key's fingerprint in the console"
                }
                Site::Other => {
                    "the API base does not know this key: an app belongs to api.coze.com or to api.coze.cn, so check the API base; else compare the key id with the public key's fingerprint in the console"
                }
            },
            Meaning::Audience => {
                "check the JWT's audience (aud): it is the API's host without a port, api.coze.com or api.coze.cn; set it on the endpoint or the flow if there is a proxy"
            }
            Meaning::JwtTimes => {
                "check this machine's clock (the JWT's iat and exp follow it) and the JWT's lifetime"
            }
            Meaning::JwtId => {
                "the JWT's jti was used before: each JWT is single-use, so check that no proxy or client repeats requests"
            }
            Meaning::NoJwt => {
                "no JWT reached Coze: check that no proxy or gateway removes the Authorization header"
            }
            Meaning::ClientSecret => match self.0.flow {
                Some(Flow::Web) => {
                    "check the client secret: it is missing, or belongs to another app"
                }
                _ => {
                    "Coze expects a client secret, so the app is of another type than this flow requires: use a public app, or the web flow with the app's secret"
                }
            },
        };
        Some(hint)
    }
}

fn hint_for_code(code: &ErrorCode, flow: Option<Flow>) -> &'static str {
    match code {
        ErrorCode::AuthorizationPending => "keep polling until the user has decided",
        ErrorCode::SlowDown => "poll more slowly: add 5 seconds to the interval",
        ErrorCode::AccessDenied => "the user refused; start again if that was a mistake",
        ErrorCode::ExpiredToken => "the device code has expired; start again",
        ErrorCode::InvalidRequest => "check the parameter that the message names",
        ErrorCode::InvalidClient => match flow {
            Some(Flow::Jwt) => {
                "check the client id, the private key, its key id (public key fingerprint), the audience, and this machine's clock"
            }
            Some(Flow::Web) => "check the client id and the client secret",
            _ => "check the client id, and that the app is of this flow's type",
        },
        ErrorCode::InvalidGrant => {
            "the code or refresh token is invalid, redeemed or expired; sign in again"
        }
        ErrorCode::UnsupportedGrantType => "the app does not allow this flow; check its type",
        ErrorCode::AccessDeny => {
            "enable the app in the Coze console, use an app of the right type, or sign in again, as the message says"
        }
        ErrorCode::InternalError => "an internal error of Coze's; try again later",
        ErrorCode::Api(AUTHENTICATION_INVALID | ACCESS_TOKEN_INVALID) => {
            "the access token is missing, expired or revoked; get a new one"
        }
        ErrorCode::Api(RATE_LIMIT) => "too many requests; wait, then try again",
        ErrorCode::Api(CONVERSATION_BUSY) => {
            "the conversation already runs a chat: wait until it ends, or cancel it"
        }
        ErrorCode::Api(NOT_FOUND) => {
            "check the id that the message names, and that it is published (a bot: as an API)"
        }
        ErrorCode::Api(_) | ErrorCode::Other(_) => {
            "see the message; quote the log id to Coze's support"
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details {
            flow,
            endpoint,
            status,
            log_id,
            ..
        } = &*self.0;
        if let Some(flow) = flow {
            write!(f, "{flow}: ")?;
        }
        f.write_str(&self.summary())?;
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
        Ok(())
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
            .field("hint", &self.hint())
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

// Constructors for the crate.
impl Error {
    pub(crate) fn what(&self) -> &str {
        &self.0.what
    }

    /// What happened and why, without flow, endpoint and hint.
    pub(crate) fn summary(&self) -> String {
        let mut summary = self.0.what.clone();
        if let Some(code) = &self.0.code {
            summary.push_str(": ");
            summary.push_str(&code.as_str());
        }
        if let Some(message) = &self.0.message {
            summary.push_str(": ");
            summary.push_str(message);
        }
        // The caller's own code has given the reason in its own words.
        let is_callers = matches!(self.kind(), ErrorKind::Signing | ErrorKind::Provider);
        let own_words = self.0.source.as_ref().filter(|_| is_callers);
        let own_words = own_words.map(|source| sanitize(&source.to_string(), &[]));
        for cause in own_words.into_iter().chain(self.innermost_cause()) {
            // The cause may repeat what the text already says.
            if !summary.contains(&cause) {
                summary.push_str(": ");
                summary.push_str(&cause);
            }
        }
        summary
    }

    /// The text of the last error in the chain of sources.
    fn innermost_cause(&self) -> Option<String> {
        let source = std::error::Error::source(self)?;
        let causes = std::iter::successors(Some(source), |cause| cause.source());
        let innermost = causes.take(LONGEST_CHAIN).last()?;
        let cause = if let Some(error) = innermost.downcast_ref::<Self>() {
            error.summary()
        } else if let Some(error) = innermost.downcast_ref::<SendError>() {
            error.cause().to_owned()
        } else {
            innermost.to_string()
        };
        Some(sanitize(&cause, &[]))
    }

    /// An error for your own provider or client. `what` says what happened, without secrets.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self(Arc::new(Details {
            kind,
            what: sanitize_sentence(what.into()),
            flow: None,
            endpoint: None,
            status: None,
            code: None,
            message: None,
            meaning: Meaning::Nothing,
            is_renewed: false,
            log_id: None,
            retry_after: None,
            refresh_token: None,
            wall_correction: None,
            is_transient: false,
            source: None,
        }))
    }

    pub(crate) fn invalid_input(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, what)
    }

    /// An error of the transport, with that as its source.
    pub(crate) fn unanswered(error: SendError) -> Self {
        let (kind, what) = match error.kind() {
            SendErrorKind::Connect => (ErrorKind::Connect, "no connection to the server"),
            SendErrorKind::NotProcessed => (
                ErrorKind::Connect,
                "the server has not processed the request",
            ),
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

    /// The error for callers other than the one whose request failed: the kind, but not the URL, text or log id of a
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
        self.with(|d| d.endpoint = Some(sanitize_sentence(endpoint)))
    }

    /// The HTTP status of the response.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        self.with(|d| d.status = Some(status))
    }

    /// The status and the log id of the response, where none are known yet.
    pub(crate) fn at_head(self, status: StatusCode, log_id: Option<&str>) -> Self {
        self.with(|d| {
            d.status.get_or_insert(status);
            if d.log_id.is_none() {
                d.log_id = log_id.map(str::to_owned);
            }
        })
    }

    pub(crate) fn with_code(self, code: ErrorCode) -> Self {
        self.with(|d| d.code = Some(code))
    }

    pub(crate) fn with_message(self, message: Option<String>) -> Self {
        self.with(|d| d.message = message.map(sanitize_sentence))
    }

    pub(crate) fn with_meaning(self, meaning: Meaning) -> Self {
        self.with(|d| d.meaning = meaning)
    }

    pub(crate) fn with_refresh_token(self, refresh_token: Option<RefreshToken>) -> Self {
        self.with(|d| d.refresh_token = refresh_token)
    }

    /// Marks a refused token as newly issued, after a retry with a new token: another one would be refused as well, and
    /// the [`hint`](Self::hint) says so. Any other error is returned unchanged.
    #[must_use]
    pub fn with_renewed_token(self) -> Self {
        if self.is_token_refused() {
            self.with(|d| d.is_renewed = true)
        } else {
            self
        }
    }

    /// The log id of the response.
    #[must_use]
    pub fn with_log_id(self, log_id: Option<String>) -> Self {
        self.with(|d| d.log_id = log_id.map(sanitize_sentence))
    }

    /// The delay before the next attempt.
    #[must_use]
    pub fn with_retry_after(self, retry_after: Option<Duration>) -> Self {
        self.with(|d| d.retry_after = retry_after)
    }

    pub(crate) fn with_wall_correction(self, wall_correction: Option<i64>) -> Self {
        self.with(|d| d.wall_correction = wall_correction)
    }

    pub(crate) fn wall_correction(&self) -> Option<i64> {
        self.0.wall_correction
    }

    /// Sets a source of this crate's own type, which callers within the crate recognize.
    pub(crate) fn with_own_source(
        self,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        self.with(|d| d.source = Some(Arc::new(source)))
    }

    pub(crate) fn with_source(
        self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let source = shown_cause(source);
        self.with(|d| d.source = Some(source))
    }
}

/// The maximum number of sources that are searched for the innermost one.
const LONGEST_CHAIN: usize = 32;

/// Whether an error is of this workspace, and all of its text is sanitized.
fn is_ours(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error.is::<Error>()
        || error.is::<SendError>()
        || error.is::<StoreError>()
        || error.is::<ForeignError>()
        || error.is::<HttpClientError>()
}

/// The cause of an error, sanitized unless it is already.
pub(crate) fn shown_cause(
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Arc<dyn std::error::Error + Send + Sync> {
    let error = error.into();
    if is_ours(&*error) {
        Arc::from(error)
    } else {
        Arc::new(ForeignError::new(error))
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
    fn every_documented_code_is_known_and_written_back() {
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
    fn an_oauth_error_code_is_final_even_with_a_server_error_status() {
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

    /// An error of this site, with this code and message.
    fn refused_with(flow: Option<Flow>, host: &str, code: ErrorCode, message: &str) -> Error {
        let error = Error::new(ErrorKind::Refused, "Coze refused")
            .with_meaning(Meaning::of(Some(&code), message))
            .with_code(code)
            .at_endpoint(format!("https://{host}/api/permission/oauth2/token"));
        match flow {
            Some(flow) => error.in_flow(flow),
            None => error,
        }
    }

    #[test]
    fn an_app_of_the_other_site_is_distinguished_from_a_wrong_key() {
        let message = "invalid jwt: kid not been registred";
        for (host, other) in [
            ("api.coze.com", "https://api.coze.cn"),
            ("api.coze.cn", "https://api.coze.com"),
        ] {
            let error = refused_with(Some(Flow::Jwt), host, ErrorCode::InvalidClient, message);
            let hint = error.hint();
            assert!(hint.contains(host) && hint.contains(other), "{hint}");
        }
        let error = refused_with(
            Some(Flow::Jwt),
            "127.0.0.1",
            ErrorCode::InvalidClient,
            message,
        );
        assert!(error.hint().contains("api.coze.cn"), "{}", error.hint());
    }

    #[test]
    fn a_message_more_specific_than_its_code_has_its_own_hint() {
        use ErrorCode::{AccessDeny, Api, InvalidClient, InvalidRequest};
        for (flow, code, message, expected) in [
            (
                Some(Flow::Jwt),
                InvalidClient,
                "invalid jwt: aud is wrong",
                "audience",
            ),
            (
                Some(Flow::Jwt),
                InvalidClient,
                "invalid jwt: iat in the future",
                "clock",
            ),
            (Some(Flow::Jwt), InvalidClient, "invalid jwt: exp", "clock"),
            (
                Some(Flow::Jwt),
                InvalidClient,
                "invalid jwt: jti was used",
                "jti",
            ),
            (
                Some(Flow::Jwt),
                InvalidClient,
                "Verify JWT empty",
                "Authorization header",
            ),
            (Some(Flow::Jwt), InvalidClient, "who knows", "private key"),
            (
                Some(Flow::Pkce),
                InvalidRequest,
                "invalid request: client_secret",
                "another type",
            ),
            (
                Some(Flow::Device),
                InvalidRequest,
                "invalid request: client_secret",
                "another type",
            ),
            (
                Some(Flow::Web),
                InvalidRequest,
                "invalid request: client_secret",
                "missing",
            ),
            (
                Some(Flow::Web),
                InvalidRequest,
                "invalid request: code",
                "parameter",
            ),
            (
                Some(Flow::Web),
                AccessDeny,
                "login session invalid",
                "sign in again",
            ),
            (
                Some(Flow::Web),
                AccessDeny,
                "invalid app type",
                "another type",
            ),
            (
                Some(Flow::Web),
                AccessDeny,
                "app: hush is currently deactivated by the owner",
                "deactivated",
            ),
            (
                None,
                Api(4000),
                "connector app should bind connector id",
                "bind the channel app",
            ),
            (
                None,
                Api(4101),
                "The Token you entered is incorrect",
                "check the access token",
            ),
            (None, Api(4101), "no permission", "grant"),
            (None, Api(4016), "busy", "wait until it ends"),
        ] {
            let error = refused_with(flow, "api.coze.com", code, message);
            assert!(
                error.hint().contains(expected),
                "{message}: {}",
                error.hint()
            );
        }
    }

    #[test]
    fn an_ended_login_requires_a_sign_in_and_a_wrong_token_another_token() {
        let error = refused_with(
            Some(Flow::Web),
            "api.coze.com",
            ErrorCode::AccessDeny,
            "login session invalid",
        );
        assert!(error.needs_sign_in());
        let wrong =
            |message| refused_with(None, "api.coze.com", ErrorCode::Api(NO_PERMISSION), message);
        assert!(wrong("the TOKEN is wrong").is_token_refused());
        assert!(!wrong("no permission").is_token_refused());
        let again = wrong("the token is wrong").with_renewed_token();
        assert!(!again.is_token_refused() && again.hint().contains("permission"));
        assert!(again.has_renewed_token() && !wrong("the token is wrong").has_renewed_token());
    }

    #[test]
    fn every_text_in_an_error_is_sanitized() {
        let odd = "a\u{1b}]0;x\u{7}\n\u{202e}b\u{200b}\u{2028}c\u{e0041}".repeat(50);
        let io = || std::io::Error::other(odd.clone());
        let errors = [
            Error::new(ErrorKind::System, &*odd),
            Error::of_provider(&*odd, io()),
            Error::invalid_input("x")
                .with_message(Some(odd.clone()))
                .with_log_id(Some(odd.clone()))
                .with_code(ErrorCode::from_word(&odd))
                .at_endpoint(odd.clone()),
            Error::unanswered(SendError::new(SendErrorKind::Connect, &odd)),
            Error::invalid_input("x")
                .with_source(StoreError::new(StoreErrorKind::Other, &odd).with_source(io())),
            Error::invalid_input("x").with_source(StoreError::busy(&odd, Some(&odd))),
        ];
        for error in errors {
            let mut shown = format!("{error}|{error:?}");
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                shown += &format!("|{error}|{error:?}");
                cause = error.source();
            }
            assert!(!shown.contains(coze_wire::is_invisible), "{shown:?}");
            assert!(!shown.contains(r"\u{"), "{shown:?}");
            assert!(shown.len() < 10_000, "{}", shown.len());
        }
    }

    #[test]
    fn another_librarys_error_can_be_asked_for_by_its_type() {
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let error = Error::of_provider("no token", denied);
        let source = std::error::Error::source(&error).unwrap();
        let foreign = source.downcast_ref::<ForeignError>().unwrap();
        let io = foreign.get_ref().unwrap().downcast_ref::<std::io::Error>();
        assert_eq!(io.unwrap().kind(), std::io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn display_has_flow_code_message_status_endpoint_and_log_id_but_not_the_hint() {
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
             https://api.coze.com/api/permission/oauth2/token, log id 2026)"
        );
        assert_eq!(error.hint(), "check the client id and the client secret");
    }

    /// An error with causes, the first of these texts outermost.
    #[derive(Debug)]
    struct Chain(&'static [&'static str]);

    impl fmt::Display for Chain {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0[0])
        }
    }

    impl std::error::Error for Chain {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            // Leaked, because an error owns its source.
            (self.0.len() > 1).then(|| &*Box::leak(Box::new(Chain(&self.0[1..]))) as _)
        }
    }

    #[test]
    fn display_names_the_innermost_cause_once() {
        let refused =
            "client error (Connect): tcp connect error: Connection refused (os error 111)";
        let send_error = SendError::new(SendErrorKind::Connect, refused);
        for (error, expected) in [
            (
                Error::new(ErrorKind::Configuration, "x.json can't be read")
                    .with_source(std::io::Error::other("Permission denied")),
                "x.json can't be read: Permission denied",
            ),
            (
                Error::new(ErrorKind::Store(StoreErrorKind::Other), "not saved")
                    .with_source(Chain(&["a", "b", "disk full"])),
                "not saved: disk full",
            ),
            (
                Error::new(
                    ErrorKind::Store(StoreErrorKind::Other),
                    "not saved: disk full",
                )
                .with_source(Chain(&["a", "disk full"])),
                "not saved: disk full",
            ),
            (
                Error::of_provider("no token", Chain(&["the vault", "sealed\u{1b}[2J"])),
                "no token: the vault: sealed [2J",
            ),
            (
                Error::unanswered(send_error.clone()),
                "no connection to the server: tcp connect error: Connection refused (os error 111)",
            ),
            // Another error of this crate, without its hint.
            (
                Error::new(ErrorKind::DeviceCodeExpired, "too old")
                    .with_source(Error::unanswered(send_error)),
                "too old: tcp connect error: Connection refused (os error 111)",
            ),
            (
                Error::new(ErrorKind::DeviceCodeExpired, "too old").with_source(
                    Error::new(ErrorKind::Refused, "refused").with_message(Some("busy".to_owned())),
                ),
                "too old: refused: busy",
            ),
        ] {
            assert_eq!(error.to_string(), expected);
        }
    }
}
