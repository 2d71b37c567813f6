//! Parses every response of Coze, tolerantly, from the captured bytes.
//!
//! A response may hold the only copy of a sign-in: the successor of a refresh token that has just been redeemed, or the
//! token for a code or an approved device. So one undocumented detail must not make the rest of the response unusable.
//! The generated client only sends requests: its error types drop the headers and print the body.
//!
//! - A *success* is a status of 200 to 299 with a JSON object that has no error member.
//! - The object must be complete. Trailing data and broken HTTP framing are ignored.
//! - If a member is repeated, the last one counts. Members that are not read may hold anything.

use std::ops::Deref;

use coze_wire::{Bearer, BodyState, Captured, Secret, sanitize, sanitize_log_id};
use http::header::{CONTENT_TYPE, LOCATION};
use serde::{
    Deserializer as _,
    de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};
use zeroize::Zeroizing;

use crate::{
    AccessToken, Error, ErrorCode, ErrorKind, RefreshToken, Result, Token,
    clock::Clock,
    error::Meaning,
    expires_in::{Granted, Timing},
    retry::retry_after,
};

/// The members of a body, possibly truncated.
pub(crate) struct Object<'a> {
    members: Vec<(String, &'a RawValue)>,
    is_closed: bool,
}

/// Members that mark a response as an error unless they are absent, null, empty or zero.
const ERROR_MEMBERS: [&str; 3] = ["error_code", "error", "code"];

impl<'a> Object<'a> {
    /// Parses the object at the start of a text. `None` if the text starts with something else, or its JSON is invalid.
    fn parse(text: &'a str) -> Option<Self> {
        let mut members = Vec::new();
        let mut deserializer = serde_json::Deserializer::from_str(text);
        match deserializer.deserialize_map(Members(&mut members)) {
            Ok(()) => Some(Self {
                members,
                is_closed: true,
            }),
            Err(error) if is_cut(text, &error) && text.trim_start().starts_with('{') => {
                Some(Self {
                    members,
                    is_closed: false,
                })
            }
            Err(_) => None,
        }
    }

    /// A member by its name; the last one if it is repeated.
    fn get(&self, name: &str) -> Option<&'a RawValue> {
        let (_, value) = self.members.iter().rev().find(|(key, _)| key == name)?;
        Some(value)
    }

    pub(crate) fn value(&self, name: &str) -> Option<Value> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    /// A member that is a non-empty string.
    pub(crate) fn text(&self, name: &str) -> Option<Zeroizing<String>> {
        text_of(self.get(name)?)
    }

    /// A member that is an object, parsed as tolerantly as this one.
    fn object(&self, name: &str) -> Option<Self> {
        Self::parse(self.get(name)?.get())
    }

    fn is_error(&self) -> bool {
        ERROR_MEMBERS
            .iter()
            .any(|name| self.get(name).is_some_and(|value| !is_nothing(value.get())))
    }

    /// The refresh token of a truncated response. `None` if its string is incomplete, or if an error member precedes
    /// it: then the response is an error.
    fn salvaged(&self) -> Option<RefreshToken> {
        let last = |(name, _): &(String, _)| name == "refresh_token";
        let position = self.members.iter().rposition(last)?;
        let is_error = |(name, value): &(String, &RawValue)| {
            ERROR_MEMBERS.contains(&name.as_str()) && !is_nothing(value.get())
        };
        if self.members[..position].iter().any(is_error) {
            return None;
        }
        text_of(self.members[position].1).map(RefreshToken::of_answer)
    }

    /// Describes a member of an unexpected type, without its value.
    pub(crate) fn mismatch(&self, name: &str, expected: &str) -> String {
        match self.get(name) {
            None => format!("the answer has no {name}: {expected} was expected"),
            Some(value) => format!(
                "the answer's {name} is {}, where {expected} was expected",
                kind_of(value.get())
            ),
        }
    }
}

