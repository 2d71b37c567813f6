//! Untrusted text made safe to display.
//!
//! Text from a server, a proxy, a file, a header, the environment or the operating system may contain terminal control
//! sequences, invisible characters or a secret of the request, and may be very long. [`sanitize`] makes such a text
//! safe for errors, log lines and `Debug`. An error of another library becomes a [`ForeignError`].

use std::{borrow::Cow, collections::HashSet, error::Error, fmt, ops::Range, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{DefaultIgnorableCodePoint, GeneralCategory},
};
use zeroize::Zeroizing;

use crate::Secret;

/// The maximum number of characters that [`sanitize`] keeps.
pub const SHOWN_TEXT_LIMIT: usize = 300;

/// The maximum number of characters of [`sanitize_sentence`]. It is larger because an error may name many fields of a file.
const SENTENCE_LIMIT: usize = 4000;

/// Replaces a secret.
const REDACTED: &str = "****";

/// The maximum number of bytes of a text that are examined. The rest can't be shown anyway, because of
/// [`SHOWN_TEXT_LIMIT`].
const READ_LIMIT: usize = 64 * 1024;

/// A text that contains this many consecutive characters of a secret repeats a part of it.
const PART_LENGTH: usize = 12;

/// A shorter secret may occur in a log id by chance.
const SHORTEST_IN_A_LOG_ID: usize = 6;

/// All [`forms`] of a secret of this length or more are longer than a part of it.
const SHORTEST_WITH_LONG_FORMS: usize = 16;

/// Whether a character is invisible or changes how the others are displayed: control and format characters (Unicode
/// categories Cc and Cf: bidi overrides, zero-width characters, tags), line and paragraph separators (Zl, Zp), and those
/// with the property `Default_Ignorable_Code_Point` (fillers, variation selectors).
///
/// ```
/// use coze_wire::is_invisible;
///
/// assert!(['\n', '\u{1b}', '\u{202e}', '\u{200b}', '\u{2028}', '\u{e0041}', '\u{3164}'].into_iter().all(is_invisible));
/// assert!(!['a', ' ', 'é', '扣', '👍'].into_iter().any(is_invisible));
/// ```
#[must_use]
pub fn is_invisible(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    matches!(
        CodePointMapData::<GeneralCategory>::new().get(c),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
    ) || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
}

/// Makes an untrusted text safe to display: one line, no [invisible](is_invisible) characters, at most
/// [`SHOWN_TEXT_LIMIT`] characters, and `****` in place of
///
/// - these secrets, or 12 or more consecutive characters of one, plain or encoded (percent, Base64, hexadecimal, escaped);
/// - anything that looks like a secret: a JWT, a Coze token (`pat_…`, `czs_…`), a key in PEM, `Bearer …`, the user info of a URL, and
///   the value after a name such as `refresh_token`.
///
/// ```
/// use coze_wire::{Secret, sanitize};
///
/// let secrets = [Secret::from("hush")];
/// assert_eq!(sanitize("no\u{1b}[2J such code: hush\u{202e}", &secrets), "no [2J such code: ****");
/// ```
#[must_use]
pub fn sanitize(text: &str, secrets: &[Secret]) -> String {
    sanitize_to(text, secrets, SHOWN_TEXT_LIMIT)
}

/// Like [`sanitize`], with another limit, in characters.
#[must_use]
pub fn sanitize_to(text: &str, secrets: &[Secret], limit: usize) -> String {
    let text = visible(examined(text));
    let mut hidden = suspicious(&text);
    hidden.extend(repeats(&text, secrets));
    truncate(&without(&text, hidden), limit)
}

