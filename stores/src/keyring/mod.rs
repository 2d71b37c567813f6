//! A store in the operating system's keyring: one credential for each key.
//!
//! Keyrings have neither locks nor compare-and-set. Both are built on lock files in a folder of this user, named after the
//! credential. A change holds a short lock of its own, not the lock of an [`Owner`].
//!
//! A credential is replaced by one call, so a killed client has replaced it or not. But some services delete the old credential
//! before they create the new one. So a load that finds nothing repeats the search under the lock for changes.
//!
//! The credential of a quarantine slot is called `default⇥quarantine 0`. Profile names contain no tab, so there is no conflict.

mod service;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use coze_auth::store::{
    CompareAndSet, Contents, Key, Owner, Profile, Store, StoreError, StoreErrorKind, StoreFuture,
    Stored, TryLock, Version,
};
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

use self::service::{Link, Service};
use crate::{
    blocking::{Threads, run_at_once},
    envelope::{Envelope, Header, hash},
    folder::{Folder, Result, state_folder},
    lock::{Change, Held, Turns},
};

/// The default timeout of the keyring: the user may have to unlock it.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How many concurrent calls a process makes. The keyring processes them one by one anyway.
const MAX_ASKING: usize = 16;
static ASKING: Semaphore = Semaphore::const_new(MAX_ASKING);
/// How many threads may exist, including those that wait for a keyring that does not respond, after their callers' timeout.
const MAX_THREADS: usize = 64;
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Keeps sign-ins in the operating system's keyring, one credential for each profile, for the programs of one user. Clones share
/// the store.
///
/// ```no_run
/// use coze_auth::store::{Key, Profile, Store};
/// use coze_auth_stores::KeyringStore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = KeyringStore::new("my-program")?;
/// let key = Key::record(&Profile::new("default")?);
/// if store.load(&key).await?.is_none() {
///     println!("sign in first");
/// }
/// # Ok(()) }
/// ```
///
/// | system | keyring | tested |
/// |---|---|---|
/// | Linux, FreeBSD, OpenBSD | the Secret Service (GNOME Keyring, KWallet, KeePassXC), over D-Bus | on Linux, with GNOME Keyring |
/// | macOS | the login keychain | no: only type-checked |
/// | Windows | the Credential Manager, for this machine only | under Wine |
///
/// On other systems every operation is an error.
///
/// # Guarantees
///
/// - There is no fallback to another place. Without a keyring, or if a locked keyring is not unlocked
///   [in time](Self::answer_within), every operation is an error with advice.
/// - The lock of an owner is the operating system's lock on a file, named after the credential, in
///   `~/.local/state/coze-auth/keyring-locks` (`$XDG_STATE_HOME`; on macOS `~/Library/Application Support`, on Windows
///   `%LOCALAPPDATA%`). It ends with the process, and not before. Programs that use the same credential must use the same
///   folder, and its files must not be deleted while a program uses them. On Windows the name of the holder is unknown.
/// - Compare-and-set works between programs that use this crate. Another program that writes the credential at the same moment is
///   not detected, because keyrings do not support compare-and-set.
/// - A change is done when the keyring has confirmed it. It is as durable as the keyring makes it.
/// - Ages are measured with this machine's clock.
/// - Windows limits a credential to 2,560 bytes, of which 32 are used for the time of the write. A longer one is
///   [`Full`](StoreErrorKind::Full).
/// - A process has one connection to the keyring, regardless of the number of stores. GNOME Keyring may crash if a program
///   connects or disconnects while it responds to another (its [issue 196]). After its restart the store connects again; the keyring
///   may then be locked until the user unlocks it.
/// - The keyring is called on separate threads, which do not keep the program from exiting. Dropping a future does not undo a write
///   that has begun.
///
/// [issue 196]: https://gitlab.gnome.org/GNOME/gnome-keyring/-/issues/196
#[derive(Clone)]
pub struct KeyringStore {
    service: Arc<Service>,
    locks: Folder,
    answer_within: Duration,
    threads: Threads,
    turns: Turns,
    held: Held,
}

