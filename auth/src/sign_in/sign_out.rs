//! Signing out.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

use tokio::time::Instant;

use super::{
    Changed, LONGEST_CHANGE, SignIn, changing,
    record::{Entry, Tombstone},
};
use crate::{Result, store::StoreError};

impl SignIn {
    /// Signs the user out: deletes the tokens from the store, including those in quarantine. Coze has no endpoint to
    /// revoke tokens, so they stay valid until they expire. Providers that were built with this handle or a clone of it
    /// serve them no longer.
    ///
    /// A refresh in flight does not restore the sign-in. A sign-in that another process puts at the same time stays.
    ///
    /// # Errors
    ///
    /// Those of the store; [`Busy`](crate::store::StoreErrorKind::Busy) when each attempt conflicted with another
    /// write.
    pub async fn sign_out(&self) -> Result<()> {
        let until = Instant::now() + LONGEST_CHANGE;
        let changed = Changed::of(self);
        changed.writes();
        let (ends, has_written) = (OnceLock::new(), AtomicBool::new(false));
        changing(until, || self.try_sign_out(&ends, &has_written, until)).await?;
        // Discard an unsaved successor of the ended sign-in, so that it is not served.
        let _ = self.save_unsaved(None, until).await;
        Ok(())
    }

    /// `ends` is the sign-in to end: that of the first load of any attempt, or `None` if that found none.
    async fn try_sign_out(
        &self,
        ends: &OnceLock<Option<String>>,
        has_written: &AtomicBool,
        until: Instant,
    ) -> Result<Option<()>, StoreError> {
        let now = self.look(until).await?;
        let loaded = match &now {
            Some((Entry::Record(record), _)) => Some(&record.sign_in),
            _ => None,
        };
        let ends = ends.get_or_init(|| loaded.cloned());
        let has_written = has_written.swap(true, Ordering::Relaxed);
        match &now {
            // From an earlier attempt whose response was lost, or from another sign-out.
            Some((Entry::Tombstone(_), _)) if has_written => {}
            // Another sign-in was put between two attempts. It stays; the quarantined records of the ended one are
            // deleted.
            Some((Entry::Record(record), _)) if ends.as_ref() != Some(&record.sign_in) => {
                let ended = ends.as_slice();
                return self.sweep(Some(ended), until).await.map(Some);
            }
            _ => {
                let ids = now.as_ref().map(|(entry, _)| entry.ids());
                let write = Tombstone::ending(ids.unwrap_or_default())?.write()?;
                let expected = now.as_ref().map(|(_, stored)| &stored.version);
                if self.write(expected, &write, until).await?.is_none() {
                    return Ok(None);
                }
            }
        }
        self.sweep(None, until).await.map(Some)
    }
}