/// Truncates a text to `limit` characters.
fn truncate(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Like [`sanitize`], for a message of this toolkit that may quote other text. Nothing is redacted.
#[must_use]
pub fn sanitize_sentence(text: String) -> String {
    if text.len() <= SENTENCE_LIMIT && !text.chars().any(is_invisible) {
        return text;
    }
    truncate(&visible(examined(&text)), SENTENCE_LIMIT)
}

/// A log id that is safe to display; `None` if it has no visible character. Log ids consist of digits and letters. One of
/// that form is not changed, unless it repeats a secret.
#[must_use]
pub fn sanitize_log_id(log_id: &str, secrets: &[Secret]) -> Option<String> {
    // One bit per byte of the log id: a `u64` is large enough.
    let has_form = log_id.len() <= 64
        && log_id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let is_long = |secret: &&Secret| {
        secret.expose() == log_id || secret.expose().len() >= SHORTEST_IN_A_LOG_ID
    };
    let shown = if has_form {
        // Short secrets may occur in it by chance.
        let long = secrets.iter().filter(is_long);
        if is_unrelated(log_id, long.clone()) {
            log_id.to_owned()
        } else {
            let secrets: Vec<_> = long.cloned().collect();
            sanitize(log_id, &secrets)
        }
    } else {
        sanitize(log_id, secrets)
    };
    (!shown.is_empty()).then_some(shown)
}

/// The fast path for log ids: whether [`sanitize`] would not change this one, because nothing in it looks like a
/// secret, and it contains no part of one of these in any of its [`forms`]. Every response has a log id and every
/// request a token, so this allocates no forms, and only compares bytes and pairs of bytes. It may be `false` if
/// `sanitize` would change nothing, but never `true` if it would change something.
fn is_unrelated<'s>(log_id: &str, mut secrets: impl Iterator<Item = &'s Secret>) -> bool {
    // A log id of the usual form can look like a secret only by the prefix of a token, which has an underscore, or of a
    // JWT.
    if log_id.contains('_') || log_id.contains("eyJ") {
        return false;
    }
    secrets.all(|secret| {
        let secret = secret.expose().as_bytes();
        // Other characters have further forms, and forms of a shorter secret are shorter than a part.
        let is_plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if secret.len() < SHORTEST_WITH_LONG_FORMS || !secret.iter().all(is_plain) {
            return false;
        }
        let mut bytes = [false; 256];
        let mut pairs = [0_u64; 64];
        for pair in secret.windows(2) {
            bytes[usize::from(pair[0])] = true;
            bytes[usize::from(pair[1])] = true;
            pairs[usize::from(pair[0] % 64)] |= 1 << (pair[1] % 64);
        }
        // One bit per position of the log id: whether a pair of the secret ends there, a hexadecimal byte of it, or
        // three bytes in Base64.
        let (mut plain, mut hexadecimal, mut base64) = (0_u64, 0_u64, 0_u64);
        let (mut last, mut last_digit, mut last_digits) = (0_u8, 0_u32, 0_u32);
        for (at, byte) in log_id.bytes().enumerate() {
            let is_pair = pairs[usize::from(last % 64)] >> (byte % 64) & 1;
            plain |= is_pair << at;
            last = byte;
            let digit = char::from(byte).to_digit(16).unwrap_or(NO_DIGIT);
            let number = u8::try_from(last_digit << 4 | digit);
            hexadecimal |= u64::from(number.is_ok_and(|byte| bytes[usize::from(byte)])) << at;
            last_digit = digit;
            last_digits = last_digits << 6 | base64_digit(byte);
            let [_, number @ ..] = last_digits.to_be_bytes();
            let are_bytes = number.iter().all(|byte| bytes[usize::from(*byte)]);
            base64 |= u64::from(are_bytes) << at;
        }
        // A part may begin within the digits of a byte, so it has fewer whole bytes.
        !has_run(plain, PART_LENGTH - 1, 1)
            && !has_run(hexadecimal, PART_LENGTH / 2 - 1, 2)
            && !has_run(base64, PART_LENGTH / 4 - 1, 4)
    })
}

/// For a character that is not a hexadecimal digit: no byte has this value.
const NO_DIGIT: u32 = 0x100;

/// Of both alphabets.
fn base64_digit(digit: u8) -> u32 {
    u32::from(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'-' | b'+' => 62,
        _ => 63,
    })
}

/// Whether this many bits are set at this distance from each other.
fn has_run(bits: u64, length: usize, apart: usize) -> bool {
    (1..length).fold(bits, |run, nth| run & bits >> (nth * apart)) != 0
}

