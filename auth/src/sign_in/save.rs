//! Saving what a refresh token was redeemed for: the only live sign-in there is then.
//!
//! Versions order the writers; what a conflict means is decided by the refresh token.

use tokio::time::Instant;

use super::{
    SignIn,
    record::{Entry, Record},
};
use crate::{
    RefreshToken, Token,
    store::{StoreError, StoreErrorKind, Version},
};

/// What takes the place of a redeemed record.
#[derive(Clone)]
pub(super) struct Successor {
    redeemed: Record,
    refresh_token: Option<RefreshToken>,
    generation: u64,
    /// None if it can't be used, or is not known any more.
    token: Option<Token>,
}

/// Where a successor went.
pub(super) enum Saved {
    /// It is stored, or what has become of it; or it is in memory, [unsaved](super::unsaved), and saved as soon as possible.
    Stored,
    /// Another sign-in is stored, or something that can't be read. The successor is in quarantine.
    Superseded,
    /// The user has signed out, or the record was deleted. The successor is in quarantine, unless a sign-out named its sign-in.
    SignedOut,
}

impl Successor {
    pub(super) fn new(
        redeemed: Record,
        refresh_token: Option<RefreshToken>,
        token: Option<Token>,
    ) -> Self {
        Self {
            generation: redeemed.generation + 1,
            redeemed,
            refresh_token,
            token,
        }
    }

    /// A successor that was stored, and that the store has lost again: its access token is not known any more.
    pub(super) fn restored(ancestor: Record, refresh_token: RefreshToken, generation: u64) -> Self {
        Self {
            redeemed: ancestor,
            refresh_token: Some(refresh_token),
            generation,
            token: None,
        }
    }

    pub(super) fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    pub(super) fn sign_in(&self) -> &str {
        &self.redeemed.sign_in
    }

    pub(super) fn refresh_token(&self) -> &RefreshToken {
        self.refresh_token
            .as_ref()
            .unwrap_or(self.redeemed.refresh_token())
    }

    /// As it would be stored now, in place of this record.
    pub(super) fn replacing(&self, stored: &Record) -> Record {
        let mut record = stored.successor(Some(self.refresh_token()), self.generation);
        if let Some(token) = &self.token {
            record.set_access_token(token);
        }
        record
    }

    pub(super) fn record(&self) -> Record {
        self.replacing(&self.redeemed)
    }

    /// Whether it takes this record's place: that holds the redeemed refresh token, or an earlier one of the same sign-in (a failover
    /// rolled back an acknowledged save). Intents, marks and "not before" beside it stop nothing.
    fn replaces(&self, stored: &Record) -> bool {
        stored.holds(self.redeemed.refresh_token())
            || stored.sign_in == self.sign_in() && stored.generation < self.generation
    }
}

impl SignIn {
    /// Saves a successor, whatever versions come in between. `known` is the record that was written last, if no one has written since.
    ///
    /// Whether a lost answer was one is seen by the next try, which loads first.
    pub(super) async fn save(
        &self,
        successor: &Successor,
        mut known: Option<(Record, Version)>,
        until: Instant,
    ) -> Result<Saved, StoreError> {
        loop {
            let (stored, version) = match known.take() {
                Some(known) => known,
                None => match self.look(until).await? {
                    Some((Entry::Record(record), stored)) => (*record, stored.version),
                    Some((Entry::Damaged(_), _)) => {
                        return self.supersede(successor, until).await;
                    }
                    other => {
                        let tombstone = other.map(|(entry, _)| entry);
                        let ended = tombstone.as_ref().map(Entry::ids).unwrap_or_default();
                        if !ended.iter().any(|id| *id == successor.sign_in()) {
                            self.quarantine(&successor.record(), until).await?;
                        }
                        return Ok(Saved::SignedOut);
                    }
                },
            };
            if stored.descends_from(
                successor.sign_in(),
                successor.generation,
                successor.refresh_token(),
            ) {
                return Ok(Saved::Stored);
            }
            if !successor.replaces(&stored) {
                return self.supersede(successor, until).await;
            }
            let write = successor.replacing(&stored).write(0)?;
            if self.write(Some(&version), &write, until).await?.is_some() {
                return Ok(Saved::Stored);
            }
            if Instant::now() >= until {
                return Err(StoreError::new(
                    StoreErrorKind::Busy,
                    "the sign-in changes faster than it can be saved",
                ));
            }
        }
    }

    async fn supersede(&self, successor: &Successor, until: Instant) -> Result<Saved, StoreError> {
        self.quarantine(&successor.record(), until).await?;
        Ok(Saved::Superseded)
    }
}
