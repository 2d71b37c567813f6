//! Which app a user signs in to: that of the command line, of a profile that the user names, of the environment or a file, or of the
//! profile's last sign-in.

use std::env;

use coze_auth::{Flow, Secret};
use coze_credentials::{ProfileConfig, Source};
use coze_wire::sanitize_sentence;

use super::secret;
use crate::{
    args::{Login, LoginFlow},
    failure::{Exit, Failure, Result},
    session::{Session, is_foreign, profiles},
    terminal::{Printable, can_ask, input_is_terminal},
};

/// The official SDKs' variable for the client secret of a web app.
const SECRET_VARIABLE: &str = "COZE_WEB_OAUTH_CLIENT_SECRET";

const NAME_AN_APP: &str = "name it: coze login --client-id ID --site com (or cn), with --flow pkce or web if it is not a device app; or set the variables of the app, or put its coze_oauth_config.json here";

pub(super) struct App {
    pub(super) config: ProfileConfig,
    pub(super) secret: Option<Secret>,
}

/// A description of an app, and where it was found.
struct Description {
    config: ProfileConfig,
    secret: Option<Secret>,
    source: String,
    /// Nobody has named the file: it lies in the working folder, and may be another person's.
    is_found_by_chance: bool,
}

impl App {
    /// `existing` is the profile of this name.
    pub(super) async fn choose(
        options: &Login,
        name: &str,
        existing: Option<&ProfileConfig>,
        session: &Session<'_>,
    ) -> Result<Self> {
        let mut app = Description::find(options, name, existing, session).await?;
        app.apply(options, existing)?;
        if app.is_found_by_chance && options.site.is_none() {
            app.confirm_endpoint(session).await?;
        }
        if let Some(existing) = existing
            && !options.replace
        {
            app.confirm_replacement(name, existing, session).await?;
        }
        let shown = format!("{} (from {})", shown(&app.config), app.source);
        session
            .terminal
            .say(format_args!("Signing in to {}.", Printable(&shown)));
        let Description { config, secret, .. } = app;
        let secret = match (config.flow(), secret) {
            (Flow::Web, None) => Some(client_secret().await?),
            (_, secret) => secret,
        };
        Ok(Self { config, secret })
    }
}

impl Description {
    async fn find(
        options: &Login,
        name: &str,
        existing: Option<&ProfileConfig>,
        session: &Session<'_>,
    ) -> Result<Self> {
        let flow = options.flow.map(Flow::from);
        if let Some(client_id) = &options.client_id {
            let site = options.site.clone().unwrap_or_default();
            let flow = flow.unwrap_or(Flow::Device);
            return Ok(Self {
                config: ProfileConfig::new(flow, client_id.as_str(), site)?,
                secret: None,
                source: "the command line".to_owned(),
                is_found_by_chance: false,
            });
        }
        let existing = existing.filter(|config| flow.is_none_or(|flow| flow == config.flow()));
        let builder = session.builder();
        if let Some(existing) = existing
            && builder.named_profile()?.is_some()
        {
            return Self::of_profile(name, existing).await;
        }
        if let Some((source, app)) = session.find_configuration(flow)? {
            if matches!(app.flow(), Flow::Token | Flow::Jwt) {
                let message = match app.flow() {
                    Flow::Token => {
                        format!("{source} has a fixed token, so there is no app to sign in to")
                    }
                    flow => {
                        format!(
                            "{source} describes an app of flow {flow}, to which no user signs in"
                        )
                    }
                };
                return Err(Failure::usage(message).with_hint(NAME_AN_APP));
            }
            let is_named = builder.named_configuration_file()?.is_some();
            return Ok(Self {
                config: ProfileConfig::of(&app)?,
                secret: app.client_secret().cloned(),
                is_found_by_chance: matches!(source, Source::File(_)) && !is_named,
                source: source.to_string(),
            });
        }
        match existing {
            Some(existing) => Self::of_profile(name, existing).await,
            None => {
                Err(Failure::usage("no app is configured to sign in to").with_hint(NAME_AN_APP))
            }
        }
    }

    async fn of_profile(name: &str, config: &ProfileConfig) -> Result<Self> {
        let variable = |name: &str| env::var_os(name);
        Ok(Self {
            config: config.clone(),
            secret: profiles()?.client_secret(name, config, variable).await?,
            source: Source::Profile(name.to_owned()).to_string(),
            is_found_by_chance: false,
        })
    }