/// Collects the members of an object, so that those before a truncation are not lost. Values stay raw JSON: one that
/// can't be represented (a lone surrogate, a number out of range) fails only if it is read.
struct Members<'m, 'a>(&'m mut Vec<(String, &'a RawValue)>);

impl<'a> Visitor<'a> for Members<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> std::result::Result<(), M::Error> {
        while let Some(key) = map.next_key::<&RawValue>()? {
            let value: &RawValue = map.next_value()?;
            if let Ok(name) = serde_json::from_str(key.get()) {
                self.0.push((name, value));
            }
        }
        Ok(())
    }
}

/// Whether a text is truncated JSON. serde_json reports a number that ends after its sign, point or `e` as a syntax
/// error, not as an unexpected end of input. With another digit, it reports the unexpected end.
fn is_cut(text: &str, error: &serde_json::Error) -> bool {
    let is_longer_cut = || {
        let longer = Zeroizing::new(format!("{text}0"));
        serde_json::from_str::<IgnoredAny>(&longer).is_err_and(|error| error.is_eof())
    };
    error.is_eof() || text.ends_with(['-', '+', '.', 'e', 'E']) && is_longer_cut()
}

/// Whether a JSON value is null, empty or zero.
fn is_nothing(json: &str) -> bool {
    match serde_json::from_str(json) {
        Ok(Value::Null) => true,
        Ok(Value::String(text)) => text.is_empty() || text == "0",
        Ok(Value::Number(number)) => number.as_f64() == Some(0.0),
        Ok(Value::Array(items)) => items.is_empty(),
        Ok(Value::Object(members)) => members.is_empty(),
        Ok(Value::Bool(_)) | Err(_) => false,
    }
}

fn text_of(value: &RawValue) -> Option<Zeroizing<String>> {
    let text: String = serde_json::from_str(value.get()).ok()?;
    Some(Zeroizing::new(text)).filter(|text| !text.is_empty())
}

/// The type of a JSON value, with its article.
fn kind_of(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'"') if json.len() == 2 => "an empty string",
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// A body as text: without a byte order mark, and with invalid UTF-8 replaced.
enum Text<'a> {
    Whole(&'a str),
    Repaired(Zeroizing<String>),
}

impl<'a> Text<'a> {
    fn of(body: &'a [u8]) -> Self {
        match std::str::from_utf8(body) {
            Ok(text) => Self::Whole(text),
            Err(_) => Self::Repaired(Zeroizing::new(String::from_utf8_lossy(body).into_owned())),
        }
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        let text = match self {
            Self::Whole(text) => text,
            Self::Repaired(text) => text.as_str(),
        };
        text.strip_prefix('\u{feff}').unwrap_or(text)
    }
}

/// A response, with what is needed to interpret it.
pub(crate) struct Answer<'a> {
    pub(crate) captured: &'a Captured,
    pub(crate) timing: &'a Timing,
    /// The secrets of the request: they are redacted if the response repeats them.
    pub(crate) secrets: &'a [Secret],
}

