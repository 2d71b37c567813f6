//! [`JwtFlow`]: a service authenticates as the application itself, with a signed JWT.
//!
//! The claims, with `jti` and the JWT's `iat` and `exp`, are in `claims.rs`; the default lifetime of a JWT is
//! `DEFAULT_JWT_LIFETIME` there. The lifetime of the *token* is requested with [`JwtTokenRequest::duration`].

mod claims;
mod key;
mod key_forms;
mod scope;
mod signer;

use std::{
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use coze_oauth_client::types;
use coze_wire::Secret;

use crate::{
    ClientId, Error, ErrorCode, Flow, KeyId, OAuthClient, Result, Token,
    client::{Credentials, TokenPath},
    input::{PathId, address, required},
};
use claims::{Claims, DEFAULT_JWT_LIFETIME, Header};
pub use key::PrivateKey;
pub use scope::Scope;
pub use signer::{SignFuture, Signer};

/// The JWT flow: a service authenticates as the application with a signed JWT, and gets an access token without a user.
///
/// There is no refresh token: when the access token expires, request another one.
///
/// Sources: RFC 7523; <https://www.coze.cn/open/docs/developer_guides/oauth_jwt>. Coze expects the JWT as a bearer token, not
/// as an `assertion` field. Each JWT is single-use.
///
/// ```no_run
/// # async fn example() -> coze_auth::Result<()> {
/// use coze_auth::{Endpoint, JwtFlow, OAuthClient, PrivateKey};
///
/// let jwt = JwtFlow::builder(OAuthClient::new(Endpoint::CN)?)
///     .client_id("client-id")
///     .key_id("public key fingerprint")
///     .signer(PrivateKey::from_pem_file("private_key.pem")?)
///     .build()?;
/// let token = jwt.token().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct JwtFlow {
    client: OAuthClient,
    client_id: ClientId,
    audience: String,
    key: Arc<RwLock<Key>>,
    jwt_lifetime: Duration,
    /// The correction of the local clock in seconds, learned from the last refused JWT.
    wall_correction: Arc<AtomicI64>,
}

/// A signer, and the JWT header with its key id.
#[derive(Clone)]
struct Key {
    encoded_header: Arc<str>,
    signer: Arc<dyn Signer>,
}

impl Key {
    fn new(key_id: &KeyId, signer: Arc<dyn Signer>) -> Result<Self> {
        let key_id = key_id.checked()?;
        let encoded_header = Header::new(key_id.as_ref()).encoded()?.into();
        Ok(Self {
            encoded_header,
            signer,
        })
    }
}

impl JwtFlow {
    /// Creates a builder; [`client_id`](JwtFlowBuilder::client_id),
    /// [`key_id`](JwtFlowBuilder::key_id) and [`signer`](JwtFlowBuilder::signer) are required.
    pub fn builder(client: OAuthClient) -> JwtFlowBuilder {
        JwtFlowBuilder {
            client,
            client_id: ClientId::default(),
            key_id: KeyId::default(),
            audience: None,
            signer: None,
            jwt_lifetime: DEFAULT_JWT_LIFETIME,
        }
    }

    /// Gets a token with Coze's defaults: all permissions of the application, valid for 15 minutes.
    ///
    /// # Errors
    ///
    /// As [`token_for`](Self::token_for).
    pub async fn token(&self) -> Result<Token> {
        self.token_for(&JwtTokenRequest::new()).await
    }

    /// Gets a token with the parameters of a [`JwtTokenRequest`]: duration, scope, session, account.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](crate::ErrorKind::InvalidInput) when the request is not valid: nothing is sent.
    /// - [`Signing`](crate::ErrorKind::Signing) when the signer fails: nothing is sent.
    /// - [`Refused`](crate::ErrorKind::Refused) with [`InvalidClient`](crate::ErrorCode::InvalidClient) when Coze
    ///   refuses the JWT. A refusal that may be due to a wrong local clock is retried once, with the server's time.
    /// - Errors of the transport, and invalid responses. Each call signs a new JWT, so you can repeat it.
    pub async fn token_for(&self, request: &JwtTokenRequest) -> Result<Token> {
        let known = self.wall_correction.load(Ordering::Relaxed);
        let refused = match self.exchange(request, known).await {
            Err(error) if error.code() == Some(&ErrorCode::InvalidClient) => error,
            outcome => return outcome,
        };
        // If the local clock is wrong, the JWT is not yet valid or has expired. Sign another one with the server's
        // time, which is taken from the refused response. The correction is limited, because a proxy could have set
        // that time.
        let found = refused.wall_correction().unwrap_or(0);
        if found == known || found.unsigned_abs() > LARGEST_CORRECTION {
            return Err(refused);
        }
        tracing::debug!(
            found,
            "the local clock is wrong; signing with the server's time"
        );
        let outcome = self.exchange(request, found).await;
        if outcome.is_ok() {
            self.wall_correction.store(found, Ordering::Relaxed);
        }
        outcome
    }

