//! Runs the flows of `coze-auth` against the mock, like the drivers in this folder for the official SDKs: see
//! `README.md` for what a driver is. `cargo xtask conformance` starts it, against a strict mock.

#![allow(
    clippy::print_stdout,
    reason = "a driver communicates over its standard output"
)]

use std::collections::HashMap;
use std::io::BufRead as _;
use std::time::Duration;

use coze_auth::reqwest::{Client, StatusCode};
use coze_auth::{
    ConfiguredFlow, DeviceFlow, Error, ErrorCode, JwtFlow, JwtTokenRequest, OAuthConfig, PkceFlow,
    RefreshToken, Scope, Token, Url, UserFlow, WebFlow,
};
use serde::Deserialize;
use serde_json::{Value, json};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// The ready line of the mock, and the inputs that all drivers use.
#[derive(Deserialize)]
struct Config {
    coze_api_base: String,
    control: String,
    apps: Vec<Value>,
    inputs: Inputs,
}

#[derive(Deserialize)]
struct Inputs {
    redirect_uri: String,
    state: String,
    session_name: String,
    account_id: String,
    enterprise_id: String,
    bot_ids: Vec<String>,
    until_expired: u64,
}

struct Driver {
    config: Config,
    web: WebFlow,
    pkce: PkceFlow,
    device: DeviceFlow,
    jwt: JwtFlow,
    http: Client,
    /// The tokens of the sign-ins, for the later refreshes and API calls.
    signed_in: HashMap<&'static str, Token>,
}

/// What a flow did, and the access token that it returned.
struct Done(&'static str, Option<String>);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut driver = Driver::new(&std::env::var("COZE_CONFORMANCE")?)?;
    println!(
        "{}",
        json!({"sdk": "coze-auth", "version": env!("CARGO_PKG_VERSION")})
    );
    for line in std::io::stdin().lock().lines() {
        let flow = line?;
        let line = match driver.run_in_time(flow.trim()).await {
            Ok(Done(detail, access_token)) => {
                json!({"flow": flow, "outcome": "pass", "detail": detail, "access_token": access_token})
            }
            Err(error) => json!({"flow": flow, "outcome": "fail", "detail": error.to_string()}),
        };
        println!("{line}");
    }
    Ok(())
}

impl Driver {
    fn new(config: &str) -> Result<Self> {
        let config: Config = serde_json::from_str(config)?;
        let (mut web, mut pkce, mut device, mut jwt) = (None, None, None, None);
        for app in &config.apps {
            match app.to_string().parse::<OAuthConfig>()?.build()? {
                ConfiguredFlow::Web(flow) => web = Some(flow),
                ConfiguredFlow::Pkce(flow) => pkce = Some(flow),
                ConfiguredFlow::Device(flow) => device = Some(flow),
                ConfiguredFlow::Jwt(flow) => jwt = Some(flow),
                _ => {}
            }
        }
        Ok(Self {
            web: web.ok_or("the mock has no web app")?,
            pkce: pkce.ok_or("the mock has no PKCE app")?,
            device: device.ok_or("the mock has no device app")?,
            jwt: jwt.ok_or("the mock has no JWT app")?,
            http: Client::builder()
                .no_proxy()
                .tls_certs_only([])
                .timeout(Duration::from_secs(10))
                .build()?,
            config,
            signed_in: HashMap::new(),
        })
    }

    /// A device code is polled until it expires, even if the mock has stopped: too long for this test.
    async fn run_in_time(&mut self, flow: &str) -> Result<Done> {
        tokio::time::timeout(Duration::from_secs(30), self.run(flow)).await?
    }

    async fn run(&mut self, flow: &str) -> Result<Done> {
        let request = JwtTokenRequest::default;
        let inputs = &self.config.inputs;
        match flow {
            "web" => self.web().await,
            "web_refresh" => self.refresh("web").await,
            "pkce" => self.pkce().await,
            "pkce_refresh" => self.refresh("pkce").await,
            "device" => self.device().await,
            "device_refusal" => self.device_refusal().await,
            "device_refresh" => self.refresh("device").await,
            "jwt" => self.jwt("token for everything granted", request()).await,
            "jwt_scope" => {
                let two_bots = request().scope(Scope::bot_chat(&inputs.bot_ids));
                self.jwt("token for two bots", two_bots).await
            }
            "jwt_session" => {
                let session = request().session_name(&inputs.session_name);
                self.jwt("token for one session", session).await
            }
            "jwt_account" => {
                let account = request().account(&inputs.account_id);
                self.jwt("token for another account", account).await
            }
            "jwt_enterprise" => {
                let enterprise = request().enterprise(&inputs.enterprise_id);
                self.jwt("token for an enterprise", enterprise).await
            }
            "api_call" => self.api_call().await,
            "api_expired" => self.api_expired().await,
            other => Err(format!("no flow has the name {other}").into()),
        }
    }

    async fn web(&mut self) -> Result<Done> {
        let inputs = &self.config.inputs;
        let login = self.web.login(&inputs.redirect_uri).state(&inputs.state);
        let (url, login) = login.begin()?;
        let callback = self.approve(&url).await?;
        let token = self.web.complete(login, &callback).await?;
        Ok(self.keep("web", "code exchanged", token))
    }

