//! The program `coze`, run as a user would, against the mock or a server of the test.

mod api;
mod chat;
mod doctor;
mod jwt;
mod login;
mod manners;
mod mock;
mod sign_ins;
mod support;
#[cfg(unix)]
mod terminal;
mod token;
