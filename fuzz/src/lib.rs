//! Invariants for arbitrary input: from Coze or another server, from files and variables, and from
//! clients of the mock.
//!
//! | check | input | invariant |
//! |---|---|---|
//! | [`token_answer`] | the response to a refresh | exactly the refresh token of a success is stored |
//! | [`device_answer`] | a device authorization response | a login starts if possible, and its polls end at the expiry |
//! | [`error_body`] | an error in any shape | code, message and log id are parsed, and no secret is shown |
//! | [`callback_url`] | a callback of the browser | only a code with the state of the login is redeemed |
//! | [`config`] | a `coze_oauth_config.json`, or variables | secrets are hidden; an error names a field, and no value |
//! | [`key_text`] | a private key | it is accepted in each form; a damaged one is not |
//! | [`store_record`] | the contents of a store | a sign-in, a sign-out and damage are distinguished, and a copy is kept |
//! | [`mock_requests`] | requests to the mock | each response matches the description |
//! | [`spec_text`] | a description in `spec/` | it is parsed, or an error names the position |
//!
//! The first four use the public API of `coze-auth`, with an in-process transport and a paused clock. The
//! expected results are computed by [`oracle`], which shares no code with the crate. The checks are used by the fuzz targets, the
//! property tests, and the replay of the corpus in `cargo test`.

pub mod callback_url;
pub mod config;
pub mod device_answer;
pub mod error_body;
pub mod key_text;
pub mod mock_requests;
pub mod oracle;
pub mod replay;
mod sign_in;
pub mod spec_text;
pub mod store_record;
pub mod token_answer;
pub mod world;
