//! An answer that is a success or an error, and what stands in its place when there is none.

use std::fmt;

use crate::sanitize;

/// An answer whose type holds both what was asked for and the errors that come with the same HTTP
/// status: Coze answers errors with status 200 too.
///
/// Generated clients implement it for the answer of each operation, so that code over all operations
/// need not know any of them.
pub trait Answer {
    /// What was asked for.
    type Success: serde::de::DeserializeOwned;

    /// What was asked for; `None` when the answer is an error.
    fn into_success(self) -> Option<Self::Success>;
}

/// There is no typed answer: the request could not be built, or the [`Exchange`](crate::Exchange) tells what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAnswer(Option<String>);

impl NoAnswer {
    /// The request could not be built, and this is why: it names a parameter, and holds no value.
    #[must_use]
    pub fn unbuilt(why: impl Into<String>) -> Self {
        Self(Some(sanitize(&why.into(), &[])))
    }

    /// The exchange knows.
    #[must_use]
    pub fn look_at_the_exchange() -> Self {
        Self(None)
    }

    /// Why the request could not be built, if that is it.
    #[must_use]
    pub fn why_unbuilt(self) -> Option<String> {
        self.0
    }
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(why) => write!(f, "the request could not be built: {why}"),
            None => f.write_str("there is no typed answer: see the exchange"),
        }
    }
}

impl std::error::Error for NoAnswer {}
