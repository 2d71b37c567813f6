//! The observers of a race: one reads the store continuously, one compares it with the mock's ledger.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use coze_auth::SignIn;
use coze_auth::sign_in::Record;
use coze_mock::fingerprint;

use crate::ledger::Standing;
use crate::mock::Request;
use crate::setup::Place;
use crate::stage::Stage;
use crate::tally::{Tally, count, is_slow, label};
use crate::{Result, coze, millis, runtime};

/// The reader's interval leaves CPU time to the processes.
const BETWEEN_READS: Duration = Duration::from_millis(1);
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);
/// How long a provider retries a failed save.
const SAVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A request without a response by then is lost.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// The contents of the store over time.
#[derive(Default)]
pub(crate) struct Reads {
    pub(crate) reads: u64,
    pub(crate) missing: u64,
    /// The store timed out, so its contents are unknown.
    pub(crate) slow: u64,
    pub(crate) errors: Tally,
    /// The fingerprints of the stored pairs of tokens.
    pub(crate) seen: HashSet<(String, String)>,
}

pub(crate) fn marks(stored: &Record) -> (String, String) {
    let fields = serde_json::to_value(stored).unwrap_or_default();
    let access_token = fields["access_token"].as_str();
    (
        fingerprint(stored.refresh_token().expose()),
        fingerprint(access_token.unwrap_or_default()),
    )
}

/// Reads the store until told to stop.
pub(crate) fn read_on(sign_in: &SignIn, stop: &AtomicBool) -> Result<Reads> {
    let mut found = Reads::default();
    runtime()?.block_on(async {
        while !stop.load(Ordering::Relaxed) {
            found.reads += 1;
            match sign_in.load().await {
                Ok(Some(stored)) => {
                    found.seen.insert(marks(&stored));
                }
                Ok(None) => found.missing += 1,
                Err(error) if is_slow(&error) => found.slow += 1,
                Err(error) => count(&mut found.errors, label(&error)),
            }
            tokio::time::sleep(BETWEEN_READS).await;
        }
    });
    Ok(found)
}

/// The observations of the mock and the sign-in.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) refreshes_answered: u64,
    pub(crate) refreshes_refused: Tally,
    pub(crate) api_calls: u64,
    pub(crate) api_refused: u64,
    pub(crate) never_answered: u64,
    /// Requests that the mock dropped before they were checked.
    pub(crate) missed: u64,
    /// The reasons for each new sign-in.
    pub(crate) lost: Tally,
    pub(crate) first_loss: Option<Duration>,
    last: u64,
    waiting_since: Option<Instant>,
}

/// Compares the store with the ledger until told to stop. When the sign-in is lost, the user signs in again.
pub(crate) fn look_on(
    stage: &Stage,
    sign_in: &SignIn,
    mut id: u64,
    stop: &AtomicBool,
) -> Result<Seen> {
    let runtime = runtime()?;
    let began = Instant::now();
    let mut seen = Seen::default();
    let mut damaged_before = false;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(BETWEEN_LOOKS);
        seen.record_answered(stage.mock.requests_since(seen.last)?);
        // Whatever is redeemed from here on may be missing in it, however long this thread stalls.
        let looked_at = unix_ms();
        let loaded = runtime.block_on(sign_in.load());
        if loaded.as_ref().is_err_and(is_slow) {
            continue;
        }
        // A partly written file may be complete a moment later.
        let damaged = !matches!(loaded, Ok(Some(_)));
        let lost = match loaded {
            Ok(Some(stored)) => why_lost(stage, &stored, id, looked_at)?,
            Ok(None) if damaged_before => Some("nothing was stored".to_owned()),
            Err(error) if damaged_before => Some(format!("unreadable: {}", label(&error))),
            _ => None,
        };
        damaged_before = damaged;
        if let Some(why) = lost {
            count(&mut seen.lost, why);
            seen.first_loss.get_or_insert(began.elapsed());
            id = runtime.block_on(stage.user_signs_in(sign_in))?;
            damaged_before = false;
        }
    }
    // The last responses may be in flight.
    loop {
        std::thread::sleep(BETWEEN_LOOKS);
        let rest = stage.mock.requests_since(seen.last)?;
        let all_answered = !rest.iter().any(Request::is_open);
        seen.record_answered(rest);
        if all_answered {
            return Ok(seen);
        }
    }
}

fn why_lost(stage: &Stage, stored: &Record, id: u64, looked_at: u64) -> Result<Option<String>> {
    let family = stage.mock.sign_in(id)?;
    let (refresh_token, _) = marks(stored);
    let redeemed_at = family
        .generation(&refresh_token)
        .and_then(|generation| generation.redeemed_at_unix_ms);
    let in_flight = millis(in_flight(&stage.setup.store));
    let is_stale = redeemed_at.is_some_and(|at| at + in_flight < looked_at);
    Ok(match family.standing(&refresh_token) {
        _ if family.is_revoked() => Some("the server revoked it".to_owned()),
        // A new sign-in may have been overwritten by an earlier save of another process.
        Standing::Unknown => Some("of an earlier sign-in".to_owned()),
        Standing::Current if stored.ended().is_some() => {
            Some("marked ended although valid".to_owned())
        }
        _ if stored.ended().is_some() => Some("its token had been redeemed".to_owned()),
        Standing::Behind(_) if is_stale => Some("its token had been redeemed".to_owned()),
        _ => None,
    })
}

/// How long the ledger may be ahead of the store. In a short run the survivor detects the rest.
fn in_flight(store: &Place) -> Duration {
    let save = match store {
        Place::File(_) | Place::Redis(_) => SAVE_TIMEOUT,
        // Its save is one write, and its frequent losses should be detected soon.
        Place::Plain(_) => Duration::from_secs(1),
    };
    coze::REQUEST_TIMEOUT + save
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    millis(now.unwrap_or_default())
}

impl Seen {
    /// Takes the requests before the first one that has no response.
    fn record_answered(&mut self, requests: Vec<Request>) {
        for request in requests {
            self.missed += request.number - self.last - 1;
            if request.is_open() && !self.has_waited_long() {
                self.last = request.number - 1;
                return;
            }
            self.waiting_since = None;
            self.last = request.number;
            self.count(&request);
        }
    }

    fn has_waited_long(&mut self) -> bool {
        self.waiting_since
            .get_or_insert_with(Instant::now)
            .elapsed()
            > ANSWERED_WITHIN
    }

    fn count(&mut self, request: &Request) {
        if request.is_open() {
            self.never_answered += 1;
        } else if request.is_api_call() {
            self.api_calls += 1;
            self.api_refused += u64::from(!request.succeeded());
        } else if request.is_refresh() && request.succeeded() {
            self.refreshes_answered += 1;
        } else if request.is_refresh() {
            let error = request.error().unwrap_or("no word");
            count(&mut self.refreshes_refused, error);
        }
    }
}
