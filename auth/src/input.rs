//! Cleans and validates input values before they are used in a request.

pub(crate) mod file;

use coze_wire::{Secret, is_invisible};
use zeroize::Zeroizing;

use crate::{Error, Result};

/// Pairs of quotation marks that env files, shells, documents and chats add around a value.
const QUOTES: [(char, char); 4] = [('"', '"'), ('\'', '\''), ('“', '”'), ('‘', '’')];

/// Removes surrounding white space, line breaks (also escaped ones, `\n`) and one pair of quotation marks, which env files,
/// shells and secret managers often add. No token, id, secret, URL or key begins or ends with these.
pub(crate) fn cleaned(value: &str) -> &str {
    let value = trimmed(value);
    let inner = QUOTES
        .iter()
        .find_map(|(open, close)| value.strip_prefix(*open)?.strip_suffix(*close));
    inner.map_or(value, trimmed)
}

fn trimmed(value: &str) -> &str {
    let mut value = value.trim_matches(is_blank);
    while let Some(rest) = value.strip_suffix(['n', 'r'])
        && rest.ends_with('\\')
    {
        value = rest.trim_end_matches(|c| c == '\\' || is_blank(c));
    }
    value
}

/// White space, or an invisible character from copied text, such as a byte order mark, a zero-width space or a word joiner.
pub(crate) fn is_blank(c: char) -> bool {
    c.is_whitespace() || !c.is_ascii() && is_invisible(c)
}

fn is_quote(c: char) -> bool {
    c == '`' || QUOTES.iter().any(|(open, close)| c == *open || c == *close)
}

/// Detects an assignment, a placeholder or an authentication scheme in place of the plain value. Returns the end of an error
/// message.
pub(crate) fn misplaced(value: &str) -> Option<&'static str> {
    let is_variable_name = |name: &str| {
        let is_allowed = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        name.len() > 2 && name.bytes().all(is_allowed)
    };
    let is_scheme = |word: &str| {
        let word = word.trim_end_matches(':');
        word.eq_ignore_ascii_case("bearer") || word.eq_ignore_ascii_case("authorization")
    };
    let assignment = value.strip_prefix("export ").unwrap_or(value);
    // The equals signs at the end of base64 padding are not an assignment.
    if let Some((name, assigned)) = assignment.split_once('=')
        && is_variable_name(name.trim())
        && !assigned.trim_matches('=').is_empty()
    {
        return Some("begins with a variable name; remove the name and the equals sign");
    }
    if ["${", "$(", "{{"]
        .iter()
        .any(|start| value.starts_with(start))
        || value.strip_prefix('$').is_some_and(is_variable_name)
        || value.starts_with('<') && value.find('>') == Some(value.len() - 1)
    {
        return Some("is a placeholder that was not replaced by a value");
    }
    let first = value.split_inclusive([' ', '\t', ':']).next()?;
    is_scheme(first.trim_end())
        .then_some("begins with the word Bearer; remove it, because it is added automatically")
}

/// Describes the first invalid character and its position, without the value.
pub(crate) fn misfit(value: &str, is_allowed: impl Fn(char) -> bool) -> Option<String> {
    let (index, found) = value.chars().enumerate().find(|(_, c)| !is_allowed(*c))?;
    let found = match found {
        ' ' => "a space".to_owned(),
        '\t' => "a tab".to_owned(),
        '\n' | '\r' => "a line break".to_owned(),
        '\\' => "a backslash".to_owned(),
        c if c.is_ascii() && is_quote(c) => format!("a quotation mark ({c})"),
        c if c.is_control() => format!("the control character U+{:04X}", u32::from(c)),
        c => format!("the character U+{:04X}", u32::from(c)),
    };
    Some(format!("contains {found} (character {})", index + 1))
}

/// The id of a workspace, account or enterprise that becomes a path segment of a URL. The generated client percent-encodes
/// it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PathId(String);

