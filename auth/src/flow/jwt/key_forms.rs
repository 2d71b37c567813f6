//! Parses the encodings in which users have an RSA private key, and describes what they have instead of one.
//!
//! Every buffer with a part of the key is wiped, and is allocated in its final size: growth would leave copies that are
//! not wiped.

use aws_lc_rs::signature::RsaKeyPair;
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use coze_wire::is_invisible;
use rustls_pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

use crate::input::{
    cleaned,
    file::{FILE_LIMIT, text},
    misfit, misplaced, unescaped,
};

/// Parses a private key: PEM, the base64 inside it, base64 of all of it, or DER. The error says what the input is
/// instead and what to do, without quoting it.
pub(super) fn read(key: &[u8]) -> Result<RsaKeyPair, String> {
    if key.len() > FILE_LIMIT {
        return Err(format!("it has more than {FILE_LIMIT} bytes"));
    }
    read_nested(key, DEEPEST)
}

/// The maximum number of nested base64 encodings, and of nested escapes.
const DEEPEST: usize = 3;

fn read_nested(key: &[u8], depth: usize) -> Result<RsaKeyPair, String> {
    if is_binary(key) {
        return read_der(key).map_err(|what| format!("it is {what}"));
    }
    let Some(mut text) = text(key) else {
        return Err("it is neither text nor a key in DER; give the text of private_key.pem".into());
    };
    for _ in 0..DEEPEST {
        if text.contains('\\') {
            text = unescaped(&text);
        }
    }
    // Zero-width spaces and soft hyphens, which chats and web pages insert.
    text.retain(|c| c.is_ascii() || !is_invisible(c));
    let blocks = blocks(&text);
    if blocks.is_empty() {
        return read_without_blocks(cleaned(&text), depth);
    }
    let mut rejected: Vec<(&str, String)> = Vec::new();
    for block in blocks {
        match block.read() {
            Ok(key_pair) => return Ok(key_pair),
            Err(why) if rejected.iter().any(|(_, known)| *known == why) => {}
            Err(why) => rejected.push((block.label, why)),
        }
    }
    if let [(_, why)] = &*rejected {
        return Err(format!("it is {why}"));
    }
    let each = rejected
        .iter()
        .map(|(label, why)| format!("{label} is {why}"));
    Err(format!(
        "none of the blocks is an RSA private key: {}",
        each.collect::<Vec<_>>().join("; ")
    ))
}

/// A part of a PEM text (RFC 7468).
struct Block<'t> {
    label: &'t str,
    /// `None` if the block has no end.
    body: Option<&'t str>,
}

/// The maximum number of blocks without an end: for each, the rest of the text is searched.
const MOST_ENDLESS: usize = 32;

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut rest = text;
    let mut endless = 0;
    while endless < MOST_ENDLESS
        && let Some((_, after)) = rest.split_once("-----BEGIN")
    {
        rest = after;
        let Some((label, after)) = after.split_once("-----") else {
            break;
        };
        if !is_label(label) {
            continue;
        }
        let body = after.split_once(&format!("-----END{label}-----"));
        rest = body.map_or(after, |(_, behind)| behind);
        endless += usize::from(body.is_none());
        blocks.push(Block {
            label: label.trim(),
            body: body.map(|(body, _)| body),
        });
    }
    blocks
}

/// Whether a label has the form of one, so that it may be shown.
fn is_label(label: &str) -> bool {
    let of_label =
        |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || matches!(c, ' ' | '\u{a0}');
    (1..=40).contains(&label.len()) && label.chars().all(of_label)
}