    /// Signs a JWT without sending it, for your own token request. It is a single-use credential: send it as a bearer
    /// token. The [`duration`](JwtTokenRequest::duration) and [`scope`](JwtTokenRequest::scope) are not claims; send
    /// them in the body.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the session name or context is empty, and
    /// [`Signing`](crate::ErrorKind::Signing) when the signer fails.
    pub async fn signed_jwt(&self, request: &JwtTokenRequest) -> Result<Secret> {
        let signed = async {
            request.check_session()?;
            let known = self.wall_correction.load(Ordering::Relaxed);
            self.sign(request, known).await
        };
        signed.await.map_err(|error| error.in_flow(Flow::Jwt))
    }

    /// Replaces the signing key of this flow, of its clones, and of the providers and pools that use it. An exchange in
    /// flight continues with the JWT that is already signed.
    ///
    /// Register the new public key in the console first, and remove the old one afterwards. Issued tokens stay valid.
    ///
    /// ```no_run
    /// # fn example(jwt: coze_auth::JwtFlow) -> coze_auth::Result<()> {
    /// use coze_auth::PrivateKey;
    ///
    /// jwt.rotate_key("fingerprint of the new key", PrivateKey::from_pem_file("new_key.pem")?)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the key id is empty or can't be sent. The old key stays in
    /// use.
    pub fn rotate_key(&self, key_id: impl Into<KeyId>, signer: impl Signer) -> Result<()> {
        let key = Key::new(&key_id.into(), Arc::new(signer));
        let key = key.map_err(|error| error.in_flow(Flow::Jwt))?;
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = key;
        Ok(())
    }

    /// Signs a new JWT, with the local clock corrected by `wall_correction` seconds, and exchanges it for a token.
    async fn exchange(&self, request: &JwtTokenRequest, wall_correction: i64) -> Result<Token> {
        let prepared = async {
            let path = request.path()?;
            let grant = request.grant()?;
            Ok((path, grant, self.sign(request, wall_correction).await?))
        };
        let (path, grant, jwt) = prepared
            .await
            .map_err(|error: Error| error.in_flow(Flow::Jwt))?;
        let credentials = Credentials {
            flow: Flow::Jwt,
            bearer: Some(&jwt),
            body: Vec::new(),
        };
        self.client
            .issue_token_for(&path, &credentials, grant, request.duration)
            .await
    }

    async fn sign(&self, request: &JwtTokenRequest, wall_correction: i64) -> Result<Secret> {
        let claims = Claims::new(
            &self.client_id,
            &self.audience,
            self.client.clock().wall(),
            wall_correction,
            self.jwt_lifetime,
            request,
        )?;
        let key = self
            .key
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        claims::signed(&key.encoded_header, &claims, &*key.signer).await
    }

    /// The client that sends this flow's requests. Share it with an API client to use the same endpoint and connections.
    #[must_use]
    pub fn client(&self) -> &OAuthClient {
        &self.client
    }
}

impl fmt::Debug for JwtFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtFlow")
            .field("client_id", &self.client_id)
            .field("audience", &self.audience)
            .field("jwt_lifetime", &self.jwt_lifetime)
            .finish_non_exhaustive()
    }
}

/// The largest correction of the clock that a JWT is signed with, in seconds: a day.
const LARGEST_CORRECTION: u64 = 24 * 3600;

/// Builds a [`JwtFlow`].
#[must_use]
pub struct JwtFlowBuilder {
    client: OAuthClient,
    client_id: ClientId,
    key_id: KeyId,
    audience: Option<String>,
    signer: Option<Arc<dyn Signer>>,
    jwt_lifetime: Duration,
}

