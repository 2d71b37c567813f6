//! The [`Source`] trait, through which the engine gets new tokens from a flow.

use std::{future::Future, pin::Pin, sync::Arc};

use tokio::time::Instant;

use crate::{
    AccessToken, Flow, JwtFlow, JwtTokenRequest, OAuthClient, Result, Token,
    clock::Clock,
    refresh_window::RefreshMode,
    retry::circuit_breaker::CircuitBreaker,
    retry::{AtDeadline, retrying},
    sign_in::StoredSource,
};

pub(crate) type SourceFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Gets new tokens for one key. Calls of `mint`, and of the stored sign-in's `has_fresh_sign_in`, never overlap.
pub trait Source: Send + Sync + 'static {
    /// The flow that it uses, if it is one of Coze's.
    fn flow(&self) -> Option<Flow> {
        None
    }

    /// The client of that flow.
    fn client(&self) -> Option<&OAuthClient> {
        None
    }

    /// Gets a token before the deadline; retryable failures are retried.
    fn mint(&self, mode: RefreshMode, deadline: Instant) -> SourceFuture<'_, Result<Token>>;

    /// The stored sign-in, if its tokens belong to one.
    fn stored(&self) -> Option<&StoredSource> {
        None
    }
}

impl Source for StoredSource {
    fn flow(&self) -> Option<Flow> {
        Some(self.app().flow())
    }

    fn client(&self) -> Option<&OAuthClient> {
        Some(self.app().client())
    }

    fn mint(&self, mode: RefreshMode, deadline: Instant) -> SourceFuture<'_, Result<Token>> {
        Box::pin(self.mint(mode, deadline))
    }

    fn stored(&self) -> Option<&StoredSource> {
        Some(self)
    }
}

/// The JWT flow. Each attempt signs a new JWT.
pub(super) struct JwtSource {
    pub(super) flow: Arc<JwtFlow>,
    pub(super) request: JwtTokenRequest,
    pub(super) breaker: Arc<CircuitBreaker>,
}

impl Source for JwtSource {
    fn flow(&self) -> Option<Flow> {
        Some(Flow::Jwt)
    }

    fn client(&self) -> Option<&OAuthClient> {
        Some(self.flow.client())
    }

    fn mint(&self, _: RefreshMode, deadline: Instant) -> SourceFuture<'_, Result<Token>> {
        let attempt = || self.flow.token_for(&self.request);
        let breaker = &self.breaker;
        Box::pin(retrying(breaker, deadline, AtDeadline::CutOff, attempt))
    }
}

/// The caller's own exchange; see [`from_fn`](super::CachedProvider::from_fn).
pub(super) struct FnSource<F> {
    pub(super) exchange: F,
    pub(super) breaker: Arc<CircuitBreaker>,
}

impl<F, Fut> Source for FnSource<F>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(AccessToken, std::time::Duration)>> + Send + 'static,
{
    fn mint(&self, _: RefreshMode, deadline: Instant) -> SourceFuture<'_, Result<Token>> {
        Box::pin(async move {
            let exchange = || (self.exchange)();
            let exchanged = retrying(&self.breaker, deadline, AtDeadline::CutOff, exchange);
            let (access_token, life) = exchanged.await?;
            Ok(Token::valid_from_now(access_token, life, &Clock::System))
        })
    }
}
