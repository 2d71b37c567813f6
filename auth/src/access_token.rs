//! [`AccessToken`], the token that a provider returns.

use std::fmt;

use coze_wire::{Bearer, InvalidBearer, Secret};
use http::HeaderValue;

use crate::{Error, Result, input::credential};

/// The prefix of the `Authorization` header value.
const SCHEME: &str = "Bearer ";

/// An access token, ready to be sent: a sensitive `Authorization` header value, from which the bare token
/// can be read. Cloning it allocates nothing. `Debug` prints no secret.
#[derive(Clone)]
pub struct AccessToken(Bearer);

impl AccessToken {
    /// Wraps an existing token, for your own [`TokenProvider`](crate::TokenProvider). Surrounding white space, one pair of
    /// quotation marks and escaped line breaks, as env files contain them, are removed. For a [`Token`](crate::Token) of a flow, use
    /// `From`.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if it is empty or contains a character that no token contains. The
    /// error names the character, never the token.
    pub fn new(token: impl AsRef<str>) -> Result<Self> {
        Self::of(&credential("access token", token.as_ref())?)
    }

    pub(crate) fn of(token: &Secret) -> Result<Self> {
        Bearer::new(token).map(Self).map_err(unfit)
    }

    /// A copy in a separate buffer. Clones share the reference count of their buffer, which cores would contend for.
    pub(crate) fn padded(&self) -> Self {
        let token = Secret::from(self.expose());
        // It was valid in a header, so this does not fail.
        Bearer::padded(&token).map_or_else(|_| self.clone(), Self)
    }

    pub(crate) fn of_bearer(bearer: Bearer) -> Self {
        Self(bearer)
    }

    pub(crate) fn bearer(&self) -> Bearer {
        self.0.clone()
    }

    /// The `Authorization` header value, `Bearer …`, marked sensitive.
    #[must_use]
    #[inline]
    pub fn authorization(&self) -> &HeaderValue {
        self.0.header_value()
    }

    /// The bare token. Keep the borrow short, and never format it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.authorization()
            .to_str()
            .ok()
            .and_then(|value| value.strip_prefix(SCHEME))
            .unwrap_or_default()
    }

    /// Whether both are the same token.
    pub(crate) fn is(&self, other: &Self) -> bool {
        // Both tokens are our own, so no constant-time comparison is needed.
        self.authorization().as_bytes() == other.authorization().as_bytes()
    }
}

/// The `Authorization` header value.
impl From<AccessToken> for HeaderValue {
    fn from(token: AccessToken) -> Self {
        token.0.into()
    }
}

impl From<&AccessToken> for AccessToken {
    fn from(token: &AccessToken) -> Self {
        token.clone()
    }
}

fn unfit(why: InvalidBearer) -> Error {
    Error::invalid_input(format!("the access token {why}"))
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(****)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Token;

    #[test]
    fn a_token_of_a_flow_converts_into_an_access_token() {
        let life = std::time::Duration::from_secs(900);
        let token = Token::for_test("czs_hush", life, &crate::clock::Clock::System);
        assert_eq!(AccessToken::from(&token).expose(), "czs_hush");
        assert!(AccessToken::from(token).authorization().is_sensitive());
    }

    #[test]
    fn the_header_is_sensitive_and_contains_the_bare_token() {
        let token = AccessToken::new(" czs_hush\n").unwrap();
        assert!(token.authorization().is_sensitive());
        assert_eq!(token.expose(), "czs_hush");
        assert_eq!(format!("{token:?}"), "AccessToken(****)");
        assert!(AccessToken::new("a b").is_err());
    }
}
