//! Failures of Redis operations, without secrets.
//!
//! Error texts of Redis and of the redis crate may quote the command. So only a known cause that is recognized in them is shown.

use std::{fmt, io, time::Duration};

use coze_auth::store::StoreErrorKind::{self, Busy, Full, NotPermitted, Other, Transient};
use redis::RedisError;

/// Why an operation failed. After `SlowAnswer` and `Broken`, Redis may have executed the command.
#[derive(Debug)]
pub(super) enum Failure {
    /// The caller is not in a tokio runtime.
    NoRuntime,
    /// Connecting failed: refused, unknown host, untrusted certificate.
    Unconnected(io::Error),
    /// Connecting timed out.
    SlowConnection(Duration),
    /// The response timed out. Redis may still execute the command later.
    SlowAnswer(Duration),
    /// The connection was interrupted.
    Broken,
    /// The user name or the password is wrong.
    Unauthenticated,
    /// Redis returned a known error.
    Refused(&'static Refusal),
    /// Redis returned another error, of which only the code is shown.
    Unknown(Option<String>),
    /// A response that the scripts never return.
    Unexpected,
}

/// A known error of Redis.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Redis's error codes, or phrases in the error texts of older versions, separated by bars.
    signs: &'static str,
    kind: StoreErrorKind,
    cause: &'static str,
}

const fn refusal(signs: &'static str, kind: StoreErrorKind, cause: &'static str) -> Refusal {
    Refusal { signs, kind, cause }
}

static REFUSALS: &[Refusal] = &[
    refusal("OOM", Full, "it is out of memory (OOM)"),
    refusal(
        "READONLY",
        Transient,
        "it is a read-only replica (READONLY)",
    ),
    refusal("MISCONF", Other, "it can't write to its disk (MISCONF)"),
    refusal(
        "NOREPLICAS",
        Transient,
        "too few replicas follow it (NOREPLICAS)",
    ),
    refusal(
        "NOPERM|ACL failure|can't run this command|can't access",
        NotPermitted,
        "its user lacks a permission (NOPERM)",
    ),
    refusal("NOAUTH", NotPermitted, "it requires a password (NOAUTH)"),
    refusal("LOADING", Transient, "it is loading its data (LOADING)"),
    refusal(
        "max number of clients",
        Transient,
        "too many clients are connected to it",
    ),
    refusal("BUSY", Busy, "a script keeps it busy (BUSY)"),
    refusal(
        "MASTERDOWN",
        Transient,
        "it is a replica without its primary (MASTERDOWN)",
    ),
    refusal(
        "MOVED|ASK|CLUSTERDOWN|CROSSSLOT",
        Other,
        "it is a node of a cluster, and the key is on another (MOVED)",
    ),
    refusal(
        "WRONGTYPE",
        Other,
        "another program has stored a key of another type there (WRONGTYPE)",
    ),
];

/// After these errors, a new connection may lead to another server, which accepts the command.
const ELSEWHERE: [&str; 5] = [
    "READONLY",
    "NOAUTH",
    "LOADING",
    "MASTERDOWN",
    "max number of clients",
];

impl Failure {
    fn refused(error: &RedisError) -> Self {
        let code = error.code().unwrap_or_default();
        let detail = error.detail().unwrap_or_default();
        let is_said = |sign: &str| code == sign || says(detail, sign);
        let known = REFUSALS
            .iter()
            .find(|refusal| refusal.signs.split('|').any(is_said));
        known.map_or_else(|| Self::Unknown(word(code)), Self::Refused)
    }
}

/// Whether the text contains the sign, at word boundaries.
fn says(text: &str, sign: &str) -> bool {
    text.match_indices(sign).any(|(at, _)| {
        let is_part = |c: char| c.is_ascii_alphanumeric();
        !text[..at].ends_with(is_part) && !text[at + sign.len()..].starts_with(is_part)
    })
}

