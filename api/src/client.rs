//! The client: a token for each call, and a second try when it was dead.

use std::{fmt, future::Future, ops::Deref, sync::Arc};

use coze_api_client::Client;
use coze_auth::{AccessToken, Endpoint, OAuthClient, OAuthClientBuilder, Result, TokenProvider};
use coze_wire::{Answer, NoAnswer};

/// A client of the Coze API. Clones are cheap and share their connections and their token.
#[derive(Clone)]
pub struct CozeApi {
    client: OAuthClient,
    provider: Arc<dyn TokenProvider>,
}

impl CozeApi {
    /// A client whose calls carry this provider's token (an `Arc` of one is one), over this client: best the
    /// one that the provider's flow uses, so that both go to the same endpoint and share their connections.
    pub fn new(client: OAuthClient, provider: impl TokenProvider) -> Self {
        Self {
            client,
            provider: Arc::new(provider),
        }
    }

    /// As [`new`](Self::new), for a provider without a client, such as a fixed token.
    pub fn builder(provider: impl TokenProvider) -> CozeApiBuilder {
        CozeApiBuilder {
            client: OAuthClient::builder(),
            provider: Arc::new(provider),
        }
    }

    /// Makes a call, twice if need be: once more when the API refused the token.
    ///
    /// The closure gets the typed client, with the token in it, and makes one operation's `exchange`. It is run
    /// for each attempt.
    ///
    /// # Errors
    ///
    /// - Those of the provider, when there is no token.
    /// - [`Refused`](coze_auth::ErrorKind::Refused) with [`Api`](coze_auth::ErrorCode::Api) when Coze says no.
    /// - Those of the transport and of answers that are none.
    pub async fn call<F, Sent, A>(&self, operation: F) -> Result<Reply<A::Success>>
    where
        F: Fn(Client) -> Sent,
        Sent: Future<Output = std::result::Result<A, NoAnswer>>,
        A: Answer,
    {
        let token = self.provider.token().await?;
        let refused = match self.attempt(&token, &operation).await {
            Err(error) if error.is_token_refused() => error,
            outcome => return outcome,
        };
        self.provider.invalidate(&token);
        let next = self.provider.token().await?;
        if next.expose() == token.expose() {
            // A fixed token: there is no other.
            return Err(refused);
        }
        tracing::debug!("the API refused the access token; trying once more with the next");
        self.attempt(&next, &operation).await
    }

    async fn attempt<F, Sent, A>(
        &self,
        token: &AccessToken,
        operation: &F,
    ) -> Result<Reply<A::Success>>
    where
        F: Fn(Client) -> Sent,
        Sent: Future<Output = std::result::Result<A, NoAnswer>>,
        A: Answer,
    {
        let call = self.client.api_call(token);
        let client = Client::new_with_client(
            self.client.endpoint().api_base(),
            self.client.http().clone(),
            call.exchange().clone(),
        );
        let answered = self.client.finish(&call, operation(client)).await?;
        Ok(Reply {
            value: answered.answer,
            log_id: answered.log_id,
        })
    }
}

impl fmt::Debug for CozeApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CozeApi")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// What the API answered, and its log id. It derefs to the answer.
#[derive(Debug, Clone)]
pub struct Reply<T> {
    value: T,
    log_id: Option<String>,
}

impl<T> Reply<T> {
    /// Coze's log id (`x-tt-logid`), to quote to Coze's support.
    #[must_use]
    pub fn log_id(&self) -> Option<&str> {
        self.log_id.as_deref()
    }

    /// The answer itself.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T> Deref for Reply<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Makes a [`CozeApi`].
#[must_use]
pub struct CozeApiBuilder {
    client: OAuthClientBuilder,
    provider: Arc<dyn TokenProvider>,
}

impl CozeApiBuilder {
    /// Where calls go; [`Endpoint::COM`] by default.
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.client = self.client.endpoint(endpoint);
        self
    }

    /// An HTTP client of one's own making, which is finished here: see [`OAuthClientBuilder::http`].
    pub fn http(mut self, http: reqwest::ClientBuilder) -> Self {
        self.client = self.client.http(http);
        self
    }

    /// Finishes the client.
    ///
    /// # Errors
    ///
    /// As [`OAuthClientBuilder::build`].
    pub fn build(self) -> Result<CozeApi> {
        Ok(CozeApi {
            client: self.client.build()?,
            provider: self.provider,
        })
    }
}

impl fmt::Debug for CozeApiBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CozeApiBuilder")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}
