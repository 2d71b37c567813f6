//! Sign-ins in stores that fail, with the mock of Coze: [`faults`].
//!
//! What of that this machine lacks, [`left_out`] tells.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise; helpers of tests do too"
)]

#[cfg(target_os = "linux")]
mod faults;
#[path = "../../stores/tests/support/left_out.rs"]
mod left_out;
#[allow(dead_code, reason = "the tests of the Redis store use the rest")]
#[path = "../../stores/tests/redis/server.rs"]
mod server;
