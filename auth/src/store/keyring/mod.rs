//! A store in the operating system's keyring: one credential for each profile.
//!
//! A keyring knows neither locks nor a compare-and-set, so both come from lock files in a folder of this user's, named
//! after the credential. A change (save, put, remove) happens under a short lock of its own, not under the lease: a
//! save must be atomic *and* work for those who have lost the lease, or whose fellow holds it and is stuck. A load needs no
//! lock: a keyring replaces a credential in one step.
//!
//! What is set aside is in credentials of its own, as `default⇥aside 1` to `default⇥aside 8`: the name of a
//! profile holds no tab, so none of them is ever taken for a profile.

mod service;

use std::{
    fmt::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};
use zeroize::Zeroizing;

use self::service::{Link, Service};
use super::{
    Lease, LeaseKind, Leasing, Profile, Record, Removed, Saved, Store, StoreFuture, Stored,
    damaged_but_kept,
    envelope::{self, Kept},
    folder::{Folder, state_folder},
    lock::{self, Lock},
};
use crate::{Error, ErrorKind, RefreshToken, Result};

/// So many records are kept aside for each profile; older ones make room.
const MOST_ASIDE: usize = 8;
/// How long the keyring may take: a person may have to unlock it.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// So many callers of a process ask the keyring at once. It does one thing at a time anyway.
const MOST_ASKING: usize = 16;
static ASKING: Semaphore = Semaphore::const_new(MOST_ASKING);
/// So many threads may be left to wait for a keyring that never answers, by callers who gave up.
const MOST_THREADS: usize = 64;
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Keeps sign-ins in the operating system's keyring, one credential for each profile: for the programs of one
/// person. Clones are the same store.
///
/// ```no_run
/// use coze_auth::store::{KeyringStore, SignIn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coze_auth::Result<()> {
/// let sign_in = SignIn::new(KeyringStore::new("my-program")?, "default")?;
/// if sign_in.is_needed().await? {
///     println!("sign in first");
/// }
/// # Ok(()) }
/// ```
///
/// | system | keyring | tested |
/// |---|---|---|
/// | Linux, FreeBSD, OpenBSD | the Secret Service (GNOME Keyring, KWallet, KeePassXC), over D-Bus | on Linux, with GNOME Keyring |
/// | macOS | the login keychain | no: it was never built there |
/// | Windows | the Credential Manager, for this machine only | no: it was never built there |
///
/// On other systems each use is an error.
///
/// # What to rely on
///
/// - It never falls back to another place. Without a keyring, or with one that is locked and that nobody unlocks
///   in [time](Self::answer_within), each use is an error of the kind [`Store`](ErrorKind::Store) that says what to do.
/// - The lease is the operating system's lock on a file, named after the credential, in
///   `~/.local/state/coze-auth/keyring-locks` (`$XDG_STATE_HOME`; on macOS `~/Library/Application Support`, on
///   Windows `%LOCALAPPDATA%`). It ends with its owner, and is never stolen. Programs that use the same
///   credential need the same such folder, and its files must not be deleted while a program uses them. On
///   Windows its holder is not named.
/// - A save is a compare-and-set among all that use this crate. A keyring has no such thing, so another program
///   that writes the credential at the same moment is not noticed.
/// - A save is as durable as the keyring makes it: it has said that it has it.
/// - Age is told by this machine's clock. If it is set back, the sign-in is refreshed once.
/// - Up to 8 records for each profile are [set aside](Self::set_aside). They hold tokens too, and
///   [`remove`](Store::remove) leaves them.
/// - Windows takes 2560 bytes for a credential. A longer sign-in is an error
///   [before](Lease::prove_save) a refresh is sent.
/// - A process has one connection to the keyring, whatever number of stores. A GNOME Keyring that dies because
///   programs come and go while it answers (its [issue 196]) is asked again as soon as it was restarted;
///   then it may be locked, and wait for its person.
/// - The keyring is asked on threads of its own, which don't keep the program from ending. What was begun is not undone
///   by dropping its future, nor by giving up on it: when the keyring is unlocked at last, a save still comes. Only a
///   [`put`](Store::put) that nobody waits for any more stores nothing.
///
/// [issue 196]: https://gitlab.gnome.org/GNOME/gnome-keyring/-/issues/196
#[derive(Clone)]
pub struct KeyringStore {
    service: Arc<Service>,
    locks: Folder,
    answer_within: Duration,
}

