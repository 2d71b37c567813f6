//! What can be set of a [`RedisStore`].

use std::{sync::Arc, time::Duration};

use redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};
use url::Url;
use zeroize::Zeroizing;

use super::{
    RedisStore,
    link::{Link, OpenConnection},
    tls::Tls,
};
use crate::{Error, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
const KEY_PREFIX: &str = "coze-auth:";
/// The life of Coze's refresh token.
const KEEP_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Sets up a [`RedisStore`].
///
/// ```
/// use std::time::Duration;
/// use coze_auth::store::RedisStore;
///
/// let store = RedisStore::builder("rediss://replica:secret@redis.example.com:6380/2")
///     .key_prefix("my-service:")
///     .response_timeout(Duration::from_secs(1))
///     .build()?;
/// # Ok::<(), coze_auth::Error>(())
/// ```
#[must_use]
pub struct RedisStoreBuilder {
    url: Zeroizing<String>,
    key_prefix: String,
    connect_timeout: Duration,
    response_timeout: Duration,
    keep_for: Duration,
    authorities_pem: Option<Vec<u8>>,
}

impl RedisStoreBuilder {
    pub(super) fn new(url: &str) -> Self {
        Self {
            url: Zeroizing::new(url.to_owned()),
            key_prefix: KEY_PREFIX.to_owned(),
            connect_timeout: CONNECT_TIMEOUT,
            response_timeout: RESPONSE_TIMEOUT,
            keep_for: KEEP_FOR,
            authorities_pem: None,
        }
    }

    /// What the names of all keys begin with: `coze-auth:` by default. It may hold no braces, which mean something to
    /// a Redis cluster, and no control characters.
    pub fn key_prefix(mut self, key_prefix: impl Into<String>) -> Self {
        self.key_prefix = key_prefix.into();
        self
    }

    /// How long to wait for a connection, TLS and login included: 2 s by default.
    pub fn connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.connect_timeout = connect_timeout;
        self
    }

    /// How long to wait for an answer: 2 s by default. A Redis that is slower than this counts as down: a refresh
    /// waits no longer for it, and is not sent.
    pub fn response_timeout(mut self, response_timeout: Duration) -> Self {
        self.response_timeout = response_timeout;
        self
    }

    /// How long Redis keeps a sign-in after it was last saved: 30 days by default, after which Coze's refresh token
    /// is dead. What is set aside is kept as long.
    pub fn keep_for(mut self, keep_for: Duration) -> Self {
        self.keep_for = keep_for;
        self
    }

    /// For `rediss://`: trust certificates of these authorities (PEM, one or several), in place of those that the
    /// system trusts.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities_pem = Some(pem.into());
        self
    }

    /// The store. It connects when it is first used.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](crate::ErrorKind::InvalidInput) when the URL, the prefix, a time or the certificates can't be
    ///   used. The URL, which may hold a password, is not quoted.
    /// - [`System`](crate::ErrorKind::System) when the system's own certificates can't be read.
    pub fn build(self) -> Result<RedisStore> {
        let times = [self.connect_timeout, self.response_timeout, self.keep_for];
        if times.iter().any(|time| time.as_millis() == 0) {
            return Err(Error::invalid_input("a time for Redis is zero"));
        }
        let unusable = |c: char| c.is_control() || matches!(c, '{' | '}');
        if self.key_prefix.contains(unusable) {
            return Err(Error::invalid_input(
                "the prefix of the keys in Redis holds a brace or a control character",
            ));
        }
        let Server {
            host,
            port,
            is_tls,
            login,
        } = Server::at(&self.url)?;
        let tls = match (is_tls, &self.authorities_pem) {
            (true, authorities) => Some(Tls::with(&host, authorities.as_deref())?),
            (false, None) => None,
            (false, Some(_)) => {
                return Err(Error::invalid_input(
                    "there are certificates for Redis, but its URL does not begin with rediss://",
                ));
            }
        };
        Ok(RedisStore {
            link: Arc::new(Link {
                host,
                port,
                tls,
                login,
                connect_timeout: self.connect_timeout,
                response_timeout: self.response_timeout,
                open: OpenConnection::default(),
            }),
            key_prefix: self.key_prefix.into(),
            keep_for: self.keep_for,
        })
    }
}

/// What the URL says.
struct Server {
    host: String,
    port: u16,
    is_tls: bool,
    login: RedisConnectionInfo,
}

impl Server {
    fn at(url: &str) -> Result<Self> {
        let refused = || {
            Error::invalid_input(
                "the Redis URL can't be used: it looks like redis://user:password@host:6379/0, or rediss:// for TLS",
            )
        };
        let mut url = Url::parse(url).map_err(|_| refused())?;
        let is_tls = match url.scheme() {
            "redis" => false,
            "rediss" => true,
            _ => return Err(refused()),
        };
        // There, the redis crate knows a word that turns off the check of certificates.
        if url.fragment().is_some() || url.query().is_some() {
            return Err(refused());
        }
        // TLS is ours.
        url.set_scheme("redis").map_err(|()| refused())?;
        let connection = url.into_connection_info().map_err(|_| refused())?;
        let ConnectionAddr::Tcp(host, port) = connection.addr() else {
            return Err(refused());
        };
        Ok(Self {
            host: host.clone(),
            port: *port,
            is_tls,
            // A user may lack the permission to name the client.
            login: connection.redis_settings().clone().set_skip_set_lib_name(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_url_tells_where_who_and_which_database() {
        let server = Server::at("rediss://replica:p%40ss@redis.example.com/3").unwrap();
        assert_eq!(
            (server.host.as_str(), server.port),
            ("redis.example.com", 6379)
        );
        assert!(server.is_tls);
        assert_eq!(server.login.username(), Some("replica"));
        assert_eq!(server.login.password(), Some("p@ss"));
        assert_eq!(server.login.db(), 3);
        let server = Server::at("redis://[::1]:7000").unwrap();
        assert_eq!((server.host.as_str(), server.port), ("::1", 7000));
        assert!(!server.is_tls);
    }

    #[test]
    fn what_is_no_such_url_is_refused_and_not_quoted() {
        for url in [
            "",
            "hush",
            "http://u:hush@127.0.0.1",
            "redis+unix:///tmp/hush",
            "redis://u:hush@127.0.0.1/zero",
            "redis://u:hush@127.0.0.1:port",
            "rediss://u:hush@127.0.0.1/#insecure",
            "redis://u:hush@127.0.0.1/?protocol=hush",
        ] {
            let error = RedisStore::connect(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{url}");
            assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
        }
    }

    #[test]
    fn neither_debug_nor_an_error_shows_the_password() {
        let store = RedisStore::connect("redis://replica:hush@127.0.0.1:7000").unwrap();
        let shown = format!("{store:?}");
        assert!(shown.contains("127.0.0.1:7000"), "{shown}");
        assert!(!shown.contains("hush"), "{shown}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let builder = || RedisStore::builder("redis://127.0.0.1");
        for builder in [
            builder().key_prefix("a{b"),
            builder().connect_timeout(Duration::ZERO),
            builder().keep_for(Duration::from_micros(1)),
            builder().root_certificates("-----BEGIN CERTIFICATE-----"),
            RedisStore::builder("rediss://127.0.0.1").root_certificates("nothing"),
        ] {
            let error = builder.build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
    }
}
