//! Types that all generated Coze clients share.
//!
//! | item | what it is |
//! |---|---|
//! | [`Secret`] | a string that `Debug` does not print and that is wiped on drop |
//! | [`Bearer`] | an `Authorization: Bearer …` header value, marked sensitive |
//! | [`Exchange`] | one request and its response: adds the bearer, keeps status, log id, `Date` and body |
//! | [`Answer`], [`NoAnswer`] | what a generated client returns: a typed response (success or error), or none |
//! | [`sanitize`], [`ForeignError`] | untrusted text made safe to display: no secrets, control or invisible characters |
//! | [`refuses_token`] | whether an API error code refuses the access token itself |
//! | [`operation`] | one call of an operation: what generated builders create, and a client above sends |
//! | [`RequestParts`], [`open_enum!`] | what generated builders and types are made of |
//! | [`null_is_default`], [`EnvelopeData`] | responses that leave out a list |
//! | [`Transport`] | sends a request: through a [`reqwest::Client`], or to a service in the same process |
//! | [`http_client`], [`http_client_from`] | an HTTP client that follows no redirects, does not retry, and shows no secret to a proxy |
//!
//! Most programs use `coze-auth`, which is built on this crate. Use this crate directly with a generated
//! typed client such as `coze-oauth-client`.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod absent;
mod answer;
mod bearer;
mod error_codes;
mod exchange;
mod http_client;
mod open_enum;
pub mod operation;
mod request;
mod sanitize;
mod secret;
mod transport;

pub use absent::{EnvelopeData, null_is_default};
pub use answer::{Answer, NoAnswer};
pub use bearer::{Bearer, InvalidBearer};
pub use error_codes::{
    ACCESS_TOKEN_INVALID, AUTHENTICATION_INVALID, NO_PERMISSION, RATE_LIMIT, refuses_token,
};
pub use exchange::{BODY_LIMIT, BodyState, Captured, Exchange, LOG_ID_HEADER, Outcome};
pub use http_client::{HttpClientError, http_client, http_client_from, is_loopback};
pub use operation::{
    Call, CallOptions, Data, Dispatcher, Empty, EventNames, Events, Operation, OperationInfo, Page,
    Paged, Position, Raw, Retry, StreamEvent, Unbuilt, Whole,
};
pub use request::{RequestParts, required};
pub use reqwest;
pub use sanitize::{
    ForeignError, SHOWN_TEXT_LIMIT, is_invisible, sanitize, sanitize_log_id, sanitize_sentence,
    sanitize_to,
};
pub use secret::Secret;
#[doc(hidden)]
pub use serde;
pub use transport::{
    CONNECT_TIMEOUT, REQUEST_TIMEOUT, SendError, SendErrorKind, SendFuture, Transport,
};
