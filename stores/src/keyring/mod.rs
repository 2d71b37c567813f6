//! A store in the operating system's keyring: one credential for each key.
//!
//! A keyring knows neither locks nor a compare-and-set, so both come from lock files in a folder of this user's, named after the
//! credential. A change happens under a short lock of its own, not under the lock of an [`Owner`].
//!
//! A credential is replaced by one call, so a client that is killed has replaced it or not. But not every service does that in one
//! step: some delete and create. So a load that finds nothing looks again under the lock for changes, and "nothing" is never the
//! moment between the two.
//!
//! The credential of a quarantine slot is called `default⇥quarantine 0`: the name of a profile holds no tab, so it is never taken
//! for one.

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
    blocking::Threads,
    envelope::{Envelope, Header, hash},
    folder::{Folder, Result, state_folder},
    lock::{Change, Held, Turns},
};

/// How long the keyring may take: its user may have to unlock it.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How many calls of a process ask the keyring at the same time. It does one thing at a time anyway.
const MAX_ASKING: usize = 16;
static ASKING: Semaphore = Semaphore::const_new(MAX_ASKING);
/// How many threads may be left waiting for a keyring that never answers, by callers who gave up.
const MAX_THREADS: usize = 64;
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Keeps sign-ins in the operating system's keyring, one credential for each profile: for the programs of one user. Clones are
/// the same store.
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
/// On other systems each use is an error.
///
/// # Guarantees
///
/// - It never falls back to another place. Without a keyring, or with one that is locked and that nobody unlocks
///   [in time](Self::answer_within), each use is an error that says what to do.
/// - The lock of an owner is the operating system's lock on a file, named after the credential, in
///   `~/.local/state/coze-auth/keyring-locks` (`$XDG_STATE_HOME`; on macOS `~/Library/Application Support`, on Windows
///   `%LOCALAPPDATA%`). It ends with the process, and is never taken from it. Programs that use the same credential need the same
///   such folder, and its files must not be deleted while a program uses them. On Windows its holder can't be named.
/// - The compare-and-set works among all that use this crate. A keyring has no such thing, so another program that writes the
///   credential at the same moment is not noticed.
/// - A change is as durable as the keyring makes it: it has confirmed it.
/// - The age is told by this machine's clock.
/// - Windows takes 2,560 bytes for a credential, of which 32 are for the time of the write. More is
///   [`Full`](StoreErrorKind::Full).
/// - A process has one connection to the keyring, regardless of the number of stores. A GNOME Keyring that crashes because programs
///   come and go while it answers (its [issue 196]) is asked again as soon as it was restarted; then it may be locked, and wait for
///   its user.
/// - The keyring is asked on threads of its own, which don't keep the program from ending. A write that has begun is not
///   undone by dropping its future.
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
    /// Keeps the sign-ins of this program; its name is what the keyring shows as the service. It does not connect yet.
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
    /// When the program's name is empty, longer than 128 bytes, or holds a slash or a control character; or the user has no home
    /// folder for the lock files.
    pub fn new(program: impl Into<String>) -> Result<Self, StoreError> {
        let program = program.into();
        let has_bad = program.contains(|c: char| c.is_control() || matches!(c, '/' | '\\'));
        if program.is_empty() || program.len() > 128 || has_bad {
            return Err(StoreError::new(
                StoreErrorKind::Other,
                "the name of the program is empty, too long, or holds a slash or a control character",
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

    /// How long to wait for the keyring: a minute by default, in which its user may unlock it. A program that nobody watches
    /// needs less.
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

    /// Waits for the turn to change a credential.
    async fn change(&self, credential: &Credential) -> Result<Change> {
        let name = credential.lock_file("change");
        self.turns
            .change(&self.threads, &self.locks, name, Ok)
            .await
    }

    /// Whether a program of this user has ever changed a credential.
    async fn has_locks(&self) -> Result<bool> {
        let locks = self.locks.clone();
        self.threads.run(move || Ok(locks.open()?.is_some())).await
    }

    /// Runs what waits for the keyring on a thread of its own, and waits for that no longer than agreed. One of tokio's threads for
    /// blocking work would keep the program from ending while its user is asked to unlock the keyring.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let link = Link::shared();
        let limit = self.answer_within;
        let answer = timeout(limit, on_its_thread(&link, work)).await;
        answer.unwrap_or_else(|_| {
            // A thread that waits for the user may hold it forever.
            link.give_up();
            let limit = limit.as_secs();
            Err(StoreError::new(
                StoreErrorKind::Transient,
                &format!("the keyring has not answered within {limit} s: unlock the keyring, if it waits for that"),
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
                // It may be between the two steps of a service that deletes and creates.
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
            // If the user has to unlock the keyring first, nobody else waits for that.
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
            // A write whose caller gave up waiting may not have ended: the owner's next load must find it.
            let settled = async { self.change(&credential).await.map(drop) };
            let held = &self.held;
            held.try_lock(&self.threads, &self.locks, name, key, owner, settled)
                .await
        })
    }

    fn unlock<'a>(&'a self, key: &'a Key, owner: &'a Owner) -> StoreFuture<'a, ()> {
        let (held, key, owner) = (self.held.clone(), key.clone(), owner.clone());
        Box::pin(self.threads.run(move || {
            held.unlock(&key, &owner);
            Ok(())
        }))
    }

    /// Not every keyring can be searched for the credentials of one program.
    fn list(&self) -> StoreFuture<'_, Option<Vec<Profile>>> {
        Box::pin(async { Ok(None) })
    }
}

/// The credential of one key, and what is done to it; blocking.
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
    // The Credential Manager of Windows folds case.
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
    // Neither name holds a control character.
    let profile = key.profile().name();
    match key.slot() {
        None => hash(&format!("{program}\n{profile}")),
        Some(slot) => hash(&format!("{program}\n{profile}\n{slot}")),
    }
}

/// One of the threads that ask.
struct Thread;

impl Thread {
    fn count() -> Result<Self> {
        let counted = Self;
        if THREADS.fetch_add(1, Ordering::Relaxed) < MAX_THREADS {
            return Ok(counted);
        }
        let busy = format!(
            "{MAX_THREADS} calls wait for the keyring without an answer: unlock the keyring, if it waits for that"
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
    // It is never closed.
    let _permit = ASKING.acquire().await;
    let counted = Thread::count()?;
    let (sender, receiver) = oneshot::channel();
    let thread = thread::Builder::new().name("coze-keyring".to_owned());
    let started = thread.spawn(move || {
        let _counted = counted;
        // The caller may be gone.
        let _ = sender.send(work());
    });
    let not_started = "no thread could be started to ask the keyring";
    started.map_err(|error| {
        StoreError::new(StoreErrorKind::Transient, not_started).with_source(error)
    })?;
    receiver.await.unwrap_or_else(|_| {
        // Its locks may be poisoned.
        link.give_up();
        Err(StoreError::new(
            StoreErrorKind::Other,
            "the library that asks the keyring has panicked",
        ))
    })
}
