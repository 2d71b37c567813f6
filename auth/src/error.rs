//! What can go wrong, and what to do about it.
//!
//! Callers branch on [`Error::kind`] and [`Error::code`], never on text. Nothing in here ever shows a secret or a character
//! that is not seen: all text from outside passes [`coze_wire::sanitize`], and the error of another library becomes a
//! [`ForeignError`].

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc, time::Duration};

use coze_wire::{
    ACCESS_TOKEN_INVALID, AUTHENTICATION_INVALID, ForeignError, HttpClientError, NO_PERMISSION,
    SendError, SendErrorKind, refuses_token, sanitize, sanitize_sentence,
};
use http::StatusCode;

pub(crate) mod store;

use store::{StoreError, StoreErrorKind};

use crate::RefreshToken;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a sign-in flow: what happened, in which flow, at which endpoint, and what Coze said about it. `Display` says
/// what happened and why, once; [`hint`](Self::hint) says what to do, and so does `Debug`, which `main` prints.
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
    /// What the message says, read before anything in it was hidden.
    told: Told,
    /// The token that was refused had just been got.
    is_renewed: bool,
    log_id: Option<String>,
    retry_after: Option<Duration>,
    refresh_token: Option<RefreshToken>,
    /// By how many seconds the local clock differs from the server's, if it does.
    wall_correction: Option<i64>,
    /// Another attempt may help, as the caller's own code says.
    is_transient: bool,
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

/// The name that it is displayed by, in any case.
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
            Error::invalid_input("there is no such flow; it is token, web, pkce, device or jwt")
        })
    }
}

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A value that the caller gave can't be used. Nothing was sent.
    InvalidInput,
    /// The configuration file or the environment is incomplete or contradictory, or the private key can't be used. Nothing
    /// was sent.
    Configuration,
    /// The signer failed. Nothing was sent.
    Signing,
    /// The system lacks something: random bytes, CA certificates, or a tokio runtime. Nothing was sent.
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
    /// No connection could be made, or the server says that it has not processed the request (HTTP/2 `REFUSED_STREAM`, RFC
    /// 9113 section 8.7): Coze has not acted on it.
    Connect,
    /// Time ran out before an answer came; Coze may have acted on the request.
    Timeout,
    /// The connection broke before an answer was complete; Coze may have acted on the request.
    Interrupted,
    /// An answer came that is not one of Coze's: HTML, nothing, cut short, too long, without a
    /// token, or with a field of another type than described. Or the server pointed to another address, which is never
    /// followed with credentials: then the [status](Error::status) is a redirection.
    InvalidAnswer,
    /// The request succeeded, but the access token in its answer can't be used. A refresh token beside it is kept: in
    /// the store, or in [`Error::refresh_token`].
    UnusableToken,
    /// Nobody has signed in, or the sign-in was removed: a person must sign in. Nothing was sent.
    NotSignedIn,
    /// The store of sign-ins did not do what it was asked to, or what it holds can't be used: the message says why.
    Store(StoreErrorKind),
}

/// In a few words, for a log line or a metric. What happened, and what to do, tells the [`Error`].
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

/// What a message of Coze's says beyond its code. Messages are read only here, from the raw text; callers branch on
/// [`Error::code`] and on the questions that [`Error`] answers.
///
/// Texts seen in public or documented: `oauth_jwt`, `troubleshooting_4100_4101` under
/// <https://www.coze.cn/open/docs/developer_guides/authentication>; issues coze-py 123, 148, 230; coze-go 43; coze-js
/// 212, 313, 314.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Told {
    /// Nothing more.
    #[default]
    Nothing,
    /// The access token is wrong, where the code alone may also mean a missing permission.
    WrongToken,
    /// The user's login has ended.
    LoginInvalid,
    /// The app is of another type.
    AppType,
    /// The app was deactivated by its owner.
    Deactivated,
    /// The channel app is not bound to a channel.
    Unbound,
    /// The key id is not known: `invalid jwt: kid not been registred`.
    UnknownKey,
    /// The audience is wrong.
    Audience,
    /// The JWT's times are wrong.
    JwtTimes,
    /// The JWT's id was used before.
    JwtId,
    /// No JWT came.
    NoJwt,
    /// A client secret is missing, or wrong.
    ClientSecret,
    /// Not a message: a success whose fields are not as described.
    NotAsDescribed,
    /// Not a message: the private key of the configuration can't be used.
    PrivateKey,
}

