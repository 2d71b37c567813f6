//! A provider with the origin that its tokens may be sent to, and the recovery from a refused token. Used by calls and
//! by the layers for other HTTP clients.

use std::{fmt, sync::Arc};

use coze_auth::{AccessToken, Endpoint, Error, TokenProvider};
use url::{Origin, Url};

/// A provider, and where its tokens may be sent.
#[derive(Clone)]
pub(crate) struct Bound {
    provider: Arc<dyn TokenProvider>,
    origin: Option<Origin>,
}

impl Bound {
    pub(crate) fn new(provider: impl TokenProvider, endpoint: &Endpoint) -> Self {
        Self {
            provider: Arc::new(provider),
            // The base of an endpoint is always a URL. If not, no request would match its origin.
            origin: Url::parse(endpoint.api_base())
                .ok()
                .map(|base| base.origin()),
        }
    }

    #[cfg(any(feature = "middleware", feature = "tower"))]
    pub(crate) fn is_origin_of(&self, url: &Url) -> bool {
        Some(url.origin()) == self.origin
    }

    pub(crate) async fn token(&self) -> Result<AccessToken, Error> {
        self.provider.token().await
    }

    #[cfg(any(feature = "client", feature = "middleware"))]
    pub(crate) fn invalidate(&self, refused: &AccessToken) {
        self.provider.invalidate(refused);
    }

    /// Invalidates a refused token and gets another one, if there is one.
    pub(crate) async fn token_instead_of(
        &self,
        refused: &AccessToken,
    ) -> Result<Option<AccessToken>, Error> {
        self.provider.invalidate(refused);
        let other = self.provider.token().await?;
        Ok(Some(other).filter(|other| other.expose() != refused.expose()))
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}
