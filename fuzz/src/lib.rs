//! What must hold for whatever comes in: from Coze, or from anything that stands in its place; from files and variables; from
//! clients of the mock.
//!
//! | check | what comes in | what must hold |
//! |---|---|---|
//! | [`token_answer`] | the answer to a refresh | the refresh token that a success holds is stored, and nothing else is |
//! | [`device_answer`] | the answer to a device start | a login starts if it can, and its polls end with the code's life |
//! | [`error_body`] | an error, in all its shapes | code, message and log id are read, and nothing secret is shown |
//! | [`callback_url`] | the browser, from the authorize page | only the code beside the login's own state is redeemed |
//! | [`config`] | a `coze_oauth_config.json`, or variables | what is accepted hides its secrets; an error names a field, and no value |
//! | [`key_text`] | a private key | it is read in each form; no damaged one is |
//! | [`store_record`] | what a store holds | a sign-in, a sign-out and damage are told apart, and a copy of each is kept |
//! | [`mock_requests`] | requests to the mock | each is answered as described |
//! | [`spec_text`] | a description in `spec/` | it is read, or an error says where it can't be |
//!
//! The first four go through the public API of `coze-auth`, over a transport in this process and a paused clock. What they
//! expect is computed by [`oracle`], which shares no code with the crate. Three callers use them: the fuzz targets, the
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