impl KeyringStore {
    /// Keeps the sign-ins of this program; its name is what the keyring shows as the service. Nothing is asked of the
    /// keyring yet.
    ///
    /// ```
    /// use coze_auth::store::KeyringStore;
    ///
    /// let store = KeyringStore::new("my-program")?;
    /// # Ok::<(), coze_auth::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](ErrorKind::InvalidInput) when the program's name is empty, longer than 128 bytes, or holds
    ///   a slash or a control character.
    /// - [`Store`](ErrorKind::Store) when the user has no home folder for the lock files.
    pub fn new(program: impl Into<String>) -> Result<Self> {
        let program = program.into();
        let has_bad = program.contains(|c: char| c.is_control() || matches!(c, '/' | '\\'));
        if program.is_empty() || program.len() > 128 || has_bad {
            return Err(Error::invalid_input(
                "the name of a program is empty, too long, or holds a slash or a control character",
            ));
        }
        Ok(Self {
            service: Arc::new(Service::of(program)),
            locks: Folder::new(state_folder()?.join("coze-auth").join("keyring-locks")),
            answer_within: ANSWER_WITHIN,
        })
    }

    /// How long the keyring is waited for: a minute by default, in which a person may unlock it. A program that nobody
    /// watches needs less.
    ///
    /// ```
    /// use std::time::Duration;
    /// use coze_auth::store::KeyringStore;
    ///
    /// let store = KeyringStore::new("my-program")?.answer_within(Duration::from_secs(5));
    /// # Ok::<(), coze_auth::Error>(())
    /// ```
    #[must_use]
    pub fn answer_within(mut self, limit: Duration) -> Self {
        self.answer_within = limit;
        self
    }

    /// What is set aside for a profile, the oldest first, in the shape in which sign-ins are stored: those that were
    /// over or could not be understood when a fresh one came, as they were found, and answers that came too late.
    /// They hold tokens.
    ///
    /// That shape is `{"saved_at_ms": 1800000000000, "record": …}`, with what [`Record::to_json`] gives in it.
    ///
    /// # Errors
    ///
    /// Those of the keyring.
    ///
    /// ```no_run
    /// # async fn example() -> coze_auth::Result<()> {
    /// use coze_auth::store::{KeyringStore, Profile};
    ///
    /// let store = KeyringStore::new("my-program")?;
    /// let aside = store.set_aside(&Profile::new("default")?).await?;
    /// println!("{} records are set aside", aside.len());
    /// # Ok(()) }
    /// ```
    pub async fn set_aside(&self, profile: &Profile) -> Result<Vec<Zeroizing<Vec<u8>>>> {
        let credential = self.credential(profile);
        self.asking(move || credential.set_aside()).await
    }

    /// Runs what waits for the keyring on a thread of its own, and waits for it no longer than is bearable. One of
    /// tokio's threads for blocking work would keep the program from ending while a person is asked to unlock the
    /// keyring.
    fn asking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> impl Future<Output = Result<T>> + Send + 'static {
        let limit = self.answer_within;
        async move {
            let link = Link::shared();
            let answer = timeout(limit, on_its_thread(&link, work)).await;
            answer.unwrap_or_else(|_| {
                // Who waits for a person may hold it for ever.
                link.give_up();
                Err(Error::new(
                    ErrorKind::Store,
                    format!(
                        "the keyring has not answered within {} s: unlock the keyring, if it waits for that",
                        limit.as_secs()
                    ),
                ))
            })
        }
    }

    fn credential(&self, profile: &Profile) -> Credential {
        let program = self.service.program();
        Credential {
            service: Arc::clone(&self.service),
            locks: self.locks.clone(),
            profile: profile.clone(),
            user: user_of(profile),
            lock: lock_name(program, profile),
        }
    }
}

