//! A token for each of very many users who have signed in.

use std::{fmt, sync::Arc};

use super::{
    AccessToken, PoolBuilder, PoolStats, TokenFuture, TokenProvider,
    circuit_breaker::CircuitBreaker,
    engine::{fetch, invalidate},
    pool::{Member, Members, Pool},
    source::Source,
};
use crate::{
    DeviceFlow, PkceFlow, Result, Token, WebFlow,
    runtime::RunsOn,
    sign_in::{SignIn, StoredSource, UserFlow},
    store::Store,
};

/// Keeps the tokens of many signed-in users fresh: for a web application whose users each signed in with their own
/// account, by the web, PKCE or device flow.
///
/// Sign-ins are kept in a [store](crate::store), under the user's id; the pool keeps the access tokens that are in use.
/// Each user's token behaves as that of a [`CachedProvider`](crate::CachedProvider) does. The pool is bounded, and has a
/// limit of requests and a circuit breaker, as a [`SessionPool`](crate::SessionPool) has. That the API refused a token is
/// remembered by the pool, however short-lived the provider was that was told.
///
/// ```no_run
/// # async fn example(web: coze_auth::WebFlow, signed_in: coze_auth::Token) -> coze_auth::Result<()> {
/// use coze_auth::{UserPool, store::MemoryStore};
///
/// let users = UserPool::web(web, MemoryStore::new()).build();
///
/// // When a user has signed in:
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

struct Users {
    flow: Arc<UserFlow>,
    store: Arc<dyn Store>,
}

impl Members for Users {
    type Request = ();

    fn new_source(
        &self,
        user_id: &str,
        (): &(),
        breaker: &Arc<CircuitBreaker>,
    ) -> Result<Arc<dyn Source>> {
        let sign_in = SignIn::new(Arc::clone(&self.store), user_id)?;
        let source = StoredSource::new(Arc::clone(&self.flow), sign_in, Arc::clone(breaker));
        Ok(Arc::new(source))
    }
}

impl UserPool {
    /// A pool of users who sign in through a web application.
    pub fn web(flow: WebFlow, store: impl Store) -> PoolBuilder<Self> {
        Self::of(UserFlow::Web(flow), store)
    }

    /// A pool of users who sign in with PKCE.
    pub fn pkce(flow: PkceFlow, store: impl Store) -> PoolBuilder<Self> {
        Self::of(UserFlow::Pkce(flow), store)
    }

    /// A pool of users who sign in on a device.
    pub fn device(flow: DeviceFlow, store: impl Store) -> PoolBuilder<Self> {
        Self::of(UserFlow::Device(flow), store)
    }

    fn of(flow: UserFlow, store: impl Store) -> PoolBuilder<Self> {
        PoolBuilder::new(move |limits| {
            let clock = flow.client().clock().clone();
            let members = Users {
                flow: Arc::new(flow),
                store: Arc::new(store),
            };
            Self(Pool::new(members, clock, limits, RunsOn::Process, false))
        })
    }

    /// The provider of one user. The id is the name of the user's profile in the store: 1 to 128 bytes without control
    /// characters; with another, its calls end with [`InvalidInput`](crate::ErrorKind::InvalidInput).
    #[must_use]
    pub fn user(&self, user_id: impl AsRef<str>) -> UserProvider {
        UserProvider(self.0.member(user_id.as_ref(), ()))
    }

    /// How it has done so far.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.0.stats()
    }

    /// Begins no more requests, and waits for those that are under way and for their saves, so that no rotated refresh
    /// token is lost. A save that failed is retried for ten seconds. Valid tokens are still served.
    ///
    /// # Errors
    ///
    /// Why a sign-in could not be saved: it is lost when the program ends, unless the store works again before that. Called
    /// once more, this waits for that again.
    pub async fn shutdown(&self) -> Result<()> {
        self.0.shutdown().await
    }
}

impl fmt::Debug for UserPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserPool")
            .field("flow", &self.0.members.flow.kind())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// The token of one user of a [`UserPool`]. Cheap to make and to clone; it holds no token itself.
#[derive(Clone)]
pub struct UserProvider(Member<Users>);

impl UserProvider {
    /// A token: the cached one, else one from the store or from Coze.
    ///
    /// # Errors
    ///
    /// As [`CachedProvider::token`](crate::CachedProvider::token); [`NotSignedIn`](crate::ErrorKind::NotSignedIn) when the
    /// user has to sign in.
    pub async fn token(&self) -> Result<AccessToken> {
        match self.cached() {
            Some(token) => Ok(token),
            None => fetch(&self.0).await,
        }
    }

    /// The user's sign-in in the store. To change it, use [`put`](Self::put) and [`sign_out`](Self::sign_out), so that the pool
    /// knows.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the user's id can't be the name of a profile.
    pub fn sign_in(&self) -> Result<SignIn> {
        let active = self.0.source().and_then(|source| source.sign_in());
        active.map_or_else(
            || SignIn::new(Arc::clone(&self.0.pool.members.store), self.0.name()),
            Ok,
        )
    }

    /// Keeps the token of a fresh sign-in, in place of whatever is there. It is served from the next call on.
    ///
    /// # Errors
    ///
    /// As [`SignIn::put`].
    pub async fn put(&self, token: &Token) -> Result<()> {
        let put = self.sign_in()?.put(token).await;
        self.0.forget_token();
        put
    }

    /// Signs the user out: deletes the sign-in from the store, and its token from the pool. Coze has no way to revoke it, so
    /// the tokens stay valid until they expire.
    ///
    /// # Errors
    ///
    /// As [`SignIn::sign_out`].
    pub async fn sign_out(&self) -> Result<()> {
        let signed_out = self.sign_in()?.sign_out().await;
        self.0.forget_token();
        signed_out
    }
}

impl TokenProvider for UserProvider {
    fn cached(&self) -> Option<AccessToken> {
        self.0.cached()
    }

    fn fetch(&self) -> TokenFuture<'_> {
        Box::pin(fetch(&self.0))
    }

    fn invalidate(&self, token: &AccessToken) {
        invalidate(&self.0, token);
    }
}

impl fmt::Debug for UserProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UserProvider").field(&self.0.name()).finish()
    }
}
