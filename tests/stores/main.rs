//! The stores of sign-ins, against the real thing that each keeps them in.
//!
//! | module | store | on |
//! |---|---|---|
//! | [`keyring`] | `KeyringStore` | GNOME Keyring, in D-Bus sessions of the tests' own |
//! | [`redis`] | `RedisStore` | Redis servers of the tests' own |
//! | [`faults`] | `FileStore`, `RedisStore` | disks, locks, files and servers that fail, with the mock of Coze |
//! | [`durability`] | `FileStore` | the system calls of one save |
//!
//! What of that this machine lacks, [`left_out`] tells.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at the first surprise; helpers of tests do too, and processes talk by their standard output"
)]

mod durability;
#[cfg(target_os = "linux")]
mod faults;
#[cfg(target_os = "linux")]
mod keyring;
#[path = "../../auth/src/store/file/tests/left_out.rs"]
mod left_out;
mod redis;