/// The Credential Manager of Windows folds case.
fn user_of(profile: &Profile) -> String {
    let name = profile.name();
    let folds = |c: char| !c.is_ascii() || c.is_ascii_uppercase();
    if cfg!(windows) && name.contains(folds) {
        return format!("{name}\t{}", &hex_digest(name)[..16]);
    }
    name.to_owned()
}

fn lock_name(program: &str, profile: &Profile) -> String {
    // Neither name holds a control character.
    hex_digest(&format!("{program}\n{}", profile.name()))
}

fn hex_digest(text: &str) -> String {
    let mut hex = String::with_capacity(64);
    for byte in digest(&SHA256, text.as_bytes()).as_ref() {
        // Writing to a string can't fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
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
    fn load<'a>(&'a self, profile: &'a Profile) -> StoreFuture<'a, Option<Stored>> {
        let credential = self.credential(profile);
        Box::pin(self.asking(move || {
            let kept = credential.current()?;
            Ok(kept.map(stored))
        }))
    }

    fn save<'a>(
        &'a self,
        profile: &'a Profile,
        redeemed: &'a RefreshToken,
        successor: &'a Record,
    ) -> StoreFuture<'a, Saved> {
        let credential = self.credential(profile);
        let (redeemed, successor) = (redeemed.clone(), successor.clone());
        let asked = Instant::now();
        let save = move || credential.changing()?.save(asked, &redeemed, &successor);
        Box::pin(self.asking(save))
    }

    fn put<'a>(&'a self, profile: &'a Profile, record: &'a Record) -> StoreFuture<'a, ()> {
        let (credential, record) = (self.credential(profile), record.clone());
        let asked = Instant::now();
        let caller = Arc::new(());
        let waiting = Arc::downgrade(&caller);
        let put = self.asking(move || {
            let changing = credential.changing()?;
            // It may have taken a person to get here, who has signed in once more since.
            match waiting.upgrade() {
                Some(_caller) => changing.put(asked, &record),
                None => Err(gave_up()),
            }
        });
        Box::pin(async move {
            let done = put.await;
            drop(caller);
            done
        })
    }

    fn remove<'a>(&'a self, profile: &'a Profile, read: &'a Record) -> StoreFuture<'a, Removed> {
        let (credential, read) = (self.credential(profile), read.clone());
        Box::pin(self.asking(move || credential.changing()?.remove(&read)))
    }

    /// It does not need to know for how long.
    fn lease<'a>(&'a self, profile: &'a Profile, _hold: Duration) -> StoreFuture<'a, Leasing> {
        let (store, credential) = (self.clone(), self.credential(profile));
        Box::pin(self.asking(move || credential.lease(store)))
    }

    fn lease_kind(&self) -> LeaseKind {
        LeaseKind::UntilOwnerDies
    }
}

struct KeyringLease {
    store: KeyringStore,
    credential: Credential,
    /// Shared with a proof that goes on after its future was dropped.
    lock: Arc<Lock>,
}

impl Lease for KeyringLease {
    fn prove_save<'a>(&'a self, record: &'a Record) -> StoreFuture<'a, ()> {
        let (credential, record) = (self.credential.clone(), record.clone());
        let lock = Arc::clone(&self.lock);
        Box::pin(self.store.asking(move || {
            if !lock.counts() {
                return Err(Error::lease_lost(&credential.profile));
            }
            credential.changing()?.prove(&record)
        }))
    }

    fn release(self: Box<Self>) -> StoreFuture<'static, ()> {
        // Unlocking waits for nobody.
        drop(self);
        Box::pin(async { Ok(()) })
    }
}

