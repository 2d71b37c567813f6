//! A folder whose files are their owner's alone: how they are opened and replaced, and what is refused.
//!
//! A file is opened first and judged then, by its handle: between a look at a path and its use, another file can
//! take its place.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, ErrorKind as Io, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use etcetera::BaseStrategy;
use zeroize::Zeroizing;

use crate::{Error, ErrorKind, Result};

/// The platform's folder for what a user's programs keep on this machine.
pub(super) fn state_folder() -> Result<PathBuf> {
    let platform = etcetera::base_strategy::choose_native_strategy().map_err(|error| {
        Error::of_store(
            "there is no home folder to keep sign-ins or their locks in: set HOME",
            error,
        )
    })?;
    Ok(platform.state_dir().unwrap_or_else(|| {
        // Data roams with a user of Windows to other machines; the parent of the caches does not.
        if cfg!(windows) {
            platform.cache_dir()
        } else {
            platform.data_dir()
        }
    }))
}

/// No sign-in is nearly as long.
const MOST_READ: u64 = 1024 * 1024;

#[derive(Debug, Clone)]
pub(super) struct Folder(Arc<Path>);

impl Folder {
    /// The folder at this path, which need not exist. Later changes of the working folder don't move it.
    pub(super) fn new(path: PathBuf) -> Self {
        let path = std::path::absolute(&path).unwrap_or(path);
        // A slash at its end would follow a symbolic link.
        Self(path.components().collect::<PathBuf>().into())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Whether it is there. If so, it is its owner's alone.
    pub(super) fn is_there(&self) -> Result<bool> {
        let metadata = match fs::symlink_metadata(&self.0) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == Io::NotFound => return Ok(false),
            Err(error) => return Err(failed("looked at", &self.0, error)),
        };
        if metadata.is_symlink() {
            return Err(symlink(
                &self.0,
                "name the folder that it points to, or put that in its place",
            ));
        }
        if !metadata.is_dir() {
            return Err(failed("used", &self.0, Io::NotADirectory.into()));
        }
        refuse_exposed(&self.0, &metadata, "700")?;
        Ok(true)
    }

    /// Creates it if it is not there.
    pub(super) fn create(&self) -> Result<()> {
        if self.is_there()? {
            return Ok(());
        }
        create_with_parents(&self.0).map_err(|error| failed("created", &self.0, error))?;
        self.is_there().map(drop)
    }

    /// Opens a file that is its owner's alone; none if there is none.
    pub(super) fn open(&self, name: &str, options: &mut OpenOptions) -> Result<Option<File>> {
        let path = self.path_of(name);
        if cfg!(not(unix)) && is_symlink(&path) {
            return Err(symlink(&path, IN_ITS_PLACE));
        }
        let file = match never_following(options).open(&path) {
            Ok(file) => file,
            // The link itself is what could not be opened.
            Err(_) if is_symlink(&path) => return Err(symlink(&path, IN_ITS_PLACE)),
            Err(error) if error.kind() == Io::NotFound => return Ok(None),
            Err(error) => return Err(failed("opened", &path, error)),
        };
        let metadata = file
            .metadata()
            .map_err(|error| failed("looked at", &path, error))?;
        if !metadata.is_file() {
            return Err(Error::new(
                ErrorKind::StoreExposed,
                format!("{} is no regular file: remove it", path.display()),
            ));
        }
        refuse_exposed(&path, &metadata, "600")?;
        Ok(Some(file))
    }

