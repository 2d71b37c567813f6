//! The expected interpretation of a response, independent of the crate: JSON is parsed by hand, byte by byte.
//!
//! The rules:
//!
//! - a. A success is status 200 to 299 and a JSON object without an error: `error_code`, `error` and `code` are each absent,
//!   null, empty, 0 or `"0"`.
//! - b. The successor is the `refresh_token` of a success, a non-empty string; the last one if repeated. Nothing is trimmed.
//! - c. The object must be closed; bytes after it and broken framing do not matter. In a truncated object, a
//!   `refresh_token` whose string is closed counts if no error member precedes it. A byte order mark is skipped.
//! - d. `expires_in` is an integer, a float, or digits in a string. From 10^12 it is in milliseconds, from 10^9 absolute,
//!   else relative. A lifetime beyond the cap (24 hours) is unknown. Unknown means 900 s.
//! - e. An absolute expiry is interpreted by `Date` and by the local clock. Lifetimes at or below 0 or beyond the cap are discarded. Of two
//!   the shorter counts, unless only the longer is within 5 s of 900 s. If none is left: both past, zero; both beyond, unknown.
//! - f. A success whose access token is invalid in a header, or is not a bearer token, is an error; its refresh token is
//!   stored.
//! - g. The responses of a sign-in are interpreted in the same way.
//! - h. 4101 is a refused token if its message mentions the token, else a missing permission.
//! - i. A clock is corrected by at most a day, once per token request.
//! - j. In a device authorization response, `interval` and `expires_in` have the same forms; if invalid or absent, they are 5 s and 300 s.

use super::world::HUSH;

/// A body, as far as it is valid JSON.
#[derive(Debug)]
pub struct Body {
    text: String,
    members: Vec<Member>,
    pub state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It starts with a complete object.
    Closed,
    /// It is a truncated object.
    Cut,
    /// Anything else.
    NoObject,
}

#[derive(Debug)]
struct Member {
    /// `None` if it contains a lone surrogate.
    name: Option<String>,
    value: Json,
}

/// A value, without the parts that do not matter.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    Null,
    Bool,
    /// Infinite if it is too large.
    Number(f64),
    Text(String),
    /// A string with a lone surrogate, which `String` cannot represent.
    NoText,
    EmptyArray,
    Array,
    EmptyObject,
    /// With its text.
    Object(String),
}

impl Body {
    pub fn read(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body).into_owned();
        let json = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let (members, state) = members(json);
        Self {
            members,
            state,
            text,
        }
    }

    /// The last member of this name.
    pub fn get(&self, name: &str) -> Option<&Json> {
        let named = |member: &&Member| member.name.as_deref() == Some(name);
        Some(&self.members.iter().rfind(named)?.value)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Json::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// Rule a without the status.
    fn is_error(&self) -> bool {
        let is_error = |name: &&str| self.get(name).is_some_and(|value| !value.is_nothing());
        ERROR_MEMBERS.iter().any(is_error)
    }

    /// Rule a.
    pub fn is_success(&self, status: u16) -> bool {
        (200..300).contains(&status) && self.state == State::Closed && !self.is_error()
    }

    /// Rules b and c: the refresh token that has to be stored, if there is one.
    pub fn successor(&self, status: u16) -> Option<&str> {
        if self.is_success(status) {
            return self.text("refresh_token");
        }
        if !(200..300).contains(&status) || self.state != State::Cut {
            return None;
        }
        let is_named = |member: &Member, names: &[&str]| {
            let name = member.name.as_deref();
            name.is_some_and(|name| names.contains(&name))
        };
        let position = self
            .members
            .iter()
            .rposition(|member| is_named(member, &["refresh_token"]))?;
        let is_error =
            |member: &Member| is_named(member, &ERROR_MEMBERS) && !member.value.is_nothing();
        if self.members[..position].iter().any(is_error) {
            return None;
        }
        self.text("refresh_token")
    }

    /// Rule f: the access token, if it is usable.
    pub fn access_token(&self) -> Option<&str> {
        let access_token = self.text("access_token")?;
        let fits = access_token.bytes().all(|b| (0x21..0x7f).contains(&b));
        let is_bearer = match self.get("token_type") {
            None | Some(Json::Null) => true,
            Some(Json::Text(kind)) => {
                let kind = kind.trim().to_lowercase();
                kind.is_empty() || kind == "bearer"
            }
            Some(_) => false,
        };
        (fits && is_bearer).then_some(access_token)
    }

    /// The strings of these members that occur nowhere else in the body, so that showing one is a leak.
    pub fn secrets(&self, names: &[&str]) -> Vec<&str> {
        let all = strings(&self.text);
        let is_own = |secret: &&str| {
            let holding = all.iter().filter(|text| text.contains(secret)).count();
            secret.contains(HUSH) && secret.len() >= 8 && holding == 1
        };
        let named = names.iter().filter_map(|name| self.text(name));
        named.filter(is_own).collect()
    }
}