impl Answer<'_> {
    /// Reads a token.
    ///
    /// # Errors
    ///
    /// - [`UnusableToken`](ErrorKind::UnusableToken) for a success whose access token can't be used. The error holds
    ///   the refresh token, if there is one.
    /// - [`Interrupted`](ErrorKind::Interrupted) for a response that was truncated after its refresh token, which the
    ///   error holds.
    /// - As [`read`](Self::read).
    pub(crate) fn token(&self, granted: &Granted, clock: &Clock) -> Result<Token> {
        self.read(|object| {
            let refresh_token = object.text("refresh_token").map(RefreshToken::of_answer);
            match usable_access_token(object) {
                Ok(access_token) => {
                    let life = granted.life(object.value("expires_in").as_ref(), self.timing);
                    Ok(Token::received(
                        access_token,
                        refresh_token,
                        life,
                        self.timing,
                        self.log_id(Some(object)),
                        clock,
                    ))
                }
                Err(why) if refresh_token.is_none() && object.get("access_token").is_none() => {
                    Err(self.refusal_or(object, not_as_described(why)))
                }
                Err(why) => {
                    Err(Error::new(ErrorKind::UnusableToken, why).with_refresh_token(refresh_token))
                }
            }
        })
    }

    /// Reads a success with a closure.
    ///
    /// # Errors
    ///
    /// - [`Refused`](ErrorKind::Refused) for one of Coze's error shapes, at any status.
    /// - Other kinds for a response that is incomplete or does not come from Coze.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Object<'_>) -> Result<T>) -> Result<T> {
        let text = Text::of(self.captured.body());
        let object = Object::parse(&text);
        let is_success = self.captured.status().is_success();
        let outcome = match &object {
            Some(object) if is_success && object.is_closed && !object.is_error() => read(object),
            Some(object) => {
                let cut = is_success && !object.is_closed;
                let salvaged = cut.then(|| object.salvaged()).flatten();
                Err(match salvaged {
                    Some(refresh_token) => Error::new(
                        ErrorKind::Interrupted,
                        format!(
                            "the answer was cut short after {} bytes, after its refresh token",
                            self.captured.body().len()
                        ),
                    )
                    .with_refresh_token(Some(refresh_token)),
                    None => self
                        .refusal(object)
                        .unwrap_or_else(|| self.not_coze(object.is_closed, &text)),
                })
            }
            None => Err(self.not_coze(false, &text)),
        };
        outcome.map_err(|error| {
            error
                .with_status(self.captured.status())
                .with_log_id(self.log_id(object.as_ref()))
                .with_retry_after(retry_after(self.captured, self.timing.ended_wall))
        })
    }

    /// Deserializes a successful API response. A member of an unexpected type is named by its path.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub(crate) fn typed<T: DeserializeOwned>(&self) -> Result<T> {
        let text = Text::of(self.captured.body());
        self.read(|_| {
            let mut deserializer = serde_json::Deserializer::from_str(&text);
            serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
                let path = error.path().to_string();
                // The path can contain keys of a map, which come from the response: sanitize it.
                let what = wrong_type("the answer", &path, error.inner(), &text);
                not_as_described(sanitize(&what, self.secrets))
            })
        })
    }

    /// The error of a response without the members of a success: Coze's error if there is a message without a code,
    /// otherwise `unusable`.
    pub(crate) fn refusal_or(&self, object: &Object<'_>, unusable: Error) -> Error {
        let messages = ["error_message", "error_description"];
        let is_error = messages.iter().any(|name| object.get(name).is_some());
        let refusal = is_error.then(|| self.refusal(object)).flatten();
        refusal.unwrap_or(unusable)
    }

    /// Parses Coze's error shapes. In shape A, the code is `error_code` and `error` is free text; in shape B, the code
    /// is `error`; in shape C, it is a number. A body may mix the shapes, write the number as a string, or put an
    /// object into `error`.
    fn refusal(&self, object: &Object<'_>) -> Option<Error> {
        let inner = object.object("error");
        let code_in = |value: Option<Value>| value.as_ref().and_then(code_of);
        let error = code_in(object.value("error"));
        // If there is also a number, an unknown word in `error` is free text.
        let known = error
            .clone()
            .filter(|code| !matches!(code, ErrorCode::Other(_)));
        let word = code_in(object.value("error_code"))
            .or(known)
            .or_else(|| code_in(object.value("code")))
            .or(error)
            .or_else(|| {
                ["error_code", "code", "type"]
                    .iter()
                    .find_map(|name| code_in(inner.as_ref()?.value(name)))
            });
        let text = |name: &str| Some(object.text(name)?.to_string());
        let inner_text = |name: &str| Some(inner.as_ref()?.text(name)?.to_string());
        let is_code =
            |text: &String| word.is_some() && code_of(&Value::String(text.clone())) == word;
        let message = ["error_message", "error_description", "msg", "message"]
            .iter()
            .find_map(|name| text(name))
            .or_else(|| {
                ["message", "error_message", "msg", "error_description"]
                    .iter()
                    .find_map(|name| inner_text(name))
            })
            .or_else(|| text("error").filter(|text| !is_code(text)));
        if word.is_none() && message.is_none() {
            return None;
        }
        let meaning = Meaning::of(word.as_ref(), message.as_deref().unwrap_or_default());
        let error = Error::new(ErrorKind::Refused, "Coze refused").with_meaning(meaning);
        let error = match word {
            Some(ErrorCode::Other(word)) => {
                error.with_code(ErrorCode::Other(self.shown(&word, object)))
            }
            Some(code) => error.with_code(code),
            None => error,
        };
        let shown = message.map(|message| self.shown(&message, object));
        Some(error.with_message(shown.filter(|message| !message.is_empty())))
    }

    /// The secrets of the request and of the response.
    fn secrets(&self, object: Option<&Object<'_>>) -> Vec<Secret> {
        let brought = ["access_token", "refresh_token", "device_code"];
        let brought = brought.iter().filter_map(|name| object?.text(name));
        let mut secrets = self.secrets.to_vec();
        secrets.extend(brought.map(|secret| Secret::from(secret.as_str())));
        secrets
    }

    /// A text of this response, with secrets redacted.
    fn shown(&self, text: &str, object: &Object<'_>) -> String {
        sanitize(text, &self.secrets(Some(object)))
    }

    /// The error for a response that is neither a success nor one of Coze's errors.
    fn not_coze(&self, is_closed: bool, text: &str) -> Error {
        let length = self.captured.body().len();
        if self.captured.status().is_redirection() {
            let elsewhere = self.captured.headers().contains_key(LOCATION);
            return Error::new(
                ErrorKind::InvalidAnswer,
                if elsewhere {
                    "the server redirected the request; credentials follow no redirect"
                } else {
                    "the server answered with a redirect without a Location header"
                },
            );
        }
        let what = match self.captured.body_state() {
            BodyState::Broken(cause) if !is_closed => return Error::unanswered(cause.clone()),
            BodyState::TooLarge if !is_closed => {
                // Nothing was read beyond the limit.
                format!("the answer is longer than {length} bytes")
            }
            _ if is_closed => "the answer holds neither what was asked for nor an error".to_owned(),
            _ if text.trim().is_empty() => "the answer is empty".to_owned(),
            _ => match serde_json::from_str::<IgnoredAny>(text) {
                Ok(_) => "the answer is JSON, but not an object".to_owned(),
                Err(error) if is_cut(text, &error) => {
                    format!("the answer is cut short after {length} bytes")
                }
                Err(_) => {
                    let content_type = self.captured.headers().get(CONTENT_TYPE);
                    let content_type = content_type.and_then(|value| value.to_str().ok());
                    let shown = content_type.map(|text| sanitize(text, self.secrets));
                    let shown = shown.as_deref().unwrap_or("of no stated type");
                    format!("the answer is not JSON, but {shown}")
                }
            },
        };
        Error::new(ErrorKind::InvalidAnswer, what)
    }

    /// Coze's log id, from the headers or the body.
    pub(crate) fn log_id_of_whole(&self) -> Option<String> {
        let text = Text::of(self.captured.body());
        self.log_id(Object::parse(&text).as_ref())
    }

    /// Coze's log id: the header's, else the one in the body.
    pub(crate) fn log_id(&self, object: Option<&Object<'_>>) -> Option<String> {
        let secrets = self.secrets(object);
        let shown = |log_id: &str| sanitize_log_id(log_id, &secrets);
        if let Some(log_id) = self.captured.log_id().and_then(shown) {
            return Some(log_id);
        }
        let object = object?;
        let within = |name: &str| {
            let log_id = object.object(name)?.text("logid")?;
            shown(&log_id)
        };
        let beside = |name: &str| shown(&object.text(name)?);
        within("detail")
            .or_else(|| within("error"))
            .or_else(|| beside("logid"))
    }
}

