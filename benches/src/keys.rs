//! The RSA key of all contenders, generated for this run.

use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};
use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};

/// PKCS#8 PEM, 2,048 bits. One per process.
///
/// # Errors
///
/// If it could not be generated.
pub fn private_key_pem() -> Result<&'static str> {
    static PEM: OnceLock<Option<String>> = OnceLock::new();
    let made = PEM.get_or_init(|| {
        let pair = KeyPair::generate(KeySize::Rsa2048).ok()?;
        let der: Pkcs8V1Der<'_> = pair.as_der().ok()?;
        Some(format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(der.as_ref())
        ))
    });
    made.as_deref().context("the key could not be generated")
}

/// The lower bound for every JWT: a signature by aws-lc-rs, with the key parsed once.
pub struct RawSigner {
    key: RsaKeyPair,
    random: SystemRandom,
}

impl RawSigner {
    /// Parses the key of this run.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn new() -> Result<Self> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(private_key_pem()?.as_bytes())?;
        let key = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der())
            .map_err(|rejected| anyhow!("the key of this run was rejected: {rejected}"))?;
        Ok(Self {
            key,
            random: SystemRandom::new(),
        })
    }

    /// An RS256 signature; empty on failure, which does not occur.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.key.public_modulus_len()];
        let signed = self
            .key
            .sign(&RSA_PKCS1_SHA256, &self.random, message, &mut signature);
        match signed {
            Ok(()) => signature,
            Err(_) => Vec::new(),
        }
    }
}
