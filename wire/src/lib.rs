//! What every generated Coze client shares, written once.
//!
//! | item | what it is |
//! |---|---|
//! | [`Secret`] | a string that `Debug` never prints and that is wiped when dropped |
//! | [`Bearer`] | a ready `Authorization: Bearer …` value, marked sensitive |
//! | [`Exchange`] | one request and what came back: puts the bearer in, keeps status, log id, `Date` and body |
//! | [`Answer`], [`NoAnswer`] | what a generated client returns: what was asked for or an error; or neither |
//! | [`sanitize`], [`ForeignError`] | the one door for text from outside: without secrets, control and invisible characters |
//! | [`refuses_token`] | which error codes of the API refuse the access token itself |
//! | [`operation`] | one call of an operation: what generated builders make, and a client above sends |
//! | [`Transport`] | how the request leaves: a [`reqwest::Client`], or a service in the same process |
//! | [`http_client`], [`http_client_from`] | an HTTP client that follows no redirect, repeats no request, and shows no secret to a proxy |
//!
//! Most people want `coze-auth`, which is built on this. Use this crate directly with a generated
//! typed client such as `coze-oauth-client`.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod answer;
mod bearer;
mod exchange;
mod http_client;
pub mod operation;
mod refusal;
mod sanitize;
mod secret;
mod transport;

pub use answer::{Answer, NoAnswer};
pub use bearer::{Bearer, InvalidBearer};
pub use exchange::{BODY_LIMIT, BodyState, Captured, Exchange, LOG_ID_HEADER, Outcome};
pub use http_client::{HttpClientError, http_client, http_client_from, is_loopback};
pub use operation::{
    Call, CallOptions, ChatEvents, Data, Dispatcher, Empty, Events, Operation, OperationInfo, Page,
    Paged, Position, Retry, Unbuilt, Whole,
};
pub use refusal::{ACCESS_TOKEN_INVALID, AUTHENTICATION_INVALID, NO_PERMISSION, refuses_token};
pub use reqwest;
pub use sanitize::{
    ForeignError, SHOWN_TEXT_LIMIT, is_invisible, sanitize, sanitize_log_id, sanitize_sentence,
    sanitize_to,
};
pub use secret::Secret;
pub use transport::{
    CONNECT_TIMEOUT, REQUEST_TIMEOUT, SendError, SendErrorKind, SendFuture, Transport,
};
