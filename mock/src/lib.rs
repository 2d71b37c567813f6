//! A faithful mock of Coze's OAuth server: contract-test a client without an account, a browser or a person.
//!
//! It keeps state as Coze does: codes, refresh tokens and JWTs work once, refresh tokens rotate, device codes wait for a
//! decision, signatures are verified. It is *strict*: every request is held against schemas generated from the OpenAPI
//! description of the endpoints, what they do not allow is refused as documented and recorded, and
//! [`assert_clean`](MockCoze::assert_clean) fails the test. And it can be steered: the person's part is one call, time moves
//! forward on demand, faults strike when they are told to.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use coze_mock::{Endpoint, Fault, MockCoze, Times};
//! use std::time::Duration;
//!
//! let mock = MockCoze::start().await?;
//! // Point the client under test at `mock.url()`: it is API base and WWW base in one. Then, for example:
//! mock.faults().add(Fault::too_many_requests(1), Endpoint::Token, Times::ONCE);
//! mock.clock().advance(Duration::from_secs(900));
//! // ... let the client do its work ...
//! mock.assert_clean();
//! # Ok(()) }
//! ```
//!
//! # Two ways in, one state
//!
//! Over a socket ([`MockCoze::start`], [`Builder::start`]) for any client; in process ([`MockCoze::service`], after
//! [`Builder::build`]) as a `tower::Service`, where a clock that [follows tokio's](MockClock::following_tokio) paused time makes
//! tests of time instant and exact.
//!
//! # Strict and lenient
//!
//! [`Builder::lenient`] tolerates the closed list of [`Tolerance`] and nothing else, for clients that are not yours to mend.
//! What it tolerates is recorded all the same ([`MockCoze::violations`]). What is allowed and could be better, such as a short
//! `jti`, is a [`Note`].
//!
//! # What is known of Coze, and what is not
//!
//! Paths, fields, error words and lifetimes are those of Coze's documentation. Where it is silent the mock follows the RFCs, and
//! says so: HTTP statuses are RFC 6749's (401 for `invalid_client`, 403 for `access_deny`, else 400); error bodies repeat the word,
//! with Coze's own texts where they are known ([`ErrorShape`]); a wrong authorize URL gets a page and never a redirect; codes live
//! 10 minutes; the clock of who signs a JWT may be 10 s off; the message about an unbound channel comes with `invalid_request`; API calls without permission get HTTP 403. Two things are options, both off:
//! [`Builder::reuse_revokes_family`] and [`Builder::refresh_revokes_access_token`].
//!
//! # Secrets
//!
//! Tokens, codes, verifiers and client secrets are listed by length and [`fingerprint`] only, JWTs by header and claims.
//!
//! # Features
//!
//! `program` (on by default) is the command-line program `coze-mock`, for tests in other languages. A Rust test does
//! without: `coze-mock = { version = "...", default-features = false }`.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod answer;
mod api;
mod app;
mod authorize;
mod builder;
mod clock;
mod contract;
mod control;
mod core;
pub mod defaults;
mod device;
mod endpoint;
mod error;
mod fault;
mod host;
mod jwt;
mod keys;
mod limits;
mod mock;
mod pages;
mod record;
mod script;
mod secret;
mod server;
mod service;
mod state;
mod token;

pub use answer::{ErrorShape, ErrorWord};
pub use api::{Bot, User, Workspace};
pub use app::{App, ClientType};
pub use builder::Builder;
pub use clock::MockClock;
pub use contract::Tolerance;
pub use endpoint::Endpoint;
pub use error::Error;
pub use fault::{Fault, FaultBody, Faults, PlannedFault, RetryAfter, Target, Times, When};
pub use mock::{Decision, MockCoze};
pub use record::{JwtRecord, Note, Outcome, RequestRecord, Violation};
pub use script::{Edit, EditedAnswer, ExpiryForm, Framing, Place, ScriptedAnswer, ScriptedBody};
pub use secret::fingerprint;
pub use service::{MockBody, MockService, ServiceError};
pub use state::{Flow, Generation, GrantedToken, SignIn};
