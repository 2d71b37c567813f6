//! Errors of building and controlling a mock. What a client does wrong is a response, not an error.

use std::io;

/// Why a mock could not be built or started, or a control call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The mock cannot listen on the address.
    #[error("cannot listen on {address}")]
    Listen {
        /// The requested address.
        address: String,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The operating system provided no random bytes.
    #[error("the operating system provided no random bytes")]
    NoRandomness,
    /// An RSA key pair could not be generated.
    #[error("an RSA key pair could not be generated")]
    KeyGeneration,
    /// An option of the [`Builder`](crate::Builder) is outside its limits.
    #[error("invalid option {option}: {problem}")]
    Option {
        /// The option, named as the builder's method.
        option: &'static str,
        /// What is wrong with it, and its limits.
        problem: String,
    },
    /// A registered app is invalid.
    #[error("app {client_id:?}: {problem}")]
    App {
        /// The app.
        client_id: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The apps file could not be read or does not have the documented form.
    #[error("invalid apps file: {0}")]
    AppsFile(String),
    /// The schemas inside this crate cannot be used.
    #[error("invalid contract inside this crate: {0}")]
    Contract(String),
    /// No device authorization with this user code is pending.
    #[error("no device authorization with this user code is pending")]
    NoSuchUserCode,
    /// The authorize URL was refused: a browser would have been shown an error page instead of a redirect.
    #[error("the authorize endpoint refused the request: {0}")]
    Authorize(String),
    /// No app has this client id.
    #[error("no app has the client id {0:?}")]
    NoSuchApp(String),
}

impl From<crate::secret::NoRandomness> for Error {
    fn from(_: crate::secret::NoRandomness) -> Self {
        Self::NoRandomness
    }
}
