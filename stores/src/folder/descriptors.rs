//! A folder that is used through its descriptor: Unix.

use std::{
    fs::{DirBuilder, File, Metadata, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
    time::{Duration, SystemTime},
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::{Open, Result, refused};

pub(crate) type Named = rustix::fs::Stat;

/// The file whose modification time is set in order to read the file system's clock.
const CLOCK: &str = "clock";

pub(super) struct Handle(File);

impl Handle {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(flags.bits().cast_signed());
        options.open(path).map(Self)
    }

    pub(super) fn metadata(&self) -> io::Result<Metadata> {
        self.0.metadata()
    }

    /// Whether the folder has not been removed.
    pub(super) fn exists(&self) -> bool {
        self.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        let (Ok(one), Ok(other)) = (self.metadata(), other.metadata()) else {
            return false;
        };
        (one.dev(), one.ino()) == (other.dev(), other.ino())
    }

    /// Does not follow links, and does not block on a named pipe.
    pub(super) fn open_file(&self, name: &str, how: Open) -> io::Result<File> {
        let flags = match how {
            Open::Read | Open::Sync => OFlags::RDONLY,
            Open::Lock => OFlags::RDWR | OFlags::CREATE,
            Open::New => OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL,
        };
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(file.into())
    }

    pub(super) fn is_symlink(&self, name: &str) -> bool {
        let metadata = self.metadata_of(name);
        metadata.is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_symlink())
    }

    pub(super) fn metadata_of(&self, name: &str) -> io::Result<Named> {
        Ok(rustix::fs::statat(
            &self.0,
            name,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, from, &self.0, to)?)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        sync(&self.0)
    }

    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            names.extend(entry?.file_name().to_str().map(str::to_owned).ok());
        }
        Ok(names)
    }

    pub(super) fn now(&self) -> io::Result<SystemTime> {
        let file = self.open_file(CLOCK, Open::Lock)?;
        let field = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        let now = Timestamps {
            last_access: field(UTIME_OMIT),
            last_modification: field(UTIME_NOW),
        };
        rustix::fs::futimens(&file, &now)?;
        file.metadata()?.modified()
    }
}

/// The modification time of the content.
pub(crate) fn modified(named: &Named) -> Duration {
    Duration::new(
        named.st_mtime.try_into().unwrap_or_default(),
        named.st_mtime_nsec.try_into().unwrap_or_default(),
    )
}

pub(crate) fn are_same(named: &Named, file: &File) -> bool {
    let file = rustix::fs::fstat(file);
    file.is_ok_and(|file| (file.st_dev, file.st_ino) == (named.st_dev, named.st_ino))
}

pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    sync(&File::open(path)?)
}

fn sync(folder: &File) -> io::Result<()> {
    match folder.sync_all() {
        // Some network file systems can't sync folders. The rename is then as durable as the file system makes it.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        synced => synced,
    }
}

pub(super) fn refuse_exposed(path: &Path, metadata: &Metadata, mode: &str) -> Result<()> {
    let path = path.display();
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != user {
        // This does not advise chown: under sudo, that would lock the owner out.
        return Err(refused(format!(
            "{path} belongs to user {owner}, and this program runs as user {user}: \
             run it as user {owner}, or name another folder"
        )));
    }
    let found = metadata.mode() & 0o7777;
    if found & 0o077 != 0 {
        return Err(refused(format!(
            "{path} has mode {found:04o}, so other users may access it: chmod {mode} {path}"
        )));
    }
    Ok(())
}

pub(super) fn is_in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted
}

/// Errors that may pass: the process or the machine has too many open files, or lacks memory or locks.
pub(super) fn may_pass(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let number = Errno::from_io_error(error);
    matches!(
        number,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOLCK)
    )
}
