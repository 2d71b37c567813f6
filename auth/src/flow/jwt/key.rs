//! [`PrivateKey`]: the RSA private key of an OAuth app. `key_forms.rs` has the encodings that it accepts.

use std::{fmt, path::Path};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{RSA_PKCS1_SHA256, RsaKeyPair},
};

use super::{SignFuture, Signer, key_forms};
use crate::{
    Error, ErrorKind, Flow, Result,
    error::Meaning,
    input::file::{self, shown_path},
};

/// The RSA private key that signs JWTs. It is parsed once, and never printed.
///
/// The console provides it as `private_key.pem`, in PKCS#8 (`BEGIN PRIVATE KEY`). PKCS#1 (`BEGIN RSA PRIVATE KEY`) and DER
/// are accepted, too. The text may be in a form that environment variables, secret stores and editors produce: with CR LF,
/// with `\n` (also escaped twice), on one line, in quotes, indented, in UTF-16, without the `-----BEGIN` lines, encoded in
/// base64 as a whole, or after other blocks, such as a certificate.
///
/// Source: <https://www.coze.cn/open/docs/developer_guides/oauth_jwt>.
pub struct PrivateKey {
    key_pair: RsaKeyPair,
}

impl PrivateKey {
    /// Reads a key from PEM text, or from the bytes of a DER file.
    ///
    /// ```no_run
    /// use coze_auth::PrivateKey;
    ///
    /// let pem = std::env::var("COZE_JWT_OAUTH_PRIVATE_KEY").unwrap();
    /// let key = PrivateKey::from_pem(&pem)?;
    /// # Ok::<(), coze_auth::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Configuration`](ErrorKind::Configuration) when there is no private key, or it is encrypted, is not an RSA key, has fewer than
    /// 2,048 bits, or is damaged. The message says what was found, and how to get a valid key.
    pub fn from_pem(pem: impl AsRef<[u8]>) -> Result<Self> {
        let key_pair = key_forms::read(pem.as_ref()).map_err(|why| refused(&why))?;
        Ok(Self { key_pair })
    }

    /// Reads a key from a file of at most 256 KiB, in PEM or DER.
    ///
    /// # Errors
    ///
    /// As [`from_pem`](Self::from_pem); also when the file can't be read, or is not a regular file. The message contains the
    /// path.
    pub fn from_pem_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let shown = shown_path(path)
            .ok_or_else(|| refused("the path is the text of a key; read it with from_pem"))?;
        let contents = file::read(path).map_err(|error| {
            Error::new(
                ErrorKind::Configuration,
                format!("the private key file {shown} can't be read"),
            )
            .in_flow(Flow::Jwt)
            .with_meaning(Meaning::PrivateKey)
            .with_source(error)
        })?;
        let key_pair =
            key_forms::read(&contents).map_err(|why| refused(&format!("{shown}: {why}")))?;
        Ok(Self { key_pair })
    }
}

/// Signs on the thread that polls the future, not on a blocking thread. A signature with 2,048 bits takes about a quarter of a
/// millisecond, and each token needs one. With 64 concurrent token requests on two cores, blocking threads improved neither
/// the throughput nor, noticeably, the latency of other tasks (benchmark `mint` in this project's repository). If you mint at
/// high rates on many cores, wrap the key in a [`Signer`] that uses `tokio::task::spawn_blocking`.
impl Signer for PrivateKey {
    fn sign<'a>(&'a self, message: &'a [u8]) -> SignFuture<'a> {
        Box::pin(async move {
            let mut signature = vec![0; self.key_pair.public_modulus_len()];
            self.key_pair
                .sign(
                    &RSA_PKCS1_SHA256,
                    &SystemRandom::new(),
                    message,
                    &mut signature,
                )
                .map_err(|_| "aws-lc-rs could not sign with this RSA key")?;
            Ok(signature)
        })
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PrivateKey(RSA, {} bits)",
            self.key_pair.public_modulus_len() * 8
        )
    }
}

fn refused(what: &str) -> Error {
    Error::new(ErrorKind::Configuration, "the private key can't be used")
        .in_flow(Flow::Jwt)
        .with_meaning(Meaning::PrivateKey)
        .with_message(Some(what.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{
        super::key_forms::tests::{PKCS8, pem},
        *,
    };

    #[test]
    fn the_path_of_an_unusable_key_file_is_in_the_error() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.pem");
        let error = PrivateKey::from_pem_file(&missing).unwrap_err().to_string();
        assert!(error.contains("missing.pem"), "{error}");

        let key_itself = pem("PRIVATE KEY", &PKCS8);
        let error = PrivateKey::from_pem_file(&key_itself).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("the text of a key"), "{shown}");
        assert!(!shown.contains(&key_itself[40..60]), "{shown}");

        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        let error = PrivateKey::from_pem_file(&empty).unwrap_err().to_string();
        assert!(error.contains("empty.pem: it is empty"), "{error}");

        let directory = PrivateKey::from_pem_file(folder.path()).unwrap_err();
        assert!(
            directory.to_string().contains("it is a directory"),
            "{directory}"
        );

        let der = folder.path().join("key.der");
        std::fs::write(&der, &*PKCS8).unwrap();
        assert!(PrivateKey::from_pem_file(&der).is_ok());

        let good = folder.path().join("good.pem");
        std::fs::write(&good, pem("PRIVATE KEY", &PKCS8)).unwrap();
        let key = PrivateKey::from_pem_file(&good).unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey(RSA, 2048 bits)");
    }
}
