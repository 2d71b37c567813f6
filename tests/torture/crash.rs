//! The crash test: processes are killed during refreshes, and the store is compared with the ledger.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use coze_auth::sign_in::Record;
use coze_auth::store::{Key, Owner};
use coze_auth::{ErrorKind, SignIn, StoreErrorKind};
use serde_json::{Value, json};

use crate::background::Background;
use crate::ledger::Standing;
use crate::refresher::Pace;
use crate::setup::StoreName;
use crate::stage::Stage;
use crate::tally::{Tally, add, count, counted};
use crate::watch::marks;
use crate::{Common, Result, random, runtime};

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    #[arg(long, default_value_t = 1000)]
    kills: u64,
}

/// Long enough that no access token expires: the process forces each refresh.
const ACCESS_TOKEN_LIFETIME: u64 = 900;
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Undisturbed refreshes, to measure the duration of one.
const UNDISTURBED: u64 = 100;
/// A process is killed within its first refreshes.
const LIVES_FOR_REFRESHES: u32 = 3;
/// A request in flight outlives its sender.
const SETTLE: Duration = Duration::from_millis(5);
/// The Redis lock of a killed process lasts for its TTL: the deadline, a request and a save. A profile is left alone for
/// longer than that.
const LOCK_EXPIRED_AFTER: Duration = Duration::from_secs(24);
/// The wait after the last kill, so that a stalled mock handles all requests.
const SETTLE_AT_LAST: Duration = Duration::from_secs(2);
/// The chain grows with each refresh and is fetched after each kill.
const LONGEST_CHAIN: usize = 500;

/// A sign-in whose processes are killed.
struct Case {
    profile: String,
    sign_in: SignIn,
    /// Its number in the ledger.
    id: u64,
    let_lie_since: Instant,
}

/// The finding after a kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// The stored refresh token is the live one.
    Current,
    /// The server had committed, and the process was killed before its save: the window that the protocol leaves.
    OneBehind,
    /// The current refresh token is in quarantine and not in the record.
    Quarantined,
    FurtherBehind,
    Unreadable,
    Missing,
    /// The stored pair of tokens was never issued.
    UnknownToken,
    /// Marked as ended although it is valid.
    LiveMarkedEnded,
}

impl Finding {
    fn is_a_loss(self) -> bool {
        !matches!(self, Self::Current | Self::OneBehind | Self::Quarantined)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::OneBehind => "one_behind",
            Self::Quarantined => "quarantined",
            Self::FurtherBehind => "further_behind",
            Self::Unreadable => "unreadable",
            Self::Missing => "missing",
            Self::UnknownToken => "unknown_token",
            Self::LiveMarkedEnded => "live_marked_ended",
        }
    }
}

struct Show<'a> {
    stage: &'a Stage,
    store: StoreName,
    runtime: tokio::runtime::Runtime,
    /// The case that was idle longest is the first.
    cases: VecDeque<Case>,
    findings: Tally,
    /// Errors of processes before they were killed, except a correctly reported end of the sign-in.
    errors: Tally,
    /// Kills after which the next owner completed a written record that was not in place.
    completed_by_next: u64,
    refreshes: u64,
    /// The total time for which all processes refreshed before they were killed.
    lived: Duration,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let stage = options.common.stage(ACCESS_TOKEN_LIFETIME)?;
    let mut show = Show {
        stage: &stage,
        store: options.common.store,
        runtime: runtime()?,
        cases: VecDeque::new(),
        findings: Tally::new(),
        errors: Tally::new(),
        completed_by_next: 0,
        refreshes: 0,
        lived: Duration::ZERO,
    };
    let pace = show.measure()?;
    let began = Instant::now();
    for _ in 0..options.kills {
        show.kill_one(&pace)?;
    }
    let took = began.elapsed();
    let stuck = show.survivors()?;
    let losses = show.losses(&stuck, options);
    let mut figures = show.figures(&pace, options);
    figures["took_s"] = took.as_secs().into();
    figures["stuck"] = json!(stuck);
    figures["losses"] = json!(losses);
    options.common.conclude(&figures, &losses)
}

