//! Where a service gets its token from, on every request.

mod fixed;

pub use fixed::FixedToken;
pub(crate) use fixed::TOKEN_VARIABLE;