/// The part of a text that is examined.
fn examined(text: &str) -> &str {
    &text[..text.floor_char_boundary(READ_LIMIT)]
}

/// The text on one line, without invisible characters.
fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_invisible) {
        return Cow::Borrowed(text.trim());
    }
    let is_break = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let shown: String = text
        .chars()
        .filter_map(|c| match c {
            _ if !is_invisible(c) => Some(c),
            _ if is_break(c) => Some(' '),
            _ => None,
        })
        .collect();
    Cow::Owned(shown.trim().to_owned())
}

/// The text with these ranges redacted.
fn without(text: &str, mut hidden: Vec<Range<usize>>) -> String {
    hidden.sort_by_key(|range| range.start);
    let mut shown = String::new();
    let mut end = 0;
    for range in hidden {
        if range.start > end || end == 0 {
            shown.push_str(&text[end..range.start]);
            shown.push_str(REDACTED);
        }
        end = end.max(range.end);
    }
    shown.push_str(&text[end..]);
    shown
}

/// The ranges in which a text repeats a secret, or a part of it.
fn repeats(text: &str, secrets: &[Secret]) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    if text.is_empty() {
        return ranges;
    }
    let of_text = Parts::of(text);
    let mut parts = HashSet::new();
    let forms: Vec<_> = secrets.iter().flat_map(|s| forms(s.expose())).collect();
    for form in &forms {
        if form.len() <= PART_LENGTH {
            let found = text.match_indices(form.as_str());
            ranges.extend(found.map(|(start, found)| start..start + found.len()));
        } else {
            let windows = form.as_bytes().windows(PART_LENGTH);
            parts.extend(windows.filter(|part| of_text.may_have(part)));
        }
    }
    if parts.is_empty() {
        return ranges;
    }
    let windows = text.as_bytes().windows(PART_LENGTH).enumerate();
    for (start, _) in windows.filter(|(_, part)| parts.contains(part)) {
        // A part may begin or end inside a character.
        let end = text.ceil_char_boundary(start + PART_LENGTH);
        ranges.push(text.floor_char_boundary(start)..end);
    }
    ranges
}

/// A filter for the parts of a text. A JWT has thousands of parts, of which a text has almost none; the filter avoids a hash set
/// of all of them.
struct Parts(Vec<bool>);

impl Parts {
    fn of(text: &str) -> Self {
        let mut parts = vec![false; 1 << 12];
        for part in text.as_bytes().windows(PART_LENGTH) {
            parts[Self::index(part)] = true;
        }
        Self(parts)
    }

    fn may_have(&self, part: &[u8]) -> bool {
        self.0[Self::index(part)]
    }

    fn index(part: &[u8]) -> usize {
        let number = part
            .iter()
            .take(8)
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        // The upper 12 bits of a product with an odd number: Fibonacci hashing.
        (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize
    }
}

/// The encodings in which a secret may be repeated.
fn forms(secret: &str) -> Vec<Zeroizing<String>> {
    let secret = Zeroizing::new(visible(secret).into_owned());
    let bytes = secret.as_bytes();
    let mut forms = Vec::new();
    let mut add = |form: String| {
        let form = Zeroizing::new(form);
        if !form.is_empty() && !forms.contains(&form) {
            forms.push(form);
        }
    };
    add(secret.to_string());
    if !bytes.iter().all(u8::is_ascii_alphanumeric) {
        add(bytes.escape_ascii().to_string());
        add(secret.escape_debug().to_string());
        add(url::form_urlencoded::byte_serialize(bytes).collect());
    }
    // Encodings of short secrets occur in other words by chance.
    if bytes.len() < SHORTEST_IN_A_LOG_ID {
        return forms;
    }
    for digits in [b"0123456789abcdef", b"0123456789ABCDEF"] {
        let pairs = bytes.iter().map(|byte| {
            let digit = |half: u8| char::from(digits[usize::from(half)]);
            [digit(byte >> 4), digit(byte & 15)]
        });
        add(pairs.clone().flatten().collect());
        add(pairs
            .flat_map(|[upper, lower]| ['%', upper, lower])
            .collect());
    }
    for before in 0..3 {
        let mut shifted = Zeroizing::new(vec![0; before]);
        shifted.extend_from_slice(bytes);
        let code = Zeroizing::new(STANDARD_NO_PAD.encode(&*shifted));
        // The first and the last characters depend on the text around the secret.
        let first = (before * 8).div_ceil(6);
        let last = (shifted.len() * 8) / 6;
        let code = code.get(first..last).unwrap_or_default();
        add(code.replace('+', "-").replace('/', "_"));
        add(code.to_owned());
    }
    forms
}

/// Prefixes of Coze's tokens: <https://www.coze.cn/open/docs/developer_guides/authentication>. `sat_`, `czs_` (of a JWT) and
/// `cztei_` are not documented there, but were observed.
const TOKEN_PREFIXES: [&str; 5] = ["pat_", "sat_", "czs_", "czu_", "cztei_"];

/// Names that are followed by a secret, in JSON or in a form.
const SECRET_NAMES: [&str; 11] = [
    "access_token",
    "refresh_token",
    "client_secret",
    "device_code",
    "code_verifier",
    "private_key",
    "authorization",
    "password",
    "passwd",
    "assertion",
    "secret",
];

fn is_of_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~' | '+' | '/' | '=' | '%')
}

