//! The JWT itself: its header, its claims (`jti`, `iat`, `exp`), and its serialisation (RFC 7515, RFC 7519).
//!
//! A JWT's lifetime is decided here: [`JWT_LIFETIME`], and how far `iat` is backdated. `jti` is a random string, new
//! for each JWT.
//!
//! No JWT library is used: those measured parse the key for every signature, which takes 2.6 times as long.

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coze_wire::Secret;
use serde::Serialize;

use super::{JwtTokenRequest, Signer};
use crate::{ClientId, Error, ErrorKind, Result, random};

/// The protected header, with its fields in the same order as in the official SDKs.
#[derive(Serialize)]
pub(super) struct Header<'a> {
    alg: &'static str,
    typ: &'static str,
    kid: &'a str,
}

impl<'a> Header<'a> {
    pub(super) fn new(key_id: &'a str) -> Self {
        Self {
            alg: "RS256",
            typ: "JWT",
            kid: key_id,
        }
    }

    pub(super) fn encoded(&self) -> Result<String> {
        encoded(self)
    }
}

/// The claims that <https://www.coze.cn/open/docs/developer_guides/oauth_jwt> documents.
#[derive(Serialize)]
pub(super) struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
    jti: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_context: Option<SessionContextClaim<'a>>,
}

#[derive(Serialize)]
struct SessionContextClaim<'a> {
    device_info: DeviceInfo<'a>,
}

#[derive(Serialize)]
struct DeviceInfo<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_consumer: Option<&'a str>,
}

/// The lifetime of a JWT (`exp` minus `iat`): long enough for a slow exchange and a
/// few minutes of clock skew, short enough to limit the use of a stolen JWT.
const JWT_LIFETIME: Duration = Duration::from_secs(600);

/// `iat` is this long in the past: leeway for a local clock that is fast, if the server has none.
const BACKDATED: Duration = Duration::from_secs(30);

impl<'a> Claims<'a> {
    pub(super) fn new(
        client_id: &'a ClientId,
        audience: &'a str,
        local_now: SystemTime,
        wall_correction: i64,
        request: &'a JwtTokenRequest,
    ) -> Result<Self> {
        let iat = local_now
            .duration_since(SystemTime::UNIX_EPOCH)
            .ok()
            .and_then(|since| since.as_secs().checked_add_signed(wall_correction))
            .and_then(|now| now.checked_sub(BACKDATED.as_secs()))
            .ok_or_else(|| Error::invalid_input("the local clock is set before 1970"))?;
        let device_id = request.device_id.as_deref();
        let custom_consumer = request.custom_consumer.as_deref();
        Ok(Self {
            iss: client_id.as_ref(),
            aud: audience,
            iat,
            exp: iat + JWT_LIFETIME.as_secs(),
            // 43 characters. Coze recommends more than 32 bytes.
            jti: random::string()?.expose().to_owned(),
            session_name: request.session_name.as_deref(),
            session_context: (device_id.or(custom_consumer).is_some()).then_some(
                SessionContextClaim {
                    device_info: DeviceInfo {
                        device_id,
                        custom_consumer,
                    },
                },
            ),
        })
    }
}

/// Signs the claims: `header.claims.signature`.
pub(super) async fn signed(
    encoded_header: &str,
    claims: &Claims<'_>,
    signer: &dyn Signer,
) -> Result<Secret> {
    let mut jwt = format!("{encoded_header}.{}", encoded(claims)?);
    let signature = signer.sign(jwt.as_bytes()).await.map_err(|error| {
        let error_of_signer = error.downcast_ref::<Error>();
        let is_transient = error_of_signer.is_some_and(Error::is_retryable);
        let failed =
            Error::new(ErrorKind::Signing, "the JWT could not be signed").with_source(error);
        if is_transient {
            failed.transient()
        } else {
            failed
        }
    })?;
    if signature.is_empty() {
        return Err(Error::new(
            ErrorKind::Signing,
            "the signer returned an empty signature",
        ));
    }
    jwt.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut jwt);
    Ok(jwt.into())
}

fn encoded(part: &impl Serialize) -> Result<String> {
    let json = serde_json::to_vec(part).map_err(|error| {
        Error::invalid_input("the JWT could not be serialised").with_source(error)
    })?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}
