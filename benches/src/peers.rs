//! The peers, each with its flow to get a token from a server on loopback.

use anyhow::{Context, Result};
use google_cloud_auth::credentials::{
    AccessTokenCredentials, CacheableResource, Credentials, user_account,
};
use serde_json::json;
use yup_oauth2::{
    ServiceAccountAuthenticator, ServiceAccountKey,
    authenticator::Authenticator,
    client::{DefaultHyperClientBuilder, HyperClientBuilder},
};

use crate::{keys, server::TokenServer};

const SCOPES: [&str; 1] = ["https://www.googleapis.com/auth/cloud-platform"];

/// gcp_auth: a service account, whose key file names the token server.
pub struct GcpAuth(gcp_auth::CustomServiceAccount);

impl GcpAuth {
    /// # Errors
    ///
    /// If it rejects the key.
    pub fn new(server: &TokenServer) -> Result<Self> {
        let key = json!({
            "type": "service_account",
            "project_id": "benches",
            "client_email": "benches@example.com",
            "private_key": keys::private_key_pem()?,
            "token_uri": server.token_uri(),
        });
        Ok(Self(gcp_auth::CustomServiceAccount::from_json(
            &key.to_string(),
        )?))
    }

    /// The cached token, else a new one.
    ///
    /// # Errors
    ///
    /// Those of the peer.
    pub async fn token(&self) -> Result<std::sync::Arc<gcp_auth::Token>> {
        Ok(gcp_auth::TokenProvider::token(&self.0, &SCOPES).await?)
    }

    /// A new token. gcp_auth has no such call, but caches a token per scope.
    ///
    /// # Errors
    ///
    /// Those of the peer.
    pub async fn fetch(&self, number: u64) -> Result<std::sync::Arc<gcp_auth::Token>> {
        let scope = format!("https://www.googleapis.com/auth/{number}");
        Ok(gcp_auth::TokenProvider::token(&self.0, &[scope.as_str()]).await?)
    }
}

/// google-cloud-auth: a user account, the kind of credentials with a configurable token server. (Its service
/// accounts sign tokens themselves without a server.)
pub struct GoogleCloudAuth(AccessTokenCredentials);

impl GoogleCloudAuth {
    /// Call it inside a tokio runtime: it starts a task, which requests the first token immediately.
    ///
    /// # Errors
    ///
    /// If it rejects the account.
    pub fn new(server: &TokenServer) -> Result<Self> {
        Ok(Self(google_user(server).build_access_token_credentials()?))
    }

    /// The cached token, else the next one that its task fetches.
    ///
    /// # Errors
    ///
    /// Those of the peer.
    pub async fn token(&self) -> Result<google_cloud_auth::credentials::AccessToken> {
        Ok(self.0.access_token().await?)
    }
}

/// The same, returning headers instead of the token.
pub struct GoogleCloudHeaders(Credentials);

impl GoogleCloudHeaders {
    /// As [`GoogleCloudAuth::new`].
    ///
    /// # Errors
    ///
    /// If it rejects the account.
    pub fn new(server: &TokenServer) -> Result<Self> {
        Ok(Self(google_user(server).build()?))
    }

    /// The cached token, else the next one that its task fetches.
    ///
    /// # Errors
    ///
    /// Those of the peer.
    pub async fn headers(&self) -> Result<CacheableResource<http::HeaderMap>> {
        Ok(self.0.headers(http::Extensions::new()).await?)
    }
}

fn google_user(server: &TokenServer) -> user_account::Builder {
    let account = json!({
        "type": "authorized_user",
        "client_id": "benches",
        "client_secret": "hush",
        "refresh_token": "hush",
    });
    user_account::Builder::new(account).with_token_uri(server.token_uri())
}

type Connector = <DefaultHyperClientBuilder as HyperClientBuilder>::Connector;

/// yup-oauth2: a service account, whose key file names the token server.
pub struct YupOauth2(Authenticator<Connector>);

impl YupOauth2 {
    /// # Errors
    ///
    /// If it rejects the key.
    pub async fn new(server: &TokenServer) -> Result<Self> {
        let key = ServiceAccountKey {
            key_type: Some("service_account".to_owned()),
            project_id: None,
            private_key_id: None,
            private_key: keys::private_key_pem()?.to_owned(),
            client_email: "benches@example.com".to_owned(),
            client_id: None,
            auth_uri: None,
            token_uri: server.token_uri(),
            auth_provider_x509_cert_url: None,
            client_x509_cert_url: None,
        };
        let built = ServiceAccountAuthenticator::builder(key).build().await;
        Ok(Self(built.context("yup-oauth2")?))
    }

    /// The cached token, else a new one.
    ///
    /// # Errors
    ///
    /// Those of the peer.
    pub async fn token(&self) -> Result<yup_oauth2::AccessToken> {
        Ok(self.0.token(&SCOPES).await?)
    }

    /// A new token.
    ///
    /// # Errors
    ///
    /// Those of the peer.
    pub async fn fetch(&self) -> Result<yup_oauth2::AccessToken> {
        Ok(self.0.force_refreshed_token(&SCOPES).await?)
    }
}

/// All peers, each with a cached token.
pub struct WarmPeers {
    /// gcp_auth.
    pub gcp_auth: GcpAuth,
    /// google-cloud-auth, returning a token.
    pub google: GoogleCloudAuth,
    /// google-cloud-auth, returning headers.
    pub google_headers: GoogleCloudHeaders,
    /// yup-oauth2.
    pub yup: YupOauth2,
}

impl WarmPeers {
    /// Gets a token for each.
    ///
    /// # Errors
    ///
    /// If one gets none.
    pub async fn of(server: &TokenServer) -> Result<Self> {
        let peers = Self {
            gcp_auth: GcpAuth::new(server)?,
            google: GoogleCloudAuth::new(server)?,
            google_headers: GoogleCloudHeaders::new(server)?,
            yup: YupOauth2::new(server).await?,
        };
        peers.gcp_auth.token().await?;
        peers.google.token().await?;
        peers.google_headers.headers().await?;
        peers.yup.token().await?;
        Ok(peers)
    }
}
