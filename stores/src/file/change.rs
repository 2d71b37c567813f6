//! The files of one key, and how they are changed; blocking.
//!
//! | file | what it is |
//! |---|---|
//! | `default.json` | what the key holds; only ever replaced as a whole, by a rename |
//! | `default.next` | what will replace it: there while it is written, or left by a killed process |
//! | `default.change` | locked for the moment of a change |
//! | `default.lock` | locked by the owner that refreshes the sign-in |
//! | `default.quarantine-0.json` | the same for the key of a quarantine slot |
//! | `clock` | is stamped in order to know the time |

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

/// The ending of what a key holds.
const CURRENT: &str = "json";
const NEXT: &str = "next";

/// The files of one key. A writer has locked `….change`.
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
        // On a read-only file system, the age is told by a clock that may not be the one that stamped the file.
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
            // In this order, so that what was deleted never comes back.
            dir.remove(&self.name(NEXT))?;
            dir.remove(&self.name(CURRENT))?;
            dir.sync()?;
            return Ok(CompareAndSet::Done(None));
        };
        self.quarantine_leftover(dir)?;
        self.replace(dir, expected, new, asked)?;
        Ok(CompareAndSet::Done(Some(Version::of(new))))
    }

    /// What the key holds, after a leftover that follows it has taken its place.
    pub(super) fn current(&self, dir: &Dir) -> Result<Option<Envelope>> {
        let current = self.read(dir, CURRENT)?;
        let leftover = self.leftover(dir)?;
        match leftover {
            Some(leftover)
                if leftover.follows(current.as_ref().map(|current| &current.version)) =>
            {
                dir.sync_file(&self.name(NEXT))?;
                self.put_in_place(dir)?;
                tracing::info!(key = %self.key, "finished a change that another process had begun");
                Ok(Some(leftover))
            }
            _ => Ok(current),
        }
    }

    /// What was written completely, but not put in its place.
    fn leftover(&self, dir: &Dir) -> Result<Option<Envelope>> {
        match self.read(dir, NEXT) {
            Ok(found) => Ok(found.filter(Envelope::is_complete)),
            // Not one of ours. The next change replaces it.
            Err(error) if error.kind() == StoreErrorKind::NotPermitted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// From its first write on, the new contents survive this process; when this returns, the machine.
    fn replace(
        &self,
        dir: &Dir,
        expected: Option<&Version>,
        new: &Contents,
        asked: Instant,
    ) -> Result<()> {
        let next = self.name(NEXT);
        let mut file = dir.create_new(&next)?;
        // Its time is told by the clock that stamped the file. One write: a killed process leaves all or nothing.
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

    /// A leftover that was to replace something else may hold a live token.
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
            // The free ones first, then the oldest.
            let header = found.as_ref().and_then(|found| found.header.as_ref());
            let written_at = header.map_or(SystemTime::UNIX_EPOCH, Header::written_at);
            places.push((found.is_some(), written_at, slot));
        }
        places.sort_by_key(|(is_taken, written_at, _)| (*is_taken, *written_at));
        for (_, _, slot) in places {
            // This never waits: the owner of a slot may be waiting for this one.
            if let Some(_change) = Lock::try_take(dir, &slot.name("change"), "")? {
                let current = slot.current(dir)?;
                let version = current.as_ref().map(|current| &current.version);
                slot.replace(dir, version, &leftover.contents, Instant::now())?;
                tracing::warn!(key = %self.key, slot = %slot.key, "a change that another process had begun was quarantined");
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

/// The profiles whose record key holds something.
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
        // What is not named as its profile's file is not ours.
        let profile = profile.and_then(|profile| Profile::new(profile).ok());
        profiles.extend(profile.filter(|profile| name::stem(&Key::record(profile)) == stem));
    }
    Ok(profiles)
}
