//! A change of the files of one profile, while nobody else changes them.

use std::{
    fs,
    io::{ErrorKind as Io, Write},
    path::PathBuf,
    process,
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use super::files::{Files, New};
use crate::{
    Error, ErrorKind, RefreshToken, Result,
    store::{
        Record, Removed, Saved, damaged_but_kept,
        envelope::{self, Kept},
        folder::failed,
        lock::Lock,
    },
};

/// So many records are kept aside for each profile; older ones make room.
const MOST_ASIDE: usize = 8;

/// The right to change the files: nobody else does.
pub(super) struct Changing<'a> {
    files: &'a Files,
    _lock: Lock,
}

impl<'a> Changing<'a> {
    pub(super) fn new(files: &'a Files, lock: Lock) -> Self {
        Self { files, _lock: lock }
    }

    pub(super) fn save(&self, redeemed: &RefreshToken, successor: &New<'_>) -> Result<Saved> {
        let current = match self.current_before(redeemed, successor.record) {
            // The successor may hold the only live refresh token.
            Err(error) if error.kind() == ErrorKind::StoreDamaged => {
                let aside = self.set_aside(successor)?;
                return Err(damaged_but_kept(&error, aside.display()));
            }
            found => found?,
        };
        match current {
            Some(kept) if kept.record.holds(redeemed) => {
                self.replace(successor)?;
                Ok(Saved::Saved)
            }
            Some(kept) if kept.record.holds(successor.record.refresh_token()) => {
                // A save that replaced it, and could not make that durable, may be tried again.
                self.files.folder.sync()?;
                Ok(Saved::Saved)
            }
            moved_on => {
                self.set_aside(successor)?;
                let stored = moved_on.map(|kept| Box::new(self.files.stored(kept)));
                Ok(Saved::MovedOn(stored))
            }
        }
    }

    pub(super) fn put(&self, new: &New<'_>) -> Result<()> {
        match self.current() {
            // A put that replaced what was there, and could not make that durable, may be tried again.
            Ok(Some(kept)) if kept.record.descends_from(new.record.refresh_token()) => {
                return self.files.folder.sync();
            }
            Ok(Some(kept)) if kept.record.dead().is_some() => self.set_current_aside()?,
            Err(error) if error.kind() == ErrorKind::StoreDamaged => self.set_current_aside()?,
            found => drop(found?),
        }
        self.replace(new)
    }

    pub(super) fn remove(&self, read: &Record) -> Result<Removed> {
        if let Some(kept) = self.files.read("json")?
            && !kept.record.holds(read.refresh_token())
        {
            return Ok(Removed::MovedOn);
        }
        for ending in ["json", "next"] {
            self.files.folder.remove(&self.files.file(ending))?;
        }
        self.files.folder.sync()?;
        Ok(Removed::Removed)
    }

    /// Shows that this record is still the current one, and that a file of this size can be written and synced, and put
    /// in its place.
    pub(super) fn prove(&self, record: &Record, size: usize) -> Result<()> {
        let current = self.current()?;
        if !current.is_some_and(|kept| kept.record.holds(record.refresh_token())) {
            return Err(Error::moved_on(&self.files.profile));
        }
        let proven = self.prove_room(size);
        let removed = self.files.folder.remove(&self.files.file("proof"));
        proven.and(removed)?;
        self.prove_replaceable()
    }

    /// What is stored, after a leftover that follows it has taken its place.
    pub(super) fn current(&self) -> Result<Option<Kept>> {
        let Some(current) = self.files.read("json")? else {
            return Ok(None);
        };
        match self.leftover()? {
            Some(left) if left.record.follows(current.record.refresh_token()) => {
                self.finish_leftover()?;
                Ok(Some(left))
            }
            _ => Ok(Some(current)),
        }
    }

    /// What a save for that refresh token finds.
    fn current_before(&self, redeemed: &RefreshToken, successor: &Record) -> Result<Option<Kept>> {
        match self.files.read("json")? {
            Some(kept) if kept.record.holds(redeemed) && self.supersedes_leftover(successor)? => {
                Ok(Some(kept))
            }
            _ => self.current(),
        }
    }

    /// Whether this record was got after a leftover, if there is one, or is the same.
    fn supersedes_leftover(&self, record: &Record) -> Result<bool> {
        let Some(left) = self.leftover()? else {
            return Ok(true);
        };
        let left = left.record.refresh_token();
        Ok(record.follows(left) || record.holds(left))
    }

