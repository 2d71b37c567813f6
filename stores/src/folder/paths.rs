//! A folder by its path: where the standard library has no other way.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{Open, Result};

pub(crate) type Named = Metadata;

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
        fs::symlink_metadata(self.0.join(name))
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    /// A folder can't be opened for that.
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
    let modified = named.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    modified
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// Windows has no number for it that the standard library tells.
pub(crate) fn are_same(_: &Named, _: &File) -> bool {
    true
}

pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    fs::create_dir(path)
}

pub(super) fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// The folder of a user is readable by its user only by inheritance.
pub(super) fn refuse_exposed(_: &Path, _: &Metadata, _: &str) -> Result<()> {
    Ok(())
}

/// `ERROR_ACCESS_DENIED`, `ERROR_SHARING_VIOLATION` and `ERROR_LOCK_VIOLATION`: what Windows says where another program has the file
/// open, or is deleting it.
pub(super) fn is_in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted
        || (cfg!(windows) && matches!(error.raw_os_error(), Some(5 | 32 | 33)))
}

pub(super) fn may_pass(error: &io::Error) -> bool {
    cfg!(windows) && matches!(error.raw_os_error(), Some(32 | 33))
}