/// The ranges that look like a secret, even one that the request did not carry.
fn suspicious(text: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let lower = text.to_ascii_lowercase();
    let end_of_word = |start: usize| {
        let length = text[start..].find(|c| !is_of_token(c));
        length.map_or(text.len(), |length| start + length)
    };
    let begins_word = |start: usize| !text[..start].ends_with(|c: char| c.is_ascii_alphanumeric());
    for prefix in TOKEN_PREFIXES {
        for (start, _) in text.match_indices(prefix) {
            let end = end_of_word(start);
            if begins_word(start) && end - start >= prefix.len() + 8 {
                ranges.push(start..end);
            }
        }
    }
    // A JSON object in Base64: a JWT, or the beginning of one.
    for (start, _) in text.match_indices("eyJ") {
        let end = end_of_word(start);
        if begins_word(start) && end - start >= 2 * PART_LENGTH {
            ranges.push(start..end);
        }
    }
    if let Some(start) = text.find("-----BEGIN ") {
        ranges.push(start..text.len());
    }
    for (start, scheme) in lower
        .match_indices("bearer ")
        .chain(lower.match_indices("basic "))
    {
        let start = start + scheme.len();
        let end = end_of_word(start);
        if end - start >= PART_LENGTH {
            ranges.push(start..end);
        }
    }
    for (start, _) in text.match_indices("://") {
        let start = start + "://".len();
        let host = text[start..].find(|c: char| c == '/' || c == '?' || c.is_whitespace());
        let authority = &text[start..host.map_or(text.len(), |host| start + host)];
        if let Some(user) = authority.rfind('@') {
            ranges.push(start..start + user);
        }
    }
    for name in SECRET_NAMES {
        for (start, _) in lower.match_indices(name) {
            let is_quote = |c| matches!(c, '"' | '\'' | '\\');
            let rest = text[start + name.len()..].trim_start_matches(is_quote);
            let Some(rest) = rest.trim_start().strip_prefix([':', '=']) else {
                continue;
            };
            let value = rest.trim_start().trim_start_matches('\\');
            let in_quotes = value.strip_prefix(['"', '\'']);
            let is_quoted = in_quotes.is_some();
            let value = in_quotes.unwrap_or(value);
            let start = text.len() - value.len();
            let end = if is_quoted {
                start + length_in_quotes(&text[..start], value)
            } else {
                end_of_word(start)
            };
            // After a colon and a space, this may be the next word of a sentence.
            let is_word = rest.starts_with(' ')
                && !is_quoted
                && !text[start..end].contains(|c: char| c.is_ascii_digit());
            if end - start >= SHORTEST_SECRET_VALUE && !is_word {
                ranges.push(start..end);
            }
        }
    }
    ranges
}

