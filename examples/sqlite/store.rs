//! A store of sign-ins in an SQLite database, as an example of your own store.
//!
//! The database is one file, shared by the processes of one machine. SQLite's client is blocking, so this implements [`BlockingStore`], and
//! `Blocking::new(SqliteStore::open(path)?)` is the store. The test of this example runs the public suite on it.

use std::{path::Path, time::Duration};

use coze_auth::store::{
    BlockingStore, CompareAndSet, Contents, Key, LockLifetime, Owner, Profile, StoreError,
    StoreErrorKind, Stored, TryLock, Version,
};
use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior::Immediate, params};
use tokio::sync::Mutex;

// Commits are durable, and deleted content is overwritten. Times are in seconds by the machine's clock.
const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA secure_delete = ON;
    CREATE TABLE IF NOT EXISTS contents (key PRIMARY KEY, bytes, written);
    CREATE TABLE IF NOT EXISTS locks (key PRIMARY KEY, owner, name, ends);";
const LOAD: &str = "SELECT bytes, unixepoch('subsec') - written FROM contents WHERE key = ?";
const WRITE: &str = "REPLACE INTO contents VALUES (?, ?, unixepoch('subsec'))";
const DELETE: &str = "DELETE FROM contents WHERE key = ?";
const LIST: &str = "SELECT substr(key, 8) FROM contents WHERE key GLOB 'record:*'";
const LOCK: &str = "
    INSERT INTO locks VALUES (?1, ?2, ?3, unixepoch('subsec') + ?4)
    ON CONFLICT DO UPDATE SET owner = ?2, name = ?3, ends = excluded.ends
    WHERE owner = ?2 OR ends <= unixepoch('subsec')";
const HOLDER: &str = "SELECT name FROM locks WHERE key = ?";
const UNLOCK: &str = "DELETE FROM locks WHERE key = ? AND owner = ?";

pub struct SqliteStore(Mutex<Connection>);

impl SqliteStore {
    /// Put the database into a folder that only its user can read, because it contains tokens.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        // Waits at most 5 s for another process, rusqlite's default.
        let connection = Connection::open(path).map_err(failed)?;
        connection.execute_batch(SCHEMA).map_err(failed)?;
        Ok(Self(Mutex::new(connection)))
    }

    fn with<T>(
        &self,
        run: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        run(&mut self.0.blocking_lock()).map_err(failed)
    }
}

fn name(key: &Key) -> String {
    let slot = key.slot().map_or("record".into(), |slot| slot.to_string());
    format!("{slot}:{}", key.profile())
}

fn load(connection: &Connection, key: &Key) -> rusqlite::Result<Option<Stored>> {
    let stored = connection.query_row(LOAD, [name(key)], |row| {
        let contents = Contents::from(row.get::<_, Vec<u8>>(0)?);
        let version = Version::of(&contents);
        // Unknown if the clock was set back.
        let age = Duration::try_from_secs_f64(row.get(1)?).ok();
        Ok(Stored::new(contents, version, age))
    });
    stored.optional()
}

fn failed(error: rusqlite::Error) -> StoreError {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreErrorKind::Busy,
        Some(ErrorCode::DiskFull) => StoreErrorKind::Full,
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen) => StoreErrorKind::NotPermitted,
        _ => StoreErrorKind::Other,
    };
    StoreError::new(kind, "the database of sign-ins failed").with_source(error)
}

impl BlockingStore for SqliteStore {
    fn load(&self, key: &Key) -> Result<Option<Stored>, StoreError> {
        self.with(|connection| load(connection, key))
    }

    fn compare_and_set(
        &self,
        key: &Key,
        expected: Option<&Version>,
        new: Option<&Contents>,
    ) -> Result<CompareAndSet, StoreError> {
        self.with(|connection| {
            let transaction = connection.transaction_with_behavior(Immediate)?;
            let stored = load(&transaction, key)?.map(|stored| stored.version);
            if stored.as_ref() != expected {
                return Ok(CompareAndSet::Conflict);
            }
            match new {
                Some(new) => transaction.execute(WRITE, params![name(key), new.expose()])?,
                None => transaction.execute(DELETE, [name(key)])?,
            };
            transaction.commit()?;
            Ok(CompareAndSet::Done(new.map(Version::of)))
        })
    }

    fn try_lock(&self, key: &Key, owner: &Owner, ttl: Duration) -> Result<TryLock, StoreError> {
        let asking = params![name(key), owner.id(), owner.name(), ttl.as_secs_f64()];
        self.with(|connection| {
            if connection.execute(LOCK, asking)? == 1 {
                return Ok(TryLock::Acquired(LockLifetime::Ttl));
            }
            let by = connection.query_row(HOLDER, [name(key)], |row| row.get(0));
            by.optional().map(|by| TryLock::Held { by })
        })
    }

    fn unlock(&self, key: &Key, owner: &Owner) -> Result<(), StoreError> {
        let lock = [&name(key), owner.id()];
        self.with(|connection| connection.execute(UNLOCK, lock))?;
        Ok(())
    }

    fn list(&self) -> Result<Option<Vec<Profile>>, StoreError> {
        self.with(|connection| {
            let mut listed = connection.prepare(LIST)?;
            let names = listed.query_map([], |row| row.get(0))?;
            let names = names.collect::<rusqlite::Result<Vec<String>>>()?;
            Ok(Some(names.into_iter().flat_map(Profile::new).collect()))
        })
    }
}
