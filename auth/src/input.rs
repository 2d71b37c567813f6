//! Values that callers give, checked before anything is sent.

pub(crate) mod file;

use coze_wire::{Secret, is_invisible};
use zeroize::Zeroizing;

use crate::{Error, Result};

/// The pairs of quotation marks that env files, shells, documents and chats put around a value.
const QUOTES: [(char, char); 4] = [('"', '"'), ('\'', '\''), ('“', '”'), ('‘', '’')];

/// A value as it was meant: without the white space, the line breaks (real, or escaped as `\n`) and the one pair of
/// quotation marks that env files, shells and secret stores leave around it. No token, id, secret, URL or key begins or ends
/// with these.
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

/// White space, and what is not seen in copied text: a byte order mark, a zero-width space, a word joiner.
pub(crate) fn is_blank(c: char) -> bool {
    c.is_whitespace() || !c.is_ascii() && is_invisible(c)
}

fn is_quote(c: char) -> bool {
    c == '`' || QUOTES.iter().any(|(open, close)| c == *open || c == *close)
}

/// What a value holds besides the value, or instead of it.
pub(crate) fn misplaced(value: &str) -> Option<&'static str> {
    let is_named = |name: &str| {
        let of_name = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        name.len() > 2 && name.bytes().all(of_name)
    };
    let is_scheme = |word: &str| {
        let word = word.trim_end_matches(':');
        word.eq_ignore_ascii_case("bearer") || word.eq_ignore_ascii_case("authorization")
    };
    let assignment = value.strip_prefix("export ").unwrap_or(value);
    // What is padded Base64 ends in the equals signs.
    if let Some((name, assigned)) = assignment.split_once('=')
        && is_named(name.trim())
        && !assigned.trim_matches('=').is_empty()
    {
        return Some("begins with the name of a variable; leave that and the equals sign out");
    }
    if ["${", "$(", "{{"]
        .iter()
        .any(|start| value.starts_with(start))
        || value.strip_prefix('$').is_some_and(is_named)
        || value.starts_with('<') && value.ends_with('>')
    {
        return Some("is a placeholder, in whose place nothing has been put");
    }
    let first = value.split_inclusive([' ', '\t', ':']).next()?;
    is_scheme(first.trim_end())
        .then_some("begins with the word Bearer, which is added to it; leave that out")
}

/// Which character of a value is not allowed, and where it stands; never the value.
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
    Some(format!("holds {found} (character {})", index + 1))
}

/// An id that becomes a segment of a path: a workspace, an account, an enterprise. Opaque to us, and
/// percent-encoded by the generated client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PathId(String);

