//! Signing out.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::{
    LONGEST_CHANGE, Loaded, SignIn, changing,
    record::{Entry, Tombstone},
    store_error,
};
use crate::{Result, store::StoreError};

/// What one sign-out has done so far.
#[derive(Default)]
struct Progress {
    /// The sign-in that it ends: the first one that it saw.
    ends: Option<String>,
    has_written: bool,
}

impl SignIn {
    /// Ends the sign-in here: its tokens are deleted from the store, those in quarantine too. Coze has no way to revoke them, so they stay
    /// valid until they expire.
    ///
    /// A refresh that is under way does not bring the sign-in back. A sign-in that another process puts meanwhile stays.
    ///
    /// # Errors
    ///
    /// Those of the store; [`StoreBusy`](crate::ErrorKind::StoreBusy) when it changed each time it was about to be written.
    pub async fn sign_out(&self) -> Result<()> {
        let until = Instant::now() + LONGEST_CHANGE;
        let progress = Mutex::new(Progress::default());
        changing(until, || self.try_sign_out(&progress, until))
            .await
            .map_err(store_error)?;
        // An unsaved successor is not served any more.
        let _ = self.save_unsaved(None, until).await;
        Ok(())
    }

    async fn try_sign_out(
        &self,
        progress: &Mutex<Progress>,
        until: Instant,
    ) -> Result<Option<()>, StoreError> {
        let with = |change: &mut dyn FnMut(&mut Progress)| {
            change(&mut progress.lock().unwrap_or_else(PoisonError::into_inner));
        };
        let now = self.look(until).await?;
        let (mut ends, mut has_written) = (None, false);
        with(&mut |progress| {
            if let Some(Loaded {
                entry: Entry::Record(record),
                ..
            }) = &now
            {
                progress.ends.get_or_insert_with(|| record.sign_in.clone());
            }
            has_written = std::mem::replace(&mut progress.has_written, true);
            ends.clone_from(&progress.ends);
        });
        match &now {
            // Its own, whose answer was lost, or that of another sign-out.
            Some(Loaded {
                entry: Entry::Tombstone(_),
                ..
            }) if has_written => {
                self.sweep(None, until).await?;
                return Ok(Some(()));
            }
            // Another sign-in came in between: it stays, but nothing of the one that has ended.
            Some(Loaded {
                entry: Entry::Record(record),
                ..
            }) if ends.as_ref() != Some(&record.sign_in) => {
                self.sweep(Some(ends.as_slice()), until).await?;
                return Ok(Some(()));
            }
            _ => {}
        }
        let ids = now.as_ref().map(|now| now.entry.ids()).unwrap_or_default();
        let write = Tombstone::over(ids)?.write()?;
        let expected = now.as_ref().map(|now| &now.stored.version);
        if self.write(expected, &write, until).await?.is_none() {
            return Ok(None);
        }
        self.sweep(None, until).await?;
        Ok(Some(()))
    }
}