    /// The options of the command line come first.
    fn apply(&mut self, options: &Login, existing: Option<&ProfileConfig>) -> Result<()> {
        let mut config = self.config.clone();
        if let Some(site) = &options.site
            && site != config.endpoint()
        {
            let other =
                ProfileConfig::new(config.flow(), config.client_id().clone(), site.clone())?;
            config = match config.redirect_uri() {
                Some(redirect_uri) => other.with_redirect_uri(redirect_uri),
                None => other,
            };
        }
        let store = options.store.map(Into::into);
        let store = store.or_else(|| existing.map(ProfileConfig::store));
        config = config.with_store(store.unwrap_or_default());
        if let Some(workspace) = &options.workspace {
            config = config.with_workspace(workspace);
        }
        if let Some(redirect_uri) = &options.redirect_uri {
            config = config.with_redirect_uri(redirect_uri);
        }
        self.config = config;
        Ok(())
    }

    /// A file that lies in the working folder may not choose who gets the sign-in.
    async fn confirm_endpoint(&self, session: &Session<'_>) -> Result<()> {
        let endpoint = self.config.endpoint();
        if !is_foreign(endpoint) {
            return Ok(());
        }
        let (api_base, www_base) = (endpoint.api_base(), endpoint.www_base());
        let what = format!(
            "{} in the working folder sends the sign-in to {api_base}, with the pages of {www_base}, which is neither site of Coze",
            self.source
        );
        if can_ask() {
            let question = format!("{what}. Do you trust it?");
            return confirmed(session.terminal.confirm(Printable(&question)).await);
        }
        Err(Failure::usage(what).with_hint(format!(
            "if you trust it, name the endpoint: coze login --site {api_base}; or name the file: COZE_OAUTH_CONFIG={}",
            self.source
        )))
    }

    /// A profile is not replaced by a sign-in to another app, or at another endpoint, unless the user says so.
    async fn confirm_replacement(
        &self,
        name: &str,
        existing: &ProfileConfig,
        session: &Session<'_>,
    ) -> Result<()> {
        let parts = |config: &ProfileConfig| {
            let (id, endpoint) = (config.client_id().clone(), config.endpoint());
            let bases = (
                endpoint.api_base().to_owned(),
                endpoint.www_base().to_owned(),
            );
            (id, bases)
        };
        if parts(existing) == parts(&self.config) {
            return Ok(());
        }
        let what = format!(
            "profile {name} is a sign-in to {}; one to {} (from {}) would replace it",
            shown(existing),
            shown(&self.config),
            self.source
        );
        if can_ask() {
            let question = format!("{what}. Replace it?");
            return confirmed(session.terminal.confirm(Printable(&question)).await);
        }
        let hint =
            "to keep both, choose another profile: --profile NAME; to replace this one: --replace";
        Err(Failure::usage(what).with_hint(hint))
    }
}

fn confirmed(is_yes: bool) -> Result<()> {
    match is_yes {
        true => Ok(()),
        false => Err(Failure::new(
            Exit::Refused,
            "cancelled: nothing was changed",
        )),
    }
}

/// The app and its endpoint, on one line: the id may come from a file of another person.
fn shown(config: &ProfileConfig) -> String {
    let id = sanitize_sentence(config.client_id().as_ref().to_owned());
    format!("app {id} at {}", config.endpoint().api_base())
}

/// From the environment, or else from the user, without showing what is typed.
async fn client_secret() -> Result<Secret> {
    let from_env = env::var(SECRET_VARIABLE)
        .ok()
        .filter(|secret| !secret.trim().is_empty());
    if let Some(secret) = from_env {
        return Ok(Secret::from(secret.trim()));
    }
    if !input_is_terminal() {
        return Err(
            Failure::usage("the client secret of the web app is missing")
                .with_hint("set COZE_WEB_OAUTH_CLIENT_SECRET, or run this in a terminal"),
        );
    }
    let typed = secret::typed("Client secret (not shown): ").await?;
    Ok(Secret::from(typed.trim()))
}

impl From<LoginFlow> for Flow {
    fn from(flow: LoginFlow) -> Self {
        match flow {
            LoginFlow::Device => Self::Device,
            LoginFlow::Pkce => Self::Pkce,
            LoginFlow::Web => Self::Web,
        }
    }
}
