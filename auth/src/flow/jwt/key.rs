//! The RSA private key of an OAuth app, in whatever form users have it.

use std::{fmt, path::Path};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{RSA_PKCS1_SHA256, RsaKeyPair},
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use zeroize::Zeroizing;

use super::{SignFuture, Signer};
use crate::{Error, ErrorKind, Flow, Result, input::shown_path};

/// The RSA private key that signs JWTs. It is parsed once, and never printed.
///
/// The console offers it as `private_key.pem`: PKCS#8 (`BEGIN PRIVATE KEY`). PKCS#1
/// (`BEGIN RSA PRIVATE KEY`) is taken too, and both may come as they come out of environment variables and
/// secret stores: with CR LF, with literal `\n`, on one line with spaces, in quotes, with white space around.
///
/// Source: <https://www.coze.cn/open/docs/developer_guides/oauth_jwt>.
pub struct PrivateKey {
    key_pair: RsaKeyPair,
}

impl PrivateKey {
    /// Reads a key from PEM text.
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
    /// [`PrivateKey`](ErrorKind::PrivateKey), saying which form was found and what is wanted, when it is no
    /// private key, is encrypted, is no RSA key, has fewer than 2,048 bits, or is damaged.
    pub fn from_pem(pem: impl AsRef<str>) -> Result<Self> {
        let pem = pem.as_ref();
        if pem.contains("Proc-Type:") || pem.contains("DEK-Info:") {
            return Err(refused(ENCRYPTED));
        }
        let tidied = tidied(pem).ok_or_else(|| refused(&what_it_is_instead(pem)))?;
        let key_pair = match PrivateKeyDer::from_pem_slice(tidied.as_bytes()) {
            Ok(PrivateKeyDer::Pkcs8(der)) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
            Ok(PrivateKeyDer::Pkcs1(der)) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            Ok(_) => return Err(refused(&what_it_is_instead(pem))),
            Err(_) => return Err(refused("the PEM text is damaged: its body is not base64")),
        };
        let key_pair = key_pair.map_err(|rejected| {
            // The reasons that aws-lc-rs names; anything else is a key it can't read.
            refused(match rejected.to_string().as_str() {
                "TooSmall" => "the RSA key has fewer than 2048 bits",
                "TooLarge" => "the RSA key has more than 8192 bits",
                "WrongAlgorithm" => "the key is not an RSA key",
                _ => "the PEM text is damaged or holds no RSA key: its body can't be read",
            })
        })?;
        Ok(Self { key_pair })
    }

    /// Reads a key from a PEM file.
    ///
    /// # Errors
    ///
    /// As [`from_pem`](Self::from_pem), naming the file; also when the file can't be read.
    pub fn from_pem_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let shown = shown_path(path).ok_or_else(|| {
            refused("it is no path but the key itself; give its text instead (from_pem)")
        })?;
        let pem = std::fs::read_to_string(path).map_err(|error| {
            Error::new(
                ErrorKind::PrivateKey,
                format!("the private key file {shown} can't be read"),
            )
            .in_flow(Flow::Jwt)
            .with_source(error)
        })?;
        let pem = Zeroizing::new(pem);
        Self::from_pem(&*pem).map_err(|error| {
            refused(&format!(
                "{}: {}",
                shown,
                error.message().unwrap_or_default()
            ))
        })
    }
}

/// It signs where it is polled, and not on a blocking thread. A signature with 2,048 bits takes a quarter of a millisecond,
/// and a token needs one in its life. Measured on two cores with 64 mints at a time, without a pause: about as many mints
/// a second either way, and a task beside them is hardly less late with blocking threads, because the cores are what is
/// short. `benches/` of this project's repository has the figures (`mint`). Who has more cores than that, mints so much,
/// and has tasks that must not be late can wrap the key in a [`Signer`] that calls `tokio::task::spawn_blocking`.
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
    Error::new(ErrorKind::PrivateKey, "the private key can't be used")
        .in_flow(Flow::Jwt)
        .with_message(Some(what.to_owned()))
}

const ENCRYPTED: &str =
    "it is encrypted; decrypt it first (openssl pkcs8 -in key.pem -out private_key.pem)";

const LABELS: [&str; 2] = ["PRIVATE KEY", "RSA PRIVATE KEY"];

