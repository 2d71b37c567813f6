//! The errors of a store.

use std::{fmt, sync::Arc};

use coze_wire::{sanitize, sanitize_to};

use super::{Error, ErrorKind, shown_cause};

/// A name that was read from a store, made presentable: without [invisible](coze_wire::is_invisible) characters, at
/// most 100 characters.
#[must_use]
pub(crate) fn presentable_name(name: &str) -> String {
    sanitize_to(name, &[], 99)
}

/// The kind of a [`StoreError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// Temporary: a timeout, a closed connection, a file that another program has open. It is retried.
    Transient,
    /// Another owner or program is using it. It is retried.
    Busy,
    /// No permission to read or write the store, or its permissions are too open, so it is not used.
    NotPermitted,
    /// The store is full.
    Full,
    /// The stored contents are invalid. They stay unchanged; a fresh sign-in moves them into quarantine.
    Damaged,
    /// Any other non-retryable error.
    Other,
}

/// An error of a [`Store`](crate::store::Store).
///
/// Its text and the text of its source are shown to users: both are [sanitized](coze_wire::sanitize). Neither may
/// contain a secret. A source that is not an error of this crate is wrapped in a
/// [`ForeignError`](coze_wire::ForeignError).
///
/// ```
/// use coze_auth::store::{StoreError, StoreErrorKind};
///
/// let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
/// let error = StoreError::new(StoreErrorKind::Full, "the database did not take the sign-in").with_source(full);
/// assert_eq!(error.kind(), StoreErrorKind::Full);
/// assert_eq!(error.to_string(), "the database did not take the sign-in");
/// ```
#[derive(Debug, Clone)]
pub struct StoreError {
    kind: StoreErrorKind,
    message: String,
    by: Option<String>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// Sources are boxed: an error or a text.
type Source = Box<dyn std::error::Error + Send + Sync>;

impl StoreError {
    /// An error of this kind, without a cause.
    pub fn new(kind: StoreErrorKind, message: &str) -> Self {
        Self {
            kind,
            message: sanitize(message, &[]),
            by: None,
            source: None,
        }
    }

    /// A [`Busy`](StoreErrorKind::Busy) error, with the [name](crate::store::Owner::name) of the other owner or
    /// program, if it is known.
    pub fn busy(message: &str, by: Option<&str>) -> Self {
        Self {
            by: by.map(presentable_name),
            ..Self::new(StoreErrorKind::Busy, message)
        }
    }

    /// Sets the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(shown_cause(source));
        self
    }

    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let what = match &error.by {
            Some(by) => format!("{error}: {by} is using it"),
            None => error.to_string(),
        };
        let failure = Self::new(ErrorKind::Store(error.kind), what);
        match error.source {
            Some(_) => failure.with_source(error),
            None => failure,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn std::error::Error + 'static))
    }
}
