//! Tickets: the one-time tokens in the forms of the consent and verification pages, so that a decision can come from no
//! other page.

use crate::secret::{Digest, digest_of};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// What a form decides about.
#[derive(Clone, Debug)]
pub(crate) enum Ticket {
    Authorize(Box<crate::authorize::AuthorizeRequest>),
    Device { user_code: String },
}

/// The forms that were shown and not sent yet: the latest ones.
#[derive(Default)]
pub(crate) struct Tickets {
    open: HashMap<Digest, (Ticket, Duration)>,
    order: VecDeque<Digest>,
}

const AT_MOST: usize = 10_000;
const LIFETIME: Duration = Duration::from_secs(1800);

impl Tickets {
    pub(crate) fn insert(&mut self, secret: &str, ticket: Ticket, now: Duration) {
        if self.order.len() >= AT_MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.open.remove(&oldest);
        }
        let digest = digest_of(secret);
        self.order.push_back(digest);
        self.open.insert(digest, (ticket, now + LIFETIME));
    }

    /// A ticket that was not taken yet.
    pub(crate) fn look(&self, secret: &str, now: Duration) -> Option<&Ticket> {
        let (ticket, expires_at) = self.open.get(&digest_of(secret))?;
        (now < *expires_at).then_some(ticket)
    }

    /// Takes a ticket out: it works once.
    pub(crate) fn take(&mut self, secret: &str, now: Duration) -> Option<Ticket> {
        let (ticket, expires_at) = self.open.remove(&digest_of(secret))?;
        (now < expires_at).then_some(ticket)
    }
}