impl JwtFlowBuilder {
    /// The OAuth app's id (claim `iss`).
    pub fn client_id(mut self, client_id: impl Into<ClientId>) -> Self {
        self.client_id = client_id.into();
        self
    }

    /// The fingerprint of the public key, as the console shows it (header `kid`).
    pub fn key_id(mut self, key_id: impl Into<KeyId>) -> Self {
        self.key_id = key_id.into();
        self
    }

    /// The signer: a [`PrivateKey`], or your own [`Signer`] for a key service.
    pub fn signer(mut self, signer: impl Signer) -> Self {
        self.signer = Some(Arc::new(signer));
        self
    }

    /// The audience (claim `aud`); [that of the endpoint](crate::Endpoint::audience) by default.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// The lifetime of each JWT (`exp` minus `iat`), in whole seconds; 10 minutes by default. `iat` is 30 seconds in the past
    /// (or half of the lifetime, if that is less), as leeway for clock skew. The lifetime of the token is
    /// [`JwtTokenRequest::duration`].
    pub fn jwt_lifetime(mut self, jwt_lifetime: Duration) -> Self {
        self.jwt_lifetime = jwt_lifetime;
        self
    }

    /// Builds the flow.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the client id, the key id or the signer is
    /// missing, or the JWT's lifetime is not between a second and a day.
    pub fn build(self) -> Result<JwtFlow> {
        self.checked().map_err(|error| error.in_flow(Flow::Jwt))
    }

    fn checked(self) -> Result<JwtFlow> {
        let client_id = self.client_id.checked()?;
        let signer = self
            .signer
            .ok_or_else(|| Error::invalid_input("the private key or signer is missing"))?;
        let key = Key::new(&self.key_id, signer)?;
        if !(1..=24 * 3600).contains(&self.jwt_lifetime.as_secs()) {
            return Err(Error::invalid_input(format!(
                "the JWT's lifetime is {:?}; it must be 1 second to 1 day",
                self.jwt_lifetime
            )));
        }
        let audience = match self.audience {
            Some(audience) => address("audience", &audience)?,
            None => self.client.endpoint().audience().to_owned(),
        };
        Ok(JwtFlow {
            client: self.client,
            client_id,
            audience,
            key: Arc::new(RwLock::new(key)),
            jwt_lifetime: self.jwt_lifetime,
            wall_correction: Arc::default(),
        })
    }
}

impl fmt::Debug for JwtFlowBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtFlowBuilder")
            .field("client_id", &self.client_id)
            .field("key_id", &self.key_id)
            .field("audience", &self.audience)
            .field("jwt_lifetime", &self.jwt_lifetime)
            .finish_non_exhaustive()
    }
}

/// The parameters of a token request. By default, the token has all permissions of the application, a lifetime of 15
/// minutes, and access to the application's own resources.
///
/// ```
/// use std::time::Duration;
/// use coze_auth::{JwtTokenRequest, Scope};
///
/// let request = JwtTokenRequest::new()
///     .duration(Duration::from_secs(3600))
///     .session_name("user-42")
///     .scope(Scope::bot_chat(["bot-1", "bot-2"]));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[must_use]
pub struct JwtTokenRequest {
    duration: Option<Duration>,
    scope: Option<Scope>,
    session_name: Option<String>,
    session_context: Option<SessionContext>,
    on_behalf_of: Option<OnBehalfOf>,
}

/// The owner of the resources that a token is for, if not the application itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum OnBehalfOf {
    Account(String),
    Enterprise(String),
}

/// The longest lifetime of a token, in seconds (one second less than a day).
const LONGEST_DURATION: u64 = 86_399;