    /// A complete record that was written, but not put in its place.
    fn leftover(&self) -> Result<Option<Kept>> {
        match self.files.read("next") {
            // Cut short, or none of ours. The next change replaces it.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::StoreDamaged | ErrorKind::StoreExposed
                ) =>
            {
                Ok(None)
            }
            read => read,
        }
    }

    fn finish_leftover(&self) -> Result<()> {
        let Files { folder, .. } = self.files;
        folder.sync_file(&self.files.file("next"))?;
        self.put_in_place()?;
        tracing::info!(
            profile = self.files.profile.name(),
            "finished a save that another process had begun"
        );
        Ok(())
    }

    /// From its first write on, the record survives this process; when this returns, the machine.
    fn replace(&self, new: &New<'_>) -> Result<()> {
        self.write_anew(&self.files.file("next"), new)?;
        self.put_in_place()
    }

    fn put_in_place(&self) -> Result<()> {
        let Files { folder, .. } = self.files;
        folder.rename(&self.files.file("next"), &self.files.file("json"))?;
        folder.sync()
    }

    fn write_anew(&self, name: &str, new: &New<'_>) -> Result<()> {
        let Files { folder, .. } = self.files;
        let path = folder.path_of(name);
        let mut file = folder.create_anew(name)?;
        // Its time is told by the clock that stamped the file. One write: who is killed leaves all or nothing.
        let written = file
            .metadata()
            .and_then(|metadata| metadata.modified())
            .and_then(|created_at| file.write_all(&new.sealed(created_at)));
        if let Err(error) = written {
            let _ = folder.remove(name);
            return Err(failed("written", &path, error));
        }
        file.sync_all()
            .map_err(|error| failed("synced to disk", &path, error))
    }

    /// Where it is now, durably.
    fn set_aside(&self, new: &New<'_>) -> Result<PathBuf> {
        let Files { folder, .. } = self.files;
        if let Some(aside) = self.aside_already(new.record)? {
            folder.sync_file(&aside)?;
            folder.sync()?;
            return Ok(folder.path_of(&aside));
        }
        let name = self.new_aside()?;
        self.write_anew(&name, new)?;
        folder.sync()?;
        let aside = folder.path_of(&name);
        tracing::warn!(
            profile = self.files.profile.name(),
            file = %aside.display(),
            "what would have replaced the stored sign-in was set aside, as that has moved on or is damaged"
        );
        Ok(aside)
    }

    /// By an earlier try of the same save: repeated tries must not push out what else is aside.
    fn aside_already(&self, record: &Record) -> Result<Option<String>> {
        let holds_it = |name: &String| {
            let kept = self.files.read_file(name).ok().flatten();
            kept.is_some_and(|kept| kept.record.holds(record.refresh_token()))
        };
        Ok(self.aside()?.into_iter().rev().find(holds_it))
    }

    /// The names of what is aside, the oldest first.
    fn aside(&self) -> Result<Vec<String>> {
        let beginning = self.aside_beginning();
        let mut aside = self.files.folder.names(&beginning)?;
        aside.sort_by_cached_key(|name| age_key(&name[beginning.len()..]));
        Ok(aside)
    }

    fn aside_beginning(&self) -> String {
        format!("{}.aside-", self.files.stem)
    }

    fn set_current_aside(&self) -> Result<()> {
        let Files { folder, .. } = self.files;
        let file = self.new_aside()?;
        let aside = folder.path_of(&file);
        let current = folder.path_of(&self.files.file("json"));
        // Not every file system has hard links.
        fs::hard_link(&current, &aside)
            .or_else(|_| fs::copy(&current, &aside).map(drop))
            .map_err(|error| failed("created", &aside, error))?;
        folder.sync_file(&file)?;
        tracing::warn!(
            profile = self.files.profile.name(),
            file = %aside.display(),
            "the stored sign-in, which can't be used any more, was set aside"
        );
        Ok(())
    }

    /// A name for what is set aside; the oldest makes room.
    fn new_aside(&self) -> Result<String> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let Files { folder, .. } = self.files;
        let aside = self.aside()?;
        let too_many = (aside.len() + 1).saturating_sub(MOST_ASIDE);
        for oldest in &aside[..too_many] {
            folder.remove(oldest)?;
        }
        let now = folder.now().unwrap_or_else(SystemTime::now);
        let now = envelope::since_epoch(now).as_millis();
        let beginning = self.aside_beginning();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Ok(format!("{beginning}{now}-{}-{count}.json", process::id()))
    }

    /// What is mounted by itself, as containers do it with single files, can't be replaced by a rename. Neither can it
    /// be linked to.
    fn prove_replaceable(&self) -> Result<()> {
        let Files { folder, .. } = self.files;
        let proof = self.files.file("proof");
        let current = folder.path_of(&self.files.file("json"));
        match fs::hard_link(&current, folder.path_of(&proof)) {
            Err(error) if error.kind() == Io::CrossesDevices => Err(Error::of_store(
                format!(
                    "{} is mounted by itself, so it can't be replaced: mount its folder instead",
                    current.display()
                ),
                error,
            )),
            // Not every file system has hard links; the room has been proven.
            _ => folder.remove(&proof),
        }
    }

    /// Random bytes: a file system may have room for as many zeros.
    fn prove_room(&self, size: usize) -> Result<()> {
        let proof = self.files.file("proof");
        let path = self.files.folder.path_of(&proof);
        let mut bytes = vec![0; size];
        getrandom::fill(&mut bytes)
            .map_err(|error| Error::new(ErrorKind::System, "no random bytes").with_source(error))?;
        let mut file = self.files.folder.create_anew(&proof)?;
        file.write_all(&bytes)
            .and_then(|()| file.sync_all())
            .map_err(|error| failed("written", &path, error))
    }
}

/// By when it was set aside, then by name.
fn age_key(aside: &str) -> (u64, String) {
    let at = aside.split('-').next().and_then(|at| at.parse().ok());
    (at.unwrap_or_default(), aside.to_owned())
}
