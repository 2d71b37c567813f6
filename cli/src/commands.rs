//! One module for each command.

pub(crate) mod api;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod jwt;
pub(crate) mod mock;
