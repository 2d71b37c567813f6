//! The store that most programs have: a JSON file, written where it lies, without lock or compare.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use coze_auth::store::{
    Lease, LeaseKind, Leasing, Profile, Record, Removed, Saved, Store, StoreFuture, Stored,
};
use coze_auth::{Error, RefreshToken};

/// For comparison only. Everybody has the lease, and who saves last has saved.
pub(crate) struct PlainStore {
    folder: PathBuf,
}

impl PlainStore {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn path(&self, profile: &Profile) -> PathBuf {
        self.folder.join(format!("{profile}.json"))
    }

    fn write(&self, profile: &Profile, record: &Record) -> coze_auth::Result<()> {
        let json = record.to_json()?;
        std::fs::write(self.path(profile), json.as_bytes())
            .map_err(|error| Error::of_store("the file can't be written", error))
    }

    fn read(&self, profile: &Profile) -> coze_auth::Result<Option<Stored>> {
        let path = self.path(profile);
        let json = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| Error::of_store("the file can't be read", error))?,
        };
        let record = Record::from_json(&json)?;
        let modified = path.metadata().and_then(|metadata| metadata.modified());
        let age = modified.map_or(Duration::ZERO, |modified| {
            SystemTime::now()
                .duration_since(modified)
                .unwrap_or_default()
        });
        Ok(Some(Stored::new(record, age)))
    }
}

impl Store for PlainStore {
    fn load<'a>(&'a self, profile: &'a Profile) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async move { self.read(profile) })
    }

    fn save<'a>(
        &'a self,
        profile: &'a Profile,
        _: &'a RefreshToken,
        successor: &'a Record,
    ) -> StoreFuture<'a, Saved> {
        Box::pin(async move {
            self.write(profile, successor)?;
            Ok(Saved::Saved)
        })
    }

    fn put<'a>(&'a self, profile: &'a Profile, record: &'a Record) -> StoreFuture<'a, ()> {
        Box::pin(async move { self.write(profile, record) })
    }

    fn remove<'a>(&'a self, profile: &'a Profile, _: &'a Record) -> StoreFuture<'a, Removed> {
        Box::pin(async move {
            match std::fs::remove_file(self.path(profile)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(Error::of_store("the file can't be removed", error))
                }
                _ => Ok(Removed::Removed),
            }
        })
    }

    fn lease<'a>(&'a self, _: &'a Profile, _: Duration) -> StoreFuture<'a, Leasing> {
        Box::pin(async { Ok(Leasing::Got(Box::new(NoLease))) })
    }

    fn lease_kind(&self) -> LeaseKind {
        LeaseKind::ForItsHold
    }
}

struct NoLease;

impl Lease for NoLease {
    fn prove_save<'a>(&'a self, _: &'a Record) -> StoreFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn release(self: Box<Self>) -> StoreFuture<'static, ()> {
        Box::pin(async { Ok(()) })
    }
}
