//! One file per flow, each of the same shape: a flow value made from an [`OAuthClient`](crate::OAuthClient),
//! its verbs, and the value that ties the steps together.

pub(crate) mod app;
pub(crate) mod authorization_code;
pub(crate) mod device;
pub(crate) mod jwt;
pub(crate) mod pkce;
pub(crate) mod web;
