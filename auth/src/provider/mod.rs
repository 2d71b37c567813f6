//! Token providers: where a service gets an access token for each request.
//!
//! [`TokenProvider`] is the trait: [`cached`](TokenProvider::cached) never waits, [`fetch`](TokenProvider::fetch) may
//! send a request. [`FixedToken`] holds one token; [`CachedProvider`] refreshes the tokens of any flow.
//!
//! | what | file |
//! |---|---|
//! | the expiry margin, and when a refresh starts | `../refresh_window.rs` |
//! | retries, backoff, `Retry-After` and its caps | `../retry.rs` |
//! | concurrent callers share one request; a refused token is removed | `single_flight.rs` |
//! | concurrent requests are limited while the server is down | `../retry/circuit_breaker.rs` |
//! | the requests of providers and pools | `engine.rs`, `source.rs` |
//! | where tokens are cached | `slot.rs` (one provider), `token_cache.rs` (pools) |

mod cached;
mod engine;
mod fixed;
mod pool;
mod sessions;
mod single_flight;
mod slot;
mod source;
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

pub use cached::{BorrowedToken, CachedProvider, CachedProviderBuilder};
pub use fixed::FixedToken;
pub use pool::PoolBuilder;
pub use sessions::{SessionPool, SessionProvider};
pub use stats::Stats;
pub use users::{UserPool, UserProvider};

use futures_util::future::Either;

use crate::{AccessToken, Endpoint, Result};

/// The future that [`TokenProvider::fetch`] and [`TokenProvider::shutdown`] return.
pub type TokenFuture<'a, T = AccessToken> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Provides an access token for each request.
///
/// Callers use [`token`](Self::token): it returns the [`cached`](Self::cached) token without an allocation, and calls
/// [`fetch`](Self::fetch) only if there is none. It works for generic and for `dyn` providers.
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
///         None // the file may have changed since the last read
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
    /// The cached token, if it is valid. Never waits; `None` if a token has to be fetched.
    fn cached(&self) -> Option<AccessToken>;

    /// Returns a token, and requests one from Coze if necessary.
    ///
    /// # Errors
    ///
    /// The errors of the flow.
    fn fetch(&self) -> TokenFuture<'_>;

    /// Returns the cached token, or else a fetched one.
    ///
    /// # Errors
    ///
    /// Those of [`fetch`](Self::fetch).
    fn token(&self) -> GetToken<'_> {
        GetToken(match self.cached() {
            Some(token) => Either::Left(std::future::ready(Ok(token))),
            None => Either::Right(self.fetch()),
        })
    }

    /// The endpoint at which its tokens are valid, if known. An API client uses it by default.
    fn endpoint(&self) -> Option<&Endpoint> {
        None
    }

    /// Reports that the API refused this token (HTTP 401, code 4100 or 700012006), so that the next caller gets a new
    /// one. A token that is no longer current is ignored. The default implementation does nothing.
    fn invalidate(&self, token: &AccessToken) {
        let _ = token;
    }

    /// Shuts the provider down: starts no more requests, and waits for the request in flight and for its save. Valid tokens
    /// are still served. Call it before the program ends. The default implementation does nothing.
    ///
    /// # Errors
    ///
    /// If a sign-in could not be saved.
    fn shutdown(&self) -> TokenFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

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

/// The future that [`TokenProvider::token`] returns. It allocates nothing if the token is cached.
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
