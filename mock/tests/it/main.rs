//! What clients see of the mock: one module per story.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "the client of the tests fails as tests do"
)]

mod answers;
mod api;
mod client;
mod contract;
mod control;
mod error_words;
mod faults;
mod flows;
mod jwt;
mod limits;
mod load;
mod pages;
#[cfg(feature = "program")]
mod program;
mod slow;
mod socket;
mod strangers;
