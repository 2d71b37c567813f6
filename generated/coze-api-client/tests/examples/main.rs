//! Every example of the description is read as its type and written again with nothing lost.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests panic on failure")]

#[rustfmt::skip]
mod generated;
