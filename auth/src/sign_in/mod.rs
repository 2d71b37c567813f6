//! A user's sign-in, kept in a [store](crate::store) so that it is not lost.
//!
//! Coze's refresh tokens are single-use: each refresh returns a new one and invalidates the one sent. Two processes that refresh at the same
//! moment, or one that dies at the wrong one, and the user has to sign in again. A [`SignIn`] is a store and the name of a profile in
//! it. Put a fresh sign-in there, and let a [`CachedProvider`](crate::CachedProvider) keep it:
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
//! // In line: a program that ends would take a refresh in the background with it.
//! let provider = CachedProvider::stored(device, sign_in).refresh(RefreshMode::InLine).build();
//! let token = provider.token().await?;
//! // Before the program ends: it saves what could not be saved yet.
//! provider.shutdown().await?;
//! # Ok(()) }
//! ```
//!
//! # How a sign-in is refreshed
//!
//! 1. Take the store's lock, and load again. What another owner has refreshed meanwhile is used.
//! 2. Write an *intent* into the record: this refresh token may have been redeemed. That proves that the save can be written, makes room
//!    for it, and tells others that a successor may still come. Without it, nothing is sent; it is renewed before each attempt.
//! 3. Refresh, and save by compare-and-set. What a conflict means is decided by the refresh token: as long as the stored one is the
//!    one that was redeemed, the save is repeated on whatever version carries it. So a save succeeds whether or not the lock is still held,
//!    and whatever other owners have written beside it.
//! 4. Release the lock. If the save fails, the successor is kept in memory, with the lock, and saved as soon as possible.
//!
//! `invalid_grant` is believed only after the store was loaded again, because another process may have won; and where a lock ends with its
//! TTL, only after the owners of other intents had time to save. A sign-in that has ended stays in the store, [marked](Record::ended),
//! until a fresh one replaces it. Nothing is replaced before a copy of it is in quarantine.

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
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

pub use self::record::{Ended, Record};
pub(crate) use self::source::StoredSource;
use self::{
    record::{Entry, Write},
    unsaved::Unsaved,
};
use crate::{
    Error, ErrorKind, Result, Token,
    runtime::lock,
    store::{
        CompareAndSet, Contents, Key, MemoryStore, Profile, Store, StoreError, StoreErrorKind,
        Stored, Version,
    },
};

/// What a caller waits for a change, with all its tries.
const LONGEST_CHANGE: Duration = Duration::from_secs(30);
/// Between two tries of a change: at first, and at most.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A user's sign-in, kept in a [`Store`] under the name of a profile. Clones are the same sign-in, and share what a process knows of it:
/// clone it, rather than making another for the same profile.
///
/// It belongs to the app that it was granted to: a provider of another app neither uses nor spends it, and says so. Give each app, and so
/// each of coze.com and coze.cn, profiles of its own; [`Record::client_id`] tells whose it is.
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
    /// How many fresh sign-ins this process has put here.
    puts: AtomicU64,
    /// A successor that is not stored yet.
    unsaved: Mutex<Option<Box<Unsaved>>>,
    /// Saves do not overlap.
    saving: tokio::sync::Mutex<()>,
}

impl SignIn {
    /// The sign-in of this profile.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) when the name of the profile can't be one.
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
        }))
    }

    /// A sign-in that nobody else can reach.
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

    /// Where it is kept.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    /// What is stored, if anything.
    ///
    /// # Errors
    ///
    /// Those of the store; [`Store`](ErrorKind::Store) and [`Damaged`](StoreErrorKind::Damaged) when what is stored can't be understood.
    pub async fn load(&self) -> Result<Option<Record>> {
        let asked = Instant::now();
        let loaded = self
            .look(asked + LONGEST_CHANGE)
            .await
            .map_err(store_error)?;
        match loaded {
            None | Some((Entry::Tombstone(_), _)) => Ok(None),
            Some((Entry::Damaged(error), _)) => Err(self.damaged(&error)),
            Some((Entry::Record(record), stored)) => {
                let age = stored.age.map(|age| age + asked.elapsed());
                Ok(Some(record.rebased(age)))
            }
        }
    }

    /// Whether the user has to sign in: nobody has, or the sign-in [has ended](Record::ended). It is not always known beforehand: also sign
    /// in when a call ends with an error that says [so](Error::needs_sign_in).
    ///
    /// What can't be understood is an error, because it may yet be restored, or be a newer program's. To offer a fresh sign-in then:
    /// [`put`](Self::put) moves what is there into quarantine.
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
        Ok(record.is_none_or(|record| record.ended().is_some()))
    }

    /// The records in quarantine: sign-ins that were replaced, and successors that came too late. For diagnosis.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn quarantined(&self) -> Result<Vec<Record>> {
        let until = Instant::now() + LONGEST_CHANGE;
        self.in_quarantine(until).await.map_err(store_error)
    }

    /// How many fresh sign-ins this process has put here: who is in backoff looks again when it moves.
    fn puts(&self) -> u64 {
        self.0.puts.load(Ordering::Acquire)
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

    /// Writes the record, and settles a lost answer and a conflict by loading: the version that it has now, `None` if it was not written.
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

/// Tries a change until it is made, fails in a way that waiting does not mend, or time runs out.
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

/// What callers hear of a store's failure.
fn store_error(error: StoreError) -> Error {
    let what = match error.by() {
        Some(by) => format!("{}: {by} keeps it", error.message()),
        None => error.message().to_owned(),
    };
    let failure = Error::new(ErrorKind::Store(error.kind()), what);
    match std::error::Error::source(&error) {
        Some(_) => failure.with_source(error),
        None => failure,
    }
}

impl fmt::Debug for SignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignIn")
            .field("profile", self.profile())
            .finish_non_exhaustive()
    }
}
