//! An answer that is a success or an error.

/// An answer whose type holds both what was asked for and the errors that come with the same HTTP
/// status: Coze answers errors with status 200 too.
///
/// Generated clients implement it for the answer of each operation, so that code over all operations
/// need not know any of them.
pub trait Answer {
    /// What was asked for.
    type Success;

    /// What was asked for; `None` when the answer is an error.
    fn into_success(self) -> Option<Self::Success>;
}
