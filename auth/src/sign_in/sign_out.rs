//! Signing out.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

use tokio::time::Instant;

use super::{
    LONGEST_CHANGE, SignIn, changing,
    record::{Entry, Tombstone},
    store_error,
};
use crate::{Result, store::StoreError};

impl SignIn {
    /// Ends the sign-in here: its tokens are deleted from the store, those in quarantine too. Coze has no way to revoke them, so they stay
    /// valid until they expire.
    ///
    /// A refresh that is under way does not bring the sign-in back. A sign-in that another process puts meanwhile stays.
    ///
    /// # Errors
    ///
    /// Those of the store; [`Busy`](crate::store::StoreErrorKind::Busy) when it changed each time it was about to be written.
    pub async fn sign_out(&self) -> Result<()> {
        let until = Instant::now() + LONGEST_CHANGE;
        let (ends, has_written) = (OnceLock::new(), AtomicBool::new(false));
        changing(until, || self.try_sign_out(&ends, &has_written, until))
            .await
            .map_err(store_error)?;
        // An unsaved successor is not served any more.
        let _ = self.save_unsaved(None, until).await;
        Ok(())
    }

    /// `ends` is the sign-in that the sign-out ends: the first one that any try has seen.
    async fn try_sign_out(
        &self,
        ends: &OnceLock<String>,
        has_written: &AtomicBool,
        until: Instant,
    ) -> Result<Option<()>, StoreError> {
        let now = self.look(until).await?;
        let has_written = has_written.swap(true, Ordering::Relaxed);
        match &now {
            // Its own, whose answer was lost, or that of another sign-out.
            Some((Entry::Tombstone(_), _)) if has_written => {}
            // Another sign-in came in between: it stays, but nothing of the one that has ended.
            Some((Entry::Record(record), _))
                if *ends.get_or_init(|| record.sign_in.clone()) != record.sign_in =>
            {
                let ended = ends.get().map(std::slice::from_ref);
                return self.sweep(ended, until).await.map(Some);
            }
            _ => {
                let ids = now.as_ref().map(|(entry, _)| entry.ids());
                let write = Tombstone::over(ids.unwrap_or_default())?.write()?;
                let expected = now.as_ref().map(|(_, stored)| &stored.version);
                if self.write(expected, &write, until).await?.is_none() {
                    return Ok(None);
                }
            }
        }
        self.sweep(None, until).await.map(Some)
    }
}
