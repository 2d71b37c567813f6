//! The program `coze`, run as a user would, against the mock or a server of the test.

mod api;
mod chat;
mod jwt;
mod manners;
mod mock;
mod support;