impl JwtTokenRequest {
    /// Creates a request with the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The lifetime of the token, in whole seconds: 1 to 86,399; 900 by default.
    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = Some(duration);
        self
    }

    /// Limits the permissions of the token (channel apps).
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Limits the token to the conversations of one end user (session isolation):
    /// <https://www.coze.cn/open/docs/developer_guides/session_isolation>.
    pub fn session_name(mut self, session_name: impl Into<String>) -> Self {
        self.session_name = Some(session_name.into());
        self
    }

    /// The device or consumer that usage is counted for.
    pub fn session_context(mut self, session_context: SessionContext) -> Self {
        self.session_context = Some(session_context);
        self
    }

    /// Requests access to the resources of another account or organisation that has granted it:
    /// <https://www.coze.cn/open/docs/developer_guides/oauth_jwt_collaborate>. Replaces [`enterprise`](Self::enterprise).
    pub fn account(mut self, account_id: impl Into<String>) -> Self {
        self.on_behalf_of = Some(OnBehalfOf::Account(account_id.into()));
        self
    }

    /// Requests access as the privileged app of an enterprise:
    /// <https://www.coze.cn/open/docs/developer_guides/oauth_jwt_privilege>. Replaces [`account`](Self::account).
    pub fn enterprise(mut self, enterprise_id: impl Into<String>) -> Self {
        self.on_behalf_of = Some(OnBehalfOf::Enterprise(enterprise_id.into()));
        self
    }

    /// The session name, if the request has no other parameters.
    pub(crate) fn only_session_name(&self) -> Option<&str> {
        match self {
            Self {
                duration: None,
                scope: None,
                session_name: Some(session_name),
                session_context: None,
                on_behalf_of: None,
            } => Some(session_name),
            _ => None,
        }
    }

    fn path(&self) -> Result<TokenPath> {
        Ok(match &self.on_behalf_of {
            None => TokenPath::Own,
            Some(OnBehalfOf::Account(id)) => TokenPath::Account(PathId::new("account", id)?),
            Some(OnBehalfOf::Enterprise(id)) => {
                TokenPath::Enterprise(PathId::new("enterprise", id)?)
            }
        })
    }

    fn check_session(&self) -> Result<()> {
        if let Some(session_name) = &self.session_name {
            required("session name", session_name)?;
        }
        if let Some(session_context) = &self.session_context {
            session_context.check()?;
        }
        Ok(())
    }

    fn grant(&self) -> Result<types::JwtBearerGrant> {
        self.check_session()?;
        Ok(types::JwtBearerGrant {
            duration_seconds: self.duration.map(checked_duration).transpose()?,
            grant_type: Default::default(),
            scope: self.scope.as_ref().map(Scope::to_wire).transpose()?,
        })
    }
}

fn checked_duration(duration: Duration) -> Result<i64> {
    i64::try_from(duration.as_secs())
        .ok()
        .filter(|seconds| (1..=LONGEST_DURATION.cast_signed()).contains(seconds))
        .ok_or_else(|| {
            Error::invalid_input(format!(
                "the token's duration is {duration:?}; it must be 1 to {LONGEST_DURATION} seconds"
            ))
        })
}

/// The device or consumer that usage is counted for, in quotas and billing. Coze recommends setting one of the two, and accepts
/// both.
///
/// Source: <https://www.coze.cn/open/docs/developer_guides/oauth_jwt>.
///
/// ```
/// use coze_auth::{JwtTokenRequest, SessionContext};
///
/// let request = JwtTokenRequest::new().session_context(SessionContext::new().device_id("sensor-1"));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[must_use]
pub struct SessionContext {
    device_id: Option<String>,
    custom_consumer: Option<String>,
}

impl SessionContext {
    /// Creates an empty context; set at least one of the two.
    pub fn new() -> Self {
        Self::default()
    }

    /// The device (`device_id`).
    pub fn device_id(mut self, device_id: impl Into<String>) -> Self {
        self.device_id = Some(device_id.into());
        self
    }

    /// A consumer that you define (`custom_consumer`).
    pub fn custom_consumer(mut self, custom_consumer: impl Into<String>) -> Self {
        self.custom_consumer = Some(custom_consumer.into());
        self
    }

