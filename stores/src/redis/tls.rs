//! TLS to Redis, by the same rules as to Coze: rustls, and the certificates that the system trusts, or the caller's own.

use std::{io, sync::Arc};

use coze_auth::store::StoreError;
use rustls::{ClientConfig, RootCertStore, crypto::CryptoProvider};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::builder::unusable;

/// How to speak TLS with a host.
pub(super) struct Tls {
    host: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl Tls {
    /// With this host, whose certificate must be signed by one of these authorities, or one that the system trusts.
    pub(super) fn with(host: &str, authorities_pem: Option<&[u8]>) -> Result<Self, StoreError> {
        let host = ServerName::try_from(host)
            .map_err(|_| unusable("the host in the Redis URL can't have a certificate"))?
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

/// The process's own provider if it has set one, as reqwest does it. `ClientConfig::builder()` would panic where
/// none is set and a program has two in it.
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
    StoreError::other("TLS to Redis can't be set up", error)
}

fn no_certificates(error: rustls::Error) -> StoreError {
    let what = "TLS to Redis needs CA certificates, and this system's can't be used: install them (on Debian, Ubuntu and Alpine: \
                the package ca-certificates), or give your own (root_certificates)";
    StoreError::other(what, error)
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, StoreError> {
    let refused = |what: &str| unusable(&format!("the certificates for Redis: {what}"));
    let mut authorities = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| refused("this is not PEM"))?;
        authorities
            .add(certificate)
            .map_err(|_| refused("one of them can't be understood"))?;
    }
    if authorities.is_empty() {
        return Err(refused("there is none in the PEM"));
    }
    Ok(authorities)
}
