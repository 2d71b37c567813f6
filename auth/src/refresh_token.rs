//! [`RefreshToken`]. It depends on nothing of this crate, because an error may hold one.

use std::fmt;

use coze_wire::Secret;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A refresh token of the web, PKCE and device flows. It is valid for 30 days, and single-use.
///
/// A type of its own, so that an access token can't be passed for one. It serialises as the plain
/// string, for your own storage; `Debug` prints no secret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RefreshToken(Secret);

impl RefreshToken {
    /// What an answer holds, unchanged: all that JSON can carry comes back in a request.
    pub(crate) fn of_answer(mut refresh_token: Zeroizing<String>) -> Self {
        Self(Secret::from(std::mem::take(&mut *refresh_token)))
    }

    pub(crate) fn of(refresh_token: Secret) -> Self {
        Self(refresh_token)
    }

    /// The refresh token itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.0
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshToken(****)")
    }
}
