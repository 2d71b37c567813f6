//! The contract of stores: contents under keys, with versions, ages and locks.
//!
//! | store | crate | for |
//! |---|---|---|
//! | [`MemoryStore`] | this crate | tests, and programs that need no persistence |
//! | `FileStore` | `coze-auth-stores` (feature `file`, on by default) | the programs of one user: a folder with a file for each sign-in |
//! | `KeyringStore` | `coze-auth-stores` (feature `keyring`) | the same, in the operating system's keyring |
//! | `RedisStore` | `coze-auth-stores` (feature `redis`) | a service of several replicas |
//! | your own | implement [`Store`] | any database: `examples/sqlite` has about 100 lines |
//!
//! A store does not interpret its contents. The protocol of sign-ins (what a record contains, how it is refreshed, how
//! a conflict is resolved) is in [`sign_in`](crate::sign_in), the same for every store. A store has only five methods:
//!
//! - [`load`](Store::load) reads the contents of a key, their version, and their age by the store's clock.
//! - [`compare_and_set`](Store::compare_and_set) creates, replaces or deletes contents if the key has the expected
//!   version.
//! - [`try_lock`](Store::try_lock) and [`unlock`](Store::unlock) let one [`Owner`] at a time refresh a sign-in.
//! - [`list`](Store::list) returns the profiles that have a record.
//!
//! Implement [`Store`], or [`BlockingStore`] for a blocking client library, and run the test suite
//! `coze_auth::testing::store` (feature `testing`) on it.
//!
//! # What a store must guarantee
//!
//! - **Done means durable.** Contents confirmed by [`CompareAndSet::Done`] survive a crash of the process, and of the
//!   machine where the medium allows it.
//! - **A version identifies one write.** It is never reused for a key, not even after the contents were deleted and
//!   created again. [`Version::of`], the hash of the contents, satisfies this, because the contents that this crate
//!   writes are always partly random. A row counter that restarts at 1 does not. If the driver retries a write after a
//!   lost response, the second attempt may conflict with the first; the caller loads the key and recognizes its own
//!   write.
//! - **Read your writes.** `load` reads from the primary, not from a replica that lags behind.
//! - **No waiting in the store.** `try_lock` reports a held lock immediately. An operation on one key must not block
//!   another key.
//! - **Any runtime.** A store may be opened on one tokio runtime and used on another, after the first has ended.
//! - **No secrets** in errors, logs or `Debug`: contents include live tokens.

mod memory;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, LazyLock},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use zeroize::Zeroizing;

pub use memory::MemoryStore;

use crate::error::store::presentable_name;
pub use crate::error::store::{StoreError, StoreErrorKind};

use coze_wire::sanitize_sentence;

use crate::{Error, Result};

