//! Why an operation in Redis failed, in words that hold no secret.
//!
//! The texts of Redis and of its crate may quote what was sent, so they are not shown: only the cause that is recognised in them.

use std::{fmt, io, time::Duration};

use coze_auth::store::StoreErrorKind::{self, Busy, Full, NotPermitted, Other, Transient};
use redis::RedisError;

/// Why an operation failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no tokio runtime to run it in.
    NoRuntime,
    /// No connection: refused, no such host, a certificate that is not trusted.
    Unconnected(io::Error),
    /// No connection in this time.
    SlowConnection(Duration),
    /// No answer in this time; Redis may have done it, or may still do it.
    SlowAnswer(Duration),
    /// The connection broke; Redis may have done it.
    Broken,
    /// The user or the password is wrong.
    Unauthenticated,
    /// Redis refused it, for a known reason.
    Refused(&'static Refusal),
    /// Redis refused it, for another reason, of which only the code is shown.
    Unknown(Option<String>),
    /// An answer that no script of ours gives.
    Unexpected,
}

/// Why Redis refused a command.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Redis's code at the beginning of its answer, or what an older version says in the middle of it; several are separated
    /// by bars.
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
        "something else has put a key of another type there (WRONGTYPE)",
    ),
];

/// Another connection may lead to a server that does not refuse so.
const ELSEWHERE: [&str; 4] = ["READONLY", "NOAUTH", "LOADING", "MASTERDOWN"];

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

/// Whether it is in the text as a word of its own.
fn says(text: &str, sign: &str) -> bool {
    text.match_indices(sign).any(|(at, _)| {
        let is_part = |c: char| c.is_ascii_alphanumeric();
        !text[..at].ends_with(is_part) && !text[at + sign.len()..].starts_with(is_part)
    })
}

/// Redis's words are short, and in capitals.
fn word(code: &str) -> Option<String> {
    let is_word = !code.is_empty() && code.len() <= 20;
    (is_word && code.bytes().all(|byte| byte.is_ascii_uppercase())).then(|| code.to_owned())
}

impl Failure {
    pub(super) fn of(error: &RedisError) -> Self {
        match error.kind() {
            redis::ErrorKind::AuthenticationFailed => Self::Unauthenticated,
            redis::ErrorKind::Io => Self::Broken,
            redis::ErrorKind::Server(_) | redis::ErrorKind::Extension => Self::refused(error),
            _ => Self::Unexpected,
        }
    }

    pub(super) fn kind(&self) -> StoreErrorKind {
        match self {
            // A certificate that is not trusted.
            Self::Unconnected(error) if error.kind() == io::ErrorKind::InvalidData => Other,
            Self::Unconnected(_) | Self::SlowConnection(_) | Self::SlowAnswer(_) | Self::Broken => {
                Transient
            }
            Self::Unauthenticated => NotPermitted,
            Self::Refused(refusal) => refusal.kind,
            Self::NoRuntime | Self::Unknown(_) | Self::Unexpected => Other,
        }
    }

    /// Whether the connection is not to be used again.
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
            Self::Broken => f.write_str("the connection broke off"),
            Self::Unauthenticated => f.write_str("it refused the user name or the password"),
            Self::Refused(refusal) => f.write_str(refusal.cause),
            Self::Unknown(Some(code)) => write!(f, "it answered {code}"),
            Self::Unknown(None) => f.write_str("it answered with an error"),
            Self::Unexpected => f.write_str("it gave an answer that can't be understood"),
        }
    }
}

#[cfg(test)]
mod tests {
    use redis::{ServerErrorKind, make_extension_error};

    use super::*;

    #[test]
    fn the_cause_is_told_and_nothing_is_quoted() {
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
