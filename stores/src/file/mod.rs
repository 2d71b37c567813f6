//! A store in a folder: one file for each key.
//!
//! # How a change is made
//!
//! A change happens under a short lock of its own, not under the lock of an [`Owner`]: a save must be atomic *and* work for those who
//! have lost that lock. It reads what is there and compares the version, writes `….next` in one call, syncs it, renames it over
//! the current file, and syncs the folder. A load needs no lock: it finds the old file or the new one, both complete.
//!
//! # What a killed process leaves
//!
//! Between Coze's commit of a refresh and our rename, a killed process takes the only live refresh token with it. That time is made
//! short: from the one `write` of `….next` on, the contents are in the kernel's hands. They say which version they are to
//! replace; the next change or `try_lock` finds them, and finishes the change **if that version is still the current one**.
//!
//! - *Killed before or in the write:* `….next` is missing, empty or cut short, which its hash tells. The next change replaces it.
//!   This is the time in which a sign-in can be lost.
//! - *Killed after the write:* the next `try_lock` finishes the change before its owner loads. So nobody redeems the same refresh token
//!   again.
//! - *Killed after the rename:* all is done. (Only when power is lost before the sync of the folder may the old file come back; that of
//!   a change that was reported as done does not.)
//! - *Killed in a delete:* `….next` goes first, so that it never comes back in place of what was deleted.
//! - *A leftover whose version is not the current one* (somebody restored or edited the file): it may hold a live token, so it is
//!   moved into the profile's quarantine before it is replaced, and is never put in place.
//! - *A change that failed after the write* (the rename was refused): its contents stay in `….next`, durably, and are finished like
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
    blocking::Threads,
    folder::{Dir, Folder, Result, state_folder},
    lock::{Change, Held, Turns},
};

/// Keeps sign-ins in a folder, one file for each profile: for the programs of one user. Clones are the same store.
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
/// Tested on Linux, and for Windows under Wine, never on Windows itself; for macOS it is only type-checked.
///
/// # Permissions
///
/// The folder is created when it is first needed, with mode 0700, and its files have mode 0600. A folder or file that others than
/// its owner may use (also by an access control list), that belongs to another user, or that is a symbolic link is refused
/// ([`NotPermitted`](StoreErrorKind::NotPermitted)). Links further up are followed. The folder stays open while the
/// store is in use, so a link that takes its place later redirects nothing. On Windows the folder inherits who may read it, and that
/// is not checked.
///
/// The tokens are stored in plain text: the same user and root can read them, and so can anyone who reads a backup.
///
/// # Guarantees
///
/// - A change is written beside the old file, synced, renamed over it, and the folder synced, in this order. Windows syncs folders on NTFS
///   only; elsewhere the loss of power may bring the old file back.
/// - What another program has open, Windows may refuse to replace: it is tried again for 2 s.
/// - The lock of an owner is the operating system's lock on a file. It ends with the process, and is never taken from it. A fork of the
///   owner that does not start another program shares it. On Windows its holder can't be named.
/// - The age is told by the clock that stamps the files, so machines that share a folder need not agree on the time. They need a
///   file system that locks across machines (NFS does, many others don't).
/// - Loading works on a read-only file system, by this machine's clock.
/// - Files are read and written on tokio's threads for blocking work. Dropping a future does not stop a change that has begun.
/// - A change waits 5 s for another process that is stuck in a change of the same key; then it is [`Busy`](StoreErrorKind::Busy).
///   Loads and other keys don't wait.
/// - `….lock` and `….change` must not be deleted while a program uses them.
#[derive(Clone)]
pub struct FileStore {
    folder: Folder,
    /// Loads have threads of their own: no change can keep them waiting.
    loads: Threads,
    changes: Threads,
    turns: Turns,
    held: Held,
}

impl FileStore {
    /// Keeps sign-ins in this folder, which need not exist yet. It should hold nothing else.
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

    /// Keeps sign-ins in the platform's own folder for the state of this program:
    ///
    /// | | |
    /// |---|---|
    /// | Linux and others | `$XDG_STATE_HOME/my-program/sign-ins`, by default under `~/.local/state` |
    /// | macOS | `~/Library/Application Support/my-program/sign-ins` |
    /// | Windows | `%LOCALAPPDATA%\my-program\sign-ins` |
    ///
    /// Each is for what stays on this machine: a copy of a sign-in elsewhere would end with the next refresh here, or this one after a
    /// refresh there.
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
    /// When the program's name can't be the name of a folder on each of these platforms (empty, `a/b`, `a:b`, `.a`, `a.`, `con`), or the
    /// user has no home folder.
    pub fn in_default_folder(program: &str) -> Result<Self, StoreError> {
        if !name::is_portable(program) {
            return Err(StoreError::new(
                StoreErrorKind::Other,
                "the name of the program can't be the name of a folder on every platform: it is empty, begins or ends with a \
                 dot, ends with a space, holds one of < > : \" / \\ | ? * or a control character, or names a device of Windows",
            ));
        }
        Ok(Self::new(state_folder()?.join(program).join("sign-ins")))
    }

    /// Where they are kept.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a change of one key while no other process changes it.
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
        Box::pin(self.loads.run(move || {
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
