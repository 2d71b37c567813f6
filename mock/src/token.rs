//! The token endpoints: four grants with one form of response.

use crate::answer::{Answer, ErrorWord, Refusal};
use crate::app::ClientType;
use crate::core::{Credential, Exchange, Registered, credential};
use crate::endpoint::Endpoint;
use crate::jwt::{self, Expected};
use crate::limits;
use crate::secret::random_token;
use crate::state::{
    AuthorizationCode, Flow, GrantedToken, NewSignIn, NotRedeemed, Pair, Poll, RefreshPolicy,
};
use http::StatusCode;
use serde_json::{Value, json};

const AUTHORIZATION_CODE: &str = "authorization_code";
const REFRESH_TOKEN: &str = "refresh_token";
const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// The default lifetime of a token obtained by a JWT; `duration_seconds` overrides it.
const DEFAULT_JWT_TOKEN_SECONDS: u64 = 900;

pub(crate) fn answer(exchange: &mut Exchange<'_>) -> Answer {
    issue(exchange)
        .unwrap_or_else(|refusal| exchange.refused(refusal))
        .uncached()
}

fn issue(exchange: &mut Exchange<'_>) -> Result<Answer, Refusal> {
    let body = exchange.checked_body()?;
    match text(&body, "grant_type") {
        AUTHORIZATION_CODE => redeem_code(exchange, &body),
        REFRESH_TOKEN => refresh(exchange, &body),
        DEVICE_CODE => poll(exchange, &body),
        JWT_BEARER => exchange_jwt(exchange, &body),
        other => Err(Refusal::new(
            ErrorWord::UnsupportedGrantType,
            format!("not supported grant type: {}", crate::contract::Name(other)),
        )),
    }
}

/// A field that the contract guarantees to be a string where it is required.
fn text<'b>(body: &'b Value, name: &str) -> &'b str {
    body.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn client_of_type<'a>(
    exchange: &Exchange<'a>,
    body: &Value,
    types: &[ClientType],
) -> Result<&'a Registered, Refusal> {
    let client = exchange.client(text(body, "client_id"))?;
    if types.contains(&client.app.client_type) {
        Ok(client)
    } else {
        Err(Refusal::invalid_app_type())
    }
}

/// RFC 6749 section 4.1.3, RFC 7636 section 4.6.
fn redeem_code(exchange: &mut Exchange<'_>, body: &Value) -> Result<Answer, Refusal> {
    let client = client_of_type(exchange, body, &[ClientType::Web, ClientType::Pkce])?;
    exchange.authenticate(client)?;
    client.check_active()?;
    let code_verifier = body.get("code_verifier").and_then(Value::as_str);
    if client.app.client_type == ClientType::Pkce && code_verifier.is_none() {
        exchange.findings.violation(
            "body/code_verifier",
            "required of a client without a secret",
        );
        return Err(Refusal::invalid_request("code_verifier"));
    }
    let matches = |code: &AuthorizationCode| {
        if code.client_id != client.app.client_id {
            return Err("the code was issued to another app");
        }
        if code.redirect_uri != text(body, "redirect_uri") {
            return Err("the redirect URI differs from that of the authorization request");
        }
        match (&code.challenge, code_verifier) {
            (None, None) => Ok(()),
            (Some(challenge), Some(code_verifier)) if challenge.is_met_by(code_verifier) => Ok(()),
            (Some(_), Some(_)) => Err("the code verifier does not match the challenge"),
            (Some(_), None) => Err("the code verifier is missing"),
            (None, Some(_)) => Err("the authorization request had no challenge"),
        }
    };
    let code = exchange
        .core
        .state()
        .codes
        .redeem(text(body, "code"), exchange.now, matches)
        .map_err(Refusal::invalid_grant)?;
    let sign_in = NewSignIn {
        client_id: code.client_id,
        flow: Flow::AuthorizationCode,
        workspace_id: code.workspace_id,
    };
    let sign_in = exchange.core.state().tokens.open_sign_in(sign_in);
    issue_pair(exchange, sign_in)
}

