//! What the commands share: the terminal, where tokens come from, and what has to be finished before the program ends.

use std::{
    cell::{Cell, OnceCell, RefCell},
    env,
};

use coze_api::CozeApi;
use coze_auth::{
    Endpoint, ErrorKind, Flow, OAuthClient, OAuthClientBuilder, OAuthConfig, RefreshMode,
    TokenProvider, Url,
};
use coze_credentials::{CredentialsBuilder, DefaultCredentials, Profiles, Source};
use coze_wire::is_loopback;
use tokio::task::JoinHandle;

use crate::{
    failure::{Exit, Failure, Result},
    terminal::{Printable, Terminal, shell_word},
};

/// At the end of the user agent.
const PRODUCT: &str = concat!("coze-cli/", env!("CARGO_PKG_VERSION"));

/// The profile that is used if no other is named.
pub(crate) const DEFAULT_PROFILE: &str = "default";

pub(crate) struct Session<'t> {
    pub(crate) terminal: &'t Terminal,
    pub(crate) profile: Option<String>,
    credentials: OnceCell<DefaultCredentials>,
    saving: RefCell<Option<JoinHandle<Result<()>>>>,
    /// Whether the user has been told which file is used.
    is_told: Cell<bool>,
}

/// Where a token comes from.
pub(crate) enum Place {
    /// The environment, or a file.
    Configuration(Source, Box<OAuthConfig>),
    /// The sign-in of this profile.
    Profile(String),
}

impl<'t> Session<'t> {
    /// `profile` is the one that the user names on the command line: nothing else is looked at then.
    pub(crate) fn new(terminal: &'t Terminal, profile: Option<String>) -> Self {
        Self {
            terminal,
            profile,
            credentials: OnceCell::new(),
            saving: RefCell::default(),
            is_told: Cell::default(),
        }
    }

    /// Finishes what must not be lost, also after a signal: a sign-in that is being saved, and a refresh in flight. Returns
    /// what could not be finished.
    pub(crate) async fn close(&self) -> Vec<Failure> {
        let mut failures = Vec::from_iter(self.saved().await.err());
        if let Some(credentials) = self.credentials.get() {
            let shut_down = credentials.shutdown().await;
            failures.extend(shut_down.err().map(|error| {
                Failure::from(error).with_hint(
                    "the refreshed sign-in is lost: make the store work, then sign in again: coze login",
                )
            }));
        }
        failures
    }