const ERROR_MEMBERS: [&str; 3] = ["error_code", "error", "code"];

impl Json {
    fn is_nothing(&self) -> bool {
        match self {
            Self::Null | Self::EmptyArray | Self::EmptyObject => true,
            Self::Number(number) => *number == 0.0,
            Self::Text(text) => text.is_empty() || text == "0",
            Self::Bool | Self::NoText | Self::Array | Self::Object(_) => false,
        }
    }

    /// A member of an object.
    pub fn member(&self, name: &str) -> Option<Json> {
        let Self::Object(text) = self else {
            return None;
        };
        Body::read(text.as_bytes()).get(name).cloned()
    }

    /// Rule d: an integer, a float, or digits in a string.
    fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number).filter(|number| number.is_finite()),
            Self::Text(text) => {
                let digits = text.trim();
                let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
                is_number.then(|| digits.parse().unwrap_or(f64::INFINITY))
            }
            _ => None,
        }
    }
}

/// The longest lifetime that a flow grants, in seconds.
pub const CAP: f64 = 86_400.0;

/// A range of lifetimes, in seconds.
pub type Lives = std::ops::RangeInclusive<f64>;

/// When a response was received, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    /// The local clock when it was complete.
    pub local: f64,
    /// `Date`, if it counts.
    pub date: Option<f64>,
    pub took: f64,
}

/// Rules d and e: the possible lifetimes of an `expires_in`, of which the crate must use one. There are several only
/// if the result depends on the fraction of the second of `Date`.
pub fn lives(expires_in: Option<&Json>, clocks: Clocks, usual: f64) -> Vec<Lives> {
    let Clocks { local, date, took } = clocks;
    let unknown = || vec![around((usual - took).max(0.0))];
    let seconds = match expires_in.and_then(Json::number) {
        None => return unknown(),
        Some(milliseconds) if milliseconds >= 1e12 => milliseconds / 1000.0,
        Some(seconds) => seconds,
    };
    if seconds < 1e9 {
        return match seconds {
            past if past <= 0.0 => vec![around(0.0)],
            beyond if beyond > CAP => unknown(),
            granted => vec![around((granted - took).max(0.0))],
        };
    }
    let by_local = seconds - local;
    let agrees = |date: f64| (date..=date + 1.0 + took).contains(&local);
    let by_date = match date {
        Some(date) if !agrees(date) => vec![Some(seconds - date - 1.0)],
        Some(date) => vec![None, Some(seconds - date - 1.0), Some(seconds - date)],
        None => vec![None],
    };
    let mut all = Vec::new();
    for by_date in by_date {
        match chosen(by_local, by_date, usual) {
            Chosen::Local => all.push(around(by_local)),
            Chosen::Date(life) => all.push((life - took - SLACK).max(0.0)..=life + SLACK),
            Chosen::Past => all.push(around(0.0)),
            Chosen::Unknown => all.extend(unknown()),
            Chosen::Undefined => {
                all.push(around(0.0));
                all.extend(unknown());
            }
        }
    }
    all
}

