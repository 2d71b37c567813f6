//! Runs blocking work on the blocking threads of the caller's runtime, on a limited number of them.

use std::sync::Arc;

use coze_auth::store::{StoreError, StoreErrorKind};
use tokio::{runtime::Handle, sync::Semaphore};

use crate::folder::Result;

/// How many threads a store uses concurrently. A file system that hangs must not use up all of tokio's blocking threads.
const LIMIT: usize = 16;

#[derive(Clone)]
pub(crate) struct Threads(Arc<Semaphore>);

impl Default for Threads {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LIMIT)))
    }
}

impl Threads {
    /// Runs blocking work. Once it has begun, it completes even if the future is dropped.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> impl Future<Output = Result<T>> + Send + 'static {
        let threads = Arc::clone(&self.0);
        async move {
            // The semaphore is never closed.
            let permit = threads.acquire_owned().await.ok();
            run_at_once(move || {
                let _permit = permit;
                work()
            })
            .await
        }
    }
}

/// Runs short blocking work without waiting for a thread of a store: it begins with the first poll, and then completes even if the
/// future is dropped.
pub(crate) async fn run_at_once<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let runtime = Handle::try_current().map_err(|error| {
        StoreError::new(StoreErrorKind::Other, "the store needs tokio's runtime").with_source(error)
    })?;
    runtime.spawn_blocking(work).await.map_err(|error| {
        let what = "tokio's runtime was shut down";
        StoreError::new(StoreErrorKind::Transient, what).with_source(error)
    })?
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
    async fn the_number_of_blocked_threads_is_limited() {
        let threads = Threads::default();
        let hanging = threads.0.acquire_many(LIMIT as u32).await.unwrap();
        let work = tokio::time::timeout(Duration::from_millis(20), threads.run(|| Ok(())));
        assert!(work.await.is_err());
        drop(hanging);
        threads.run(|| Ok(())).await.unwrap();
    }

    #[test]
    fn a_call_outside_a_runtime_is_an_error() {
        let threads = Threads::default();
        let mut work = pin!(threads.run(|| Ok(())));
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Err(error)) => assert!(error.to_string().contains("runtime"), "{error}"),
            other => panic!("{other:?}"),
        }
    }
}