impl KeyringStore {
    /// Keeps the sign-ins of this program, whose name the keyring shows as the service. No I/O happens here.
    ///
    /// ```
    /// use coze_auth_stores::KeyringStore;
    ///
    /// let store = KeyringStore::new("my-program")?;
    /// # Ok::<(), coze_auth::store::StoreError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Other`](StoreErrorKind::Other) if the program's name is empty, longer than 128 bytes, or contains a slash, a backslash or a
    /// control character, or if the user has no home folder for the lock files.
    pub fn new(program: impl Into<String>) -> Result<Self, StoreError> {
        let program = program.into();
        let has_bad = program.contains(|c: char| c.is_control() || matches!(c, '/' | '\\'));
        if program.is_empty() || program.len() > 128 || has_bad {
            return Err(StoreError::new(
                StoreErrorKind::Other,
                "the name of the program is empty, longer than 128 bytes, or contains a slash, a backslash or a control character",
            ));
        }
        Ok(Self {
            service: Arc::new(Service::of(program)),
            locks: Folder::new(state_folder()?.join("coze-auth").join("keyring-locks")),
            answer_within: ANSWER_WITHIN,
            threads: Threads::default(),
            turns: Turns::default(),
            held: Held::default(),
        })
    }

    /// How long to wait for the keyring; one minute by default, in which the user can unlock it. Choose less for a program that
    /// runs unattended.
    ///
    /// ```
    /// use std::time::Duration;
    /// use coze_auth_stores::KeyringStore;
    ///
    /// let store = KeyringStore::new("my-program")?.answer_within(Duration::from_secs(5));
    /// # Ok::<(), coze_auth::store::StoreError>(())
    /// ```
    #[must_use]
    pub fn answer_within(mut self, limit: Duration) -> Self {
        self.answer_within = limit;
        self
    }

    async fn read(&self, credential: &Credential) -> Result<Option<Envelope>> {
        let credential = credential.clone();
        self.ask(move || credential.read()).await
    }

    /// Waits for the lock under which a credential is changed.
    async fn change(&self, credential: &Credential) -> Result<Change> {
        let name = credential.lock_file("change");
        self.turns
            .change(&self.threads, &self.locks, name, Ok)
            .await
    }

    /// Whether a program of this user has changed a credential before.
    async fn has_locks(&self) -> Result<bool> {
        let locks = self.locks.clone();
        self.threads.run(move || Ok(locks.open()?.is_some())).await
    }

    /// Runs a call to the keyring on a separate thread, with the timeout. On a blocking thread of tokio, the call would keep the
    /// program from exiting while the user is asked to unlock the keyring.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let link = Link::shared();
        let limit = self.answer_within;
        let answer = timeout(limit, on_its_thread(&link, work)).await;
        answer.unwrap_or_else(|_| {
            // The thread may hold the connection forever.
            link.give_up();
            let limit = limit.as_secs();
            Err(StoreError::new(
                StoreErrorKind::Transient,
                &format!("the keyring has not answered within {limit} s: unlock the keyring if it is locked"),
            ))
        })
    }

    fn credential(&self, key: &Key) -> Credential {
        Credential {
            service: Arc::clone(&self.service),
            user: user_of(key),
            lock: lock_name(self.service.program(), key),
        }
    }
}

impl fmt::Debug for KeyringStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyringStore")
            .field("program", &self.service.program())
            .field("locks", &self.locks)
            .field("answer_within", &self.answer_within)
            .finish_non_exhaustive()
    }
}

