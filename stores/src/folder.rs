//! A folder whose files only their owner can access.
//!
//! On Unix the folder is opened once and used through its descriptor, so that it can't be swapped for another folder or a symbolic
//! link between two steps of a change. For the same reason a file is opened first, and then checked by its descriptor.

#[cfg(not(unix))]
#[path = "folder/paths.rs"]
mod platform;
#[cfg(unix)]
#[path = "folder/descriptors.rs"]
mod platform;

use std::{
    fmt,
    fs::{self, File},
    io::{self, ErrorKind as Io, Read},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use coze_auth::store::{StoreError, StoreErrorKind};
use etcetera::BaseStrategy;
use zeroize::Zeroizing;

pub(crate) use platform::{are_same, modified};

pub(crate) type Result<T, E = StoreError> = std::result::Result<T, E>;

/// At most this much of a file is read. A sign-in is much shorter; a longer file is damaged, and this part shows it.
const LONGEST: u64 = 1024 * 1024;

/// How long to wait for a file that another program has open, such as a virus scanner: Windows does not replace an open file.
const IN_USE_TIMEOUT: Duration = Duration::from_secs(2);

/// The platform's folder for the state of a user's programs on this machine.
pub(crate) fn state_folder() -> Result<PathBuf> {
    let platform = etcetera::base_strategy::choose_native_strategy().map_err(|error| {
        StoreError::new(
            StoreErrorKind::Other,
            "there is no home folder for sign-ins or their lock files: set HOME",
        )
        .with_source(error)
    })?;
    Ok(platform.state_dir().unwrap_or_else(|| {
        // On Windows, the data folder roams to the user's other machines; that of caches does not.
        if cfg!(windows) {
            platform.cache_dir()
        } else {
            platform.data_dir()
        }
    }))
}

/// A folder that may not exist. Clones share the open handle.
#[derive(Clone)]
pub(crate) struct Folder(Arc<Shared>);

struct Shared {
    path: PathBuf,
    opened: Mutex<Option<Dir>>,
    /// Whether the last sync of the folder failed.
    unsynced: AtomicBool,
}

impl Folder {
    /// The folder at this path, which need not exist. A relative path is resolved now, against the current directory.
    pub(crate) fn new(path: PathBuf) -> Self {
        let path = std::path::absolute(&path).unwrap_or(path);
        Self(Arc::new(Shared {
            // A trailing slash would follow a symbolic link.
            path: path.components().collect(),
            opened: Mutex::default(),
            unsynced: AtomicBool::default(),
        }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// Opens it; `None` if it does not exist. It stays open: if a symbolic link or a file takes its place, the folder that was
    /// opened continues to be used.
    pub(crate) fn open(&self) -> Result<Option<Dir>> {
        let mut opened = self.0.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.look();
        let is_another = |known: &Dir| match &found {
            Ok(Some(found)) => !found.handle.is_same(&known.handle),
            _ => !known.handle.exists(),
        };
        if opened.as_ref().is_none_or(is_another) {
            *opened = found?;
        }
        if let Some(dir) = &*opened {
            let metadata = dir.handle.metadata();
            let metadata = metadata.map_err(|error| failed("inspected", self.path(), error))?;
            platform::refuse_exposed(self.path(), &metadata, "700")?;
        }
        Ok(opened.clone())
    }

    /// Opens it; creates it if it does not exist.
    pub(crate) fn create(&self) -> Result<Dir> {
        if let Some(dir) = self.open()? {
            return Ok(dir);
        }
        create_with_parents(self.path()).map_err(|error| failed("created", self.path(), error))?;
        self.open()?
            .ok_or_else(|| failed("opened", self.path(), Io::NotFound.into()))
    }

    fn look(&self) -> Result<Option<Dir>> {
        let path = self.path();
        match platform::Handle::open(path) {
            Ok(handle) => Ok(Some(Dir {
                handle: Arc::new(handle),
                folder: self.clone(),
            })),
            Err(_) if is_symlink(path) => Err(symlink(
                path,
                "name the folder that it points to, or put that in its place",
            )),
            Err(error) if error.kind() == Io::NotFound => Ok(None),
            Err(error) => Err(failed("opened", path, error)),
        }
    }
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().fmt(f)
    }
}

/// The mode in which a file is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Open {
    Read,
    /// For reading and writing; created if it does not exist.
    Lock,
    /// For writing; it must not exist.
    New,
    /// With the access that a sync requires.
    Sync,
}

/// An open folder.
#[derive(Clone)]
pub(crate) struct Dir {
    handle: Arc<platform::Handle>,
    folder: Folder,
}

impl Dir {
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Opens a file, and checks that only its owner can access it; `None` if it does not exist.
    pub(crate) fn open(&self, name: &str, how: Open) -> Result<Option<File>> {
        let path = self.path_of(name);
        let file = match while_in_use(|| self.handle.open_file(name, how)) {
            Ok(file) => file,
            // Symbolic links are not followed.
            Err(_) if self.handle.is_symlink(name) => {
                return Err(symlink(&path, "put what it points to in its place"));
            }
            Err(error) if error.kind() == Io::NotFound => return Ok(None),
            Err(error) => return Err(failed("opened", &path, error)),
        };
        let metadata = file.metadata();
        let metadata = metadata.map_err(|error| failed("inspected", &path, error))?;
        if !metadata.is_file() {
            let path = path.display();
            return Err(refused(format!("{path} is not a regular file: remove it")));
        }
        platform::refuse_exposed(&path, &metadata, "600")?;
        Ok(Some(file))
    }

    /// The content of a file, if it exists.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let Some(file) = self.open(name, Open::Read)? else {
            return Ok(None);
        };
        let path = self.path_of(name);
        let length = file.metadata().map(|metadata| metadata.len().min(LONGEST));
        let read = length.and_then(|length| {
            // A buffer that grows would leave copies in memory that are not wiped.
            let room = usize::try_from(length).unwrap_or_default() + 64;
            let mut content = Zeroizing::new(Vec::with_capacity(room));
            file.take(length).read_to_end(&mut content)?;
            Ok(content)
        });
        read.map(Some).map_err(|error| failed("read", &path, error))
    }

    /// Creates a file that only its owner can access. A leftover of a killed process is removed first. It is not reused, because
    /// it may be a link.
    pub(crate) fn create_new(&self, name: &str) -> Result<File> {
        let created = match while_in_use(|| self.handle.open_file(name, Open::New)) {
            Err(error) if error.kind() == Io::AlreadyExists => {
                self.remove(name)?;
                while_in_use(|| self.handle.open_file(name, Open::New))
            }
            created => created,
        };
        created.map_err(|error| failed("created", &self.path_of(name), error))
    }

    /// Removes a file or link, if it exists.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        match while_in_use(|| self.handle.remove(name)) {
            Err(error) if error.kind() != Io::NotFound => {
                Err(failed("removed", &self.path_of(name), error))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        let renamed = while_in_use(|| self.handle.rename(from, to));
        renamed.map_err(|error| failed("replaced", &self.path_of(to), error))
    }

    /// Makes the content of a file durable.
    pub(crate) fn sync_file(&self, name: &str) -> Result<()> {
        let file = self.open(name, Open::Sync)?;
        file.map_or(Err(Io::NotFound.into()), |file| file.sync_all())
            .map_err(|error| failed("synced to disk", &self.path_of(name), error))
    }

    /// Makes created, renamed and removed files durable.
    pub(crate) fn sync(&self) -> Result<()> {
        let unsynced = &self.folder.0.unsynced;
        unsynced.store(true, Ordering::SeqCst);
        let synced = self.handle.sync();
        synced.map_err(|error| failed("synced to disk", self.folder.path(), error))?;
        unsynced.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Syncs again if the last sync failed: a loaded value must not disappear after a power failure.
    pub(crate) fn sync_if_needed(&self) -> Result<()> {
        match self.folder.0.unsynced.load(Ordering::SeqCst) {
            true => self.sync(),
            false => Ok(()),
        }
    }

    /// The current time of the clock that sets the files' modification times: the kernel's, or that of a file server, which several
    /// machines may share. `None` if the folder is not writable.
    pub(crate) fn now(&self) -> Option<SystemTime> {
        self.handle.now().ok()
    }

    /// The metadata of a file or link. Links are not followed.
    pub(crate) fn metadata(&self, name: &str) -> io::Result<platform::Named> {
        self.handle.metadata_of(name)
    }

    /// The names of its files.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let names = self.handle.names();
        names.map_err(|error| failed("listed", self.folder.path(), error))
    }
}

