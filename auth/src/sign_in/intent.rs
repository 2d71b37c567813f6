//! "This refresh token may have been redeemed": what an owner writes into the record before it sends one.
//!
//! It proves that the save can be written, it makes room for it, and it tells others whose successor may still come. Times are durations,
//! counted by the store's age of the record, never by a local clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::record::millis;
use crate::store::Owner;

/// The record grows by this much with an intent, so that its successor fits where a store is full.
pub(super) const PADDING: usize = 256;
/// How long after its lock an owner counts that may hold an unsaved successor: it goes on trying to save.
const COUNTS: Duration = Duration::from_secs(3600);
/// So many intents are kept; those that count longest.
const MOST: usize = 4;

/// What one owner may have done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Intent {
    /// The owner's id.
    pub(super) owner: String,
    /// Its name, for people.
    #[serde(default)]
    pub(super) name: String,
    /// The fingerprint of the refresh token.
    refresh_token: String,
    /// What remains of its lock.
    hold_ms: u64,
    /// How long its save may still come.
    counts_ms: u64,
}

impl Intent {
    pub(super) fn new(owner: &Owner, refresh_token: String, hold: Duration) -> Self {
        Self {
            owner: owner.id().to_owned(),
            name: owner.name().to_owned(),
            refresh_token,
            hold_ms: millis(hold),
            counts_ms: millis(hold.saturating_add(COUNTS)),
        }
    }

    /// What remains of its lock, this long after it was written. Of an unknown age, all of it.
    pub(super) fn holds(&self, age: Option<Duration>) -> Duration {
        Duration::from_millis(self.hold_ms).saturating_sub(age.unwrap_or_default())
    }

    /// Whether its owner may still save, this long after it was written.
    pub(super) fn counts(&self, age: Option<Duration>) -> bool {
        Duration::from_millis(self.counts_ms) > age.unwrap_or_default()
    }
}

/// What the next record carries over: the intents for its refresh token, reduced by the age. An unknown age reduces none.
pub(super) fn carried_over(
    intents: &[Intent],
    refresh_token: &str,
    age: Option<Duration>,
) -> Vec<Intent> {
    let reduced = |left: u64| left.saturating_sub(millis(age.unwrap_or_default()));
    let ours = intents
        .iter()
        .filter(|intent| intent.refresh_token == refresh_token && intent.counts(age));
    ours.map(|intent| Intent {
        hold_ms: reduced(intent.hold_ms),
        counts_ms: reduced(intent.counts_ms),
        ..intent.clone()
    })
    .collect()
}

/// Removes an owner's intent.
pub(super) fn withdraw(intents: &mut Vec<Intent>, owner: &Owner) {
    intents.retain(|intent| intent.owner != owner.id());
}

/// Adds an owner's intent in place of its former one.
pub(super) fn renew(intents: &mut Vec<Intent>, own: Intent) {
    intents.retain(|intent| intent.owner != own.owner);
    intents.sort_by_key(|intent| std::cmp::Reverse(intent.counts_ms));
    intents.truncate(MOST - 1);
    intents.push(own);
}
