//! [`CozeApi`]: the client, and its configuration.

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use coze_api_client::Client;
use coze_auth::{Endpoint, OAuthClient, OAuthClientBuilder, Result, TokenProvider};
use coze_wire::{CallOptions, Dispatcher};

use crate::{dispatch::Dispatch, recovery::Bound};

/// A client of the Coze API. Clones are cheap, and share the connections and the token provider.
#[derive(Clone)]
pub struct CozeApi {
    client: OAuthClient,
    operations: Client,
    dispatcher: Dispatcher,
}

impl CozeApi {
    /// Creates a client that sends this provider's token through this HTTP client. Use the [`OAuthClient`] of the
    /// provider's flow, so that both use the same endpoint and share connections. An `Arc` of a provider is a provider too.
    pub fn new(client: OAuthClient, provider: impl TokenProvider) -> Self {
        Self::with_options(client, Arc::new(provider), CallOptions::default())
    }

    /// Creates a client with the credentials that this machine has: see [`DefaultCredentials`](crate::DefaultCredentials). Calls go
    /// to the endpoint at which they are valid.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> coze_api::Result<()> {
    /// use coze_api::{CozeApi, SendExt};
    ///
    /// let coze = CozeApi::from_default().await?;
    /// let me = coze.users().me().send().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// With options, find the credentials first; they are a token provider:
    ///
    /// ```no_run
    /// # async fn example() -> coze_api::Result<()> {
    /// use coze_api::{CozeApi, DefaultCredentials};
    ///
    /// let credentials = DefaultCredentials::builder().profile("work").find().await?;
    /// let coze = CozeApi::new(credentials.client().clone(), credentials);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`DefaultCredentials::find`](crate::DefaultCredentials::find).
    #[cfg(feature = "credentials")]
    #[cfg_attr(docsrs, doc(cfg(feature = "credentials")))]
    pub async fn from_default() -> Result<Self> {
        let credentials = coze_credentials::DefaultCredentials::find().await?;
        Ok(Self::new(credentials.client().clone(), credentials))
    }

    fn with_options(
        client: OAuthClient,
        provider: Arc<dyn TokenProvider>,
        options: CallOptions,
    ) -> Self {
        let bound = Bound::new(provider, client.endpoint());
        let dispatcher = Dispatcher::new(Dispatch::new(client.clone(), bound, options));
        Self {
            operations: Client::new(client.endpoint().api_base(), dispatcher.clone()),
            client,
            dispatcher,
        }
    }

    /// Like [`new`](Self::new), for a provider without an [`OAuthClient`], such as a fixed token. Calls go to the
    /// provider's [endpoint](TokenProvider::endpoint), if it is known.
    pub fn builder(provider: impl TokenProvider) -> CozeApiBuilder {
        let endpoint = provider.endpoint().cloned().unwrap_or(Endpoint::COM);
        CozeApiBuilder {
            client: OAuthClient::builder().endpoint(endpoint),
            provider: Arc::new(provider),
            options: CallOptions::default(),
        }
    }

    /// The dispatcher of this client's calls, for your own [operation](coze_wire::Operation).
    #[must_use]
    pub fn dispatcher(&self) -> Dispatcher {
        self.dispatcher.clone()
    }
}

/// The groups of operations: `coze.chat()`, `coze.bots()`.
impl Deref for CozeApi {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.operations
    }
}

impl fmt::Debug for CozeApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CozeApi")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// A response of the API, with its log id. It derefs to the typed response.
#[derive(Debug, Clone)]
pub struct Reply<T> {
    value: T,
    log_id: Option<String>,
}

impl<T> Reply<T> {
    pub(crate) fn new(value: T, log_id: Option<String>) -> Self {
        Self { value, log_id }
    }

    /// Converts the value; the log id is unchanged.
    #[must_use]
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Reply<U> {
        Reply::new(change(self.value), self.log_id)
    }

    /// Coze's log id (`x-tt-logid`); quote it to Coze's support.
    #[must_use]
    pub fn log_id(&self) -> Option<&str> {
        self.log_id.as_deref()
    }

    /// The typed response.
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

/// Configures a [`CozeApi`].
#[must_use]
pub struct CozeApiBuilder {
    client: OAuthClientBuilder,
    provider: Arc<dyn TokenProvider>,
    options: CallOptions,
}

impl CozeApiBuilder {
    /// The endpoint. By default: the endpoint at which the provider's tokens are valid, or [`Endpoint::COM`] if that is
    /// not known.
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.client = self.client.endpoint(endpoint);
        self
    }

    /// Your own HTTP client's builder, for proxies or certificates: see [`OAuthClientBuilder::http`].
    ///
    /// [`connect_timeout`](Self::connect_timeout), [`request_timeout`](Self::request_timeout) and
    /// [`product`](Self::product), or their defaults, override its `connect_timeout`, `timeout` and `user_agent`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use coze_api::{CozeApi, reqwest};
    /// use coze_auth::FixedToken;
    ///
    /// let coze = CozeApi::builder(FixedToken::new("pat_abc")?)
    ///     .http(|| reqwest::Client::builder().no_proxy()) // `.timeout(…)` here has no effect
    ///     .request_timeout(Duration::from_secs(120))
    ///     .build()?;
    /// # Ok::<(), coze_api::Error>(())
    /// ```
    pub fn http(
        mut self,
        http: impl Fn() -> reqwest::ClientBuilder + Send + Sync + 'static,
    ) -> Self {
        self.client = self.client.http(http);
        self
    }

