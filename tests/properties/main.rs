//! Invariants for any response, checked with generated responses and with the corpus of the fuzz targets.
//!
//! | module | question |
//! |---|---|
//! | [`answers`] | Do they hold for deviating token responses, device responses and errors, with any status? |
//! | [`callbacks`] | Is a code redeemed only with the state of its login? |
//! | [`rules`] | Does each rule give its documented result? |
//! | [`corpus`] | Do they hold for the corpus of the fuzz targets? |
//!
//! The assertions are in `fuzz/src`, so that fuzz targets and tests share them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests and their helpers panic on failure"
)]

#[allow(unreachable_pub, reason = "it is a library in the fuzz workspace")]
#[path = "../../fuzz/src/lib.rs"]
mod checks;

mod answers;
mod bodies;
mod callbacks;
mod corpus;
mod rules;
