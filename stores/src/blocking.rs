//! How a store does what blocks: on threads of the caller's runtime, and not on all of them.

use std::sync::Arc;

use coze_auth::store::{StoreError, StoreErrorKind};
use tokio::{runtime::Handle, sync::Semaphore};

use crate::folder::Result;

/// How many threads work at the same time: a file system that hangs must not take all that tokio has.
const LIMIT: usize = 16;

#[derive(Clone)]
pub(crate) struct Threads(Arc<Semaphore>);

impl Default for Threads {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LIMIT)))
    }
}

impl Threads {
    /// Runs it where it blocks no other task. Once begun, it is finished even if nobody waits for it any more.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> impl Future<Output = Result<T>> + Send + 'static {
        let threads = Arc::clone(&self.0);
        async move {
            let runtime = Handle::try_current()
                .map_err(|error| StoreError::other("the store needs tokio's runtime", error))?;
            // It is never closed.
            let permit = threads.acquire_owned().await.ok();
            let done = runtime.spawn_blocking(move || {
                let _permit = permit;
                work()
            });
            done.await.map_err(|error| {
                let what = "tokio's runtime was shut down";
                StoreError::new(StoreErrorKind::Transient, what).with_source(error)
            })?
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
        time::Duration,
    };

    use super::*;

    #[tokio::test]
    async fn not_all_threads_of_the_runtime_wait_for_a_file_system() {
        let threads = Threads::default();
        let hanging = threads.0.acquire_many(LIMIT as u32).await.unwrap();
        let work = tokio::time::timeout(Duration::from_millis(20), threads.run(|| Ok(())));
        assert!(work.await.is_err());
        drop(hanging);
        threads.run(|| Ok(())).await.unwrap();
    }

    #[test]
    fn without_a_runtime_it_is_an_error() {
        let threads = Threads::default();
        let mut work = pin!(threads.run(|| Ok(())));
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Err(error)) => assert!(error.message().contains("runtime"), "{error}"),
            other => panic!("{other:?}"),
        }
    }
}
