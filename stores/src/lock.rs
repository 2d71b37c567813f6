//! Locks on files that are never renamed or deleted.
//!
//! The lock is the operating system's advisory one on the open file (`flock` on Unix, `LockFileEx` on Windows). It ends when its
//! holder unlocks it or its process ends, and it excludes other openings in the same process too. Should somebody have deleted the
//! file, the lock no longer counts.
//!
//! On Windows a lock also keeps others from reading what is locked, so there the holder is never named.

use std::{
    collections::HashMap,
    fs::{File, TryLockError},
    io::{self, Read, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use coze_auth::store::{Key, LockLifetime, Owner, StoreError, TryLock, presentable_name};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    time::{Instant, sleep, timeout},
};

use crate::{
    blocking::Threads,
    folder::{self, Dir, Folder, Open, Result, failed, repeat_while},
};

/// How long a change waits for one other change. Each takes milliseconds, unless its process is stuck.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it waits for all that come before it.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long signals may interrupt the locking of a file.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(2);

/// A file that is locked.
pub(crate) struct Lock {
    file: File,
    name: String,
}

impl Lock {
    /// Tries once. `None` if another has it.
    pub(crate) fn try_take(dir: &Dir, name: &str, holder: &str) -> Result<Option<Self>> {
        let path = dir.path_of(name);
        let Some(file) = dir.open(name, Open::Lock)? else {
            // The folder was removed just now.
            return Err(failed("created", &path, io::ErrorKind::NotFound.into()));
        };
        match uninterrupted(|| file.try_lock()) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(failed("locked", &path, error)),
        }
        let mut lock = Self {
            file,
            name: name.to_owned(),
        };
        if !lock.counts(dir) {
            return Ok(None);
        }
        // It is a lock without its holder's name too, on a disk that is full, for example.
        let _ = lock.file.write_all(line(holder).as_bytes());
        Ok(Some(lock))
    }

    /// Whether its file still has its name, and so excludes others.
    fn counts(&self, dir: &Dir) -> bool {
        let named = dir.metadata(&self.name);
        named.is_ok_and(|named| folder::are_same(&named, &self.file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing it would not do while a child process that is just being started still has it open.
        let _ = self.file.unlock();
    }
}

/// A signal that interrupts the call says nothing of the lock.
fn uninterrupted(lock: impl FnMut() -> Result<(), TryLockError>) -> Result<(), TryLockError> {
    let by_signal = |error: &TryLockError| match error {
        TryLockError::Error(error) => error.kind() == io::ErrorKind::Interrupted,
        TryLockError::WouldBlock => false,
    };
    repeat_while(by_signal, SIGNAL_TIMEOUT, lock)
}

/// Who wrote its name into that file last.
fn holder(dir: &Dir, name: &str) -> Option<String> {
    let mut line = Vec::new();
    let file = dir.open(name, Open::Read).ok()??;
    file.take(LINE as u64).read_to_end(&mut line).ok()?;
    let name = presentable_name(String::from_utf8_lossy(&line).trim());
    (!name.is_empty()).then_some(name)
}

/// Longer than any owner's name, of at most 100 characters.
const LINE: usize = 402;

/// Of one length in bytes, so that one write replaces what a former holder wrote.
fn line(holder: &str) -> String {
    let room = LINE.saturating_sub(holder.len() + 1);
    format!("{holder}{:room$}\n", "")
}

/// The right to change what one key holds: nobody else does.
pub(crate) struct Change {
    /// The folder in which it is locked.
    pub(crate) dir: Dir,
    // The lock goes first: who is next in this process finds it free.
    _lock: Lock,
    _turn: OwnedMutexGuard<Progress>,
}

/// When the holder of a lock was last seen to change, and what was seen.
type Progress = Option<(Option<Duration>, Instant)>;

/// Who in this process waits for which file. Nobody waits on a thread: a stuck key blocks no other.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<HashMap<String, Weak<AsyncMutex<Progress>>>>>);

impl Turns {
    /// Waits for the lock under which a key is changed, by any process, and does the work with it: on the same thread, since what
    /// waits to be saved is lost with the process.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        threads: &Threads,
        folder: &Folder,
        name: String,
        work: impl FnOnce(Change) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let began = Instant::now();
        let path = folder.path().join(&name);
        let busy = |by: Option<String>, waited: Duration| {
            let name = by.as_deref().unwrap_or("another process");
            let waited = waited.as_secs();
            let path = path.display();
            let what = format!("{name} has kept {path} locked for more than {waited} s");
            StoreError::busy(&what, by.as_deref())
        };
        let turn = timeout(TURN_TIMEOUT, self.turn(&name).lock_owned()).await;
        let turn = turn.map_err(|_| busy(None, TURN_TIMEOUT))?;
        let mut next = (turn, work);
        loop {
            let (folder, name) = (folder.clone(), name.clone());
            let tried = threads.run(move || {
                let dir = folder.create()?;
                let Some(lock) = Lock::try_take(&dir, &name, Owner::this_process())? else {
                    // Who takes the lock writes to its file.
                    let taken = dir.metadata(&name).ok();
                    let taken = taken.map(|file| folder::modified(&file));
                    return Ok(Err((next, taken, holder(&dir, &name))));
                };
                let (mut turn, work) = next;
                *turn = None;
                let change = Change {
                    dir,
                    _lock: lock,
                    _turn: turn,
                };
                work(change).map(Ok)
            });
            let (waiting, taken, by) = match tried.await? {
                Ok(done) => return Ok(done),
                Err(held) => held,
            };
            next = waiting;
            let turn = &mut next.0;
            let now = Instant::now();
            let since = match **turn {
                Some((seen, since)) if seen == taken => since,
                _ => now,
            };
            **turn = Some((taken, since));
            for (waited, limit) in [(now - since, CHANGE_TIMEOUT), (now - began, TURN_TIMEOUT)] {
                if waited >= limit {
                    return Err(busy(by, limit));
                }
            }
            sleep(pause()).await;
        }
    }

    fn turn(&self, name: &str) -> Arc<AsyncMutex<Progress>> {
        let mut turns = locked(&self.0);
        if let Some(turn) = turns.get(name).and_then(Weak::upgrade) {
            return turn;
        }
        if turns.len() == turns.capacity() {
            turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::default();
        turns.insert(name.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

/// Random, so that those who wait don't wake together.
fn pause() -> Duration {
    let random = getrandom::u32().unwrap_or_default();
    Duration::from_micros(1000 + u64::from(random % 8000))
}

/// The locks that owners in this process hold, until they unlock them or the process ends.
#[derive(Clone, Default)]
pub(crate) struct Held {
    locks: Arc<Mutex<HashMap<Key, (String, Lock)>>>,
    turns: Turns,
}

impl Held {
    /// Tries once. `prepare` comes between getting the lock and telling so.
    pub(crate) async fn try_lock(
        &self,
        threads: &Threads,
        folder: &Folder,
        name: String,
        key: &Key,
        owner: &Owner,
        prepare: impl Future<Output = Result<()>>,
    ) -> Result<TryLock> {
        // An owner whose first call was given up must not meet itself.
        let turn = self.turns.turn(&name).lock_owned().await;
        let (held, folder, wanted) = (self.clone(), folder.clone(), (key.clone(), owner.clone()));
        let tried = threads.run(move || {
            let (key, owner) = wanted;
            let dir = folder.create()?;
            if held.holds(&key, &owner, &dir) {
                return Ok((Ok(None), turn));
            }
            let lock = Lock::try_take(&dir, &name, owner.name())?;
            Ok((lock.map(Some).ok_or_else(|| holder(&dir, &name)), turn))
        });
        // What nobody waits for any more is dropped in this order: first the lock, then the turn.
        let (tried, turn) = tried.await?;
        drop(turn);
        let lock = match tried {
            Ok(lock) => lock,
            Err(by) => return Ok(TryLock::Held { by }),
        };
        prepare.await?;
        if let Some(lock) = lock {
            locked(&self.locks).insert(key.clone(), (owner.id().to_owned(), lock));
        }
        Ok(TryLock::Acquired(LockLifetime::ProcessBound))
    }

    fn holds(&self, key: &Key, owner: &Owner, dir: &Dir) -> bool {
        let locks = locked(&self.locks);
        let held = locks.get(key);
        held.is_some_and(|(id, lock)| id == owner.id() && lock.counts(dir))
    }

    pub(crate) fn unlock(&self, key: &Key, owner: &Owner) {
        let mut locks = locked(&self.locks);
        if locks.get(key).is_some_and(|(id, _)| id == owner.id()) {
            locks.remove(key);
        }
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_does_not_end_the_locking() {
        let mut calls = 0;
        let locked = uninterrupted(|| {
            calls += 1;
            match calls {
                1..=3 => Err(TryLockError::Error(io::ErrorKind::Interrupted.into())),
                _ => Ok(()),
            }
        });
        assert!(locked.is_ok());
        assert_eq!(calls, 4);
        let held = uninterrupted(|| Err(TryLockError::WouldBlock));
        assert!(matches!(held, Err(TryLockError::WouldBlock)));
    }

    #[test]
    fn the_names_of_holders_have_one_length() {
        for name in ["", "process 4711 on host", &"ü".repeat(100)] {
            assert_eq!(line(name).len(), LINE);
        }
    }

    #[tokio::test]
    async fn turns_that_nobody_takes_are_forgotten() {
        let turns = Turns::default();
        for n in 0..1000 {
            drop(turns.turn(&n.to_string()));
        }
        assert!(locked(&turns.0).len() < 10);
    }
}
