//! Verifies the JWT assertion of a service, claim by claim (RFC 7523 section 3).

use crate::answer::Refusal;
use crate::contract::Findings;
use crate::jwt::Jwt;
use crate::keys::VerifyingKey;
use crate::record::Tolerance;
use serde_json::Value;
use std::time::Duration;

/// What a JWT is verified against.
pub(crate) struct Expected<'a> {
    pub(crate) keys: &'a [(String, VerifyingKey)],
    /// The hosts that `aud` may name.
    pub(crate) hosts: &'a [String],
    /// The host that the client called, with its port if it has one. Coze's hosts have none, so a client that puts the host it
    /// called into `aud` behaves as it does with Coze.
    pub(crate) called: &'a str,
    pub(crate) now: Duration,
    pub(crate) leeway: Duration,
}

/// The claims of a verified JWT.
#[derive(Debug)]
pub(crate) struct Claims {
    pub(crate) jti: String,
    pub(crate) session_name: Option<String>,
    pub(crate) session_context: Option<Value>,
    /// How long its `jti` must be remembered, in seconds since the UNIX epoch.
    pub(crate) remember_until: u64,
}

/// Checks everything except the reuse of the `jti`.
pub(crate) fn verify(
    jwt: &Jwt<'_>,
    expected: &Expected<'_>,
    findings: &mut Findings,
) -> Result<Claims, Refusal> {
    check_types(jwt, findings)?;
    let wrong = |why: &str| Err(Refusal::invalid_client(why));
    if jwt.header.get("alg").and_then(Value::as_str) != Some("RS256") {
        findings.violation("jwt/header/alg", "must be RS256");
        return wrong("jwt: alg must be RS256");
    }
    let Some((_, key)) = expected
        .keys
        .iter()
        .find(|(id, _)| Some(id.as_str()) == jwt.key_id())
    else {
        return Err(Refusal::unknown_key());
    };
    if !key.verifies(jwt.signed, &jwt.signature) {
        return wrong("jwt: the signature does not match the public key");
    }
    check_audience(jwt.claim("aud").unwrap_or_default(), expected, findings)?;

    let seconds = |name: &str| {
        jwt.claims
            .get(name)
            .and_then(Value::as_u64)
            .unwrap_or_default()
    };
    let (issued_at, expires_at) = (seconds("iat"), seconds("exp"));
    let (now, leeway) = (expected.now.as_secs(), expected.leeway.as_secs());
    if expires_at <= issued_at {
        findings.violation("jwt/claims/exp", "later than iat");
        return wrong("jwt: exp must be later than iat");
    }
    if now >= expires_at.saturating_add(leeway) {
        return wrong("jwt: exp has passed");
    }
    if issued_at > now.saturating_add(leeway) {
        return wrong("jwt: iat is in the future");
    }
    let jti = jwt.claim("jti").unwrap_or_default().to_owned();
    if jti.len() <= 32 {
        findings.note("jwt/claims/jti", "more than 32 bytes are recommended");
    }
    let device_info = jwt.claims.get("session_context");
    let device_info = device_info.and_then(|context| context.get("device_info")?.as_object());
    if device_info.is_some_and(|ids| ids.len() > 1) {
        findings.note(
            "jwt/claims/session_context",
            "only one of device_id and custom_consumer is recommended",
        );
    }
    Ok(Claims {
        jti,
        session_name: jwt.claim("session_name").map(str::to_owned),
        session_context: jwt.claims.get("session_context").cloned(),
        remember_until: expires_at.saturating_add(leeway),
    })
}

/// Checks that the claims are present and of the documented types.
fn check_types(jwt: &Jwt<'_>, findings: &mut Findings) -> Result<(), Refusal> {
    let mut first: Option<String> = None;
    // RFC 7515 section 4.1.9 leaves it optional, and so do many libraries. Coze's page `oauth_jwt` requires it, and every
    // official SDK sends it.
    if jwt.header.get("typ").is_none()
        && !findings.tolerates(Tolerance::MissingTyp, "jwt/header/typ", "required")
    {
        first = Some("jwt: typ: required".to_owned());
    }
    let mut breach = |place: &str, rule: &str| {
        findings.violation(format!("jwt/{place}"), rule);
        let name = place.rsplit('/').next().unwrap_or(place);
        first.get_or_insert_with(|| format!("jwt: {name}: {rule}"));
    };
    let text = |value: Option<&Value>| match value {
        None => Some("required"),
        Some(Value::String(text)) if !text.is_empty() => None,
        Some(_) => Some("must be a non-empty string"),
    };
    if let Some(rule) = text(jwt.header.get("kid")) {
        breach("header/kid", rule);
    }
    if jwt.header.get("typ").is_some_and(|typ| typ != "JWT") {
        breach("header/typ", "must be JWT");
    }
    for name in ["iss", "aud", "jti"] {
        if let Some(rule) = text(jwt.claims.get(name)) {
            breach(&format!("claims/{name}"), rule);
        }
    }
    for name in ["iat", "exp"] {
        match jwt.claims.get(name) {
            None => breach(&format!("claims/{name}"), "required"),
            Some(value) if value.as_u64().is_none() => breach(
                &format!("claims/{name}"),
                "must be a whole number of seconds",
            ),
            Some(_) => {}
        }
    }
    if jwt
        .claims
        .get("session_name")
        .is_some_and(|name| !name.is_string())
    {
        breach("claims/session_name", "must be a string");
    }
    if let Some(context) = jwt.claims.get("session_context")
        && let Some(rule) = broken_session_context(context)
    {
        breach("claims/session_context", rule);
    }
    first.map_or(Ok(()), |why| Err(Refusal::invalid_client(&why)))
}

/// `{"device_info": {"device_id"?: .., "custom_consumer"?: ..}}`.
fn broken_session_context(context: &Value) -> Option<&'static str> {
    let Some(context) = context.as_object() else {
        return Some("must be an object");
    };
    if context.keys().any(|name| name != "device_info") {
        return Some("must have only device_info");
    }
    let device_info = context.get("device_info")?;
    let Some(device_info) = device_info.as_object() else {
        return Some("device_info must be an object");
    };
    if device_info
        .keys()
        .any(|name| name != "device_id" && name != "custom_consumer")
    {
        return Some("device_info must have device_id or custom_consumer");
    }
    device_info
        .values()
        .any(|value| !value.is_string())
        .then_some("the values of device_info must be strings")
}

fn check_audience(
    audience: &str,
    expected: &Expected<'_>,
    findings: &mut Findings,
) -> Result<(), Refusal> {
    let hosts = expected.hosts;
    if hosts.iter().any(|host| host == audience) {
        return Ok(());
    }
    let with_port = hosts.iter().any(|host| {
        let port = audience
            .strip_prefix(host.as_str())
            .and_then(|rest| rest.strip_prefix(':'));
        port.is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
    });
    if with_port && audience == expected.called {
        return Ok(());
    }
    if with_port
        && findings.tolerates(
            Tolerance::AudienceWithPort,
            "jwt/claims/aud",
            "the API host, without a port or with the one called",
        )
    {
        return Ok(());
    }
    if !with_port {
        findings.violation("jwt/claims/aud", "must be the API host");
    }
    Err(Refusal::invalid_client("jwt: aud must be the API host"))
}
