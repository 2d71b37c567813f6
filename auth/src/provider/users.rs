//! [`UserPool`]: tokens for many signed-in users of one app.

use std::{fmt, sync::Arc};

use super::{
    PoolBuilder, Stats,
    pool::{Member, Members, Pool},
    source::Source,
};
use crate::{
    OAuthClient, RefreshToken, Result, Token, UserFlow,
    flow::app::App,
    retry::circuit_breaker::CircuitBreaker,
    sign_in::{SignIn, StoredSource},
    store::Store,
};

/// Keeps the tokens of many signed-in users valid: for a web application whose users sign in with their own accounts,
/// by the web, PKCE or device flow.
///
/// Sign-ins are stored in a [store](crate::store), under the user's id; the pool caches the access tokens in use. Each
/// user's token behaves like that of a [`CachedProvider`](crate::CachedProvider). The pool is bounded, and has a
/// request limit and a circuit breaker, like a [`SessionPool`](crate::SessionPool). The pool remembers which tokens the
/// API refused, even if the [`UserProvider`] that reported it is dropped.
///
/// ```no_run
/// # async fn example(web: coze_auth::WebFlow, signed_in: coze_auth::Token) -> coze_auth::Result<()> {
/// use coze_auth::{UserPool, store::MemoryStore};
///
/// let users = UserPool::builder(web, MemoryStore::new()).build();
///
/// // After a user has signed in:
/// users.user("user-42").put(&signed_in).await?;
///
/// // On every request of that user:
/// let token = users.user("user-42").token().await?;
///
/// // Before the program ends:
/// users.shutdown().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct UserPool(Arc<Pool<Users>>);

/// The signed-in users of one application.
pub struct Users {
    app: Arc<App>,
    store: Arc<dyn Store>,
}

impl Members for Users {
    const PROVIDER: &'static str = "UserProvider";
    const IS_STORED: bool = true;
    type Request = ();

    fn client(&self) -> &OAuthClient {
        self.app.client()
    }

    fn new_source(
        &self,
        user_id: &str,
        (): &(),
        breaker: &Arc<CircuitBreaker>,
    ) -> Result<Arc<dyn Source>> {
        let sign_in = SignIn::new(Arc::clone(&self.store), user_id)?;
        let source = StoredSource::new(Arc::clone(&self.app), sign_in, Arc::clone(breaker));
        Ok(Arc::new(source))
    }
}

impl UserPool {
    /// Builds a pool for the users of one application, who sign in with this flow: [`WebFlow`](crate::WebFlow),
    /// [`PkceFlow`](crate::PkceFlow) or [`DeviceFlow`](crate::DeviceFlow).
    pub fn builder(flow: impl UserFlow, store: impl Store) -> PoolBuilder<Self> {
        let app = Arc::clone(flow.app());
        PoolBuilder::new(move |limits| {
            let store = Arc::new(store);
            Self(Pool::new(Users { app, store }, limits))
        })
    }

    /// The provider for one user. The id is the name of the user's profile in the store: 1 to 128 bytes without control
    /// characters. With any other id, its calls fail with [`InvalidInput`](crate::ErrorKind::InvalidInput).
    #[must_use]
    pub fn user(&self, user_id: impl AsRef<str>) -> UserProvider {
        self.0.member(user_id.as_ref(), ())
    }

    /// The statistics of this pool.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// Shuts the pool down: starts no more requests, and waits for those in flight and for their saves, so that no
    /// rotated refresh token is lost. A failed save is retried for ten seconds. Valid tokens are still served.
    ///
    /// # Errors
    ///
    /// The error of a failed save. The sign-in is lost when the program ends, unless a later save succeeds. Another
    /// call waits for the save again.
    pub async fn shutdown(&self) -> Result<()> {
        self.0.shutdown().await
    }
}

impl fmt::Debug for UserPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserPool")
            .field("flow", &self.0.members.app.flow())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// The token of one user of a [`UserPool`], and the user's sign-in. Cheap to create and to clone; it holds no token
/// itself.
///
/// Its calls fail with [`NotSignedIn`](crate::ErrorKind::NotSignedIn) if the user must sign in.
pub type UserProvider = Member<Users>;

impl UserProvider {
    /// The user's sign-in in the store. Change it only with [`put`](Self::put) and [`sign_out`](Self::sign_out), so
    /// that the pool drops its cached token.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the user's id is not a valid profile name.
    pub fn sign_in(&self) -> Result<SignIn> {
        let source = self.active().and_then(|requests| requests.source());
        if let Some(stored) = source.as_ref().and_then(|source| source.stored()) {
            return Ok(stored.sign_in().clone());
        }
        SignIn::new(Arc::clone(&self.pool.members.store), self.name())
    }

    /// Stores the token of a fresh sign-in, and replaces an existing one. The next call returns it.
    ///
    /// # Errors
    ///
    /// As [`SignIn::put`].
    pub async fn put(&self, token: &Token) -> Result<()> {
        let _changed = Changed(self);
        self.sign_in()?.put(token).await
    }

    /// Stores a refresh token without an access token, such as one from another SDK, as [`put`](Self::put) does. The
    /// first call of [`token`](Self::token) redeems it.
    ///
    /// # Errors
    ///
    /// As [`SignIn::put_refresh_token`].
    pub async fn put_refresh_token(&self, refresh_token: &RefreshToken) -> Result<()> {
        let _changed = Changed(self);
        let app = &self.pool.members.app;
        let (client_id, endpoint) = (app.client_id(), app.client().endpoint());
        self.sign_in()?
            .put_refresh_token(refresh_token, client_id, endpoint)
            .await
    }

    /// Signs the user out: deletes the sign-in from the store, and its token from the pool. Coze has no endpoint to
    /// revoke tokens, so they stay valid until they expire.
    ///
    /// # Errors
    ///
    /// As [`SignIn::sign_out`].
    pub async fn sign_out(&self) -> Result<()> {
        let _changed = Changed(self);
        self.sign_in()?.sign_out().await
    }
}

/// A change of a user's sign-in. When it ends, the pool drops its token: also when the change fails or its future is dropped,
/// because the store may have been changed then.
struct Changed<'a>(&'a UserProvider);

impl Drop for Changed<'_> {
    fn drop(&mut self) {
        self.0.forget_token();
    }
}