/// The future that each method of a [`Store`] returns.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Stores contents under keys, for one process or for many. See the [module](self) for the guarantees.
///
/// ```
/// use std::{sync::atomic::{AtomicU64, Ordering}, time::Duration};
/// use coze_auth::store::{
///     CompareAndSet, Contents, Key, Owner, Profile, Store, StoreFuture, Stored, TryLock, Version,
/// };
///
/// /// Counts the loads.
/// struct Counted<S>(S, AtomicU64);
///
/// impl<S: Store> Store for Counted<S> {
///     fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
///         self.1.fetch_add(1, Ordering::Relaxed);
///         self.0.load(key)
///     }
///
///     fn compare_and_set<'a>(
///         &'a self,
///         key: &'a Key,
///         expected: Option<&'a Version>,
///         new: Option<&'a Contents>,
///     ) -> StoreFuture<'a, CompareAndSet> {
///         self.0.compare_and_set(key, expected, new)
///     }
///
///     fn try_lock<'a>(&'a self, key: &'a Key, owner: &'a Owner, ttl: Duration) -> StoreFuture<'a, TryLock> {
///         self.0.try_lock(key, owner, ttl)
///     }
///
///     fn unlock<'a>(&'a self, key: &'a Key, owner: &'a Owner) -> StoreFuture<'a, ()> {
///         self.0.unlock(key, owner)
///     }
///
///     fn list(&self) -> StoreFuture<'_, Option<Vec<Profile>>> {
///         self.0.list()
///     }
/// }
/// ```
pub trait Store: Send + Sync + 'static {
    /// Reads the contents of a key, with their version and age. `None` if the key has no contents.
    ///
    /// # Errors
    ///
    /// Only when the store cannot be read. Invalid contents are returned unchanged: the caller validates them.
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>>;

    /// Changes the contents of a key atomically, if the key has the expected version.
    ///
    /// | `expected` | `new` | |
    /// |---|---|---|
    /// | `None` | `Some` | create: the key must have no contents |
    /// | `Some` | `Some` | replace: the key must have this version. Never creates |
    /// | `Some` | `None` | delete: the key must have this version |
    /// | `None` | `None` | no change, if the key has no contents |
    ///
    /// Otherwise the result is [`Conflict`](CompareAndSet::Conflict), and nothing changes. Locks are not checked.
    /// Returns when the change is durable. A change that does not make the contents longer should succeed in a full
    /// store (such as a Redis at its memory limit).
    ///
    /// # Errors
    ///
    /// The change may have been made, because a response can be lost after it. The caller loads the key to find out.
    fn compare_and_set<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        new: Option<&'a Contents>,
    ) -> StoreFuture<'a, CompareAndSet>;

    /// Tries to acquire the lock of a key, without waiting. Idempotent: the owner that holds the lock acquires it
    /// again, because the response to its first request may have been lost. A TTL then restarts.
    ///
    /// `ttl` is how long the owner needs the lock. A store with [process-bound locks](LockLifetime::ProcessBound)
    /// ignores it, and registers the lock under its key and owner until [`unlock`](Self::unlock). A held lock is never
    /// given to another owner.
    ///
    /// # Errors
    ///
    /// The lock may be held: try again with the same owner, or unlock.
    fn try_lock<'a>(
        &'a self,
        key: &'a Key,
        owner: &'a Owner,
        ttl: Duration,
    ) -> StoreFuture<'a, TryLock>;

    /// Releases the lock, if this owner holds it. Otherwise does nothing.
    ///
    /// # Errors
    ///
    /// The lock may still be held, until it expires.
    fn unlock<'a>(&'a self, key: &'a Key, owner: &'a Owner) -> StoreFuture<'a, ()>;

    /// The profiles whose [record](Key::record) key has contents, in any order. Quarantine keys do not count. A
    /// signed-out profile has a tombstone, which counts. `None` if the store can't enumerate its keys (some keyrings
    /// can't).
    ///
    /// # Errors
    ///
    /// When the store can't be read.
    fn list(&self) -> StoreFuture<'_, Option<Vec<Profile>>>;
}

/// A [`Store`] for a blocking client library: the same five methods, without futures. Wrap it in [`Blocking`] to get a
/// [`Store`].
///
/// Its methods run on tokio's blocking threads, several concurrently. Every wait in them (for a connection, a mutex, a
/// busy database) must be short and have a timeout.
pub trait BlockingStore: Send + Sync + 'static {
    /// See [`Store::load`].
    fn load(&self, key: &Key) -> Result<Option<Stored>, StoreError>;

    /// See [`Store::compare_and_set`].
    fn compare_and_set(
        &self,
        key: &Key,
        expected: Option<&Version>,
        new: Option<&Contents>,
    ) -> Result<CompareAndSet, StoreError>;

    /// See [`Store::try_lock`].
    fn try_lock(&self, key: &Key, owner: &Owner, ttl: Duration) -> Result<TryLock, StoreError>;

    /// See [`Store::unlock`].
    fn unlock(&self, key: &Key, owner: &Owner) -> Result<(), StoreError>;

    /// See [`Store::list`].
    fn list(&self) -> Result<Option<Vec<Profile>>, StoreError>;
}

/// Adapts a [`BlockingStore`] to [`Store`]: runs it on the blocking threads of the caller's tokio runtime. Clones share
/// the store.
///
/// A call that has started is completed even if its future is dropped.
#[derive(Debug)]
pub struct Blocking<S>(Arc<S>);

impl<S> Clone for Blocking<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: BlockingStore> Blocking<S> {
    /// Wraps a store.
    pub fn new(store: S) -> Self {
        Self(Arc::new(store))
    }

    fn run<'a, T: Send + 'static>(
        &self,
        call: impl FnOnce(&S) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<'a, T> {
        let store = Arc::clone(&self.0);
        Box::pin(async move {
            let runtime = tokio::runtime::Handle::try_current().map_err(|error| {
                StoreError::new(StoreErrorKind::Other, "there is no tokio runtime")
                    .with_source(error)
            })?;
            let called = runtime.spawn_blocking(move || call(&store)).await;
            called.unwrap_or_else(|error| {
                let what = "the call to the store was cancelled";
                Err(StoreError::new(StoreErrorKind::Transient, what).with_source(error))
            })
        })
    }
}