/// The error for a success that lacks a member or has it in an unexpected form.
pub(crate) fn not_as_described(what: String) -> Error {
    Error::new(ErrorKind::InvalidAnswer, what).with_meaning(Meaning::NotAsDescribed)
}

/// An error code: a word, a number, or a number in a string.
fn code_of(value: &Value) -> Option<ErrorCode> {
    match value {
        Value::String(text) => match (text.trim(), text.trim().parse()) {
            ("", _) | (_, Ok(0)) => None,
            (_, Ok(number)) => Some(ErrorCode::Api(number)),
            // The caller sanitizes an unknown code: it knows the secrets.
            (word, Err(_)) => {
                Some(ErrorCode::known(word).unwrap_or_else(|| ErrorCode::Other(word.to_owned())))
            }
        },
        Value::Number(number) => number
            .as_i64()
            .or_else(|| integral(number.as_f64()?))
            .filter(|number| *number != 0)
            .map(ErrorCode::Api),
        _ => None,
    }
}

fn integral(number: f64) -> Option<i64> {
    // 2^53: beyond it, not every integer is a float.
    (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).then_some(number as i64)
}

/// The access token of a success. `token_type` may be missing or empty, otherwise it must be `Bearer`.
fn usable_access_token(object: &Object<'_>) -> Result<AccessToken, String> {
    let Some(access_token) = object.text("access_token") else {
        return Err(object.mismatch("access_token", "a string"));
    };
    let access_token = Secret::from(access_token.to_string());
    let access_token = Bearer::new(&access_token)
        .map(AccessToken::of_bearer)
        .map_err(|why| format!("the answer's access token {why}"))?;
    let Some(token_type) = object.get("token_type") else {
        return Ok(access_token);
    };
    match serde_json::from_str(token_type.get()) {
        Ok(Value::Null) => {}
        Ok(Value::String(kind)) if kind.trim().is_empty() => {}
        Ok(Value::String(kind)) if kind.trim().eq_ignore_ascii_case("bearer") => {}
        Ok(Value::String(_)) => {
            return Err("the answer's token_type is not Bearer".to_owned());
        }
        // Any other type, or a string that can't be represented.
        Ok(_) | Err(_) => return Err(object.mismatch("token_type", "the string Bearer")),
    }
    Ok(access_token)
}

