//! The quarantine keeps replaced records and late successors, because they may hold a live refresh token.
//!
//! Each profile has eight slots with fixed names, so they are found without listing the store.

use tokio::time::Instant;

use super::{
    SignIn,
    record::{Entry, Record, hash},
};
use crate::store::{CompareAndSet, Contents, Key, StoreError, StoreErrorKind};

/// The maximum number of conflicts with other writers.
const MOST_TRIES: usize = 16;

impl SignIn {
    /// Moves a record into quarantine, unless a slot holds its refresh token already.
    pub(super) async fn quarantine(
        &self,
        record: &Record,
        until: Instant,
    ) -> Result<(), StoreError> {
        let write = record.quarantined().write(0)?;
        self.quarantine_contents(record.fingerprint(), &write.contents, until)
            .await
    }

    /// Moves contents into quarantine, unless a slot holds the same: records are compared by their refresh token,
    /// unreadable contents by their hash.
    pub(super) async fn quarantine_contents(
        &self,
        fingerprint: String,
        contents: &Contents,
        until: Instant,
    ) -> Result<(), StoreError> {
        for _ in 0..MOST_TRIES {
            let mut slots = Vec::new();
            for key in Key::quarantine_slots(self.profile()) {
                let slot = self.look_at(&key, until).await?;
                // The first free slot; else the oldest whose sign-in has ended or that can't be read; else the oldest.
                let mut preference = (true, true, true, None);
                let mut version = None;
                if let Some((entry, stored)) = slot {
                    let (held, is_expendable) = match &entry {
                        Entry::Record(record) => (record.fingerprint(), record.has_ended()),
                        _ => (hash(stored.contents.expose()), true),
                    };
                    if held == fingerprint {
                        return Ok(());
                    }
                    preference = (false, is_expendable, stored.age.is_none(), stored.age);
                    version = Some(stored.version);
                }
                slots.push((preference, key, version));
            }
            // `max_by_key` returns the last maximum: reversed, the first free slot.
            let chosen = slots.iter().rev().max_by_key(|(preference, ..)| preference);
            let Some((_, key, version)) = chosen else {
                break;
            };
            // If the response is lost, the caller retries, and the fingerprint is found.
            let new = Some(contents);
            match self.change(key, version.as_ref(), new, until).await? {
                CompareAndSet::Done(_) => return Ok(()),
                CompareAndSet::Conflict => {}
            }
        }
        Err(StoreError::new(
            StoreErrorKind::Busy,
            "the quarantine changes faster than it can be written",
        ))
    }

    /// Deletes the quarantine: all of it, or the records of these sign-ins.
    pub(super) async fn sweep(
        &self,
        of: Option<&[String]>,
        until: Instant,
    ) -> Result<(), StoreError> {
        for key in Key::quarantine_slots(self.profile()) {
            while let Some((entry, stored)) = self.look_at(&key, until).await? {
                let is_deleted = match (of, &entry) {
                    (None, _) => true,
                    (Some(ids), Entry::Record(record)) => ids.contains(&record.sign_in),
                    (Some(_), _) => false,
                };
                let version = Some(&stored.version);
                if !is_deleted
                    || self.change(&key, version, None, until).await? != CompareAndSet::Conflict
                {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The records in quarantine that can be read.
    pub(super) async fn in_quarantine(&self, until: Instant) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        for key in Key::quarantine_slots(self.profile()) {
            if let Some((Entry::Record(record), _)) = self.look_at(&key, until).await? {
                records.push(*record);
            }
        }
        Ok(records)
    }
}
