//! JSON as text: its tokens are never changed, so that no digit, no repeated member and no escape is lost.

use std::fmt::Write as _;

use coze_wire::is_invisible;

/// Valid JSON, indented.
pub(crate) fn indented(json: &str) -> String {
    /// Deeper levels are indented like this one.
    const DEEPEST: usize = 64;
    let mut out = String::with_capacity(2 * json.len());
    let mut depth: usize = 0;
    let mut tokens = Tokens(json).peekable();
    let line = |depth: usize| format!("\n{:1$}", "", 2 * depth.min(DEEPEST));
    while let Some(token) = tokens.next() {
        let is_end = matches!(token, "}" | "]");
        if is_end {
            depth = depth.saturating_sub(1);
            out.push_str(&line(depth));
        }
        out.push_str(token);
        match token {
            "{" | "[" => match tokens.next_if(|next| matches!(*next, "}" | "]")) {
                Some(end) => out.push_str(end),
                None => {
                    depth += 1;
                    out.push_str(&line(depth));
                }
            },
            "," => out.push_str(&line(depth)),
            ":" => out.push(' '),
            _ => {}
        }
    }
    out
}

/// Valid JSON without the blanks between its tokens.
pub(crate) fn on_one_line(json: &str) -> String {
    Tokens(json).collect()
}

/// Valid JSON for a terminal: in its strings, characters that control a terminal or are not seen are escaped. Other line breaks
/// than `\n` between tokens are to be removed before.
pub(crate) fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        if character == '\n' || !is_invisible(character) {
            out.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a string does not fail.
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

/// The rest of a text, token by token, without the blanks between them.
struct Tokens<'a>(&'a str);

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.0.trim_start_matches(BLANKS);
        let length = match rest.chars().next()? {
            '{' | '}' | '[' | ']' | ',' | ':' => 1,
            '"' => string_length(rest),
            _ => {
                let ends = |c| BLANKS.contains(&c) || "{}[],:\"".contains(c);
                rest.find(ends).unwrap_or(rest.len())
            }
        };
        let (token, rest) = rest.split_at(length);
        self.0 = rest;
        Some(token)
    }
}

/// The length of the string at the start of a text, with its quotes.
fn string_length(text: &str) -> usize {
    // The first quote ends nothing.
    let mut is_escaped = true;
    let end = text.find(|c| {
        let is_end = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    });
    end.map_or(text.len(), |end| end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blanks_between_tokens_are_changed() {
        let json = " { \"a\\\\\":1e400,\r\n\"b\" :[ ] ,\"a\":\"x \\\" , {\\ud83d\", \"c\":[{},[ 123456789012345678901234567890, true]]}\n";
        let compact = r#"{"a\\":1e400,"b":[],"a":"x \" , {\ud83d","c":[{},[123456789012345678901234567890,true]]}"#;
        assert_eq!(on_one_line(json), compact);
        let expected = r#"{
  "a\\": 1e400,
  "b": [],
  "a": "x \" , {\ud83d",
  "c": [
    {},
    [
      123456789012345678901234567890,
      true
    ]
  ]
}"#;
        assert_eq!(indented(json), expected);
        assert_eq!(on_one_line(&indented(json)), compact);
        for scalar in ["1", "\"a\"", "null", "{}", "[]"] {
            assert_eq!(indented(scalar), scalar);
        }
    }

    #[test]
    fn deep_nesting_is_indented_up_to_a_limit() {
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        let shown = indented(&deep);
        assert_eq!(on_one_line(&shown), deep);
        assert!(shown.lines().all(|line| line.len() <= 130));
    }

    #[test]
    fn escaped_json_means_the_same() {
        let text = "a\u{9b}\u{202e}\u{e0041}\u{7f}\u{feff}é扣\n";
        let json = format!("{:#}", serde_json::json!({ "text": text }));
        let shown = escaped(&json);
        assert!(
            !shown.chars().any(|c| c != '\n' && is_invisible(c)),
            "{shown}"
        );
        assert!(
            shown.contains(r"\u009b\u202e\udb40\udc41\u007f\ufeffé扣\n"),
            "{shown}"
        );
        let value: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(value["text"], text);
    }
}
