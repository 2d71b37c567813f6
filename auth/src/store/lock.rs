//! A side-car file that is locked, and tells by whom.
//!
//! The lock is the operating system's advisory one on the open file (`flock` on Unix, `LockFileEx` on Windows). It
//! ends when its owner unlocks it or dies, and excludes other openings in the same process too. The file is never
//! renamed or deleted: a lock on a file that has lost its name excludes nobody. Should somebody else have done so, the
//! lock does not count any more.
//!
//! On Windows a lock also keeps others from reading what is locked, so there a lock's holder is never named.

use std::{
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io::{Read, Write},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use super::{
    Profile,
    folder::{Folder, failed, owners_alone},
};
use crate::{Error, ErrorKind, Result};

/// How long a change waits for the one before it. Each takes milliseconds, unless its process is stuck.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long for all that are before it.
const PATIENCE_WITH_ALL: Duration = Duration::from_secs(30);

pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Tries once; none if another has it.
    pub(super) fn try_take(folder: &Folder, name: &str) -> Result<Option<Self>> {
        let path = folder.path_of(name);
        let mut options = OpenOptions::new();
        owners_alone(options.read(true).write(true).create(true).truncate(false));
        let Some(file) = folder.open(name, &mut options)? else {
            // Its folder was removed just now.
            return Err(failed(
                "created",
                &path,
                std::io::ErrorKind::NotFound.into(),
            ));
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(failed("locked", &path, error)),
        }
        let mut lock = Self { file, path };
        if !lock.counts() {
            return Ok(None);
        }
        // A lock holds without its holder's name too, on a disk that is full, for example.
        let _ = lock.file.write_all(this_process().as_bytes());
        Ok(Some(lock))
    }

    /// Waits for the turn to change what is stored of a profile.
    pub(super) fn take_turn(folder: &Folder, name: &str, profile: &Profile) -> Result<Self> {
        let began = Instant::now();
        // Who takes the lock writes to its file.
        let path = folder.path_of(name);
        let taken = || fs::symlink_metadata(&path).and_then(|file| file.modified());
        let mut last = (taken().ok(), began);
        loop {
            if let Some(lock) = Self::try_take(folder, name)? {
                return Ok(lock);
            }
            let now = taken().ok();
            if now != last.0 {
                last = (now, Instant::now());
            }
            let is_stuck = last.1.elapsed() >= PATIENCE;
            if is_stuck || began.elapsed() >= PATIENCE_WITH_ALL {
                let by = holder(folder, name);
                let by = by.as_deref().unwrap_or("another process");
                let (have, patience) = if is_stuck {
                    ("has", PATIENCE)
                } else {
                    ("and others have", PATIENCE_WITH_ALL)
                };
                return Err(Error::new(
                    ErrorKind::StoreBusy,
                    format!(
                        "{by} {have} been changing the sign-in of profile {profile} for more than {} s ({} is locked)",
                        patience.as_secs(),
                        path.display()
                    ),
                ));
            }
            thread::sleep(pause());
        }
    }

    /// Whether its file still has its name, and so excludes others.
    pub(super) fn counts(&self) -> bool {
        let named = fs::symlink_metadata(&self.path);
        let locked = self.file.metadata();
        named.is_ok_and(|named| locked.is_ok_and(|locked| are_same(&named, &locked)))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing it would not do while a child process that is just being started still has it open.
        let _ = self.file.unlock();
    }
}

/// Random, so that those who wait don't wake together.
fn pause() -> Duration {
    let random = getrandom::u32().unwrap_or_default();
    Duration::from_micros(1000 + u64::from(random % 8000))
}

/// Who wrote its name into that file last: "process 4711". None on Windows while the file is locked.
pub(super) fn holder(folder: &Folder, name: &str) -> Option<String> {
    let options = &mut OpenOptions::new();
    let file = folder.open(name, options.read(true)).ok()??;
    let mut line = String::new();
    file.take(LINE).read_to_string(&mut line).ok()?;
    let (id, host) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    let id: u32 = id.parse().ok()?;
    if host == this_host() {
        Some(format!("process {id}"))
    } else {
        Some(format!("process {id} on {host}"))
    }
}

/// The longest name of a host has 64 bytes on Linux, and 255 anywhere.
const LINE: u64 = 300;

/// Of one length, so that one write replaces what a former holder wrote.
fn this_process() -> String {
    let width = LINE as usize - 1;
    let name = format!("{} {}", std::process::id(), this_host());
    format!("{name:<width$}\n")
}

#[cfg(unix)]
fn this_host() -> String {
    let host = rustix::system::uname();
    host.nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn this_host() -> String {
    "this machine".to_owned()
}

#[cfg(unix)]
fn are_same(one: &Metadata, other: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Windows has no number for it that the standard library tells.
#[cfg(not(unix))]
fn are_same(_: &Metadata, _: &Metadata) -> bool {
    true
}
