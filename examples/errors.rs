//! What errors look like, and how to branch on them. Always runs against the mock, with injected faults.

use anyhow::Context;
use coze_auth::{
    Endpoint, Error, ErrorCode, ErrorKind, JwtFlow, OAuthClient, PrivateKey, RefreshToken,
    UserFlow, WebFlow,
};
use coze_mock::{Endpoint as MockEndpoint, Fault, MockCoze, Times, defaults};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mock = MockCoze::start().await?;
    let client = OAuthClient::new(Endpoint::custom(mock.url())?)?;

    // A refresh token that was redeemed, or is unknown.
    let web = WebFlow::new(
        client.clone(),
        defaults::WEB_CLIENT_ID.into(),
        defaults::WEB_CLIENT_SECRET.into(),
    )?;
    let unknown = RefreshToken::new("rt-that-nobody-issued")?;
    report(
        "an invalid refresh token",
        web.refresh(&unknown).await.err(),
    )?;

    // The callback of another login.
    let (_, login) = web.login("http://127.0.0.1:8080/callback").begin()?;
    let forged = web.complete(login, "/callback?code=abc&state=forged").await;
    report("a forged callback", forged.err())?;

    // The wrong key id.
    let key = PrivateKey::from_pem(mock.default_jwt_private_key_pem()?)?;
    let jwt = JwtFlow::new(
        client,
        defaults::JWT_CLIENT_ID.into(),
        "another-key".into(),
        key,
    )?;
    report("a wrong key id", jwt.token().await.err())?;

    // A failing gateway.
    mock.faults()
        .add(Fault::status(503), MockEndpoint::Token, Times::ONCE);
    report("a server that is down", jwt.token().await.err())?;

    // An invalid key.
    report(
        "a bad key",
        PrivateKey::from_pem("-----BEGIN PUBLIC KEY-----").err(),
    )?;

    // A base URL without TLS.
    report("plain http", Endpoint::custom("http://api.coze.com").err())?;
    Ok(())
}

fn report(case: &str, error: Option<Error>) -> anyhow::Result<()> {
    let error = error.with_context(|| format!("{case}: no error?"))?;
    // How a program would react.
    let action = match (error.kind(), error.code()) {
        (_, Some(ErrorCode::InvalidGrant)) => "ask the user to sign in again",
        (ErrorKind::StateMismatch, _) => "show the login page",
        _ if error.is_retryable() => "try again later",
        _ => "tell the operator",
    };
    println!(
        "{case}\n  error   {error}\n  log id  {}\n  we      {action}\n",
        error.log_id().unwrap_or("none: nothing was sent")
    );
    Ok(())
}
