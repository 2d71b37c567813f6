//! The program `coze`, run as a user would, against the mock or a server of the test.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test they are the report of a failure"
)]

mod api;
mod chat;
mod doctor;
mod jwt;
mod login;
mod manners;
mod mock;
mod sign_ins;
mod support;
#[cfg(unix)]
mod terminal;
mod token;