    async fn pkce(&mut self) -> Result<Done> {
        let inputs = &self.config.inputs;
        let login = self.pkce.login(&inputs.redirect_uri).state(&inputs.state);
        let (url, login) = login.begin()?;
        let callback = self.approve(&url).await?;
        let token = self.pkce.complete(login, &callback).await?;
        Ok(self.keep("pkce", "code exchanged", token))
    }

    async fn refresh(&mut self, flow: &'static str) -> Result<Done> {
        let old = self
            .signed_in
            .get(flow)
            .and_then(Token::refresh_token)
            .ok_or("there is no refresh token")?
            .clone();
        let next = self.redeem(flow, &old).await?;
        let error = match self.redeem(flow, &old).await {
            Ok(_) => return Err("the old refresh token was accepted again".into()),
            Err(error) => error,
        };
        if error.code() != Some(&ErrorCode::InvalidGrant) {
            return Err(error.into());
        }
        Ok(self.keep(
            flow,
            "refreshed; the old refresh token gives Error, code InvalidGrant",
            next,
        ))
    }

    async fn redeem(&self, flow: &str, refresh_token: &RefreshToken) -> Result<Token, Error> {
        match flow {
            "web" => self.web.refresh(refresh_token).await,
            "pkce" => self.pkce.refresh(refresh_token).await,
            _ => self.device.refresh(refresh_token).await,
        }
    }

    async fn device(&mut self) -> Result<Done> {
        let authorization = self.device.start().await?;
        let (token, approved) = tokio::join!(
            self.device.poll(&authorization),
            self.approve_after_a_pending_poll(authorization.user_code()),
        );
        approved?;
        Ok(self.keep("device", "polled until approved", token?))
    }

    async fn device_refusal(&self) -> Result<Done> {
        let authorization = self.device.start().await?;
        let user_code = json!({"user_code": authorization.user_code()});
        self.control("device/deny", Some(&user_code)).await?;
        match self.device.poll(&authorization).await {
            Ok(_) => Err("a refused request returned a token".into()),
            Err(error) if error.code() == Some(&ErrorCode::AccessDenied) => {
                Ok(Done("Error, code AccessDenied", None))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn jwt(&self, detail: &'static str, request: JwtTokenRequest) -> Result<Done> {
        let token = self.jwt.token_for(&request).await?;
        Ok(Done(detail, Some(exposed(&token))))
    }

    async fn api_call(&self) -> Result<Done> {
        let token = self.signed_in.get("web").ok_or("there is no token")?;
        let (status, answer) = self.users_me(token).await?;
        if status != StatusCode::OK || answer["data"]["user_name"].as_str().is_none() {
            return Err(format!("HTTP {status}: {answer}").into());
        }
        Ok(Done("GET users/me by reqwest", Some(exposed(token))))
    }

    async fn api_expired(&self) -> Result<Done> {
        let token = self.signed_in.get("web").ok_or("there is no token")?;
        let seconds = self.config.inputs.until_expired;
        self.control("clock/advance", Some(&json!({"seconds": seconds})))
            .await?;
        let (status, answer) = self.users_me(token).await?;
        if status != StatusCode::UNAUTHORIZED || answer["code"] != 700_012_006 {
            return Err(format!("HTTP {status}: {answer}").into());
        }
        Ok(Done("HTTP 401, code 700012006", Some(exposed(token))))
    }

    /// `coze-auth` does not call the API itself: any HTTP client can send its token.
    async fn users_me(&self, token: &Token) -> Result<(StatusCode, Value)> {
        let request = self
            .http
            .get(format!("{}/v1/users/me", self.config.coze_api_base))
            .header("authorization", token.access_token().authorization());
        let response = request.send().await?;
        Ok((response.status(), response.json().await?))
    }

    fn keep(&mut self, flow: &'static str, detail: &'static str, token: Token) -> Done {
        let access_token = exposed(&token);
        self.signed_in.insert(flow, token);
        Done(detail, Some(access_token))
    }

    /// Opens the authorize page and approves. Returns the callback URL.
    async fn approve(&self, url: &Url) -> Result<String> {
        let answer = self
            .control("authorize", Some(&json!({"url": url.as_str()})))
            .await?;
        let callback = answer["callback"].as_str();
        Ok(callback.ok_or("the mock gave no callback")?.to_owned())
    }

    /// Confirms the user code after one poll was answered with `authorization_pending`.
    async fn approve_after_a_pending_poll(&self, user_code: &str) -> Result<()> {
        let before = self.control("requests", None).await?["ever"].clone();
        for _ in 0..200 {
            let since = format!("requests?since={before}");
            let answer = self.control(&since, None).await?;
            let requests = answer["requests"].as_array();
            if requests.into_iter().flatten().any(is_pending) {
                let user_code = json!({"user_code": user_code});
                self.control("device/approve", Some(&user_code)).await?;
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err("no poll was answered with authorization_pending".into())
    }

    /// Calls one of the mock's control endpoints.
    async fn control(&self, path: &str, body: Option<&Value>) -> Result<Value> {
        let url = format!("{}{path}", self.config.control);
        let request = match body {
            Some(body) => self.http.post(url).json(body),
            None => self.http.get(url),
        };
        Ok(request.send().await?.error_for_status()?.json().await?)
    }
}

fn is_pending(request: &Value) -> bool {
    request["outcome"]["answered"]["error"] == "authorization_pending"
}

fn exposed(token: &Token) -> String {
    token.access_token().expose().to_owned()
}
