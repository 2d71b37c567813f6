//! Where records are kept that were replaced, or came too late: nothing that may hold a live refresh token is thrown away.
//!
//! Each profile has eight slots with fixed names, so they are found without listing the store.

use tokio::time::Instant;

use super::{
    SignIn,
    record::{Entry, Record, hash},
};
use crate::store::{CompareAndSet, Contents, Key, StoreError, StoreErrorKind};

/// How often a slot may be taken by somebody else before this gives up.
const MOST_TRIES: usize = 16;

impl SignIn {
    /// Keeps a record, unless a slot holds its refresh token already.
    pub(super) async fn quarantine(
        &self,
        record: &Record,
        until: Instant,
    ) -> Result<(), StoreError> {
        let write = record.quarantined().write(0)?;
        self.quarantine_contents(record.fingerprint(), &write.contents, until)
            .await
    }

    /// Keeps contents, unless a slot holds the same: records are told apart by their refresh token, and what can't be read by
    /// the hash of its bytes.
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
                // The first free one, else the oldest of those whose refresh token is surely not needed any more, else the oldest.
                let mut preference = (true, true, true, None);
                let mut version = None;
                if let Some((entry, stored)) = slot {
                    let (held, is_expendable) = match &entry {
                        Entry::Record(record) => (record.fingerprint(), record.ended().is_some()),
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
            // Of several free ones, the first.
            let chosen = slots.iter().rev().max_by_key(|(preference, ..)| preference);
            let Some((_, key, version)) = chosen else {
                break;
            };
            // If the answer was lost, the next round finds the fingerprint.
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

    /// Deletes what is in quarantine: all of it, or what belongs to these sign-ins.
    pub(super) async fn sweep(
        &self,
        of: Option<&[String]>,
        until: Instant,
    ) -> Result<(), StoreError> {
        for key in Key::quarantine_slots(self.profile()) {
            while let Some((entry, stored)) = self.look_at(&key, until).await? {
                let goes = match (of, &entry) {
                    (None, _) => true,
                    (Some(ids), Entry::Record(record)) => ids.contains(&record.sign_in),
                    (Some(_), _) => false,
                };
                let version = Some(&stored.version);
                if !goes
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
