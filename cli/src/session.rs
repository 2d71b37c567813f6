//! What the commands share: the terminal, where tokens come from, and what has to be finished before the program ends.

use std::{
    cell::RefCell,
    env,
    path::{Path, PathBuf},
    sync::Arc,
};

use coze_api::CozeApi;
use coze_auth::{
    ConfiguredFlow, Flow, OAuthClient, OAuthClientBuilder, OAuthConfig, TokenProvider,
};
use tokio::task::JoinHandle;

use crate::{failure::Result, terminal::Terminal};

/// The file that the console offers.
const CONFIG_FILE: &str = "coze_oauth_config.json";
/// Names such a file.
const CONFIG_VARIABLE: &str = "COZE_OAUTH_CONFIG";
/// At the end of the user agent.
const PRODUCT: &str = concat!("coze-cli/", env!("CARGO_PKG_VERSION"));

pub(crate) struct Session<'t> {
    pub(crate) terminal: &'t Terminal,
    provider: RefCell<Option<Arc<dyn TokenProvider>>>,
    saving: RefCell<Option<JoinHandle<Result<()>>>>,
}

impl<'t> Session<'t> {
    pub(crate) fn new(terminal: &'t Terminal) -> Self {
        Self {
            terminal,
            provider: RefCell::default(),
            saving: RefCell::default(),
        }
    }

    /// Finishes what must not be lost, also after Ctrl-C: a save that has begun, and a refresh in flight.
    pub(crate) async fn close(&self) -> Result<()> {
        let saving = self.saving.take();
        if let Some(Ok(saved)) = match saving {
            Some(saving) => Some(saving.await),
            None => None,
        } {
            saved?;
        }
        let provider = self.provider.take();
        match provider {
            Some(provider) => Ok(provider.shutdown().await?),
            None => Ok(()),
        }
    }

    /// A client for the API, with the user's or the application's token.
    pub(crate) fn api(&self) -> Result<Api> {
        let flow = configuration(None)?.build_with(client())?;
        let client = match &flow {
            ConfiguredFlow::Web(web) => web.client().clone(),
            ConfiguredFlow::Pkce(pkce) => pkce.client().clone(),
            ConfiguredFlow::Device(device) => device.client().clone(),
            ConfiguredFlow::Jwt(jwt) => jwt.client().clone(),
            ConfiguredFlow::Token(token) => client()
                .endpoint(token.endpoint().cloned().unwrap_or_default())
                .build()?,
            _ => unreachable_flow()?,
        };
        let provider = flow.provider(None)?;
        self.provider.replace(Some(Arc::clone(&provider)));
        Ok(Api {
            base: client.endpoint().api_base().to_owned(),
            coze: CozeApi::new(client, provider),
        })
    }
}

/// A client for the API.
pub(crate) struct Api {
    coze: CozeApi,
    base: String,
}

impl Api {
    pub(crate) fn base(&self) -> &str {
        &self.base
    }
}

impl std::ops::Deref for Api {
    type Target = CozeApi;

    fn deref(&self) -> &CozeApi {
        &self.coze
    }
}

/// The start of each HTTP client.
pub(crate) fn client() -> OAuthClientBuilder {
    OAuthClient::builder().product(PRODUCT)
}

fn unreachable_flow<T>() -> Result<T> {
    Err(crate::failure::Failure::usage(
        "this flow is not known to this program",
    ))
}

/// The configuration of an app: of the environment, or else of a file.
pub(crate) fn configuration(flow: Option<Flow>) -> Result<OAuthConfig> {
    let from_env = OAuthConfig::from_variables(|name| env::var_os(name), flow);
    match (from_env, config_file()) {
        (Err(_), Some(path)) => Ok(OAuthConfig::from_file(path)?),
        (from_env, _) => Ok(from_env?),
    }
}

fn config_file() -> Option<PathBuf> {
    let named = env::var_os(CONFIG_VARIABLE).filter(|path| !path.is_empty());
    named.map(PathBuf::from).or_else(|| {
        let here = Path::new(CONFIG_FILE);
        here.exists().then(|| here.to_owned())
    })
}
