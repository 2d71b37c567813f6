//! `coze jwt`: a new access token of a JWT app.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use coze_auth::{ConfiguredFlow, Flow, JwtFlow, JwtTokenRequest, Scope, Secret};
use serde_json::{Value, json};

use crate::{
    args::Jwt,
    commands::token::as_json,
    failure::{Failure, Result},
    session::{Session, client},
};

pub(crate) async fn run(options: Jwt, session: &Session<'_>) -> Result<()> {
    let jwt = flow(session)?;
    let request = request(&options);
    if options.print_claims {
        let signed = jwt.signed_jwt(&request).await?;
        let claims = claims(&signed)?;
        return session
            .terminal
            .print_json(format_args!("{claims:#}"))
            .await;
    }
    let token = jwt.token_for(&request).await?;
    if options.json {
        return session.terminal.print_json(as_json(&token.into())).await;
    }
    session.terminal.print(token.access_token().expose()).await
}

fn flow(session: &Session<'_>) -> Result<JwtFlow> {
    let (source, config) = session.builder().configuration(Some(Flow::Jwt))?;
    session.tell_of(&source, config.endpoint())?;
    match config.build_with(client())? {
        ConfiguredFlow::Jwt(jwt) => Ok(jwt),
        _ => Err(Failure::usage("the configuration is not that of a JWT app")),
    }
}

fn request(options: &Jwt) -> JwtTokenRequest {
    let mut request = JwtTokenRequest::default();
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
