//! The contract of the toolkit with Coze and with its users, held over real HTTP and over a service in
//! this process.
//!
//! | module | question |
//! |---|---|
//! | [`requests`] | What leaves for each flow and variant? One snapshot each. |
//! | [`golden`] | Where does that differ from what the official SDKs send, and why? |
//! | [`spec_coverage`] | Is everything that is sent in the spec, and everything in the spec sent? |
//! | [`answers`] | What becomes of each answer, good, bad and broken? |
//! | [`connection`] | Does an error say why no answer came? |
//! | [`secrets`] | Does any secret show anywhere, whatever happens? |
//! | `memory` | What stays of a private key in freed memory? |
//! | [`device`] | When is a device code polled, and when does it stop? |
//! | [`jwt`] | Does what is signed verify, and is each JWT new? |
//! | [`time`] | How long does a token live when clocks are wrong? |
//! | [`documentation`] | Is what the documentation says of the code true? |
//!
//! Everything stays on the loopback interface, on ports that the system chooses.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise; helpers of tests do too"
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
