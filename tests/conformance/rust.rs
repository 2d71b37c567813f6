//! Runs the flows of `coze-auth` and `coze-api` against the mock, like the drivers in this folder for the official SDKs: see
//! `README.md` for what a driver is. `cargo xtask conformance` starts it, against a strict mock.

#![allow(
    clippy::print_stdout,
    reason = "a driver communicates over its standard output"
)]

use std::collections::HashMap;
use std::io::BufRead as _;
use std::time::Duration;

use coze_api::prelude::*;
use coze_api::types::{ChatEvent, ChatStatus, MessageType};
use coze_api::{Endpoint, EventStream};
use coze_auth::reqwest::Client;
use coze_auth::{
    ConfiguredFlow, DeviceFlow, Error, ErrorCode, FixedToken, JwtFlow, JwtTokenRequest,
    OAuthConfig, PkceFlow, RefreshToken, Scope, Token, Url, UserFlow, WebFlow,
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
    access_tokens: Vec<String>,
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
    user_id: String,
    question: String,
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
    /// The conversation and the answer, for the later flows.
    conversation: String,
    answer: String,
}

/// What a flow did, and the access token that it returned.
struct Done(String, Option<String>);

impl From<&str> for Done {
    fn from(detail: &str) -> Self {
        Self(detail.to_owned(), None)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut driver = Driver::new(&std::env::var("COZE_CONFORMANCE")?)?;
    println!(
        "{}",
        json!({"sdk": "coze-auth and coze-api", "version": env!("CARGO_PKG_VERSION")})
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
            conversation: String::new(),
            answer: String::new(),
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
            "create_conversation" => self.create_conversation().await,
            "create_chat" => self.create_chat().await,
            "stream_chat" => self.stream_chat().await,
            "list_messages" => self.list_messages().await,
            "api_expired" => self.api_expired().await,
            "stream" => self.stream().await,
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
                Ok("Error, code AccessDenied".into())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn jwt(&self, detail: &'static str, request: JwtTokenRequest) -> Result<Done> {
        let token = self.jwt.token_for(&request).await?;
        Ok(Done(detail.to_owned(), Some(exposed(&token))))
    }

    async fn api_call(&self) -> Result<Done> {
        let token = exposed(self.signed_in.get("web").ok_or("there is no token")?);
        let me = self.api(&token)?.users().me().send().await?;
        if me.user_name.is_empty() {
            return Err("the answer has no user name".into());
        }
        Ok(Done("users().me()".to_owned(), Some(token)))
    }

    async fn api_expired(&self) -> Result<Done> {
        let token = exposed(self.signed_in.get("web").ok_or("there is no token")?);
        let seconds = self.config.inputs.until_expired;
        self.control("clock/advance", Some(&json!({"seconds": seconds})))
            .await?;
        match self.api(&token)?.users().me().send().await {
            Ok(_) => Err("the token has expired, and was accepted".into()),
            Err(error) if error.code() == Some(&ErrorCode::Api(700_012_006)) => {
                let detail = "Error, code Api(700012006)".to_owned();
                Ok(Done(detail, Some(token)))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn create_conversation(&mut self) -> Result<Done> {
        let inputs = &self.config.inputs;
        let create = self.chats()?.conversations().create();
        let create = create
            .bot_id(&inputs.bot_ids[0])
            .message(inputs.question.as_str());
        self.conversation = create.send().await?.id.clone();
        Ok("conversations().create()".into())
    }

    async fn create_chat(&self) -> Result<Done> {
        let inputs = &self.config.inputs;
        let coze = self.chats()?;
        let create = coze.chat().create().bot_id(&inputs.bot_ids[0]);
        let create = create
            .user_id(&inputs.user_id)
            .message(inputs.question.as_str());
        let chat = create.and_wait().send().await?;
        if chat.status != Some(ChatStatus::Completed) {
            return Err(format!("the chat is {:?}", chat.status).into());
        }
        let list = coze
            .chat()
            .list_messages()
            .conversation_id(&chat.conversation_id);
        let messages = list.chat_id(&chat.id).send().await?;
        if !messages
            .iter()
            .any(|message| message.type_ == Some(MessageType::Answer))
        {
            return Err("the bot wrote no answer".into());
        }
        Ok("chat().create().and_wait()".into())
    }

    async fn stream_chat(&mut self) -> Result<Done> {
        let (mut said, mut whole) = (String::new(), None);
        let mut events = self.begin(Some(&self.conversation)).await?;
        while let Some(event) = events.try_next().await? {
            match event {
                ChatEvent::MessageDelta(message) => said += &message.content,
                ChatEvent::MessageCompleted(message)
                    if message.type_ == Some(MessageType::Answer) =>
                {
                    whole = Some(message.content);
                }
                _ => {}
            }
        }
        if whole.as_ref() != Some(&said) {
            return Err(format!("the parts are {said:?}, the message is {whole:?}").into());
        }
        self.answer = said;
        Ok("chat().stream()".into())
    }

    async fn list_messages(&self) -> Result<Done> {
        let list = self.chats()?.messages().list();
        let list = list.conversation_id(&self.conversation).by_item();
        let messages: Vec<_> = list.try_collect().await?;
        for content in [&self.config.inputs.question, &self.answer] {
            if !messages.iter().any(|message| message.content == *content) {
                return Err(format!("{content:?} is not in {messages:?}").into());
            }
        }
        Ok("messages().list().by_item()".into())
    }

    /// What a caller gets to see of a stream that the mock was told to send otherwise.
    async fn stream(&self) -> Result<Done> {
        let mut events = Vec::new();
        let error = match self.begin(None).await {
            Err(error) => Some(error),
            Ok(mut stream) => loop {
                match stream.try_next().await {
                    Ok(Some(event)) => {
                        let shown = format!("{event:?}");
                        events.extend(shown.split('(').next().map(str::to_owned));
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            },
        };
        let error = error.map(|error| {
            json!({
                "type": format!("{:?}", error.kind()),
                "message": error.to_string(),
                "code": error.code().and_then(|code| code.to_string().parse::<i64>().ok()),
                "log_id": error.log_id().is_some(),
                "chat_id": error.chat_id().is_some(),
            })
        });
        Ok(json!({"events": events, "error": error})
            .to_string()
            .as_str()
            .into())
    }

    async fn begin(&self, conversation: Option<&str>) -> coze_api::Result<EventStream<ChatEvent>> {
        let inputs = &self.config.inputs;
        let stream = self.chats()?.chat().stream().bot_id(&inputs.bot_ids[0]);
        let stream = stream
            .user_id(&inputs.user_id)
            .message(inputs.question.as_str());
        match conversation {
            Some(id) => stream.conversation_id(id).send().await,
            None => stream.send().await,
        }
    }

    /// A client with the token that never expires.
    fn chats(&self) -> coze_api::Result<CozeApi> {
        self.api(&self.config.access_tokens[0])
    }

    fn api(&self, access_token: &str) -> coze_api::Result<CozeApi> {
        let endpoint = Endpoint::custom(&self.config.coze_api_base)?;
        let api = CozeApi::builder(FixedToken::new(access_token)?).endpoint(endpoint);
        Ok(api.build()?)
    }

    fn keep(&mut self, flow: &'static str, detail: &'static str, token: Token) -> Done {
        let access_token = exposed(&token);
        self.signed_in.insert(flow, token);
        Done(detail.to_owned(), Some(access_token))
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
