//! What must hold for whatever comes back from Coze, or from anything that stands in its place.
//!
//! | check | what comes back | what must hold |
//! |---|---|---|
//! | [`token_answer`] | the answer to a refresh | the refresh token that a success holds is stored, and nothing else is |
//! | [`device_answer`] | the answer to a device start | a login starts if it can, and its polls end with the code's life |
//! | [`error_body`] | an error, in all its shapes | code, message and log id are read, and nothing secret is shown |
//! | [`callback_url`] | the browser, from the authorize page | only the code beside the login's own state is redeemed |
//!
//! The checks go through the public API of `coze-auth`, over a transport in this process and a paused clock. What they
//! expect is computed by [`oracle`], which shares no code with the crate. Three callers use them: the fuzz targets, the
//! property tests, and the replay of the corpus in `cargo test`.

pub mod callback_url;
pub mod device_answer;
pub mod error_body;
pub mod oracle;
pub mod replay;
mod sign_in;
pub mod token_answer;
pub mod world;
