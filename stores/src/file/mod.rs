//! A store in a folder: one file for each key.
//!
//! # How a change is made
//!
//! A change holds a short lock of its own, not the lock of an [`Owner`]: a save must be atomic, and must also work for an owner that
//! has lost its lock. The change reads the file and compares the version, writes `….next` in one call, syncs it, renames it over
//! the current file, and syncs the folder. A load needs no lock: it reads either the old file or the new one, both complete.
//!
//! # After a killed process
//!
//! If a process is killed after Coze has rotated a refresh token and before the new one is saved, the new refresh token is lost. This
//! store keeps that time short: after the single `write` of `….next`, the contents are with the kernel. They name the version that they
//! replace. The next change or `try_lock` finds them, and completes the change **if that version is still the current one**.
//!
//! - *Killed before or during the write:* `….next` is missing, empty or truncated, which its hash detects. The next change replaces it.
//!   Only here can a sign-in be lost.
//! - *Killed after the write:* the next `try_lock` completes the change before its owner loads, so the same refresh token is not
//!   redeemed again.
//! - *Killed after the rename:* the change is complete. (After a power failure before the sync of the folder, the old file may be back.
//!   A change that was reported as done is durable.)
//! - *Killed during a delete:* `….next` is removed first, so it can't restore the deleted value.
//! - *A leftover whose version is not the current one* (the file was restored or edited): it may hold a valid token, so it is
//!   moved into the profile's quarantine before it is replaced, and is never put in place.
//! - *A change that failed after the write* (the rename failed): its contents stay durably in `….next`, and are completed like
//!   a leftover.

mod change;
mod name;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use coze_auth::store::{
    CompareAndSet, Contents, Key, Owner, Profile, Store, StoreError, StoreErrorKind, StoreFuture,
    Stored, TryLock, Version,
};

use self::change::KeyFiles;
use crate::{
    blocking::{Threads, run_at_once},
    folder::{Dir, Folder, Result, state_folder},
    lock::{Change, Held, Turns},
};

/// Keeps sign-ins in a folder, one file for each profile, for the programs of one user. Clones share the store.
///
/// ```
/// use coze_auth::store::{Key, Profile, Store};
/// use coze_auth_stores::FileStore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let place = tempfile::tempdir()?;
/// # let folder = place.path().join("sign-ins");
/// let store = FileStore::new(folder);
/// let key = Key::record(&Profile::new("default")?);
/// assert!(store.load(&key).await?.is_none());
/// # Ok(()) }
/// ```
///
/// Tested on Linux, and for Windows under Wine only. For macOS it is type-checked.
///
/// # Permissions
///
/// The folder is created when it is first needed, with mode 0700. Its files have mode 0600. A folder or file is refused
/// ([`NotPermitted`](StoreErrorKind::NotPermitted)) if other users may access it (also by an access control list), if it belongs to
/// another user, or if it is a symbolic link. Links in the path above the folder are followed. The folder stays open while the
/// store is in use, so a link that replaces it later has no effect. On Windows the folder inherits its access rules, which are not
/// checked.
///
/// The tokens are not encrypted: this user, root, and anyone with access to a backup can read them.
///
/// # Guarantees
///
/// - A change writes a new file, syncs it, renames it over the old one, and syncs the folder. Windows can sync folders on NTFS
///   only; on other file systems a power failure may restore the old file.
/// - Windows may refuse to replace a file that another program has open. Such a change is retried for 2 s.
/// - The lock of an owner is the operating system's lock on a file. It ends with the process, and not before. A forked child process
///   shares it until it executes another program. On Windows the name of the holder is unknown.
/// - Ages are measured with the file system's clock, so machines that share a folder need not agree on the time. The file system must
///   support locks across machines (NFS does, many others don't).
/// - Loading works on a read-only file system, with this machine's clock.
/// - Files are read and written on tokio's blocking threads. Dropping a future does not stop a change that has begun.
/// - If another process is stuck in a change of the same key, a change fails after 5 s with [`Busy`](StoreErrorKind::Busy).
///   Loads and other keys don't wait.
/// - `….lock` and `….change` must not be deleted while a program uses them.
#[derive(Clone)]
pub struct FileStore {
    folder: Folder,
    /// Loads have their own threads, so that they don't wait for changes.
    loads: Threads,
    changes: Threads,
    turns: Turns,
    held: Held,
}