impl PathId {
    /// Cleans and checks an id.
    ///
    /// `.` and `..` are refused because URL parsers resolve them, and a backslash because they treat it as a slash. Control
    /// characters are refused because URL parsers remove some of them.
    pub(crate) fn new(name: &str, id: &str) -> Result<Self> {
        let id = cleaned(id);
        let refused = |why: &str| Err(Error::invalid_input(format!("the {name} id {why}")));
        if matches!(id, "." | "..") {
            return refused("is a dot segment, which URL parsers remove");
        }
        if id.is_empty() {
            return refused("is empty");
        }
        if id.starts_with(is_quote) || id.ends_with(is_quote) {
            return refused("begins or ends with a quotation mark");
        }
        match misfit(id, |c| !is_invisible(c) && c != '\\') {
            Some(why) => refused(&why),
            None => Ok(Self(id.to_owned())),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Trims and checks a non-empty text of one line, such as a session name. Invisible characters are allowed, because Persian
/// names and emoji contain joiners.
pub(crate) fn required(name: &str, value: &str) -> Result<String> {
    let is_break = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    checked(name, value.trim(), |c| !is_break(c)).map(str::to_owned)
}

/// Cleans and checks a URL or a host name.
pub(crate) fn address(name: &str, value: &str) -> Result<String> {
    checked(name, cleaned(value), |c| !is_invisible(c)).map(str::to_owned)
}

/// Cleans a path. Only an absolute Unix path loses an escaped line break at its end, because a Windows path may end in `\n`.
pub(crate) fn cleaned_path(value: &str) -> &str {
    let path = value.trim_matches(is_blank);
    let path = QUOTES
        .iter()
        .find_map(|(open, close)| path.strip_prefix(*open)?.strip_suffix(*close))
        .unwrap_or(path);
    if path.starts_with('/') {
        cleaned(path)
    } else {
        path
    }
}

/// Cleans and checks the id of an app or a key.
pub(crate) fn identifier(name: &str, value: &str) -> Result<String> {
    let is_allowed = |c: char| !(c.is_whitespace() || is_invisible(c) || c == '\\' || is_quote(c));
    checked(name, cleaned_value(name, value)?, is_allowed).map(str::to_owned)
}

/// Cleans and checks a credential: visible ASCII without quotation marks and backslashes, which RFC 6750 section 2.1 does not
/// allow in a bearer token. Errors don't contain the value.
pub(crate) fn credential(name: &str, value: &str) -> Result<Secret> {
    let is_allowed = |c: char| c.is_ascii_graphic() && c != '\\' && !is_quote(c);
    checked(name, cleaned_value(name, value)?, is_allowed).map(Secret::from)
}

/// Cleans a value. An error if it is an assignment, a placeholder or an `Authorization` value.
fn cleaned_value<'v>(name: &str, value: &'v str) -> Result<&'v str> {
    let value = cleaned(value);
    match misplaced(value) {
        Some(why) => Err(Error::invalid_input(format!("the {name} {why}"))),
        None => Ok(value),
    }
}

fn checked<'v>(name: &str, value: &'v str, is_allowed: impl Fn(char) -> bool) -> Result<&'v str> {
    if value.is_empty() {
        return Err(Error::invalid_input(format!("the {name} is empty")));
    }
    match misfit(value, is_allowed) {
        Some(why) => Err(Error::invalid_input(format!("the {name} {why}"))),
        None => Ok(value),
    }
}

/// Replaces JSON escapes (`\n`, `\/`, `\u003d`) by their characters, in memory that is zeroized on drop. An invalid escape
/// becomes the control character U+001A (substitute), which is not allowed in any value.
pub(crate) fn unescaped(text: &str) -> Zeroizing<String> {
    // No escape is shorter than its character, so the string never reallocates, which would leave a copy in memory.
    let mut plain = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text;
    while let Some((before, escape)) = rest.split_once('\\') {
        plain.push_str(before);
        let mut after = escape.chars();
        match after.next() {
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('t') => plain.push('\t'),
            Some('b') => plain.push('\u{8}'),
            Some('f') => plain.push('\u{c}'),
            Some('u') => match unicode_escape(after.as_str()) {
                Some((c, unread)) => {
                    plain.push(c);
                    after = unread.chars();
                }
                None => plain.push('\u{1a}'),
            },
            Some(c) => plain.push(c),
            None => {}
        }
        rest = after.as_str();
    }
    plain.push_str(rest);
    plain
}

