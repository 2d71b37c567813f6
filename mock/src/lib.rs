//! A mock of Coze's OAuth server and API: contract-test a client without an account, a browser or a user.
//!
//! It keeps state as Coze does: codes, refresh tokens and JWTs are single-use, refresh tokens rotate, device codes wait for a
//! decision, signatures are verified. It is *strict*: every request is validated by schemas generated from the OpenAPI
//! description of the endpoints, a violation is refused as documented and recorded, and
//! [`assert_clean`](MockCoze::assert_clean) fails the test. Tests control it: the user's decision is one call, the clock
//! advances on demand, and faults can be injected.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use coze_mock::{Endpoint, Fault, MockCoze, Times};
//! use std::time::Duration;
//!
//! let mock = MockCoze::start().await?;
//! // Point the client under test to `mock.url()`, which is both the API base and the WWW base. Then, for example:
//! mock.faults().add(Fault::too_many_requests(1), Endpoint::Token, Times::ONCE);
//! mock.clock().advance(Duration::from_secs(900));
//! // ... let the client do its work ...
//! mock.assert_clean();
//! # Ok(()) }
//! ```
//!
//! # Chats
//!
//! The operations of chats, messages and conversations have state: what is created can be retrieved, listed page by page,
//! changed and deleted, until [`MockCoze::reset`]. The bots ([`defaults::BOT_ID`]) echo the question; [`ScriptedReply`] lets them
//! say something else, call tools, fail, or never end. A chat that is not streamed is completed by the second time that it is
//! retrieved, or after 2 seconds of the mock's clock. [`ScriptedStream`] decides how an event stream is sent: cut, reset,
//! slow, in pieces, with comments, with an error, not at all, or as bytes of your own.
//!
//! A request with the ids of the OpenAPI description's examples is answered by the description's example.
//!
//! # Over a socket or in process
//!
//! Use a socket ([`MockCoze::start`], [`Builder::start`]) for any client. Use [`MockCoze::service`], after
//! [`Builder::build`], as an in-process `tower::Service`: with a clock that [follows tokio's](MockClock::following_tokio) paused
//! time, tests of time are instant and exact. Both share one state.
//!
//! # Strict and lenient
//!
//! [`Builder::lenient`] accepts the deviations listed in [`Tolerance`] and no others, for clients that you cannot change.
//! They are still recorded ([`MockCoze::violations`]). A request that is valid but not recommended, such as one with a short
//! `jti`, produces a [`Note`].
//!
//! # What is known of Coze, and what is not
//!
//! Paths, fields, error codes and lifetimes are those of Coze's documentation. Where it is silent the mock follows the RFCs:
//! HTTP statuses are RFC 6749's (401 for `invalid_client`, 403 for `access_deny`, else 400); error bodies repeat the error code,
//! with Coze's messages where they are known ([`ErrorShape`]); an invalid authorize URL is answered by a page, never by a redirect; codes live
//! 10 minutes; JWTs have 10 s of leeway; the message about an unbound channel comes with `invalid_request`; API calls without permission, or
//! with an unknown id, get HTTP 403. As Coze does, `POST /v3/chat` answers a bad token with HTTP 200 and code 4101, and looks the bot up first (code 4200). Two behaviours are options, both off by default:
//! [`Builder::reuse_revokes_family`] and [`Builder::refresh_revokes_access_token`].
//!
//! # Secrets
//!
//! Records show tokens, codes, verifiers and client secrets only by length and [`fingerprint`], and JWTs by header and claims.
//!
//! # Features
//!
//! `program` (on by default) is the command-line program `coze-mock`, for tests in other languages. A Rust test does not
//! need it: `coze-mock = { version = "...", default-features = false }`.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

// The layers of these modules, and that each uses only lower ones, are in `tests/it/layers.rs`.
mod answer;
mod api;
mod app;
mod assertion;
mod authorize;
mod body;
mod builder;
mod chats;
mod clock;
mod context;
mod contract;
mod control;
mod core;
pub mod defaults;
mod device;
mod dispatch;
mod endpoint;
mod envelope;
mod error;
mod fault;
mod host;
mod issue;
mod jwt;
mod keys;
mod limits;
mod mock;
mod options;
mod pages;
mod printable;
mod record;
mod recording;
mod request;
mod resources;
mod routing;
mod scripted_response;
mod secret;
mod server;
mod service;
mod state;
mod stream;
mod token;
mod visit;

pub use answer::{ErrorShape, OAuthErrorCode};
pub use app::{App, ClientType};
pub use authorize::Decision;
pub use body::{MockBody, ServiceError};
pub use builder::Builder;
pub use clock::MockClock;
pub use endpoint::Endpoint;
pub use error::Error;
pub use fault::{Fault, FaultBody, Faults, PlannedFault, RetryAfter, Target, Times};
pub use jwt::JwtRecord;
pub use mock::MockCoze;
pub use record::{Note, Outcome, RequestRecord, Tolerance, Violation};
pub use resources::{Bot, User, Workspace};
pub use scripted_response::{
    Edit, EditedResponse, ExpiryForm, Framing, Place, ScriptedBody, ScriptedResponse, When,
};
pub use secret::fingerprint;
pub use service::MockService;
pub use state::{Generation, Grant, GrantedToken, TokenFamily};
pub use stream::{ScriptedReply, ScriptedStream};
