//! Stores that keep the sign-ins of [`coze_auth`] when the program ends.
//!
//! | store | feature | for |
//! |---|---|---|
//! | [`FileStore`] | `file` (on by default) | the programs of one user: a file for each sign-in, in a folder |
//! | [`KeyringStore`] | `keyring` | the same, in the operating system's keyring |
//! | `RedisStore` | `redis` | a service of several replicas |
//!
//! All keep the [contract](coze_auth::store) that a store of your own keeps too.
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
