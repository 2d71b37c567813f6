//! JSON as text: its tokens are never changed, so that no digit, no repeated member and no escape is lost.

use std::fmt::Write as _;

use coze_wire::is_invisible;
use serde_json::Value;

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

/// A member of a valid JSON object: the last one of this name, without blanks.
pub(crate) fn member(object: &str, name: &str) -> Option<String> {
    let members = members(object)?;
    let found = members.iter().rfind(|member| is_named(member, name))?;
    found.get(string_length(found) + 1..).map(str::to_owned)
}

/// A valid JSON object with this member in place of those of the same name; `None` if it is not an object. The others keep their
/// order and their tokens.
pub(crate) fn with_member(object: &str, name: &str, value: &str) -> Option<String> {
    let mut members = members(object)?;
    members.retain(|member| !is_named(member, name));
    members.push(format!("{}:{value}", Value::from(name)));
    Some(format!("{{{}}}", members.join(",")))
}

fn is_named(member: &str, name: &str) -> bool {
    let key = serde_json::from_str::<String>(&member[..string_length(member)]);
    key.is_ok_and(|key| key == name)
}

/// The members of a valid JSON object, each with its name, without blanks.
fn members(object: &str) -> Option<Vec<String>> {
    let mut members = Vec::new();
    let mut member = String::new();
    let mut depth: usize = 0;
    for token in Tokens(object) {
        match (token, depth) {
            (token, 0) if token != "{" => return None,
            ("," | "}", 1) if !member.is_empty() => members.push(std::mem::take(&mut member)),
            ("}", 1) | (_, 0) => {}
            _ => member.push_str(token),
        }
        match token {
            "{" | "[" => depth += 1,
            "}" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Some(members)
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
    fn a_member_is_set_without_a_change_of_the_others() {
        let object = r#" { "b":[1.10, {"x":1e400}],"a\"\u0062" : "," , "a":123456789012345678901234567890,
            "c": {}, "\u0061":2 , "\ud83d":[]}"#;
        let expected = r#"{"b":[1.10,{"x":1e400}],"a\"\u0062":",","c":{},"\ud83d":[],"a":-0}"#;
        assert_eq!(with_member(object, "a", "-0").as_deref(), Some(expected));
        assert_eq!(
            with_member("{ }", "a\"", "1").as_deref(),
            Some(r#"{"a\"":1}"#)
        );
        for other in ["[]", "[{\"a\":1}]", "1", "\"{}\"", "null"] {
            assert_eq!(with_member(other, "a", "1"), None);
            assert_eq!(member(other, "a"), None);
        }
        for (name, value) in [
            ("a", Some("2")),
            ("a\"b", Some("\",\"")),
            ("b", Some("[1.10,{\"x\":1e400}]")),
            ("c", Some("{}")),
            ("x", None),
        ] {
            assert_eq!(member(object, name).as_deref(), value);
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
