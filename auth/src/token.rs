//! What a flow ends with: an access token, when it expires, and how to get the next one.

use std::{
    fmt,
    ops::RangeInclusive,
    time::{Duration, Instant, SystemTime},
};

use coze_oauth_client::types::OAuthToken;
use coze_wire::{Bearer, Secret};
use http::HeaderValue;
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result, clock::Clock, sign_in::Record};

/// An access token as Coze issued it.
///
/// `Debug` prints no secret. Send the token as [`authorization`](Token::authorization), or
/// [`expose`](Secret::expose) it where another library wants the bare string.
#[derive(Clone)]
pub struct Token {
    access_token: Secret,
    authorization: Bearer,
    refresh_token: Option<RefreshToken>,
    expires_at: SystemTime,
    lifetime: Duration,
    received: Instant,
    received_wall: SystemTime,
    log_id: Option<String>,
    client_id: Option<String>,
    clock: Clock,
}

impl Token {
    /// The access token itself.
    #[must_use]
    pub fn access_token(&self) -> &Secret {
        &self.access_token
    }

    /// A ready `Authorization` header value, `Bearer …`, marked sensitive.
    #[must_use]
    pub fn authorization(&self) -> &HeaderValue {
        self.authorization.header_value()
    }

    /// The refresh token, where the flow gives one (web, PKCE and device do, JWT does not). It works
    /// once: each refresh returns a new one and invalidates the one sent.
    #[must_use]
    pub fn refresh_token(&self) -> Option<&RefreshToken> {
        self.refresh_token.as_ref()
    }

    /// When the access token expires, **by the server's clock**.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }

    /// How long the access token had to live when it was received: what the server granted, less what
    /// the way took, and without trusting the local wall clock.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// How long it still has to live, zero when it has expired.
    ///
    /// Time is counted on the monotonic clock, and on the wall clock too, because the former stands
    /// still while a laptop sleeps: the one that ran further counts.
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

    /// Whether its life is over.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Coze's log id of the answer that brought it.
    #[must_use]
    pub fn log_id(&self) -> Option<&str> {
        self.log_id.as_deref()
    }

    /// The app that may redeem the refresh token.
    pub(crate) fn client_id(&self) -> Option<&str> {
        self.client_id.as_deref()
    }