/// Describes a member of `subject` that could not be deserialized: its path, the expected type and the actual type, but
/// not its value.
pub(crate) fn wrong_type(
    subject: &str,
    path: &str,
    error: &dyn std::fmt::Display,
    text: &str,
) -> String {
    // serde's message may quote the value before the last "expected": use only the text after it.
    let said = error.to_string();
    let said = said
        .rsplit_once(" at line ")
        .map_or(said.as_str(), |(said, _)| said);
    if let Some(field) = said.strip_prefix("missing field ") {
        return match path {
            "." => format!("{subject} has no {field}"),
            path => format!("{subject} has no {field} in {path}"),
        };
    }
    let expected = said
        .rsplit_once(", expected ")
        .map_or("another value", |(_, expected)| expected);
    let found = serde_json::from_str(text).ok().and_then(|value: Value| {
        let pointer = path.split('.').try_fold(&value, |value, step| {
            let mut steps = step.split('[');
            let name = steps.next().filter(|name| !name.is_empty());
            let value = name.map_or(Some(value), |name| value.get(name))?;
            steps.try_fold(value, |value, index| {
                value.get(index.strip_suffix(']')?.parse::<usize>().ok()?)
            })
        })?;
        Some(kind_of(&pointer.to_string()))
    });
    let member = match path {
        "." => subject.to_owned(),
        path => format!("{subject}'s {path}"),
    };
    match found {
        Some(found) => format!("{member} is {found}, where {expected} was expected"),
        None => format!("{member} is not what was expected: {expected}"),
    }
}