impl FileStore {
    /// Keeps sign-ins in this folder, which need not exist. It should contain nothing else. No I/O happens here.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: Folder::new(folder.into()),
            loads: Threads::default(),
            changes: Threads::default(),
            turns: Turns::default(),
            held: Held::default(),
        }
    }

    /// Keeps sign-ins in the platform's default folder for the state of this program:
    ///
    /// | | |
    /// |---|---|
    /// | Linux and others | `$XDG_STATE_HOME/my-program/sign-ins`, by default under `~/.local/state` |
    /// | macOS | `~/Library/Application Support/my-program/sign-ins` |
    /// | Windows | `%LOCALAPPDATA%\my-program\sign-ins` |
    ///
    /// These folders are not synchronized to other machines. A copy of a sign-in on another machine would end with the next refresh,
    /// because refresh tokens are single-use.
    ///
    /// ```
    /// use coze_auth_stores::FileStore;
    ///
    /// let store = FileStore::in_default_folder("my-program")?;
    /// assert!(store.folder().ends_with("my-program/sign-ins"));
    /// # Ok::<(), coze_auth::store::StoreError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Other`](StoreErrorKind::Other) if the program's name is not a valid folder name on all of these platforms (empty, `a/b`, `a:b`,
    /// `.a`, `a.`, `con`), or if the user has no home folder.
    pub fn in_default_folder(program: &str) -> Result<Self, StoreError> {
        if !name::is_portable(program) {
            return Err(StoreError::new(
                StoreErrorKind::Other,
                "the name of the program is not a valid folder name on every platform: it is empty, begins or ends with a dot, \
                 ends with a space, contains one of < > : \" / \\ | ? * or a control character, or is a device name of Windows",
            ));
        }
        Ok(Self::new(state_folder()?.join(program).join("sign-ins")))
    }

    /// The folder of the sign-ins.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a change of one key under the lock for changes.
    async fn change<T: Send + 'static>(
        &self,
        key: &Key,
        change: impl FnOnce(&Dir, &KeyFiles) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let files = KeyFiles::new(key);
        let name = files.name("change");
        let work = move |turn: Change| change(&turn.dir, &files);
        let (turns, threads) = (&self.turns, &self.changes);
        turns.change(threads, &self.folder, name, work).await
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
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        let (folder, files) = (self.folder.clone(), KeyFiles::new(key));
        Box::pin(self.loads.run(move || match folder.open()? {
            Some(dir) => files.load(&dir),
            None => Ok(None),
        }))
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        new: Option<&'a Contents>,
    ) -> StoreFuture<'a, CompareAndSet> {
        let (expected, new) = (expected.cloned(), new.cloned());
        let asked = Instant::now();
        Box::pin(self.change(key, move |dir, files| {
            files.compare_and_set(dir, expected.as_ref(), new.as_ref(), asked)
        }))
    }

    fn try_lock<'a>(
        &'a self,
        key: &'a Key,
        owner: &'a Owner,
        _ttl: Duration,
    ) -> StoreFuture<'a, TryLock> {
        let name = KeyFiles::new(key).name("lock");
        let finish_leftover = self.change(key, |dir, files| files.current(dir).map(drop));
        let locking = self.held.try_lock(
            &self.changes,
            &self.folder,
            name,
            key,
            owner,
            finish_leftover,
        );
        Box::pin(locking)
    }

    fn unlock<'a>(&'a self, key: &'a Key, owner: &'a Owner) -> StoreFuture<'a, ()> {
        let (held, key, owner) = (self.held.clone(), key.clone(), owner.clone());
        // A lock whose release waits for loads that hang would be held until the process ends.
        Box::pin(run_at_once(move || {
            held.unlock(&key, &owner);
            Ok(())
        }))
    }

    fn list(&self) -> StoreFuture<'_, Option<Vec<Profile>>> {
        let folder = self.folder.clone();
        Box::pin(self.loads.run(move || match folder.open()? {
            Some(dir) => change::list(&dir).map(Some),
            None => Ok(Some(Vec::new())),
        }))
    }
}