/// One profile's credential, and what is done to it; blocking.
#[derive(Clone)]
struct Credential {
    service: Arc<Service>,
    locks: Folder,
    profile: Profile,
    user: String,
    lock: String,
}

impl Credential {
    fn current(&self) -> Result<Option<Kept>> {
        let content = self.service.read(&self.user)?;
        content.map(|content| self.opened(&content)).transpose()
    }

    fn opened(&self, content: &[u8]) -> Result<Kept> {
        let (program, user) = (self.service.program(), self.user.escape_debug());
        envelope::opened(format_args!("keyring, {user} of {program}"), content)
    }

    fn lease(&self, store: KeyringStore) -> Result<Leasing> {
        self.locks.create()?;
        let file = self.file("lease");
        let Some(lock) = Lock::try_take(&self.locks, &file)? else {
            return Ok(Leasing::Held {
                by: lock::holder(&self.locks, &file),
            });
        };
        // A save whose caller gave up waiting may still be on its way: who loads now must find it.
        drop(self.turn()?);
        Ok(Leasing::Got(Box::new(KeyringLease {
            store,
            credential: self.clone(),
            lock: Arc::new(lock),
        })))
    }

    fn changing(&self) -> Result<Changing<'_>> {
        // If a person has to unlock the keyring first, nobody else waits for that.
        self.service.read(&self.user)?;
        self.turn()
    }

    /// Waits for its turn to change the credential.
    fn turn(&self) -> Result<Changing<'_>> {
        self.locks.create()?;
        let lock = Lock::take_turn(&self.locks, &self.file("lock"), &self.profile)?;
        Ok(Changing {
            credential: self,
            _lock: lock,
        })
    }

    fn file(&self, ending: &str) -> String {
        format!("{}.{ending}", self.lock)
    }

    fn set_aside(&self) -> Result<Vec<Zeroizing<Vec<u8>>>> {
        let mut found = Vec::new();
        for place in 1..=MOST_ASIDE {
            match self.service.read(&self.aside(place))? {
                Some(content) => found.push(content),
                None => break,
            }
        }
        Ok(found)
    }

    fn aside(&self, place: usize) -> String {
        format!("{}\taside {place}", self.user)
    }
}

/// The right to change a credential: nobody else does.
struct Changing<'a> {
    credential: &'a Credential,
    _lock: Lock,
}

