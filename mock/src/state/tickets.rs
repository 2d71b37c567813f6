//! Tickets: the single-use tokens in the forms of the consent and verification pages, which protect the decision against
//! cross-site request forgery.

use super::codes::Challenge;
use crate::limits;
use crate::secret::{Digest, digest_of};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// A valid authorization request (RFC 6749 section 4.1.1).
#[derive(Clone, Debug)]
pub(crate) struct AuthorizeRequest {
    pub(crate) client_id: String,
    pub(crate) app_name: String,
    /// A registered redirect URI, so it is safe to redirect there.
    pub(crate) redirect_uri: String,
    /// Returned unchanged in the callback.
    pub(crate) state: Option<String>,
    pub(crate) challenge: Option<Challenge>,
    pub(crate) workspace_id: Option<String>,
}

impl AuthorizeRequest {
    /// The bytes that the client controls.
    pub(crate) fn bytes(&self) -> usize {
        let challenge = match &self.challenge {
            Some(Challenge::S256(challenge) | Challenge::Plain(challenge)) => challenge.len(),
            None => 0,
        };
        self.redirect_uri.len() + self.state.as_deref().map_or(0, str::len) + challenge
    }
}

/// The subject of a form.
#[derive(Clone, Debug)]
pub(crate) enum Ticket {
    Authorize(Box<AuthorizeRequest>),
    Device { user_code: String },
}

impl Ticket {
    /// The bytes that the client controls.
    fn bytes(&self) -> usize {
        match self {
            Self::Authorize(request) => request.bytes(),
            Self::Device { user_code } => user_code.len(),
        }
    }
}

/// The latest forms that were shown and not submitted.
#[derive(Default)]
pub(crate) struct Tickets {
    open: HashMap<Digest, (Ticket, Duration)>,
    order: VecDeque<(Digest, usize)>,
    bytes: usize,
}

const LIFETIME: Duration = Duration::from_secs(1800);

impl Tickets {
    pub(crate) fn insert(&mut self, secret: &str, ticket: Ticket, now: Duration) {
        let size = ticket.bytes();
        self.bytes += size;
        while self.order.len() >= limits::TICKETS || self.bytes > limits::TICKET_BYTES {
            let Some((oldest, size)) = self.order.pop_front() else {
                break;
            };
            self.open.remove(&oldest);
            self.bytes -= size;
        }
        let digest = digest_of(secret);
        self.order.push_back((digest, size));
        self.open
            .insert(digest, (ticket, now.saturating_add(LIFETIME)));
    }

    /// A ticket that is still valid.
    pub(crate) fn look(&self, secret: &str, now: Duration) -> Option<&Ticket> {
        let (ticket, expires_at) = self.open.get(&digest_of(secret))?;
        (now < *expires_at).then_some(ticket)
    }

    /// Takes a ticket, which is single-use.
    pub(crate) fn take(&mut self, secret: &str, now: Duration) -> Option<Ticket> {
        let (ticket, expires_at) = self.open.remove(&digest_of(secret))?;
        (now < expires_at).then_some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_bounded_in_number_and_bytes() {
        let insert = |tickets: &mut Tickets, number: usize, user_code: &str| {
            let user_code = user_code.to_owned();
            let ticket = Ticket::Device { user_code };
            tickets.insert(&number.to_string(), ticket, Duration::ZERO);
        };
        let mut tickets = Tickets::default();
        for number in 0..limits::TICKETS + 5 {
            insert(&mut tickets, number, "");
        }
        assert_eq!(tickets.open.len(), limits::TICKETS);
        let long = "x".repeat(limits::TICKET_BYTES / 10);
        for number in 0..25 {
            insert(&mut tickets, limits::TICKETS + 5 + number, &long);
        }
        assert_eq!(tickets.open.len(), 10);
        assert!(tickets.bytes <= limits::TICKET_BYTES);
    }
}
