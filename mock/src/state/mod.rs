//! The state between requests, behind one lock that is held for microseconds: no signature is verified,
//! no JSON is parsed and nothing is awaited while it is held.

mod chats;
mod codes;
mod conversations;
mod devices;
mod jti;
mod tickets;
mod tokens;

use serde_json::Value;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

pub(crate) use chats::{Chat, Event, NewChat};
pub(crate) use codes::{AuthorizationCode, Challenge, Codes};
pub(crate) use conversations::{
    Conversation, Conversations, Ids, Listing, NewConversation, NewMessage,
};
pub(crate) use devices::{DeviceAuthorization, Devices, Poll};
pub(crate) use jti::SeenJwts;
pub(crate) use tickets::{AuthorizeRequest, Ticket, Tickets};
pub use tokens::{Generation, Grant, GrantedToken, TokenFamily};
pub(crate) use tokens::{NewTokenFamily, NotRedeemed, Pair, RefreshPolicy, Tokens};

/// The state of one mock.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) codes: Codes,
    pub(crate) devices: Devices,
    pub(crate) tokens: Tokens,
    pub(crate) seen_jwts: SeenJwts,
    pub(crate) tickets: Tickets,
    pub(crate) conversations: Conversations,
}

impl State {
    /// Replaces the tokens and device codes of an edited response by the strings that were sent.
    pub(crate) fn rename(&mut self, known: &Value, sent: &Value) {
        let renamed = |name: &str| {
            let (known, sent) = (known.get(name)?.as_str()?, sent.get(name)?.as_str()?);
            (known != sent).then_some((known, sent))
        };
        if let Some((known, sent)) = renamed("access_token") {
            self.tokens.rename_access(known, sent);
        }
        if let Some((known, sent)) = renamed("refresh_token") {
            self.tokens.rename_refresh(known, sent);
        }
        if let Some((known, sent)) = renamed("device_code") {
            self.devices.rename(known, sent);
        }
    }
}

/// Decides when to remove expired entries: each time the number of new entries equals the number kept the last time. The cost per
/// entry is constant, and at most half of the memory is used by expired entries.
#[derive(Default)]
struct Sweep {
    since_last: usize,
}

impl Sweep {
    fn is_due(&mut self, entries: usize) -> bool {
        self.since_last += 1;
        if self.since_last < 1024 || self.since_last * 2 < entries {
            return false;
        }
        self.since_last = 0;
        true
    }
}

/// Makes room in a map with at least `at_most` entries: removes the half that expires first.
fn forget_first<K: Eq + Hash, V>(
    entries: &mut HashMap<K, V>,
    at_most: usize,
    ends_at: impl Fn(&V) -> Duration,
) {
    if entries.len() < at_most {
        return;
    }
    let mut ends: Vec<Duration> = entries.values().map(&ends_at).collect();
    let half = ends.len() / 2;
    let (_, median, _) = ends.select_nth_unstable(half);
    let median = *median;
    // All entries may expire at the same time, so of those at the median only as many as needed are removed.
    let mut to_forget = half + 1;
    entries.retain(|_, entry| {
        let forgotten = to_forget > 0 && ends_at(entry) <= median;
        to_forget -= usize::from(forgotten);
        !forgotten
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_half_that_expires_first_is_removed() {
        let mut entries: HashMap<u64, u64> = (0..100).map(|number| (number, number)).collect();
        forget_first(&mut entries, 101, |ends| Duration::from_secs(*ends));
        assert_eq!(entries.len(), 100, "not full");
        forget_first(&mut entries, 100, |ends| Duration::from_secs(*ends));
        assert!(entries.len() < 51 && entries.contains_key(&99) && !entries.contains_key(&0));
        forget_first(&mut entries, 10, |_| Duration::ZERO);
        assert!(entries.len() < 26, "all expire at the same time");
    }
}
