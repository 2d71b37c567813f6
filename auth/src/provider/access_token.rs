//! The token that a provider yields.

use std::fmt;

use coze_wire::{Bearer, InvalidBearer, Secret};
use http::HeaderValue;

use crate::{Error, Result, input::credential};

/// What stands before the token in an `Authorization` value.
const SCHEME: &str = "Bearer ";

/// An access token, ready to be sent: a sensitive `Authorization` header value, from which the bare token
/// can be read. Cloning it allocates nothing. `Debug` prints no secret.
#[derive(Clone)]
pub struct AccessToken(Bearer);

impl AccessToken {
    /// Takes up a token from elsewhere, for a [`TokenProvider`](crate::TokenProvider) of one's own.
    /// Surrounding white space, one pair of quotation marks and escaped line breaks, as env files leave them, are dropped.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when it is empty, or holds anything that a token can't: the
    /// error names the character, never the token.
    pub fn new(token: impl AsRef<str>) -> Result<Self> {
        Self::of(&credential("access token", token.as_ref())?)
    }

    pub(crate) fn of(token: &Secret) -> Result<Self> {
        Bearer::new(token).map(Self).map_err(unfit)
    }

    /// One that is cloned by one core while others clone theirs.
    pub(super) fn padded(token: &Secret) -> Result<Self> {
        Bearer::padded(token).map(Self).map_err(unfit)
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

    /// The `Authorization` header value itself.
    #[must_use]
    pub fn into_authorization(self) -> HeaderValue {
        self.0.into()
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
        // Both are in our hands: nothing is learned from how long it takes.
        self.authorization().as_bytes() == other.authorization().as_bytes()
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

    #[test]
    fn the_header_is_sensitive_and_the_bare_token_is_inside_it() {
        let token = AccessToken::new(" czs_hush\n").unwrap();
        assert!(token.authorization().is_sensitive());
        assert_eq!(token.expose(), "czs_hush");
        assert_eq!(format!("{token:?}"), "AccessToken(****)");
        assert!(AccessToken::new("a b").is_err());
    }
}
