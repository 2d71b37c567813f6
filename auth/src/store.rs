//! Where sign-ins are kept: bytes under keys, with versions, ages and locks.
//!
//! | store | crate | for |
//! |---|---|---|
//! | [`MemoryStore`] | here | tests, and programs that may forget their sign-ins |
//! | `FileStore` | `coze-auth-stores` (feature `file`, on by default) | the programs of one user: a file for each sign-in, in a folder |
//! | `KeyringStore` | `coze-auth-stores` (feature `keyring`) | the same, in the operating system's keyring |
//! | `RedisStore` | `coze-auth-stores` (feature `redis`) | a service of several replicas |
//! | your own | implement [`Store`] | any database: `examples/sqlite` is one of about 100 lines |
//!
//! A store knows nothing of tokens. What a sign-in is, how it is refreshed, and what a conflict means is decided once, above
//! every store, in [`sign_in`](crate::sign_in). So a store is small: five methods, four of which are a row in a table.
//!
//! - [`load`](Store::load) reads the contents of a key, their version, and their age by the store's own clock.
//! - [`compare_and_set`](Store::compare_and_set) creates, replaces or deletes them, if they still have the expected version.
//! - [`try_lock`](Store::try_lock) and [`unlock`](Store::unlock) let one [`Owner`] at a time refresh a sign-in.
//! - [`list`](Store::list) tells which profiles hold a record.
//!
//! Implement [`Store`], or [`BlockingStore`] where the client library blocks, and run the suite
//! `coze_auth::testing::store` (feature `testing`) on it.
//!
//! # What a store must keep
//!
//! - **Done means durable.** Contents that [`CompareAndSet::Done`] has confirmed survive a crash of the process, and of the machine
//!   where the medium allows it.
//! - **A version names one write.** It is never used again for a key, not even after the contents were deleted and created again.
//!   Contents that are written here always hold something random, so [`Version::of`], their hash, satisfies this; a row counter
//!   that starts again at 1 does not. If a write is repeated by a driver whose first answer was lost, the second may conflict
//!   with the first: the caller loads, and recognizes its own.
//! - **`load` reads from where writes go**, not from a replica that lags behind.
//! - **Waiting is not done in the store.** A lock that is held is reported at once. Nothing that one key does, or waits for, may block
//!   another key.
//! - **Any runtime.** A store may be opened on one tokio runtime, and used on another after the first has ended.
//! - **No secrets** in errors, logs or `Debug`: contents hold live tokens.

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

/// What the methods of a [`Store`] return.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Keeps contents under keys, for one process or for many. See the [module](self) for what it must guarantee.
///
/// ```
/// use std::{sync::atomic::{AtomicU64, Ordering}, time::Duration};
/// use coze_auth::store::{
///     CompareAndSet, Contents, Key, Owner, Profile, Store, StoreFuture, Stored, TryLock, Version,
/// };
///
/// /// Counts how often the store is read.
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
    /// Reads what a key holds, with its version and age. `None` if it holds nothing.
    ///
    /// # Errors
    ///
    /// Only when the store cannot be read. Contents that make no sense are returned as they are: the caller checks them.
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>>;

    /// Changes what a key holds, in one step, if it is still as expected.
    ///
    /// | `expected` | `new` | |
    /// |---|---|---|
    /// | `None` | `Some` | create: the key must hold nothing |
    /// | `Some` | `Some` | replace: the key must hold this version. It never creates |
    /// | `Some` | `None` | delete: the key must hold this version |
    /// | `None` | `None` | nothing to do, if the key holds nothing |
    ///
    /// Otherwise it is a [`Conflict`](CompareAndSet::Conflict), and nothing changes. It does not depend on a lock. It returns when
    /// the change is durable. A change that grows nothing should succeed where the store is full (a Redis at its memory limit).
    ///
    /// # Errors
    ///
    /// The change may have been made or not: an answer can be lost after it. The caller loads to find out.
    fn compare_and_set<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        new: Option<&'a Contents>,
    ) -> StoreFuture<'a, CompareAndSet>;

    /// Tries once, without waiting, to get the lock of a key. The owner that holds it already succeeds again, because the answer to
    /// its first request may have been lost; where the lock ends with its TTL, that begins again.
    ///
    /// `ttl` is how long the owner needs it. A store whose locks are [bound to a process](LockLifetime::ProcessBound) ignores it, and
    /// registers the lock under its key and owner until [`unlock`](Self::unlock). A held lock is never taken from its owner.
    ///
    /// # Errors
    ///
    /// The lock may be held or not: try again with the same owner, or unlock.
    fn try_lock<'a>(
        &'a self,
        key: &'a Key,
        owner: &'a Owner,
        ttl: Duration,
    ) -> StoreFuture<'a, TryLock>;

    /// Releases the lock, if this owner holds it. Otherwise it does nothing.
    ///
    /// # Errors
    ///
    /// The lock may still be held. It ends by itself.
    fn unlock<'a>(&'a self, key: &'a Key, owner: &'a Owner) -> StoreFuture<'a, ()>;

    /// The profiles whose [record](Key::record) key holds something, in any order; quarantine keys do not count. A profile that was signed
    /// out of holds a tombstone, which counts. `None` if the store
    /// cannot tell (a keyring cannot enumerate its entries everywhere).
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    fn list(&self) -> StoreFuture<'_, Option<Vec<Profile>>>;
}

