//! The mock as clients see it, one module per subject.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod answers;
mod api;
mod chats;
mod client;
mod contract;
mod control;
mod error_codes;
mod faults;
mod flows;
mod jwt;
mod layers;
mod limits;
mod load;
mod pages;
#[cfg(feature = "program")]
mod program;
mod sdks;
mod slow;
mod socket;
mod strangers;
mod streams;
