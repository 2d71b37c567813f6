//! The options of a mock, with their defaults and limits.

use crate::answer::ErrorShape;
use crate::defaults;
use crate::error::Error;
use crate::host::Authority;
use crate::limits::{self, check_time, check_timeout};
use crate::record::RequestRecord;
use crate::resources::{Bot, User, Workspace};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

pub(crate) type Observer = Arc<dyn Fn(&RequestRecord) + Send + Sync>;

pub(crate) struct Options {
    pub(crate) lenient: bool,
    pub(crate) control: bool,
    pub(crate) reuse_revokes_family: bool,
    pub(crate) refresh_revokes_access_token: bool,
    pub(crate) error_shape: ErrorShape,
    pub(crate) device_interval: Duration,
    pub(crate) device_code_lifetime: Duration,
    pub(crate) code_lifetime: Duration,
    pub(crate) access_token_lifetime: Duration,
    pub(crate) refresh_token_lifetime: Duration,
    pub(crate) jwt_leeway: Duration,
    pub(crate) audiences: Vec<String>,
    pub(crate) public_url: Option<String>,
    /// The host and the origin of the validated public URL.
    pub(crate) public: Option<PublicName>,
    pub(crate) access_tokens: Vec<String>,
    pub(crate) user: User,
    pub(crate) workspaces: Vec<Workspace>,
    pub(crate) bots: Vec<Bot>,
    pub(crate) log_capacity: usize,
    pub(crate) log_bytes: usize,
    pub(crate) connections: Connections,
    pub(crate) observer: Option<Observer>,
}

/// The name under which clients reach the mock, if it differs from the listening address.
pub(crate) struct PublicName {
    /// The normalised URL, valid in a header, without a trailing slash.
    pub(crate) base: String,
    pub(crate) authority: Authority,
    pub(crate) origin: String,
}

impl PublicName {
    fn parse(url: &str) -> Option<Self> {
        let url = Url::parse(url).ok()?;
        let no_more = url.query().is_none() && url.fragment().is_none();
        if !matches!(url.scheme(), "http" | "https") || !no_more {
            return None;
        }
        Some(Self {
            base: url.as_str().trim_end_matches('/').to_owned(),
            // With a user name it is not a plain authority.
            authority: Authority::parse(url.authority())?,
            origin: url.origin().ascii_serialization(),
        })
    }
}

/// The limit and the timeouts of connections.
#[derive(Clone, Copy)]
pub(crate) struct Connections {
    pub(crate) at_most: usize,
    pub(crate) head_timeout: Duration,
    pub(crate) body_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lenient: false,
            control: false,
            reuse_revokes_family: false,
            refresh_revokes_access_token: false,
            error_shape: ErrorShape::default(),
            device_interval: Duration::from_secs(5),
            device_code_lifetime: Duration::from_secs(300),
            code_lifetime: Duration::from_secs(600),
            access_token_lifetime: Duration::from_secs(900),
            refresh_token_lifetime: Duration::from_secs(30 * 24 * 3600),
            jwt_leeway: Duration::from_secs(10),
            audiences: Vec::new(),
            public_url: None,
            public: None,
            access_tokens: vec![defaults::PERSONAL_ACCESS_TOKEN.to_owned()],
            user: User::default(),
            workspaces: vec![Workspace::new(defaults::WORKSPACE_ID, "Mock workspace")],
            bots: vec![
                Bot::new(
                    defaults::BOT_IDS[0],
                    "First mock bot",
                    defaults::WORKSPACE_ID,
                ),
                Bot::new(
                    defaults::BOT_IDS[1],
                    "Second mock bot",
                    defaults::WORKSPACE_ID,
                ),
            ],
            log_capacity: 10_000,
            log_bytes: 64 * 1024 * 1024,
            connections: Connections {
                at_most: 4096,
                head_timeout: Duration::from_secs(60),
                body_timeout: Duration::from_secs(30),
            },
            observer: None,
        }
    }
}

impl Options {
    pub(crate) fn check(&mut self) -> Result<(), Error> {
        check_time("device_interval", self.device_interval)?;
        check_time("device_code_lifetime", self.device_code_lifetime)?;
        check_time("code_lifetime", self.code_lifetime)?;
        check_time("access_token_lifetime", self.access_token_lifetime)?;
        check_time("refresh_token_lifetime", self.refresh_token_lifetime)?;
        check_time("jwt_leeway", self.jwt_leeway)?;
        check_timeout("head_timeout", self.connections.head_timeout)?;
        check_timeout("body_timeout", self.connections.body_timeout)?;
        let connections = self.connections.at_most;
        limits::check("max_connections", connections, &limits::CONNECTIONS)?;
        limits::check("log_capacity", self.log_capacity, &limits::LOG_CAPACITY)?;
        limits::check("log_bytes", self.log_bytes, &limits::LOG_BYTES)?;
        if let Some(url) = &self.public_url {
            let public = PublicName::parse(url).ok_or_else(|| Error::Option {
                option: "public_url",
                problem: "is not an http or https URL without user, query and fragment".into(),
            })?;
            self.public = Some(public);
        }
        for host in &self.audiences {
            Authority::parse(host).ok_or_else(|| Error::Option {
                option: "audience",
                problem: "is not a host, such as api.coze.cn".into(),
            })?;
        }
        Ok(())
    }
}