enum Chosen {
    Local,
    Date(f64),
    Past,
    Unknown,
    /// Past by one clock and beyond the cap by the other: no rule defines it.
    Undefined,
}

fn chosen(local: f64, by_date: Option<f64>, usual: f64) -> Chosen {
    let is_possible = |life: f64| life > 0.0 && life <= CAP;
    let is_usual = |life: f64| (life - usual).abs() <= 5.0;
    match by_date {
        None if is_possible(local) => Chosen::Local,
        None if local <= 0.0 => Chosen::Past,
        None => Chosen::Unknown,
        Some(date) => match (is_possible(local), is_possible(date)) {
            (true, false) => Chosen::Local,
            (false, true) => Chosen::Date(date),
            (true, true) => {
                let local_is_shorter = local <= date;
                let (shorter, longer) = if local_is_shorter {
                    (local, date)
                } else {
                    (date, local)
                };
                let takes_longer = is_usual(longer) && !is_usual(shorter);
                if takes_longer == local_is_shorter {
                    Chosen::Date(date)
                } else {
                    Chosen::Local
                }
            }
            (false, false) if local <= 0.0 && date <= 0.0 => Chosen::Past,
            (false, false) if local > 0.0 && date > 0.0 => Chosen::Unknown,
            (false, false) => Chosen::Undefined,
        },
    }
}

/// The rounding error of floats and milliseconds.
const SLACK: f64 = 0.002;

fn around(life: f64) -> Lives {
    life - SLACK..=life + SLACK
}

/// Rule j: the seconds between two polls. Less than a second, or more than a day, is invalid.
pub fn interval(interval: Option<&Json>) -> f64 {
    let read = interval.and_then(Json::number);
    read.filter(|seconds| (1.0..=CAP).contains(seconds))
        .unwrap_or(5.0)
}

/// An error in any of Coze's shapes.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    pub code: Option<Code>,
    pub message: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Code {
    Word(String),
    Number(i64),
}

pub const WORDS: [&str; 10] = [
    "authorization_pending",
    "slow_down",
    "access_denied",
    "expired_token",
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unsupported_grant_type",
    "access_deny",
    "internal_error",
];

/// The code is `error_code`, else a known code in `error`, else the number in `code`, else any word in `error`, else a code
/// within an object in `error`.
pub fn refusal(body: &Body) -> Option<Refusal> {
    let error = body.get("error");
    let within = |name: &str| error?.member(name);
    let of = |name: &str| code(body.get(name)?);
    let known = of("error").filter(|code| match code {
        Code::Word(word) => WORDS.contains(&word.as_str()),
        Code::Number(_) => true,
    });
    let found = of("error_code")
        .or(known)
        .or_else(|| of("code"))
        .or_else(|| of("error"))
        .or_else(|| {
            let mut names = ["error_code", "code", "type"].iter();
            names.find_map(|name| code(&within(name)?))
        });
    let text_within = |name: &&str| match within(name)? {
        Json::Text(text) if !text.is_empty() => Some(text),
        _ => None,
    };
    let is_code = |text: &str| found.is_some() && code(&Json::Text(text.to_owned())) == found;
    let message = ["error_message", "error_description", "msg", "message"]
        .iter()
        .find_map(|name| body.text(name).map(str::to_owned))
        .or_else(|| {
            let names = ["message", "error_message", "msg", "error_description"];
            names.iter().find_map(text_within)
        })
        .or_else(|| {
            let text = body.text("error").filter(|text| !is_code(text));
            text.map(str::to_owned)
        });
    (found.is_some() || message.is_some()).then_some(Refusal {
        code: found,
        message,
    })
}