/// RFC 6749 section 6. The refresh token is rotated.
fn refresh(exchange: &mut Exchange<'_>, body: &Value) -> Result<Answer, Refusal> {
    let client = client_of_type(
        exchange,
        body,
        &[ClientType::Web, ClientType::Pkce, ClientType::Device],
    )?;
    exchange.authenticate(client)?;
    client.check_active()?;
    let policy = RefreshPolicy {
        reuse_revokes_family: exchange.core.options.reuse_revokes_family,
        refresh_revokes_access_token: exchange.core.options.refresh_revokes_access_token,
    };
    let redeemed = exchange.core.state().tokens.redeem_refresh(
        text(body, "refresh_token"),
        &client.app.client_id,
        policy,
        exchange.now,
    );
    let sign_in = redeemed.map_err(|why| match why {
        NotRedeemed::Invalid(why) => Refusal::invalid_grant(why),
        NotRedeemed::LoginEnded => Refusal::new(ErrorWord::AccessDeny, "login session invalid"),
    })?;
    issue_pair(exchange, sign_in)
}

/// RFC 8628 section 3.4.
fn poll(exchange: &mut Exchange<'_>, body: &Value) -> Result<Answer, Refusal> {
    let client = client_of_type(exchange, body, &[ClientType::Device])?;
    exchange.authenticate(client)?;
    client.check_active()?;
    let poll = exchange.core.state().devices.poll(
        text(body, "device_code"),
        &client.app.client_id,
        exchange.now,
    );
    let device = match poll {
        Poll::Pending => return Err(Refusal::of(ErrorWord::AuthorizationPending)),
        Poll::SlowDown => return Err(Refusal::of(ErrorWord::SlowDown)),
        Poll::Denied => return Err(Refusal::of(ErrorWord::AccessDenied)),
        Poll::Expired => return Err(Refusal::of(ErrorWord::ExpiredToken)),
        Poll::Unknown => return Err(Refusal::invalid_grant("the device code is unknown")),
        Poll::AlreadyRedeemed => {
            return Err(Refusal::invalid_grant(
                "the device code was already redeemed",
            ));
        }
        Poll::Approved(device) => device,
    };
    let sign_in = NewSignIn {
        client_id: device.client_id,
        flow: Flow::Device,
        workspace_id: device.workspace_id,
    };
    let sign_in = exchange.core.state().tokens.open_sign_in(sign_in);
    issue_pair(exchange, sign_in)
}

/// An access token and a refresh token for a signed-in user. `expires_in` is a point in time, not a duration.
fn issue_pair(exchange: &Exchange<'_>, sign_in: u64) -> Result<Answer, Refusal> {
    let options = &exchange.core.options;
    let access_token = random_token("czu_")?;
    let refresh_token = random_token("")?;
    let lifetime = exchange
        .token_lifetime
        .unwrap_or(options.access_token_lifetime);
    let access_expires_at = exchange.now.as_secs().saturating_add(lifetime.as_secs());
    let pair = Pair {
        access_token: &access_token,
        access_expires_at,
        refresh_token: &refresh_token,
        refresh_expires_at: exchange.now.saturating_add(options.refresh_token_lifetime),
    };
    exchange
        .core
        .state()
        .tokens
        .add_generation(sign_in, &pair, exchange.now);
    let body = json!({
        "access_token": access_token,
        "expires_in": access_expires_at,
        "refresh_token": refresh_token,
        "token_type": "Bearer",
    });
    Ok(Answer::json(StatusCode::OK, &body))
}

