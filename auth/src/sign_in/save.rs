//! Saves the successor of a redeemed refresh token, which is the only live token of its family.
//!
//! Versions detect concurrent writes; the stored refresh token decides what a conflict means.

use tokio::time::Instant;

use super::{
    SignIn,
    record::{Entry, Record},
};
use crate::{
    RefreshToken, Token,
    store::{StoreError, StoreErrorKind, Version},
};

/// The successor of a record whose refresh token has been redeemed.
#[derive(Clone)]
pub(super) struct Successor {
    redeemed: Record,
    refresh_token: Option<RefreshToken>,
    generation: u64,
    /// `None` if the access token can't be used or is no longer known.
    token: Option<Token>,
}

/// The result of saving a successor.
pub(super) enum Saved {
    /// The successor or a later generation is stored; or the successor is kept in memory, [unsaved](super::unsaved),
    /// and the save is retried.
    Stored,
    /// Another sign-in or unreadable contents are stored. The successor is in quarantine.
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

    /// A successor that the store has lost after the save. Its access token is no longer known.
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

    /// The record that would replace `stored`.
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

    /// Whether the successor may replace `stored`: that holds the redeemed refresh token, or an earlier one of the same
    /// sign-in, because a failover has rolled back an acknowledged save. Intents, `ended` and `not_before` do not
    /// matter.
    fn replaces(&self, stored: &Record) -> bool {
        stored.holds(self.redeemed.refresh_token())
            || stored.sign_in == self.sign_in() && stored.generation < self.generation
    }
}

impl SignIn {
    /// Saves a successor, retrying after conflicts. `known` is the record that this process wrote last; it spares a
    /// load.
    ///
    /// After a lost response, the next attempt loads the record and so learns whether the save succeeded.
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