fn code(value: &Json) -> Option<Code> {
    match value {
        Json::Text(text) => match (text.trim(), text.trim().parse::<i64>()) {
            ("", _) | (_, Ok(0)) => None,
            (_, Ok(number)) => Some(Code::Number(number)),
            (word, Err(_)) => Some(Code::Word(word.to_owned())),
        },
        Json::Number(number) if number.fract() == 0.0 && *number != 0.0 => {
            // Beyond 2^53 the crate parses an integer where this parses a float: see `is_exact`.
            Some(Code::Number(*number as i64))
        }
        _ => None,
    }
}

/// Whether a numeric code is parsed exactly.
pub fn is_exact(body: &Body) -> bool {
    let is_exact = |value: Json| match value {
        Json::Number(number) => number.is_finite() && number.abs() < 9_007_199_254_740_992.0,
        _ => true,
    };
    let beside = ["error_code", "error", "code"].map(|name| body.get(name).cloned());
    let error = body.get("error");
    let within = ["error_code", "code", "type"].map(|name| error?.member(name));
    beside.into_iter().chain(within).flatten().all(is_exact)
}

/// The log id in a body.
pub fn log_id(body: &Body) -> Option<String> {
    let within = |name: &str| match body.get(name)?.member("logid")? {
        Json::Text(text) => Some(text).filter(|text| !text.is_empty()),
        _ => None,
    };
    let beside = || body.text("logid").map(str::to_owned);
    within("detail").or_else(|| within("error")).or_else(beside)
}

/// Why parsing stopped.
#[derive(PartialEq)]
enum Stop {
    /// The text ends.
    End,
    /// It is not JSON.
    Grammar,
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

fn members(text: &str) -> (Vec<Member>, State) {
    let mut reader = Reader { text, at: 0 };
    let mut members = Vec::new();
    let state = match reader.object(&mut members) {
        Ok(()) => State::Closed,
        Err(Stop::End) if text.trim_start_matches(WHITE_SPACE).starts_with('{') => State::Cut,
        Err(_) => State::NoObject,
    };
    (members, state)
}

const WHITE_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

impl<'a> Reader<'a> {
    fn peek(&self) -> Result<u8, Stop> {
        self.text.as_bytes().get(self.at).copied().ok_or(Stop::End)
    }

    fn white_space(&mut self) {
        while self
            .peek()
            .is_ok_and(|b| WHITE_SPACE.contains(&char::from(b)))
        {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), Stop> {
        if self.peek()? != byte {
            return Err(Stop::Grammar);
        }
        self.at += 1;
        Ok(())
    }

    /// The object at the start of the text, member by member.
    fn object(&mut self, members: &mut Vec<Member>) -> Result<(), Stop> {
        self.white_space();
        self.expect(b'{')?;
        self.white_space();
        if self.peek()? == b'}' {
            return Ok(());
        }
        loop {
            let name = self.token(Self::string)?;
            self.white_space();
            self.expect(b':')?;
            let value = self.token(Self::value)?;
            members.push(Member {
                name: unescaped(name),
                value: json(value),
            });
            self.white_space();
            match self.peek()? {
                b'}' => return Ok(()),
                b',' => self.at += 1,
                _ => return Err(Stop::Grammar),
            }
        }
    }

    /// The text of the parsed value, without surrounding white space.
    fn token(&mut self, read: impl FnOnce(&mut Self) -> Result<(), Stop>) -> Result<&'a str, Stop> {
        self.white_space();
        let start = self.at;
        read(self)?;
        Ok(&self.text[start..self.at])
    }

