//! Shared by the examples: where they run, an API call that shows that a token works, and
//! the display of a token without its secret.
//!
//! An example runs against Coze when the documented environment variables of its flow are set, and
//! against a mock in its own process when they are not. Either way it is configured by
//! [`OAuthConfig`], so the code of the flow is the same.

use std::{ffi::OsString, future::Future, time::Duration};

use anyhow::{Context, Result, bail};
use coze_auth::{Endpoint, Flow, OAuthConfig};
use coze_mock::{Decision, MockCoze, defaults};
use reqwest::header::HeaderValue;
use serde::Deserialize;

/// Where an example runs.
pub struct Stage {
    /// The flow's configuration: Coze's, or the mock's.
    pub config: OAuthConfig,
    /// The mock, when it is one.
    pub mock: Option<MockCoze>,
}

impl Stage {
    /// Coze, if the environment configures this flow; else a new mock.
    pub async fn set(flow: Flow) -> Result<Self> {
        let configured = mock_variables(flow, "", "")
            .iter()
            .any(|(name, _)| *name != API_BASE && std::env::var_os(name).is_some());
        if configured {
            return Ok(Self {
                config: OAuthConfig::from_env_for(flow)?,
                mock: None,
            });
        }
        let mock = start_mock().await?;
        println!(
            "(no account configured: running against a mock of Coze at {})\n",
            mock.url()
        );
        Ok(Self {
            config: mock_config(&mock, flow)?,
            mock: Some(mock),
        })
    }

    /// The redirect URI: the configured one, or one on this machine.
    pub fn redirect_uri(&self) -> &str {
        self.config
            .redirect_uri()
            .unwrap_or("http://127.0.0.1:8080/callback")
    }
}

/// A mock with a polling interval of one second, to keep the examples fast.
pub async fn start_mock() -> Result<MockCoze> {
    Ok(MockCoze::builder()
        .device_interval(Duration::from_secs(1))
        .start()
        .await?)
}

/// The configuration of the mock's app for a flow.
pub fn mock_config(mock: &MockCoze, flow: Flow) -> Result<OAuthConfig> {
    let variables = mock_variables(flow, mock.url(), mock.default_jwt_private_key_pem()?);
    let variable = |name: &str| {
        let (_, value) = variables.iter().find(|(n, _)| *n == name)?;
        Some(OsString::from(value))
    };
    Ok(OAuthConfig::from_variables(variable, Some(flow))?)
}

const API_BASE: &str = "COZE_API_BASE";

fn mock_variables(flow: Flow, url: &str, private_key: &str) -> Vec<(&'static str, String)> {
    let own: &[(&str, &str)] = match flow {
        Flow::Token => &[("COZE_API_TOKEN", defaults::PERSONAL_ACCESS_TOKEN)],
        Flow::Web => &[
            ("COZE_WEB_OAUTH_CLIENT_ID", defaults::WEB_CLIENT_ID),
            ("COZE_WEB_OAUTH_CLIENT_SECRET", defaults::WEB_CLIENT_SECRET),
        ],
        Flow::Pkce => &[("COZE_PKCE_OAUTH_CLIENT_ID", defaults::PKCE_CLIENT_ID)],
        Flow::Device => &[("COZE_DEVICE_OAUTH_CLIENT_ID", defaults::DEVICE_CLIENT_ID)],
        Flow::Jwt => &[
            ("COZE_JWT_OAUTH_CLIENT_ID", defaults::JWT_CLIENT_ID),
            ("COZE_JWT_OAUTH_PUBLIC_KEY_ID", defaults::JWT_PUBLIC_KEY_ID),
            ("COZE_JWT_OAUTH_PRIVATE_KEY", private_key),
        ],
        _ => &[],
    };
    own.iter()
        .map(|(name, value)| (*name, (*value).to_owned()))
        .chain([(API_BASE, url.to_owned())])
        .collect()
}

/// The flow of a configuration, `flow!(stage.config, Device)`, or an error if it is another flow.
#[macro_export]
macro_rules! flow {
    ($config:expr, $flow:ident) => {
        match $config.build()? {
            coze_auth::ConfiguredFlow::$flow(flow) => flow,
            other => anyhow::bail!("the configuration is for another flow: {other:?}"),
        }
    };
}

/// The user of a token.
#[derive(Debug, Deserialize)]
pub struct User {
    /// Coze's id of the user.
    pub user_id: String,
    /// The user's name, unique in Coze.
    pub user_name: String,
}

/// Asks the API for the user of the token. Any HTTP client works: the token is sent in one header. This one follows no
/// redirects, and uses no proxy for a host on this machine.
pub async fn users_me(endpoint: &Endpoint, authorization: &HeaderValue) -> Result<User> {
    #[derive(Deserialize)]
    struct Envelope {
        code: i64,
        msg: String,
        data: Option<User>,
    }
    let response = coze_wire::http_client(endpoint.api_base())?
        .get(format!("{}/v1/users/me", endpoint.api_base()))
        .header("Authorization", authorization)
        .send()
        .await?;
    let log_id = response
        .headers()
        .get("x-tt-logid")
        .and_then(|log_id| log_id.to_str().ok())
        .unwrap_or("none")
        .to_owned();
    let answer: Envelope = response
        .json()
        .await
        .with_context(|| format!("users/me returned no JSON (log id {log_id})"))?;
    match answer {
        Envelope {
            code: 0,
            data: Some(user),
            ..
        } => Ok(user),
        Envelope { code, msg, .. } => bail!("users/me: {code}: {msg} (log id {log_id})"),
    }
}

/// The displayable part of a token: only its type prefix.
pub fn shown(token: &str) -> String {
    match token.split_once('_') {
        Some((kind, _)) if kind.len() <= 4 => format!("{kind}_****"),
        _ => "****".to_owned(),
    }
}

/// Acts as the user who opens the authorize page and approves; only with a mock.
pub fn approve_in_browser(mock: &MockCoze, authorize_url: &str) -> Result<String> {
    let callback = mock.authorize(authorize_url, Decision::Approve)?;
    Ok(callback.into())
}

/// Acts as the user who confirms a user code a moment later; only with a mock.
pub fn approve_soon(mock: &MockCoze, user_code: &str) -> impl Future<Output = ()> + use<> {
    let (mock, user_code) = (mock.clone(), user_code.to_owned());
    async move {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        if let Err(error) = mock.approve_device(&user_code) {
            eprintln!("the approval failed: {error}");
        }
    }
}

/// The code blocks of the documentation, which are compiled.
#[cfg(doctest)]
mod documentation {
    #[doc = include_str!("../../README.md")]
    mod readme {}
    #[doc = include_str!("../../docs/errors.md")]
    mod errors {}
    #[doc = include_str!("../../docs/moving-from-sdks.md")]
    mod moving_from_sdks {}
    #[doc = include_str!("../../docs/redis.md")]
    mod redis {}
    #[doc = include_str!("../../docs/writing-a-store.md")]
    mod writing_a_store {}
}
