//! The mock behind the examples: without an account, [`mock_unless_configured`] starts a mock of Coze in this process,
//! [`variable`] names a bot of it, and [`open_in_browser`] and [`visit`] act as the user. Your own program calls `OAuthConfig::from_env_for` instead, and has users.

use std::{ffi::OsString, net::TcpListener, sync::OnceLock, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use coze_api::prelude::*;
use coze_auth::{Endpoint, FixedToken, Flow, OAuthConfig, Url};
use coze_mock::{
    Decision, Endpoint as MockEndpoint, MockCoze, ScriptedReply, ScriptedStream, Times, defaults,
};
use reqwest::{
    Method,
    header::{COOKIE, HeaderValue, LOCATION, SET_COOKIE},
};

static MOCK: OnceLock<MockCoze> = OnceLock::new();

/// The lifetime of a user's access token of the mock's web app: short, so that the example `web` shows a refresh.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3);

/// `OAuthConfig::from_env_for(flow)` if the environment configures this flow, else the configuration of an app of a new mock.
pub async fn mock_unless_configured(flow: Flow) -> Result<OAuthConfig> {
    let names = mock_variables(flow, "")?.into_iter();
    if { names }.any(|(name, _)| std::env::var_os(name).is_some()) {
        return Ok(OAuthConfig::from_env_for(flow)?);
    }
    let mut mock = MockCoze::builder().device_interval(Duration::from_secs(1));
    if flow == Flow::Web {
        mock = mock.access_token_lifetime(TOKEN_LIFETIME);
    }
    let mock = mock.start().await?;
    if flow == Flow::Token {
        talk(&mock).await?;
    }
    println!("(No account is configured: this runs against a mock of Coze.)\n");

    let mut variables = mock_variables(flow, mock.default_jwt_private_key_pem()?)?;
    variables.push(("COZE_API_BASE", mock.url().to_owned()));
    let variable = |name: &str| {
        let (_, value) = variables.iter().find(|(each, _)| *each == name)?;
        Some(OsString::from(value))
    };
    let config = OAuthConfig::from_variables(variable, Some(flow))?;
    ensure!(MOCK.set(mock).is_ok(), "the mock is already running");
    Ok(config)
}

/// Starts conversations with a bot of the mock, so that there is something to list.
async fn talk(mock: &MockCoze) -> Result<()> {
    let token = FixedToken::new(defaults::PERSONAL_ACCESS_TOKEN)?;
    let coze = CozeApi::builder(token).endpoint(Endpoint::custom(mock.url())?);
    let coze = coze.build()?;
    for town in ["Oslo", "Bergen", "Tromsø"] {
        let conversation = coze.conversations().create().bot_id(defaults::BOT_IDS[0]);
        let question = format!("Will it rain in {town}?");
        conversation.message(&*question).send().await?;
    }
    Ok(())
}

/// `std::env::var(name)`, or with the mock a bot of it: for `COZE_BOT_ID` one that writes slowly, for `COZE_TOOL_BOT_ID` one that needs a
/// tool for its next answer.
pub fn variable(name: &str) -> Result<String> {
    let Some(mock) = MOCK.get() else {
        return std::env::var(name).with_context(|| format!("the environment has no {name}"));
    };
    let chats = MockEndpoint::CreateChat;
    match name {
        "COZE_BOT_ID" => {
            let slow = ScriptedStream::reply().pause(Duration::from_millis(100));
            mock.faults().add(slow, chats, Times::Forever);
            Ok(defaults::BOT_IDS[0].to_owned())
        }
        "COZE_TOOL_BOT_ID" => {
            let reply = ScriptedReply::new().tool_call("read_thermometer", r#"{"room":"hall"}"#);
            mock.faults().add(reply, chats, Times::ONCE);
            Ok(defaults::BOT_IDS[1].to_owned())
        }
        _ => bail!("the mock has no {name}"),
    }
}

fn mock_variables(flow: Flow, private_key: &str) -> Result<Vec<(&'static str, String)>> {
    // A port that is free now.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let redirect_uri = format!("http://127.0.0.1:{port}/callback");
    let variables: &[(&str, &str)] = match flow {
        Flow::Token => &[("COZE_API_TOKEN", defaults::PERSONAL_ACCESS_TOKEN)],
        Flow::Web => &[
            ("COZE_WEB_OAUTH_CLIENT_ID", defaults::WEB_CLIENT_ID),
            ("COZE_WEB_OAUTH_CLIENT_SECRET", defaults::WEB_CLIENT_SECRET),
            ("COZE_WEB_OAUTH_REDIRECT_URI", &redirect_uri),
        ],
        Flow::Pkce => &[
            ("COZE_PKCE_OAUTH_CLIENT_ID", defaults::PKCE_CLIENT_ID),
            ("COZE_PKCE_OAUTH_REDIRECT_URI", &redirect_uri),
        ],
        Flow::Device => &[("COZE_DEVICE_OAUTH_CLIENT_ID", defaults::DEVICE_CLIENT_ID)],
        Flow::Jwt => &[
            ("COZE_JWT_OAUTH_CLIENT_ID", defaults::JWT_CLIENT_ID),
            ("COZE_JWT_OAUTH_PUBLIC_KEY_ID", defaults::JWT_PUBLIC_KEY_ID),
            ("COZE_JWT_OAUTH_PRIVATE_KEY", private_key),
        ],
        _ => bail!("the mock has no app for this flow"),
    };
    let owned = variables
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()));
    Ok(owned.collect())
}

