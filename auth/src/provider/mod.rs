//! Where a service gets its token from, on every request.
//!
//! [`TokenProvider`] is the one trait: a fast path that never waits, and a slow one that gets a token
//! first. A [`FixedToken`] is one; [`CachedProvider`] keeps the token of any flow fresh.

mod access_token;
mod cached;
mod fixed;
pub(crate) mod flight;
pub(crate) mod lifespan;
mod session_cache;
mod sessions;
mod slot;
pub(crate) mod source;

use std::{future::Future, pin::Pin, sync::Arc};

pub use access_token::AccessToken;
pub use cached::{
    BorrowedToken, CachedProvider, CachedProviderBuilder, ProviderStats, RefreshMode,
};
pub use fixed::FixedToken;
pub(crate) use fixed::TOKEN_VARIABLE;
pub use sessions::{PoolStats, SessionPool, SessionPoolBuilder, SessionProvider};

use crate::Result;

/// What [`TokenProvider::fetch`] returns.
pub type TokenFuture<'a> = Pin<Box<dyn Future<Output = Result<AccessToken>> + Send + 'a>>;

/// Yields an access token, on every request.
///
/// It is split in two, so that the common case costs neither an allocation nor a wait: first
/// [`cached`](Self::cached), and only when that has none, [`fetch`](Self::fetch). Callers that hold a
/// `dyn TokenProvider` simply call [`token`](#method.token), which does both.
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

    /// Says that the API refused this token (HTTP 401, code 4100 or 700012006), so that the next caller
    /// gets another. A token that is not the current one any more is let be. The default does nothing.
    fn invalidate(&self, token: &AccessToken) {
        let _ = token;
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

    fn invalidate(&self, token: &AccessToken) {
        P::invalidate(self, token);
    }
}

impl dyn TokenProvider {
    /// A token: the cached one, else a fetched one.
    ///
    /// # Errors
    ///
    /// As [`fetch`](TokenProvider::fetch).
    pub async fn token(&self) -> Result<AccessToken> {
        match self.cached() {
            Some(token) => Ok(token),
            None => self.fetch().await,
        }
    }
}