/// The error of a failed operation, with advice. `done` is the operation as a participle.
pub(crate) fn failed(done: &str, path: &Path, error: io::Error) -> StoreError {
    use StoreErrorKind::{Full, NotPermitted, Other, Transient};
    let (kind, advice) = match error.kind() {
        Io::StorageFull => (Full, ": free some space there"),
        Io::QuotaExceeded => (Full, ": free some of the quota"),
        Io::FileTooLarge => (Full, ""),
        Io::ReadOnlyFilesystem => (NotPermitted, ": make it writable, or name another folder"),
        Io::PermissionDenied => (
            NotPermitted,
            if cfg!(windows) {
                ": close other programs that have it open, let this user write there, or name another folder"
            } else {
                ": let this user write there, or name another folder"
            },
        ),
        Io::NotADirectory => (Other, ": remove what is there, or name another folder"),
        Io::IsADirectory => (Other, ": remove that folder"),
        // The file is a mount point: containers can mount single files.
        Io::ResourceBusy if done == "replaced" => {
            (Other, ": it is a mount point; mount its folder instead")
        }
        Io::ResourceBusy
        | Io::Interrupted
        | Io::TimedOut
        | Io::WouldBlock
        | Io::StaleNetworkFileHandle
        | Io::HostUnreachable
        | Io::NetworkUnreachable
        | Io::NetworkDown => (Transient, ""),
        _ if platform::may_pass(&error) => (Transient, ""),
        _ => (Other, ""),
    };
    let what = format!("{} can't be {done}: {error}{advice}", path.display());
    StoreError::new(kind, &what).with_source(error)
}

