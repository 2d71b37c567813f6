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
    /// Redis said no.
    Refused(Refusal),
    /// An answer that no script of ours gives.
    Unexpected,
}

/// What Redis said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// One of the [`KNOWN`] causes.
    Known(&'static Known),
    /// Another one, of which only the word is shown.
    Unknown(Option<String>),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Redis's word at the beginning of its answer, or what an older version says in the middle of it.
    signs: &'static [&'static str],
    cause: &'static str,
    kind: StoreErrorKind,
    /// Another connection may lead to a server where it works.
    elsewhere: bool,
}

const fn known(signs: &'static [&'static str], kind: StoreErrorKind, cause: &'static str) -> Known {
    Known {
        signs,
        cause,
        kind,
        elsewhere: false,
    }
}

const fn elsewhere(
    signs: &'static [&'static str],
    kind: StoreErrorKind,
    cause: &'static str,
) -> Known {
    Known {
        elsewhere: true,
        ..known(signs, kind, cause)
    }
}

static KNOWN: &[Known] = &[
    known(&["OOM"], Full, "it is out of memory (OOM)"),
    elsewhere(
        &["READONLY"],
        Transient,
        "it is a read-only replica (READONLY)",
    ),
    known(&["MISCONF"], Other, "it can't write to its disk (MISCONF)"),
    known(
        &["NOREPLICAS"],
        Transient,
        "too few replicas follow it (NOREPLICAS)",
    ),
    known(
        &[
            "NOPERM",
            "ACL failure",
            "can't run this command",
            "can't access",
        ],
        NotPermitted,
        "its user lacks a permission (NOPERM)",
    ),
    elsewhere(&["NOAUTH"], NotPermitted, "it requires a password (NOAUTH)"),
    elsewhere(&["LOADING"], Transient, "it is loading its data (LOADING)"),
    known(&["BUSY"], Busy, "a script keeps it busy (BUSY)"),
    elsewhere(
        &["MASTERDOWN"],
        Transient,
        "it is a replica without its primary (MASTERDOWN)",
    ),
    known(
        &["MOVED", "ASK", "CLUSTERDOWN", "CROSSSLOT"],
        Other,
        "it is a node of a cluster, and the key is on another (MOVED)",
    ),
    known(
        &["WRONGTYPE"],
        Other,
        "something else has put a key of another type there (WRONGTYPE)",
    ),
];

impl Refusal {
    fn of(error: &RedisError) -> Self {
        let (code, detail) = (
            error.code().unwrap_or_default(),
            error.detail().unwrap_or_default(),
        );
        let is_said = |sign: &&str| code == *sign || says(detail, sign);
        KNOWN
            .iter()
            .find(|known| known.signs.iter().any(is_said))
            .map_or_else(|| Self::Unknown(word(code)), Self::Known)
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
            redis::ErrorKind::Server(_) | redis::ErrorKind::Extension => {
                Self::Refused(Refusal::of(error))
            }
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
            Self::Refused(Refusal::Known(known)) => known.kind,
            Self::NoRuntime | Self::Refused(Refusal::Unknown(_)) | Self::Unexpected => Other,
        }
    }

    /// Whether the connection is not to be used again.
    pub(super) fn spoils_connection(&self) -> bool {
        match self {
            Self::Refused(Refusal::Known(known)) => known.elsewhere,
            Self::Refused(Refusal::Unknown(_)) | Self::NoRuntime => false,
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
            Self::Refused(Refusal::Known(known)) => f.write_str(known.cause),
            Self::Refused(Refusal::Unknown(Some(word))) => write!(f, "it answered {word}"),
            Self::Refused(Refusal::Unknown(None)) => f.write_str("it answered with an error"),
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
