//! Authorization codes: single-use, bound to client, redirect URI and challenge (RFC 6749 section 4.1.2, RFC 7636).

use super::{Sweep, forget_first};
use crate::limits;
use crate::secret::{Digest, base64url, digest_of, sha256};
use std::collections::HashMap;
use std::time::Duration;

/// The properties of a code.
#[derive(Clone, Debug)]
pub(crate) struct AuthorizationCode {
    pub(crate) client_id: String,
    pub(crate) redirect_uri: String,
    pub(crate) challenge: Option<Challenge>,
    pub(crate) workspace_id: Option<String>,
    pub(crate) expires_at: Duration,
}

/// A PKCE challenge. The default method is `plain`.
#[derive(Clone, Debug)]
pub(crate) enum Challenge {
    S256(String),
    Plain(String),
}

impl Challenge {
    pub(crate) fn is_met_by(&self, code_verifier: &str) -> bool {
        match self {
            Self::S256(challenge) => base64url(&sha256(code_verifier.as_bytes())) == *challenge,
            Self::Plain(challenge) => code_verifier == challenge,
        }
    }
}

/// The issued codes.
#[derive(Default)]
pub(crate) struct Codes {
    codes: HashMap<Digest, Kept>,
    sweep: Sweep,
}

struct Kept {
    code: AuthorizationCode,
    used: bool,
}

impl Codes {
    pub(crate) fn insert(&mut self, secret: &str, code: AuthorizationCode, now: Duration) {
        if self.sweep.is_due(self.codes.len()) {
            self.codes.retain(|_, kept| now < kept.code.expires_at);
        }
        forget_first(&mut self.codes, limits::CODES, |kept| kept.code.expires_at);
        self.codes
            .insert(digest_of(secret), Kept { code, used: false });
    }

    /// Redeems a code if it is valid and `matches` accepts it. A code that does not match stays usable: a client that
    /// stole it must not be able to invalidate it.
    pub(crate) fn redeem(
        &mut self,
        secret: &str,
        now: Duration,
        matches: impl FnOnce(&AuthorizationCode) -> Result<(), &'static str>,
    ) -> Result<AuthorizationCode, &'static str> {
        let kept = self
            .codes
            .get_mut(&digest_of(secret))
            .ok_or("the code is unknown")?;
        if kept.used {
            return Err("the code was already redeemed");
        }
        if now >= kept.code.expires_at {
            return Err("the code has expired");
        }
        matches(&kept.code)?;
        kept.used = true;
        Ok(kept.code.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_of_rfc_7636_appendix_b() {
        let challenge = Challenge::S256("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM".into());
        assert!(challenge.is_met_by("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"));
        assert!(!challenge.is_met_by("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXK"));
    }

    #[test]
    fn expired_codes_are_removed() {
        let mut codes = Codes::default();
        for number in 0..10_000u64 {
            let now = Duration::from_secs(number);
            let code = AuthorizationCode {
                client_id: String::new(),
                redirect_uri: String::new(),
                challenge: None,
                workspace_id: None,
                expires_at: now + Duration::from_secs(10),
            };
            codes.insert(&number.to_string(), code, now);
        }
        assert!(codes.codes.len() < 3_000, "{}", codes.codes.len());
    }
}
