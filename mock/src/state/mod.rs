//! Everything that lives between requests, behind one lock that is held for microseconds: no signature is verified,
//! no JSON parsed and nothing awaited under it.

mod codes;
mod devices;
mod jti;
mod tickets;
mod tokens;

pub(crate) use codes::{AuthorizationCode, Challenge, Codes};
pub(crate) use devices::{DeviceAuthorization, Devices, Poll};
pub(crate) use jti::SeenJwts;
pub(crate) use tickets::{Ticket, Tickets};
pub use tokens::{Flow, Generation, GrantedToken, SignIn};
pub(crate) use tokens::{NewSignIn, NotRedeemed, Pair, RefreshPolicy, Tokens};

/// The state of one mock.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) codes: Codes,
    pub(crate) devices: Devices,
    pub(crate) tokens: Tokens,
    pub(crate) seen_jwts: SeenJwts,
    pub(crate) tickets: Tickets,
}

/// When to look for entries that have lapsed: each time as many came in as were left the last time, so that the cost per
/// entry stays constant and the memory within twice of what is alive.
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
