//! Every flow to get a Coze token, in sequence, and a chat with a bot, against a mock of Coze in this process:
//! no account, no network, no configuration. It fails if anything is not as it should be.
//!
//! `cargo run -p coze-examples --example quickstart`

use std::{io::Write, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use coze_api::{
    prelude::*,
    types::{ChatEvent, MessageType},
};
use coze_auth::{
    CachedProvider, DeviceFlow, Endpoint, ErrorCode, FixedToken, JwtFlow, JwtTokenRequest,
    OAuthClient, PkceFlow, PrivateKey, RefreshToken, Scope, Token, UserFlow, WebFlow,
};
use coze_mock::{Decision, GrantedToken, MockCoze, defaults};

const REDIRECT_URI: &str = "http://127.0.0.1:8080/callback";

#[tokio::main]
async fn main() -> Result<()> {
    let mock = MockCoze::builder()
        .device_interval(Duration::from_secs(1))
        .start()
        .await?;
    println!("A mock of Coze listens at {}.", mock.url());
    let client = OAuthClient::new(Endpoint::custom(mock.url())?)?;

    heading("Personal access token: created in the console, sent unchanged");
    let token = FixedToken::new(defaults::PERSONAL_ACCESS_TOKEN)?;
    call_api(&client, token).await?;

    heading("Web: authorization code with a client secret");
    let web = WebFlow::new(
        client.clone(),
        defaults::WEB_CLIENT_ID.into(),
        defaults::WEB_CLIENT_SECRET.into(),
    )?;
    let (url, login) = web.login(REDIRECT_URI).begin()?;
    step("send the browser to", url.path());
    let callback = mock.authorize(url.as_str(), Decision::Approve)?;
    step("the user approves", "and returns with a code and our state");
    let token = web.complete(login, callback.as_str()).await?;
    show(&token)?;
    let next = web.refresh(refresh_token(&token)?).await?;
    step("refreshed", "the first refresh token is redeemed");
    call_api(&client, FixedToken::from(next)).await?;

    heading("PKCE: authorization code without a secret");
    let pkce = PkceFlow::new(client.clone(), defaults::PKCE_CLIENT_ID)?;
    let (url, login) = pkce.login(REDIRECT_URI).begin()?;
    step(
        "send the browser to",
        format!("{} with an S256 challenge", url.path()),
    );
    let callback = mock.authorize(url.as_str(), Decision::Approve)?;
    let token = pkce.complete(login, callback.as_str()).await?;
    show(&token)?;
    let next = pkce.refresh(refresh_token(&token)?).await?;
    call_api(&client, FixedToken::from(next)).await?;

    heading("Device: a user confirms a code on another device");
    let device = DeviceFlow::new(client.clone(), defaults::DEVICE_CLIENT_ID)?;
    let authorization = device.start().await?;
    step("open", authorization.verification_uri());
    step("confirm the code", authorization.user_code());
    let user_code = authorization.user_code();
    let mut polls = 0;
    let token = device
        .poll_with(&authorization, |poll| {
            let error = poll.error.as_ref().map(ToString::to_string);
            step("poll", error.as_deref().unwrap_or("pending"));
            polls += 1;
            if polls == 1 {
                let approved = mock.approve_device(user_code);
                step("the user approves", approved.map_or("too late", |()| "now"));
            }
        })
        .await?;
    show(&token)?;
    let next = device.refresh(refresh_token(&token)?).await?;
    call_api(&client, FixedToken::from(next)).await?;

    heading("JWT: a service acts as the application");
    let jwt = JwtFlow::new(
        client.clone(),
        defaults::JWT_CLIENT_ID.into(),
        defaults::JWT_PUBLIC_KEY_ID.into(),
        PrivateKey::from_pem(mock.default_jwt_private_key_pem()?)?,
    )?;
    show(&jwt.token().await?)?;
    let an_hour = JwtTokenRequest::default().duration(Duration::from_secs(3600));
    let token = jwt.token_for(&an_hour).await?;
    show(&token)?;
    ensure!(
        token.remaining().as_secs() > 3500,
        "an hour was not granted"
    );
    let two_bots = JwtTokenRequest::default().scope(Scope::bot_chat(defaults::BOT_IDS));
    let token = jwt.token_for(&two_bots).await?;
    show(&token)?;
    ensure!(
        granted(&mock, &token)?.scope.is_some(),
        "the scope was not granted"
    );
    step("channel app", "only chats with two bots");
    let alice = JwtTokenRequest::default().session_name("alice");
    let token = jwt.token_for(&alice).await?;
    show(&token)?;
    let session = granted(&mock, &token)?.session_name;
    ensure!(
        session.as_deref() == Some("alice"),
        "the session is {session:?}"
    );
    step("session", "only alice's conversations");
    call_api(&client, FixedToken::from(token)).await?;

    heading("Errors");
    let unknown = RefreshToken::new("rt-that-nobody-issued")?;
    let refused = web.refresh(&unknown).await.err();
    let error = refused.context("an unknown refresh token was accepted")?;
    ensure!(error.code() == Some(&ErrorCode::InvalidGrant), "{error}");
    step("an unknown refresh token", error.hint());

    heading("Chat: the answer as the bot writes it, with a token that is kept valid");
    let coze = CozeApi::new(client, CachedProvider::jwt(jwt).build());
    let chat = coze
        .chat()
        .stream()
        .bot_id(defaults::BOT_IDS[0])
        .user_id("alice");
    let mut events = chat.message("Will it rain in Oslo?").send().await?;
    let mut parts = Vec::new();
    print!("  ");
    while let Some(event) = events.try_next().await? {
        match event {
            ChatEvent::MessageDelta(part) => {
                print!("{}", part.content);
                std::io::stdout().flush()?;
                parts.push(part.content);
            }
            ChatEvent::MessageCompleted(message) if message.type_ == Some(MessageType::Answer) => {
                ensure!(message.content == parts.concat(), "parts are missing");
            }
            ChatEvent::ChatFailed(chat) => bail!("the chat failed: {:?}", chat.last_error),
            _ => {}
        }
    }
    println!();
    ensure!(parts.len() > 1, "the answer was not streamed");

    let violations = mock.violations();
    ensure!(violations.is_empty(), "violations: {violations:?}");
    println!(
        "\nEvery flow worked: {} requests, and none violated Coze's contract.",
        mock.request_count()
    );
    Ok(())
}

/// Calls the API with a token.
async fn call_api(client: &OAuthClient, token: FixedToken) -> Result<()> {
    let coze = CozeApi::new(client.clone(), token);
    let me = coze.users().me().send().await?;
    step("the API answers", format!("hello {}", me.user_name));
    Ok(())
}

fn show(token: &Token) -> Result<()> {
    let log_id = token.log_id().context("the response had no log id")?;
    let seconds = token.remaining().as_secs();
    step("token", format!("for {seconds} s (log id {log_id})"));
    Ok(())
}

/// What the mock says of a token.
fn granted(mock: &MockCoze, token: &Token) -> Result<GrantedToken> {
    let granted = mock.granted(token.access_token().expose());
    granted.context("the mock does not know its token")
}

fn refresh_token(token: &Token) -> Result<&RefreshToken> {
    token.refresh_token().context("there is no refresh token")
}

fn heading(text: &str) {
    println!("\n{text}");
}

fn step(what: &str, result: impl std::fmt::Display) {
    println!("  {what:<25} {result}");
}
