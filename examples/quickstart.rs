//! Every flow to get a Coze token, in sequence, against a mock of Coze in this process:
//! no account, no network, no configuration.
//!
//! `cargo run -p coze-examples --example quickstart`

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coze_auth::{
    Endpoint, ErrorCode, FixedToken, Flow, JwtFlow, JwtTokenRequest, RefreshToken, Scope, Token,
};
use coze_examples::{
    approve_in_browser, approve_soon, flow, mock_config, shown, start_mock, users_me,
};
use coze_mock::{MockCoze, defaults};

const REDIRECT_URI: &str = "http://127.0.0.1:8080/callback";

#[tokio::main]
async fn main() -> Result<()> {
    let mock = start_mock().await?;
    println!(
        "A mock of Coze listens at {}. Tokens are shown redacted.",
        mock.url()
    );

    let mut tour = Tour {
        endpoint: Endpoint::custom(mock.url())?,
        mock,
        worked: Vec::new(),
    };
    tour.personal_access_token().await?;
    tour.web().await?;
    tour.pkce().await?;
    tour.device().await?;
    tour.jwt().await?;
    tour.errors().await?;
    tour.summary()
}

struct Tour {
    endpoint: Endpoint,
    mock: MockCoze,
    worked: Vec<&'static str>,
}

impl Tour {
    async fn personal_access_token(&mut self) -> Result<()> {
        heading("Personal access token: created in the console, sent unchanged");
        let token = flow!(mock_config(&self.mock, Flow::Token)?, Token);
        step("have", shown(token.access_token().expose()));
        self.use_fixed(&token).await?;
        self.worked.push("personal access token");
        Ok(())
    }

    async fn web(&mut self) -> Result<()> {
        heading("Web: authorization code with a client secret");
        let web = flow!(mock_config(&self.mock, Flow::Web)?, Web);

        let (url, login) = web.login(REDIRECT_URI).begin()?;
        step("send the browser to", url.path());
        let callback = approve_in_browser(&self.mock, url.as_str())?;
        step(
            "the user approves",
            "the browser returns with a code and our state",
        );
        let token = web.complete(login, &callback).await?;
        self.show_and_use(&token).await?;

        let next = web.refresh(refresh_token(&token)?).await?;
        step("refreshed", shown(next.access_token().expose()));
        self.use_token(&next).await?;
        self.worked.push("web, with refresh");
        Ok(())
    }

    async fn pkce(&mut self) -> Result<()> {
        heading("PKCE: authorization code without a secret");
        let pkce = flow!(mock_config(&self.mock, Flow::Pkce)?, Pkce);

        let (url, login) = pkce.login(REDIRECT_URI).begin()?;
        step(
            "send the browser to",
            format!("{} with an S256 challenge", url.path()),
        );
        let callback = approve_in_browser(&self.mock, url.as_str())?;
        let token = pkce.complete(login, &callback).await?;
        self.show_and_use(&token).await?;

        let next = pkce.refresh(refresh_token(&token)?).await?;
        step("refreshed", shown(next.access_token().expose()));
        self.use_token(&next).await?;
        self.worked.push("PKCE, with refresh");
        Ok(())
    }

    async fn device(&mut self) -> Result<()> {
        heading("Device: a user confirms a code on another device");
        let device = flow!(mock_config(&self.mock, Flow::Device)?, Device);

        let authorization = device.start().await?;
        step(
            "show",
            format!(
                "code {} at {}",
                authorization.user_code(),
                authorization.verification_uri()
            ),
        );
        tokio::spawn(approve_soon(&self.mock, authorization.user_code()));
        let token = device
            .poll_with(&authorization, |poll| {
                step(
                    "poll",
                    format!("{:?}, next in {:?}", poll.status, poll.next_in),
                );
            })
            .await?;
        self.show_and_use(&token).await?;

        let next = device.refresh(refresh_token(&token)?).await?;
        step("refreshed", shown(next.access_token().expose()));
        self.use_token(&next).await?;
        self.worked.push("device, with polling and refresh");
        Ok(())
    }