    pub(crate) fn issued_to(self, client_id: &str) -> Self {
        Self {
            client_id: Some(client_id.to_owned()),
            ..self
        }
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

/// A refresh token of the web, PKCE and device flows. It lives 30 days and works once.
///
/// A type of its own, so that an access token can't be passed for one. It serialises as the plain
/// string, for one's own storage; `Debug` prints no secret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RefreshToken(Secret);

impl RefreshToken {
    /// Takes up a refresh token that was stored. Surrounding white space is dropped.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) when it is empty or holds white space or control
    /// characters.
    pub fn new(refresh_token: impl AsRef<str>) -> Result<Self> {
        let refresh_token = refresh_token.as_ref().trim();
        if refresh_token.is_empty() {
            return Err(Error::invalid_input("the refresh token is empty"));
        }
        if refresh_token
            .chars()
            .any(|c| c.is_whitespace() || c.is_control())
        {
            return Err(Error::invalid_input(
                "the refresh token holds white space or a control character",
            ));
        }
        Ok(Self(Secret::from(refresh_token)))
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

/// When a request was made and answered, by the local clocks, and what the server's clock said then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) began: Instant,
    pub(crate) began_wall: SystemTime,
    pub(crate) ended: Instant,
    pub(crate) ended_wall: SystemTime,
    /// The `Date` header: whole seconds.
    pub(crate) date: Option<SystemTime>,
}

impl Timing {
    /// How long the exchange took, at the most: while the system sleeps, the monotonic clock may stand still.
    fn took(&self) -> Duration {
        let awake = self.ended.duration_since(self.began);
        let shown = self.ended_wall.duration_since(self.began_wall);
        awake.max(shown.unwrap_or_default())
    }

    /// When the answer was complete, by the server's clock: the interval in which that moment lies. `Date`
    /// was true at some moment of the exchange, but for the second that it cuts off.
    fn server_interval(&self) -> Option<RangeInclusive<SystemTime>> {
        self.date
            .map(|date| date..=date + Duration::from_secs(1) + self.took())
    }

    /// The server's time when the answer was complete: the local one if nothing speaks against it, else
    /// the latest possible, which makes tokens expire sooner.
    fn server_time_at_end(&self) -> SystemTime {
        match self.server_interval() {
            Some(interval) if !interval.contains(&self.ended_wall) => *interval.end(),
            _ => self.ended_wall,
        }
    }

    /// By how many seconds the local wall clock has to be corrected to show the server's time, at the
    /// least; `None` if nothing speaks against it.
    pub(crate) fn wall_correction(&self) -> Option<i64> {
        let interval = self.server_interval()?;
        if interval.contains(&self.ended_wall) {
            return None;
        }
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).ok();
        match interval.start().duration_since(self.ended_wall) {
            Ok(behind) => seconds(behind),
            Err(ahead) => seconds(ahead.duration()).map(|seconds| -seconds),
        }
    }
}

/// `expires_in` at or above this is an absolute UNIX time, below it a duration: 10^9 s as a duration
/// would be 31 years, as a time it is the year 2001.
const ABSOLUTE_FROM: i64 = 1_000_000_000;

/// The last second of the year 9999: a larger `expires_in` means "never", and must not overflow.
const LATEST: i64 = 253_402_300_799;

/// When a token expires by the server's clock, and how long that is from now.
///
/// All of Coze's OAuth pages say that `expires_in` of a token is an absolute time
/// (<https://www.coze.cn/open/docs/developer_guides/oauth_jwt>); a duration, as in RFC 6749, is
/// understood too.
fn expiry(expires_in: i64, timing: &Timing) -> (SystemTime, Duration) {
    let server_now = timing.server_time_at_end();
    if expires_in >= ABSOLUTE_FROM {
        let seconds = expires_in.min(LATEST).unsigned_abs();
        let expires_at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let lifetime = expires_at.duration_since(server_now).unwrap_or_default();
        (expires_at, lifetime)
    } else {
        // It began to run when the server answered, at the earliest when the request was sent.
        let granted = Duration::from_secs(expires_in.max(0).unsigned_abs());
        let lifetime = granted.saturating_sub(timing.took());
        (server_now + lifetime, lifetime)
    }
}

impl Token {
    /// Takes a token answer.
    ///
    /// # Errors
    ///
    /// [`InvalidAnswer`](ErrorKind::InvalidAnswer) when there is no usable token in it.
    pub(crate) fn from_answer(
        answer: OAuthToken,
        timing: &Timing,
        clock: &Clock,
        log_id: Option<String>,
    ) -> Result<Self> {
        let authorization = Bearer::new(&answer.access_token).map_err(|why| {
            Error::new(
                ErrorKind::InvalidAnswer,
                format!("the answer's access token {why}"),
            )
        })?;
        let refresh_token = answer
            .refresh_token
            .filter(|refresh_token| !refresh_token.is_empty())
            .map(RefreshToken);
        let (expires_at, lifetime) = expiry(answer.expires_in, timing);
        Ok(Self {
            access_token: answer.access_token,
            authorization,
            refresh_token,
            expires_at,
            lifetime,
            received: timing.ended,
            received_wall: timing.ended_wall,
            log_id,
            client_id: None,
            clock: clock.clone(),
        })
    }
}

impl Token {
    /// Takes up a stored token, of whose life this much is left.
    pub(crate) fn stored(record: &Record, life: Duration, clock: &Clock) -> Result<Self> {
        let unusable = |why: &dyn std::fmt::Display| {
            Error::new(
                ErrorKind::StoreDamaged,
                format!("the stored access token {why}"),
            )
        };
        let access_token = record
            .access_token()
            .ok_or_else(|| unusable(&"is missing"))?;
        let authorization = Bearer::new(access_token).map_err(|why| unusable(&why))?;
        Ok(Self {
            access_token: access_token.clone(),
            authorization,
            refresh_token: Some(record.refresh_token().clone()),
            expires_at: record.expires_at(),
            lifetime: life,
            received: clock.monotonic(),
            received_wall: clock.wall(),
            log_id: record.log_id().map(str::to_owned),
            client_id: record.client_id().map(str::to_owned),
            clock: clock.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)
    }

    /// An exchange that took 0.5 s and ended when the local clock showed `local`.
    fn timing(local: f64, date: Option<f64>) -> Timing {
        let began = Instant::now();
        Timing {
            began,
            began_wall: at(local - 0.5),
            ended: began + Duration::from_millis(500),
            ended_wall: at(local),
            date: date.map(at),
        }
    }

    #[test]
    fn an_absolute_expiry_is_not_taken_for_a_duration() {
        let now = 1_800_000_000.0;
        let (expires_at, lifetime) = expiry(1_800_000_900, &timing(now, Some(now)));
        assert_eq!(expires_at, at(1_800_000_900.0));
        assert_eq!(lifetime, Duration::from_secs(900));
    }

    #[test]
    fn a_duration_is_counted_from_the_request() {
        let now = 1_800_000_000.0;
        let (expires_at, lifetime) = expiry(900, &timing(now, Some(now)));
        assert_eq!(lifetime, Duration::from_millis(899_500));
        assert_eq!(expires_at, at(now + 899.5));
    }

    #[test]
    fn a_wrong_local_clock_changes_no_lifetime() {
        let server = 1_800_000_000.0;
        for local in [server + 3600.0, server - 3600.0] {
            let (_, lifetime) = expiry(1_800_000_900, &timing(local, Some(server)));
            // Date's cut second and the half second on the way are given up.
            assert_eq!(lifetime, Duration::from_millis(898_500), "{local}");
        }
    }

    #[test]
    fn a_local_clock_within_the_second_that_date_cuts_off_is_right() {
        let date = 1_800_000_000.0;
        for local in [date, date + 0.9, date + 1.4] {
            assert_eq!(
                timing(local, Some(date)).server_time_at_end(),
                at(local),
                "{local}"
            );
        }
        assert_eq!(
            timing(date + 1.6, Some(date)).server_time_at_end(),
            at(date + 1.5)
        );
        assert_eq!(
            timing(date - 0.1, Some(date)).server_time_at_end(),
            at(date + 1.5)
        );
    }

    #[test]
    fn a_wrong_local_clock_is_corrected_to_the_servers() {
        let server = 1_800_000_000.0;
        for (local, correction) in [
            (server + 0.3, None),
            (server - 3600.0, Some(3600)),
            (server + 3600.0, Some(-3600)),
        ] {
            let timing = timing(local, Some(server));
            assert_eq!(timing.wall_correction(), correction, "{local}");
        }
        assert_eq!(timing(server, None).wall_correction(), None);
    }

    #[test]
    fn a_system_that_sleeps_during_the_exchange_takes_no_dead_token() {
        let server = 1_800_000_000.0;
        let slept = |hour: f64, date| Timing {
            began_wall: at(server + hour),
            ended_wall: at(server + hour + 3600.0),
            ..timing(server, date)
        };
        for expires_in in [1_800_000_900, 900] {
            for date in [Some(server), None] {
                let (_, lifetime) = expiry(expires_in, &slept(0.0, date));
                assert_eq!(lifetime, Duration::ZERO, "{expires_in} {date:?}");
            }
            // Nor where the local clock is wrong as well.
            let (_, lifetime) = expiry(expires_in, &slept(-7200.0, Some(server)));
            assert_eq!(lifetime, Duration::ZERO, "{expires_in}");
        }
    }

    #[test]
    fn a_local_clock_that_is_set_during_the_exchange_lengthens_no_life() {
        let server = 1_800_000_000.0;
        let set_right_from = |wrong: f64| Timing {
            began_wall: at(server + wrong),
            ..timing(server + 0.5, Some(server))
        };
        for wrong in [3600.0, -3600.0] {
            let (_, lifetime) = expiry(1_800_000_900, &set_right_from(wrong));
            assert_eq!(lifetime, Duration::from_millis(899_500), "{wrong}");
        }
        // A duration ran on while the system slept, for all that is known.
        let (_, lifetime) = expiry(900, &set_right_from(-3600.0));
        assert_eq!(lifetime, Duration::ZERO);
        let (_, lifetime) = expiry(900, &set_right_from(3600.0));
        assert_eq!(lifetime, Duration::from_millis(899_500));
    }

    #[test]
    fn without_a_date_the_local_clock_has_to_do() {
        let (_, lifetime) = expiry(1_800_000_900, &timing(1_800_000_000.0, None));
        assert_eq!(lifetime, Duration::from_secs(900));
    }

    #[test]
    fn absurd_expiries_neither_overflow_nor_live() {
        let timing = timing(1_800_000_000.0, None);
        for expires_in in [i64::MIN, -1, 0, ABSOLUTE_FROM] {
            assert_eq!(
                expiry(expires_in, &timing).1,
                Duration::ZERO,
                "{expires_in}"
            );
        }
        assert_eq!(expiry(i64::MAX, &timing).0, at(LATEST as f64));
        assert_eq!(
            expiry(2_208_988_800, &timing).0,
            at(2_208_988_800.0),
            "after 2038"
        );
    }

    #[test]
    fn a_stored_refresh_token_is_trimmed_and_checked() {
        assert_eq!(RefreshToken::new(" rt\n").unwrap().expose(), "rt");
        for bad in ["", "  ", "a b", "a\nhush"] {
            let error = RefreshToken::new(bad).unwrap_err();
            assert!(!error.to_string().contains("hush"), "{error}");
        }
        let kept = serde_json::to_string(&RefreshToken::new("rt").unwrap()).unwrap();
        assert_eq!(kept, "\"rt\"");
    }
}
