//! Persistent stores for the sign-ins of [`coze_auth`].
//!
//! | store | feature | for |
//! |---|---|---|
//! | [`FileStore`] | `file` (on by default) | programs of one user: a folder with a file for each sign-in |
//! | [`KeyringStore`] | `keyring` | programs of one user: the operating system's keyring |
//! | `RedisStore` | `redis` | a service with several replicas |
//!
//! All implement [`Store`](coze_auth::store::Store), which you can implement for other databases. A new store of this crate
//! is a module here, with a feature of its own; the contract is in `auth/src/store.rs`.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "_locks")]
mod blocking;
#[cfg(feature = "_locks")]
#[cfg_attr(
    not(feature = "file"),
    allow(dead_code, reason = "the file store uses more of it")
)]
mod envelope;
#[cfg(feature = "file")]
mod file;
#[cfg(feature = "_locks")]
#[cfg_attr(
    not(feature = "file"),
    allow(dead_code, reason = "the file store uses more of it")
)]
mod folder;
#[cfg(feature = "keyring")]
mod keyring;
#[cfg(feature = "_locks")]
#[cfg_attr(
    not(feature = "file"),
    allow(dead_code, reason = "the file store uses more of it")
)]
mod lock;
#[cfg(feature = "redis")]
mod redis;

#[cfg(feature = "file")]
#[cfg_attr(docsrs, doc(cfg(feature = "file")))]
pub use file::FileStore;
#[cfg(feature = "keyring")]
#[cfg_attr(docsrs, doc(cfg(feature = "keyring")))]
pub use keyring::KeyringStore;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use redis::{RedisStore, RedisStoreBuilder};

/// What is shown of a name that was read from a store: one line without invisible characters, at most 100 characters.
#[cfg(any(feature = "_locks", feature = "redis"))]
fn shown_name(name: &str) -> String {
    coze_wire::sanitize_to(name, &[], 99)
}
