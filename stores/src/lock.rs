//! Lock files, which are never renamed or deleted.
//!
//! The lock is the operating system's lock on the open file (`flock` on Unix, `LockFileEx` on Windows). It ends when its
//! holder unlocks it or the holder's process ends. It also excludes other handles of the same process. A lock whose file was
//! deleted no longer counts.
//!
//! The holder writes its name into the file. On Windows a locked file can't be read, so the holder's name is unknown there.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::{File, TryLockError},
    io::{self, Read, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use coze_auth::store::{Key, LockLifetime, Owner, StoreError, TryLock};
use tokio::{
    runtime::Handle,
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    time::{Instant, sleep, timeout},
};

use crate::{
    blocking::Threads,
    folder::{self, Dir, Folder, Open, Result, failed, repeat_while},
};

/// How long a change waits for another one. A change takes milliseconds, unless its process is stuck.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a change waits for all earlier ones of this process.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a lock call that signals interrupt is retried.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(2);

/// A locked file.
pub(crate) struct Lock {
    file: File,
    name: String,
}

impl Lock {
    /// Tries once. `None` if it is held elsewhere.
    pub(crate) fn try_take(dir: &Dir, name: &str, holder: &str) -> Result<Option<Self>> {
        let path = dir.path_of(name);
        let Some(file) = dir.open(name, Open::Lock)? else {
            // The folder was just removed.
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
        // The name is informational: the lock is valid without it, for example on a full disk.
        let _ = lock.file.write_all(line(holder).as_bytes());
        Ok(Some(lock))
    }

    /// Whether the locked file is still the one with this name, and so excludes others.
    fn counts(&self, dir: &Dir) -> bool {
        let named = dir.metadata(&self.name);
        named.is_ok_and(|named| folder::are_same(&named, &self.file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child process that is being started may still have it open.
        let _ = self.file.unlock();
    }
}

/// Retries a lock call that a signal interrupts.
fn uninterrupted(lock: impl FnMut() -> Result<(), TryLockError>) -> Result<(), TryLockError> {
    let by_signal = |error: &TryLockError| match error {
        TryLockError::Error(error) => error.kind() == io::ErrorKind::Interrupted,
        TryLockError::WouldBlock => false,
    };
    repeat_while(by_signal, SIGNAL_TIMEOUT, lock)
}

/// The name in a lock file: that of its last holder.
fn holder(dir: &Dir, name: &str) -> Option<String> {
    let mut line = Vec::new();
    let file = dir.open(name, Open::Read).ok()??;
    file.take(LINE as u64).read_to_end(&mut line).ok()?;
    let name = crate::shown_name(String::from_utf8_lossy(&line).trim());
    (!name.is_empty()).then_some(name)
}

/// The length of the line in bytes. An owner's name has at most 100 characters of up to 4 bytes.
const LINE: usize = 402;

/// Padded to a fixed length, so that one write replaces the name of the previous holder.
fn line(holder: &str) -> String {
    let room = LINE.saturating_sub(holder.len() + 1);
    format!("{holder}{:room$}\n", "")
}

/// An exclusive permission to change one key.
pub(crate) struct Change {
    /// The folder of the lock file.
    pub(crate) dir: Dir,
    // Fields are dropped in this order, so that the next waiter of this process finds the file unlocked.
    _lock: Lock,
    _turn: OwnedMutexGuard<Progress>,
}

/// The last known modification time of a lock file, and when it was first seen. It changes with each holder.
type Progress = Option<(Option<Duration>, Instant)>;

/// The queue of this process for each lock file. Waiting uses no thread, so a stuck key does not block other keys.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<HashMap<String, Weak<AsyncMutex<Progress>>>>>);

impl Turns {
    /// Waits for the lock under which all processes change a key, and then runs `work` on the same blocking thread, without
    /// delay: if the process were killed in between, an unsaved token would be lost.
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
                    // Each new holder writes to the file.
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

/// Random, so that waiting processes don't wake at the same time.
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
    /// Tries once. `prepare` runs after the lock is acquired, and before that is reported.
    pub(crate) async fn try_lock(
        &self,
        threads: &Threads,
        folder: &Folder,
        name: String,
        key: &Key,
        owner: &Owner,
        prepare: impl Future<Output = Result<()>>,
    ) -> Result<TryLock> {
        // If the owner's earlier call was dropped, its lock may still be held for a moment: wait for that.
        let queue = self.turns.turn(&name);
        let turn = Arc::clone(&queue).lock_owned().await;
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
        // If this future was dropped, the result is too, in this order: first the lock, then the turn.
        let (tried, turn) = tried.await?;
        drop(turn);
        let mut lock = match tried {
            Ok(lock) => ReleasedElsewhere { lock, queue },
            Err(by) => return Ok(TryLock::Held { by }),
        };
        prepare.await?;
        if let Some(new) = lock.lock.take() {
            let mut locks = locked(&self.locks);
            let former = locks.insert(key.clone(), (owner.id().to_owned(), new));
            drop(locks);
            // One whose file was deleted.
            lock.lock = former.map(|(_, lock)| lock);
        }
        Ok(TryLock::Acquired(LockLifetime::ProcessBound))
    }

    fn holds(&self, key: &Key, owner: &Owner, dir: &Dir) -> bool {
        let locks = locked(&self.locks);
        let held = locks.get(key);
        held.is_some_and(|(id, lock)| id == owner.id() && lock.counts(dir))
    }

    pub(crate) fn unlock(&self, key: &Key, owner: &Owner) {
        let is_owners = |(id, _): &mut (String, Lock)| id == owner.id();
        let mut locks = locked(&self.locks);
        let held = match locks.entry(key.clone()) {
            Entry::Occupied(mut held) => is_owners(held.get_mut()).then(|| held.remove()),
            Entry::Vacant(_) => None,
        };
        // Its release may block on a network file system, and others need the map.
        drop(locks);
        drop(held);
    }
}

/// A lock that, if it is dropped, is released on a blocking thread: a network file system that hangs must not block a thread that
/// runs futures. Until then it keeps its turn in the queue, so that the owner's next call waits for the release.
struct ReleasedElsewhere {
    lock: Option<Lock>,
    queue: Arc<AsyncMutex<Progress>>,
}

impl Drop for ReleasedElsewhere {
    fn drop(&mut self) {
        let Some(lock) = self.lock.take() else { return };
        let turn = Arc::clone(&self.queue).try_lock_owned();
        let release = move || {
            drop(lock);
            drop(turn);
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(release)),
            Err(_) => release(),
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
    fn a_lock_call_that_a_signal_interrupts_is_retried() {
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
    fn the_line_of_a_holder_has_a_fixed_length() {
        for name in ["", "process 4711 on host", &"ü".repeat(100)] {
            assert_eq!(line(name).len(), LINE);
        }
    }

    #[tokio::test]
    async fn unused_turns_are_removed() {
        let turns = Turns::default();
        for n in 0..1000 {
            drop(turns.turn(&n.to_string()));
        }
        assert!(locked(&turns.0).len() < 10);
    }
}