impl<S: BlockingStore> Store for Blocking<S> {
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        let key = key.clone();
        self.run(move |store| store.load(&key))
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        new: Option<&'a Contents>,
    ) -> StoreFuture<'a, CompareAndSet> {
        let (key, expected, new) = (key.clone(), expected.cloned(), new.cloned());
        self.run(move |store| store.compare_and_set(&key, expected.as_ref(), new.as_ref()))
    }

    fn try_lock<'a>(
        &'a self,
        key: &'a Key,
        owner: &'a Owner,
        ttl: Duration,
    ) -> StoreFuture<'a, TryLock> {
        let (key, owner) = (key.clone(), owner.clone());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let locking = self.run(move |store| {
            let locked = store.try_lock(&key, &owner, ttl);
            // If the caller's future is dropped, the lock is acquired without a caller to release it: release it here.
            if let Err(Ok(TryLock::Acquired(_))) = sender.send(locked) {
                store.unlock(&key, &owner)?;
            }
            Ok(())
        });
        Box::pin(async move {
            locking.await?;
            let gone = |error| {
                StoreError::new(StoreErrorKind::Other, "the call to the store was cancelled")
                    .with_source(error)
            };
            receiver.await.map_err(gone)?
        })
    }

    fn unlock<'a>(&'a self, key: &'a Key, owner: &'a Owner) -> StoreFuture<'a, ()> {
        let (key, owner) = (key.clone(), owner.clone());
        self.run(move |store| store.unlock(&key, &owner))
    }

    fn list(&self) -> StoreFuture<'_, Option<Vec<Profile>>> {
        self.run(S::list)
    }
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        S::load(self, key)
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        new: Option<&'a Contents>,
    ) -> StoreFuture<'a, CompareAndSet> {
        S::compare_and_set(self, key, expected, new)
    }

    fn try_lock<'a>(
        &'a self,
        key: &'a Key,
        owner: &'a Owner,
        ttl: Duration,
    ) -> StoreFuture<'a, TryLock> {
        S::try_lock(self, key, owner, ttl)
    }

    fn unlock<'a>(&'a self, key: &'a Key, owner: &'a Owner) -> StoreFuture<'a, ()> {
        S::unlock(self, key, owner)
    }

    fn list(&self) -> StoreFuture<'_, Option<Vec<Profile>>> {
        S::list(self)
    }
}

/// The name of a sign-in in a store: 1 to 128 bytes of UTF-8 without control characters.
///
/// ```
/// use coze_auth::store::Profile;
///
/// let profile = Profile::new("default")?;
/// assert_eq!(profile.name(), "default");
/// assert!(Profile::new("").is_err());
/// # Ok::<(), coze_auth::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Profile(String);

impl Profile {
    const LONGEST: usize = 128;

    /// Creates a profile with this name.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when it is empty, is too long, or contains a control character.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        if name.is_empty() || name.len() > Self::LONGEST {
            return Err(Error::invalid_input(format!(
                "the name of a profile has 1 to {} bytes, not {}",
                Self::LONGEST,
                name.len()
            )));
        }
        if name.chars().any(char::is_control) {
            return Err(Error::invalid_input(
                "the name of a profile contains a control character",
            ));
        }
        Ok(Self(name))
    }

    pub(crate) fn in_memory() -> Self {
        Self("in memory".to_owned())
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// Without [invisible](coze_wire::is_invisible) characters, which the [name](Profile::name) may contain.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&sanitize_sentence(self.0.clone()))
    }
}

/// Identifies contents in a store: the record of a profile, or one of its eight quarantine slots.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    profile: Profile,
    slot: Option<u8>,
}

impl Key {
    /// The number of quarantine slots of each profile.
    pub const SLOTS: u8 = 8;

    /// The key of the profile's record.
    #[must_use]
    pub fn record(profile: &Profile) -> Self {
        Self {
            profile: profile.clone(),
            slot: None,
        }
    }

    /// The keys of a profile's quarantine slots, in order. A slot keeps a replaced record or a late successor.
    pub fn quarantine_slots(profile: &Profile) -> impl Iterator<Item = Self> + '_ {
        (0..Self::SLOTS).map(|slot| Self {
            profile: profile.clone(),
            slot: Some(slot),
        })
    }

    /// The profile.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The quarantine slot, 0 to 7; `None` for the record.
    #[must_use]
    pub fn slot(&self) -> Option<u8> {
        self.slot
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slot {
            None => write!(f, "profile {}", self.profile),
            Some(slot) => write!(f, "quarantine slot {slot} of profile {}", self.profile),
        }
    }
}

