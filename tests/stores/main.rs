//! The stores of sign-ins, against the real thing that each keeps them in.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise; helpers of tests do too"
)]

mod durability;
mod redis;