impl Told {
    /// Reads a message, beside the code that it came with.
    pub(crate) fn by(code: Option<&ErrorCode>, message: &str) -> Self {
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

/// The API code for "too many requests".
const RATE_LIMIT: i64 = 4013;

impl Error {
    /// An error of a [`TokenProvider`](crate::TokenProvider) of your own. Neither the text nor the source may hold
    /// a secret. Unless the source is an [`Error`], it is kept inside a [`ForeignError`].
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

    /// Says that another attempt may help: an error of your own [provider](Self::of_provider), exchange or
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

    /// The refresh token of an answer that could not be used otherwise: its access token is
    /// [unusable](ErrorKind::UnusableToken), or it was [cut](ErrorKind::Interrupted) behind the refresh token. It is the only
    /// copy: keep it with [`SignIn::put_refresh_token`](crate::SignIn::put_refresh_token), or redeem it. A
    /// provider with a stored sign-in has kept it already.
    #[must_use]
    pub fn refresh_token(&self) -> Option<&RefreshToken> {
        self.0.refresh_token.as_ref()
    }

    /// How long to wait before the next try: what the server asked for in its `Retry-After` header (RFC 9110
    /// section 10.2.3; a day at most), or what is left of a provider's own pause after a failure. It does not
    /// say that a next try can help: see [`is_retryable`](Self::is_retryable).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the cause may pass by itself: no connection, a time-out, a broken connection, HTTP 408, 429
    /// or 5xx, `internal_error`, the API's rate limit (4013), or an error of your own that is
    /// [transient](Self::transient).
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
            _ => self.0.is_transient,
        }
    }

    /// Whether the API refused the access token itself: HTTP 401, code 4100 or 700012006, or 4101 with a message that
    /// speaks of the token (`POST /v3/chat` answers so, with HTTP 200). Then
    /// [`invalidate`](crate::TokenProvider::invalidate) it and try once more.
    ///
    /// Source: <https://www.coze.cn/open/docs/developer_guides/troubleshooting_4100_4101>.
    #[must_use]
    pub fn is_token_refused(&self) -> bool {
        match self.0.code {
            Some(ErrorCode::Api(AUTHENTICATION_INVALID | ACCESS_TOKEN_INVALID)) => true,
            Some(ErrorCode::Api(NO_PERMISSION)) => {
                self.0.told == Told::WrongToken && !self.0.is_renewed
            }
            _ => self.0.status == Some(StatusCode::UNAUTHORIZED),
        }
    }

    /// Whether only the user can help, by signing in again: nobody is signed in; the refresh token is invalid, used
    /// or too old; or the login has ended.
    #[must_use]
    pub fn needs_sign_in(&self) -> bool {
        self.0.kind == ErrorKind::NotSignedIn
            || self.0.code == Some(ErrorCode::InvalidGrant)
            || self.0.told == Told::LoginInvalid
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

    /// What to do about it, for the person who reads the message.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        if let Some(hint) = self.hint_for_what_was_told() {
            return hint;
        }
        match (&self.0.kind, &self.0.code, self.0.flow) {
            (_, Some(code), flow) => hint_for_code(code, flow),
            (ErrorKind::InvalidInput, ..) => "correct the value and try again",
            (ErrorKind::Configuration, ..) => {
                "complete the configuration; the console offers it as coze_oauth_config.json"
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
                "pass the callback's whole query (code and state, once each)"
            }
            (ErrorKind::DeviceCodeExpired, ..) => "start again, and approve within the time shown",
            (ErrorKind::Connect, ..) => {
                "check the network, the proxy and the base URL, then try again"
            }
            (ErrorKind::Timeout | ErrorKind::Interrupted, ..) => {
                "try again; a code or refresh token that was in the request may be spent"
            }
            (ErrorKind::InvalidAnswer, ..) if self.is_redirect() => {
                "check the API base URL: Coze's endpoints do not redirect"
            }
            (ErrorKind::UnusableToken, ..) if self.0.refresh_token.is_some() => {
                "redeem the refresh token that came with it: it is kept; quote the log id to Coze's support"
            }
            (ErrorKind::UnusableToken, ..) => {
                "try again; if it happens again, quote the log id to Coze's support"
            }
            (ErrorKind::InvalidAnswer, ..) if self.is_retryable() => "try again later",
            (ErrorKind::InvalidAnswer, ..) => {
                "check the API base URL and what stands between (proxy, gateway); quote the log id to Coze's support"
            }
            (ErrorKind::NotSignedIn, ..) => "sign in",
            (
                ErrorKind::Store(
                    StoreErrorKind::Transient | StoreErrorKind::Full | StoreErrorKind::Other,
                ),
                ..,
            ) => {
                "make the store work again (disk space, permissions, connection); a token that is in memory is not lost meanwhile"
            }
            (ErrorKind::Store(StoreErrorKind::Busy), ..) => {
                "wait for the other owner, or end it if it is stuck"
            }
            (ErrorKind::Store(StoreErrorKind::Damaged), ..) => {
                "restore or update what is stored, or sign in again: what is there is moved into quarantine"
            }
            (ErrorKind::Store(StoreErrorKind::NotPermitted), ..) => {
                "do as the message says, or keep the sign-in elsewhere"
            }
            (ErrorKind::Refused, ..) if self.is_retryable() => "try again later",
            (ErrorKind::Refused, ..) => "see the message; quote the log id to Coze's support",
        }
    }
}