impl Show<'_> {
    /// The duration of a refresh without kills.
    fn measure(&mut self) -> Result<Pace> {
        let case = self.new_case()?;
        let refreshes = UNDISTURBED.to_string();
        let role = [
            "refresher",
            "--profile",
            &case.profile,
            "--refreshes",
            &refreshes,
        ];
        let output = self.stage.setup.process(&role)?.output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let pace = said.lines().last().map(serde_json::from_str);
        let pace = pace.and_then(Result::ok);
        self.cases.push_back(case);
        Ok(pace.ok_or_else(|| format!("the first process could not refresh: {said}"))?)
    }

    fn new_case(&self) -> Result<Case> {
        let profile = format!("refresher-{}", self.cases.len());
        let sign_in = self.stage.setup.sign_in(&profile)?;
        Ok(Case {
            id: self.runtime.block_on(self.stage.user_signs_in(&sign_in))?,
            profile,
            sign_in,
            let_lie_since: Instant::now(),
        })
    }

    fn next_case(&mut self) -> Result<Case> {
        let is_free = |case: &Case| {
            self.store != StoreName::Redis || case.let_lie_since.elapsed() > LOCK_EXPIRED_AFTER
        };
        if self.cases.front().is_some_and(is_free)
            && let Some(case) = self.cases.pop_front()
        {
            return Ok(case);
        }
        self.new_case()
    }

    fn kill_one(&mut self, pace: &Pace) -> Result<()> {
        let mut case = self.next_case()?;
        let before = self.stage.mock.sign_in(case.id)?.redemptions();
        let said = self.start_and_kill(&case, pace)?;
        std::thread::sleep(SETTLE);
        let finding = self.look_at(&case)?;
        self.refreshes += (self.stage.mock.sign_in(case.id)?.redemptions() - before) as u64;
        count(&mut self.findings, finding.as_str());
        if let Some(error) = said
            && finding == Finding::Current
        {
            count(&mut self.errors, error);
        }
        if finding != Finding::Current || self.is_long(&case)? {
            case.id = self
                .runtime
                .block_on(self.stage.user_signs_in(&case.sign_in))?;
        }
        case.let_lie_since = Instant::now();
        self.cases.push_back(case);
        Ok(())
    }

    fn is_long(&self, case: &Case) -> Result<bool> {
        Ok(self.stage.mock.sign_in(case.id)?.generations.len() > LONGEST_CHAIN)
    }

    /// The error of the process, if it ended before it was killed.
    fn start_and_kill(&mut self, case: &Case, pace: &Pace) -> Result<Option<String>> {
        let role = ["refresher", "--profile", &case.profile];
        let mut command = self.stage.setup.process(&role)?;
        command.stderr(std::process::Stdio::null());
        let (mut refresher, lines) = Background::start(command)?;
        let first = lines
            .recv_timeout(START_TIMEOUT)
            .map_err(|_| "a process did not start")?;
        let began = Instant::now();
        let refresh = Duration::from_micros(pace.cycle_us);
        std::thread::sleep(random::between(
            Duration::ZERO,
            refresh * LIVES_FOR_REFRESHES,
        ));
        refresher.kill()?;
        self.lived += began.elapsed();
        let error = |line: String| {
            let line: Value = serde_json::from_str(&line).ok()?;
            Some(line["error"].as_str()?.to_owned())
        };
        Ok(std::iter::once(first).chain(lines).find_map(error))
    }

    /// Compares the store with the ledger, after a new owner has had the lock: it completes what a
    /// writer had not put in place.
    fn look_at(&mut self, case: &Case) -> Result<Finding> {
        let as_left = self.runtime.block_on(case.sign_in.load());
        self.runtime.block_on(take_lock(&case.sign_in))?;
        let loaded = self.runtime.block_on(case.sign_in.load());
        if let (Ok(Some(as_left)), Ok(Some(now))) = (&as_left, &loaded)
            && marks(as_left) != marks(now)
        {
            self.completed_by_next += 1;
        }
        let finding = match loaded {
            Ok(Some(stored)) => self.compare(case, &stored)?,
            Ok(None) => Finding::Missing,
            Err(error) if error.kind() == ErrorKind::Store(StoreErrorKind::Damaged) => {
                Finding::Unreadable
            }
            Err(error) => return Err(error.into()),
        };
        let may_be_in_quarantine = !matches!(finding, Finding::Current | Finding::LiveMarkedEnded);
        if may_be_in_quarantine && self.is_in_quarantine(case)? {
            return Ok(Finding::Quarantined);
        }
        Ok(finding)
    }

    fn is_in_quarantine(&self, case: &Case) -> Result<bool> {
        let family = self.stage.mock.sign_in(case.id)?;
        let quarantined = self.runtime.block_on(case.sign_in.quarantined())?;
        Ok(quarantined
            .iter()
            .any(|record| family.standing(&marks(record).0) == Standing::Current))
    }

    fn compare(&self, case: &Case, stored: &Record) -> Result<Finding> {
        let family = self.stage.mock.sign_in(case.id)?;
        let (refresh_token, access_token) = marks(stored);
        let as_issued = family
            .generation(&refresh_token)
            .is_some_and(|generation| generation.access_token == access_token);
        Ok(match family.standing(&refresh_token) {
            _ if !as_issued => Finding::UnknownToken,
            Standing::Unknown => Finding::UnknownToken,
            Standing::Current if stored.ended().is_some() => Finding::LiveMarkedEnded,
            Standing::Current => Finding::Current,
            Standing::Behind(1) => Finding::OneBehind,
            Standing::Behind(_) => Finding::FurtherBehind,
        })
    }

    /// At the end a new process must be able to refresh each sign-in. Returns the failures with their errors.
    fn survivors(&mut self) -> Result<Tally> {
        std::thread::sleep(if self.store == StoreName::Redis {
            LOCK_EXPIRED_AFTER
        } else {
            SETTLE_AT_LAST
        });
        let mut stuck = Tally::new();
        let cases = std::mem::take(&mut self.cases);
        for case in &cases {
            if let Some(why) = self.cannot_go_on(case)? {
                count(&mut stuck, &why);
            }
        }
        self.cases = cases;
        Ok(stuck)
    }

    /// Why a new process cannot refresh a sign-in after several attempts, although all other processes have ended.
    fn cannot_go_on(&mut self, case: &Case) -> Result<Option<String>> {
        const TRIES: u32 = 3;
        let mut why = None;
        for _ in 0..TRIES {
            let finding = self.look_at(case)?;
            if finding != Finding::Current {
                // Either a slow server committed the killed process's request after the comparison, or this process, which was not
                // killed, lost the sign-in.
                if why.is_none() {
                    self.found_late(finding);
                }
                return Ok(why);
            }
            let role = [
                "refresher",
                "--profile",
                &case.profile,
                "--refreshes",
                "1",
                "--call",
            ];
            let mut command = self.stage.setup.process(&role)?;
            let output = command.stderr(std::process::Stdio::null()).output()?;
            if output.status.success() {
                return Ok(None);
            }
            let said = String::from_utf8_lossy(&output.stdout);
            why = Some(said.lines().last().unwrap_or("nothing").to_owned());
        }
        Ok(why)
    }

    fn found_late(&mut self, finding: Finding) {
        if let Some(current) = self.findings.get_mut(Finding::Current.as_str()) {
            *current = current.saturating_sub(1);
        }
        count(&mut self.findings, finding.as_str());
    }

    fn losses(&self, stuck: &Tally, options: &Options) -> Vec<String> {
        use Finding::{FurtherBehind, LiveMarkedEnded, Missing, UnknownToken, Unreadable};
        let mut losses = Vec::new();
        for finding in [
            Unreadable,
            Missing,
            UnknownToken,
            FurtherBehind,
            LiveMarkedEnded,
        ] {
            if let Some(times) = self.findings.get(finding.as_str())
                && finding.is_a_loss()
            {
                losses.push(format!("{times} kills left the store {}", finding.as_str()));
            }
        }
        let tolerate_timing = options.common.tolerate_timing;
        let mut errors = counted(&self.errors, tolerate_timing);
        add(&mut errors, stuck);
        for (what, times) in &errors {
            losses.push(format!(
                "{times} processes could not refresh a valid sign-in: {what}"
            ));
        }
        let least = if tolerate_timing {
            1
        } else {
            options.kills / 10
        };
        if self.refreshes < least {
            losses.push(format!(
                "only {} refreshes: too few were killed",
                self.refreshes
            ));
        }
        losses
    }

    fn figures(&self, pace: &Pace, options: &Options) -> Value {
        let of = |finding: Finding| self.findings.get(finding.as_str()).copied().unwrap_or(0);
        let in_window = of(Finding::OneBehind);
        // Kills are random, so the share of kills in the window equals its share of the time.
        let share = in_window as f64 / options.kills.max(1) as f64;
        let cycle_us = crate::micros(self.lived) as f64 / self.refreshes.max(1) as f64;
        json!({
            "show": "crash",
            "store": self.store.as_str(),
            "kills": options.kills,
            "reuse_revokes_family": options.common.reuse_revokes_family,
            "refresh_revokes_access_token": options.common.refresh_revokes_access_token,
            "tolerate_timing": options.common.tolerate_timing,
            "refreshes": self.refreshes,
            "profiles": self.cases.len(),
            "current": of(Finding::Current),
            "one_behind": in_window,
            "quarantined": of(Finding::Quarantined),
            "further_behind": of(Finding::FurtherBehind),
            "unreadable": of(Finding::Unreadable),
            "missing": of(Finding::Missing),
            "unknown_token": of(Finding::UnknownToken),
            "live_marked_ended": of(Finding::LiveMarkedEnded),
            "completed_by_next": self.completed_by_next,
            "errors": self.errors,
            "pace": pace,
            // The second half of the request is the response, followed by the save.
            "window_reckoned_us": pace.request_us / 2 + pace.save_us,
            "window_observed_us": (share * cycle_us).round() as u64,
            "cycle_observed_us": cycle_us.round() as u64,
        })
    }
}

async fn take_lock(sign_in: &SignIn) -> Result<()> {
    let (store, key) = (sign_in.store(), Key::record(sign_in.profile()));
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    let owner = Owner::new(id, "the torture");
    let _ = store.try_lock(&key, &owner, Duration::from_secs(1)).await?;
    Ok(store.unlock(&key, &owner).await?)
}
