//! Parses `expires_in` into a lifetime: seconds or milliseconds, a duration or an absolute time. Tolerates clock skew on
//! either side.
//!
//! How long before its expiry a token is refreshed is decided in `refresh_window.rs`.

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;

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
    /// An upper bound of how long the exchange took. The monotonic clock may stop while the system is suspended, so the wall
    /// clock counts too.
    fn took(&self) -> Duration {
        let awake = self.ended.duration_since(self.began);
        let shown = self.ended_wall.duration_since(self.began_wall);
        awake.max(shown.unwrap_or_default())
    }

    /// The interval of server time in which the response was completed. The server set `Date` at some moment of the
    /// exchange, truncated to whole seconds.
    fn server_interval(&self) -> Option<RangeInclusive<SystemTime>> {
        self.date.map(|date| date..=date + DATE_STEP + self.took())
    }

    /// The smallest correction, in seconds, that makes the local wall clock agree with the server's; `None` if there is no
    /// evidence of clock skew.
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

/// `Date` has whole seconds.
const DATE_STEP: Duration = Duration::from_secs(1);

/// `expires_in` at or above this is an absolute time in milliseconds.
const MILLISECONDS_FROM: f64 = 1e12;

/// `expires_in` at or above this is an absolute UNIX time, below it a duration: as a duration, 10^9 s is 31 years; as a
/// time, it is in the year 2001.
const ABSOLUTE_FROM: f64 = 1e9;

/// No flow grants a longer lifetime: a longer one is a misread value or the result of clock skew.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How far a lifetime may differ from the expected one and still count as the expected one.
const CLOSE: Duration = Duration::from_secs(5);

/// The lifetime of a token or device code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    /// The lifetime when the response was sent, as far as that is known.
    pub(crate) granted: Duration,
    /// The lifetime that remained when the response was complete.
    pub(crate) lifetime: Duration,
    /// By the server's clock.
    pub(crate) expires_at: SystemTime,
    /// `expires_in` could not be read, so the default lifetime is assumed.
    pub(crate) is_assumed: bool,
}

/// The lifetimes that Coze can grant for a request. `expires_in` is checked against them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Granted {
    /// The requested lifetime, or Coze's default.
    usual: Duration,
    /// Used when `expires_in` can't be read.
    assumed: Duration,
    longest: Duration,
}

impl Granted {
    /// Coze's default: <https://www.coze.cn/open/docs/developer_guides/oauth_jwt>.
    const DEFAULT_TOKEN: Duration = Duration::from_secs(900);
    /// The documented default: <https://www.coze.cn/open/docs/developer_guides/oauth_device_code>.
    const DEFAULT_DEVICE_CODE: Duration = Duration::from_secs(300);

    /// For a token with the requested lifetime, or with the default one if `asked` is `None`.
    pub(crate) fn token(asked: Option<Duration>) -> Self {
        // The request contains whole seconds.
        let asked = asked.map(|asked| Duration::from_secs(asked.as_secs()));
        Self {
            usual: asked.unwrap_or(Self::DEFAULT_TOKEN),
            assumed: asked.map_or(Self::DEFAULT_TOKEN, |asked| asked.min(Self::DEFAULT_TOKEN)),
            longest: asked.unwrap_or(LONGEST_LIFE),
        }
    }

    pub(crate) fn device_code() -> Self {
        Self {
            usual: Self::DEFAULT_DEVICE_CODE,
            assumed: Self::DEFAULT_DEVICE_CODE,
            longest: LONGEST_LIFE,
        }
    }

    /// Parses `expires_in`.
    ///
    /// All of Coze's OAuth pages say that `expires_in` of a token is an absolute time
    /// (<https://www.coze.cn/open/docs/developer_guides/oauth_jwt>); a duration, as in RFC 6749, and milliseconds are
    /// accepted too.
    pub(crate) fn life(&self, expires_in: Option<&Value>, timing: &Timing) -> Life {
        let seconds = match expires_in.and_then(number) {
            None => return self.assumed_life(timing),
            Some(milliseconds) if milliseconds >= MILLISECONDS_FROM => milliseconds / 1000.0,
            Some(seconds) => seconds,
        };
        if seconds >= ABSOLUTE_FROM {
            return self.absolute(seconds, timing);
        }
        let granted = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
        if granted > self.longest {
            return self.assumed_life(timing);
        }
        // The lifetime starts when the server responds; at the earliest, when the request was sent.
        ending_in(granted, timing)
    }

