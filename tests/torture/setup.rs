//! The configuration of each process: the mock and the store.

use std::path::PathBuf;
use std::process::Command;

use clap::ValueEnum;
use coze_auth::SignIn;
use coze_auth::store::Blocking;
use coze_auth_stores::{FileStore, RedisStore};
use serde::{Deserialize, Serialize};

use crate::plain::PlainStore;
use crate::probe::{Probe, Timings};
use crate::{Result, coze};

/// The variable that passes it to child processes.
const VARIABLE: &str = "COZE_TORTURE";

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) api_base: String,
    pub(crate) client_id: String,
    pub(crate) client_secret: String,
    pub(crate) store: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoreName {
    /// A file for each profile, of `FileStore`
    File,
    /// A Redis server, of `RedisStore`
    Redis,
    /// A JSON file without lock or compare
    Plain,
}

impl StoreName {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Redis => "redis",
            Self::Plain => "plain",
        }
    }
}

/// A store, and where it is.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    File(PathBuf),
    Redis(String),
    Plain(PathBuf),
}

impl Setup {
    /// The configuration from the parent process.
    pub(crate) fn inherited() -> Result<Self> {
        let text = std::env::var(VARIABLE)
            .map_err(|_| "this is started by the torture program, not manually")?;
        Ok(serde_json::from_str(&text)?)
    }

    /// This program in another role.
    pub(crate) fn process(&self, role: &[&str]) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(role)
            .env(VARIABLE, serde_json::to_string(self)?);
        Ok(command)
    }

    pub(crate) fn sign_in(&self, profile: &str) -> Result<SignIn> {
        Ok(match &self.store {
            Place::File(folder) => SignIn::new(FileStore::new(folder.clone()), profile)?,
            Place::Redis(url) => {
                let redis = RedisStore::builder(url)
                    .connect_timeout(coze::REDIS_TIMEOUT)
                    .response_timeout(coze::REDIS_TIMEOUT);
                SignIn::new(redis.build()?, profile)?
            }
            Place::Plain(folder) => {
                SignIn::new(Blocking::new(PlainStore::new(folder.clone())), profile)?
            }
        })
    }

    /// The same, with a measurement of each step.
    pub(crate) fn timed_sign_in(&self, profile: &str) -> Result<(SignIn, Timings)> {
        let timings = Timings::default();
        let store = std::sync::Arc::clone(self.sign_in(profile)?.store());
        let sign_in = SignIn::new(Probe::new(store, timings.clone()), profile)?;
        Ok((sign_in, timings))
    }
}