impl Store for KeyringStore {
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async move {
            let credential = self.credential(key);
            let mut found = self.read(&credential).await?;
            if found.is_none() && self.has_locks().await? {
                // A service that deletes and creates may be between the two steps.
                let _change = self.change(&credential).await?;
                found = self.read(&credential).await?;
            }
            Ok(found.map(|found| found.stored(SystemTime::now())))
        })
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        new: Option<&'a Contents>,
    ) -> StoreFuture<'a, CompareAndSet> {
        let (expected, new) = (expected.cloned(), new.cloned());
        let asked = Instant::now();
        Box::pin(async move {
            let credential = self.credential(key);
            // If the user has to unlock the keyring, wait for that here, before the lock is held.
            self.read(&credential).await?;
            let change = self.change(&credential).await?;
            self.ask(move || {
                let _change = change;
                credential.compare_and_set(expected.as_ref(), new.as_ref(), asked)
            })
            .await
        })
    }

    fn try_lock<'a>(
        &'a self,
        key: &'a Key,
        owner: &'a Owner,
        _ttl: Duration,
    ) -> StoreFuture<'a, TryLock> {
        Box::pin(async move {
            let credential = self.credential(key);
            let name = credential.lock_file("lock");
            // A write that timed out may still be running. The owner's next load must see its result.
            let settled = async { self.change(&credential).await.map(drop) };
            let held = &self.held;
            held.try_lock(&self.threads, &self.locks, name, key, owner, settled)
                .await
        })
    }

    fn unlock<'a>(&'a self, key: &'a Key, owner: &'a Owner) -> StoreFuture<'a, ()> {
        let (held, key, owner) = (self.held.clone(), key.clone(), owner.clone());
        Box::pin(run_at_once(move || {
            held.unlock(&key, &owner);
            Ok(())
        }))
    }

    /// Not supported: not every keyring can list the credentials of one program.
    fn list(&self) -> StoreFuture<'_, Option<Vec<Profile>>> {
        Box::pin(async { Ok(None) })
    }
}

/// The credential of one key. Its methods block.
#[derive(Clone)]
struct Credential {
    service: Arc<Service>,
    user: String,
    lock: String,
}

impl Credential {
    fn read(&self) -> Result<Option<Envelope>> {
        let found = self.service.read(&self.user)?;
        Ok(found.map(|found| Envelope::open(&found)))
    }

    fn compare_and_set(
        &self,
        expected: Option<&Version>,
        new: Option<&Contents>,
        asked: Instant,
    ) -> Result<CompareAndSet> {
        let current = self.read()?;
        if current.as_ref().map(|current| &current.version) != expected {
            return Ok(CompareAndSet::Conflict);
        }
        if let Some(new) = new {
            let header = Header::new(SystemTime::now(), asked);
            self.service.write(&self.user, &header.seal(new))?;
        } else if current.is_some() {
            self.service.delete(&self.user)?;
        }
        Ok(CompareAndSet::Done(new.map(Version::of)))
    }

    fn lock_file(&self, ending: &str) -> String {
        format!("{}.{ending}", self.lock)
    }
}

fn user_of(key: &Key) -> String {
    let name = key.profile().name();
    // The Credential Manager of Windows ignores case.
    let folds = |c: char| !c.is_ascii() || c.is_ascii_uppercase();
    let user = if cfg!(windows) && name.contains(folds) {
        format!("{name}\t{}", &hash(name)[..16])
    } else {
        name.to_owned()
    };
    match key.slot() {
        None => user,
        Some(slot) => format!("{user}\tquarantine {slot}"),
    }
}

fn lock_name(program: &str, key: &Key) -> String {
    // Neither name contains a control character, so the line break is unambiguous.
    let profile = key.profile().name();
    match key.slot() {
        None => hash(&format!("{program}\n{profile}")),
        Some(slot) => hash(&format!("{program}\n{profile}\n{slot}")),
    }
}

/// Counts one thread that calls the keyring, until it is dropped.
struct Thread;

impl Thread {
    fn count() -> Result<Self> {
        let counted = Self;
        if THREADS.fetch_add(1, Ordering::Relaxed) < MAX_THREADS {
            return Ok(counted);
        }
        let busy = format!(
            "{MAX_THREADS} calls are waiting for the keyring: unlock the keyring if it is locked"
        );
        Err(StoreError::busy(&busy, None))
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn on_its_thread<T: Send + 'static>(
    link: &Arc<Link>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    // The semaphore is never closed.
    let _permit = ASKING.acquire().await;
    let counted = Thread::count()?;
    let (sender, receiver) = oneshot::channel();
    let thread = thread::Builder::new().name("coze-keyring".to_owned());
    let started = thread.spawn(move || {
        let _counted = counted;
        // The receiver is dropped after a timeout.
        let _ = sender.send(work());
    });
    let not_started = "the thread that calls the keyring could not be started";
    started.map_err(|error| {
        StoreError::new(StoreErrorKind::Transient, not_started).with_source(error)
    })?;
    receiver.await.unwrap_or_else(|_| {
        // The connection's mutex may be poisoned.
        link.give_up();
        Err(StoreError::new(
            StoreErrorKind::Other,
            "the keyring library has panicked",
        ))
    })
}
