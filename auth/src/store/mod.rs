//! Where sign-ins are kept.

pub mod contract;

pub use contract::*;
