//! [`Token`] and [`RefreshToken`]: the result of a flow. A token is read from the response in `answer.rs`
//! (`Answer::token`).

use std::{
    fmt,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    AccessToken, Endpoint, Error, RefreshToken, Result,
    clock::Clock,
    expires_in::{Life, Timing},
    input::cleaned,
};

/// An access token, its expiry, and the refresh token if the flow returns one.
///
/// To refresh it, pass it to [`CachedProvider::in_memory`](crate::CachedProvider::in_memory) or store it with
/// [`SignIn::put`](crate::SignIn::put). It converts into an [`AccessToken`](crate::AccessToken) and a
/// [`FixedToken`](crate::FixedToken) with `From`.
///
/// `Debug` prints no secret. It is accepted wherever an [`AccessToken`](crate::AccessToken) is, and sent as its
/// [`authorization`](crate::AccessToken::authorization).
///
/// ```no_run
/// # async fn example(jwt: coze_auth::JwtFlow) -> coze_auth::Result<()> {
/// let token = jwt.token().await?;
/// let call = jwt.client().api_call(&token);
/// let header = token.access_token().authorization();
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Token {
    access_token: AccessToken,
    pub(crate) refresh_token: Option<RefreshToken>,
    pub(crate) expires_at: SystemTime,
    lifetime: Duration,
    is_lifetime_assumed: bool,
    received: Instant,
    received_wall: SystemTime,
    pub(crate) log_id: Option<String>,
    pub(crate) client_id: Option<String>,
    pub(crate) api_base: Option<String>,
    clock: Clock,
}

impl Token {
    /// The access token, ready to be sent.
    #[must_use]
    pub fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    /// The refresh token, if the flow returns one: web, PKCE and device do, JWT does not. It is single-use: each
    /// refresh returns a new one and invalidates the previous one.
    #[must_use]
    pub fn refresh_token(&self) -> Option<&RefreshToken> {
        self.refresh_token.as_ref()
    }

    /// When the access token expires, **by the server's clock**.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }

    pub(crate) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    pub(crate) fn is_lifetime_assumed(&self) -> bool {
        self.is_lifetime_assumed
    }

    /// The remaining lifetime; zero if the token has expired. If `expires_in` of the response could not be parsed, or was
    /// longer than Coze grants, the lifetime is Coze's default of 15 minutes, or the requested one if that is shorter.
    ///
    /// Measured on the monotonic and the wall clock, because the monotonic clock may stop while the system is
    /// suspended. The clock with the longer elapsed time counts.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let monotonic = self
            .clock
            .monotonic()
            .saturating_duration_since(self.received);
        let wall = self
            .clock
            .wall()
            .duration_since(self.received_wall)
            .unwrap_or_default();
        self.lifetime.saturating_sub(monotonic.max(wall))
    }

    /// Coze's log id of the response.
    #[must_use]
    pub fn log_id(&self) -> Option<&str> {
        self.log_id.as_deref()
    }

    /// The client id of the app that can redeem the refresh token.
    pub(crate) fn client_id(&self) -> Option<&str> {
        self.client_id.as_deref()
    }

    /// The API base of the endpoint that can redeem the refresh token.
    pub(crate) fn api_base(&self) -> Option<&str> {
        self.api_base.as_deref()
    }

    pub(crate) fn issued_to(self, client_id: &str, endpoint: &Endpoint) -> Self {
        Self {
            client_id: Some(client_id.to_owned()),
            api_base: Some(endpoint.api_base().to_owned()),
            ..self
        }
    }
}

impl From<&Token> for AccessToken {
    fn from(token: &Token) -> Self {
        token.access_token().clone()
    }
}

impl From<Token> for AccessToken {
    fn from(token: Token) -> Self {
        Self::from(&token)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("access_token", &self.access_token)
            .field("refresh_token", &self.refresh_token)
            .field("expires_at", &self.expires_at)
            .field("lifetime", &self.lifetime)
            .field("log_id", &self.log_id)
            .finish_non_exhaustive()
    }
}

impl RefreshToken {
    /// Wraps a stored refresh token. Surrounding white space and one pair of quotation marks are removed; `Deserialize`
    /// keeps them.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when it is empty.
    pub fn new(refresh_token: impl AsRef<str>) -> Result<Self> {
        let refresh_token = cleaned(refresh_token.as_ref());
        if refresh_token.is_empty() {
            return Err(Error::invalid_input("the refresh token is empty"));
        }
        Ok(Self::of(refresh_token.into()))
    }
}

impl Token {
    /// Creates a token from the members of a response.
    pub(crate) fn received(
        access_token: AccessToken,
        refresh_token: Option<RefreshToken>,
        life: Life,
        timing: &Timing,
        log_id: Option<String>,
        clock: &Clock,
    ) -> Self {
        Self {
            access_token,
            refresh_token,
            expires_at: life.expires_at,
            lifetime: life.lifetime,
            is_lifetime_assumed: life.is_assumed,
            received: timing.ended,
            received_wall: timing.ended_wall,
            log_id,
            client_id: None,
            api_base: None,
            clock: clock.clone(),
        }
    }

    /// Creates a token with this remaining lifetime, without refresh token and log id.
    pub(crate) fn valid_from_now(
        access_token: AccessToken,
        lifetime: Duration,
        clock: &Clock,
    ) -> Self {
        let now = clock.wall();
        Self {
            access_token,
            refresh_token: None,
            expires_at: now.checked_add(lifetime).unwrap_or(now),
            lifetime,
            is_lifetime_assumed: false,
            received: clock.monotonic(),
            received_wall: now,
            log_id: None,
            client_id: None,
            api_base: None,
            clock: clock.clone(),
        }
    }
}

#[cfg(test)]
impl Token {
    /// A token that was just received, without a refresh token.
    pub(crate) fn for_test(access_token: &str, lifetime: Duration, clock: &Clock) -> Self {
        let access_token = AccessToken::new(access_token).unwrap();
        Self::valid_from_now(access_token, lifetime, clock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_refresh_token_is_trimmed_and_checked() {
        assert_eq!(RefreshToken::new(" rt\n").unwrap().expose(), "rt");
        for bad in ["", "  "] {
            assert!(RefreshToken::new(bad).is_err());
        }
        let kept = serde_json::to_string(&RefreshToken::new("rt").unwrap()).unwrap();
        assert_eq!(kept, "\"rt\"");
    }

    #[test]
    fn white_space_inside_a_refresh_token_is_kept() {
        for odd in ["a b", "a\nb", " \u{0}a "] {
            let json = serde_json::to_string(odd).unwrap();
            let refresh_token: RefreshToken = serde_json::from_str(&json).unwrap();
            assert_eq!(refresh_token.expose(), odd);
        }
        assert_eq!(RefreshToken::new("a b\n").unwrap().expose(), "a b");
    }
}