impl Block<'_> {
    fn read(&self) -> Result<RsaKeyPair, String> {
        // Some inputs have lost all white space, including that in labels.
        let label = self.label.replace(char::is_whitespace, "");
        let Some(body) = self.body else {
            let label = self.label;
            return Err(format!("truncated: there is no -----END {label}----- line"));
        };
        let is_legacy_encrypted = body.contains("Proc-Type:") || body.contains("DEK-Info:");
        let what = match &*label {
            _ if is_legacy_encrypted => ENCRYPTED,
            "PRIVATEKEY" | "RSAPRIVATEKEY" | "ECPRIVATEKEY" | "OPENSSHPRIVATEKEY" => {
                let Some(der) = decoded(body) else {
                    return Err(why_not_base64(body));
                };
                return read_der(&der).map_err(str::to_owned);
            }
            "ENCRYPTEDPRIVATEKEY" => ENCRYPTED,
            "ECPARAMETERS" => ELLIPTIC_CURVE,
            "PUBLICKEY" | "RSAPUBLICKEY" => PUBLIC,
            "CERTIFICATE" | "X509CERTIFICATE" | "TRUSTEDCERTIFICATE" => CERTIFICATE,
            "CERTIFICATEREQUEST" | "NEWCERTIFICATEREQUEST" => REQUEST,
            "PKCS7" | "CMS" => CERTIFICATE,
            "PGPPRIVATEKEYBLOCK" | "PGPPUBLICKEYBLOCK" => OTHER_KEY,
            _ => {
                let label = self.label;
                return Err(format!(
                    "a block {label}; PRIVATE KEY (PKCS#8) or RSA PRIVATE KEY (PKCS#1) is expected"
                ));
            }
        };
        Err(what.to_owned())
    }
}

const ENCRYPTED: &str =
    "encrypted; decrypt it first (openssl pkcs8 -in key.pem -out private_key.pem)";
const ELLIPTIC_CURVE: &str =
    "an elliptic curve key (EC), but Coze requires RSA; make a key pair in the Coze console";
const EDWARDS: &str = "an Ed25519 or another key of RFC 8410, but Coze requires RSA; make a key pair in the Coze console";
const OTHER_KEY: &str = "not an RSA key; make a key pair in the Coze console";
const OPENSSH: &str = "an OpenSSH key; convert it (ssh-keygen -p -m PEM -f key)";
const OPENSSH_NOT_RSA: &str =
    "an OpenSSH key, but not of RSA, which Coze requires; make a key pair in the Coze console";
const PUTTY: &str = "a PuTTY key; convert it (puttygen key.ppk -O private-openssh -o key, then ssh-keygen -p -m PEM -f key)";
const PUBLIC: &str = "a public key, but the private key is required; the Coze console offers it once as private_key.pem, when the key pair is made";
const CERTIFICATE: &str = "a certificate, but the private key is required; the Coze console offers it once as private_key.pem, when the key pair is made";
const REQUEST: &str = "a certificate request, but the private key is required; the Coze console offers it once as private_key.pem, when the key pair is made";
const JWK: &str = "a JSON Web Key (JWK); convert it to PEM, or make a key pair in the Coze console";
const PKCS12: &str = "a PKCS#12 archive; extract the key (openssl pkcs12 -in key.p12 -nocerts -nodes -out private_key.pem)";
const DAMAGED: &str = "damaged, or not an RSA key: its body can't be read";

/// Describes where a body is not base64.
fn why_not_base64(body: &str) -> String {
    let of_base64 = |c: char| c.is_ascii_alphanumeric() || c.is_whitespace() || "+/-_=".contains(c);
    let why = misfit(body.trim(), of_base64);
    let why = why.unwrap_or_else(|| "has too few or too many characters".to_owned());
    format!("damaged: its body is not base64, because it {why}")
}