    async fn jwt(&mut self) -> Result<()> {
        heading("JWT: a service acts as the application");
        let jwt: JwtFlow = flow!(mock_config(&self.mock, Flow::Jwt)?, Jwt);

        let token = jwt.token().await?;
        self.show_and_use(&token).await?;

        let longer = JwtTokenRequest::new().duration(Duration::from_secs(3600));
        let token = jwt.token_for(&longer).await?;
        step(
            "asked for an hour",
            format!("{} s", token.remaining().as_secs()),
        );
        ensure!(
            token.lifetime() > Duration::from_secs(3500),
            "the duration was not granted"
        );

        let two_bots = JwtTokenRequest::new().scope(Scope::bot_chat(defaults::BOT_IDS));
        let token = jwt.token_for(&two_bots).await?;
        let granted = self.granted(&token)?;
        ensure!(granted.scope.is_some(), "the scope was not granted");
        step(
            "channel app",
            format!(
                "{}, for two bots only",
                shown(token.access_token().expose())
            ),
        );

        let alice = JwtTokenRequest::new().session_name("alice");
        let token = jwt.token_for(&alice).await?;
        let granted = self.granted(&token)?;
        ensure!(
            granted.session_name.as_deref() == Some("alice"),
            "the session was not granted"
        );
        step(
            "session",
            format!(
                "{}, for alice's conversations only",
                shown(token.access_token().expose())
            ),
        );
        self.worked.push("JWT: plain, duration, scope, session");
        Ok(())
    }

    async fn errors(&mut self) -> Result<()> {
        heading("Errors");
        let web = flow!(mock_config(&self.mock, Flow::Web)?, Web);
        let unknown = RefreshToken::new("rt-that-nobody-issued")?;
        let error = web
            .refresh(&unknown)
            .await
            .err()
            .context("an invalid refresh token was accepted")?;
        ensure!(
            error.code() == Some(&ErrorCode::InvalidGrant),
            "another error: {error}"
        );
        step("an invalid refresh token", error.hint());
        self.worked
            .push("an error with an error code, a log id and a hint");
        Ok(())
    }

    /// Checks that everything worked, and that the mock recorded no violation of Coze's documentation.
    fn summary(self) -> Result<()> {
        heading("Summary");
        for worked in &self.worked {
            println!("  ✓ {worked}");
        }
        let violations = self.mock.violations();
        ensure!(
            violations.is_empty(),
            "the mock saw violations: {violations:?}"
        );
        println!(
            "  {} requests without a violation of Coze's contract",
            self.mock.request_count()
        );
        Ok(())
    }

    async fn show_and_use(&self, token: &Token) -> Result<()> {
        let log_id = token.log_id().context("the response had no log id")?;
        step(
            "token",
            format!(
                "{}, for {} s (log id {log_id})",
                shown(token.access_token().expose()),
                token.remaining().as_secs()
            ),
        );
        self.use_token(token).await
    }

    async fn use_token(&self, token: &Token) -> Result<()> {
        let user = users_me(&self.endpoint, token.authorization()).await?;
        step("the API answers", format!("hello {}", user.user_name));
        Ok(())
    }

    async fn use_fixed(&self, token: &FixedToken) -> Result<()> {
        let user = users_me(&self.endpoint, token.authorization()).await?;
        step("the API answers", format!("hello {}", user.user_name));
        Ok(())
    }

    fn granted(&self, token: &Token) -> Result<coze_mock::GrantedToken> {
        self.mock
            .granted(token.access_token().expose())
            .context("the mock does not know its token")
    }
}

fn refresh_token(token: &Token) -> Result<&RefreshToken> {
    token.refresh_token().context("there is no refresh token")
}

fn heading(text: &str) {
    println!("\n{text}");
}

fn step(what: &str, result: impl std::fmt::Display) {
    println!("  {what:<20} {result}");
}
