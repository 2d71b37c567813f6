//! Device authorizations: pending, approved or refused, and the polling interval with `slow_down` (RFC 8628).

use super::{Sweep, forget_first};
use crate::limits;
use crate::secret::{Digest, digest_of};
use std::collections::HashMap;
use std::time::Duration;

/// One pending device authorization.
#[derive(Clone, Debug)]
pub(crate) struct DeviceAuthorization {
    pub(crate) client_id: String,
    pub(crate) workspace_id: Option<String>,
    pub(crate) user_code: String,
    pub(crate) expires_at: Duration,
    pub(crate) interval: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Pending,
    Approved,
    Denied,
    Redeemed,
}

/// The result of a poll.
#[derive(Debug)]
pub(crate) enum Poll {
    Pending,
    SlowDown,
    Denied,
    Expired,
    Approved(DeviceAuthorization),
    Unknown,
    AlreadyRedeemed,
}

/// RFC 8628 section 3.5: each `slow_down` increases the interval by this much.
const SLOW_DOWN_STEP: Duration = Duration::from_secs(5);
/// Tolerance for timers that fire early and for network jitter.
const GRACE: Duration = Duration::from_millis(50);
/// How long an expired device code is distinguished from an unknown one.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// All device authorizations.
#[derive(Default)]
pub(crate) struct Devices {
    devices: HashMap<Digest, Kept>,
    by_user_code: HashMap<String, Digest>,
    sweep: Sweep,
}

struct Kept {
    device: DeviceAuthorization,
    stage: Stage,
    last_poll: Option<Duration>,
}

impl Devices {
    /// Stores a new authorization; `false` if its user code is in use.
    pub(crate) fn insert(
        &mut self,
        device_code: &str,
        device: DeviceAuthorization,
        now: Duration,
    ) -> bool {
        if self.sweep.is_due(self.devices.len()) {
            self.devices
                .retain(|_, kept| now < kept.device.expires_at.saturating_add(REMEMBERED));
            self.by_user_code
                .retain(|_, digest| self.devices.contains_key(digest));
        }
        if self.devices.len() >= limits::DEVICES {
            forget_first(&mut self.devices, limits::DEVICES, |kept| {
                kept.device.expires_at
            });
            self.by_user_code
                .retain(|_, digest| self.devices.contains_key(digest));
        }
        let user_code = normalized(&device.user_code);
        if self.by_user_code.contains_key(&user_code) {
            return false;
        }
        let digest = digest_of(device_code);
        self.by_user_code.insert(user_code, digest);
        self.devices.insert(
            digest,
            Kept {
                device,
                stage: Stage::Pending,
                last_poll: None,
            },
        );
        true
    }

    /// Replaces the device code of an authorization.
    pub(crate) fn rename(&mut self, known: &str, sent: &str) {
        let (known, sent) = (digest_of(known), digest_of(sent));
        if let Some(kept) = self.devices.remove(&known) {
            self.by_user_code
                .insert(normalized(&kept.device.user_code), sent);
            self.devices.insert(sent, kept);
        }
    }

    pub(crate) fn poll(&mut self, device_code: &str, client_id: &str, now: Duration) -> Poll {
        let Some(kept) = self.devices.get_mut(&digest_of(device_code)) else {
            return Poll::Unknown;
        };
        if kept.device.client_id != client_id {
            return Poll::Unknown;
        }
        if kept.stage == Stage::Redeemed {
            return Poll::AlreadyRedeemed;
        }
        if now >= kept.device.expires_at {
            return Poll::Expired;
        }
        match kept.stage {
            Stage::Denied => return Poll::Denied,
            Stage::Approved => {
                kept.stage = Stage::Redeemed;
                return Poll::Approved(kept.device.clone());
            }
            Stage::Pending | Stage::Redeemed => {}
        }
        let too_fast = kept.last_poll.is_some_and(|last| {
            now.saturating_sub(last).saturating_add(GRACE) < kept.device.interval
        });
        kept.last_poll = Some(now);
        if too_fast {
            kept.device.interval = kept.device.interval.saturating_add(SLOW_DOWN_STEP);
            return Poll::SlowDown;
        }
        Poll::Pending
    }