    /// Any value of any depth.
    fn value(&mut self) -> Result<(), Stop> {
        let mut open = Vec::new();
        loop {
            self.white_space();
            match self.peek()? {
                bracket @ (b'{' | b'[') => {
                    self.at += 1;
                    self.white_space();
                    let close = if bracket == b'{' { b'}' } else { b']' };
                    if self.peek()? == close {
                        self.at += 1;
                    } else {
                        open.push(close);
                        if close == b'}' {
                            self.name()?;
                        }
                        continue;
                    }
                }
                b'"' => self.string()?,
                b'-' | b'0'..=b'9' => self.number()?,
                b't' => self.word("true")?,
                b'f' => self.word("false")?,
                b'n' => self.word("null")?,
                _ => return Err(Stop::Grammar),
            }
            loop {
                let Some(close) = open.last().copied() else {
                    return Ok(());
                };
                self.white_space();
                match self.peek()? {
                    b',' => {
                        self.at += 1;
                        if close == b'}' {
                            self.name()?;
                        }
                        break;
                    }
                    byte if byte == close => {
                        self.at += 1;
                        open.pop();
                    }
                    _ => return Err(Stop::Grammar),
                }
            }
        }
    }

    fn name(&mut self) -> Result<(), Stop> {
        self.white_space();
        self.string()?;
        self.white_space();
        self.expect(b':')
    }

    fn string(&mut self) -> Result<(), Stop> {
        self.expect(b'"')?;
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return Ok(()),
                0..0x20 => return Err(Stop::Grammar),
                b'\\' => {
                    let escape = self.peek()?;
                    self.at += 1;
                    match escape {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                        b'u' => {
                            let rest = &self.text.as_bytes()[self.at..];
                            let digits = rest.get(..4).ok_or(Stop::End)?;
                            if !digits.iter().all(u8::is_ascii_hexdigit) {
                                return Err(Stop::Grammar);
                            }
                            self.at += 4;
                        }
                        _ => return Err(Stop::Grammar),
                    }
                }
                _ => {}
            }
        }
    }

    fn digits(&mut self) -> Result<(), Stop> {
        if !self.peek()?.is_ascii_digit() {
            return Err(Stop::Grammar);
        }
        while self.peek().is_ok_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Stop> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        if self.peek()? == b'0' {
            self.at += 1;
            if self.peek().is_ok_and(|b| b.is_ascii_digit()) {
                return Err(Stop::Grammar);
            }
        } else {
            self.digits()?;
        }
        if self.peek() == Ok(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if self.peek().is_ok_and(|b| matches!(b, b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek()?, b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<(), Stop> {
        word.bytes().try_for_each(|byte| self.expect(byte))
    }
}

/// A value, of its text.
fn json(text: &str) -> Json {
    let is_empty = || text[1..text.len() - 1].trim_matches(WHITE_SPACE).is_empty();
    match text.as_bytes().first() {
        Some(b'n') => Json::Null,
        Some(b't' | b'f') => Json::Bool,
        Some(b'"') => unescaped(text).map_or(Json::NoText, Json::Text),
        Some(b'[') if is_empty() => Json::EmptyArray,
        Some(b'[') => Json::Array,
        Some(b'{') if is_empty() => Json::EmptyObject,
        Some(b'{') => Json::Object(text.to_owned()),
        _ => Json::Number(text.parse().unwrap_or(f64::NAN)),
    }
}

/// The contents of a quoted string.
fn unescaped(quoted: &str) -> Option<String> {
    let mut units = Vec::new();
    let mut chars = quoted[1..quoted.len() - 1].chars();
    while let Some(c) = chars.next() {
        let c = if c == '\\' {
            match chars.next()? {
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => {
                    let digits: String = chars.by_ref().take(4).collect();
                    units.push(u16::from_str_radix(&digits, 16).ok()?);
                    continue;
                }
                other => other,
            }
        } else {
            c
        };
        units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
    }
    String::from_utf16(&units).ok()
}

/// All strings of a text, including names.
fn strings(text: &str) -> Vec<String> {
    let mut reader = Reader { text, at: 0 };
    let mut found = Vec::new();
    while reader.at < text.len() {
        let start = reader.at;
        if reader.peek() == Ok(b'"') && reader.string().is_ok() {
            found.extend(unescaped(&text[start..reader.at]));
        } else {
            reader.at = start + 1;
        }
    }
    found
}
