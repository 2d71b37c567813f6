//! The write-ahead intent: before an owner sends a refresh token, it writes into the record that the token may have
//! been redeemed.
//!
//! It is also a preflight write: it shows that the successor can be saved and reserves space for it. Other owners learn
//! from it whose successor may still arrive. All times are durations that are reduced by the record's age, which the
//! store measures; no local clock is involved.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::record::millis;
use crate::store::Owner;

/// A record with an intent is padded by this many bytes, so that its successor fits even if the store is full by then.
pub(super) const PADDING: usize = 256;
/// How long after the end of its lock an owner may still save: it retries a failed save in the background.
const COUNTS: Duration = Duration::from_secs(3600);
/// The maximum number of intents in a record; those with the longest remaining time are kept.
const MOST: usize = 4;

/// One owner may have redeemed the refresh token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Intent {
    /// The owner's id.
    pub(super) owner: String,
    /// The owner's name, for messages.
    #[serde(default)]
    pub(super) name: String,
    /// The fingerprint of the refresh token.
    refresh_token: String,
    /// The remaining TTL of its lock, at the write.
    hold_ms: u64,
    /// How long after the write it may still save.
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

    /// The remaining TTL of its lock at this age of the record. An unknown age counts as zero.
    pub(super) fn holds(&self, age: Option<Duration>) -> Duration {
        Duration::from_millis(self.hold_ms).saturating_sub(age.unwrap_or_default())
    }

    /// Whether its owner may still save at this age of the record. An unknown age counts as zero.
    pub(super) fn counts(&self, age: Option<Duration>) -> bool {
        Duration::from_millis(self.counts_ms) > age.unwrap_or_default()
    }
}

/// The intents that the next record keeps: those for its refresh token, reduced by the age. An unknown age counts as
/// zero.
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

/// Adds an owner's intent, or replaces its previous one.
pub(super) fn renew(intents: &mut Vec<Intent>, own: Intent) {
    intents.retain(|intent| intent.owner != own.owner);
    intents.sort_by_key(|intent| std::cmp::Reverse(intent.counts_ms));
    intents.truncate(MOST - 1);
    intents.push(own);
}
