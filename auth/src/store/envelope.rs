//! What a file or a keyring holds: a record, and when it was written.
//!
//! ```json
//! {
//!   "saved_at_ms": 1800000000000,
//!   "record": {"version":1,"access_token":"…","refresh_token":"…"}
//! }
//! ```
//!
//! The record has the version. What else a later version of this crate adds to the envelope belongs to one writing
//! of the file, so it is not kept; fields of the record are.

use std::{
    fmt::Display,
    io::Write,
    time::{Duration, Instant, SystemTime},
};

use serde::Deserialize;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::{Record, record::what_is_wrong};
use crate::{Error, ErrorKind, Result};

/// A record as it is held.
pub(super) struct Kept {
    pub(super) record: Record,
    /// By the store's clock.
    pub(super) saved_at: SystemTime,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    saved_at_ms: u64,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// More than the envelope adds to a record.
const ENVELOPE: usize = 128;

/// What holds this record. `json` is the record's.
pub(super) fn sealed(json: &str, saved_at: SystemTime) -> Zeroizing<Vec<u8>> {
    let mut content = Zeroizing::new(Vec::with_capacity(json.len() + ENVELOPE));
    let saved_at_ms = since_epoch(saved_at).as_millis();
    // Writing to memory can't fail.
    let _ = write!(
        *content,
        "{{\n  \"saved_at_ms\": {saved_at_ms},\n  \"record\": {json}\n}}\n"
    );
    content
}

/// What was held there. An error quotes nothing of it.
pub(super) fn opened(place: impl Display, content: &[u8]) -> Result<Kept> {
    let damaged = |what: &str| Error::new(ErrorKind::StoreDamaged, format!("{place}: {what}"));
    let envelope: Envelope<'_> = serde_json::from_slice(content).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let wrong = what_is_wrong(&error);
        damaged(&format!(
            "what is stored is not a sign-in: {wrong} at line {line}, column {column}"
        ))
    })?;
    let record = Record::from_json(envelope.record.get().as_bytes())
        .map_err(|error| damaged(error.what()))?;
    let saved_at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(envelope.saved_at_ms));
    Ok(Kept {
        record,
        saved_at: saved_at.unwrap_or(SystemTime::UNIX_EPOCH),
    })
}

/// How old a record is. One of a later time is of unknown age, as the clock was set back since.
pub(super) fn age(saved_at: SystemTime, now: SystemTime) -> Duration {
    match now.duration_since(saved_at) {
        Err(later) if later.duration() > UNEVEN => Duration::MAX,
        age => age.unwrap_or_default(),
    }
}

/// By so much a clock may go back without having been set: it is coarse, or is being corrected.
pub(super) const UNEVEN: Duration = Duration::from_secs(2);

/// When the store was asked to write what it writes now. What is left of a token's life was measured then, and the
/// store may have waited for its turn since.
pub(super) fn asked_at(asked: Instant, now: SystemTime) -> SystemTime {
    now.checked_sub(asked.elapsed()).unwrap_or(now)
}

pub(super) fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}
