//! A herd: many callers who all want a token at the same moment.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::Result;

/// What became of a herd.
#[derive(Debug, Clone, Copy)]
pub struct Herd {
    /// From the start of the first caller to the end of the last one.
    pub last_served: Duration,
    pub errors: usize,
}

/// Starts so many callers, each a task of its own, and waits for all of them.
///
/// # Errors
///
/// When a caller panicked.
pub async fn herd<C, F, T, E>(callers: usize, caller: C) -> Result<Herd>
where
    C: Fn() -> F,
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    let began = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let asking = caller();
            tokio::spawn(async move {
                let failed = asking.await.is_err();
                (Instant::now(), failed)
            })
        })
        .collect();
    let mut herd = Herd {
        last_served: Duration::ZERO,
        errors: 0,
    };
    for task in tasks {
        let (ended, failed) = task.await?;
        herd.last_served = herd.last_served.max(ended.duration_since(began));
        herd.errors += usize::from(failed);
    }
    Ok(herd)
}