/// The code, if it has the form of one: short, and in capitals.
fn word(code: &str) -> Option<String> {
    let is_word = !code.is_empty() && code.len() <= 20;
    (is_word && code.bytes().all(|byte| byte.is_ascii_uppercase())).then(|| code.to_owned())
}

impl Failure {
    pub(super) fn of(error: &RedisError) -> Self {
        match error.kind() {
            redis::ErrorKind::Io => Self::Broken,
            redis::ErrorKind::Server(_) | redis::ErrorKind::Extension => Self::refused(error),
            _ => Self::Unexpected,
        }
    }

    /// The same for a login, which Redis refuses in words that differ between its versions.
    pub(super) fn of_login(error: &RedisError) -> Self {
        match Self::of(error) {
            Self::Unknown(_) => Self::Unauthenticated,
            known => known,
        }
    }

    pub(super) fn kind(&self) -> StoreErrorKind {
        match self {
            // An untrusted certificate.
            Self::Unconnected(error) if error.kind() == io::ErrorKind::InvalidData => Other,
            Self::Unconnected(_) | Self::SlowConnection(_) | Self::SlowAnswer(_) | Self::Broken => {
                Transient
            }
            Self::Unauthenticated => NotPermitted,
            Self::Refused(refusal) => refusal.kind,
            Self::NoRuntime | Self::Unknown(_) | Self::Unexpected => Other,
        }
    }

    /// Whether the connection must not be used again.
    pub(super) fn spoils_connection(&self) -> bool {
        match self {
            Self::Refused(refusal) => ELSEWHERE.contains(&refusal.signs),
            Self::Unknown(_) | Self::NoRuntime => false,
            _ => true,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRuntime => f.write_str("there is no tokio runtime"),
            Self::Unconnected(error) => write!(f, "no connection: {error}"),
            Self::SlowConnection(limit) => write!(f, "no connection within {limit:?}"),
            Self::SlowAnswer(limit) => write!(f, "no answer within {limit:?}"),
            Self::Broken => f.write_str("the connection was interrupted"),
            Self::Unauthenticated => f.write_str("it refused the user name or the password"),
            Self::Refused(refusal) => f.write_str(refusal.cause),
            Self::Unknown(Some(code)) => write!(f, "it answered {code}"),
            Self::Unknown(None) => f.write_str("it answered with an error"),
            Self::Unexpected => f.write_str("it returned an unexpected response"),
        }
    }
}

#[cfg(test)]
mod tests {
    use redis::{ServerErrorKind, make_extension_error};

    use super::*;

    #[test]
    fn an_error_names_the_cause_and_quotes_nothing() {
        for (code, detail, cause) in [
            (
                "OOM",
                "command not allowed hush",
                "it is out of memory (OOM)",
            ),
            (
                "ERR",
                "Error running script: -OOM command not allowed hush",
                "it is out of memory (OOM)",
            ),
            ("MISCONF", "hush", "it can't write to its disk (MISCONF)"),
            (
                "ERR",
                "The user executing the script can't run this command or subcommand hush",
                "its user lacks a permission (NOPERM)",
            ),
            ("ERR", "no ROOM left, hush", "it answered ERR"),
            ("NEWWORD", "hush", "it answered NEWWORD"),
            ("hush", "hush", "it answered with an error"),
        ] {
            let error = make_extension_error(code.to_owned(), Some(detail.to_owned()));
            assert_eq!(Failure::of(&error).to_string(), cause, "{code} {detail}");
        }
    }

    #[test]
    fn after_a_failover_another_connection_is_tried() {
        let read_only = RedisError::from((ServerErrorKind::ReadOnly.into(), "READONLY"));
        assert!(Failure::of(&read_only).spoils_connection());
        let no_permission = RedisError::from((ServerErrorKind::NoPerm.into(), "NOPERM"));
        assert!(!Failure::of(&no_permission).spoils_connection());
    }
}