/// Writes a key's PEM text anew, one base64 line between its markers. `None` when there is no such key.
fn tidied(pem: &str) -> Option<Zeroizing<String>> {
    LABELS.into_iter().find_map(|label| {
        let begin = format!("-----BEGIN {label}-----");
        let end = format!("-----END {label}-----");
        let (_, rest) = pem.split_once(&begin)?;
        let (body, _) = rest.split_once(&end)?;
        let body = Zeroizing::new(body.replace("\\r", ""));
        let body = Zeroizing::new(body.replace("\\n", ""));
        let mut tidied = Zeroizing::new(String::with_capacity(pem.len() + 2));
        tidied.push_str(&begin);
        tidied.push('\n');
        tidied.extend(body.chars().filter(|c| !c.is_whitespace()));
        tidied.push('\n');
        tidied.push_str(&end);
        Some(tidied)
    })
}

/// Says what a text is that is no usable private key, from its marker alone.
fn what_it_is_instead(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() {
        return "it is empty; give the text of private_key.pem".to_owned();
    }
    let label = text
        .split_once("-----BEGIN ")
        .and_then(|(_, rest)| rest.split_once("-----"))
        .map(|(label, _)| label)
        .filter(|label| {
            label.len() <= 40
                && label
                    .chars()
                    .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == ' ')
        });
    let Some(label) = label else {
        return if text.ends_with(".pem") && text.len() < 1000 {
            "it looks like a path, not a key; read the file (from_pem_file)".to_owned()
        } else {
            "there is no -----BEGIN PRIVATE KEY----- line in it; give the whole PEM text".to_owned()
        };
    };
    match label {
        _ if LABELS.contains(&label) => {
            format!("the PEM text is cut short: there is no -----END {label}----- line")
        }
        "ENCRYPTED PRIVATE KEY" => ENCRYPTED.to_owned(),
        "EC PRIVATE KEY" => "it is an elliptic curve key; Coze wants RSA".to_owned(),
        "OPENSSH PRIVATE KEY" => {
            "it is an OpenSSH key; convert it (ssh-keygen -p -m PEM -f key)".to_owned()
        }
        "PUBLIC KEY" | "RSA PUBLIC KEY" => {
            "it is a public key; the private one is wanted".to_owned()
        }
        "CERTIFICATE" => "it is a certificate; the private key is wanted".to_owned(),
        other => {
            format!("it is a {other}; a PRIVATE KEY (PKCS#8) or RSA PRIVATE KEY (PKCS#1) is wanted")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use aws_lc_rs::{
        encoding::{AsDer, Pkcs8V1Der},
        rsa::KeySize,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
    };
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;

    /// A key made for this run, as DER.
    static PKCS8: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let key_pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        AsDer::<Pkcs8V1Der<'_>>::as_der(&key_pair)
            .unwrap()
            .as_ref()
            .to_vec()
    });

    fn pem(label: &str, der: &[u8]) -> String {
        let body = STANDARD.encode(der);
        let lines: Vec<_> = body
            .as_bytes()
            .chunks(64)
            .map(|c| str::from_utf8(c).unwrap())
            .collect();
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            lines.join("\n")
        )
    }

    /// The PKCS#1 key that a PKCS#8 key of aws-lc-rs wraps: version, algorithm (26 bytes with both
    /// headers) come first.
    fn pkcs1() -> &'static [u8] {
        &PKCS8[26..]
    }

    #[test]
    fn every_form_in_which_users_have_the_key_is_read() {
        let pkcs8 = pem("PRIVATE KEY", &PKCS8);
        for (form, text) in [
            ("PKCS#8 as downloaded", pkcs8.clone()),
            ("PKCS#1", pem("RSA PRIVATE KEY", pkcs1())),
            ("CR LF", pkcs8.replace('\n', "\r\n")),
            ("literal \\n", pkcs8.replace('\n', "\\n")),
            ("literal \\r\\n", pkcs8.replace('\n', "\\r\\n")),
            (
                "PKCS#1, literal \\n",
                pem("RSA PRIVATE KEY", pkcs1()).replace('\n', "\\n"),
            ),
            (
                "double quotes",
                format!("\"{}\"", pkcs8.replace('\n', "\\n")),
            ),
            ("single quotes", format!("'{pkcs8}'")),
            ("white space around", format!(" \t\n{pkcs8}\n  ")),
            ("spaces for line breaks", pkcs8.replace('\n', " ")),
            ("indented", pkcs8.replace('\n', "\n    ")),
        ] {
            assert!(PrivateKey::from_pem(text).is_ok(), "{form}");
        }
    }

    #[test]
    fn a_bad_key_is_told_what_it_is_and_not_printed() {
        let pkcs8 = pem("PRIVATE KEY", &PKCS8);
        let body = pkcs8.lines().nth(1).unwrap().to_owned();
        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let ec = ec.to_pkcs8v1().unwrap();
        for (text, expected) in [
            (String::new(), "it is empty"),
            ("private_key.pem".to_owned(), "looks like a path"),
            (body.clone(), "no -----BEGIN PRIVATE KEY----- line"),
            (pem("PRIVATE KEY", ec.as_ref()), "not an RSA key"),
            (pem("EC PRIVATE KEY", ec.as_ref()), "elliptic curve"),
            (pem("ENCRYPTED PRIVATE KEY", &PKCS8), "encrypted"),
            (
                pem("RSA PRIVATE KEY", pkcs1()).replace(
                    "KEY-----\n",
                    "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n",
                ),
                "encrypted",
            ),
            (pem("PUBLIC KEY", &PKCS8), "public key"),
            (pem("CERTIFICATE", &PKCS8), "certificate"),
            (pem("OPENSSH PRIVATE KEY", &PKCS8), "OpenSSH"),
            (pem("DSA PRIVATE KEY", &PKCS8), "it is a DSA PRIVATE KEY"),
            (pkcs8[..pkcs8.len() / 2].to_owned(), "cut short"),
            (pem("PRIVATE KEY", &PKCS8[..500]), "damaged"),
            (pkcs8.replace(&body, "!!"), "not base64"),
            (pem("PRIVATE KEY", &weak_key()), "fewer than 2048 bits"),
        ] {
            let error = PrivateKey::from_pem(&text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PrivateKey);
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(expected), "{expected}: {shown}");
            assert!(!shown.contains(&body[..20]), "{shown}");
        }
    }

    #[test]
    fn a_key_file_that_can_not_be_read_or_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.pem");
        let error = PrivateKey::from_pem_file(&missing).unwrap_err().to_string();
        assert!(error.contains("missing.pem"), "{error}");

        let key_itself = pem("PRIVATE KEY", &PKCS8);
        let error = PrivateKey::from_pem_file(&key_itself).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("the key itself"), "{shown}");
        assert!(!shown.contains(&key_itself[40..60]), "{shown}");

        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        let error = PrivateKey::from_pem_file(&empty).unwrap_err().to_string();
        assert!(error.contains("empty.pem: it is empty"), "{error}");

        let good = folder.path().join("good.pem");
        std::fs::write(&good, pem("PRIVATE KEY", &PKCS8)).unwrap();
        let key = PrivateKey::from_pem_file(&good).unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey(RSA, 2048 bits)");
    }

    fn weak_key() -> Vec<u8> {
        STANDARD.decode(WEAK_KEY).unwrap()
    }

    /// A PKCS#8 key of 1,024 bits, made for this test and used nowhere: aws-lc-rs makes no such key.
    const WEAK_KEY: &str = "\
        MIICdgIBADANBgkqhkiG9w0BAQEFAASCAmAwggJcAgEAAoGBALOtPsLvAakXoaQ+\
        82fV8ONaNbXBcZsc76waD+cUe7KXc9BFCNWOwtFw6gCytslTWoVVXL8WNr8Aebby\
        hNXjFI9JYxnjYvvfyRddmZrzgxOZzaG1S9/VhN6K3DoCHCIzMH/09JeR+DZijuAA\
        KKNPs26GaktGtmI0tTplPjZ7RBnNAgMBAAECgYA5uBSqUFcrN7EwbxyIJbz9fBQ2\
        8A6Lsq73jWPAat8VzvtgU1z0JalF2M0DLmXzpLg2juZ9aChsET4IXD3567nFh2d/\
        FKchms5H+wib/PA1srmx/RfgskDxB4A2vWIFY/gTB950wz+oCA1lZ3nJv2Sp0cxb\
        oYlzpSPeiTIVz4vlTQJBAOzajTVPERX8rRGwry1mEcgNZbZluJI8uSL9v2ReR6Pc\
        IsNPd4R5pTFxeozx9eD6JqMR1Fx+Y/VRJuSuH0D+zQcCQQDCM3lIh2IjKYNdvbeN\
        l5tDtSkHbLdUk9M/s8uRm+slXQ7sDHOOvFXhRLpHPdADQ0FdZCUUsR1VP3qqQE9v\
        REGLAkBwayNOxCJ17yIuHVBoGeQisckvE4TRVCUDaLDo8J7MNXYCgbtWk25G03e5\
        Yjaz+8dO6u2CoTLMgyIUtFh9PvMNAkEApbx+RorcEzwrk8YEr79yT899K4v5ziG2\
        yQfttOAHR8TqpkNeH7PV60HXZFN5gj9UuppsFwOtEALz8faelEwBTwJANrw6kk5y\
        uloGWn4HVV5Fz7O5JokFeUwbG/JU4LcsXTZJoAWhThAeQQjTrqVxXtxuVYfoBz1P\
        Saq5yrnwTFIeJw==";
}