/// A [`Store`] whose client library blocks: the same five methods, without futures. [`Blocking`] makes a [`Store`] of it.
///
/// Its methods run on tokio's threads for blocking work, several at a time. What it waits for (a connection, a mutex, a busy
/// database) must be short, and bounded by a timeout of its own.
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

/// Runs a [`BlockingStore`] on the threads that the caller's tokio runtime keeps for blocking work. Clones share the store.
///
/// A call that was begun is finished even if its future is dropped.
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
                let what = "the call to the store did not end";
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
            // Nobody would release a lock that comes when nobody waits for it any more.
            if let Err(Ok(TryLock::Acquired(_))) = sender.send(locked) {
                store.unlock(&key, &owner)?;
            }
            Ok(())
        });
        Box::pin(async move {
            locking.await?;
            let gone = |error| {
                StoreError::new(StoreErrorKind::Other, "the lock was not answered for")
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

    /// A profile of this name.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when it is empty, too long, or holds a control character.
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
                "the name of a profile holds a control character",
            ));
        }
        Ok(Self(name))
    }

    pub(crate) fn in_memory() -> Self {
        Self("in memory".to_owned())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// Without [invisible](coze_wire::is_invisible) characters, which its [name](Profile::name) may hold.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&sanitize_sentence(self.0.clone()))
    }
}

/// Names contents in a store: the record of a profile, or one of its eight quarantine slots.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    profile: Profile,
    slot: Option<u8>,
}

impl Key {
    /// How many quarantine slots each profile has.
    pub const SLOTS: u8 = 8;

    /// The key of the profile's sign-in.
    #[must_use]
    pub fn record(profile: &Profile) -> Self {
        Self {
            profile: profile.clone(),
            slot: None,
        }
    }

    /// The keys of a profile's quarantine slots, in order: where records are kept that were replaced, or came too late.
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

/// What a key holds: bytes with secrets in them, so they are wiped when dropped, and not printed.
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

/// Names one write of a key. It means something only to the store that made it, and is compared for equality only.
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
    /// A version of the store's own making: it is never used again for the key.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The SHA-256 of the contents. It is never used again, because contents hold something random.
    #[must_use]
    pub fn of(contents: &Contents) -> Self {
        Self::new(digest(&SHA256, contents.expose()).as_ref())
    }
}

/// The bytes that the store made it of.
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

/// Contents as they were loaded.
#[derive(Clone)]
#[non_exhaustive]
pub struct Stored {
    /// What the key holds.
    pub contents: Contents,
    /// The write that put it there.
    pub version: Version,
    /// How long ago that was, by the store's own clock (that of the database, the file system): clocks of machines differ. It counts
    /// from when the store was asked to write, if the store can tell. `None` if the store cannot know, because its clock was set
    /// back since.
    pub age: Option<Duration>,
}

impl Stored {
    /// Contents, the version that names their write, and its [age](Self::age) by the store's own clock.
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

/// What came of a [`compare_and_set`](Store::compare_and_set).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum CompareAndSet {
    /// The change is made, durably. The version is that of the new contents, `None` after a delete.
    Done(Option<Version>),
    /// The key was not as expected. Nothing has changed.
    Conflict,
}

/// What came of a [`try_lock`](Store::try_lock).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum TryLock {
    /// The owner has the lock.
    Acquired(LockLifetime),
    /// Another owner has it.
    Held {
        /// Its [name](Owner::name), if the store can tell.
        by: Option<String>,
    },
}

/// When a lock ends that its owner does not release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockLifetime {
    /// When its TTL is over, though its owner may live on, and write later.
    Ttl,
    /// When its owner's process ends, and not before: nobody else gets it while that process lives.
    ProcessBound,
}

/// Who holds a lock: one run of refresh in one process, with all its attempts.
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
    /// An owner with this id, 128 random bits. The name is for people; it is shown in errors, so it is kept on one line and short.
    #[must_use]
    pub fn new(id: [u8; 16], name: &str) -> Self {
        Self {
            id: hex(&id),
            name: presentable_name(name),
        }
    }

    /// A name for this process: its number, and the host.
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

    /// Its id: 32 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its name, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing to memory can't fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
