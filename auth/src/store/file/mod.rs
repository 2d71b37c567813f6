//! A store in a folder: one file for each profile.
//!
//! # How a change is made
//!
//! A change (save, put, remove) happens under a short lock of its own, not under the lease: a save must be atomic
//! *and* work for those who have lost the lease, or whose fellow holds it and is stuck. In its turn it reads the
//! current record, compares, writes `….next` in one piece, syncs it, renames it over the current file, and syncs the
//! folder. A load needs no lock: it finds the old file or the new one, both whole.
//!
//! # Who is killed
//!
//! Between Coze's commit of a refresh and our rename, a killed process takes the only live refresh token with it. What can
//! be done is to make that time short: from the one `write` of `….next` on, the record is in the kernel's hands.
//! The next change or lease finds it, and finishes the save **if it was got for the current refresh token**
//! ([`Record::follows`]). The interleavings:
//!
//! - *Killed before or in the write:* `….next` is missing, empty or cut short. It does not parse, and is replaced by
//!   the next save. This is the time in which a sign-in can be lost.
//! - *Killed after the write:* `….next` follows the current record, and the next lease finishes the save before
//!   its owner loads. So nobody redeems the same refresh token again.
//! - *Killed after the rename:* all is done. (Only when power is lost before the sync of the folder may the old file come
//!   back; that of a save that has returned does not.)
//! - *Killed in a put:* `….next` follows nothing, and is never put in place. Its caller was never told that the
//!   sign-in is kept.
//! - *A put while a leftover waits:* the leftover is put in place first, then replaced; so at no time does a
//!   dead record stand alone.
//! - *A save while a leftover waits that follows the same record:* if ours is the same, or was got with the leftover's
//!   refresh token (a save that failed, and the next), ours replaces it; being killed between its removal and our
//!   write is as being killed before the write. Else the leftover came first: it is put in place, and ours is a save
//!   after the record has moved on.
//! - *A save for the refresh token of a leftover:* the leftover is put in place, and ours follows it.
//! - *A save without the lease, while another refreshes:* who comes first is stored. The other finds that the record has
//!   moved on, and is set aside.
//! - *A save without the lease, before another sends its refresh:* the other's proof finds that the record has moved on,
//!   and nothing is sent.
//! - *A save that finds damage:* the damage stays, and ours is set aside, once however often it is tried.
//! - *A lease while a save is still being written* (its caller gave up waiting, and dropped the lease): taking the
//!   lease waits for the save. If that is stuck, nobody gets the lease, as its record may still come.
//! - *A put or remove while another refreshes:* its save finds that the record has moved on.
//! - *A remove while a leftover waits:* both go. A leftover without a current record is never put in place.

mod change;
mod files;
mod name;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, sync::Semaphore};

use self::files::{Asked, Files};
use super::{
    Lease, LeaseKind, Leasing, Profile, Record, Removed, Saved, Store, StoreFuture, Stored,
    folder::{Folder, state_folder},
    lock::Lock,
};
use crate::{Error, ErrorKind, RefreshToken, Result};

/// Keeps sign-ins in a folder, one file for each profile: for the programs of one person. Clones are the same store.
///
/// ```
/// use coze_auth::store::{FileStore, SignIn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let place = tempfile::tempdir()?;
/// # let folder = place.path().join("sign-ins");
/// let sign_in = SignIn::new(FileStore::new(folder), "default")?;
/// assert!(sign_in.is_needed().await?);
/// # Ok(()) }
/// ```
///
/// It was run on Linux only. For macOS and Windows it is written, and was never run.
///
/// # Whose it is
///
/// The folder is created when it is first needed, with mode 0700, and its files have mode 0600. A folder or file
/// that others than its owner may use (also by an access control list), that belongs to another user, or that is a
/// symbolic link is refused: [`StoreExposed`](ErrorKind::StoreExposed). Links further up are followed. On Windows
/// the folder inherits who may read it, and that is not checked.
///
/// The tokens are in it as they are: who is the same user, or root, can read them. So can who reads a backup.
///
/// # What to rely on
///
/// - A record is written beside the old one, synced, renamed over it, and the folder synced, in this order.
/// - The lease is the operating system's lock on a file beside it. It ends with its owner, and is never stolen. A
///   fork of the owner that does not start another program shares it. An error about a lease that another process has
///   names that process, but not on Windows, where what is locked can't be read.
/// - Age is told by the clock that stamps the files, so machines that share a folder need not agree on the time. If it
///   is set back, the sign-in is refreshed once. They need a file system that locks across machines (NFS does, many others don't).
/// - Loading works on a read-only file system, by this machine's clock. Nothing can be leased or saved there.
/// - Up to 8 records for each profile are kept aside as `….aside-….json`: those that were dead or damaged when a
///   fresh one came, and answers that came too late. They hold tokens too; [`remove`](Store::remove) leaves them.
/// - Files are read and written on tokio's threads for blocking work, 16 of them at most for one store. Dropping the
///   future of a save that has begun does not stop it half way.
/// - `….lease` and `….lock` must not be deleted while a program uses them.
#[derive(Clone)]
pub struct FileStore {
    folder: Folder,
    working: Working,
}

/// So many threads work for one store at most: a file system that hangs must not take all that tokio has.
const MOST_WORKING: usize = 16;

