//! Which app a user signs in to: that of the command line, of the environment or a file, or of the profile's last sign-in.

use std::env;

use coze_auth::{Flow, Secret};
use coze_credentials::ProfileConfig;

use crate::{
    args::{Login, LoginFlow},
    failure::{Failure, Result},
    session::{Session, profiles},
    terminal::input_is_terminal,
};

/// The official SDKs' variable for the client secret of a web app.
const SECRET_VARIABLE: &str = "COZE_WEB_OAUTH_CLIENT_SECRET";

const NAME_AN_APP: &str = "name it: coze login --client-id ID --site com (or cn), with --flow pkce or web if it is no device app; or set the variables of the app, or put its coze_oauth_config.json here";

pub(super) struct App {
    pub(super) config: ProfileConfig,
    pub(super) secret: Option<Secret>,
}

impl App {
    pub(super) async fn choose(options: &Login, name: &str, session: &Session<'_>) -> Result<Self> {
        let App { config, secret } = Self::named(options, name, session).await?;
        let mut config = match &options.site {
            Some(site) if site != config.endpoint() => {
                let other =
                    ProfileConfig::new(config.flow(), config.client_id().clone(), site.clone())?;
                match config.redirect_uri() {
                    Some(redirect_uri) => other.with_redirect_uri(redirect_uri),
                    None => other,
                }
            }
            _ => config,
        };
        config = config.with_store(options.store.into());
        if let Some(workspace) = &options.workspace {
            config = config.with_workspace(workspace);
        }
        if let Some(redirect_uri) = &options.redirect_uri {
            config = config.with_redirect_uri(redirect_uri);
        }
        let secret = match (config.flow(), secret) {
            (Flow::Web, None) => Some(client_secret()?),
            (_, secret) => secret,
        };
        Ok(Self { config, secret })
    }

    async fn named(options: &Login, name: &str, session: &Session<'_>) -> Result<Self> {
        let flow = options.flow.map(Flow::from);
        if let Some(client_id) = &options.client_id {
            let site = options.site.clone().unwrap_or_default();
            let config =
                ProfileConfig::new(flow.unwrap_or(Flow::Device), client_id.as_str(), site)?;
            let secret = None;
            return Ok(Self { config, secret });
        }
        if let Some((source, app)) = session.find_configuration(flow)? {
            if matches!(app.flow(), Flow::Token | Flow::Jwt) {
                let flow = app.flow();
                let message = format!("no user signs in to what {source} describes: flow {flow}");
                return Err(Failure::usage(message).with_hint(NAME_AN_APP));
            }
            return Ok(Self {
                config: ProfileConfig::of(&app)?,
                secret: app.client_secret().cloned(),
            });
        }
        let profiles = profiles()?;
        match profiles.load(name)? {
            Some(config) if flow.is_none_or(|flow| flow == config.flow()) => {
                let variable = |name: &str| env::var_os(name);
                let secret = profiles.client_secret(name, &config, variable).await?;
                Ok(Self { config, secret })
            }
            _ => Err(Failure::usage("no app is configured to sign in to").with_hint(NAME_AN_APP)),
        }
    }
}

/// From the environment, or else from the user, without showing what is typed.
fn client_secret() -> Result<Secret> {
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
    let typed = rpassword::prompt_password("Client secret (not shown): ")?;
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
