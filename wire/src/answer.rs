//! The typed response of an operation, and the error for when there is none.

use std::fmt;

use crate::sanitize;

/// The typed response of an operation: a success or an error. Both may have the same HTTP status, because Coze also
/// returns errors with status 200.
///
/// Generated clients implement it for each operation's response type, so that code can be generic over all operations.
pub trait Answer {
    /// The type of a successful response.
    type Success: serde::de::DeserializeOwned;

    /// The success; `None` if the response is an error.
    fn into_success(self) -> Option<Self::Success>;
}

/// There is no typed response: the request could not be built, or it failed, and the [`Exchange`](crate::Exchange) holds
/// the outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAnswer(Option<String>);

impl NoAnswer {
    /// The request could not be built. The reason names the parameter, and contains no value.
    #[must_use]
    pub fn unbuilt(why: impl Into<String>) -> Self {
        Self(Some(sanitize(&why.into(), &[])))
    }

    /// The request failed: see [`Exchange::outcome`](crate::Exchange::outcome).
    #[must_use]
    pub fn look_at_the_exchange() -> Self {
        Self(None)
    }

    /// Why the request could not be built; `None` if it was sent.
    #[must_use]
    pub fn why_unbuilt(self) -> Option<String> {
        self.0
    }
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(why) => write!(f, "the request could not be built: {why}"),
            None => f.write_str("there is no typed response: see the outcome of the exchange"),
        }
    }
}

impl std::error::Error for NoAnswer {}
