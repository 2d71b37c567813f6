//! Counters by name, names of errors, and quantiles.

use std::collections::BTreeMap;

use coze_auth::{Error, ErrorKind};

/// Counters by name.
pub(crate) type Tally = BTreeMap<String, u64>;

pub(crate) fn count(tally: &mut Tally, what: impl Into<String>) {
    *tally.entry(what.into()).or_default() += 1;
}

pub(crate) fn add(tally: &mut Tally, more: &Tally) {
    for (what, times) in more {
        *tally.entry(what.clone()).or_default() += times;
    }
}

/// The kind and error code of an error, marked if it is only a timeout.
pub(crate) fn label(error: &Error) -> String {
    match error.code() {
        Some(code) => format!("{:?} {code}", error.kind()),
        None if is_slow(error) => format!("{SLOW}{:?}", error.kind()),
        None => format!("{:?}", error.kind()),
    }
}

const SLOW: &str = "too slow: ";

/// Store errors are recognised as timeouts only by their messages.
pub(crate) fn is_slow(error: &Error) -> bool {
    let text = error.to_string();
    error.kind() == ErrorKind::Timeout
        || [
            "no answer within",
            "no connection within",
            "did not answer before the deadline",
            "did not answer in time",
            "faster than it can be",
            "for too long",
            "been changing the sign-in",
        ]
        .iter()
        .any(|words| text.contains(words))
}

/// The errors that count: without timeouts, if timing is tolerated.
pub(crate) fn counted(errors: &Tally, tolerate_timing: bool) -> Tally {
    let mut errors = errors.clone();
    errors.retain(|what, _| !tolerate_timing || !what.contains(SLOW));
    errors
}

/// The quantile of this share.
pub(crate) fn quantile<T: Copy + Ord>(values: &[T], share: f64) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().checked_sub(1)?;
    let at = (last as f64 * share).round() as usize;
    sorted.get(at).copied()
}
