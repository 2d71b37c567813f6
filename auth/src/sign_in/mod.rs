//! A user's sign-in, kept in a [store](crate::store) so that it is not lost.
//!
//! Coze's refresh tokens are single-use: each refresh returns a new one and invalidates the one sent. If two processes
//! refresh at the same moment, or one is killed between the response and the save, the user has to sign in again. A
//! [`SignIn`] is a store and the name of a profile in it; it prevents such losses. Put a fresh sign-in into it, and let
//! a [`CachedProvider`](crate::CachedProvider) refresh it:
//!
//! ```no_run
//! # async fn example(device: coze_auth::DeviceFlow, store: coze_auth::store::MemoryStore) -> coze_auth::Result<()> {
//! use coze_auth::{CachedProvider, RefreshMode, SignIn};
//!
//! let sign_in = SignIn::new(store, "default")?;
//! if sign_in.requires_sign_in().await? {
//!     let authorization = device.start().await?;
//!     println!("open {}", authorization.verification_uri());
//!     sign_in.put(&device.poll(&authorization).await?).await?;
//! }
//! // In line: a refresh in the background would be lost when the program ends.
//! let provider = CachedProvider::stored(device, sign_in).refresh(RefreshMode::InLine).build();
//! let token = provider.token().await?;
//! // Before the program ends: saves a refreshed sign-in that is not saved yet.
//! provider.shutdown().await?;
//! # Ok(()) }
//! ```
//!
//! # How a sign-in is refreshed
//!
//! 1. Take the store's lock, and load again. If another owner has refreshed the sign-in, its token is used.
//! 2. Write an *intent* into the record: this refresh token may have been redeemed. This preflight write shows that the
//!    successor can be saved, reserves space for it, and tells other owners that a successor may still arrive. Nothing
//!    is sent without an intent; it is renewed before each attempt.
//! 3. Refresh, and save by compare-and-set. The refresh token decides what a conflict means: as long as the stored one
//!    is the redeemed one, the save is repeated on the new version. So a save succeeds even if the lock has expired, or
//!    if other owners have written their intents.
//! 4. Release the lock. If the save fails, the successor is kept in memory, with the lock, and saved as soon as possible.
//!
//! After `invalid_grant`, the store is loaded again, because another process may have refreshed first; if locks have a
//! TTL, the owners of other intents also get time to save. Only then has the sign-in ended. A sign-in that has ended
//! stays in the store, [marked](Record::ended), until a fresh one replaces it. Before another sign-in replaces a
//! record, a copy of the record is written into quarantine.

mod intent;
#[cfg(test)]
mod model;
mod put;
mod quarantine;
mod record;
mod refresh;
mod save;
mod sign_out;
mod source;
#[cfg(test)]
mod tests;
mod unsaved;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

pub use self::record::Record;
pub(crate) use self::source::StoredSource;
use self::{
    record::{Entry, Write},
    unsaved::Unsaved,
};
use crate::{
    Error, Result, Token,
    runtime::lock,
    store::{
        CompareAndSet, Contents, Key, MemoryStore, Profile, Store, StoreError, StoreErrorKind,
        Stored, Version,
    },
};

/// The timeout of a change, with all its attempts.
const LONGEST_CHANGE: Duration = Duration::from_secs(30);
/// The first and the longest backoff between the attempts of a change.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A user's sign-in, kept in a [`Store`] under the name of a profile. Clones share their state: clone a `SignIn`
/// instead of creating another one for the same profile.
///
/// A sign-in belongs to the app that it was granted to, at one endpoint: a provider of another app, or at another
/// endpoint, neither uses nor redeems it, but fails with an error. Use separate profiles for each app, and so for
/// coze.com and coze.cn. [`Record::client_id`] is the app of a sign-in, and [`Record::api_base`] its endpoint.
///
/// ```
/// use coze_auth::{SignIn, store::MemoryStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coze_auth::Result<()> {
/// let sign_in = SignIn::new(MemoryStore::new(), "default")?;
/// assert!(sign_in.requires_sign_in().await?);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SignIn(Arc<Shared>);

