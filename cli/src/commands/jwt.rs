//! `coze jwt`: a new access token of a JWT app.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use coze_auth::{ConfiguredFlow, Flow, JwtFlow, JwtTokenRequest, Scope, Secret, Token};
use serde_json::{Value, json};

use crate::{
    args::Jwt,
    failure::{Failure, Result},
    session::{Session, client, configuration},
};

pub(crate) async fn run(options: Jwt, session: &Session<'_>) -> Result<()> {
    let jwt = flow()?;
    let request = request(&options);
    if options.print_claims {
        let signed = jwt.signed_jwt(&request).await?;
        return session
            .terminal
            .print(format_args!("{:#}", claims(&signed)?));
    }
    let token = jwt.token_for(&request).await?;
    if options.json {
        return session.terminal.print(as_json(&token));
    }
    session.terminal.print(token.access_token().expose())
}

fn flow() -> Result<JwtFlow> {
    match configuration(Some(Flow::Jwt))?.build_with(client())? {
        ConfiguredFlow::Jwt(jwt) => Ok(jwt),
        _ => Err(Failure::usage("the configuration is not that of a JWT app")
            .with_hint("coze jwt needs an app with client_type jwt; for a user's token, use coze login and coze token")),
    }
}

fn request(options: &Jwt) -> JwtTokenRequest {
    let mut request = JwtTokenRequest::new();
    if let Some(duration) = options.duration {
        request = request.duration(duration);
    }
    if let Some(name) = &options.session_name {
        request = request.session_name(name);
    }
    if !options.scope_bots.is_empty() {
        request = request.scope(Scope::bot_chat(&options.scope_bots));
    }
    if let Some(id) = &options.account {
        request = request.account(id);
    }
    if let Some(id) = &options.enterprise {
        request = request.enterprise(id);
    }
    request
}

/// The header and the claims of a JWT, without its signature.
fn claims(jwt: &Secret) -> Result<Value> {
    let mut parts = jwt.expose().split('.').map(|part| {
        let json = URL_SAFE_NO_PAD.decode(part).ok()?;
        serde_json::from_slice::<Value>(&json).ok()
    });
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(header), Some(claims)) => Ok(json!({"header": header, "claims": claims})),
        _ => Err(Failure::usage("the signer returned no JWT")),
    }
}

/// A token and when it expires, in UNIX seconds.
fn as_json(token: &Token) -> Value {
    let since_epoch = token.expires_at().duration_since(std::time::UNIX_EPOCH);
    json!({
        "access_token": token.access_token().expose(),
        "token_type": "Bearer",
        "expires_at": since_epoch.map_or(0, |time| time.as_secs()),
        "expires_in": token.remaining().as_secs(),
    })
}
