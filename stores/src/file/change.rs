//! The files of one key, and how they are changed. Blocking.
//!
//! | file | purpose |
//! |---|---|
//! | `default.json` | the value of the key; always replaced as a whole, by a rename |
//! | `default.next` | the next value, while it is written, or left by a killed process |
//! | `default.change` | locked during a change |
//! | `default.lock` | locked by the owner that refreshes the sign-in |
//! | `default.quarantine-0.json` | the value of a quarantine slot |
//! | `clock` | its modification time is set in order to read the file system's clock |

use std::{
    io::Write,
    time::{Instant, SystemTime},
};

use coze_auth::store::{
    CompareAndSet, Contents, Key, Profile, StoreError, StoreErrorKind, Stored, Version,
};

use super::name;
use crate::{
    envelope::{Envelope, Header},
    folder::{Dir, Result, failed},
    lock::Lock,
};

/// The file extension of the value of a key.
const CURRENT: &str = "json";
const NEXT: &str = "next";

/// The files of one key. Writers hold the lock on `….change`.
pub(super) struct KeyFiles {
    key: Key,
    stem: String,
}

impl KeyFiles {
    pub(super) fn new(key: &Key) -> Self {
        Self {
            key: key.clone(),
            stem: name::stem(key),
        }
    }

    pub(super) fn name(&self, ending: &str) -> String {
        format!("{}.{ending}", self.stem)
    }

    pub(super) fn load(&self, dir: &Dir) -> Result<Option<Stored>> {
        dir.sync_if_needed()?;
        let found = self.read(dir, CURRENT)?;
        // On a read-only file system, this machine's clock is used, which may differ from that of the file system.
        let now = || dir.now().unwrap_or_else(SystemTime::now);
        Ok(found.map(|found| found.stored(now())))
    }

    pub(super) fn compare_and_set(
        &self,
        dir: &Dir,
        expected: Option<&Version>,
        new: Option<&Contents>,
        asked: Instant,
    ) -> Result<CompareAndSet> {
        let current = self.current(dir)?;
        if current.as_ref().map(|current| &current.version) != expected {
            return Ok(CompareAndSet::Conflict);
        }
        let Some(new) = new else {
            // In this order, so that a deleted value is never restored.
            dir.remove(&self.name(NEXT))?;
            dir.remove(&self.name(CURRENT))?;
            dir.sync()?;
            return Ok(CompareAndSet::Done(None));
        };
        self.quarantine_leftover(dir)?;
        self.replace(dir, expected, new, asked)?;
        Ok(CompareAndSet::Done(Some(Version::of(new))))
    }

    /// The value of the key. A leftover that replaces this version is put in place first.
    pub(super) fn current(&self, dir: &Dir) -> Result<Option<Envelope>> {
        let current = self.read(dir, CURRENT)?;
        let leftover = self.leftover(dir)?;
        match leftover {
            Some(leftover)
                if leftover.follows(current.as_ref().map(|current| &current.version)) =>
            {
                dir.sync_file(&self.name(NEXT))?;
                self.put_in_place(dir)?;
                tracing::info!(key = %self.key, "completed a change of another process");
                Ok(Some(leftover))
            }
            _ => Ok(current),
        }
    }

    /// A value that was written completely, but not put in place.
    fn leftover(&self, dir: &Dir) -> Result<Option<Envelope>> {
        match self.read(dir, NEXT) {
            Ok(found) => Ok(found.filter(Envelope::is_complete)),
            // Not a file of this store. The next change replaces it.
            Err(error) if error.kind() == StoreErrorKind::NotPermitted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// After the write, the new contents survive the end of this process; when this returns, also a power failure.
    fn replace(
        &self,
        dir: &Dir,
        expected: Option<&Version>,
        new: &Contents,
        asked: Instant,
    ) -> Result<()> {
        let next = self.name(NEXT);
        let mut file = dir.create_new(&next)?;
        // The time comes from the file system's clock. There is only one write, so a killed process leaves all or nothing.
        let written = file
            .metadata()
            .and_then(|metadata| metadata.modified())
            .and_then(|now| {
                let mut header = Header::new(now, asked).completing(new, expected);
                header.profile =
                    name::is_hashed(&self.stem).then(|| self.key.profile().name().to_owned());
                file.write_all(&header.seal(new))?;
                file.sync_all()
            });
        if let Err(error) = written {
            let _ = dir.remove(&next);
            return Err(failed("written", &dir.path_of(&next), error));
        }
        self.put_in_place(dir)
    }

    fn put_in_place(&self, dir: &Dir) -> Result<()> {
        dir.rename(&self.name(NEXT), &self.name(CURRENT))?;
        dir.sync()
    }

    /// A leftover that replaces another version may hold a valid token.
    fn quarantine_leftover(&self, dir: &Dir) -> Result<()> {
        let Some(leftover) = self.leftover(dir)? else {
            return Ok(());
        };
        let slots = Key::quarantine_slots(self.key.profile()).filter(|slot| *slot != self.key);
        let slots: Vec<_> = slots.map(|slot| Self::new(&slot)).collect();
        let mut places = Vec::new();
        for slot in &slots {
            let found = slot.read(dir, CURRENT)?;
            if found
                .as_ref()
                .is_some_and(|found| found.version == leftover.version)
            {
                return dir.sync();
            }
            // Free slots first, then the oldest.
            let header = found.as_ref().and_then(|found| found.header.as_ref());
            let written_at = header.map_or(SystemTime::UNIX_EPOCH, Header::written_at);
            places.push((found.is_some(), written_at, slot));
        }
        places.sort_by_key(|(is_taken, written_at, _)| (*is_taken, *written_at));
        for (_, _, slot) in places {
            // This does not wait, which avoids a deadlock: the holder of a slot's lock may wait for this key.
            if let Some(_change) = Lock::try_take(dir, &slot.name("change"), "")? {
                let current = slot.current(dir)?;
                let version = current.as_ref().map(|current| &current.version);
                slot.replace(dir, version, &leftover.contents, Instant::now())?;
                tracing::warn!(key = %self.key, slot = %slot.key, "quarantined an incomplete change of another process");
                return Ok(());
            }
        }
        let busy = format!(
            "all quarantine slots of profile {} are in use",
            self.key.profile()
        );
        Err(StoreError::busy(&busy, None))
    }

    fn read(&self, dir: &Dir, ending: &str) -> Result<Option<Envelope>> {
        let content = dir.read(&self.name(ending))?;
        Ok(content.map(|content| Envelope::open(&content)))
    }
}

/// The profiles with a record.
pub(super) fn list(dir: &Dir) -> Result<Vec<Profile>> {
    let mut profiles = Vec::new();
    for file in dir.names()? {
        let Some(stem) = file.strip_suffix(".json") else {
            continue;
        };
        let profile = if name::is_hashed(stem) {
            let header = dir
                .read(&file)?
                .and_then(|content| Envelope::open(&content).header);
            header.and_then(|header| header.profile)
        } else {
            name::decoded(stem)
        };
        // Ignore files that do not have the name of their profile.
        let profile = profile.and_then(|profile| Profile::new(profile).ok());
        profiles.extend(profile.filter(|profile| name::stem(&Key::record(profile)) == stem));
    }
    Ok(profiles)
}
