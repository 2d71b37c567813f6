//! The program `coze`, run as a user would, against the mock or a server of the test.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test they are the report of a failure"
)]

mod api;
#[cfg(target_os = "linux")]
mod browser;
mod chat;
mod doctor;
mod jwt;
#[cfg(target_os = "linux")]
#[path = "../../../stores/tests/support/left_out.rs"]
mod left_out;
mod login;
mod manners;
mod mock;
mod sign_ins;
mod support;
#[cfg(unix)]
mod terminal;
mod token;
