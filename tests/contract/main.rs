//! The contract of the toolkit with Coze and with its users, tested over real HTTP and over an in-process
//! service.
//!
//! | module | question |
//! |---|---|
//! | [`requests`] | What is sent for each flow and variant? One snapshot each. |
//! | [`golden`] | Where does that differ from the official SDKs, and why? |
//! | [`spec_coverage`] | Does the spec cover every request, and the requests every part of the spec? |
//! | [`answers`] | How is each response interpreted, valid, erroneous or broken? |
//! | [`connection`] | Does an error name the cause of a failed connection? |
//! | [`secrets`] | Does any secret leak into output, errors or logs? |
//! | `memory` | Does a private key remain in freed memory? |
//! | [`device`] | When is a device code polled, and when does it stop? |
//! | [`jwt`] | Does each JWT verify, and is each unique? |
//! | [`time`] | How long is a token valid if clocks are wrong? |
//! | [`documentation`] | Does the documentation match the code? |
//!
//! Everything stays on the loopback interface, on ports that the system chooses.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests and their helpers panic on failure"
)]

mod answers;
mod connection;
mod device;
mod documentation;
mod golden;
mod jwt;
#[cfg(target_os = "linux")]
mod memory;
mod requests;
mod secrets;
mod spec_coverage;
mod support;
mod time;
