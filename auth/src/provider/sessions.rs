//! A token for each of very many end users of an application that signs in by JWT.

use std::{fmt, sync::Arc};

use super::{
    PoolBuilder, Stats,
    circuit_breaker::CircuitBreaker,
    pool::{Member, Members, Pool},
    source::{JwtSource, Source},
};
use crate::{JwtFlow, JwtTokenRequest, OAuthClient, Result};

/// Keeps the tokens of many sessions fresh: one per session name, scope, session context, duration, and
/// account or enterprise.
///
/// A session name is Coze's documented way to keep end users apart: nobody sees another's conversations
/// (<https://www.coze.cn/open/docs/developer_guides/session_isolation>).
///
/// Each session behaves as a [`CachedProvider`](crate::CachedProvider) does, with one request for all
/// callers of a session. The pool is bounded: over its capacity the sessions least worth keeping are
/// dropped, as are those that nobody asked for in a while; they simply get another token. At most so many
/// [requests](PoolBuilder::max_concurrent_requests) run at once, and others wait for their turn.
///
/// It has a circuit breaker: when more requests in a row than may run at once have found the server down, or were asked to
/// come later, it opens. Then as many attempts a second (or in the time that the server asks for, up to 15 seconds) find
/// out when the server is back, whatever number of sessions want a token. Until then nobody waits: a caller who finds no
/// turn free gets the kind and status of the last failure at once, and about when a turn may be free as its
/// [`retry_after`](crate::Error::retry_after). Tokens that are valid are still served.
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
/// // Or with less than everything:
/// let request = JwtTokenRequest::new()
///     .session_name("user-42")
///     .scope(Scope::bot_chat(["bot-1"]));
/// let token = pool.provider(request).token().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SessionPool(Arc<Pool<Sessions>>);

/// The sessions of one application.
pub struct Sessions(Arc<JwtFlow>);

impl Members for Sessions {
    const PROVIDER: &'static str = "SessionProvider";
    const IS_STORED: bool = false;
    /// `None` for the session whose name is the key's.
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
            None => JwtTokenRequest::new().session_name(name),
            Some(request) => JwtTokenRequest::clone(request),
        };
        Ok(Arc::new(JwtSource {
            flow: Arc::clone(&self.0),
            request,
            breaker: Arc::clone(breaker),
        }))
    }
}

/// The first character of the key of a request that is more than a session name.
const NOT_A_NAME: char = '\0';

impl SessionPool {
    /// A pool of the sessions of one application.
    pub fn builder(flow: JwtFlow) -> PoolBuilder<Self> {
        PoolBuilder::new(move |limits| Self(Pool::new(Sessions(Arc::new(flow)), limits)))
    }

    /// The provider of an end user's session.
    #[must_use]
    pub fn session(&self, session_name: impl AsRef<str>) -> SessionProvider {
        let session_name = session_name.as_ref();
        if session_name.starts_with(NOT_A_NAME) {
            return self.provider(JwtTokenRequest::new().session_name(session_name));
        }
        self.0.member(session_name, None)
    }

    /// The provider for a request of any kind.
    #[must_use]
    pub fn provider(&self, request: JwtTokenRequest) -> SessionProvider {
        if let Some(session_name) = request.only_session_name()
            && !session_name.starts_with(NOT_A_NAME)
        {
            return self.session(session_name);
        }
        // `Debug` of strings is quoted and escaped, so no two values run into one another.
        let key = format!("{NOT_A_NAME}{request:?}");
        self.0.member(key, Some(Arc::new(request)))
    }

    /// How it has done so far.
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

/// The token of one session of a [`SessionPool`]. Cheap to make and to clone; it holds no token itself.
pub type SessionProvider = Member<Sessions>;