/// The contents of a key: bytes that include secrets. Wiped when dropped; `Debug` does not print them.
///
/// ```compile_fail
/// let contents = coze_auth::store::Contents::from(b"secret".to_vec());
/// println!("{contents:?}");
/// ```
#[derive(Clone)]
pub struct Contents(Zeroizing<Vec<u8>>);

impl Contents {
    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Contents {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl From<Zeroizing<Vec<u8>>> for Contents {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
}

/// Identifies one write of a key. Only the store interprets it; callers compare it for equality.
///
/// ```
/// use coze_auth::store::{Contents, Version};
///
/// let contents = Contents::from(b"{}".to_vec());
/// assert_eq!(Version::of(&contents), Version::of(&contents));
/// assert_eq!(Version::of(&contents).as_ref().len(), 32);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Version(Box<[u8]>);

impl Version {
    /// A version with this identity, which the store must never reuse for the key.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The SHA-256 of the contents. Never reused, because contents are partly random.
    #[must_use]
    pub fn of(contents: &Contents) -> Self {
        Self::new(digest(&SHA256, contents.expose()).as_ref())
    }
}

/// The bytes that the store created it from.
impl AsRef<[u8]> for Version {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({})", hex(&self.0))
    }
}

/// Loaded contents.
#[derive(Clone)]
#[non_exhaustive]
pub struct Stored {
    /// The contents of the key.
    pub contents: Contents,
    /// The write that stored them.
    pub version: Version,
    /// The time since that write, by the store's own clock (of the database or the file system), because the clocks of
    /// machines differ. Counted from the start of the write, if the store can tell. `None` if it is unknown, for
    /// example because the store's clock was set back.
    pub age: Option<Duration>,
}

impl Stored {
    /// Contents, the version of the write that stored them, and their [age](Self::age) by the store's clock.
    #[must_use]
    pub fn new(contents: Contents, version: Version, age: Option<Duration>) -> Self {
        Self {
            contents,
            version,
            age,
        }
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored")
            .field("version", &self.version)
            .field("age", &self.age)
            .finish_non_exhaustive()
    }
}

/// The result of [`compare_and_set`](Store::compare_and_set).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum CompareAndSet {
    /// The change is durable. The version of the new contents, or `None` after a delete.
    Done(Option<Version>),
    /// The key did not have the expected version. Nothing has changed.
    Conflict,
}

/// The result of [`try_lock`](Store::try_lock).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum TryLock {
    /// The owner holds the lock.
    Acquired(LockLifetime),
    /// Another owner holds it.
    Held {
        /// The [name](Owner::name) of that owner, if the store knows it.
        by: Option<String>,
    },
}

/// When a lock ends if its owner does not release it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockLifetime {
    /// After its TTL, even if its owner is alive and may write later.
    Ttl,
    /// When the process of its owner ends, and no earlier: no other owner acquires it while that process is alive.
    ProcessBound,
}

/// The owner of a lock: one run of a refresh in one process, with all its attempts.
///
/// ```
/// use coze_auth::store::Owner;
///
/// let owner = Owner::new([7; 16], "process 4711 on host\n");
/// assert_eq!(owner.id(), "07070707070707070707070707070707");
/// assert_eq!(owner.name(), "process 4711 on host");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    id: String,
    name: String,
}

impl Owner {
    /// An owner with this id of 128 random bits. The name is shown to users in errors, so it is reduced to one short
    /// line.
    #[must_use]
    pub fn new(id: [u8; 16], name: &str) -> Self {
        Self {
            id: hex(&id),
            name: presentable_name(name),
        }
    }

    /// A name for this process: its process id and the host.
    #[must_use]
    pub fn this_process() -> &'static str {
        static NAME: LazyLock<String> = LazyLock::new(|| {
            #[cfg(unix)]
            let host = rustix::system::uname()
                .nodename()
                .to_str()
                .ok()
                .map(str::to_owned);
            #[cfg(not(unix))]
            let host = std::env::var("COMPUTERNAME").ok();
            let process = std::process::id();
            match host.filter(|host| !host.is_empty()) {
                Some(host) => presentable_name(&format!("process {process} on {host}")),
                None => format!("process {process}"),
            }
        });
        &NAME
    }

    /// The id, as 32 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name, for users.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string can't fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