    /// The default lifetime, used when `expires_in` can't be read.
    fn assumed_life(&self, timing: &Timing) -> Life {
        Life {
            is_assumed: true,
            ..ending_in(self.assumed, timing)
        }
    }

    /// An absolute time gives one lifetime by `Date` and another by the local clock. A lifetime that can't have been granted
    /// is rejected. If both are possible, the shorter one is used, unless only the longer one is as expected.
    fn absolute(&self, seconds: f64, timing: &Timing) -> Life {
        let since_epoch = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let Some(expires_at) = SystemTime::UNIX_EPOCH.checked_add(since_epoch) else {
            return self.assumed_life(timing);
        };
        let until = |now: SystemTime| expires_at.duration_since(now).unwrap_or_default();
        let local = until(timing.ended_wall);
        let by_date = match timing.server_interval() {
            // The local clock is consistent with `Date`.
            Some(interval) if interval.contains(&timing.ended_wall) => None,
            Some(interval) => Some(until(*interval.start() + DATE_STEP)),
            None => None,
        };
        let is_possible = |life: &Duration| !life.is_zero() && *life <= self.longest;
        let is_usual = |life: Duration| {
            let is_close = |to: Duration| life.abs_diff(to) <= CLOSE;
            is_close(self.usual) || is_close(self.assumed)
        };
        let by_date_now = |life: Duration| life.saturating_sub(timing.took());
        let lifetime = match (by_date.filter(is_possible), Some(local).filter(is_possible)) {
            (Some(by_date), Some(local)) => {
                let (shorter, longer) = (by_date.min(local), by_date.max(local));
                let chosen = if is_usual(longer) && !is_usual(shorter) {
                    longer
                } else {
                    shorter
                };
                if chosen == by_date {
                    by_date_now(chosen)
                } else {
                    chosen
                }
            }
            (Some(by_date), None) => by_date_now(by_date),
            (None, Some(local)) => local,
            // Expired by both clocks.
            (None, None) if local.is_zero() && by_date.is_none_or(|life| life.is_zero()) => {
                Duration::ZERO
            }
            (None, None) => return self.assumed_life(timing),
        };
        Life {
            granted: lifetime,
            lifetime,
            expires_at,
            is_assumed: false,
        }
    }
}

fn ending_in(granted: Duration, timing: &Timing) -> Life {
    let lifetime = granted.saturating_sub(timing.took());
    Life {
        granted,
        lifetime,
        expires_at: server_time_at_end(timing) + lifetime,
        is_assumed: false,
    }
}

/// An integer, a float, or digits in a string.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64().filter(|number| number.is_finite()),
        Value::String(text) => {
            let digits = text.trim();
            let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| digits.parse().ok()).flatten()
        }
        _ => None,
    }
}

/// The server's time when the response was complete: the local time if it is consistent with `Date`, else the latest
/// possible time.
fn server_time_at_end(timing: &Timing) -> SystemTime {
    match timing.server_interval() {
        Some(interval) if !interval.contains(&timing.ended_wall) => *interval.end(),
        _ => timing.ended_wall,
    }
}