    /// The pending authorization with this user code.
    pub(crate) fn waiting(&self, user_code: &str, now: Duration) -> Option<&DeviceAuthorization> {
        let kept = self
            .devices
            .get(self.by_user_code.get(&normalized(user_code))?)?;
        (kept.stage == Stage::Pending && now < kept.device.expires_at).then_some(&kept.device)
    }

    /// Stores the user's decision; `false` if no authorization with this code is pending.
    pub(crate) fn decide(&mut self, user_code: &str, approved: bool, now: Duration) -> bool {
        if self.waiting(user_code, now).is_none() {
            return false;
        }
        let Some(kept) = self
            .by_user_code
            .get(&normalized(user_code))
            .and_then(|digest| self.devices.get_mut(digest))
        else {
            return false;
        };
        kept.stage = if approved {
            Stage::Approved
        } else {
            Stage::Denied
        };
        true
    }
}

/// Users type codes in any case, omit dashes or add spaces (RFC 8628 section 6.1).
fn normalized(user_code: &str) -> String {
    user_code
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|letter| letter.to_ascii_uppercase())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn one() -> Devices {
        let mut devices = Devices::default();
        let device = DeviceAuthorization {
            client_id: "app".into(),
            workspace_id: None,
            user_code: "WDJB-MJHT".into(),
            expires_at: at(300_000),
            interval: at(5_000),
        };
        assert!(devices.insert("dc", device.clone(), at(0)));
        assert!(
            !devices.insert("another", device, at(0)),
            "a user code belongs to one device"
        );
        devices
    }

    #[test]
    fn polling_too_fast_slows_down_by_five_seconds_each_time() {
        let mut devices = one();
        for (now, slow) in [
            (0, false),
            (4_900, true),
            (14_800, true),
            (24_900, true),
            (45_000, false),
        ] {
            let poll = devices.poll("dc", "app", at(now));
            assert_eq!(
                matches!(poll, Poll::SlowDown),
                slow,
                "at {now} ms: {poll:?}"
            );
        }
    }

    #[test]
    fn device_authorizations_are_bounded() {
        let mut devices = Devices::default();
        let count = limits::DEVICES + 10;
        for number in 0..count {
            let device = DeviceAuthorization {
                client_id: String::new(),
                workspace_id: None,
                user_code: number.to_string(),
                expires_at: Duration::MAX,
                interval: Duration::MAX,
            };
            assert!(devices.insert(&number.to_string(), device, Duration::MAX));
        }
        assert!(devices.devices.len() <= limits::DEVICES);
        assert_eq!(devices.devices.len(), devices.by_user_code.len());
        let last = (count - 1).to_string();
        assert!(matches!(devices.poll(&last, "", at(1)), Poll::Pending));
        assert!(matches!(devices.poll(&last, "", at(2)), Poll::SlowDown));
    }

    #[test]
    fn a_decision_is_final_and_an_approval_is_redeemed_once() {
        let mut devices = one();
        assert!(devices.decide(" wdjb mjht", true, at(1)));
        assert!(!devices.decide("WDJB-MJHT", false, at(2)));
        assert!(matches!(devices.poll("dc", "other", at(3)), Poll::Unknown));
        assert!(matches!(
            devices.poll("dc", "app", at(3)),
            Poll::Approved(_)
        ));
        assert!(matches!(
            devices.poll("dc", "app", at(4)),
            Poll::AlreadyRedeemed
        ));
    }

    #[test]
    fn an_approval_expires_with_its_device_code() {
        let mut devices = one();
        assert!(devices.decide("WDJB-MJHT", true, at(1)));
        assert!(matches!(
            devices.poll("dc", "app", at(300_000)),
            Poll::Expired
        ));
    }
}
