//! Tests of calls with recorded bytes, an in-process transport and a paused clock: streams, retries, pages.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod chats;
#[cfg(feature = "credentials")]
mod credentials;
mod operations;
mod pages;
mod raw;
mod retries;
mod streams;
mod support;
