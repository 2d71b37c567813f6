//! Unsaved successors. If the save fails although the intent could be written, the successor stays in memory and its
//! lock stays held while the save is retried.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};

use super::record::Record;
use super::{
    SignIn,
    refresh::Lock,
    save::{Saved, Successor},
};
use crate::{
    Error,
    clock::Clock,
    runtime::{self, RunsOn},
    store::Version,
};

/// A failed save is retried this long at shutdown. It is also the timeout of each retry in the background.
pub(super) const LONGEST_SAVE: Duration = Duration::from_secs(10);
/// Callers wait this long for a save. After that it continues in the background.
const LONGEST_WAIT_FOR_SAVE: Duration = Duration::from_secs(2);
/// The first and the longest delay between two attempts.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

pub(super) struct Unsaved {
    successor: Successor,
    /// Stays held, so that no other owner sends the redeemed refresh token.
    lock: Option<Lock>,
    /// The error of the last attempt; `None` during the first ones.
    why: Option<Error>,
    /// Dangling if no background task is saving it.
    saver: Weak<()>,
}

impl SignIn {
    /// Why the successor is unsaved, if there is one.
    pub(crate) fn why_unsaved(&self) -> Option<Error> {
        self.unsaved().as_ref()?.why.clone()
    }

    /// The unsaved successor.
    pub(super) fn unsaved_successor(&self) -> Option<Successor> {
        let unsaved = self.unsaved();
        Some(unsaved.as_ref()?.successor.clone())
    }

    /// Saves a successor; after a timeout, in the background. The successor is kept in memory before the first attempt,
    /// so it survives if the future is dropped.
    pub(super) async fn keep(
        &self,
        successor: &Successor,
        known: (Record, Version),
        lock: Lock,
        clock: &Clock,
    ) -> Saved {
        let former = self.unsaved().replace(Box::new(Unsaved {
            successor: successor.clone(),
            lock: Some(lock),
            why: None,
            saver: Weak::new(),
        }));
        let until = Instant::now() + LONGEST_WAIT_FOR_SAVE;
        if let Some(former) = former {
            // Left by a run that had lost its lock. It will be stored or quarantined.
            let _ = self.save(&former.successor, None, until).await;
        }
        let mut known = Some(known);
        let mut wait = FIRST_WAIT;
        loop {
            if let Some(saved) = self.save_unsaved(known.take(), until).await {
                // `None`: another task has saved it.
                return saved.unwrap_or(Saved::Stored);
            }
            if Instant::now() + wait >= until {
                break;
            }
            sleep(wait).await;
            wait *= 2;
        }
        tracing::error!(
            profile = %self.profile(),
            "the refreshed sign-in could not be saved: it is kept in memory, and the save is retried"
        );
        self.save_in_background(clock);
        Saved::Stored
    }

    /// Starts a task that saves the successor, unless one is running. An earlier task may have ended with its runtime.
    pub(super) fn save_in_background(&self, clock: &Clock) {
        let mut unsaved = self.unsaved();
        let Some(unsaved) = unsaved.as_mut() else {
            return;
        };
        if unsaved.saver.upgrade().is_none() {
            let saver = Arc::new(());
            unsaved.saver = Arc::downgrade(&saver);
            let saving = save_until_it_works(self.clone(), saver);
            // Without a runtime, the next caller saves it.
            let _ = runtime::spawn(clock, RunsOn::Process, saving);
        }
    }

    /// One attempt to save the successor. `None` if it failed; otherwise the result, `Some(None)` if there was no
    /// unsaved successor.
    pub(super) async fn save_unsaved(
        &self,
        known: Option<(Record, Version)>,
        until: Instant,
    ) -> Option<Option<Saved>> {
        let _guard = timeout_at(until, self.0.saving.lock()).await.ok()?;
        let Some(successor) = self.unsaved_successor() else {
            return Some(None);
        };
        match self.save(&successor, known, until).await {
            Ok(saved) => {
                // Another run may have replaced it during the save.
                let saved_record = successor.record();
                let unsaved = self
                    .unsaved()
                    .take_if(|unsaved| saved_record.holds(unsaved.successor.refresh_token()));
                if let Some(unsaved) = unsaved {
                    if unsaved.why.is_some() {
                        tracing::info!(profile = %self.profile(), "the refreshed sign-in has been saved");
                    }
                    if let Some(lock) = unsaved.lock {
                        lock.release().await;
                    }
                }
                Some(Some(saved))
            }
            Err(why) => {
                tracing::warn!(
                    profile = %self.profile(), kind = ?why.kind(), what = %why,
                    "the refreshed sign-in could not be saved"
                );
                if let Some(unsaved) = self.unsaved().as_mut() {
                    unsaved.why = Some(Error::from(why));
                }
                None
            }
        }
    }

    /// At shutdown: saves the unsaved successor within `LONGEST_SAVE`.
    pub(crate) async fn settle(&self) {
        let until = Instant::now() + LONGEST_SAVE;
        let mut wait = FIRST_WAIT;
        while self.save_unsaved(None, until).await.is_none() {
            if Instant::now() + wait >= until {
                tracing::error!(
                    profile = %self.profile(),
                    "the provider was shut down with a sign-in that could not be saved: it is lost when the process exits"
                );
                return;
            }
            sleep(wait).await;
            wait *= 2;
        }
    }
}

/// Outlives the provider, because it holds the only live refresh token of its family.
async fn save_until_it_works(sign_in: SignIn, _saver: Arc<()>) {
    let mut wait = FIRST_WAIT;
    loop {
        sleep(wait).await;
        let until = Instant::now() + LONGEST_SAVE;
        if sign_in.save_unsaved(None, until).await.is_some() {
            return;
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}