impl Changing<'_> {
    fn save(&self, asked: Instant, redeemed: &RefreshToken, successor: &Record) -> Result<Saved> {
        let current = match self.credential.current() {
            // The successor may hold the only live refresh token.
            Err(error) if error.kind() == ErrorKind::StoreDamaged => {
                let place = self.put_successor_aside(asked, successor)?;
                return Err(damaged_but_kept(&error, place.escape_debug()));
            }
            found => found?,
        };
        match current {
            Some(kept) if kept.record.holds(redeemed) => {
                self.write(asked, successor)?;
                Ok(Saved::Saved)
            }
            Some(kept) if kept.record.holds(successor.refresh_token()) => Ok(Saved::Saved),
            kept => {
                self.put_successor_aside(asked, successor)?;
                Ok(Saved::MovedOn(kept.map(|kept| Box::new(stored(kept)))))
            }
        }
    }

    fn put(&self, asked: Instant, record: &Record) -> Result<()> {
        if let Some(content) = self.service().read(&self.credential.user)? {
            match self.credential.opened(&content) {
                Ok(kept) if kept.record.descends_from(record.refresh_token()) => return Ok(()),
                Ok(kept) if kept.record.dead().is_none() => {}
                _ => self.put_aside(&content)?,
            }
        }
        self.write(asked, record)
    }

    fn remove(&self, read: &Record) -> Result<Removed> {
        match self.credential.current()? {
            None => Ok(Removed::Removed),
            Some(kept) if kept.record.holds(read.refresh_token()) => {
                self.service().delete(&self.credential.user)?;
                Ok(Removed::Removed)
            }
            Some(_) => Ok(Removed::MovedOn),
        }
    }

    /// By comparing, and writing as much: a keyring that is locked, full or read-only says so.
    fn prove(&self, record: &Record) -> Result<()> {
        let current = self.credential.current()?;
        if !current.is_some_and(|kept| kept.record.holds(record.refresh_token())) {
            return Err(Error::moved_on(&self.credential.profile));
        }
        let size = envelope::sealed(&record.to_json()?, SystemTime::now()).len();
        let probe = format!("{}\tprobe", self.credential.user);
        self.service().write(&probe, " ".repeat(size).as_bytes())?;
        self.service().delete(&probe)
    }

    fn write(&self, asked: Instant, record: &Record) -> Result<()> {
        let content = sealed(asked, record)?;
        self.service().write(&self.credential.user, &content)
    }

    /// The credential that it is in now. One that an earlier try of the same save has put aside stays alone, or
    /// repeated tries would push the others out.
    fn put_successor_aside(&self, asked: Instant, successor: &Record) -> Result<String> {
        let found = self.credential.set_aside()?;
        let is_there = |content: &Zeroizing<Vec<u8>>| {
            let kept = self.credential.opened(content);
            kept.is_ok_and(|kept| kept.record.holds(successor.refresh_token()))
        };
        if let Some(place) = found.iter().rposition(is_there) {
            return Ok(self.credential.aside(place + 1));
        }
        self.put_aside_after(&found, &sealed(asked, successor)?)
    }

    fn put_aside(&self, content: &[u8]) -> Result<()> {
        let found = self.credential.set_aside()?;
        if found.last().is_some_and(|last| **last == *content) {
            return Ok(());
        }
        self.put_aside_after(&found, content).map(drop)
    }

    /// Takes the first free place. Where none is, all move up by one, and the oldest goes: who is killed
    /// meanwhile leaves one of them twice.
    fn put_aside_after(&self, found: &[Zeroizing<Vec<u8>>], content: &[u8]) -> Result<String> {
        if found.len() < MOST_ASIDE {
            let free = self.credential.aside(found.len() + 1);
            self.service().write(&free, content)?;
            return Ok(free);
        }
        for (place, younger) in found.iter().enumerate().skip(1) {
            self.service()
                .write(&self.credential.aside(place), younger)?;
        }
        let last = self.credential.aside(MOST_ASIDE);
        self.service().write(&last, content)?;
        Ok(last)
    }

    fn service(&self) -> &Service {
        &self.credential.service
    }
}

/// What a record is stored as, by somebody who was asked to then.
fn sealed(asked: Instant, record: &Record) -> Result<Zeroizing<Vec<u8>>> {
    let saved_at = envelope::asked_at(asked, SystemTime::now());
    Ok(envelope::sealed(&record.to_json()?, saved_at))
}

fn stored(kept: Kept) -> Stored {
    let age = envelope::age(kept.saved_at, SystemTime::now());
    Stored::new(kept.record, age)
}

/// One of the threads that ask.
struct Thread;

impl Thread {
    fn count() -> Result<Self> {
        let counted = Self;
        if THREADS.fetch_add(1, Ordering::Relaxed) < MOST_THREADS {
            return Ok(counted);
        }
        Err(Error::new(
            ErrorKind::Store,
            format!(
                "{MOST_THREADS} requests wait for the keyring without an answer: unlock the keyring, if it waits for that"
            ),
        ))
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::Relaxed);
    }
}

fn gave_up() -> Error {
    Error::new(
        ErrorKind::Store,
        "the caller has given up waiting for the keyring",
    )
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
        // Whoever asked may be gone.
        let _ = sender.send(work());
    });
    started
        .map_err(|error| Error::of_store("no thread could be started to ask the keyring", error))?;
    receiver.await.unwrap_or_else(|_| {
        // Its locks may be poisoned.
        link.give_up();
        Err(Error::new(
            ErrorKind::Store,
            "the library that asks the keyring has panicked",
        ))
    })
}