    /// What is in a file, if there is one.
    pub(super) fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let Some(file) = self.open(name, OpenOptions::new().read(true))? else {
            return Ok(None);
        };
        let path = self.path_of(name);
        let not_read = |error| failed("read", &path, error);
        let length = file.metadata().map_err(not_read)?.len();
        if length > MOST_READ {
            return Err(Error::new(
                ErrorKind::StoreDamaged,
                format!("{} is no sign-in: it has {length} bytes", path.display()),
            ));
        }
        // Its growth would leave copies behind that nobody wipes.
        let room = usize::try_from(length).unwrap_or_default() + 64;
        let mut content = Zeroizing::new(Vec::with_capacity(room));
        file.take(length)
            .read_to_end(&mut content)
            .map_err(not_read)?;
        Ok(Some(content))
    }

    /// Creates a file that is its owner's alone. What a killed process has left there makes room: it is never
    /// written to, as it may be a link.
    pub(super) fn create_anew(&self, name: &str) -> Result<File> {
        let path = self.path_of(name);
        let create = || {
            let mut options = OpenOptions::new();
            owners_alone(options.write(true).create_new(true)).open(&path)
        };
        let created = match create() {
            Err(error) if error.kind() == Io::AlreadyExists => {
                self.remove(name)?;
                create()
            }
            created => created,
        };
        created.map_err(|error| failed("created", &path, error))
    }

    /// Removes a file or link, if there is one.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let path = self.path_of(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != Io::NotFound => Err(failed("removed", &path, error)),
            _ => Ok(()),
        }
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<()> {
        let to = self.path_of(to);
        fs::rename(self.path_of(from), &to).map_err(|error| failed("replaced", &to, error))
    }

    /// Makes what was written to a file durable.
    pub(super) fn sync_file(&self, name: &str) -> Result<()> {
        let path = self.path_of(name);
        // Windows syncs only what is open for writing.
        let file = OpenOptions::new()
            .read(true)
            .write(cfg!(windows))
            .open(&path);
        file.and_then(|file| file.sync_all())
            .map_err(|error| failed("synced to disk", &path, error))
    }

    /// Makes what was created, renamed and removed durable.
    pub(super) fn sync(&self) -> Result<()> {
        sync_folder(&self.0).map_err(|error| failed("synced to disk", &self.0, error))
    }

    /// What time it is by the clock that stamps its files: the kernel's, or that of the file server, which several
    /// machines may share. None where no file can be made.
    pub(super) fn now(&self) -> Option<SystemTime> {
        tempfile::tempfile_in(&self.0)
            .and_then(|file| file.metadata()?.modified())
            .ok()
    }

    /// The names of its files that begin so.
    pub(super) fn names(&self, beginning: &str) -> Result<Vec<String>> {
        let not_listed = |error| failed("listed", &self.0, error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(not_listed)? {
            let name = entry.map_err(not_listed)?.file_name();
            names.extend(name.into_string().ok().filter(|n| n.starts_with(beginning)));
        }
        Ok(names)
    }
}

/// What could not be done to a file or folder, why, and what to do.
pub(super) fn failed(done: &str, path: &Path, error: io::Error) -> Error {
    let advice = match error.kind() {
        Io::StorageFull => ": free some space there",
        Io::QuotaExceeded => ": free some of the quota",
        Io::ReadOnlyFilesystem => ": make it writable, or name another folder",
        Io::PermissionDenied => ": let this user write there, or name another folder",
        Io::NotADirectory => ": remove what is there, or name another folder",
        _ => "",
    };
    Error::of_store(
        format!("{} can't be {done}: {error}{advice}", path.display()),
        error,
    )
}

const IN_ITS_PLACE: &str = "put what it points to in its place";

fn symlink(path: &Path, advice: &str) -> Error {
    Error::new(
        ErrorKind::StoreExposed,
        format!(
            "{} is a symbolic link, which is not followed: {advice}",
            path.display()
        ),
    )
}

fn is_symlink(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

/// Each new entry is made durable in its parent, or a saved sign-in could vanish with its folder.
fn create_with_parents(path: &Path) -> io::Result<()> {
    let created = match owners_folder().create(path) {
        Err(error) if error.kind() == Io::NotFound => {
            let parent = path.parent().ok_or(error)?;
            create_with_parents(parent)?;
            owners_folder().create(path)
        }
        created => created,
    };
    match created {
        // Another process was faster.
        Err(error) if error.kind() == Io::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => path.parent().map_or(Ok(()), sync_folder),
    }
}

#[cfg(unix)]
fn owners_folder() -> DirBuilder {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

/// What nobody else may read: on Windows, the folder of a user is so by inheritance.
#[cfg(not(unix))]
fn owners_folder() -> DirBuilder {
    DirBuilder::new()
}

#[cfg(unix)]
pub(super) fn owners_alone(options: &mut OpenOptions) -> &mut OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600)
}

#[cfg(not(unix))]
pub(super) fn owners_alone(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

/// Neither follows a link nor waits for the other end of a pipe.
#[cfg(unix)]
fn never_following(options: &mut OpenOptions) -> &mut OpenOptions {
    use rustix::fs::OFlags;
    use std::os::unix::fs::OpenOptionsExt;
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    options.custom_flags(flags.bits().cast_signed())
}

#[cfg(not(unix))]
fn never_following(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

#[cfg(unix)]
fn refuse_exposed(path: &Path, metadata: &Metadata, mode: &str) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let exposed = |what: String| Err(Error::new(ErrorKind::StoreExposed, what));
    let path = path.display();
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != user {
        // Not chown: under sudo, that would lock the owner out.
        return exposed(format!(
            "{path} belongs to user {owner}, and this program runs as user {user}: \
             run it as user {owner}, or name another folder"
        ));
    }
    let found = metadata.mode() & 0o7777;
    if found & 0o077 != 0 {
        return exposed(format!(
            "{path} has mode {found:04o}, so others than its owner may use it: chmod {mode} {path}"
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_exposed(_: &Path, _: &Metadata, _: &str) -> Result<()> {
    Ok(())
}

#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        // Some network file systems have no such thing: there, a rename is as durable as it gets.
        Err(error) if matches!(error.kind(), Io::InvalidInput | Io::Unsupported) => Ok(()),
        synced => synced,
    }
}

/// A folder can't be opened for that.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