impl FileStore {
    /// Keeps sign-ins in this folder, which need not exist yet. It should hold nothing else.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: Folder::new(folder.into()),
            working: Working(Arc::new(Semaphore::new(MOST_WORKING))),
        }
    }

    /// Keeps sign-ins in the platform's own folder for the state of this program:
    ///
    /// | | |
    /// |---|---|
    /// | Linux and others | `$XDG_STATE_HOME/my-program/sign-ins`, by default under `~/.local/state` |
    /// | macOS | `~/Library/Application Support/my-program/sign-ins` |
    /// | Windows | `%LOCALAPPDATA%\my-program\sign-ins` |
    ///
    /// Each is for what stays on this machine: a copy of a sign-in elsewhere would be dead after the next refresh here,
    /// or this one after a refresh there.
    ///
    /// ```
    /// use coze_auth::store::FileStore;
    ///
    /// let store = FileStore::in_default_folder("my-program")?;
    /// assert!(store.folder().ends_with("my-program/sign-ins"));
    /// # Ok::<(), coze_auth::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](ErrorKind::InvalidInput) when the program's name is not one of a folder.
    /// - [`Store`](ErrorKind::Store) when the user has no home folder.
    pub fn in_default_folder(program: &str) -> Result<Self> {
        if program.is_empty() || program.starts_with('.') || program.contains(['/', '\\', '\0']) {
            return Err(Error::invalid_input(
                "the name of a program is empty, begins with a dot or holds a slash",
            ));
        }
        Ok(Self::new(state_folder()?.join(program).join("sign-ins")))
    }

    /// Where it keeps them.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn files(&self, profile: &Profile) -> Files {
        Files::new(&self.folder, profile)
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStore")
            .field("folder", &self.folder())
            .finish_non_exhaustive()
    }
}

impl Store for FileStore {
    fn load<'a>(&'a self, profile: &'a Profile) -> StoreFuture<'a, Option<Stored>> {
        let files = self.files(profile);
        Box::pin(self.working.blocking(move || files.load()))
    }

    fn save<'a>(
        &'a self,
        profile: &'a Profile,
        redeemed: &'a RefreshToken,
        successor: &'a Record,
    ) -> StoreFuture<'a, Saved> {
        let files = self.files(profile);
        let (redeemed, successor) = (redeemed.clone(), successor.clone());
        let asked = Instant::now();
        let save = move || files.save(asked, &redeemed, &successor);
        Box::pin(self.working.blocking(save))
    }

    fn put<'a>(&'a self, profile: &'a Profile, record: &'a Record) -> StoreFuture<'a, ()> {
        let (files, record) = (self.files(profile), record.clone());
        let asked = Instant::now();
        Box::pin(self.working.blocking(move || files.put(asked, &record)))
    }

    fn remove<'a>(&'a self, profile: &'a Profile, read: &'a Record) -> StoreFuture<'a, Removed> {
        let (files, read) = (self.files(profile), read.clone());
        Box::pin(self.working.blocking(move || files.remove(&read)))
    }

    /// It does not need to know for how long.
    fn lease<'a>(&'a self, profile: &'a Profile, _hold: Duration) -> StoreFuture<'a, Leasing> {
        let (files, working) = (self.files(profile), self.working.clone());
        Box::pin(self.working.blocking(move || {
            Ok(match files.lease()? {
                Asked::Got(lock) => Leasing::Got(Box::new(FileLease {
                    files,
                    working,
                    lock: Arc::new(lock),
                })),
                Asked::Held(by) => Leasing::Held { by },
            })
        }))
    }

    fn lease_kind(&self) -> LeaseKind {
        LeaseKind::UntilOwnerDies
    }
}

struct FileLease {
    files: Files,
    working: Working,
    /// Shared with a proof that goes on after its future was dropped.
    lock: Arc<Lock>,
}

impl Lease for FileLease {
    fn prove_save<'a>(&'a self, record: &'a Record) -> StoreFuture<'a, ()> {
        let (files, lock, record) = (self.files.clone(), Arc::clone(&self.lock), record.clone());
        let prove = move || files.prove_save(&lock, &record);
        Box::pin(self.working.blocking(prove))
    }

    fn release(self: Box<Self>) -> StoreFuture<'static, ()> {
        let working = self.working.clone();
        Box::pin(working.blocking(move || {
            drop(self);
            Ok(())
        }))
    }
}

/// How many threads work for a store.
#[derive(Clone)]
struct Working(Arc<Semaphore>);

impl Working {
    /// Runs what waits for files where it holds up no other task.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> impl Future<Output = Result<T>> + Send + 'static {
        let working = Arc::clone(&self.0);
        async move {
            let runtime = Handle::try_current().map_err(|error| {
                Error::new(ErrorKind::System, "a file store needs tokio's runtime")
                    .with_source(error)
            })?;
            // It is never closed.
            let permit = working.acquire_owned().await.ok();
            let done = runtime.spawn_blocking(move || {
                // Whoever asked may have given up, and the thread still be there.
                let _permit = permit;
                work()
            });
            done.await.map_err(|error| {
                Error::new(ErrorKind::System, "tokio's runtime was shut down").with_source(error)
            })?
        }
    }
}
