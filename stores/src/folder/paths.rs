//! A folder that is used through its path, on platforms without descriptors of folders.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{Open, Result};

/// The metadata of a file, and its path.
pub(crate) struct Named {
    metadata: Metadata,
    path: PathBuf,
}

pub(super) struct Handle(PathBuf);

impl Handle {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        if metadata.is_dir() {
            return Ok(Self(path.to_owned()));
        }
        Err(io::ErrorKind::NotADirectory.into())
    }

    pub(super) fn metadata(&self) -> io::Result<Metadata> {
        fs::symlink_metadata(&self.0)
    }

    pub(super) fn exists(&self) -> bool {
        self.metadata().is_ok_and(|metadata| metadata.is_dir())
    }

    pub(super) fn is_same(&self, _other: &Self) -> bool {
        true
    }

    pub(super) fn open_file(&self, name: &str, how: Open) -> io::Result<File> {
        if self.is_symlink(name) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut options = OpenOptions::new();
        let options = match how {
            Open::Read => options.read(true),
            Open::Lock => options.read(true).write(true).create(true).truncate(false),
            Open::New => options.write(true).create_new(true),
            Open::Sync => options.read(true).write(true),
        };
        options.open(self.0.join(name))
    }

    pub(super) fn is_symlink(&self, name: &str) -> bool {
        super::is_symlink(&self.0.join(name))
    }

    pub(super) fn metadata_of(&self, name: &str) -> io::Result<Named> {
        let path = self.0.join(name);
        let metadata = fs::symlink_metadata(&path)?;
        Ok(Named { metadata, path })
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        sync_folder(&self.0)
    }

    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    pub(super) fn now(&self) -> io::Result<SystemTime> {
        tempfile::tempfile_in(&self.0)?.metadata()?.modified()
    }
}

pub(crate) fn modified(named: &Named) -> Duration {
    let modified = named.metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    modified
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// Compares the volume and the file number.
pub(crate) fn are_same(named: &Named, file: &File) -> bool {
    let named = same_file::Handle::from_path(&named.path);
    let file = file.try_clone().and_then(same_file::Handle::from_file);
    matches!((named, file), (Ok(named), Ok(file)) if named == file)
}

pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    fs::create_dir(path)
}

/// NTFS writes its journal, renames included, if the folder can be opened for writing. Other file systems can't sync folders. The
/// rename is then as durable as the file system makes it.
#[cfg(windows)]
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    use std::os::windows::fs::OpenOptionsExt;
    /// Without this flag a folder can't be opened.
    const FILE_FLAG_BACKUP_SEMANTICS: u32 = 0x0200_0000;
    let mut options = OpenOptions::new();
    let options = options.write(true).custom_flags(FILE_FLAG_BACKUP_SEMANTICS);
    match options.open(path).and_then(|folder| folder.sync_all()) {
        Err(error) if is_unsupported(&error) => Ok(()),
        synced => synced,
    }
}

#[cfg(not(windows))]
pub(super) fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// `ERROR_INVALID_FUNCTION`, `ERROR_ACCESS_DENIED`, `ERROR_INVALID_HANDLE`, `ERROR_NOT_SUPPORTED`, `ERROR_INVALID_PARAMETER`: errors of
/// file systems that can't sync folders.
#[cfg(windows)]
fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(1 | 5 | 6 | 50 | 87))
}

/// Not checked: files inherit the access rules of their folder.
pub(super) fn refuse_exposed(_: &Path, _: &Metadata, _: &str) -> Result<()> {
    Ok(())
}

/// Whether another program has the file open or mapped, or is deleting it: `ERROR_ACCESS_DENIED`, or one of [`IN_USE`].
pub(super) fn is_in_use(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    error.kind() == io::ErrorKind::Interrupted
        || (cfg!(windows) && number.is_some_and(|number| number == 5 || IN_USE.contains(&number)))
}

/// `ERROR_SHARING_VIOLATION`, `ERROR_LOCK_VIOLATION`, `ERROR_DELETE_PENDING`, `ERROR_USER_MAPPED_FILE`.
const IN_USE: [i32; 4] = [32, 33, 303, 1224];
/// `ERROR_TOO_MANY_OPEN_FILES`, `ERROR_NOT_ENOUGH_MEMORY`, `ERROR_NO_SYSTEM_RESOURCES`.
const EXHAUSTED: [i32; 3] = [4, 8, 1450];

pub(super) fn may_pass(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    cfg!(windows)
        && number.is_some_and(|number| IN_USE.contains(&number) || EXHAUSTED.contains(&number))
}
