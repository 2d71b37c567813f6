//! [`SessionPool`]: tokens for many end users (sessions) of one JWT app.

use std::{fmt, sync::Arc};

use super::{
    PoolBuilder, Stats,
    pool::{Member, Members, Pool},
    source::{JwtSource, Source},
};
use crate::{
    JwtFlow, JwtTokenRequest, OAuthClient, Result, retry::circuit_breaker::CircuitBreaker,
};

/// Caches and refreshes the tokens of many sessions: one per session name, scope, session context, duration, and
/// account or enterprise.
///
/// A session name is Coze's documented way to isolate the conversations of end users from each other
/// (<https://www.coze.cn/open/docs/developer_guides/session_isolation>).
///
/// Each session behaves like a [`CachedProvider`](crate::CachedProvider): all callers of a session share one request. The
/// pool is bounded. Idle tokens are dropped, and so are rarely used ones when the pool is full; such a session gets a new
/// token on its next call. The number of [concurrent requests](PoolBuilder::max_concurrent_requests) is limited; other
/// requests wait for a permit.
///
/// The pool has a circuit breaker. It opens when more consecutive requests than there are permits have found the server
/// down or were rate limited. While it is open, each permit allows one attempt a second (or per `Retry-After`, up to 15
/// seconds) to detect recovery, regardless of the number of sessions. A caller that finds no free permit fails immediately
/// with the kind and status of the last failure; its [`retry_after`](crate::Error::retry_after) says when a permit may be
/// free. Valid tokens are still served.
///
/// ```no_run
/// # async fn example(jwt: coze_auth::JwtFlow) -> coze_auth::Result<()> {
/// use coze_auth::{JwtTokenRequest, Scope, SessionPool};
///
/// let pool = SessionPool::builder(jwt).build();
///
/// // On every request of a user:
/// let token = pool.session("user-42").token().await?;
///
/// // Or with a narrower scope:
/// let request = JwtTokenRequest::default()
///     .session_name("user-42")
///     .scope(Scope::bot_chat(["bot-1"]));
/// let token = pool.provider(request).token().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SessionPool(Arc<Pool<Sessions>>);

/// The sessions of one JWT app.
pub struct Sessions(Arc<JwtFlow>);

impl Members for Sessions {
    const PROVIDER: &'static str = "SessionProvider";
    const IS_STORED: bool = false;
    /// `None` for a request with only a session name, which is the key.
    type Request = Option<Arc<JwtTokenRequest>>;

    fn client(&self) -> &OAuthClient {
        self.0.client()
    }

    fn new_source(
        &self,
        name: &str,
        request: &Self::Request,
        breaker: &Arc<CircuitBreaker>,
    ) -> Result<Arc<dyn Source>> {
        let request = match request {
            None => JwtTokenRequest::default().session_name(name),
            Some(request) => JwtTokenRequest::clone(request),
        };
        Ok(Arc::new(JwtSource {
            flow: Arc::clone(&self.0),
            request,
            breaker: Arc::clone(breaker),
        }))
    }
}

/// The first character of the key of a request with more than a session name.
const NOT_A_NAME: char = '\0';

impl SessionPool {
    /// A pool for the sessions of one JWT app.
    pub fn builder(flow: JwtFlow) -> PoolBuilder<Self> {
        PoolBuilder::new(move |limits| Self(Pool::new(Sessions(Arc::new(flow)), limits)))
    }

    /// The provider for an end user's session.
    #[must_use]
    pub fn session(&self, session_name: impl AsRef<str>) -> SessionProvider {
        let session_name = session_name.as_ref();
        if session_name.starts_with(NOT_A_NAME) {
            return self.provider(JwtTokenRequest::default().session_name(session_name));
        }
        self.0.member(session_name, None)
    }

    /// The provider for any JWT token request.
    #[must_use]
    pub fn provider(&self, request: JwtTokenRequest) -> SessionProvider {
        if let Some(session_name) = request.only_session_name()
            && !session_name.starts_with(NOT_A_NAME)
        {
            return self.session(session_name);
        }
        // `Debug` quotes and escapes strings, so different requests have different keys.
        let key = format!("{NOT_A_NAME}{request:?}");
        self.0.member(key, Some(Arc::new(request)))
    }

    /// The statistics of this pool.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }
}

impl fmt::Debug for SessionPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionPool")
            .field("flow", &self.0.members.0)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// The provider for one session of a [`SessionPool`]. Cheap to create and to clone; it holds no token itself.
pub type SessionProvider = Member<Sessions>;