/// The minimum interval between two polls. Falls back to RFC 8628's 5 seconds if `interval` can't be read or is
/// implausible, for example a millisecond.
pub(crate) fn poll_interval(interval: Option<&Value>) -> Duration {
    const DEFAULT: Duration = Duration::from_secs(5);
    const SHORTEST: Duration = Duration::from_secs(1);
    interval
        .and_then(number)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|interval| (SHORTEST..=LONGEST_LIFE).contains(interval))
        .unwrap_or(DEFAULT)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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

    fn life(expires_in: impl Into<Value>, timing: &Timing) -> Life {
        Granted::token(None).life(Some(&expires_in.into()), timing)
    }

    fn lifetime(expires_in: impl Into<Value>, timing: &Timing) -> Duration {
        life(expires_in, timing).lifetime
    }

    const NOW: f64 = 1_800_000_000.0;
    const SECS: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn an_absolute_expiry_is_not_mistaken_for_a_duration() {
        let life = life(1_800_000_900, &timing(NOW, Some(NOW)));
        assert_eq!(life.expires_at, at(1_800_000_900.0));
        assert_eq!(life.lifetime, SECS(900));
    }

    #[test]
    fn a_duration_is_counted_from_the_request() {
        let life = life(900, &timing(NOW, Some(NOW)));
        assert_eq!(life.lifetime, Duration::from_millis(899_500));
        assert_eq!(life.expires_at, at(NOW + 899.5));
    }

    #[test]
    fn strings_fractions_and_milliseconds_are_parsed() {
        let timing = timing(NOW, Some(NOW));
        for relative in [json!("900"), json!(" 900 "), json!(900.0)] {
            assert_eq!(lifetime(relative, &timing), Duration::from_millis(899_500));
        }
        for absolute in [
            json!(1_800_000_900_000_i64),
            json!("1800000900000"),
            json!(1.8000009e9),
            json!("1800000900"),
        ] {
            let life = life(absolute.clone(), &timing);
            assert_eq!(life.lifetime, SECS(900), "{absolute}");
            assert!(!life.is_assumed, "{absolute}");
        }
    }

    #[test]
    fn an_unreadable_expiry_is_the_default_lifetime_or_the_requested_one_if_shorter() {
        let timing = timing(NOW, Some(NOW));
        let unreadable = [
            None,
            Some(Value::Null),
            Some(json!("")),
            Some(json!("soon")),
            Some(json!("-5")),
            Some(json!({"seconds": 900})),
            Some(json!(true)),
            // Longer than any flow grants.
            Some(json!(86_401)),
            Some(json!(900_000)),
            Some(json!(1_800_086_401)),
            Some(json!(i64::MAX)),
            Some(json!(1e300)),
        ];
        for (asked, assumed) in [(None, 900), (Some(60), 60), (Some(7200), 900)] {
            let granted = Granted::token(asked.map(SECS));
            for expires_in in &unreadable {
                let life = granted.life(expires_in.as_ref(), &timing);
                assert!(life.is_assumed, "{expires_in:?}");
                assert_eq!(life.lifetime, SECS(assumed) - timing.took());
            }
        }
        let device_code = Granted::device_code().life(None, &timing);
        assert_eq!(device_code.lifetime, SECS(300) - timing.took());
    }

    #[test]
    fn a_lifetime_longer_than_requested_is_rejected() {
        let timing = timing(NOW, Some(NOW));
        let granted = Granted::token(Some(SECS(3600)));
        for (expires_in, is_assumed) in [
            (3600, false),
            (3601, true),
            (1_800_003_600, false),
            (1_800_003_601, true),
        ] {
            let life = granted.life(Some(&json!(expires_in)), &timing);
            assert_eq!(life.is_assumed, is_assumed, "{expires_in}");
        }
    }

    #[test]
    fn a_wrong_local_clock_changes_no_lifetime() {
        for local in [NOW + 3600.0, NOW - 3600.0, NOW + 600.0] {
            // One second is lost to the truncation of `Date`, half a second to network latency.
            let lifetime = lifetime(1_800_000_900, &timing(local, Some(NOW)));
            assert_eq!(lifetime, Duration::from_millis(898_500), "{local}");
        }
    }

    #[test]
    fn a_wrong_date_changes_no_lifetime() {
        for date in [
            NOW - 7200.0,
            NOW - 30.0,
            NOW + 600.0,
            NOW + 7200.0,
            NOW - 1e8,
            0.0,
            2e9,
        ] {
            let lifetime = lifetime(1_800_000_900, &timing(NOW, Some(date)));
            assert_eq!(lifetime, SECS(900), "{date}");
        }
    }

    #[test]
    fn of_two_possible_lifetimes_the_shorter_counts_unless_the_longer_is_the_expected_one() {
        let asked = |seconds| Granted::token(Some(SECS(seconds)));
        let absolute = |granted: Granted, lives: i64, local, date| {
            granted
                .life(
                    Some(&json!(1_800_000_000 + lives)),
                    &timing(local, Some(date)),
                )
                .lifetime
                .as_secs()
        };
        // The local clock is 100 s slow: it suggests 3,600 s, which were not granted.
        assert_eq!(absolute(asked(3600), 3600, NOW - 100.0, NOW), 3598);
        // The local clock is 1,000 s fast, and `Date` is correct.
        assert_eq!(absolute(asked(3600), 3600, NOW + 1000.0, NOW), 3598);
        // Neither is the requested lifetime: Coze granted less, and `Date` is slow.
        assert_eq!(absolute(asked(3600), 1800, NOW, NOW - 100.0), 1800);
        // The same, with a slow local clock.
        assert_eq!(absolute(asked(3600), 1800, NOW - 100.0, NOW), 1798);
    }

    #[test]
    fn a_lifetime_that_has_ended_by_every_clock_is_zero() {
        for (local, date) in [(NOW, Some(NOW)), (NOW, None), (NOW, Some(NOW + 100.0))] {
            let timing = timing(local, date);
            for over in [
                json!(0),
                json!(-5),
                json!(1_799_999_999),
                json!(1_000_000_000),
            ] {
                let life = life(over.clone(), &timing);
                assert_eq!(life.lifetime, Duration::ZERO, "{over} {date:?}");
                assert!(!life.is_assumed);
            }
        }
    }

    #[test]
    fn a_local_clock_within_the_truncated_second_of_date_is_correct() {
        for local in [NOW, NOW + 0.9, NOW + 1.4] {
            assert_eq!(
                server_time_at_end(&timing(local, Some(NOW))),
                at(local),
                "{local}"
            );
        }
        for local in [NOW + 1.6, NOW - 0.1] {
            assert_eq!(server_time_at_end(&timing(local, Some(NOW))), at(NOW + 1.5));
        }
    }

    #[test]
    fn a_wrong_local_clock_is_corrected_to_the_servers() {
        for (local, correction) in [
            (NOW + 0.3, None),
            (NOW - 3600.0, Some(3600)),
            (NOW + 3600.0, Some(-3600)),
        ] {
            let timing = timing(local, Some(NOW));
            assert_eq!(timing.wall_correction(), correction, "{local}");
        }
        assert_eq!(timing(NOW, None).wall_correction(), None);
    }

    #[test]
    fn a_token_that_expires_during_a_system_suspend_is_not_used() {
        let slept = |hour: f64, date| Timing {
            began_wall: at(NOW + hour),
            ended_wall: at(NOW + hour + 3600.0),
            ..timing(NOW, date)
        };
        for expires_in in [1_800_000_900, 900] {
            for date in [Some(NOW), None] {
                let lifetime = lifetime(expires_in, &slept(0.0, date));
                assert_eq!(lifetime, Duration::ZERO, "{expires_in} {date:?}");
            }
            // The same, with a wrong local clock.
            let lifetime = lifetime(expires_in, &slept(-7200.0, Some(NOW)));
            assert_eq!(lifetime, Duration::ZERO, "{expires_in}");
        }
    }

    #[test]
    fn a_local_clock_that_is_set_during_the_exchange_extends_no_lifetime() {
        let set_right_from = |wrong: f64| Timing {
            began_wall: at(NOW + wrong),
            ..timing(NOW + 0.5, Some(NOW))
        };
        for wrong in [3600.0, -3600.0] {
            let lifetime = lifetime(1_800_000_900, &set_right_from(wrong));
            assert_eq!(lifetime, Duration::from_millis(899_500), "{wrong}");
        }
        // A duration may have elapsed while the system was suspended.
        assert_eq!(lifetime(900, &set_right_from(-3600.0)), Duration::ZERO);
        assert_eq!(
            lifetime(900, &set_right_from(3600.0)),
            Duration::from_millis(899_500)
        );
    }

    #[test]
    fn without_a_date_the_local_clock_is_used() {
        assert_eq!(lifetime(1_800_000_900, &timing(NOW, None)), SECS(900));
        assert_eq!(
            lifetime(2_208_988_800_i64, &timing(2_208_988_000.0, None)),
            SECS(800),
            "after 2038"
        );
    }

    #[test]
    fn the_poll_interval_is_the_servers_or_five_seconds() {
        for (interval, expected) in [
            (json!(5), 5.0),
            (json!(1), 1.0),
            (json!("7"), 7.0),
            (json!(5.5), 5.5),
            (json!(0), 5.0),
            (json!(0.001), 5.0),
            (json!(1e-300), 5.0),
            (json!(-1), 5.0),
            (json!("soon"), 5.0),
            (Value::Null, 5.0),
            (json!(300), 300.0),
            (json!(1e300), 5.0),
            (json!(1_800_000_000), 5.0),
        ] {
            assert_eq!(
                poll_interval(Some(&interval)).as_secs_f64(),
                expected,
                "{interval}"
            );
        }
        assert_eq!(poll_interval(None), SECS(5));
    }
}
