//! What can go wrong when a mock is set up or steered. What a client does wrong is an answer, not an error.

use std::io;

/// Why a mock could not be started or a control call not be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address could not be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    NoRandomness,
    /// An RSA key pair could not be generated.
    #[error("an RSA key pair could not be generated")]
    KeyGeneration,
    /// An option of the [`Builder`](crate::Builder) is not within its limits.
    #[error("the option {option}: {problem}")]
    Option {
        /// The option, named as the builder's method.
        option: &'static str,
        /// What is wrong with it, and its limits.
        problem: String,
    },
    /// An app is registered with something that cannot work.
    #[error("app {client_id:?}: {problem}")]
    App {
        /// The app.
        client_id: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The apps file could not be read or does not have the documented form.
    #[error("the apps file: {0}")]
    AppsFile(String),
    /// The schemas that came with the crate cannot be used.
    #[error("the contract that came with this crate: {0}")]
    Contract(String),
    /// No device authorization with this user code waits for a decision.
    #[error("no device authorization with this user code waits for a decision")]
    NoSuchUserCode,
    /// The authorize URL was refused: a browser would have seen an error page and no redirect.
    #[error("the authorize page refuses: {0}")]
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