struct Shared {
    store: Arc<dyn Store>,
    key: Key,
    /// Counts the fresh sign-ins that this process has put here.
    puts: AtomicU64,
    /// A successor that is not stored yet.
    unsaved: Mutex<Option<Box<Unsaved>>>,
    /// Serializes the saves of the unsaved successor.
    saving: tokio::sync::Mutex<()>,
    /// The providers that serve its tokens.
    servers: Mutex<Vec<Weak<dyn Server>>>,
}

/// A provider that serves the tokens of a sign-in.
pub(crate) trait Server: Send + Sync {
    /// Serves no token that it has so far, because the user has signed in again or out.
    fn forget_token(&self);
}

/// A fresh sign-in or a sign-out. When it ends, providers forget their tokens: also when it fails or its future is dropped, because
/// the store may have been changed then. They don't if nothing was written.
struct Changed<'a> {
    sign_in: &'a SignIn,
    may_be_written: AtomicBool,
}

impl<'a> Changed<'a> {
    fn of(sign_in: &'a SignIn) -> Self {
        Self {
            sign_in,
            may_be_written: AtomicBool::new(false),
        }
    }

    /// Called before the record is written.
    fn writes(&self) {
        self.may_be_written.store(true, Ordering::Relaxed);
    }
}

impl Drop for Changed<'_> {
    fn drop(&mut self) {
        if !*self.may_be_written.get_mut() {
            return;
        }
        let servers = lock(&self.sign_in.0.servers).clone();
        for server in servers.iter().filter_map(Weak::upgrade) {
            server.forget_token();
        }
    }
}

impl SignIn {
    /// Creates a handle to the sign-in of a profile. Does not access the store.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the name is not a valid [profile](Profile::new).
    pub fn new(store: impl Store, profile: impl Into<String>) -> Result<Self> {
        Ok(Self::of(Arc::new(store), &Profile::new(profile)?))
    }

    pub(crate) fn of(store: Arc<dyn Store>, profile: &Profile) -> Self {
        Self(Arc::new(Shared {
            store,
            key: Key::record(profile),
            puts: AtomicU64::new(0),
            unsaved: Mutex::default(),
            saving: tokio::sync::Mutex::default(),
            servers: Mutex::default(),
        }))
    }

    /// A sign-in in a private store in memory.
    pub(crate) fn in_memory(token: &Token) -> Self {
        let store = MemoryStore::new();
        let profile = Profile::in_memory();
        let record = Record::fresh(token).ok();
        if let Some(Ok(write)) = record.map(|record| record.write(0)) {
            let contents = Some(&write.contents);
            let _ = store.compare_and_set_now(&Key::record(&profile), None, contents);
        }
        Self::of(Arc::new(store), &profile)
    }

