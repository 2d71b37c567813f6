//! A successor that the store did not take, though the intent had shown that it could: it is kept in memory, with the lock, and saved as
//! soon as possible.

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
    store_error,
};
use crate::{
    Error,
    clock::Clock,
    runtime::{self, RunsOn},
    store::Version,
};

/// A save that fails is tried for this long before a program ends, and for each try in the background.
pub(super) const LONGEST_SAVE: Duration = Duration::from_secs(10);
/// Callers wait for so long for a save that fails. It goes on in the background.
const LONGEST_WAIT_FOR_SAVE: Duration = Duration::from_secs(2);
/// Between two tries: at first, and at most.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

pub(super) struct Unsaved {
    successor: Successor,
    /// Kept, so that nobody else sends the redeemed refresh token.
    lock: Option<Lock>,
    /// Why the last try failed; none while the first ones run.
    why: Option<Error>,
    /// Gone when nobody tries to save it in the background.
    saver: Weak<()>,
}

impl SignIn {
    /// Why a successor is not saved, if there is one.
    pub(crate) fn why_unsaved(&self) -> Option<Error> {
        self.unsaved().as_ref()?.why.clone()
    }

    /// The successor that is not saved: its token if it can be used, and its record.
    pub(super) fn unsaved_successor(&self) -> Option<Successor> {
        let unsaved = self.unsaved();
        Some(unsaved.as_ref()?.successor.clone())
    }

    /// Saves a successor, or goes on with that in the background. It stands in memory before the first try, so it outlives a future that is
    /// dropped.
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
            // Of a run that had lost its lock. It is stored, or in quarantine.
            let _ = self.save(&former.successor, None, until).await;
        }
        let mut known = Some(known);
        let mut wait = FIRST_WAIT;
        loop {
            if let Some(saved) = self.save_unsaved(known.take(), until).await {
                // Without one, somebody else has saved it in between.
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
            "the refreshed sign-in could not be saved: it is kept in memory, and saved as soon as possible"
        );
        self.save_in_background(clock);
        Saved::Stored
    }

    /// Tries to save until it works, unless somebody does already. The runtime of an earlier try may have ended.
    pub(super) fn save_in_background(&self, clock: &Clock) {
        let mut unsaved = self.unsaved();
        let Some(unsaved) = unsaved.as_mut() else {
            return;
        };
        if unsaved.saver.upgrade().is_none() {
            let saver = Arc::new(());
            unsaved.saver = Arc::downgrade(&saver);
            let saving = save_until_it_works(self.clone(), saver);
            // If there is no runtime for it, the next caller saves it.
            let _ = runtime::spawn(clock, RunsOn::Process, saving);
        }
    }

    /// Tries once to save what is unsaved. `None` if it still is; what came of it, if there was anything.
    pub(super) async fn save_unsaved(
        &self,
        known: Option<(Record, Version)>,
        until: Instant,
    ) -> Option<Option<Saved>> {
        let _turn = timeout_at(until, self.0.saving.lock()).await.ok()?;
        let Some(successor) = self.unsaved_successor() else {
            return Some(None);
        };
        match self.save(&successor, known, until).await {
            Ok(saved) => {
                // Another run's may have taken its place meanwhile.
                let saved_record = successor.record();
                let unsaved = self
                    .unsaved()
                    .take_if(|unsaved| saved_record.holds(unsaved.successor.refresh_token()));
                if let Some(unsaved) = unsaved {
                    if unsaved.why.is_some() {
                        tracing::info!(profile = %self.profile(), "the refreshed sign-in is saved now");
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
                    "the refreshed sign-in is unsaved"
                );
                if let Some(unsaved) = self.unsaved().as_mut() {
                    unsaved.why = Some(store_error(why));
                }
                None
            }
        }
    }

    /// Saves what is unsaved before the program ends, if that is possible in bearable time.
    pub(crate) async fn settle(&self) {
        let until = Instant::now() + LONGEST_SAVE;
        let mut wait = FIRST_WAIT;
        while self.save_unsaved(None, until).await.is_none() {
            if Instant::now() + wait >= until {
                tracing::error!(
                    profile = %self.profile(),
                    "the provider was shut down with a sign-in that could not be saved: it is lost when the program ends"
                );
                return;
            }
            sleep(wait).await;
            wait *= 2;
        }
    }
}

/// It outlives the provider: it has the only live sign-in there is.
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
