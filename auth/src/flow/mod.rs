//! The OAuth flows, one file for each. Every flow is built on an [`OAuthClient`](crate::OAuthClient).
//!
//! | what | file |
//! |---|---|
//! | the authorize URL, PKCE, and the comparison of `state` in the callback | `authorization_code.rs`, `web.rs`, `pkce.rs` |
//! | device polling: interval, `slow_down`, backoff | `device.rs` |
//! | the JWT flow, and what a token is requested for | `jwt/mod.rs` |
//! | the JWT itself: `jti`, `iat`, `exp`, and its lifetime | `jwt/claims.rs` |
//! | the private key and its encodings | `jwt/key.rs`, `jwt/key_forms.rs` |
//!
//! The fields of a token response are read in `answer.rs`.

pub(crate) mod app;
pub(crate) mod authorization_code;
pub(crate) mod device;
pub(crate) mod jwt;
pub(crate) mod pkce;
pub(crate) mod web;