/// Decodes the digits after `\u`, or a surrogate pair. Returns the character and the rest of the text.
fn unicode_escape(text: &str) -> Option<(char, &str)> {
    let unit = |text: &str| u16::from_str_radix(text.get(..4)?, 16).ok();
    let first = unit(text)?;
    let second = text.get(4..6).filter(|u| *u == "\\u");
    let second = second.and_then(|_| unit(text.get(6..)?));
    let mut decoded = char::decode_utf16([first].into_iter().chain(second));
    let c = decoded.next()?.ok()?;
    Some((c, text.get(if c.len_utf16() == 2 { 10 } else { 4 }..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_blanks_around_a_value_are_removed() {
        for raw in [
            "pat_abc",
            " \tpat_abc\r\n",
            "\u{feff}pat_abc\u{200b}",
            "\u{2060}pat_abc\u{ad}\u{a0}",
            "\"pat_abc\"",
            "'pat_abc'",
            "“pat_abc”",
            "pat_abc\\n",
            "pat_abc\\r\\n",
            "pat_abc\\\\n",
            "\"pat_abc\\n\"",
            "\"pat_abc\"\\n",
            " \" pat_abc \n\" ",
        ] {
            assert_eq!(cleaned(raw), "pat_abc", "{raw:?}");
        }
        for empty in ["", " ", "\"\"", "''", "\" \"", "\\n"] {
            assert_eq!(cleaned(empty), "", "{empty:?}");
        }
        // Unpaired quotes and plain letters are kept.
        for kept in ["token", "r", "a'b", "\"abc", "abc'", "'abc\""] {
            assert_eq!(cleaned(kept), kept);
        }
        assert_eq!(cleaned("'\"abc\"'"), "\"abc\"", "only one pair is removed");
    }

    #[test]
    fn an_id_that_can_not_be_a_path_segment_is_refused() {
        for bad in ["", " ", ".", "..", "a\\b", "a\tb", "a\nb", "\"7001", "\"\""] {
            assert!(PathId::new("account", bad).is_err(), "{bad:?}");
        }
        for valid in ["7001", "volcano_210195", "a/../b?c#d", "%2e%2e", "a/b c"] {
            assert_eq!(PathId::new("account", valid).unwrap().as_str(), valid);
        }
        let quoted = PathId::new("account", "\"7001\"\\n").unwrap();
        assert_eq!(quoted.as_str(), "7001");
    }

    #[test]
    fn a_credential_is_cleaned_and_errors_name_the_character_but_not_the_value() {
        assert_eq!(credential("secret", " \"s\"\r\n").unwrap().expose(), "s");
        for (bad, expected) in [
            ("", "is empty"),
            ("\"\"", "is empty"),
            ("hush\nhush", "contains a line break (character 5)"),
            ("hush # mine", "contains a space (character 5)"),
            ("'\"hush\"'", "contains a quotation mark (\") (character 1)"),
            ("\"hush", "contains a quotation mark (\") (character 1)"),
            ("hush\\x", "contains a backslash (character 5)"),
            ("hush\u{7}x", "contains the control character U+0007"),
            ("hush…", "contains the character U+2026 (character 5)"),
            ("Bearer hush", "begins with the word Bearer"),
            ("bearer\thush", "begins with the word Bearer"),
            ("Bearer:hush", "begins with the word Bearer"),
            ("Bearer", "begins with the word Bearer"),
            ("Authorization: Bearer hush", "begins with the word Bearer"),
            ("COZE_API_TOKEN=hush", "begins with a variable name"),
            ("COZE_API_TOKEN=\"hush\"", "begins with a variable name"),
            ("export COZE_API_TOKEN=hush", "begins with a variable name"),
            ("${HUSH}", "is a placeholder"),
            ("$HUSH", "is a placeholder"),
            ("$(cat hush)", "is a placeholder"),
            ("{{ hush }}", "is a placeholder"),
            ("<hush>", "is a placeholder"),
        ] {
            let error = credential("client secret", bad).unwrap_err().to_string();
            let expected = format!("the client secret {expected}");
            assert!(error.contains(&expected), "{expected}: {error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn a_credential_that_resembles_an_assignment_or_placeholder_is_accepted() {
        for valid in [
            "ABCD==", "A=B", "abc=def", "$ecret", "<hush", "bearers", "hush$(x)", "a{{b}}",
        ] {
            assert_eq!(credential("token", valid).unwrap().expose(), valid);
        }
    }

    #[test]
    fn an_id_is_cleaned_and_a_text_is_only_trimmed() {
        assert_eq!(identifier("client id", "'i'\\n").unwrap(), "i");
        for bad in [
            "", "''", "a b", "\"a", "a\\b", "a\nb", "${ID}", "MY_ID=7", "a\u{1a}",
        ] {
            assert!(identifier("client id", bad).is_err(), "{bad:?}");
        }
        assert_eq!(required("session name", "'O''Neil' ").unwrap(), "'O''Neil'");
        for name in ["می‌خواهم", "Ana ❤\u{fe0f}", "👩\u{200d}👧"] {
            assert_eq!(required("session name", name).unwrap(), name);
        }
        for bad in ["a\nb", "a\u{2028}b", "a\u{1b}[2K"] {
            assert!(required("session name", bad).is_err(), "{bad:?}");
        }
        assert!(address("redirect URI", "https://a\u{200b}b").is_err());
    }

    #[test]
    fn a_windows_path_keeps_a_trailing_backslash_n() {
        for (path, expected) in [
            (" \"C:\\keys\\n\"\r\n", "C:\\keys\\n"),
            ("'/run/key.pem\\n'", "/run/key.pem"),
            ("/run/key.pem\\n", "/run/key.pem"),
        ] {
            assert_eq!(cleaned_path(path), expected);
        }
    }

    #[test]
    fn json_escapes_are_decoded_without_reallocation() {
        for json in [
            r#""plain""#,
            r#""a\n\r\t\b\f\"\\\/z""#,
            r#""\u003d\u00e9\ud83d\udd11x""#,
            r#""\\n""#,
        ] {
            let expected: String = serde_json::from_str(json).unwrap();
            let plain = unescaped(json.trim_matches('"'));
            assert_eq!(*plain, expected, "{json}");
            assert!(plain.capacity() <= json.len(), "reallocated");
        }
        for invalid in ["\\u12", "\\ud83d", "\\ud83d\\u0041", "\\uéé"] {
            assert!(unescaped(invalid).starts_with('\u{1a}'), "{invalid}");
        }
        assert_eq!(*unescaped("a\\"), "a");
    }
}