fn read_without_blocks(text: &str, depth: usize) -> Result<RsaKeyPair, String> {
    let is_path = || {
        let is_whole = ["/", "~/", "./", "../", "file:"]
            .iter()
            .any(|s| text.starts_with(s));
        let is_file = [".pem", ".key", ".der", ".p8"]
            .iter()
            .any(|e| text.ends_with(e));
        text.len() < 1000 && !text.contains('\n') && (is_whole || is_file)
    };
    if let Some(why) = misplaced(text) {
        return Err(format!("it {why}"));
    }
    Err(match text {
        "" => "it is empty; give the text of private_key.pem".to_owned(),
        _ if text.starts_with("PuTTY-User-Key-File") => format!("it is {PUTTY}"),
        _ if ["ssh-", "ecdsa-sha2-", "---- BEGIN SSH2 PUBLIC KEY"]
            .iter()
            .any(|start| text.starts_with(start)) =>
        {
            format!("it is {PUBLIC}")
        }
        _ if text.starts_with('{') && text.contains("\"kty\"") => format!("it is {JWK}"),
        _ if text.starts_with(['{', '[']) => {
            "it is JSON; give only the value of its private_key, or load all of it as the configuration (OAuthConfig::from_file)".to_owned()
        }
        _ if ["-----BEGIN", "BEGIN ", "begin "].iter().any(|word| text.contains(word)) => {
            "its -----BEGIN line is damaged; it should read -----BEGIN PRIVATE KEY-----".to_owned()
        }
        _ if text.contains("-----END") => {
            "its first line is missing: -----BEGIN PRIVATE KEY-----".to_owned()
        }
        _ if is_path() => {
            "it looks like a path, not a key; give the text of that file, or use an option that takes a path (from_pem_file, COZE_JWT_OAUTH_PRIVATE_KEY_FILE_PATH)".to_owned()
        }
        _ => match decoded(text).filter(|bytes| is_binary(bytes) || is_text_of_key(bytes)) {
            Some(bytes) if depth > 0 => return read_nested(&bytes, depth - 1),
            _ => "it has no -----BEGIN PRIVATE KEY----- line and is not the base64 of a key; give the whole text of private_key.pem".to_owned(),
        },
    })
}

/// Whether decoded bytes are PEM, JSON, or base64 again.
fn is_text_of_key(bytes: &[u8]) -> bool {
    text(bytes).is_some_and(|text| {
        text.contains("-----BEGIN") || text.starts_with('{') || decoded(cleaned(&text)).is_some()
    })
}

/// Whether the bytes are a binary key: of OpenSSH, or DER. DER is recognized by a sequence that is longer than 127
/// bytes or starts with a version, which no text does.
fn is_binary(bytes: &[u8]) -> bool {
    matches!(bytes, [0x30, 0x81..=0x84, ..] | [0x30, _, 0x02, 0x01, ..])
        || bytes.starts_with(OPENSSH_MAGIC)
}

/// The first bytes of an OpenSSH key.
const OPENSSH_MAGIC: &[u8] = b"openssh-key-v1\0";

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Decodes base64 of both alphabets, with or without padding, ignoring white space.
fn decoded(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    const BASE64: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    let mut compact = Zeroizing::new(String::with_capacity(text.len()));
    for c in text.chars().filter(|c| !c.is_whitespace()) {
        compact.push(match c {
            '-' => '+',
            '_' => '/',
            c => c,
        });
    }
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(compact.len())]);
    let length = BASE64.decode_slice(compact.as_bytes(), &mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

/// Parses PKCS#8 or PKCS#1, independent of the label.
fn read_der(der: &[u8]) -> Result<RsaKeyPair, &'static str> {
    let read = match PrivateKeyDer::try_from(der) {
        Ok(PrivateKeyDer::Pkcs8(key)) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
        Ok(PrivateKeyDer::Pkcs1(key)) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
        Ok(PrivateKeyDer::Sec1(_)) => return Err(ELLIPTIC_CURVE),
        _ => return Err(what_der_is(der)),
    };
    // The reasons that aws-lc-rs reports; any other means that it can't parse the key.
    read.map_err(|rejected| match rejected.to_string().as_str() {
        "TooSmall" => "an RSA key with fewer than 2048 bits; make a key pair in the Coze console",
        "TooLarge" => "an RSA key with more than 8192 bits; make a key pair in the Coze console",
        _ => what_der_is(der),
    })
}

