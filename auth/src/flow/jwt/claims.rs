//! The JWT itself: header, claims, and putting them together with a signature (RFC 7515, RFC 7519).
//!
//! Assembled here over a key that is parsed once: signing through a JWT library costs 2.6 times the raw
//! signature, because it parses the key for each one.

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coze_wire::Secret;
use serde::Serialize;

use super::{JwtTokenRequest, Signer};
use crate::{ClientId, Error, ErrorKind, Result, random};

/// The protected header. The order of the fields is the one that the official SDKs use.
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

/// The claims as <https://www.coze.cn/open/docs/developer_guides/oauth_jwt> lists them.
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

/// A JWT is valid from so long ago, for servers without leeway and local clocks that are a little fast.
const BACKDATED: Duration = Duration::from_secs(30);

impl<'a> Claims<'a> {
    pub(super) fn new(
        client_id: &'a ClientId,
        audience: &'a str,
        local_now: SystemTime,
        wall_correction: i64,
        lifetime: Duration,
        request: &'a JwtTokenRequest,
    ) -> Result<Self> {
        let backdated = BACKDATED.min(lifetime / 2);
        let iat = local_now
            .duration_since(SystemTime::UNIX_EPOCH)
            .ok()
            .and_then(|since| since.as_secs().checked_add_signed(wall_correction))
            .and_then(|now| now.checked_sub(backdated.as_secs()))
            .ok_or_else(|| Error::invalid_input("the local clock is set before 1970"))?;
        Ok(Self {
            iss: client_id.as_ref(),
            aud: audience,
            iat,
            exp: iat + lifetime.as_secs(),
            // 43 characters: Coze recommends more than 32 bytes, different for every JWT.
            jti: random::string()?.expose().to_owned(),
            session_name: request.session_name.as_deref(),
            session_context: request
                .session_context
                .as_ref()
                .map(|context| SessionContextClaim {
                    device_info: DeviceInfo {
                        device_id: context.device_id.as_deref(),
                        custom_consumer: context.custom_consumer.as_deref(),
                    },
                }),
        })
    }
}

/// `header.claims.signature`.
pub(super) async fn signed(
    encoded_header: &str,
    claims: &Claims<'_>,
    signer: &dyn Signer,
) -> Result<Secret> {
    let mut jwt = format!("{encoded_header}.{}", encoded(claims)?);
    let signature = signer.sign(jwt.as_bytes()).await.map_err(|error| {
        let own = error.downcast_ref::<Error>();
        let is_transient = own.is_some_and(Error::is_retryable);
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
        Error::invalid_input("the JWT's claims could not be written").with_source(error)
    })?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}
