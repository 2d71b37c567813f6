//! A naive store: a JSON file, overwritten in place, without lock or compare.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use coze_auth::store::{
    BlockingStore, CompareAndSet, Contents, Key, LockLifetime, Owner, Profile, StoreError,
    StoreErrorKind, Stored, TryLock, Version,
};

/// For comparison only. Every owner gets the lock, and the last write wins.
pub(crate) struct PlainStore {
    folder: PathBuf,
}

impl PlainStore {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn path(&self, key: &Key) -> PathBuf {
        let profile = key.profile();
        self.folder.join(match key.slot() {
            None => format!("{profile}.json"),
            Some(slot) => format!("{profile}.{slot}.json"),
        })
    }
}

impl BlockingStore for PlainStore {
    fn load(&self, key: &Key) -> Result<Option<Stored>, StoreError> {
        let path = self.path(key);
        let contents = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| {
                StoreError::new(StoreErrorKind::Other, "the file can't be read").with_source(error)
            })?,
        };
        let contents = Contents::from(contents);
        let modified = path.metadata().and_then(|metadata| metadata.modified());
        let age = modified.map(|modified| SystemTime::now().duration_since(modified));
        let version = Version::of(&contents);
        let age = age.ok().and_then(Result::ok);
        Ok(Some(Stored::new(contents, version, age)))
    }

    fn compare_and_set(
        &self,
        key: &Key,
        _: Option<&Version>,
        new: Option<&Contents>,
    ) -> Result<CompareAndSet, StoreError> {
        let path = self.path(key);
        match new {
            Some(new) => std::fs::write(path, new.expose()),
            None => std::fs::remove_file(path),
        }
        .map_err(|error| {
            StoreError::new(StoreErrorKind::Other, "the file can't be written").with_source(error)
        })?;
        Ok(CompareAndSet::Done(new.map(Version::of)))
    }

    fn try_lock(&self, _: &Key, _: &Owner, _: Duration) -> Result<TryLock, StoreError> {
        Ok(TryLock::Acquired(LockLifetime::ProcessBound))
    }

    fn unlock(&self, _: &Key, _: &Owner) -> Result<(), StoreError> {
        Ok(())
    }

    fn list(&self) -> Result<Option<Vec<Profile>>, StoreError> {
        Ok(None)
    }
}