/// Describes DER that is not an RSA private key, by its first tags and the algorithm's identifier.
fn what_der_is(der: &[u8]) -> &'static str {
    const ENCRYPTIONS: [&[u8]; 2] = [
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x05", // PKCS#5
        b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c", // PKCS#12's identifiers
    ];
    const PKCS7_DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07";
    const RSA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
    const RSA_PSS: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a";
    const ELLIPTIC: &[u8] = b"\x2a\x86\x48\xce\x3d\x02\x01";
    const RFC_8410: &[u8] = b"\x06\x03\x2b\x65";
    const VERSION_OF_CERTIFICATE: &[u8] = b"\xa0\x03\x02\x01";
    const DSA: &[u8] = b"\x2a\x86\x48\xce\x38\x04\x01";

    if der.starts_with(OPENSSH_MAGIC) {
        let is_rsa = holds(der, b"ssh-rsa");
        return if is_rsa { OPENSSH } else { OPENSSH_NOT_RSA };
    }
    let head = der.get(..der.len().min(64)).unwrap_or_default();
    let has = |part| holds(head, part);
    let content = content(head);
    match content {
        // A version and a name: a request. A serial number and an algorithm: a certificate.
        Some(inner @ [0x30, ..]) if begins_with_number(inner) => {
            let is_version = self::content(inner).is_some_and(|c| c.starts_with(b"\x02\x01\x00"));
            if is_version { REQUEST } else { CERTIFICATE }
        }
        // A version: a private key. A modulus: a PKCS#1 public key.
        Some([0x02, length, ..]) if *length != 1 => PUBLIC,
        Some([0x02, ..]) if has(PKCS7_DATA) => PKCS12,
        Some([0x02, ..]) if has(ELLIPTIC) => ELLIPTIC_CURVE,
        Some([0x02, ..]) if has(RFC_8410) => EDWARDS,
        Some([0x02, ..]) if has(DSA) || has(RSA_PSS) => OTHER_KEY,
        Some([0x30, ..]) if ENCRYPTIONS.into_iter().any(has) => ENCRYPTED,
        Some([0x30, ..]) if has(VERSION_OF_CERTIFICATE) => CERTIFICATE,
        Some([0x30, ..]) if [RSA, RSA_PSS, ELLIPTIC, RFC_8410, DSA].into_iter().any(has) => PUBLIC,
        _ => DAMAGED,
    }
}

/// The content of a DER value, after its tag and length.
fn content(der: &[u8]) -> Option<&[u8]> {
    let length_bytes = match der.get(1)? {
        length @ 0x81..=0x84 => usize::from(length - 0x80),
        _ => 0,
    };
    der.get(2 + length_bytes..)
}