fn refused(why: String) -> StoreError {
    let denied = io::Error::from(Io::PermissionDenied);
    StoreError::new(StoreErrorKind::NotPermitted, &why).with_source(denied)
}

fn symlink(path: &Path, advice: &str) -> StoreError {
    let path = path.display();
    refused(format!(
        "{path} is a symbolic link, which is not followed: {advice}"
    ))
}

fn is_symlink(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

/// Each new folder is made durable in its parent. Otherwise a power failure could remove it, with a saved sign-in in it.
fn create_with_parents(path: &Path) -> io::Result<()> {
    let created = match platform::create_folder(path) {
        Err(error) if error.kind() == Io::NotFound => {
            create_with_parents(path.parent().ok_or(error)?)?;
            platform::create_folder(path)
        }
        created => created,
    };
    match created {
        // Another process has just created it.
        Err(error) if error.kind() == Io::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => path.parent().map_or(Ok(()), platform::sync_folder),
    }
}

/// Retries an operation that fails because of a signal, or because another program has the file open.
fn while_in_use<T>(act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    repeat_while(platform::is_in_use, IN_USE_TIMEOUT, act)
}

pub(crate) fn repeat_while<T, E>(
    passes: impl Fn(&E) -> bool,
    timeout: Duration,
    mut act: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let began = Instant::now();
    let mut delay = Duration::from_millis(1);
    loop {
        match act() {
            Err(error) if passes(&error) && began.elapsed() < timeout => thread::sleep(delay),
            done => return done,
        }
        delay = (delay * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_use_is_retried_until_the_timeout() {
        let in_use = |error: &io::Error| error.kind() == Io::PermissionDenied;
        let mut tries = 0;
        let replaced = repeat_while(in_use, Duration::from_secs(60), || {
            tries += 1;
            if tries < 4 {
                Err(Io::PermissionDenied.into())
            } else {
                Ok(tries)
            }
        });
        assert_eq!(replaced.unwrap(), 4);

        let began = Instant::now();
        let denied = || Err::<(), _>(Io::PermissionDenied.into());
        let error = repeat_while(in_use, Duration::from_millis(20), denied);
        assert_eq!(error.unwrap_err().kind(), Io::PermissionDenied);
        assert!(began.elapsed() >= Duration::from_millis(20));

        let mut tries = 0;
        let missing = repeat_while(in_use, Duration::from_secs(60), || {
            tries += 1;
            Err::<(), _>(io::Error::from(Io::NotFound))
        });
        assert_eq!(missing.unwrap_err().kind(), Io::NotFound);
        assert_eq!(tries, 1);
    }
}
