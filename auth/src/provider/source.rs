//! Where a provider's next token comes from: the seam between the engine and the flows.

use std::{future::Future, pin::Pin, sync::Arc};

use tokio::time::Instant;

use super::{
    AccessToken, RefreshMode,
    circuit_breaker::CircuitBreaker,
    retry::{AtDeadline, retrying},
};
use crate::{Error, Flow, JwtFlow, JwtTokenRequest, Result, SignIn, Token};

pub(crate) type SourceFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Gets new tokens for one key. Calls of `mint` and `look` never overlap.
pub(crate) trait Source: Send + Sync + 'static {
    /// The flow that it goes by, if it is one of Coze's.
    fn flow(&self) -> Option<Flow>;

    /// Gets a token before the deadline, trying again where that can help.
    fn mint(&self, mode: RefreshMode, deadline: Instant) -> SourceFuture<'_, Result<Token>>;

    /// Whether another sign-in is stored than the last `mint` knew, so that a backoff after that is over. It loads, and
    /// sends nothing.
    fn look(&self) -> SourceFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }

    /// Whether there is a store to look into; and if so, whether a fresh sign-in is known to have been put there.
    fn news(&self) -> Option<bool> {
        None
    }

    /// Hears, when it is made, which token is served: a stored one that is the same is due for its refresh.
    fn serves(&self, _current: &AccessToken) {}

    /// Hears that the API refused a token, which would have been valid until then. True if the source itself limits how
    /// often it gets another for that.
    fn heeds_refusal(&self, _refused: &AccessToken, _valid_until: Instant) -> bool {
        false
    }

    /// The stored sign-in that its tokens are of.
    fn sign_in(&self) -> Option<SignIn> {
        None
    }

    /// Begins nothing new any more.
    fn close(&self) {}

    /// Does what is undone, as far as that is possible.
    fn settle(&self) -> SourceFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Why the last token's sign-in is not saved, if it is not.
    fn unsaved(&self) -> Option<Error> {
        None
    }

    /// How many of the tokens it got were loaded from its store: no request was sent for them.
    fn reused(&self) -> u64 {
        0
    }

    /// Whether nothing is lost when it is dropped, and made again by the next caller.
    fn is_idle(&self) -> bool {
        true
    }
}

/// The JWT flow: a fresh JWT for each attempt.
pub(super) struct JwtSource {
    pub(super) flow: Arc<JwtFlow>,
    pub(super) request: JwtTokenRequest,
    pub(super) breaker: Arc<CircuitBreaker>,
}

impl Source for JwtSource {
    fn flow(&self) -> Option<Flow> {
        Some(Flow::Jwt)
    }

    fn mint(&self, _: RefreshMode, deadline: Instant) -> SourceFuture<'_, Result<Token>> {
        let attempt = || self.flow.token_for(&self.request);
        Box::pin(retrying(
            &self.breaker,
            deadline,
            AtDeadline::CutOff,
            attempt,
        ))
    }
}

/// An exchange of the user's own.
pub(super) struct FnSource<F> {
    pub(super) exchange: F,
    pub(super) breaker: Arc<CircuitBreaker>,
}

impl<F, Fut> Source for FnSource<F>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(AccessToken, std::time::Duration)>> + Send + 'static,
{
    fn flow(&self) -> Option<Flow> {
        None
    }

    fn mint(&self, _: RefreshMode, deadline: Instant) -> SourceFuture<'_, Result<Token>> {
        Box::pin(async move {
            let exchange = || (self.exchange)();
            let exchanged = retrying(&self.breaker, deadline, AtDeadline::CutOff, exchange);
            let (access_token, life) = exchanged.await?;
            Token::exchanged(&access_token, life)
        })
    }
}
