//! What must hold for whatever comes back, held over generated answers and over the corpus of the fuzz targets.
//!
//! | module | question |
//! |---|---|
//! | [`answers`] | Does it hold for token answers, device answers and errors one step off, at any status? |
//! | [`callbacks`] | Is only the code beside the login's own state redeemed? |
//! | [`rules`] | Does each rule give what is written there? |
//! | [`corpus`] | Does it hold for all that fuzzing has found worth keeping? |
//!
//! What is asserted stands in `fuzz/src`, so that fuzz targets and tests assert the same.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise; helpers of tests do too"
)]

#[allow(unreachable_pub, reason = "a library elsewhere")]
#[path = "../../fuzz/src/lib.rs"]
mod checks;

mod answers;
mod bodies;
mod callbacks;
mod corpus;
mod rules;
