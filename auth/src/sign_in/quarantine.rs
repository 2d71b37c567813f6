//! Where records are kept that were replaced, or came too late: nothing that may hold a live refresh token is thrown away.
//!
//! Each profile has eight slots with fixed names, so they are found without listing the store.

use tokio::time::Instant;

use super::{
    SignIn,
    record::{Entry, Record, hash},
};
use crate::store::{CompareAndSet, Contents, Key, StoreError, StoreErrorKind, Stored};

/// How often a slot may be taken by somebody else before this gives up.
const MOST_TRIES: usize = 16;

/// What a slot holds.
struct Slot {
    key: Key,
    stored: Stored,
    entry: Entry,
}

impl Slot {
    /// Tells records apart by their refresh token, and what can't be read by its bytes.
    fn fingerprint(&self) -> String {
        match &self.entry {
            Entry::Record(record) => record.fingerprint(),
            Entry::Tombstone(_) | Entry::Damaged(_) => hash(self.stored.contents.expose()),
        }
    }

    /// Whether its refresh token is surely not needed any more.
    fn is_expendable(&self) -> bool {
        match &self.entry {
            Entry::Record(record) => record.ended().is_some(),
            Entry::Tombstone(_) | Entry::Damaged(_) => true,
        }
    }
}

impl SignIn {
    /// Keeps a record, unless a slot holds its refresh token already.
    pub(super) async fn quarantine(
        &self,
        record: &Record,
        until: Instant,
    ) -> Result<(), StoreError> {
        let write = record.quarantined().write(0)?;
        self.put_in_slot(record.fingerprint(), &write.contents, until)
            .await
    }

    /// Keeps contents that can't be read, as they are.
    pub(super) async fn quarantine_damaged(
        &self,
        contents: &Contents,
        until: Instant,
    ) -> Result<(), StoreError> {
        self.put_in_slot(hash(contents.expose()), contents, until)
            .await
    }

    async fn put_in_slot(
        &self,
        fingerprint: String,
        contents: &Contents,
        until: Instant,
    ) -> Result<(), StoreError> {
        for _ in 0..MOST_TRIES {
            let mut free = None;
            let mut slots = Vec::new();
            for key in Key::quarantine_slots(self.profile()) {
                match self.slot(key, until).await? {
                    Ok(slot) if slot.fingerprint() == fingerprint => return Ok(()),
                    Ok(slot) => slots.push(slot),
                    Err(key) => free = free.or(Some(key)),
                }
            }
            let oldest = |slot: &&Slot| {
                (
                    slot.is_expendable(),
                    slot.stored.age.is_none(),
                    slot.stored.age,
                )
            };
            let (key, expected) = match (&free, slots.iter().max_by_key(oldest)) {
                (Some(key), _) => (key, None),
                (None, Some(slot)) => (&slot.key, Some(&slot.stored.version)),
                (None, None) => break,
            };
            // If the answer was lost, the next round finds the fingerprint.
            match self.change(key, expected, Some(contents), until).await? {
                CompareAndSet::Done(_) => return Ok(()),
                CompareAndSet::Conflict => {}
            }
        }
        Err(StoreError::new(
            StoreErrorKind::Busy,
            "the quarantine changes faster than it can be written",
        ))
    }

    /// A slot, or its key if it is free.
    async fn slot(&self, key: Key, until: Instant) -> Result<Result<Slot, Key>, StoreError> {
        Ok(match self.load_key(&key, until).await? {
            Some(stored) => Ok(Slot {
                key,
                entry: Entry::of(&stored.contents),
                stored,
            }),
            None => Err(key),
        })
    }

    /// Deletes what is in quarantine: all of it, or what belongs to these sign-ins.
    pub(super) async fn sweep(
        &self,
        of: Option<&[String]>,
        until: Instant,
    ) -> Result<(), StoreError> {
        for key in Key::quarantine_slots(self.profile()) {
            while let Ok(slot) = self.slot(key.clone(), until).await? {
                let goes = match (of, &slot.entry) {
                    (None, _) => true,
                    (Some(ids), Entry::Record(record)) => ids.contains(&record.sign_in),
                    (Some(_), _) => false,
                };
                if !goes
                    || self
                        .change(&key, Some(&slot.stored.version), None, until)
                        .await?
                        != CompareAndSet::Conflict
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
            if let Ok(Slot {
                entry: Entry::Record(record),
                ..
            }) = self.slot(key, until).await?
            {
                records.push(*record);
            }
        }
        Ok(records)
    }
}