fn begins_with_number(der: &[u8]) -> bool {
    content(der).is_some_and(|content| content.first() == Some(&0x02))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::LazyLock;

    use aws_lc_rs::{
        encoding::{AsDer, Pkcs8V1Der},
        rsa::KeySize,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
    };
    use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD};

    use super::*;
    use crate::{ErrorKind, PrivateKey};

    /// A key generated for this test run, as DER.
    pub(in super::super) static PKCS8: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let key_pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        AsDer::<Pkcs8V1Der<'_>>::as_der(&key_pair)
            .unwrap()
            .as_ref()
            .to_vec()
    });

    pub(in super::super) fn pem(label: &str, der: &[u8]) -> String {
        let body = BASE64.encode(der);
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

    /// The PKCS#1 key inside a PKCS#8 key of aws-lc-rs: after the version and the algorithm (26 bytes with both
    /// headers).
    fn pkcs1() -> &'static [u8] {
        &PKCS8[26..]
    }

    /// Lines of 64 characters, as `base64 -w 64` writes them.
    fn lines(text: impl AsRef<[u8]>) -> String {
        let body = BASE64.encode(text);
        let lines: Vec<_> = body.as_bytes().chunks(64).collect();
        String::from_utf8(lines.join(&b'\n')).unwrap()
    }

    fn utf16(text: &str) -> Vec<u8> {
        let units = text.encode_utf16().flat_map(u16::to_le_bytes);
        [0xff, 0xfe].into_iter().chain(units).collect()
    }

    #[test]
    fn all_encodings_that_users_have_are_parsed() {
        let pkcs8 = pem("PRIVATE KEY", &PKCS8);
        let certificate = pem("CERTIFICATE", CERTIFICATE_HEAD);
        let json = |text: &str| serde_json::to_string(text).unwrap();
        for (form, text) in [
            ("PKCS#8 as downloaded", pkcs8.clone()),
            ("PKCS#1", pem("RSA PRIVATE KEY", pkcs1())),
            (
                "PKCS#8 under the label of PKCS#1",
                pem("RSA PRIVATE KEY", &PKCS8),
            ),
            (
                "PKCS#1 under the label of PKCS#8",
                pem("PRIVATE KEY", pkcs1()),
            ),
            ("CR LF", pkcs8.replace('\n', "\r\n")),
            ("CR", pkcs8.replace('\n', "\r")),
            ("byte order mark", format!("\u{feff}{pkcs8}")),
            ("literal \\n", pkcs8.replace('\n', "\\n")),
            ("literal \\r\\n", pkcs8.replace('\n', "\\r\\n")),
            ("escaped twice", pkcs8.replace('\n', "\\\\n")),
            ("escaped thrice", pkcs8.replace('\n', "\\\\\\n")),
            ("as a JSON string", json(&pkcs8)),
            ("as a JSON string in a JSON string", json(&json(&pkcs8))),
            ("as PHP writes it", json(&pkcs8).replace('/', "\\/")),
            (
                "as Gson writes it",
                json(&pkcs8).replace('+', "\\u002b").replace('=', "\\u003d"),
            ),
            ("lines that end in a backslash", pkcs8.replace('\n', "\\\n")),
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
            ("no line breaks", pkcs8.replace('\n', "")),
            ("no white space", pkcs8.replace(['\n', ' '], "")),
            ("indented", pkcs8.replace('\n', "\n    ")),
            (
                "a YAML block",
                format!("private_key: |\n  {}", pkcs8.replace('\n', "\n  ")),
            ),
            ("the base64 within", lines(&*PKCS8)),
            ("the base64 within, on one line", BASE64.encode(&*PKCS8)),
            ("the base64 within, PKCS#1", lines(pkcs1())),
            (
                "the base64 within, URL-safe",
                URL_SAFE_NO_PAD.encode(&*PKCS8),
            ),
            (
                "the base64 within, in quotes, with \\n",
                format!("\"{}\\n\"", BASE64.encode(&*PKCS8)),
            ),
            ("base64 of the whole", BASE64.encode(&pkcs8)),
            ("base64 of the whole, in lines", lines(&pkcs8)),
            (
                "base64 of the whole with a byte order mark",
                lines(format!("\u{feff}{pkcs8}")),
            ),
            (
                "base64 of the whole, escaped",
                BASE64.encode(pkcs8.replace('\n', "\\n")),
            ),
            (
                "base64 of the whole, twice",
                BASE64.encode(BASE64.encode(&pkcs8)),
            ),
            ("base64 twice", BASE64.encode(BASE64.encode(&*PKCS8))),
            ("after a certificate", format!("{certificate}{pkcs8}")),
            ("before a certificate", format!("{pkcs8}{certificate}")),
            (
                "after parameters",
                format!("{}{pkcs8}", pem("EC PARAMETERS", b"p256")),
            ),
            (
                "after a public key",
                format!("{}{pkcs8}", pem("PUBLIC KEY", b"x")),
            ),
            (
                "after a damaged key",
                format!("{}{pkcs8}", pem("PRIVATE KEY", b"x")),
            ),
            (
                "after an EC key",
                format!("{}{pkcs8}", pem("EC PRIVATE KEY", b"x")),
            ),
            (
                "after a truncated certificate",
                format!("-----BEGIN CERTIFICATE-----\nMII\n{pkcs8}"),
            ),
            (
                "base64 of the whole in UTF-16",
                BASE64.encode(utf16(&pkcs8)),
            ),
            (
                "base64 of the whole in UTF-16 without a byte order mark",
                BASE64.encode(&utf16(&pkcs8)[2..]),
            ),
            ("base64 thrice", BASE64.encode(lines(lines(&pkcs8)))),
            ("zero-width spaces", pkcs8.replace('\n', "\u{200b}\n")),
            ("soft hyphens", lines(&*PKCS8).replace('\n', "\u{ad}")),
            (
                "a byte order mark in each line",
                pkcs8.replace('\n', "\n\u{feff}"),
            ),
            (
                "no-break spaces",
                pkcs8.replace(' ', "\u{a0}").replace('\n', "\u{a0}\n"),
            ),
            (
                "after attributes",
                format!("Bag Attributes\n  friendlyName: x\n{pkcs8}"),
            ),
            (
                "several blocks, escaped",
                format!("{certificate}{pkcs8}").replace('\n', "\\n"),
            ),
        ] {
            let read = PrivateKey::from_pem(&text);
            assert!(read.is_ok(), "{form}: {read:?}");
            assert!(PrivateKey::from_pem(utf16(&text)).is_ok(), "{form}, UTF-16");
        }
        assert!(PrivateKey::from_pem(&*PKCS8).is_ok(), "DER, PKCS#8");
        assert!(PrivateKey::from_pem(pkcs1()).is_ok(), "DER, PKCS#1");
    }

    /// The first bytes of a certificate: version 3, a serial number, signed with SHA-256 and RSA.
    const CERTIFICATE_HEAD: &[u8] = b"\x30\x82\x03\x0b\x30\x82\x01\xf3\xa0\x03\x02\x01\x02\x02\x01\x07\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00";

    /// A sequence that contains these parts.
    fn sequence(parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[0x30, 0x82], &length[..], &content].concat()
    }

    #[test]
    fn an_invalid_key_is_described_and_not_printed() {
        use aws_lc_rs::signature::KeyPair as _;

        let pkcs8 = pem("PRIVATE KEY", &PKCS8);
        let body = pkcs8.lines().nth(1).unwrap().to_owned();
        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let ec = ec.to_pkcs8v1().unwrap();
        let ed25519 = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
        let ed25519 = ed25519.to_pkcs8().unwrap();
        let public = RsaKeyPair::from_pkcs8(&PKCS8).unwrap();
        let public = public.public_key().as_ref().to_vec();
        let filler = &[0; 200][..];
        let algorithm: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
        let spki = sequence(&[algorithm, filler]);
        let pbes2: &[u8] = b"\x30\x57\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d";
        let encrypted = sequence(&[pbes2, filler]);
        let pkcs7: &[u8] =
            b"\x02\x01\x03\x30\x82\x09\x00\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01";
        let pkcs12 = sequence(&[pkcs7, filler]);
        let pss: &[u8] = b"\x02\x01\x00\x30\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a";
        let sec1 = sequence(&[b"\x02\x01\x01\x04\x20", filler]);
        let openssh = |name: &str| {
            pem(
                "OPENSSH PRIVATE KEY",
                format!("openssh-key-v1\0{name}").as_bytes(),
            )
        };
        let console = "make a key pair in the Coze console";
        let once = "the Coze console offers it once as private_key.pem";
        for (key, expected) in [
            (Vec::new(), &["it is empty"][..]),
            (b" \"\"\n".to_vec(), &["it is empty"]),
            (b"private_key.pem".to_vec(), &["looks like a path"]),
            (b"/run/secrets/coze.key".to_vec(), &["looks like a path"]),
            (b"hush".to_vec(), &["no -----BEGIN PRIVATE KEY----- line"]),
            (body.clone().into(), &["damaged"]),
            (
                pem("PRIVATE KEY", ec.as_ref()).into(),
                &["elliptic curve", console],
            ),
            (ec.as_ref().to_vec(), &["elliptic curve"]),
            (ed25519.as_ref().to_vec(), &["Ed25519"]),
            (
                pem("EC PRIVATE KEY", ec.as_ref()).into(),
                &["elliptic curve"],
            ),
            (pem("EC PRIVATE KEY", &sec1).into(), &["elliptic curve"]),
            (sec1, &["elliptic curve"]),
            (pem("EC PARAMETERS", b"x").into(), &["elliptic curve"]),
            (
                pem("PRIVATE KEY", ed25519.as_ref()).into(),
                &["Ed25519", console],
            ),
            (
                pem("PRIVATE KEY", &sequence(&[pss, filler])).into(),
                &["not an RSA key"],
            ),
            (
                pem("ENCRYPTED PRIVATE KEY", &encrypted).into(),
                &["it is encrypted", "openssl pkcs8 -in"],
            ),
            (pem("PRIVATE KEY", &encrypted).into(), &["it is encrypted"]),
            (encrypted.clone(), &["it is encrypted"]),
            (BASE64.encode(&encrypted).into(), &["it is encrypted"]),
            (
                pem("RSA PRIVATE KEY", pkcs1())
                    .replace(
                        "KEY-----\n",
                        "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n",
                    )
                    .into(),
                &["it is encrypted"],
            ),
            (pem("PUBLIC KEY", &spki).into(), &["a public key", once]),
            (spki, &["a public key"]),
            (pem("RSA PUBLIC KEY", &public).into(), &["a public key"]),
            (pem("PRIVATE KEY", &public).into(), &["a public key"]),
            (BASE64.encode(&public).into(), &["a public key"]),
            (
                b"ssh-rsa AAAAB3NzaC1yc2E me@here".to_vec(),
                &["a public key"],
            ),
            (pem("CERTIFICATE", &PKCS8).into(), &["a certificate", once]),
            (
                sequence(&[&CERTIFICATE_HEAD[4..], filler]),
                &["a certificate"],
            ),
            (
                pem("CERTIFICATE REQUEST", b"x").into(),
                &["a certificate request"],
            ),
            (pkcs12, &["PKCS#12", "openssl pkcs12"]),
            (
                openssh("ssh-rsa").into(),
                &["OpenSSH", "ssh-keygen -p -m PEM"],
            ),
            (
                openssh("ssh-ed25519").into(),
                &["OpenSSH", "not of RSA", console],
            ),
            (
                b"PuTTY-User-Key-File-3: ssh-rsa\nEncryption: none".to_vec(),
                &["PuTTY", "puttygen"],
            ),
            (
                pem("DSA PRIVATE KEY", &PKCS8).into(),
                &["a block DSA PRIVATE KEY"],
            ),
            (br#"{"client_type":"jwt"}"#.to_vec(), &["it is JSON;"]),
            (br#"{"kty":"RSA","d":"hush"}"#.to_vec(), &["a JSON Web Key"]),
            (
                BASE64.encode(r#"{"kty":"RSA","d":"hush"}"#).into(),
                &["a JSON Web Key"],
            ),
            (b"~/.coze/hush".to_vec(), &["looks like a path"]),
            (
                b"/run/secrets/hush".to_vec(),
                &["looks like a path", "COZE_JWT_OAUTH_PRIVATE_KEY_FILE_PATH"],
            ),
            (b"${HUSH}".to_vec(), &["it is a placeholder"]),
            (
                format!("COZE_KEY={}", BASE64.encode(&*PKCS8)).into(),
                &["it begins with a variable name"],
            ),
            (
                BASE64.encode(b"openssh-key-v1\0ssh-rsa").into(),
                &["OpenSSH", "ssh-keygen -p -m PEM"],
            ),
            (
                pem("PRIVATE KEY", b"openssh-key-v1\0ssh-rsa").into(),
                &["OpenSSH"],
            ),
            (
                pkcs8.replace("-----", "–––––").into(),
                &["BEGIN line is damaged"],
            ),
            (
                pkcs8.replace("-----BEGIN", "----- BEGIN").into(),
                &["BEGIN line is damaged"],
            ),
            (
                pkcs8
                    .replace("PRIVATE KEY-----\n", "PRIVATE KEY-----\n> ")
                    .into(),
                &["its body is not base64, because it contains the character U+003E (character 1)"],
            ),
            (
                b"-----BEGIN PRIVATE KEY-----\nMIIEv\n-----END PRIVATE KEY-----".to_vec(),
                &["because it has too few or too many characters"],
            ),
            (
                sequence(&[&sequence(&[b"\x02\x01\x00", filler])]),
                &["a certificate request"],
            ),
            (
                sequence(&[&sequence(&[b"\x02\x02\x01\x07", filler])]),
                &["it is a certificate,"],
            ),
            (
                pkcs8[..pkcs8.len() / 2].into(),
                &["truncated", "-----END PRIVATE KEY-----"],
            ),
            (pkcs8[28..].into(), &["first line is missing"]),
            (
                pkcs8.replace("BEGIN PRIVATE", "BEGIN private").into(),
                &["BEGIN line is damaged"],
            ),
            (pem("PRIVATE KEY", &PKCS8[..500]).into(), &["damaged"]),
            (PKCS8[..500].to_vec(), &["damaged"]),
            (pkcs8.replace(&body, "!!").into(), &["not base64"]),
            (
                pem("PRIVATE KEY", &weak_key()).into(),
                &["fewer than 2048 bits"],
            ),
            (b"\x89PNG\xff".to_vec(), &["neither text nor"]),
            (
                format!("{}{}", pem("CERTIFICATE", b"x"), pem("PUBLIC KEY", b"x")).into(),
                &[
                    "none of the blocks is an RSA private key: CERTIFICATE is a certificate",
                    "; PUBLIC KEY is a public key",
                ],
            ),
            (
                pem("CERTIFICATE", b"x").repeat(50).into(),
                &["the private key can't be used: it is a certificate"],
            ),
        ] {
            let error = PrivateKey::from_pem(&key).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            let shown = format!("{error} {error:?}");
            for expected in expected {
                assert!(shown.contains(expected), "{expected}: {shown}");
            }
            assert!(
                !shown.contains(&body[..20]) && !shown.contains("hush"),
                "{shown}"
            );
        }
    }

    #[test]
    fn invalid_input_does_not_panic() {
        let pkcs8 = pem("PRIVATE KEY", &PKCS8);
        for end in 0..pkcs8.len() {
            let _ = PrivateKey::from_pem(&pkcs8[..end]);
            let _ = PrivateKey::from_pem(&pkcs8[end..]);
        }
        for end in 0..PKCS8.len() {
            let _ = PrivateKey::from_pem(&PKCS8[..end]);
        }
        for text in [
            "-----BEGIN",
            "-----BEGIN -----",
            "-----BEGIN-----END-----",
            "-----BEGIN A-----BEGIN A-----END A-----",
            "\\",
            "\\u",
            "\\ud83d\\u",
        ] {
            assert!(PrivateKey::from_pem(text).is_err(), "{text}");
        }
        let nested = (0..6).fold(pkcs8, |text, _| BASE64.encode(text));
        assert!(PrivateKey::from_pem(nested).is_err(), "nested too deeply");
    }

    fn weak_key() -> Vec<u8> {
        BASE64.decode(WEAK_KEY).unwrap()
    }

    /// A PKCS#8 key of 1,024 bits, generated for this test and used nowhere else: aws-lc-rs can't generate one.
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