/// Which of Coze's two sites was asked.
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

    /// What to do, where the message says more than the code.
    fn hint_for_what_was_told(&self) -> Option<&'static str> {
        let is_permission = self.0.code == Some(ErrorCode::Api(NO_PERMISSION));
        let hint = match self.0.told {
            _ if self.0.is_renewed && !is_permission => {
                "a token that had just been got was refused too, so the token is not what is wrong: check the API base (an app and its tokens belong to api.coze.com or to api.coze.cn), the resource that was asked for, and that nothing on the way changes the Authorization header"
            }
            Told::WrongToken if !self.0.is_renewed => match self.site() {
                Site::Com => {
                    "check the access token (the key): it is wrong, expired, or was issued on coze.cn while api.coze.com was asked; then the permission and the workspace that it was granted"
                }
                Site::Cn => {
                    "check the access token (the key): it is wrong, expired, or was issued on coze.com while api.coze.cn was asked; then the permission and the workspace that it was granted"
                }
                Site::Other => {
                    "check the access token (the key): it is wrong, expired, or of another site (coze.com, coze.cn) than the one that was asked; then the permission and the workspace that it was granted"
                }
            },
            _ if is_permission => match self.site() {
                Site::Com => {
                    "grant the access token (the key) the permission for this resource and its workspace; if it has the permission, check the token itself, and that it was issued on coze.com, whose site was asked, not on coze.cn"
                }
                Site::Cn => {
                    "grant the access token (the key) the permission for this resource and its workspace; if it has the permission, check the token itself, and that it was issued on coze.cn, whose site was asked, not on coze.com"
                }
                Site::Other => {
                    "grant the access token (the key) the permission for this resource and its workspace; if it has the permission, check the token itself, and that it was issued on the site that was asked (coze.com, coze.cn)"
                }
            },
            Told::Nothing | Told::WrongToken => return None,
            Told::NotAsDescribed => {
                "Coze's answer is not as described: update this crate, or report it with the log id"
            }
            Told::PrivateKey => {
                "use the RSA key that the Coze console offered as private_key.pem (BEGIN PRIVATE KEY), or make a new key pair there"
            }
            Told::Unbound => "bind the channel app to its channel in the Coze console",
            Told::LoginInvalid => "the login has ended: sign in again",
            Told::AppType => {
                "the app is of another type than this flow: use an app of this type, or the flow of the app's type"
            }
            Told::Deactivated => {
                "the app's owner has deactivated it: enable it in the Coze console"
            }
            Told::UnknownKey => match self.site() {
                Site::Com => {
                    "api.coze.com does not know this key: if the app was made on coze.cn, ask https://api.coze.cn (Endpoint::CN); else compare the key id with the public key's fingerprint in the console"
                }
                Site::Cn => {
                    "api.coze.cn does not know this key: if the app was made on coze.com, ask https://api.coze.com (Endpoint::COM); else compare the key id with the public key's fingerprint in the console"
                }
                Site::Other => {
                    "the site that was asked does not know this key: an app belongs to api.coze.com or to api.coze.cn, so check the API base; else compare the key id with the public key's fingerprint in the console"
                }
            },
            Told::Audience => {
                "check the JWT's audience (aud): it is the API's host without a port, api.coze.com or api.coze.cn; set it on the endpoint or the flow if a proxy stands between"
            }
            Told::JwtTimes => {
                "check this machine's clock (the JWT's iat and exp follow it) and the JWT's lifetime"
            }
            Told::JwtId => {
                "the JWT's jti was used before: each JWT is single-use, so check that nothing on the way sends requests twice"
            }
            Told::NoJwt => {
                "no JWT reached Coze: check that nothing on the way (a proxy, a gateway) removes the Authorization header"
            }
            Told::ClientSecret => match self.0.flow {
                Some(Flow::Web) => "check the client secret: it is missing, or of another app",
                _ => {
                    "Coze wants a client secret, so the app is of another type than this flow: use an app of this type, or the web flow with the app's secret"
                }
            },
        };
        Some(hint)
    }
}

fn hint_for_code(code: &ErrorCode, flow: Option<Flow>) -> &'static str {
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
        ErrorCode::Api(RATE_LIMIT) => "too many requests; wait, then try again",
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

