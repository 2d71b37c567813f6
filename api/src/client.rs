//! The client: a token for each call, and a second try when it was dead.

use std::{fmt, future::Future, ops::Deref, sync::Arc};

use coze_api_client::{Client, ResponseValue};
use coze_auth::{
    AccessToken, Endpoint, Error, ErrorCode, OAuthClient, OAuthClientBuilder, Result, TokenProvider,
};
use coze_wire::Answer;
use http::StatusCode;

/// A client of the Coze API. Clones are cheap and share their connections and their token.
#[derive(Clone)]
pub struct CozeApi {
    client: OAuthClient,
    provider: Arc<dyn TokenProvider>,
}

impl CozeApi {
    /// A client whose calls carry this provider's token.
    pub fn builder(provider: impl TokenProvider) -> CozeApiBuilder {
        Self::builder_shared(Arc::new(provider))
    }

    /// As [`builder`](Self::builder), for a provider that others use too.
    pub fn builder_shared(provider: Arc<dyn TokenProvider>) -> CozeApiBuilder {
        CozeApiBuilder {
            client: OAuthClient::builder(),
            provider,
        }
    }

    /// Makes a call, twice if need be: once more when the API refused the token.
    ///
    /// The closure gets the typed client, with the token in it, and sends one operation. It is run for each
    /// attempt.
    ///
    /// # Errors
    ///
    /// - Those of the provider, when there is no token.
    /// - [`Refused`](coze_auth::ErrorKind::Refused) with [`Api`](ErrorCode::Api) when Coze says no.
    /// - Those of the transport and of answers that are none.
    pub async fn call<F, Sent, R>(
        &self,
        operation: F,
    ) -> Result<Reply<<R::Answer as Answer>::Success>>
    where
        F: Fn(Client) -> Sent,
        Sent: Future<Output = R>,
        R: Typed,
    {
        let token = self.provider.token().await?;
        let refused = match self.attempt(&token, &operation).await {
            Err(error) if is_about_the_token(&error) => error,
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

    async fn attempt<F, Sent, R>(
        &self,
        token: &AccessToken,
        operation: &F,
    ) -> Result<Reply<<R::Answer as Answer>::Success>>
    where
        F: Fn(Client) -> Sent,
        Sent: Future<Output = R>,
        R: Typed,
    {
        let call = self.client.api_call(token);
        let client = Client::new_with_client(
            self.client.endpoint().api_base(),
            self.client.http().clone(),
            call.exchange().clone(),
        );
        let sent = operation(client);
        let answered = self
            .client
            .finish(&call, async { sent.await.answer() })
            .await?;
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

/// Authentication invalid.
const AUTHENTICATION_INVALID: i64 = 4100;
/// Access token invalid: expired or revoked.
const ACCESS_TOKEN_INVALID: i64 = 700_012_006;

fn is_about_the_token(error: &Error) -> bool {
    let code = match error.code() {
        Some(ErrorCode::Api(code)) => Some(*code),
        _ => None,
    };
    error.status() == Some(StatusCode::UNAUTHORIZED)
        || matches!(code, Some(AUTHENTICATION_INVALID | ACCESS_TOKEN_INVALID))
}

/// What an operation of the typed client sends back. Implemented for all of them; nobody else can.
pub trait Typed: sealed::Sealed {
    /// The typed answer.
    type Answer: Answer;

    #[doc(hidden)]
    fn answer(self) -> Option<Self::Answer>;
}

mod sealed {
    pub trait Sealed {}
}

impl<A, E> sealed::Sealed for std::result::Result<ResponseValue<A>, E> {}

#[doc(hidden)]
impl<A: Answer, E> Typed for std::result::Result<ResponseValue<A>, E> {
    type Answer = A;

    // Errors are read from the exchange: those of the typed client would print bodies.
    fn answer(self) -> Option<A> {
        self.ok().map(ResponseValue::into_inner)
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

    /// Everything else: time-outs, the product in the user agent. The endpoint and the HTTP client are
    /// those of this builder from then on.
    pub fn client(mut self, client: OAuthClientBuilder) -> Self {
        self.client = client;
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
