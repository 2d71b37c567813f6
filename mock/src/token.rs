//! The token endpoints: four grants with one form of response.

use crate::answer::{Answer, OAuthErrorCode, Refusal};
use crate::app::ClientType;
use crate::assertion::{self, Expected};
use crate::context::{RequestContext, allowed, client_of_type, text};
use crate::device;
use crate::endpoint::Endpoint;
use crate::issue::issue_pair;
use crate::printable::Name;
use crate::request::{Credential, credential};
use crate::secret::random_token;
use crate::state::{
    AuthorizationCode, Grant, GrantedToken, NewTokenFamily, NotRedeemed, RefreshPolicy,
};
use http::StatusCode;
use serde_json::{Value, json};

const AUTHORIZATION_CODE: &str = "authorization_code";
const REFRESH_TOKEN: &str = "refresh_token";
const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// The default lifetime of a token obtained by a JWT; `duration_seconds` overrides it.
const DEFAULT_JWT_TOKEN_SECONDS: u64 = 900;

pub(crate) fn answer(context: &mut RequestContext<'_>) -> Answer {
    issue(context)
        .unwrap_or_else(|refusal| context.refused(refusal))
        .uncached()
}

fn issue(context: &mut RequestContext<'_>) -> Result<Answer, Refusal> {
    let body = context.checked_body()?;
    match text(&body, "grant_type") {
        AUTHORIZATION_CODE => redeem_code(context, &body),
        REFRESH_TOKEN => refresh(context, &body),
        DEVICE_CODE => device::poll(context, &body),
        JWT_BEARER => exchange_jwt(context, &body),
        other => Err(Refusal::new(
            OAuthErrorCode::UnsupportedGrantType,
            format!("not supported grant type: {}", Name(other)),
        )),
    }
}

/// RFC 6749 section 4.1.3, RFC 7636 section 4.6.
fn redeem_code(context: &mut RequestContext<'_>, body: &Value) -> Result<Answer, Refusal> {
    let client = client_of_type(context, body, &[ClientType::Web, ClientType::Pkce])?;
    context.authenticate(client)?;
    client.check_active()?;
    let code_verifier = body.get("code_verifier").and_then(Value::as_str);
    if client.app.client_type == ClientType::Pkce && code_verifier.is_none() {
        context.findings.violation(
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
    let code = context
        .core
        .state()
        .codes
        .redeem(text(body, "code"), context.now, matches)
        .map_err(Refusal::invalid_grant)?;
    let sign_in = NewTokenFamily {
        client_id: code.client_id,
        flow: Grant::AuthorizationCode,
        workspace_id: code.workspace_id,
    };
    let sign_in = context.core.state().tokens.open_sign_in(sign_in);
    issue_pair(context, sign_in)
}

/// RFC 6749 section 6. The refresh token is rotated.
fn refresh(context: &mut RequestContext<'_>, body: &Value) -> Result<Answer, Refusal> {
    let client = client_of_type(
        context,
        body,
        &[ClientType::Web, ClientType::Pkce, ClientType::Device],
    )?;
    context.authenticate(client)?;
    client.check_active()?;
    let policy = RefreshPolicy {
        reuse_revokes_family: context.core.options.reuse_revokes_family,
        refresh_revokes_access_token: context.core.options.refresh_revokes_access_token,
    };
    let redeemed = context.core.state().tokens.redeem_refresh(
        text(body, "refresh_token"),
        &client.app.client_id,
        policy,
        context.now,
    );
    let sign_in = redeemed.map_err(|why| match why {
        NotRedeemed::Invalid(why) => Refusal::invalid_grant(why),
        NotRedeemed::LoginEnded => {
            Refusal::new(OAuthErrorCode::AccessDeny, "login session invalid")
        }
    })?;
    issue_pair(context, sign_in)
}

/// A service authenticates as its app. The JWT is sent as the bearer token, and is single-use.
fn exchange_jwt(context: &mut RequestContext<'_>, body: &Value) -> Result<Answer, Refusal> {
    let Credential::Bearer(_) = credential(&context.incoming.headers) else {
        context
            .findings
            .violation("header/Authorization", "the JWT as a bearer token");
        return Err(Refusal::invalid_client("verify jwt empty"));
    };
    let Some(jwt) = context.jwt else {
        context
            .findings
            .violation("header/Authorization", "a signed JWT");
        return Err(Refusal::invalid_client("the bearer token is not a JWT"));
    };
    let Some(client_id) = jwt.issuer() else {
        context.findings.violation("jwt/claims/iss", "required");
        return Err(Refusal::invalid_client("jwt: iss: required"));
    };
    let Some(client) = context.core.apps.get(client_id) else {
        context
            .findings
            .note("jwt/claims/iss", "no app has this client id");
        return Err(Refusal::unknown_key());
    };
    if client.app.client_type != ClientType::Jwt {
        return Err(Refusal::invalid_app_type());
    }
    let called = &context.incoming.authority;
    let called_host = host_of(called);
    let expected = Expected {
        keys: &client.keys,
        hosts: match context.core.options.audiences.as_slice() {
            [] => std::slice::from_ref(&called_host),
            told => told,
        },
        called,
        now: context.now,
        leeway: context.core.options.jwt_leeway,
    };
    let claims = assertion::verify(jwt, &expected, &mut context.findings)?;
    let app = &client.app;
    let is_new = context.core.state().seen_jwts.is_new(
        &app.client_id,
        &claims.jti,
        claims.remember_until,
        context.now.as_secs(),
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
            OAuthErrorCode::InvalidRequest,
            "connector app should bind connector id",
        ));
    }
    let (account_id, enterprise_id) = match context.endpoint {
        Endpoint::AccountToken => (
            allowed(context.path_id(), &app.accounts, "account_id")?,
            None,
        ),
        Endpoint::EnterpriseToken => (
            None,
            allowed(context.path_id(), &app.enterprises, "enterprise_id")?,
        ),
        _ => (None, None),
    };
    let parts = ["account_permission", "attribute_constraint"];
    let scope = body.get("scope");
    if scope.is_some_and(|scope| parts.iter().any(|part| scope.get(part).is_none())) {
        let advice = "both account_permission and attribute_constraint are documented";
        context.findings.note("body/scope", advice);
    }
    let asked = body
        .get("duration_seconds")
        .and_then(Value::as_u64)
        .unwrap_or(DEFAULT_JWT_TOKEN_SECONDS);
    let lifetime = context
        .applied
        .token_lifetime
        .map_or(asked, |fault| fault.as_secs());
    let expires_at = context.now.as_secs().saturating_add(lifetime);
    let access_token = random_token("czs_")?;
    let granted = GrantedToken {
        account_id,
        enterprise_id,
        session_name: claims.session_name,
        session_context: claims.session_context,
        scope: body.get("scope").cloned(),
        ..GrantedToken::new(Grant::Jwt, &app.client_id, Some(expires_at))
    };
    context
        .core
        .state()
        .tokens
        .insert_access(&access_token, granted, context.now);
    Ok(Answer::json(
        StatusCode::OK,
        &json!({"access_token": access_token, "expires_in": expires_at}),
    ))
}

/// An authority without its port.
fn host_of(authority: &str) -> String {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    host.to_owned()
}