/// With the mock, acts as the user who opens this URL and approves. Against Coze it does nothing: open the URL yourself.
pub fn open_in_browser(url: impl AsRef<str>) {
    let Some(mock) = MOCK.get() else { return };
    let url = url.as_ref().to_owned();
    tokio::spawn(async move {
        if let Err(error) = Browser::new(mock).get(&url).await {
            eprintln!("the user could not approve: {error:#}");
            std::process::exit(1);
        }
    });
}

/// With the mock, acts as a user who opens these pages of a site, a while apart, and ends. Against Coze it waits for Ctrl-C.
pub async fn visit(site: String, pages: &'static [&'static str]) {
    let visit = async {
        let Some(mock) = MOCK.get() else {
            return Ok(tokio::signal::ctrl_c().await?);
        };
        let mut browser = Browser::new(mock);
        for page in pages {
            let (method, path) = page.split_once(' ').context("a method and a path")?;
            let url = format!("{site}{path}");
            let text = browser.open(method.parse()?, &url).await?;
            println!("{page:<15} {text}");
            tokio::time::sleep(TOKEN_LIFETIME / 2).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    if let Err(error) = visit.await {
        eprintln!("the visit failed: {error:#}");
        std::process::exit(1);
    }
}

/// A user with a browser, who approves everything at the mock.
struct Browser {
    mock: &'static MockCoze,
    cookie: Option<HeaderValue>,
}

impl Browser {
    fn new(mock: &'static MockCoze) -> Self {
        Self { mock, cookie: None }
    }

    async fn get(&mut self, url: &str) -> Result<String> {
        self.open(Method::GET, url).await
    }

    /// Opens a page, follows its redirects, and returns the text of the last one.
    async fn open(&mut self, mut method: Method, url: &str) -> Result<String> {
        let mut url = Url::parse(url)?;
        loop {
            if url.as_str().starts_with(self.mock.url()) {
                let code = url.query_pairs().find(|(name, _)| name == "user_code");
                if let Some((_, user_code)) = code {
                    self.mock.approve_device(&user_code)?;
                    return Ok("approved".to_owned());
                }
                url = self.mock.authorize(url.as_str(), Decision::Approve)?;
            }
            // Without a redirect policy and without a proxy.
            let http = coze_wire::http_client(url.as_str())?;
            let mut request = http.request(method, url.clone());
            if let Some(cookie) = &self.cookie {
                request = request.header(COOKIE, cookie);
            }
            let response = request.send().await?;
            if let Some(cookie) = response.headers().get(SET_COOKIE) {
                let pair = cookie.to_str()?.split(';').next().unwrap_or_default();
                self.cookie = Some(pair.parse()?);
            }
            let Some(location) = response.headers().get(LOCATION) else {
                let status = response.status();
                let text = response.text().await?;
                ensure!(status.is_success(), "{url} answered {status}: {text}");
                return Ok(text);
            };
            url = url.join(location.to_str()?)?;
            method = Method::GET;
        }
    }
}

/// The code blocks of the documentation, which are compiled.
#[cfg(doctest)]
mod documentation {
    #[doc = include_str!("../../README.md")]
    mod readme {}
    #[doc = include_str!("../../docs/api.md")]
    mod api {}
    #[doc = include_str!("../../docs/credentials.md")]
    mod credentials {}
    #[doc = include_str!("../../docs/errors.md")]
    mod errors {}
    #[doc = include_str!("../../docs/moving-from-sdks.md")]
    mod moving_from_sdks {}
    #[doc = include_str!("../../docs/redis.md")]
    mod redis {}
    #[doc = include_str!("../../docs/testing.md")]
    mod testing {}
    #[doc = include_str!("../../docs/writing-a-store.md")]
    mod writing_a_store {}
}
