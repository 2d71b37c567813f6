//! Random values, and fingerprints, which identify a secret without showing it.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt::Write as _;

/// The SHA-256 of a secret. The state stores no token, code or JWT id as plaintext.
pub(crate) type Digest = [u8; 32];

/// The operating system provided no random bytes.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the operating system provided no random bytes")]
pub(crate) struct NoRandomness;

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

pub(crate) fn digest_of(secret: &str) -> Digest {
    sha256(secret.as_bytes())
}

/// The fingerprint of a secret in records and in the ledger: the first 12 hexadecimal digits of its SHA-256.
///
/// The mock never lists a token, a code or a secret. A test that has one compares fingerprints:
///
/// ```
/// assert_eq!(coze_mock::fingerprint("abc"), "ba7816bf8f01");
/// ```
#[must_use]
pub fn fingerprint(secret: &str) -> String {
    fingerprint_of(&digest_of(secret))
}

pub(crate) fn fingerprint_of(digest: &Digest) -> String {
    hex(&digest[..6])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
}

pub(crate) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// A random 256-bit token after `prefix`.
pub(crate) fn random_token(prefix: &str) -> Result<String, NoRandomness> {
    Ok(format!("{prefix}{}", base64url(&random::<32>()?)))
}

/// A user code as in RFC 8628 section 6.1: eight consonants, so that no words appear, with a dash in the middle.
pub(crate) fn random_user_code() -> Result<String, NoRandomness> {
    const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
    let bytes = random::<8>()?;
    let mut code = String::with_capacity(9);
    for (at, byte) in bytes.iter().enumerate() {
        if at == 4 {
            code.push('-');
        }
        code.push(char::from(LETTERS[usize::from(*byte) % LETTERS.len()]));
    }
    Ok(code)
}

/// How a secret is shown in a record: enough to see that it is present and whether two are equal.
pub(crate) fn redacted(secret: &str) -> String {
    if secret.is_empty() {
        return String::new();
    }
    format!(
        "<{} characters, sha256 {}>",
        secret.chars().count(),
        fingerprint(secret)
    )
}
