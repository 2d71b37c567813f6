//! The errors of a store.

use std::{fmt, sync::Arc};

use coze_wire::{sanitize, sanitize_to};

use super::shown_cause;

/// What is shown of a name that was read from a store: no [invisible](coze_wire::is_invisible) characters, at most 100 characters.
#[must_use]
pub(crate) fn presentable_name(name: &str) -> String {
    sanitize_to(name, &[], 99)
}

/// What kind of thing went wrong in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// It may pass: a time-out, a broken connection, a file that another program has open. It is retried.
    Transient,
    /// Another owner or program keeps it busy. It is retried.
    Busy,
    /// The store may not be read or written, or others than its owner could read it.
    NotPermitted,
    /// There is no room.
    Full,
    /// What is stored can't be understood. It stays where it is; a fresh sign-in moves it into quarantine.
    Damaged,
    /// Anything else that waiting does not change.
    Other,
}

/// Why a store did not do what it was asked to.
///
/// Its text is shown to people, and so is that of its source: both are [sanitized](coze_wire::sanitize). Neither may hold a secret. Unless
/// the source is an error of this crate, it is kept inside a [`ForeignError`](coze_wire::ForeignError).
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

/// Causes are boxed: an error type, or a text.
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

    /// Another keeps it busy: the [name](crate::store::Owner::name) of the owner, or of the program, if it is known.
    pub fn busy(message: &str, by: Option<&str>) -> Self {
        Self {
            by: by.map(presentable_name),
            ..Self::new(StoreErrorKind::Busy, message)
        }
    }

    /// The same with a cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(shown_cause(source));
        self
    }

    /// What kind of thing went wrong.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Who keeps it busy, if it is known.
    pub(crate) fn by(&self) -> Option<&str> {
        self.by.as_deref()
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
