//! A `Signer` of your own: the private key of a JWT app stays in a key service (a KMS, an HSM), which signs each JWT.

use std::time::Duration;

use coze_auth::{
    CachedProvider, Endpoint, Error, JwtFlow, OAuthClient, PrivateKey, SignFuture, Signer,
};
use coze_mock::{MockCoze, defaults};
use tokio::time::timeout;

/// The client of a key service. This one has the key in memory, where yours sends a request.
struct KeyService {
    key: PrivateKey,
}

impl Signer for KeyService {
    fn sign<'a>(&'a self, message: &'a [u8]) -> SignFuture<'a> {
        Box::pin(async move {
            println!("sign   {} bytes", message.len());
            // Ask yours for RSASSA_PKCS1_V1_5_SHA_256 over the raw message. An error that may pass is `transient`: the
            // provider then signs again.
            let signed = timeout(Duration::from_secs(5), self.key.sign(message)).await;
            signed.map_err(|late| Error::of_provider("the key service", late).transient())?
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // In your program: Endpoint::COM or Endpoint::CN
    let mock = MockCoze::start().await?;
    let endpoint = Endpoint::custom(mock.url())?;

    let key = PrivateKey::from_pem(mock.default_jwt_private_key_pem()?)?;
    let jwt = JwtFlow::new(
        OAuthClient::new(endpoint)?,
        defaults::JWT_CLIENT_ID.into(),
        defaults::JWT_PUBLIC_KEY_ID.into(),
        KeyService { key },
    )?;

    // One signature for each token, not for each call.
    let provider = CachedProvider::jwt(jwt).build();
    provider.token().await?;
    provider.token().await?;
    println!("stats  {} requests", provider.stats().requests);
    Ok(())
}
