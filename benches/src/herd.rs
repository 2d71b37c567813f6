//! A thundering herd: many callers that request a token at the same time.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::task::JoinHandle;

/// The result of a herd.
#[derive(Debug, Clone, Copy)]
pub struct Herd {
    /// The time from the start of the first caller to the end of the last one.
    pub last_served: Duration,
    pub errors: usize,
}

/// Starts this many callers, one task each, and waits for all of them. Dropping the future cancels them.
///
/// # Errors
///
/// If a caller panicked.
pub async fn herd<C, F, T, E>(callers: usize, caller: C) -> Result<Herd>
where
    C: Fn() -> F,
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    let began = Instant::now();
    let tasks = (0..callers)
        .map(|_| {
            let asking = caller();
            tokio::spawn(async move {
                let failed = asking.await.is_err();
                (Instant::now(), failed)
            })
        })
        .collect();
    let mut tasks = Tasks(tasks);
    let mut herd = Herd {
        last_served: Duration::ZERO,
        errors: 0,
    };
    for task in &mut tasks.0 {
        let (ended, failed) = task.await?;
        herd.last_served = herd.last_served.max(ended.duration_since(began));
        herd.errors += usize::from(failed);
    }
    Ok(herd)
}

/// Tasks that are cancelled on drop.
struct Tasks<T>(Vec<JoinHandle<T>>);

impl<T> Drop for Tasks<T> {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}
