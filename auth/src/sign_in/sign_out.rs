//! Signing out.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

use tokio::time::Instant;

use super::{
    LONGEST_CHANGE, SignIn, changing,
    record::{Entry, Tombstone},
};
use crate::{Result, store::StoreError};

impl SignIn {
    /// Signs the user out: deletes the tokens from the store, including those in quarantine. Coze has no endpoint to
    /// revoke tokens, so they stay valid until they expire.
    ///
    /// A refresh in flight does not restore the sign-in. A sign-in that another process puts at the same time stays.
    ///
    /// # Errors
    ///
    /// Those of the store; [`Busy`](crate::store::StoreErrorKind::Busy) when each attempt conflicted with another
    /// write.
    pub async fn sign_out(&self) -> Result<()> {
        let until = Instant::now() + LONGEST_CHANGE;
        let (ends, has_written) = (OnceLock::new(), AtomicBool::new(false));
        changing(until, || self.try_sign_out(&ends, &has_written, until)).await?;
        // Discard an unsaved successor of the ended sign-in, so that it is not served.
        let _ = self.save_unsaved(None, until).await;
        Ok(())
    }

    /// `ends` is the sign-in to end: the first one that any attempt has loaded.
    async fn try_sign_out(
        &self,
        ends: &OnceLock<String>,
        has_written: &AtomicBool,
        until: Instant,
    ) -> Result<Option<()>, StoreError> {
        let now = self.look(until).await?;
        let has_written = has_written.swap(true, Ordering::Relaxed);
        match &now {
            // From an earlier attempt whose response was lost, or from another sign-out.
            Some((Entry::Tombstone(_), _)) if has_written => {}
            // Another sign-in was put between two attempts. It stays; the quarantined records of the ended one are
            // deleted.
            Some((Entry::Record(record), _))
                if *ends.get_or_init(|| record.sign_in.clone()) != record.sign_in =>
            {
                let ended = ends.get().map(std::slice::from_ref);
                return self.sweep(ended, until).await.map(Some);
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
