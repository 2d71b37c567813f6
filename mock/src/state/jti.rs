//! The ids of JWTs that were redeemed: a JWT is single-use.

use super::{Sweep, forget_first};
use crate::limits;
use crate::secret::{Digest, sha256};
use std::collections::HashMap;
use std::time::Duration;

/// Remembers each `jti` until its JWT has expired.
#[derive(Default)]
pub(crate) struct SeenJwts {
    until: HashMap<Digest, u64>,
    sweep: Sweep,
}

impl SeenJwts {
    /// Whether the `jti` is new.
    pub(crate) fn is_new(
        &mut self,
        client_id: &str,
        jti: &str,
        remember_until: u64,
        now: u64,
    ) -> bool {
        if self.sweep.is_due(self.until.len()) {
            self.until.retain(|_, until| now < *until);
        }
        forget_first(&mut self.until, limits::SEEN_JWTS, |until| {
            Duration::from_secs(*until)
        });
        let key = sha256(format!("{client_id}\0{jti}").as_bytes());
        self.until.insert(key, remember_until).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jti_is_new_once_per_app() {
        let mut seen = SeenJwts::default();
        assert!(seen.is_new("app", "one", 100, 0));
        assert!(!seen.is_new("app", "one", 100, 0));
        assert!(seen.is_new("other", "one", 100, 0));
    }

    #[test]
    fn expired_ids_are_removed() {
        let mut seen = SeenJwts::default();
        for number in 0..10_000 {
            assert!(seen.is_new("app", &number.to_string(), number + 10, number));
        }
        assert!(seen.until.len() < 3_000, "{}", seen.until.len());
    }
}
