//! `coze-auth` in a typical setup.

use anyhow::Result;
use coze_auth::{CachedProvider, Endpoint, JwtFlow, OAuthClient, PrivateKey};

use crate::{keys, server::TokenServer};

/// The JWT flow against a server on loopback.
///
/// # Errors
///
/// If there is no key.
pub fn jwt_flow(server: &TokenServer) -> Result<JwtFlow> {
    let client = OAuthClient::new(Endpoint::custom(server.base())?)?;
    let flow = JwtFlow::new(
        client,
        "1234567890123".into(),
        "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCdE".into(),
        PrivateKey::from_pem(keys::private_key_pem()?)?,
    )?;
    Ok(flow)
}

/// A provider over that flow with an empty cache.
///
/// # Errors
///
/// As [`jwt_flow`].
pub fn provider(server: &TokenServer) -> Result<CachedProvider> {
    Ok(CachedProvider::jwt(jwt_flow(server)?).build())
}