// How the rest of the crate makes errors.
impl Error {
    pub(crate) fn what(&self) -> &str {
        &self.0.what
    }

    /// What happened and why, without the flow, the place and the hint.
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
        // The caller's own code has said why in its own words.
        let is_callers = matches!(self.kind(), ErrorKind::Signing | ErrorKind::Provider);
        let own_words = self.0.source.as_ref().filter(|_| is_callers);
        let own_words = own_words.map(|source| sanitize(&source.to_string(), &[]));
        for cause in own_words.into_iter().chain(self.innermost_cause()) {
            // It may say again what stands there already.
            if !summary.contains(&cause) {
                summary.push_str(": ");
                summary.push_str(&cause);
            }
        }
        summary
    }

    /// What the last in the chain of sources says.
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

    /// An error of this kind, for a provider or a client of your own. `what` says what happened, and contains no secret.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self(Arc::new(Details {
            kind,
            what: sanitize_sentence(what.into()),
            flow: None,
            endpoint: None,
            status: None,
            code: None,
            message: None,
            told: Told::Nothing,
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

    /// An error of the transport, which becomes the source.
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

    pub(crate) fn with_told(self, told: Told) -> Self {
        self.with(|d| d.told = told)
    }

    pub(crate) fn with_refresh_token(self, refresh_token: Option<RefreshToken>) -> Self {
        self.with(|d| d.refresh_token = refresh_token)
    }

    /// Marks a refused token as one that has just been issued, after a retry with a new token: another would be refused as
    /// well, and the [`hint`](Self::hint) says so. Any other error is returned unchanged.
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

    /// How long the server asked to wait.
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

    /// A cause that is a type of this crate's own, by which it is told.
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

/// The most causes that are looked through for the innermost one.
const LONGEST_CHAIN: usize = 32;

/// Whether an error is one of ours, all of whose text has passed the door.
fn is_ours(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error.is::<Error>()
        || error.is::<SendError>()
        || error.is::<StoreError>()
        || error.is::<ForeignError>()
        || error.is::<HttpClientError>()
}

/// The cause of an error, fit to be shown whatever it is.
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

    /// An error as it comes from this site, with this code and message.
    fn told(flow: Option<Flow>, host: &str, code: ErrorCode, message: &str) -> Error {
        let error = Error::new(ErrorKind::Refused, "Coze refused")
            .with_told(Told::by(Some(&code), message))
            .with_code(code)
            .at_endpoint(format!("https://{host}/api/permission/oauth2/token"));
        match flow {
            Some(flow) => error.in_flow(flow),
            None => error,
        }
    }

    #[test]
    fn an_app_of_the_other_site_is_told_apart_from_a_wrong_key() {
        let message = "invalid jwt: kid not been registred";
        for (host, other) in [
            ("api.coze.com", "https://api.coze.cn"),
            ("api.coze.cn", "https://api.coze.com"),
        ] {
            let error = told(Some(Flow::Jwt), host, ErrorCode::InvalidClient, message);
            let hint = error.hint();
            assert!(hint.contains(host) && hint.contains(other), "{hint}");
        }
        let error = told(
            Some(Flow::Jwt),
            "127.0.0.1",
            ErrorCode::InvalidClient,
            message,
        );
        assert!(error.hint().contains("api.coze.cn"), "{}", error.hint());
    }

    #[test]
    fn a_message_that_says_more_than_its_code_has_a_hint_of_its_own() {
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
        ] {
            let error = told(flow, "api.coze.com", code, message);
            assert!(
                error.hint().contains(expected),
                "{message}: {}",
                error.hint()
            );
        }
    }

    #[test]
    fn a_login_that_ended_needs_a_sign_in_and_a_wrong_token_another_token() {
        let error = told(
            Some(Flow::Web),
            "api.coze.com",
            ErrorCode::AccessDeny,
            "login session invalid",
        );
        assert!(error.needs_sign_in());
        let wrong = |message| told(None, "api.coze.com", ErrorCode::Api(NO_PERMISSION), message);
        assert!(wrong("the TOKEN is wrong").is_token_refused());
        assert!(!wrong("no permission").is_token_refused());
        let again = wrong("the token is wrong").with_renewed_token();
        assert!(!again.is_token_refused() && again.hint().contains("permission"));
    }

    #[test]
    fn no_text_gets_into_an_error_but_through_the_door() {
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
    fn the_text_tells_flow_code_message_status_endpoint_and_log_id_and_the_hint_stands_alone() {
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
    fn the_text_names_the_innermost_cause_once() {
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
            // Another error of ours, without its hint.
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
