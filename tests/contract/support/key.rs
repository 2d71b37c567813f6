//! An RSA key generated for this run on first use, because a committed key is a leaked key.

use std::sync::LazyLock;

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use coze_auth::{PrivateKey, SignFuture, Signer};
use jsonwebtoken::{Algorithm, DecodingKey, TokenData, Validation};
use serde_json::Value;

static KEY: LazyLock<TestKey> = LazyLock::new(TestKey::generate);

static PRIVATE_KEY: LazyLock<PrivateKey> =
    LazyLock::new(|| PrivateKey::from_pem(TestKey::get().pem()).unwrap());

struct SharedKey(&'static PrivateKey);

impl Signer for SharedKey {
    fn sign<'a>(&'a self, message: &'a [u8]) -> SignFuture<'a> {
        self.0.sign(message)
    }
}

pub(crate) struct TestKey {
    pem: String,
    key_pair: RsaKeyPair,
}

impl TestKey {
    pub(crate) fn get() -> &'static Self {
        &KEY
    }

    fn generate() -> Self {
        let key_pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&key_pair).unwrap();
        let body = STANDARD.encode(der.as_ref());
        let lines: Vec<_> = body
            .as_bytes()
            .chunks(64)
            .map(|line| str::from_utf8(line).unwrap())
            .collect();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            lines.join("\n")
        );
        Self { pem, key_pair }
    }

    /// The PEM file that the console provides.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// The lines between the PEM markers, all of them secret.
    pub(crate) fn pem_lines(&self) -> impl Iterator<Item = &str> {
        self.pem.lines().filter(|line| !line.starts_with("-----"))
    }

    /// The key parsed by `coze-auth`, shared by all tests.
    pub(crate) fn signer(&self) -> impl Signer + use<> {
        SharedKey(&PRIVATE_KEY)
    }

    /// An RS256 signature by this key, as from a key service.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.key_pair.public_modulus_len()];
        self.key_pair
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                message,
                &mut signature,
            )
            .unwrap();
        signature
    }

    /// Verifies a JWT as a server would: signature by the public key, audience, not expired.
    pub(crate) fn verify(
        &self,
        jwt: &str,
        audience: &str,
    ) -> jsonwebtoken::errors::Result<TokenData<Value>> {
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["iss", "aud", "exp"]);
        validation.leeway = 0;
        let public_key = DecodingKey::from_rsa_der(self.key_pair.public_key().as_ref());
        jsonwebtoken::decode(jwt, &public_key, &validation)
    }
}
