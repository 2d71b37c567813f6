//! Credentials for the [Coze](https://www.coze.com) API (扣子), from wherever this machine has them, and sign-in by a browser.
//!
//! [`DefaultCredentials`] gives a token provider in one call:
//!
//! ```no_run
//! # async fn example() -> coze_auth::Result<()> {
//! use coze_auth::TokenProvider;
//! use coze_credentials::DefaultCredentials;
//!
//! let credentials = DefaultCredentials::find().await?;
//! println!("found in {}", credentials.source());
//! let token = credentials.token().await?;
//! # Ok(()) }
//! ```
//!
//! It takes the first that is there:
//!
//! 1. what the program passes: a [provider](CredentialsBuilder::provider) or the name of a [profile](CredentialsBuilder::profile);
//! 2. the environment variables of the official SDKs: `COZE_API_TOKEN`; if that is not set, those of one flow, as in
//!    [`OAuthConfig::from_env`](coze_auth::OAuthConfig::from_env);
//! 3. the file that `COZE_OAUTH_CONFIG` names, or else `coze_oauth_config.json` in the working folder;
//! 4. the sign-in of the profile that `COZE_PROFILE` names, or else of the profile `default`, as `coze login` keeps it.
//!
//! A place that is there but can't be used is an error that names it; the next one is not tried. That includes flows of which none is
//! complete, several complete flows, a file that is not valid, and a sign-in that has ended.
//!
//! An app of the web, PKCE or device flow (2 and 3) needs a user's sign-in. It uses the sign-in of the profile, but only if the profile
//! is of this app at this endpoint: a file in the working folder can't send the refresh token elsewhere.
//!
//! [`Profiles`] is what the program `coze` keeps between its runs, for a sign-in program of your own. Such a program should not follow a
//! configuration file to any endpoint, if nobody has [named](CredentialsBuilder::named_configuration_file) the file: it could be another
//! person's, and would get the sign-in.
//!
//! # Features
//!
//! - `keyring`: profiles may keep their sign-ins in the operating system's keyring;
//! - `loopback`: [`LoopbackLogin`], sign-in by the browser of this machine.

#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(feature = "loopback"), allow(rustdoc::broken_intra_doc_links))]

mod default;
mod lock;
#[cfg(feature = "loopback")]
mod loopback;
mod profile;
mod profiles;

pub use default::{CredentialsBuilder, DefaultCredentials, Source};
#[cfg(feature = "loopback")]
#[cfg_attr(docsrs, doc(cfg(feature = "loopback")))]
pub use loopback::{LoopbackLogin, RedirectFlow, open_browser};
pub use profile::{ProfileConfig, SecretPlace, StoreKind};
pub use profiles::Profiles;
