//! The shared state of one mock.

use crate::answer::{OAuthErrorCode, Refusal};
use crate::app::App;
use crate::clock::{MockClock, millis};
use crate::contract::Contract;
use crate::error::Error;
use crate::fault::Faults;
use crate::keys::{self, VerifyingKey};
use crate::options::Options;
use crate::record::Log;
use crate::request::Incoming;
use crate::routing::Routes;
use crate::secret::{self, hex};
use crate::state::{Grant, GrantedToken, State};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// The shared state of one mock.
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) apps: HashMap<String, Registered>,
    pub(crate) clock: MockClock,
    pub(crate) faults: Faults,
    pub(crate) log: Log,
    pub(crate) contract: &'static Contract,
    pub(crate) routes: Routes,
    /// The listening address, once there is one.
    pub(crate) listening_at: OnceLock<String>,
    /// Whether only this machine can connect.
    pub(crate) loopback_only: AtomicBool,
    state: Mutex<State>,
    log_id_salt: String,
    log_ids: AtomicU64,
}

/// An app with its parsed public keys.
pub(crate) struct Registered {
    pub(crate) app: App,
    pub(crate) keys: Vec<(String, VerifyingKey)>,
    pub(crate) active: AtomicBool,
}

impl Registered {
    fn new(app: App) -> Result<Self, Error> {
        app.check()?;
        let mut verifying = Vec::new();
        for key in &app.keys {
            let pem = match &key.public_pem {
                Some(pem) => pem,
                None => &keys::generated()?.public_pem,
            };
            let problem = |problem: &str| Error::App {
                client_id: app.client_id.clone(),
                problem: format!("the public key {:?} {problem}", key.id),
            };
            verifying.push((
                key.id.clone(),
                VerifyingKey::from_pem(pem).map_err(problem)?,
            ));
        }
        Ok(Self {
            app,
            keys: verifying,
            active: AtomicBool::new(true),
        })
    }

    pub(crate) fn check_active(&self) -> Result<(), Refusal> {
        if self.active.load(Ordering::Relaxed) {
            return Ok(());
        }
        let name = &self.app.name;
        Err(Refusal::new(
            OAuthErrorCode::AccessDeny,
            format!("app: {name} is currently deactivated by the owner"),
        ))
    }
}

impl Core {
    pub(crate) fn new(options: Options, apps: Vec<App>, clock: MockClock) -> Result<Self, Error> {
        let mut registered = HashMap::new();
        for app in apps {
            registered.insert(app.client_id.clone(), Registered::new(app)?);
        }
        let contract = Contract::load()?;
        let core = Self {
            apps: registered,
            clock,
            faults: Faults::default(),
            log: Log::new(options.log_capacity, options.log_bytes),
            contract,
            routes: Routes::of(contract)?,
            listening_at: OnceLock::new(),
            loopback_only: AtomicBool::new(false),
            state: Mutex::default(),
            log_id_salt: hex(&secret::random::<5>()?),
            log_ids: AtomicU64::new(0),
            options,
        };
        core.reset();
        Ok(core)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // No code panics in the middle of a change while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.since_epoch()
    }

    /// Removes everything that clients did and all faults. Apps and clock are kept.
    pub(crate) fn reset(&self) {
        let mut state = State::default();
        for access_token in &self.options.access_tokens {
            state.tokens.insert_access(
                access_token,
                GrantedToken::new(Grant::Fixed, "", None),
                Duration::ZERO,
            );
        }
        *self.state() = state;
        self.faults.clear();
        self.log.clear();
        for registered in self.apps.values() {
            registered.active.store(true, Ordering::Relaxed);
        }
    }

    /// The authority of the mock, for clients that send no host.
    pub(crate) fn own_authority(&self) -> &str {
        let own = self.listening_at.get();
        own.and_then(|url| url.strip_prefix("http://"))
            .unwrap_or("localhost")
    }

    /// The URL under which the client reaches the mock.
    pub(crate) fn base_url(&self, incoming: &Incoming) -> String {
        match &self.options.public {
            Some(public) => public.base.clone(),
            None => format!("{}://{}", incoming.scheme, incoming.authority),
        }
    }

    pub(crate) fn next_log_id(&self, now: Duration) -> String {
        let count = self.log_ids.fetch_add(1, Ordering::Relaxed);
        format!("{:013}{}{count:08X}", millis(now), self.log_id_salt).to_uppercase()
    }
}