/// The length of a quoted value. `before` ends with the opening quote, which is escaped if this is JSON inside a JSON string.
fn length_in_quotes(before: &str, value: &str) -> usize {
    let mut ends = before.chars().rev();
    let quote = ends.next();
    let is_quote_escaped = ends.next() == Some('\\');
    let mut was_backslash = false;
    for (at, character) in value.char_indices() {
        if Some(character) == quote && was_backslash == is_quote_escaped {
            return at - usize::from(was_backslash);
        }
        was_backslash = character == '\\' && !was_backslash;
    }
    value.len()
}

/// A shorter value is probably a word of a sentence.
const SHORTEST_SECRET_VALUE: usize = 8;

/// An error of another library that is safe to display: its text, and that of each of its causes, is [sanitized](sanitize).
/// `Display` and `Debug` print nothing else.
///
/// The original error is kept, so that callers can downcast it: see [`get_ref`](Self::get_ref).
///
/// ```
/// use std::{error::Error, io};
///
/// use coze_wire::ForeignError;
///
/// let error = ForeignError::new(io::Error::new(io::ErrorKind::NotFound, "no \u{1b}[31mkey"));
/// assert_eq!(format!("{error} {error:?}"), "no  [31mkey \"no  [31mkey\"");
/// let io = error.get_ref().and_then(|error| error.downcast_ref::<io::Error>());
/// assert_eq!(io.map(io::Error::kind), Some(io::ErrorKind::NotFound));
/// ```
#[derive(Clone)]
pub struct ForeignError {
    message: String,
    cause: Option<Box<ForeignError>>,
    error: Option<Arc<dyn Error + Send + Sync>>,
}

impl ForeignError {
    /// How many causes are included at most.
    const MAX_CAUSES: usize = 8;

    /// Wraps an error, or a text.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let error: Arc<dyn Error + Send + Sync> = Arc::from(error.into());
        Self {
            error: Some(Arc::clone(&error)),
            ..Self::from_error(&*error, &[], Self::MAX_CAUSES)
        }
    }

    /// Copies the texts of an error of a request that carried these secrets. The original error is not kept.
    #[must_use]
    pub fn of_request(error: &(dyn Error + 'static), secrets: &[Secret]) -> Self {
        Self::from_error(error, secrets, Self::MAX_CAUSES)
    }

    fn from_error(error: &(dyn Error + 'static), secrets: &[Secret], depth: usize) -> Self {
        let cause = error.source().filter(|_| depth > 0);
        let message = go_away(error).unwrap_or_else(|| sanitize(&error.to_string(), secrets));
        Self {
            message,
            cause: cause.map(|cause| Box::new(Self::from_error(cause, secrets, depth - 1))),
            error: None,
        }
    }

    /// The original error, for a downcast. Its own `Display` and `Debug` are not sanitized: do not print it.
    #[must_use]
    pub fn get_ref(&self) -> Option<&(dyn Error + Send + Sync + 'static)> {
        self.error.as_deref()
    }

    /// This error and its causes in one text. A cause whose text is already included is omitted.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = &self.cause;
        while let Some(inner) = cause {
            if !text.contains(&inner.message) {
                text.push_str(": ");
                text.push_str(&inner.message);
            }
            cause = &inner.cause;
        }
        text
    }
}

/// The text of an HTTP/2 GOAWAY without its debug data, which may repeat a secret of any request on the connection.
#[cfg(feature = "http2")]
fn go_away(error: &(dyn Error + 'static)) -> Option<String> {
    let error = error.downcast_ref::<h2::Error>()?;
    let reason = error.reason().unwrap_or(h2::Reason::NO_ERROR);
    error
        .is_go_away()
        .then(|| format!("the server ended the connection (HTTP/2 GOAWAY: {reason})"))
}

/// Every client speaks HTTP/1.1.
#[cfg(not(feature = "http2"))]
fn go_away(_: &(dyn Error + 'static)) -> Option<String> {
    None
}

impl fmt::Display for ForeignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for ForeignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.chain())
    }
}

