//! One module for each command.

pub(crate) mod api;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod jwt;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod mock;
pub(crate) mod profiles;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod whoami;
