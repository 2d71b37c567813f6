//! TLS to Redis, like that to Coze: rustls, with the certificates that the system trusts, or your own.

use std::{io, sync::Arc};

use coze_auth::store::{StoreError, StoreErrorKind};
use rustls::{ClientConfig, RootCertStore, crypto::CryptoProvider};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::builder::unusable;

/// TLS settings for one host.
pub(super) struct Tls {
    host: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl Tls {
    /// The host's certificate must be signed by one of these authorities, by default by one that the system trusts.
    pub(super) fn with(host: &str, authorities_pem: Option<&[u8]>) -> Result<Self, StoreError> {
        let host = ServerName::try_from(host)
            .map_err(|_| unusable("the host in the Redis URL is not valid for TLS"))?
            .to_owned();
        let config = match authorities_pem {
            Some(pem) => trusting(authorities(pem)?)?,
            None => trusting_the_system()?,
        };
        Ok(Self {
            host,
            config: Arc::new(config),
        })
    }

    pub(super) async fn connect(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(Arc::clone(&self.config))
            .connect(self.host.clone(), tcp)
            .await
    }
}

/// The process-wide provider if one is set, as in reqwest. `ClientConfig::builder()` would panic if none is set and
/// two are compiled in.
fn crypto_provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

fn trusting(authorities: RootCertStore) -> Result<ClientConfig, StoreError> {
    Ok(ClientConfig::builder_with_provider(crypto_provider())
        .with_safe_default_protocol_versions()
        .map_err(no_tls)?
        .with_root_certificates(authorities)
        .with_no_client_auth())
}

fn trusting_the_system() -> Result<ClientConfig, StoreError> {
    Ok(ClientConfig::builder_with_provider(crypto_provider())
        .with_safe_default_protocol_versions()
        .map_err(no_tls)?
        .with_platform_verifier()
        .map_err(no_certificates)?
        .with_no_client_auth())
}

fn no_tls(error: rustls::Error) -> StoreError {
    StoreError::new(StoreErrorKind::Other, "TLS to Redis can't be set up").with_source(error)
}

fn no_certificates(error: rustls::Error) -> StoreError {
    let what = "TLS to Redis needs CA certificates, and this system's can't be used: install them (on Debian, Ubuntu and Alpine: \
                the package ca-certificates), or give your own (root_certificates)";
    StoreError::new(StoreErrorKind::Other, what).with_source(error)
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, StoreError> {
    let refused = |what: &str| unusable(&format!("the root certificates for Redis: {what}"));
    let mut authorities = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| refused("invalid PEM"))?;
        authorities
            .add(certificate)
            .map_err(|_| refused("one of them is not a valid certificate"))?;
    }
    if authorities.is_empty() {
        return Err(refused("the PEM contains none"));
    }
    Ok(authorities)
}
