//! Counts, in the order of their names, and the middle of a list.

use std::collections::BTreeMap;

use coze_auth::Error;

/// How often each thing happened.
pub(crate) type Tally = BTreeMap<String, u64>;

pub(crate) fn count(tally: &mut Tally, what: impl Into<String>) {
    *tally.entry(what.into()).or_default() += 1;
}

pub(crate) fn add(tally: &mut Tally, more: &Tally) {
    for (what, times) in more {
        *tally.entry(what.clone()).or_default() += times;
    }
}

/// The kind and Coze's word: an error in short.
pub(crate) fn label(error: &Error) -> String {
    match error.code() {
        Some(code) => format!("{:?} {code}", error.kind()),
        None => format!("{:?}", error.kind()),
    }
}

/// The value that this share of all are below.
pub(crate) fn quantile<T: Copy + Ord>(values: &[T], share: f64) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().checked_sub(1)?;
    let at = (last as f64 * share).round() as usize;
    sorted.get(at).copied()
}
