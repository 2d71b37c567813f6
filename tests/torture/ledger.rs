//! The mock's ledger of sign-ins, and how to judge it.

use std::time::Duration;

use serde::Deserialize;

#[derive(Clone, Deserialize)]
pub(crate) struct SignIn {
    revoked_at_unix_ms: Option<u64>,
    /// The refresh tokens, oldest first; the last one is current.
    pub(crate) generations: Vec<Generation>,
}

/// One refresh token and the access token that came with it, both as fingerprints.
#[derive(Clone, Deserialize)]
pub(crate) struct Generation {
    pub(crate) refresh_token: String,
    pub(crate) access_token: String,
    issued_at_unix_ms: u64,
    pub(crate) redeemed_at_unix_ms: Option<u64>,
    reused_at_unix_ms: Vec<u64>,
}

/// The position of the stored refresh token in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is the current one.
    Current,
    /// It was redeemed this many generations ago.
    Behind(usize),
    /// It was never issued in this sign-in.
    Unknown,
}

impl SignIn {
    pub(crate) fn standing(&self, refresh_token: &str) -> Standing {
        let known = |generation: &Generation| generation.refresh_token == refresh_token;
        match self.generations.iter().rev().position(known) {
            Some(0) => Standing::Current,
            Some(behind) => Standing::Behind(behind),
            None => Standing::Unknown,
        }
    }

    pub(crate) fn generation(&self, refresh_token: &str) -> Option<&Generation> {
        let mut generations = self.generations.iter();
        generations.find(|generation| generation.refresh_token == refresh_token)
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked_at_unix_ms.is_some()
    }

    /// How often a redeemed refresh token was sent.
    pub(crate) fn reuses(&self) -> usize {
        let reuses = |generation: &Generation| generation.reused_at_unix_ms.len();
        self.generations.iter().map(reuses).sum()
    }

    pub(crate) fn redemptions(&self) -> usize {
        let redeemed = |generation: &&Generation| generation.redeemed_at_unix_ms.is_some();
        self.generations.iter().filter(redeemed).count()
    }

    /// Generations that do not follow from their predecessor: each must be issued exactly when its
    /// predecessor is redeemed.
    pub(crate) fn breaks(&self) -> usize {
        let broken =
            |pair: &&[Generation]| pair[0].redeemed_at_unix_ms != Some(pair[1].issued_at_unix_ms);
        self.generations.windows(2).filter(broken).count()
    }
}

/// The refresh window of a provider, as seen by the server.
#[derive(Clone, Copy)]
pub(crate) struct RefreshWindow {
    /// The lifetime that the mock grants, before it truncates the expiry to a whole second.
    pub(crate) granted: Duration,
    /// The error with which a process may estimate the expiry too early.
    pub(crate) misjudged: Duration,
}

/// How long before the expiry of an access token its successor was issued, and the earliest allowed.
pub(crate) struct Lead {
    pub(crate) lead_ms: i64,
    pub(crate) most_ms: i64,
}

impl Lead {
    pub(crate) fn is_early(&self) -> bool {
        self.lead_ms > self.most_ms
    }

    /// After the expiry: a caller had no token.
    pub(crate) fn is_late(&self) -> bool {
        self.lead_ms < 0
    }
}

impl RefreshWindow {
    /// A token is refreshed in the last fifth of its lifetime (at most 300 s; times 0.75 to 1.25, to spread replicas),
    /// counted back from the expiry margin: a fiftieth of its lifetime (at most 2 s) before its expiry.
    fn longest(&self, life_ms: u64) -> u64 {
        let window_ms = (life_ms / 5).min(300_000) * 5 / 4;
        let margin_ms = (life_ms / 50).min(2_000);
        window_ms + margin_ms + crate::millis(self.misjudged)
    }

    pub(crate) fn leads(&self, sign_in: &SignIn) -> Vec<Lead> {
        let of = |generation: &Generation| {
            let redeemed_at = generation.redeemed_at_unix_ms?;
            let issued_at = generation.issued_at_unix_ms;
            // `expires_in` is a whole second.
            let expires_at = (issued_at / 1000 + self.granted.as_secs()) * 1000;
            Some(Lead {
                lead_ms: expires_at.cast_signed() - redeemed_at.cast_signed(),
                most_ms: self.longest(expires_at - issued_at).cast_signed(),
            })
        };
        sign_in.generations.iter().filter_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(refresh_token: &str, issued: u64, redeemed: Option<u64>) -> Generation {
        Generation {
            refresh_token: refresh_token.to_owned(),
            access_token: format!("access of {refresh_token}"),
            issued_at_unix_ms: issued,
            redeemed_at_unix_ms: redeemed,
            reused_at_unix_ms: Vec::new(),
        }
    }

    fn sign_in() -> SignIn {
        SignIn {
            revoked_at_unix_ms: None,
            generations: vec![
                generation("a", 10_300, Some(13_700)),
                generation("b", 13_700, Some(17_400)),
                generation("c", 17_400, None),
            ],
        }
    }

    const WINDOW: RefreshWindow = RefreshWindow {
        granted: Duration::from_secs(5),
        misjudged: Duration::from_millis(20),
    };

    #[test]
    fn the_position_in_the_chain_is_found() {
        let sign_in = sign_in();
        assert_eq!(sign_in.standing("c"), Standing::Current);
        assert_eq!(sign_in.standing("b"), Standing::Behind(1));
        assert_eq!(sign_in.standing("a"), Standing::Behind(2));
        assert_eq!(sign_in.standing("z"), Standing::Unknown);
    }

    #[test]
    fn reuse_and_a_second_successor_are_detected() {
        let mut sign_in = sign_in();
        assert_eq!((sign_in.reuses(), sign_in.breaks()), (0, 0));
        sign_in.generations[0].reused_at_unix_ms.push(14_000);
        sign_in.generations[2].issued_at_unix_ms = 17_401;
        assert_eq!((sign_in.reuses(), sign_in.breaks()), (1, 1));
        assert_eq!(sign_in.redemptions(), 2);
    }

    #[test]
    fn a_refresh_is_early_before_its_window_and_late_after_the_expiry() {
        // It expires at 15,000 after 4,700: 1,175 and 94 before its expiry, plus 20 of estimation error.
        let leads = WINDOW.leads(&sign_in());
        assert_eq!((leads[0].lead_ms, leads[0].most_ms), (1_300, 1_289));

        let at = |redeemed| {
            let mut sign_in = sign_in();
            sign_in.generations[0].redeemed_at_unix_ms = Some(redeemed);
            WINDOW.leads(&sign_in).remove(0)
        };
        assert!(at(13_710).is_early());
        assert!(!at(13_711).is_early());
        assert!(!at(15_000).is_late());
        assert!(at(15_001).is_late());
    }
}
