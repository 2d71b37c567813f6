//! Private keys in any textual form.

use std::sync::LazyLock;

use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use coze_auth::{ErrorKind, PrivateKey, Signer};
use futures_util::FutureExt;

use super::world::{HUSH, assert_fit_to_be_shown};

/// The only key of the checks, generated for this run, because a committed key is a leaked key.
static KEY: LazyLock<TestKey> = LazyLock::new(TestKey::new);

struct TestKey {
    pem: &'static str,
    pkcs8: Vec<u8>,
    public: UnparsedPublicKey<Vec<u8>>,
}

impl TestKey {
    fn new() -> Self {
        let pem = coze_mock::defaults::jwt_private_key_pem().expect("a generated key");
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let pkcs8 = STANDARD.decode(body).expect("base64");
        let pair = RsaKeyPair::from_pkcs8(&pkcs8).expect("an RSA key");
        let public = UnparsedPublicKey::new(
            &RSA_PKCS1_2048_8192_SHA256,
            pair.public_key().as_ref().to_vec(),
        );
        Self { pem, pkcs8, public }
    }

    /// The PKCS#1 key inside, after version and algorithm, which are 26 bytes with their headers.
    fn pkcs1(&self) -> &[u8] {
        &self.pkcs8[26..]
    }
}

/// The key in its downloaded form.
pub fn pem() -> &'static str {
    KEY.pem
}

/// Replaces `@P` by the key, `@8` and `@1` by the Base64 of its PKCS#8 and PKCS#1 form, and `@B` by the Base64 of `@P`.
pub fn expanded(template: &str) -> String {
    let mut text = template.to_owned();
    for (name, key) in [
        ("@P", KEY.pem.to_owned()),
        ("@8", STANDARD.encode(&KEY.pkcs8)),
        ("@1", STANDARD.encode(KEY.pkcs1())),
        ("@B", STANDARD.encode(KEY.pem)),
    ] {
        text = text.replacen(name, &key, 2);
    }
    text
}

/// Parses arbitrary text as a key, and asserts that it is refused by an error that contains no part of it, or that it is the
/// only key: its signatures can be verified.
pub fn any(text: &str) -> bool {
    match PrivateKey::from_pem(text) {
        Ok(key) => {
            let signature = key
                .sign(b"message")
                .now_or_never()
                .expect("an immediate signature");
            let signature = signature.unwrap_or_else(|error| panic!("{error} {text:?}"));
            assert!(
                KEY.public.verify(b"message", &signature).is_ok(),
                "{text:?}"
            );
            assert_eq!(format!("{key:?}"), "PrivateKey(RSA, 2048 bits)");
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Configuration, "{text:?}");
            assert_fit_to_be_shown(&error, &[HUSH], &text);
            let shown = format!("{error} {error:?}");
            assert!(!shows_key(&shown), "{shown} {text:?}");
            false
        }
    }
}

/// Whether a text contains twelve consecutive characters of the key.
pub fn shows_key(shown: &str) -> bool {
    let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || b"+/=".contains(b);
    let runs = shown
        .as_bytes()
        .windows(12)
        .filter(|run| run.iter().all(is_base64));
    let mut runs = runs.filter_map(|run| std::str::from_utf8(run).ok());
    let body = STANDARD.encode(&KEY.pkcs8);
    runs.any(|run| body.contains(run))
}

/// The textual form of a key.
#[derive(Debug, Clone, Copy)]
pub struct Form<'a> {
    pub is_pkcs1: bool,
    /// Characters per line.
    pub width: usize,
    pub line_end: &'a str,
    /// The text before and after it.
    pub around: &'a str,
}

/// Asserts that the key is accepted in this form.
pub fn round_trip(form: Form<'_>) {
    let (label, der) = match form.is_pkcs1 {
        true => ("RSA PRIVATE KEY", KEY.pkcs1()),
        false => ("PRIVATE KEY", KEY.pkcs8.as_slice()),
    };
    let body = STANDARD.encode(der);
    let lines = body.as_bytes().chunks(form.width.max(1));
    let lines: Vec<_> = lines
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    let Form {
        line_end, around, ..
    } = form;
    let body = lines.join(line_end);
    let text = format!(
        "{around}-----BEGIN {label}-----{line_end}{body}{line_end}-----END {label}-----{line_end}{around}"
    );
    assert!(any(&text), "{form:?}");
}
