//! The files of one profile, and what is asked of them; blocking.
//!
//! | file | what it is |
//! |---|---|
//! | `default.json` | the sign-in; only ever replaced as a whole, by a rename |
//! | `default.next` | the one that will replace it: there while it is written, or left over by who was killed |
//! | `default.lease` | locked by who refreshes |
//! | `default.lock` | locked for the moment of a change |
//! | `default.proof` | there while a lease proves that there is room |
//! | `default.aside-….json` | a sign-in that was replaced while dead or damaged, or that came too late |

use std::time::{Instant, SystemTime};

use zeroize::Zeroizing;

use super::{change::Changing, name};
use crate::{
    Error, ErrorKind, RefreshToken, Result,
    store::{
        Profile, Record, Removed, Saved, Stored,
        envelope::{self, Kept},
        folder::Folder,
        lock::{self, Lock},
    },
};

/// What a save may need beyond its record: the envelope, and what a file system takes for itself.
const SLACK: usize = 4096;

/// The files of one profile.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) folder: Folder,
    pub(super) profile: Profile,
    pub(super) stem: String,
}

/// A record that is to be stored.
pub(super) struct New<'a> {
    pub(super) record: &'a Record,
    json: Zeroizing<String>,
    asked: Instant,
}

impl<'a> New<'a> {
    fn of(record: &'a Record, asked: Instant) -> Result<Self> {
        Ok(Self {
            record,
            json: record.to_json()?,
            asked,
        })
    }

    /// What a file of this time holds.
    pub(super) fn sealed(&self, created_at: SystemTime) -> Zeroizing<Vec<u8>> {
        envelope::sealed(&self.json, envelope::asked_at(self.asked, created_at))
    }
}

/// What came of asking for the lease.
pub(super) enum Asked {
    Got(Lock),
    Held(Option<String>),
}

impl Files {
    pub(super) fn new(folder: &Folder, profile: &Profile) -> Self {
        Self {
            folder: folder.clone(),
            profile: profile.clone(),
            stem: name::stem(profile),
        }
    }

    pub(super) fn load(&self) -> Result<Option<Stored>> {
        if !self.folder.is_there()? {
            return Ok(None);
        }
        let kept = self.read("json")?;
        Ok(kept.map(|kept| self.stored(kept)))
    }

    pub(super) fn save(
        &self,
        asked: Instant,
        redeemed: &RefreshToken,
        successor: &Record,
    ) -> Result<Saved> {
        let new = New::of(successor, asked)?;
        self.changing()?.save(redeemed, &new)
    }

    pub(super) fn put(&self, asked: Instant, record: &Record) -> Result<()> {
        let new = New::of(record, asked)?;
        self.changing()?.put(&new)
    }

    pub(super) fn remove(&self, read: &Record) -> Result<Removed> {
        if !self.folder.is_there()? {
            return Ok(Removed::Removed);
        }
        self.changing()?.remove(read)
    }

    /// Tries once. Who has got it finds what a killed process had got and not yet stored.
    pub(super) fn lease(&self) -> Result<Asked> {
        self.folder.create()?;
        let file = self.file("lease");
        let Some(lease) = Lock::try_take(&self.folder, &file)? else {
            return Ok(Asked::Held(lock::holder(&self.folder, &file)));
        };
        match self.changing()?.current() {
            // That is told when it is loaded.
            Err(error) if error.kind() == ErrorKind::StoreDamaged => {}
            found => drop(found?),
        }
        Ok(Asked::Got(lease))
    }

    pub(super) fn prove_save(&self, lease: &Lock, record: &Record) -> Result<()> {
        if !lease.counts() {
            return Err(Error::lease_lost(&self.profile));
        }
        let size = record.to_json()?.len() + SLACK;
        self.changing()?.prove(record, size)
    }

    /// Waits for its turn to change the files.
    fn changing(&self) -> Result<Changing<'_>> {
        self.folder.create()?;
        let lock = Lock::take_turn(&self.folder, &self.file("lock"), &self.profile)?;
        Ok(Changing::new(self, lock))
    }

    pub(super) fn file(&self, ending: &str) -> String {
        format!("{}.{ending}", self.stem)
    }

    pub(super) fn read(&self, ending: &str) -> Result<Option<Kept>> {
        self.read_file(&self.file(ending))
    }

    pub(super) fn read_file(&self, name: &str) -> Result<Option<Kept>> {
        let Some(content) = self.folder.read(name)? else {
            return Ok(None);
        };
        envelope::opened(self.folder.path_of(name).display(), &content).map(Some)
    }

    pub(super) fn stored(&self, kept: Kept) -> Stored {
        let age = match self.folder.now() {
            Some(now) => envelope::age(kept.saved_at, now),
            // On a read-only file system, it is told by a clock that may not be the one that stamped the record.
            None => kept.saved_at.elapsed().unwrap_or_default(),
        };
        Stored::new(kept.record, age)
    }
}
