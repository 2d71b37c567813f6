//! [`JwtFlow`]: a service authenticates as the application itself, with a signed JWT.
//!
//! The claims, with `jti` and the JWT's `iat` and `exp`, are in `claims.rs`; the lifetime of a JWT is
//! `JWT_LIFETIME` there. The lifetime of the *token* is requested with [`JwtTokenRequest::duration`].

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
    input::{PathId, required},
};
use claims::{Claims, Header};
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
/// let key = PrivateKey::from_pem_file("private_key.pem")?;
/// let client = OAuthClient::new(Endpoint::CN)?;
/// let jwt = JwtFlow::new(client, "client-id".into(), "public key fingerprint".into(), key)?;
/// let token = jwt.token().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct JwtFlow {
    client: OAuthClient,
    client_id: ClientId,
    key: Arc<RwLock<Key>>,
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
    /// Creates the flow of one JWT app. `key_id` is the fingerprint of the public key, as the console shows it; `signer` is a
    /// [`PrivateKey`], or your own [`Signer`] for a key service.
    ///
    /// The audience (claim `aud`) is [that of the endpoint](crate::Endpoint::audience). Each JWT is valid for 10 minutes; its
    /// `iat` is 30 seconds in the past, as leeway for clock skew. The lifetime of the token is
    /// [`JwtTokenRequest::duration`].
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the client id or the key id is empty or can't be sent.
    /// Surrounding white space is removed.
    pub fn new(
        client: OAuthClient,
        client_id: ClientId,
        key_id: KeyId,
        signer: impl Signer,
    ) -> Result<Self> {
        let checked = || {
            Ok(Self {
                client,
                client_id: client_id.checked()?,
                key: Arc::new(RwLock::new(Key::new(&key_id, Arc::new(signer))?)),
                wall_correction: Arc::default(),
            })
        };
        checked().map_err(|error: Error| error.in_flow(Flow::Jwt))
    }

    /// Gets a token with Coze's defaults: all permissions of the application, valid for 15 minutes.
    ///
    /// # Errors
    ///
    /// As [`token_for`](Self::token_for).
    pub async fn token(&self) -> Result<Token> {
        self.token_for(&JwtTokenRequest::default()).await
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
        if found.abs_diff(known) <= TOLERATED_SKEW || found.unsigned_abs() > LARGEST_CORRECTION {
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
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the session name, device id or custom consumer is empty, and
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
            self.client.endpoint().audience(),
            self.client.clock().wall(),
            wall_correction,
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
            .finish_non_exhaustive()
    }
}

/// A clock that differs by no more than this, in seconds, is not why a JWT was refused.
const TOLERATED_SKEW: u64 = 5;

/// The largest correction of the clock that a JWT is signed with, in seconds: a day.
const LARGEST_CORRECTION: u64 = 24 * 3600;

/// The parameters of a token request. By default, the token has all permissions of the application, a lifetime of 15
/// minutes, and access to the application's own resources.
///
/// ```
/// use std::time::Duration;
/// use coze_auth::{JwtTokenRequest, Scope};
///
/// let request = JwtTokenRequest::default()
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
    device_id: Option<String>,
    custom_consumer: Option<String>,
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

    /// The device that usage is counted for, in quotas and billing (`device_id` of the session context). Coze recommends
    /// setting this or [`custom_consumer`](Self::custom_consumer), and accepts both:
    /// <https://www.coze.cn/open/docs/developer_guides/oauth_jwt>.
    pub fn device_id(mut self, device_id: impl Into<String>) -> Self {
        self.device_id = Some(device_id.into());
        self
    }

    /// The consumer that usage is counted for, as you define it (`custom_consumer` of the session context).
    pub fn custom_consumer(mut self, custom_consumer: impl Into<String>) -> Self {
        self.custom_consumer = Some(custom_consumer.into());
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
                device_id: None,
                custom_consumer: None,
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
        for (name, value) in [
            ("session name", &self.session_name),
            ("device id", &self.device_id),
            ("custom consumer", &self.custom_consumer),
        ] {
            if let Some(value) = value {
                required(name, value)?;
            }
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

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;

    #[test]
    fn a_duration_outside_the_documented_limits_is_refused_before_sending() {
        let grant = |duration| JwtTokenRequest::default().duration(duration).grant();
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
        let request = JwtTokenRequest::default;
        assert!(request().account("").path().is_err());
        assert!(request().enterprise("..").path().is_err());
        assert!(request().session_name(" ").grant().is_err());
        assert!(request().device_id("").grant().is_err());
        let blank = request().device_id("d").custom_consumer("\n");
        assert!(blank.grant().is_err());
    }

    fn flow(client_id: &str, key_id: &str) -> Result<JwtFlow> {
        let endpoint = crate::Endpoint::custom("http://127.0.0.1:9")?;
        let client = OAuthClient::new(endpoint)?;
        JwtFlow::new(client, client_id.into(), key_id.into(), Named("one"))
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
        let jwt = flow("id", "kid").unwrap();
        let request = JwtTokenRequest::default().session_name("user-42");
        let (one, other) = (jwt.signed_jwt(&request), jwt.signed_jwt(&request));
        let (one, other) = (parts(&one.await.unwrap()), parts(&other.await.unwrap()));
        assert_eq!(one.1["iss"], "id");
        assert_eq!(one.1["aud"], "127.0.0.1");
        assert_eq!(one.1["session_name"], "user-42");
        assert_ne!(one.1["jti"], other.1["jti"]);
        let nameless = JwtTokenRequest::default().session_name(" ");
        let error = jwt.signed_jwt(&nameless);
        assert_eq!(error.await.unwrap_err().flow(), Some(Flow::Jwt));
    }

    #[tokio::test]
    async fn rotate_key_applies_to_clones_and_an_invalid_key_changes_nothing() {
        let jwt = flow("id", "old").unwrap();
        let clone = jwt.clone();
        let signed = async || {
            let signed = clone.signed_jwt(&JwtTokenRequest::default()).await;
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
    fn invalid_ids_are_refused() {
        for (client_id, key_id, missing) in [(" ", "kid", "client id"), ("id", "", "key id")] {
            let error = flow(client_id, key_id).unwrap_err();
            assert_eq!(error.flow(), Some(Flow::Jwt));
            assert!(error.to_string().contains(missing), "{missing}: {error}");
        }
    }
}
