//! The time that one refresh has.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, timeout};

use crate::{Error, ErrorKind, Result, provider::retry::LONGEST_DEADLINE};

/// A save that fails is tried for this long before the token is handed out unsaved.
pub(super) const LONGEST_SAVE: Duration = Duration::from_secs(10);
/// For a look into the store when time is up.
pub(super) const LAST_LOOK: Duration = Duration::from_secs(2);

/// The time that one refresh has. The lease is held for all of it, so that nothing begins that could outlive it.
pub(super) struct Budget {
    /// No look and no attempt begins after it.
    pub(super) deadline: Instant,
    /// What the last attempt may take beyond it.
    pub(super) request: Duration,
}

impl Budget {
    pub(super) fn until(deadline: Instant, request: Duration) -> Self {
        Self {
            deadline,
            request: request.min(LONGEST_DEADLINE),
        }
    }

    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    pub(super) fn is_spent(&self) -> bool {
        self.left().is_zero()
    }

    pub(super) fn at_most(&self, wait: Duration) -> Duration {
        wait.min(self.left())
    }

    pub(super) fn hold(&self) -> Duration {
        self.left() + self.request + LONGEST_SAVE
    }

    /// What the store may take: one that hangs must not hold up a caller for ever. Even when time is up there
    /// is some for a last look, because `invalid_grant` is not believed without it.
    pub(super) fn for_the_store(&self) -> Duration {
        self.left().max(LAST_LOOK)
    }

    pub(super) async fn bound<T>(&self, asked: impl Future<Output = Result<T>>) -> Result<T> {
        timeout(self.for_the_store(), asked)
            .await
            .unwrap_or_else(|_| Err(no_answer()))
    }
}

pub(super) fn no_answer() -> Error {
    Error::new(
        ErrorKind::Store,
        "the store of sign-ins did not answer before the deadline",
    )
}