    /// Saves something in a task of its own, which also ends if this command is dropped.
    pub(crate) async fn save(
        &self,
        saving: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Result<()> {
        self.saving.replace(Some(tokio::spawn(saving)));
        self.saved().await
    }

    async fn saved(&self) -> Result<()> {
        std::future::poll_fn(|context| {
            let mut saving = self.saving.borrow_mut();
            let Some(task) = &mut *saving else {
                return std::task::Poll::Ready(Ok(()));
            };
            let saved = std::task::ready!(std::pin::Pin::new(task).poll(context));
            *saving = None;
            let failed = |_| Failure::new(Exit::Other, "the sign-in could not be saved");
            std::task::Poll::Ready(saved.map_err(failed).flatten())
        })
        .await
    }

    pub(crate) fn builder(&self) -> CredentialsBuilder {
        let builder = DefaultCredentials::builder()
            .client(client())
            .refresh(RefreshMode::InLine);
        match &self.profile {
            Some(name) => builder.profile(name),
            None => builder,
        }
    }

    /// Where the token comes from. Nothing is built or sent: this must be fast.
    pub(crate) fn place(&self) -> Result<Place> {
        if self.profile.is_none()
            && let Some((source, config)) = self.find_configuration(None)?
        {
            self.tell_of(&source, config.endpoint())?;
            return Ok(Place::Configuration(source, Box::new(config)));
        }
        Ok(Place::Profile(self.profile_name()?))
    }

    /// The configuration in the environment or in a file, if there is one: of this flow, or else of any.
    pub(crate) fn find_configuration(
        &self,
        flow: Option<Flow>,
    ) -> Result<Option<(Source, OAuthConfig)>> {
        let found = self.builder().find_configuration(flow);
        found.map_err(|error| explained(error, flow))
    }

    pub(crate) fn profile_name(&self) -> Result<String> {
        Ok(self.builder().profile_name()?)
    }

    /// The credentials that a token comes from.
    pub(crate) async fn credentials(&self) -> Result<&DefaultCredentials> {
        if let Some(credentials) = self.credentials.get() {
            return Ok(credentials);
        }
        let found = self.builder().find().await;
        let found = found.map_err(|error| match self.profile {
            Some(_) => error.into(),
            None => explained(error, None),
        })?;
        self.tell_of(found.source(), found.client().endpoint())?;
        Ok(self.credentials.get_or_init(|| found))
    }

    /// Says which file is used if nobody has named it, also with `--quiet`. Warns if it sends requests to another endpoint than Coze's.
    pub(crate) fn tell_of(&self, source: &Source, endpoint: &Endpoint) -> Result<()> {
        let Source::File(path) = source else {
            return Ok(());
        };
        if self.builder().named_configuration_file()?.is_some() || self.is_told.replace(true) {
            return Ok(());
        }
        let path = path.display().to_string();
        let told = if is_foreign(endpoint) {
            format!(
                "warning: {path} in the working folder sends requests to {}, with the pages of {}, which is neither site of Coze; if you trust it, set COZE_OAUTH_CONFIG={}",
                endpoint.api_base(),
                endpoint.www_base(),
                shell_word(&path)
            )
        } else {
            format!("Using {path} in the working folder (COZE_OAUTH_CONFIG is not set).")
        };
        self.terminal.say(Printable(&told));
        Ok(())
    }

    /// A client for the API, with the user's or the application's token.
    pub(crate) async fn api(&self) -> Result<Api> {
        let credentials = self.credentials().await?;
        let client = credentials.client().clone();
        Ok(Api {
            base: client.endpoint().api_base().to_owned(),
            coze: CozeApi::new(client, credentials.provider()),
        })
    }
}

/// An error of a configuration, for a user. That of variables of several flows tells programmers how to choose one.
fn explained(error: coze_auth::Error, flow: Option<Flow>) -> Failure {
    let variables = [
        (Flow::Web, "COZE_WEB_OAUTH_…"),
        (Flow::Pkce, "COZE_PKCE_OAUTH_…"),
        (Flow::Device, "COZE_DEVICE_OAUTH_…"),
        (Flow::Jwt, "COZE_JWT_OAUTH_…"),
    ];
    let is_set = |flow| OAuthConfig::from_variables(|name| env::var_os(name), Some(flow)).is_ok();
    if error.kind() != ErrorKind::Configuration || flow.is_some() || is_set(Flow::Token) {
        return error.into();
    }
    let set = variables.iter().filter(|(flow, _)| is_set(*flow));
    let set: Vec<_> = set.map(|(_, names)| *names).collect();
    if set.len() < 2 {
        return error.into();
    }
    let message = format!(
        "the environment has the variables of several flows: {}",
        set.join(", ")
    );
    Failure::usage(message)
        .with_hint("set those of one flow only, or name a sign-in: --profile NAME")
}

/// Whether an endpoint is neither a site of Coze with its pages, nor on this machine.
pub(crate) fn is_foreign(endpoint: &Endpoint) -> bool {
    fn bases(endpoint: &Endpoint) -> [&str; 2] {
        [endpoint.api_base(), endpoint.www_base()]
    }
    let is_here = |base: &str| Url::parse(base).is_ok_and(|url| is_loopback(&url));
    let sites = [Endpoint::COM, Endpoint::CN];
    let is_site = sites.iter().any(|site| bases(site) == bases(endpoint));
    !is_site && !bases(endpoint).into_iter().all(is_here)
}

/// The profiles of this program.
pub(crate) fn profiles() -> Result<Profiles> {
    Ok(Profiles::in_default_folder("coze")?)
}

/// The start of each HTTP client.
pub(crate) fn client() -> OAuthClientBuilder {
    OAuthClient::builder().product(PRODUCT)
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