    /// The name of the profile.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        self.0.key.profile()
    }

    /// The store that holds the sign-in.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    /// Loads the record. `None` if there is none, or the user has signed out.
    ///
    /// # Errors
    ///
    /// Those of the store; [`Damaged`](StoreErrorKind::Damaged) when the stored contents can't be read.
    pub async fn load(&self) -> Result<Option<Record>> {
        let asked = Instant::now();
        let loaded = self.look(asked + LONGEST_CHANGE).await?;
        match loaded {
            None | Some((Entry::Tombstone(_), _)) => Ok(None),
            Some((Entry::Damaged(error), _)) => Err(self.damaged(&error)),
            Some((Entry::Record(record), stored)) => {
                let age = stored.age.map(|age| age + asked.elapsed());
                Ok(Some(record.rebased(age)))
            }
        }
    }

    /// Whether the user has to sign in: there is no sign-in, or it [has ended](Record::ended). The store does not
    /// always know: also ask the user to sign in when a call fails with an error that [requires
    /// it](Error::needs_sign_in).
    ///
    /// Contents that can't be read are an error, because a backup may restore them, or a newer version of this crate
    /// may have written them. You can still offer a fresh sign-in: [`put`](Self::put) moves such contents into
    /// quarantine.
    ///
    /// ```
    /// use coze_auth::{ErrorKind, SignIn, StoreErrorKind, store::MemoryStore};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> coze_auth::Result<()> {
    /// # let sign_in = SignIn::new(MemoryStore::new(), "default")?;
    /// let requires_sign_in = match sign_in.requires_sign_in().await {
    ///     Err(error) if error.kind() == ErrorKind::Store(StoreErrorKind::Damaged) => {
    ///         eprintln!("{error}");
    ///         true
    ///     }
    ///     known => known?,
    /// };
    /// # assert!(requires_sign_in);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`load`](Self::load).
    pub async fn requires_sign_in(&self) -> Result<bool> {
        let record = self.load().await?;
        Ok(record.is_none_or(|record| record.has_ended()))
    }

    /// The records in quarantine: replaced sign-ins, and successors that were saved too late. For diagnosis.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn quarantined(&self) -> Result<Vec<Record>> {
        let until = Instant::now() + LONGEST_CHANGE;
        self.in_quarantine(until).await.map_err(Error::from)
    }

    /// The number of fresh sign-ins that this process has put here. A provider in backoff loads again when it changes.
    fn puts(&self) -> u64 {
        self.0.puts.load(Ordering::Acquire)
    }

    /// Tells a provider about each change that this handle or a clone makes.
    pub(crate) fn serve_by(&self, server: Weak<dyn Server>) {
        let mut servers = lock(&self.0.servers);
        servers.retain(|server| server.strong_count() > 0);
        servers.push(server);
    }

    fn damaged(&self, error: &Error) -> Error {
        let what = format!("profile {}: {}", self.profile(), error.what());
        Error::new(error.kind(), what)
    }

    fn unsaved(&self) -> MutexGuard<'_, Option<Box<Unsaved>>> {
        lock(&self.0.unsaved)
    }

    async fn look(&self, until: Instant) -> Result<Option<(Entry, Stored)>, StoreError> {
        self.look_at(&self.0.key, until).await
    }

    async fn look_at(
        &self,
        key: &Key,
        until: Instant,
    ) -> Result<Option<(Entry, Stored)>, StoreError> {
        let stored = in_time(until, self.0.store.load(key)).await?;
        Ok(stored.map(|stored| (Entry::of(&stored.contents), stored)))
    }

    async fn change(
        &self,
        key: &Key,
        expected: Option<&Version>,
        new: Option<&Contents>,
        until: Instant,
    ) -> Result<CompareAndSet, StoreError> {
        in_time(until, self.0.store.compare_and_set(key, expected, new)).await
    }

    /// Writes the record and returns its new version, `None` if it was not written. After a lost response or a
    /// conflict, it loads the record to find out.
    async fn write(
        &self,
        expected: Option<&Version>,
        write: &Write,
        until: Instant,
    ) -> Result<Option<Version>, StoreError> {
        let new = Some(&write.contents);
        let written = self.change(&self.0.key, expected, new, until).await;
        if let Ok(CompareAndSet::Done(Some(version))) = written {
            return Ok(Some(version));
        }
        let now = match self.look(until).await {
            Ok(now) => now,
            Err(error) => return Err(written.err().unwrap_or(error)),
        };
        match now {
            Some((entry, stored)) if entry.write_id() == Some(&write.write_id) => {
                Ok(Some(stored.version))
            }
            _ => written.map(|_| None),
        }
    }
}

async fn in_time<T>(
    until: Instant,
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let late = || {
        StoreError::new(
            StoreErrorKind::Transient,
            "the store did not answer in time",
        )
    };
    timeout_at(until, asked)
        .await
        .unwrap_or_else(|_| Err(late()))
}

/// Retries a change until it succeeds, fails with a non-retryable error, or reaches the deadline.
async fn changing<T, F>(until: Instant, mut attempt: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<Option<T>, StoreError>>,
{
    let mut wait = FIRST_WAIT;
    loop {
        let failure = match attempt().await {
            Ok(Some(changed)) => return Ok(changed),
            Ok(None) => None,
            Err(error) => match error.kind() {
                StoreErrorKind::Transient | StoreErrorKind::Busy => Some(error),
                _ => return Err(error),
            },
        };
        if Instant::now() + wait >= until {
            return Err(failure.unwrap_or_else(|| {
                StoreError::new(
                    StoreErrorKind::Busy,
                    "the sign-in changes faster than it can be written",
                )
            }));
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

impl fmt::Debug for SignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignIn")
            .field("profile", self.profile())
            .finish_non_exhaustive()
    }
}
