//! The lock of a profile: one program at a time changes its sign-in and its configuration.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    path::Path,
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// How long to wait for another program.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// The operating system's lock on a file, which is never deleted. It ends when this is dropped, or with the process.
pub(crate) struct ProfileLock(File);

impl ProfileLock {
    /// Waits for the lock; [`WouldBlock`](io::ErrorKind::WouldBlock) if another program does not release it in time.
    pub(crate) async fn take(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path)?;
        let until = Instant::now() + TIMEOUT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::Error(error)) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(error);
                }
                Err(_) if Instant::now() >= until => return Err(io::ErrorKind::WouldBlock.into()),
                Err(_) => sleep(PAUSE).await,
            }
        }
    }
}

impl Drop for ProfileLock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child process that is being started may still have it open.
        let _ = self.0.unlock();
    }
}
