//! Saving what a refresh token was redeemed for: the only live sign-in there is then.
//!
//! The store has proved that it can, so a save that fails is rare. Then the token is handed out all the same, and the
//! save goes on in the background, with the lease kept: whoever got that would send the spent refresh token.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Owner,
    budget::{Budget, LONGEST_SAVE, no_answer},
};
use crate::{
    Error, Result, Token,
    provider::lifespan::refresh_window,
    runtime::{self, RunsOn},
    store::{Lease, Record, Saved},
};

/// An answer that the store did not take, though it had proved that it could.
pub(super) struct Unsaved {
    redeemed: Record,
    token: Token,
    why: Error,
    lease: Option<Box<dyn Lease>>,
}

impl Unsaved {
    pub(super) fn why(&self) -> Error {
        self.why.clone()
    }
}

/// Where an answer went.
pub(super) enum Kept {
    Stored,
    /// Nowhere yet: it is [`Unsaved`].
    InMemory,
    /// Another record is stored, or none.
    Aside,
}

/// Callers wait for so long for a save that fails. It is saved on in the background.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries: at first, and at most.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

impl Owner {
    /// Saves an answer, or remembers that it is unsaved.
    pub(super) async fn keep(&self, redeemed: &Record, token: &Token) -> Kept {
        let until = Instant::now() + PATIENCE;
        let mut wait = FIRST_WAIT;
        let _turn = self.saving.lock().await;
        loop {
            let why = match self.save(redeemed, token, until).await {
                Ok(Saved::Saved) => return Kept::Stored,
                Ok(Saved::MovedOn(_)) => return Kept::Aside,
                Err(why) => why,
            };
            if Instant::now() + wait < until {
                sleep(wait).await;
                wait *= 2;
                continue;
            }
            tracing::error!(
                profile = %self.profile(), kind = ?why.kind(), what = why.what(),
                "the refreshed sign-in could not be saved: it is kept in memory, and saved as soon as possible"
            );
            self.state().unsaved = Some(Unsaved {
                redeemed: redeemed.clone(),
                token: token.clone(),
                why,
                lease: None,
            });
            return Kept::InMemory;
        }
    }

    /// One try. The record is made anew for each, because the token's life runs on.
    async fn save(&self, redeemed: &Record, token: &Token, until: Instant) -> Result<Saved> {
        let successor = redeemed.successor(token);
        let store = self.sign_in.store();
        let saving = store.save(self.profile(), redeemed.refresh_token(), &successor);
        let saved = timeout_at(until, saving).await;
        let saved = saved.unwrap_or_else(|_| Err(no_answer()))?;
        // It is no news.
        self.state().loaded = Some(successor.refresh_token().clone());
        if let Saved::MovedOn(now) = &saved {
            self.state().was_removed = now.is_none();
            tracing::warn!(
                profile = %self.profile(),
                "the sign-in moved on while it was refreshed: the answer was set aside, and what is stored is used"
            );
        }
        Ok(saved)
    }

    /// Tries to save until it works. It keeps the lease for that time, as far as that lasts.
    pub(super) fn save_in_background(self: &Arc<Self>, lease: Box<dyn Lease>) {
        if let Some(unsaved) = &mut self.state().unsaved {
            unsaved.lease = Some(lease);
        }
        let clock = self.flow.client().clock();
        // If there is no runtime for it, the next caller saves it.
        let _ = runtime::spawn(clock, RunsOn::Process, save_on(Arc::clone(self)));
    }

    /// Tries once to save what is unsaved. True if nothing is any more.
    async fn save_unsaved(&self, until: Instant) -> bool {
        let Ok(_turn) = timeout_at(until, self.saving.lock()).await else {
            return false;
        };
        let unsaved = {
            let state = self.state();
            let unsaved = state.unsaved.as_ref();
            unsaved.map(|unsaved| (unsaved.redeemed.clone(), unsaved.token.clone()))
        };
        let Some((redeemed, token)) = unsaved else {
            return true;
        };
        match self.save(&redeemed, &token, until).await {
            Ok(saved) => {
                if matches!(saved, Saved::Saved) {
                    tracing::info!(profile = %self.profile(), "the refreshed sign-in is saved now");
                }
                let saved = self.state().unsaved.take();
                if let Some(lease) = saved.and_then(|saved| saved.lease) {
                    self.release(lease).await;
                }
                true
            }
            Err(why) => {
                tracing::warn!(
                    profile = %self.profile(), kind = ?why.kind(), what = why.what(),
                    "the refreshed sign-in is still unsaved"
                );
                if let Some(unsaved) = &mut self.state().unsaved {
                    unsaved.why = why;
                }
                false
            }
        }
    }

    /// The token of an answer that is unsaved, as long as that is good. Once it is due for a refresh, it has to be
    /// saved first: nothing is refreshed that could not be saved.
    pub(super) async fn unsaved_token(&self, budget: &Budget) -> Result<Option<Token>> {
        let unsaved = {
            let state = self.state();
            let unsaved = state.unsaved.as_ref();
            unsaved.map(|unsaved| {
                (
                    unsaved.token.clone(),
                    unsaved.redeemed.successor(&unsaved.token),
                )
            })
        };
        let Some((token, record)) = unsaved else {
            return Ok(None);
        };
        let is_refused = self.state().is_refused(&record);
        let is_due = token.remaining() <= refresh_window(token.lifetime());
        if !is_due && !is_refused {
            return Ok(Some(token));
        }
        let until = Instant::now() + budget.for_the_store().min(LONGEST_SAVE);
        if self.save_unsaved(until).await {
            return Ok(None);
        }
        if !token.is_expired() && !is_refused {
            return Ok(Some(token));
        }
        let state = self.state();
        match &state.unsaved {
            Some(unsaved) => Err(unsaved.why()),
            None => Ok(None),
        }
    }

    /// Saves what is unsaved before the provider goes, if that is possible in bearable time.
    pub(super) async fn settle(&self) {
        let until = Instant::now() + LONGEST_SAVE;
        let mut wait = FIRST_WAIT;
        while !self.save_unsaved(until).await {
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
async fn save_on(owner: Arc<Owner>) {
    let mut wait = FIRST_WAIT;
    loop {
        sleep(wait).await;
        if owner.save_unsaved(Instant::now() + LONGEST_SAVE).await {
            return;
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}