/// A service authenticates as its app. The JWT is sent as the bearer token, and is single-use.
fn exchange_jwt(exchange: &mut Exchange<'_>, body: &Value) -> Result<Answer, Refusal> {
    let Credential::Bearer(_) = credential(&exchange.incoming.headers) else {
        exchange
            .findings
            .violation("header/Authorization", "the JWT as a bearer token");
        return Err(Refusal::invalid_client("verify jwt empty"));
    };
    let Some(jwt) = exchange.jwt else {
        exchange
            .findings
            .violation("header/Authorization", "a signed JWT");
        return Err(Refusal::invalid_client("the bearer token is not a JWT"));
    };
    let Some(client_id) = jwt.issuer() else {
        exchange.findings.violation("jwt/claims/iss", "required");
        return Err(Refusal::invalid_client("jwt: iss: required"));
    };
    let Some(client) = exchange.core.apps.get(client_id) else {
        exchange
            .findings
            .note("jwt/claims/iss", "no app has this client id");
        return Err(Refusal::unknown_key());
    };
    if client.app.client_type != ClientType::Jwt {
        return Err(Refusal::invalid_app_type());
    }
    let called = &exchange.incoming.authority;
    let called_host = host_of(called);
    let expected = Expected {
        keys: &client.keys,
        hosts: match exchange.core.options.audiences.as_slice() {
            [] => std::slice::from_ref(&called_host),
            told => told,
        },
        called,
        now: exchange.now,
        leeway: exchange.core.options.jwt_leeway,
    };
    let claims = jwt::verify(jwt, &expected, &mut exchange.findings)?;
    let app = &client.app;
    let is_new = exchange.core.state().seen_jwts.is_new(
        &app.client_id,
        &claims.jti,
        claims.remember_until,
        exchange.now.as_secs(),
    );
    if !is_new {
        return Err(Refusal::invalid_client(
            "jwt: a JWT with this jti was already redeemed",
        ));
    }
    client.check_active()?;
    if app.channel_unbound {
        // Coze documents this message without an error code.
        return Err(Refusal::new(
            ErrorWord::InvalidRequest,
            "connector app should bind connector id",
        ));
    }
    let (account_id, enterprise_id) = match exchange.endpoint {
        Endpoint::AccountToken => (
            allowed(exchange.path_id, &app.accounts, "account_id")?,
            None,
        ),
        Endpoint::EnterpriseToken => (
            None,
            allowed(exchange.path_id, &app.enterprises, "enterprise_id")?,
        ),
        _ => (None, None),
    };
    let asked = body
        .get("duration_seconds")
        .and_then(Value::as_u64)
        .unwrap_or(DEFAULT_JWT_TOKEN_SECONDS);
    let lifetime = exchange
        .token_lifetime
        .map_or(asked, |fault| fault.as_secs());
    let expires_at = exchange.now.as_secs().saturating_add(lifetime);
    let access_token = random_token("czs_")?;
    let granted = GrantedToken {
        account_id,
        enterprise_id,
        session_name: claims.session_name,
        session_context: claims.session_context,
        scope: body.get("scope").cloned(),
        ..GrantedToken::new(Flow::Jwt, &app.client_id, Some(expires_at))
    };
    exchange
        .core
        .state()
        .tokens
        .insert_access(&access_token, granted, exchange.now);
    Ok(Answer::json(
        StatusCode::OK,
        &json!({"access_token": access_token, "expires_in": expires_at}),
    ))
}

/// The id in the path, if the app may use it. An app without a list may use any.
pub(crate) fn allowed(
    id: Option<&str>,
    list: &[String],
    parameter: &str,
) -> Result<Option<String>, Refusal> {
    match id {
        Some(id) if id.len() > limits::PATH_ID_BYTES => Err(Refusal::invalid_request(parameter)),
        Some(id) if !list.is_empty() && !list.iter().any(|known| known == id) => {
            Err(Refusal::invalid_request(parameter))
        }
        id => Ok(id.map(str::to_owned)),
    }
}

/// An authority without its port.
fn host_of(authority: &str) -> String {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    host.to_owned()
}
