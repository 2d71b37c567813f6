//! RSA keys: the pair that the default JWT app uses, and the public keys that apps register.

use crate::error::Error;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::crypto::JwtVerifier;
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use jsonwebtoken::{Algorithm, DecodingKey};
use std::sync::OnceLock;

pub(crate) struct PemPair {
    pub(crate) private_pem: String,
    pub(crate) public_pem: String,
}

/// The key pair of this process, generated on first use. Generation takes about 0.1 s, so mocks share one.
pub(crate) fn generated() -> Result<&'static PemPair, Error> {
    static PAIR: OnceLock<Option<PemPair>> = OnceLock::new();
    PAIR.get_or_init(|| generate().ok())
        .as_ref()
        .ok_or(Error::KeyGeneration)
}

pub(crate) fn generate() -> Result<PemPair, Error> {
    let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| Error::KeyGeneration)?;
    let private: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| Error::KeyGeneration)?;
    let public: PublicKeyX509Der<'_> = pair
        .public_key()
        .as_der()
        .map_err(|_| Error::KeyGeneration)?;
    Ok(PemPair {
        private_pem: pem("PRIVATE KEY", private.as_ref()),
        public_pem: pem("PUBLIC KEY", public.as_ref()),
    })
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}

/// A registered public key, ready to verify RS256 signatures.
pub(crate) struct VerifyingKey(DecodingKey);

impl VerifyingKey {
    pub(crate) fn from_pem(pem: &str) -> Result<Self, &'static str> {
        let key = DecodingKey::from_rsa_pem(pem.as_bytes()).map_err(
            |_| "is not an RSA public key in PEM (BEGIN PUBLIC KEY or BEGIN RSA PUBLIC KEY)",
        )?;
        Ok(Self(key))
    }

    pub(crate) fn verifies(&self, message: &str, signature: &[u8]) -> bool {
        // The provider is named explicitly: `jsonwebtoken`'s lookup panics in a build that enables both of its
        // backends, and this crate becomes part of other projects' test builds.
        let verifier: Result<Box<dyn JwtVerifier>, _> =
            (DEFAULT_PROVIDER.verifier_factory)(&Algorithm::RS256, &self.0);
        verifier.is_ok_and(|verifier| {
            verifier
                .verify(message.as_bytes(), &signature.to_vec())
                .is_ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generated_keys_match() {
        let pair = generated().expect("a key pair");
        assert!(
            pair.private_pem
                .starts_with("-----BEGIN PRIVATE KEY-----\n")
        );
        let key = jsonwebtoken::EncodingKey::from_rsa_pem(pair.private_pem.as_bytes())
            .expect("private half");
        let signature = (DEFAULT_PROVIDER.signer_factory)(&Algorithm::RS256, &key)
            .expect("signer")
            .try_sign(b"message")
            .expect("signature");
        let public = VerifyingKey::from_pem(&pair.public_pem).expect("public half");
        assert!(public.verifies("message", &signature));
        assert!(!public.verifies("massage", &signature));
    }

    #[test]
    fn a_private_key_is_refused_as_a_public_key() {
        assert!(VerifyingKey::from_pem("no key").is_err());
    }
}