impl PathId {
    /// Takes an id, cleaned.
    ///
    /// `.` and `..` are refused because URL parsers fold them, and a backslash
    /// because they read it as a slash. Control characters are refused because URL parsers drop some.
    pub(crate) fn new(name: &str, id: &str) -> Result<Self> {
        let id = cleaned(id);
        let refused = |why: &str| Err(Error::invalid_input(format!("the {name} id {why}")));
        if matches!(id, "." | "..") {
            return refused("is a dot segment, which URLs fold away");
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

/// A text that must be there and fit on one line, such as a session name; trimmed. It may hold, and begin with, anything else:
/// names in Persian and emoji have joiners in them.
pub(crate) fn required(name: &str, value: &str) -> Result<String> {
    let is_break = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    checked(name, value.trim(), |c| !is_break(c)).map(str::to_owned)
}

/// What stands in a URL or names a host; cleaned.
pub(crate) fn address(name: &str, value: &str) -> Result<String> {
    checked(name, cleaned(value), |c| !is_invisible(c)).map(str::to_owned)
}

/// A path, as far as it is known what was meant: a path of Windows may end in `\n`.
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

/// The id of an app or a key; cleaned.
pub(crate) fn identifier(name: &str, value: &str) -> Result<String> {
    let is_allowed = |c: char| !(c.is_whitespace() || is_invisible(c) || c == '\\' || is_quote(c));
    checked(name, in_place(name, value)?, is_allowed).map(str::to_owned)
}

/// A credential that will be sent as a bearer: visible ASCII without quotation marks and backslashes, which RFC 6750
/// section 2.1 does not allow either; cleaned, and never printed.
pub(crate) fn credential(name: &str, value: &str) -> Result<Secret> {
    let is_allowed = |c: char| c.is_ascii_graphic() && c != '\\' && !is_quote(c);
    checked(name, in_place(name, value)?, is_allowed).map(Secret::from)
}

/// The value, cleaned, unless it is something else.
fn in_place<'v>(name: &str, value: &'v str) -> Result<&'v str> {
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

/// A text without its escapes (those of JSON: `\n`, `\/`, `\u003d`), in memory that is wiped. An escape that stands for no
/// character becomes the control character U+001A (substitute), which no value may hold.
pub(crate) fn unescaped(text: &str) -> Zeroizing<String> {
    // No escape is shorter than what it stands for, so this does not grow, which would leave a copy behind.
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
                Some((c, behind)) => {
                    plain.push(c);
                    after = behind.chars();
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

/// The character behind `\u`, which may take a surrogate pair, and what comes after it.
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
    fn what_env_files_and_editors_leave_around_a_value_is_dropped() {
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
        // What looks like one of them but is not.
        for kept in ["token", "r", "a'b", "\"abc", "abc'", "'abc\""] {
            assert_eq!(cleaned(kept), kept);
        }
        assert_eq!(cleaned("'\"abc\"'"), "\"abc\"", "one pair");
    }

    #[test]
    fn an_id_that_no_escaping_could_keep_in_its_segment_is_refused() {
        for bad in ["", " ", ".", "..", "a\\b", "a\tb", "a\nb", "\"7001", "\"\""] {
            assert!(PathId::new("account", bad).is_err(), "{bad:?}");
        }
        for good in ["7001", "volcano_210195", "a/../b?c#d", "%2e%2e", "a/b c"] {
            assert_eq!(PathId::new("account", good).unwrap().as_str(), good);
        }
        let quoted = PathId::new("account", "\"7001\"\\n").unwrap();
        assert_eq!(quoted.as_str(), "7001");
    }

    #[test]
    fn a_credential_is_cleaned_and_a_bad_one_is_told_by_its_character_and_not_printed() {
        assert_eq!(credential("secret", " \"s\"\r\n").unwrap().expose(), "s");
        for (bad, expected) in [
            ("", "is empty"),
            ("\"\"", "is empty"),
            ("hush\nhush", "holds a line break (character 5)"),
            ("hush # mine", "holds a space (character 5)"),
            ("'\"hush\"'", "holds a quotation mark (\") (character 1)"),
            ("\"hush", "holds a quotation mark (\") (character 1)"),
            ("hush\\x", "holds a backslash (character 5)"),
            ("hush\u{7}x", "holds the control character U+0007"),
            ("hush…", "holds the character U+2026 (character 5)"),
            ("Bearer hush", "begins with the word Bearer"),
            ("bearer\thush", "begins with the word Bearer"),
            ("Bearer:hush", "begins with the word Bearer"),
            ("Bearer", "begins with the word Bearer"),
            ("Authorization: Bearer hush", "begins with the word Bearer"),
            ("COZE_API_TOKEN=hush", "begins with the name of a variable"),
            (
                "COZE_API_TOKEN=\"hush\"",
                "begins with the name of a variable",
            ),
            (
                "export COZE_API_TOKEN=hush",
                "begins with the name of a variable",
            ),
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
    fn a_credential_that_only_resembles_something_else_is_taken() {
        for good in [
            "ABCD==", "A=B", "abc=def", "$ecret", "<hush", "bearers", "hush$(x)", "a{{b}}",
        ] {
            assert_eq!(credential("token", good).unwrap().expose(), good);
        }
    }

    #[test]
    fn an_id_is_cleaned_and_a_text_is_kept_as_it_is() {
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
    fn a_path_of_windows_keeps_its_end() {
        for (path, expected) in [
            (" \"C:\\keys\\n\"\r\n", "C:\\keys\\n"),
            ("'/run/key.pem\\n'", "/run/key.pem"),
            ("/run/key.pem\\n", "/run/key.pem"),
        ] {
            assert_eq!(cleaned_path(path), expected);
        }
    }

    #[test]
    fn escapes_are_those_of_json() {
        for json in [
            r#""plain""#,
            r#""a\n\r\t\b\f\"\\\/z""#,
            r#""\u003d\u00e9\ud83d\udd11x""#,
            r#""\\n""#,
        ] {
            let expected: String = serde_json::from_str(json).unwrap();
            let plain = unescaped(json.trim_matches('"'));
            assert_eq!(*plain, expected, "{json}");
            assert!(plain.capacity() <= json.len(), "it has not grown");
        }
        for odd in ["\\u12", "\\ud83d", "\\ud83d\\u0041", "\\uéé"] {
            assert!(unescaped(odd).starts_with('\u{1a}'), "{odd}");
        }
        assert_eq!(*unescaped("a\\"), "a");
    }
}