impl Error for ForeignError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_removed_and_lines_are_joined() {
        for (text, expected) in [
            ("bad\r\ncode!\u{1b}[31m", "bad  code! [31m"),
            ("a\u{2028}b\u{2029}c\u{85}d", "a b c d"),
            ("\u{202e}drow\u{202c} \u{2066}x\u{2069}", "drow x"),
            ("A\u{200b}B\u{200d}C\u{feff}D\u{ad}E\u{2060}F", "ABCDEF"),
            ("tag\u{e0001}\u{e0041}\u{e007f}", "tag"),
            ("\u{3164}\u{115f}\u{34f}\u{fe0f}\u{180e}x", "x"),
            ("扣子 é 👍", "扣子 é 👍"),
        ] {
            assert_eq!(sanitize(text, &[]), expected, "{text:?}");
        }
        // Invisible characters inside a secret do not hide it.
        let secrets = [Secret::from("hush-hush")];
        assert_eq!(sanitize("hu\u{200b}sh-\u{ad}hush", &secrets), REDACTED);
    }

    #[test]
    fn a_long_text_is_truncated() {
        for text in ["é".repeat(1000), "x".repeat(10 * READ_LIMIT)] {
            let shown = sanitize(&text, &[]);
            assert_eq!(shown.chars().count(), SHOWN_TEXT_LIMIT + 1);
            assert!(shown.ends_with('…'));
        }
    }

    #[test]
    fn a_secret_is_found_in_each_encoding_and_in_parts() {
        let secret = "hush/+\"sécret\"-0123456789-0123456789";
        let secrets = [Secret::from(secret), Secret::from("")];
        let standard = |before: &str| {
            let text = format!("{before}{secret} and more");
            base64::engine::general_purpose::STANDARD.encode(text)
        };
        let hex: String = secret.bytes().map(|b| format!("{b:02x}")).collect();
        let percent: String = secret.bytes().map(|b| format!("%{b:02X}")).collect();
        let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let forms = [
            secret.to_owned(),
            secret[..20].to_owned(),
            secret[12..].to_owned(),
            encoded,
            percent,
            hex.to_uppercase(),
            hex,
            format!("{secret:?}"),
            format!("{:?}", bytes::Bytes::copy_from_slice(secret.as_bytes())),
            standard(""),
            standard("x"),
            standard("xy"),
            standard("xy").replace('+', "-").replace('/', "_"),
        ];
        for form in forms {
            let shown = sanitize(&format!("you sent {form} to us"), &secrets);
            let ending = if shown.contains("****") {
                &shown[..9]
            } else {
                &shown
            };
            assert_eq!(ending, "you sent ", "{form}: {shown}");
            for part in form.as_bytes().windows(PART_LENGTH + 8) {
                let part = String::from_utf8_lossy(part);
                assert!(!shown.contains(&*part) || !form.contains(secret), "{shown}");
            }
        }
        let short = [Secret::from("hush")];
        assert_eq!(sanitize("bad code hush!", &short), "bad code ****!");
    }

    #[test]
    fn text_that_looks_like_a_secret_is_redacted_and_sentences_are_not() {
        for (text, expected) in [
            ("token pat_0123456789abcdef is wrong", "token **** is wrong"),
            ("token czs_0123456789abcdef is wrong", "token **** is wrong"),
            ("eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiIx.c2ln", "****"),
            ("got Bearer 0123456789abcdef.", "got Bearer ****"),
            (
                "http://user:hush@proxy:8080/x failed",
                "http://****@proxy:8080/x failed",
            ),
            (
                r#"{"refresh_token":"0123456789","x":1}"#,
                r#"{"refresh_token":"****","x":1}"#,
            ),
            ("client_secret=0123456789&x=1", "client_secret=****&x=1"),
            (
                r#"{"client_secret":"ab!cd\"ef it's", "x":1}"#,
                r#"{"client_secret":"****", "x":1}"#,
            ),
            (
                r#"{\"password\": \"p@ss w0rd\", \"x\":1}"#,
                r#"{\"password\": \"****\", \"x\":1}"#,
            ),
            ("password: 'p@ss \"w0rd", "password: '****"),
            ("key -----BEGIN PRIVATE KEY-----\nMII", "key ****"),
        ] {
            assert_eq!(sanitize(text, &[]), expected);
        }
        for sentence in [
            "invalid request: client_secret",
            "The Token you entered is incorrect",
            "invalid jwt: kid not been registred",
            "app: 7001.app.coze is currently deactivated by the owner",
            "kid 0Zs1ePr8pvDKBUlPmEJ8vyMGJ2YU4dtQpWDwLvBzSEY",
            "https://api.coze.com/api/permission/oauth2/token",
            "a bearer is missing",
            "private_key: contains no key",
            "client_secret: \"\" is not what was registered",
            "client_secret='' is not what was registered",
            r#"{\"client_secret\":\"\",\"why\":\"it is missing\"}"#,
        ] {
            assert_eq!(sanitize(sentence, &[]), sentence);
        }
    }

    #[test]
    fn a_log_id_is_not_changed_unless_it_repeats_a_secret() {
        let log_id = "20260722083355ABCDEF0123456789";
        let secrets = [Secret::from("55"), Secret::from("hush-secret")];
        let shown = |log_id| sanitize_log_id(log_id, &secrets);
        assert_eq!(shown(log_id).as_deref(), Some(log_id));
        assert_eq!(shown("55").as_deref(), Some(REDACTED));
        assert_eq!(shown("x-hush-secret").as_deref(), Some("x-****"));
        assert_eq!(shown("a\u{1b}b").as_deref(), Some("a b"));
        assert_eq!(shown("\u{200b}"), None);
    }

    #[test]
    fn a_log_id_is_never_called_unrelated_to_a_secret_that_it_repeats() {
        let token = "pat_Zk3mQ9xV7bN2cR5tY8wE1uI4oP6aS0dF-GhJkLzXcVbNmQwErTyUiOpAsDfGh0";
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJtb2NrIn0.Zk3mQ9xV7bN2cR5tY8wE1uI4";
        let others = [
            "0123456789ABCDEF",
            "a+b/c=0123456789abcdef",
            "hush-secret",
            "säcret-0123456789",
        ];
        let is_of_form = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let mut checked = 0;
        for secret in [token, jwt].into_iter().chain(others) {
            let secrets = [Secret::from(secret)];
            for form in forms(secret) {
                for length in [PART_LENGTH.min(form.len()), form.len().min(40)] {
                    for part in form.as_bytes().windows(length) {
                        if !part.iter().all(is_of_form) {
                            continue;
                        }
                        let part = str::from_utf8(part).unwrap();
                        for before in ["", "2", "20", "202", "2026"] {
                            let log_id = format!("{before}{part}9F");
                            let is_repeated = sanitize(&log_id, &secrets) != log_id;
                            assert!(is_repeated, "{log_id} of {secret}");
                            assert!(
                                !is_unrelated(&log_id, secrets.iter()),
                                "{log_id} of {secret}"
                            );
                            checked += 1;
                        }
                    }
                }
            }
        }
        assert!(checked > 10_000, "{checked}");
        for suspicious in ["x-czu_0123456789", "x-eyJhbGciOiJSUzI1NiJ9eyJpc3MiOiJ"] {
            assert!(!is_unrelated(suspicious, [].iter()), "{suspicious}");
        }
        assert!(TOKEN_PREFIXES.iter().all(|prefix| prefix.contains('_')));
        // Log ids of the form that Coze sends take the fast path.
        for log_id in [
            "20260722083355ABCDEF0123456789AB",
            "021795266000123",
            "mock-17",
            "",
        ] {
            for secret in [token, jwt] {
                assert!(
                    is_unrelated(log_id, [Secret::from(secret)].iter()),
                    "{log_id}"
                );
            }
        }
    }

    #[test]
    fn the_causes_of_a_foreign_error_are_sanitized_too() {
        #[derive(Debug)]
        struct Outer(std::io::Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("outer\u{7}")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let inner = std::io::Error::other("hush\u{202e}-secret");
        let error = ForeignError::of_request(&Outer(inner), &[Secret::from("hush-secret")]);
        assert_eq!(format!("{error} {error:?}"), r#"outer "outer: ****""#);
        assert_eq!(error.source().unwrap().to_string(), "****");
        assert!(error.get_ref().is_none());
    }
}