    /// The timeout for establishing a connection; 5 seconds by default.
    pub fn connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.client = self.client.connect_timeout(connect_timeout);
        self
    }

    /// The timeout of a request, including its response; 30 seconds by default. It applies to each attempt of a call.
    /// The time to get a token is not included: the provider limits it.
    pub fn request_timeout(mut self, request_timeout: Duration) -> Self {
        self.client = self.client.request_timeout(request_timeout);
        self
    }

    /// How long a stream may be silent, without even a comment; 60 seconds by default.
    pub fn idle_timeout(mut self, idle_timeout: Duration) -> Self {
        self.options.idle_timeout = Some(idle_timeout);
        self
    }

    /// The maximum number of retries of a call, if they are safe; 2 by default. The retry after a refused token does
    /// not count.
    pub fn retries(mut self, retries: u32) -> Self {
        self.options.retries = Some(retries);
        self
    }

    /// The maximum size of a response body, in bytes; 32 MiB by default.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.options.body_limit = Some(bytes);
        self
    }

    /// The maximum size of an event of a stream, in bytes; 16 MiB by default.
    pub fn event_limit(mut self, bytes: usize) -> Self {
        self.options.event_limit = Some(bytes);
        self
    }

    /// Appends your own product to the user agent, as `name/version`; none by default.
    pub fn product(mut self, product: impl Into<String>) -> Self {
        self.client = self.client.product(product);
        self
    }

    /// Builds the client.
    ///
    /// # Errors
    ///
    /// Those of [`OAuthClientBuilder::build`].
    pub fn build(self) -> Result<CozeApi> {
        let client = self.client.build()?;
        Ok(CozeApi::with_options(client, self.provider, self.options))
    }
}

impl fmt::Debug for CozeApiBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CozeApiBuilder")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use coze_auth::{
        ConfiguredFlow, ErrorKind, FixedToken, OAuthConfig,
        testing::{SendFuture, Transport},
    };

    use super::*;
    use crate::SendExt;

    /// A server that takes this long for each response.
    struct Slow(Duration);

    impl Transport for Slow {
        fn send(&self, _: reqwest::Request) -> SendFuture<'_> {
            Box::pin(async {
                tokio::time::sleep(self.0).await;
                let body = r#"{"code":0,"msg":"","data":{"workspaces":[],"total_count":0}}"#;
                Ok(http::Response::new(body).into())
            })
        }
    }

    #[test]
    fn calls_go_to_the_endpoint_of_a_token_from_the_environment() {
        let base = |name: &str| match name {
            "COZE_API_TOKEN" => Some("pat_1".into()),
            "COZE_API_BASE" => Some("https://api.coze.cn".into()),
            _ => None,
        };
        let config = OAuthConfig::from_variables(base, None).unwrap();
        let ConfiguredFlow::Token(token) = config.build().unwrap() else {
            panic!("there is a token");
        };
        let api = CozeApi::builder(Arc::new(token.clone())).build().unwrap();
        assert_eq!(api.client.endpoint(), &Endpoint::CN);
        let elsewhere = CozeApi::builder(token).endpoint(Endpoint::COM);
        assert_eq!(elsewhere.build().unwrap().client.endpoint(), &Endpoint::COM);
        assert_eq!(builder().build().unwrap().client.endpoint(), &Endpoint::COM);
    }

    fn builder() -> CozeApiBuilder {
        CozeApi::builder(FixedToken::new("pat_1").unwrap())
    }

    /// The error of a call whose response takes this long, if it fails.
    async fn failure(mut builder: CozeApiBuilder, response_takes: Duration) -> Option<ErrorKind> {
        builder.client = builder.client.transport(Slow(response_takes));
        let api = builder.build().unwrap();
        let call = api.workspaces().list().retries(0).send();
        call.await.err().map(|error| error.kind())
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_has_the_request_timeout_of_the_builder() {
        let secs = Duration::from_secs;
        let two_minutes = || builder().request_timeout(secs(120));
        assert_eq!(failure(two_minutes(), secs(119)).await, None);
        assert_eq!(
            failure(two_minutes(), secs(121)).await,
            Some(ErrorKind::Timeout)
        );
        assert_eq!(failure(builder(), secs(29)).await, None);
        assert_eq!(failure(builder(), secs(31)).await, Some(ErrorKind::Timeout));
    }

    #[test]
    fn settings_of_the_builder_reach_the_client() {
        let told = builder()
            .connect_timeout(Duration::from_millis(1234))
            .request_timeout(Duration::from_millis(5678))
            .product("my-service/1.2");
        let shown = format!("{told:?}");
        for part in ["1.234s", "5.678s", "my-service/1.2"] {
            assert!(shown.contains(part), "{part} is not in {shown}");
        }
    }
}
