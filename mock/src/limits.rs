//! Every limit of a mock: the ranges of its options, the sizes of requests, and the amount of state.
//!
//! A mock may receive requests from any program, so everything that a request can make it store is bounded.

use crate::error::Error;
use serde_json::{Map, Value};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The longest duration of an option, 100 years in seconds: no sum of durations overflows a clock.
pub(crate) const LONGEST_SECONDS: u64 = 3_155_760_000;
/// [`LONGEST_SECONDS`] as a `Duration`.
pub(crate) const LONGEST: Duration = Duration::from_secs(LONGEST_SECONDS);
/// The range of a connection's timeouts.
pub(crate) const TIMEOUTS: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(86_400);
pub(crate) const CONNECTIONS: RangeInclusive<usize> = 1..=65_536;
pub(crate) const LOG_CAPACITY: RangeInclusive<usize> = 1..=1_000_000;
pub(crate) const LOG_BYTES: RangeInclusive<usize> = 128 * KIB..=1024 * MIB;

/// The request line and the headers together; hyper answers 431 beyond it.
pub(crate) const HEAD_BYTES: usize = 64 * KIB;
/// The body of a request; 413 beyond it.
pub(crate) const BODY_BYTES: usize = MIB;
/// The bytes of an id in a path.
pub(crate) const PATH_ID_BYTES: usize = 256;

/// The bytes that a record keeps of a request's method, path, query, headers, JWT and body.
pub(crate) const RECORDED_METHOD: usize = 32;
pub(crate) const RECORDED_PATH: usize = 2 * KIB;
pub(crate) const RECORDED_QUERY: usize = 8 * KIB;
pub(crate) const RECORDED_HEADERS: usize = 16 * KIB;
pub(crate) const RECORDED_JWT: usize = 16 * KIB;
pub(crate) const RECORDED_BODY: usize = 32 * KIB;
/// The bytes of requests in one response to `GET /_mock/requests`; each record is smaller.
pub(crate) const REQUESTS_ANSWERED: usize = MIB;
/// The violations of one request that are listed.
pub(crate) const VIOLATIONS_OF_A_REQUEST: usize = 100;
/// The faults of one request that its record names.
pub(crate) const FAULTS_OF_A_REQUEST: usize = 20;
/// The maximum length of a fault's name.
pub(crate) const FAULT_NAME: usize = 80;

/// Planned faults, through the control endpoint.
pub(crate) const FAULTS: usize = 1_000;
/// The bytes of planned faults: the values, texts and headers of their responses.
pub(crate) const FAULT_BYTES: usize = 16 * MIB;
pub(crate) const CODES: usize = 100_000;
pub(crate) const DEVICES: usize = 100_000;
pub(crate) const TICKETS: usize = 10_000;
pub(crate) const TICKET_BYTES: usize = 16 * MIB;
pub(crate) const ACCESS_TOKENS: usize = 1_000_000;
/// Bytes of the properties of access tokens: names, scopes, session contexts.
pub(crate) const ACCESS_TOKEN_BYTES: usize = 64 * MIB;
pub(crate) const SIGN_INS: usize = 200_000;
/// The refresh tokens of all sign-ins together.
pub(crate) const GENERATIONS: usize = 1_000_000;
/// The refresh tokens of one sign-in.
pub(crate) const GENERATIONS_OF_A_SIGN_IN: usize = 100_000;
/// Recorded reuses of one redeemed refresh token.
pub(crate) const REUSES: usize = 1_000;
/// Conversations, and the bytes of all together.
pub(crate) const CONVERSATIONS: usize = 100_000;
pub(crate) const CONVERSATION_BYTES: usize = 64 * MIB;
/// The messages and the chats of one conversation.
pub(crate) const MESSAGES_OF_A_CONVERSATION: usize = 10_000;
pub(crate) const CHATS_OF_A_CONVERSATION: usize = 1_000;
/// Remembered JWT ids. A JWT may be valid for decades; beyond this number, those that expire first are dropped.
pub(crate) const SEEN_JWTS: usize = 1_000_000;

/// Checks that an option is within its limits.
pub(crate) fn check<T: PartialOrd + Display>(
    option: &'static str,
    value: T,
    limits: &RangeInclusive<T>,
) -> Result<(), Error> {
    if limits.contains(&value) {
        return Ok(());
    }
    let (least, most) = (limits.start(), limits.end());
    Err(Error::Option {
        option,
        problem: format!("{value} is outside {least} to {most}"),
    })
}

/// Checks that a duration option is at most [`LONGEST`].
pub(crate) fn check_time(option: &'static str, value: Duration) -> Result<(), Error> {
    if value <= LONGEST {
        return Ok(());
    }
    let seconds = value.as_secs();
    Err(Error::Option {
        option,
        problem: format!("{seconds} seconds is outside 0 to {LONGEST_SECONDS} (100 years)"),
    })
}

/// Checks that a timeout option is within [`TIMEOUTS`].
pub(crate) fn check_timeout(option: &'static str, value: Duration) -> Result<(), Error> {
    if TIMEOUTS.contains(&value) {
        return Ok(());
    }
    let (least, most) = (TIMEOUTS.start(), TIMEOUTS.end());
    Err(Error::Option {
        option,
        problem: format!("{value:?} is outside {least:?} to {most:?}"),
    })
}

/// The approximate memory of a JSON value.
pub(crate) fn bytes_of(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(|item| 32 + bytes_of(item)).sum(),
        Value::Object(fields) => bytes_of_fields(fields),
    }
}

pub(crate) fn bytes_of_fields(fields: &Map<String, Value>) -> usize {
    let field = |(name, value): (&String, &Value)| 64 + name.len() + bytes_of(value);
    fields.iter().map(field).sum()
}
