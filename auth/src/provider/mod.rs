//! Where a service gets its token from, on every request.
//!
//! [`TokenProvider`] is the one trait: a fast path that never waits, and a slow one that gets a token
//! first. A [`FixedToken`] is one; [`CachedProvider`] keeps the token of any flow fresh.

mod access_token;
mod cached;
pub(crate) mod circuit_breaker;
mod engine;
mod fixed;
pub(crate) mod lifespan;
mod pool;
pub(crate) mod retry;
mod sessions;
mod single_flight;
mod slot;
pub(crate) mod source;
mod stats;
mod token_cache;
mod users;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

pub use access_token::AccessToken;
pub use cached::{BorrowedToken, CachedProvider, CachedProviderBuilder, RefreshMode};
pub use fixed::FixedToken;
pub(crate) use fixed::TOKEN_VARIABLE;
pub use pool::PoolBuilder;
pub use sessions::{SessionPool, SessionProvider};
pub use stats::Stats;
pub use users::{UserPool, UserProvider};

use futures_util::future::Either;

use crate::{Endpoint, Result};

/// What [`TokenProvider::fetch`] and [`TokenProvider::shutdown`] return.
pub type TokenFuture<'a, T = AccessToken> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Yields an access token, on every request.
///
/// It is split in two, so that the common case costs neither an allocation nor a wait: first
/// [`cached`](Self::cached), and only when that has none, [`fetch`](Self::fetch). Callers simply call `token`, which does
/// both, for every provider: generic or `dyn`.
///
/// ```
/// use std::sync::Arc;
/// use coze_auth::{FixedToken, TokenProvider};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coze_auth::Result<()> {
/// let provider: Arc<dyn TokenProvider> = Arc::new(FixedToken::new("pat_abc")?);
/// let token = provider.token().await?;
/// assert_eq!(token.authorization().as_bytes(), b"Bearer pat_abc");
/// # Ok(()) }
/// ```
///
/// Implement it for a token that comes from elsewhere:
///
/// ```
/// use coze_auth::{AccessToken, Error, TokenFuture, TokenProvider};
///
/// struct FromAFile;
///
/// impl TokenProvider for FromAFile {
///     fn cached(&self) -> Option<AccessToken> {
///         None // it may have been rotated since
///     }
///
///     fn fetch(&self) -> TokenFuture<'_> {
///         Box::pin(async {
///             let token = std::fs::read_to_string("/run/secrets/coze")
///                 .map_err(|error| Error::of_provider("the mounted token can't be read", error))?;
///             AccessToken::new(token) // an error when it is empty
///         })
///     }
/// }
/// ```
pub trait TokenProvider: Send + Sync + 'static {
    /// A token that is good now, without waiting; `None` when one has to be fetched.
    fn cached(&self) -> Option<AccessToken>;

    /// A token, got from Coze if need be.
    ///
    /// # Errors
    ///
    /// Those of the flow that gets it.
    fn fetch(&self) -> TokenFuture<'_>;

    /// A token: the cached one, else a fetched one.
    ///
    /// # Errors
    ///
    /// As [`fetch`](Self::fetch).
    fn token(&self) -> GetToken<'_> {
        GetToken(match self.cached() {
            Some(token) => Either::Left(std::future::ready(Ok(token))),
            None => Either::Right(self.fetch()),
        })
    }

    /// Where its tokens are valid, if it knows: an API client sends its calls there by default.
    fn endpoint(&self) -> Option<&Endpoint> {
        None
    }

    /// Says that the API refused this token (HTTP 401, code 4100 or 700012006), so that the next caller
    /// gets another. A token that is no longer current is ignored. The default does nothing.
    fn invalidate(&self, token: &AccessToken) {
        let _ = token;
    }

    /// Ends it, before the program ends: begins no more requests, and waits for what is under way and for its save. Valid
    /// tokens are still served. The default does nothing.
    ///
    /// # Errors
    ///
    /// Why a sign-in could not be saved.
    fn shutdown(&self) -> TokenFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A provider that is shared is one.
impl<P: TokenProvider + ?Sized> TokenProvider for Arc<P> {
    fn cached(&self) -> Option<AccessToken> {
        P::cached(self)
    }

    fn fetch(&self) -> TokenFuture<'_> {
        P::fetch(self)
    }

    fn endpoint(&self) -> Option<&Endpoint> {
        P::endpoint(self)
    }

    fn invalidate(&self, token: &AccessToken) {
        P::invalidate(self, token);
    }

    fn shutdown(&self) -> TokenFuture<'_, ()> {
        P::shutdown(self)
    }
}

/// What [`TokenProvider::token`] returns. Nothing is allocated for a cached token.
#[must_use = "futures do nothing unless awaited"]
pub struct GetToken<'a>(Either<std::future::Ready<Result<AccessToken>>, TokenFuture<'a>>);

impl Future for GetToken<'_> {
    type Output = Result<AccessToken>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl fmt::Debug for GetToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GetToken(****)")
    }
}
