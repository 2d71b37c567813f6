//! A soak test: the JWT provider on two threads, tokens of 5 seconds, and a mock that fails at random, once or for
//! longer than the lifetime of a token.
//!
//! No caller may get a token that is expired for the mock, or an error while the last token is valid or
//! after a single fault. After an outage that outlasted the token, errors may only come from the backoff that was
//! announced last during the outage; their number and duration have separate rows.

#![forbid(unsafe_code)]

use std::{
    collections::HashMap,
    fmt,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use coze_auth::{
    AccessToken, CachedProvider, Endpoint, Error, JwtFlow, JwtTokenRequest, OAuthClient, PrivateKey,
};
use coze_benches::{
    report::{Goal, Report},
    run::Run,
};
use coze_mock::{
    ErrorShape, Fault, FaultBody, MockCoze, OAuthErrorCode, Target, Times, When, defaults,
};
use tokio::time::{sleep, timeout};

/// The requested lifetime. The mock truncates to whole seconds, so it is 4 to 5 seconds.
const TOKEN_LIFE: Duration = Duration::from_secs(5);
/// The refresh window is at least 0.6 s: a fifth of 4 s, minus a quarter of that for jitter.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(200);
const DEADLINE: Duration = Duration::from_millis(550);
/// The tolerance for scheduling delays of a caller.
const SLACK: Duration = Duration::from_millis(100);
/// The expiry margin is a fiftieth of the lifetime, and a coarse clock may be some milliseconds late.
const MARGIN: Duration = Duration::from_millis(120);

fn main() -> Result<ExitCode> {
    let run = Run::from_args()?;
    let lasting = run.choose(Duration::from_secs(60), Duration::from_secs(12));

    let mocks_runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let mock = mocks_runtime.block_on(MockCoze::start())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let client = OAuthClient::builder()
        .endpoint(Endpoint::custom(mock.url())?)
        .request_timeout(REQUEST_TIMEOUT)
        .build()?;
    let flow = JwtFlow::new(
        client,
        defaults::JWT_CLIENT_ID.into(),
        defaults::JWT_PUBLIC_KEY_ID.into(),
        PrivateKey::from_pem(mock.default_jwt_private_key_pem()?)?,
    )?;
    let request = JwtTokenRequest::default().duration(TOKEN_LIFE);
    let provider = CachedProvider::jwt_for(flow, request)
        .deadline(DEADLINE)
        .build();

    let observer = Arc::new(Observer::new(mock.clone()));
    let until = Instant::now() + lasting;
    let callers =
        (0..2).map(|_| runtime.spawn(call(provider.clone(), Arc::clone(&observer), until)));
    let callers: Vec<_> = callers
        .chain([runtime.spawn(call_impatiently(provider.clone(), until))])
        .collect();
    break_things(&mock, &observer, until)?;
    runtime.block_on(async {
        for caller in callers {
            caller.await.context("a caller panicked")?;
        }
        provider.shutdown().await?;
        anyhow::Ok(())
    })?;

    let seen = observer.seen();
    let mut report = Report::new();
    report_on(&seen, &provider, lasting, &mut report);
    for event in seen.expired.iter().chain(&seen.wrong_errors) {
        println!("       {event}");
    }
    let passed = seen.expired.is_empty() && seen.wrong_errors.is_empty();
    report.finish(&run)?;
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn report_on(seen: &Seen, provider: &CachedProvider, lasting: Duration, report: &mut Report) {
    let stats = provider.stats();
    report.goal(
        "soak: expired tokens handed out",
        seen.expired.len() as f64,
        "",
        Goal::Exactly(0.0),
        format!(
            "{} tokens handed out in {} s, {} different ones; {} requests for one, {} failed",
            seen.tokens,
            lasting.as_secs(),
            seen.ends.len(),
            stats.refreshes,
            stats.failures
        ),
        what_was_first(&seen.expired),
    );
    let singles = seen.faults.iter().filter(|fault| !fault.is_outage).count();
    report.goal(
        "soak: errors outside of an outage that outlasts the token",
        seen.wrong_errors.len() as f64,
        "",
        Goal::Exactly(0.0),
        format!(
            "{singles} single faults, {} outages; {} errors in outages",
            seen.faults.len() - singles,
            seen.errors_in_outages,
        ),
        what_was_first(&seen.wrong_errors),
    );
    // These are the cost of the backoff: without requests no caller can learn that the server is back.
    report.figure(
        "soak: errors after such an outage, until its last backoff has elapsed",
        seen.errors_after_outages as f64,
        "",
        format!(
            "after {} of them; each returned immediately, with the time of the next attempt: an unavailable server does not get a request per call",
            seen.outages_felt_late.len()
        ),
    );
    report.figure(
        "soak: longest such time after an outage",
        seen.outages_felt_late
            .values()
            .max()
            .map_or(0.0, Duration::as_secs_f64),
        "s",
        "from the server's return to the last error",
    );
}

fn what_was_first(events: &[Event]) -> &str {
    events.first().map_or("", |event| event.what.as_str())
}

/// Requests tokens continuously, and checks every result.
async fn call(provider: CachedProvider, observer: Arc<Observer>, until: Instant) {
    while Instant::now() < until {
        let asked = Asked::now(&observer.mock);
        match provider.token().await {
            Ok(token) => observer.got(&token, &asked),
            Err(error) => observer.failed(&error, &asked),
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// Cancels its calls, which must not affect other callers.
async fn call_impatiently(provider: CachedProvider, until: Instant) {
    while Instant::now() < until {
        let _ = timeout(Duration::from_millis(2), provider.token()).await;
        sleep(Duration::from_millis(3)).await;
    }
}

struct Asked {
    at: Instant,
    /// By the mock's clock.
    wall: SystemTime,
}

impl Asked {
    fn now(mock: &MockCoze) -> Self {
        Self {
            at: Instant::now(),
            wall: mock.clock().now(),
        }
    }
}

/// A violation and its time.
struct Event {
    at: Duration,
    what: String,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {:.3} s: {}", self.at.as_secs_f64(), self.what)
    }
}

struct Planned {
    name: String,
    is_outage: bool,
    from: Instant,
    to: Option<Instant>,
}

#[derive(Default)]
struct Seen {
    tokens: u64,
    /// The expiry of each token by the mock.
    ends: HashMap<String, SystemTime>,
    last_end: Option<SystemTime>,
    faults: Vec<Planned>,
    expired: Vec<Event>,
    wrong_errors: Vec<Event>,
    errors_in_outages: u64,
    errors_after_outages: u64,
    /// How long each outage caused errors after its end, by its index among the faults.
    outages_felt_late: HashMap<usize, Duration>,
    /// The latest next attempt that was announced during the outage, or by the request that started during it.
    next_try: Option<Instant>,
}

struct Observer {
    mock: MockCoze,
    began: Instant,
    seen: Mutex<Seen>,
}

impl Observer {
    fn new(mock: MockCoze) -> Self {
        Self {
            mock,
            began: Instant::now(),
            seen: Mutex::default(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, what: String) -> Event {
        Event {
            at: self.began.elapsed(),
            what,
        }
    }

    fn got(&self, token: &AccessToken, asked: &Asked) {
        let got = Asked::now(&self.mock);
        let mut seen = self.seen();
        seen.tokens += 1;
        let known = seen.ends.get(token.expose()).copied();
        let Some(end) = known.or_else(|| end_of(&self.mock, token)) else {
            let event = self.event("a token that is unknown or expired for the mock".into());
            return seen.expired.push(event);
        };
        if known.is_none() {
            seen.ends.insert(token.expose().to_owned(), end);
            seen.last_end = seen.last_end.max(Some(end));
        }
        // A reader that was descheduled after it had got the token does not count.
        let served = if got.at - asked.at < Duration::from_millis(20) {
            got.wall
        } else {
            asked.wall
        };
        if served >= end {
            let late = served.duration_since(end).unwrap_or_default();
            let event = self.event(format!("a token that had expired {late:?} before"));
            seen.expired.push(event);
        }
    }

    fn failed(&self, error: &Error, asked: &Asked) {
        let now = Instant::now();
        let mut seen = self.seen();
        let token_lives = seen.last_end.is_some_and(|end| asked.wall + MARGIN < end);
        let verdict = match seen.faults.last() {
            _ if token_lives => Err("although the last token is valid"),
            Some(fault) if fault.is_outage => match fault.to {
                None => Ok(None),
                // A request that started in the outage may end after it, and its backoff starts then.
                Some(over) if now <= over + DEADLINE + SLACK => Ok(Some(over)),
                Some(over) if seen.next_try.is_some_and(|until| now <= until + SLACK) => {
                    Ok(Some(over))
                }
                Some(_) => Err("although the outage and its last backoff have ended"),
            },
            _ => Err("although there was no outage"),
        };
        match verdict {
            Ok(None) => seen.errors_in_outages += 1,
            Ok(Some(over)) => {
                seen.errors_after_outages += 1;
                let outage = seen.faults.len();
                seen.outages_felt_late.insert(outage, now - over);
            }
            Err(why) => {
                let last = seen.faults.last().map_or("no fault", |fault| &fault.name);
                let event = self.event(format!("an error {why} (last fault: {last}): {error}"));
                seen.wrong_errors.push(event);
            }
        }
        // A later announcement must not justify its own error.
        if let Ok(over) = verdict
            && over.is_none_or(|over| now <= over + DEADLINE + SLACK)
        {
            let next_try = error.retry_after().map(|pause| now + pause);
            seen.next_try = seen.next_try.max(next_try);
        }
    }

    fn breaks(&self, fault: &Fault, is_outage: bool) {
        self.seen().faults.push(Planned {
            name: fault.to_string(),
            is_outage,
            from: Instant::now(),
            to: None,
        });
    }

    fn repaired(&self) {
        let mut seen = self.seen();
        if let Some(fault) = seen.faults.last_mut() {
            fault.to = Some(Instant::now());
            println!(
                "       {} for {:.1} s",
                fault.name,
                fault.from.elapsed().as_secs_f64()
            );
        }
    }
}

/// `None` if the token is unknown or expired for the mock.
fn end_of(mock: &MockCoze, token: &AccessToken) -> Option<SystemTime> {
    let seconds = mock.granted(token.expose())?.expires_at?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Repeats two single faults and one outage. The faults are random.
fn break_things(mock: &MockCoze, observer: &Observer, until: Instant) -> Result<()> {
    let targets = || Target::Endpoint(coze_mock::Endpoint::Token);
    let wait = |condition: &dyn Fn() -> bool| {
        while Instant::now() < until && !condition() {
            thread::sleep(Duration::from_millis(5));
        }
    };
    for round in 0_u64.. {
        // Until a token was issued without a fault.
        let before = observer.seen().ends.len();
        wait(&|| observer.seen().ends.len() > before);
        if Instant::now() >= until {
            break;
        }
        if round % 3 == 1 {
            let fault = any_of(outages())?;
            observer.breaks(&fault, true);
            mock.faults().add(fault, targets(), Times::Forever);
            let extra = Duration::from_millis(u64::from(random()?) % 3000);
            let over = Instant::now() + TOKEN_LIFE + Duration::from_secs(1) + extra;
            wait(&|| Instant::now() >= over);
        } else {
            let fault = any_of(single_faults())?;
            observer.breaks(&fault, false);
            mock.faults().add(fault, targets(), Times::ONCE);
            wait(&|| mock.faults().pending().is_empty());
        }
        mock.faults().clear();
        observer.repaired();
    }
    Ok(())
}

fn single_faults() -> Vec<Fault> {
    let mut faults = outages();
    faults.extend([
        Fault::TruncatedJson,
        Fault::WrongContentType,
        Fault::OversizedBody,
        Fault::Redirect {
            status: 307,
            location: "https://example.com/".to_owned(),
        },
        Fault::ErrorWithStatus200 {
            shape: ErrorShape::A,
            code: OAuthErrorCode::InternalError,
        },
        // A token that has expired on arrival. Never a skew in the other direction: a client cannot detect that tokens
        // expire earlier than announced.
        Fault::SkewedDate { seconds: 3600 },
    ]);
    faults
}

fn outages() -> Vec<Fault> {
    let status = |status, body| Fault::Status {
        status,
        body,
        retry_after: None,
    };
    let both = [When::BeforeProcessing, When::AfterProcessing];
    let mut faults = vec![
        status(429, FaultBody::Json),
        Fault::too_many_requests(1),
        status(500, FaultBody::Json),
        status(502, FaultBody::Html),
        status(503, FaultBody::Empty),
        Fault::latency(2 * REQUEST_TIMEOUT),
    ];
    faults.extend(both.map(|when| Fault::ConnectionReset { when }));
    faults.extend(both.map(|when| Fault::Timeout { when }));
    faults
}

fn any_of(mut faults: Vec<Fault>) -> Result<Fault> {
    let index = random()? as usize % faults.len();
    Ok(faults.swap_remove(index))
}

fn random() -> Result<u32> {
    getrandom::u32().context("no randomness")
}
