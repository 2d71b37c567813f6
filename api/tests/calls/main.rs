//! Calls from recorded bytes, over an in-process transport and by a paused clock: streams, retries, pages.

mod chats;
mod operations;
mod pages;
mod retries;
mod streams;
mod support;