    fn check(&self) -> Result<()> {
        if self.device_id.is_none() && self.custom_consumer.is_none() {
            return Err(Error::invalid_input(
                "the session context has neither a device id nor a custom consumer",
            ));
        }
        for (name, value) in [
            ("device id", &self.device_id),
            ("custom consumer", &self.custom_consumer),
        ] {
            if let Some(value) = value {
                required(name, value)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;

    #[test]
    fn a_duration_outside_the_documented_limits_is_refused_before_sending() {
        let grant = |duration| JwtTokenRequest::new().duration(duration).grant();
        for (duration, expected) in [
            (Duration::from_secs(1), 1),
            (Duration::from_millis(1999), 1),
            (Duration::from_secs(86_399), 86_399),
        ] {
            assert_eq!(grant(duration).unwrap().duration_seconds, Some(expected));
        }
        for bad in [
            Duration::ZERO,
            Duration::from_millis(999),
            Duration::from_secs(86_400),
            Duration::MAX,
        ] {
            let error = grant(bad).unwrap_err().to_string();
            assert!(error.contains("1 to 86399 seconds"), "{error}");
        }
    }

    #[test]
    fn empty_ids_and_names_are_refused() {
        let request = JwtTokenRequest::new;
        assert!(request().account("").path().is_err());
        assert!(request().enterprise("..").path().is_err());
        assert!(request().session_name(" ").grant().is_err());
        for empty in [
            SessionContext::new(),
            SessionContext::new().device_id(""),
            SessionContext::new().device_id("d").custom_consumer("\n"),
        ] {
            assert!(request().session_context(empty).grant().is_err());
        }
    }

    fn client() -> OAuthClient {
        OAuthClient::new(crate::Endpoint::custom("http://127.0.0.1:9").unwrap()).unwrap()
    }

    /// Its signature is its name.
    struct Named(&'static str);

    impl Signer for Named {
        fn sign<'a>(&'a self, _: &'a [u8]) -> SignFuture<'a> {
            Box::pin(async { Ok(self.0.into()) })
        }
    }

    /// The header and claims of a JWT, and its signature.
    fn parts(jwt: &Secret) -> (serde_json::Value, serde_json::Value, Vec<u8>) {
        let parts: Vec<_> = jwt.expose().split('.').collect();
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
        let json = |part| serde_json::from_slice(&decoded(part)).unwrap();
        (json(parts[0]), json(parts[1]), decoded(parts[2]))
    }

    #[tokio::test]
    async fn signed_jwt_signs_a_new_jwt_each_time() {
        let jwt = JwtFlow::builder(client()).client_id("id").key_id("kid");
        let jwt = jwt.signer(Named("one")).build().unwrap();
        let request = JwtTokenRequest::new().session_name("user-42");
        let (one, other) = (jwt.signed_jwt(&request), jwt.signed_jwt(&request));
        let (one, other) = (parts(&one.await.unwrap()), parts(&other.await.unwrap()));
        assert_eq!(one.1["iss"], "id");
        assert_eq!(one.1["aud"], "127.0.0.1");
        assert_eq!(one.1["session_name"], "user-42");
        assert_ne!(one.1["jti"], other.1["jti"]);
        let nameless = JwtTokenRequest::new().session_name(" ");
        let error = jwt.signed_jwt(&nameless);
        assert_eq!(error.await.unwrap_err().flow(), Some(Flow::Jwt));
    }

    #[tokio::test]
    async fn rotate_key_applies_to_clones_and_an_invalid_key_changes_nothing() {
        let jwt = JwtFlow::builder(client()).client_id("id").key_id("old");
        let jwt = jwt.signer(Named("one")).build().unwrap();
        let clone = jwt.clone();
        let signed = async || {
            let signed = clone.signed_jwt(&JwtTokenRequest::new()).await;
            let (header, _, signature) = parts(&signed.unwrap());
            (header["kid"].as_str().unwrap().to_owned(), signature)
        };
        assert_eq!(signed().await, ("old".to_owned(), b"one".to_vec()));
        assert!(jwt.rotate_key(" ", Named("two")).is_err());
        assert_eq!(signed().await, ("old".to_owned(), b"one".to_vec()));
        jwt.rotate_key("new", Named("two")).unwrap();
        assert_eq!(signed().await, ("new".to_owned(), b"two".to_vec()));
    }

    #[test]
    fn missing_or_invalid_parameters_are_refused_when_built() {
        let client = client();
        let complete = || {
            JwtFlow::builder(client.clone())
                .client_id("id")
                .key_id("kid")
                .signer(Named("one"))
        };
        assert!(complete().build().is_ok());
        for (builder, missing) in [
            (complete().client_id(" "), "client id"),
            (complete().key_id(""), "key id"),
            (complete().audience(""), "audience"),
            (complete().jwt_lifetime(Duration::ZERO), "JWT's lifetime"),
            (complete().jwt_lifetime(Duration::MAX), "JWT's lifetime"),
            (
                JwtFlow::builder(client.clone())
                    .client_id("id")
                    .key_id("kid"),
                "private key",
            ),
        ] {
            let error = builder.build().unwrap_err().to_string();
            assert!(error.contains(missing), "{missing}: {error}");
        }
    }
}
