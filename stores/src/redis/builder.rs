//! The settings of a [`RedisStore`].

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use coze_auth::store::{StoreError, StoreErrorKind};
use redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};
use url::Url;
use zeroize::Zeroizing;

use super::{RedisStore, connection::Connections, tls::Tls};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
const KEY_PREFIX: &str = "coze-auth:";
/// The lifetime of Coze's refresh token.
const KEEP_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Configures a [`RedisStore`].
///
/// ```
/// use std::time::Duration;
/// use coze_auth_stores::RedisStore;
///
/// let store = RedisStore::builder("rediss://replica:secret@redis.example.com:6380/2")
///     .key_prefix("my-service:")
///     .response_timeout(Duration::from_secs(1))
///     .build()?;
/// # Ok::<(), coze_auth::store::StoreError>(())
/// ```
#[must_use]
pub struct RedisStoreBuilder {
    url: Zeroizing<String>,
    key_prefix: String,
    connect_timeout: Duration,
    response_timeout: Duration,
    keep_for: Duration,
    authorities_pem: Option<Vec<u8>>,
    plaintext_hosts: Vec<String>,
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
            plaintext_hosts: Vec::new(),
        }
    }

    /// The prefix of all keys; `coze-auth:` by default. It may not contain braces, which a Redis cluster interprets, or control
    /// characters.
    pub fn key_prefix(mut self, key_prefix: impl Into<String>) -> Self {
        self.key_prefix = key_prefix.into();
        self
    }

    /// The timeout for connecting, including TLS and login; 2 s by default.
    pub fn connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.connect_timeout = connect_timeout;
        self
    }

    /// The timeout for a response; 2 s by default.
    pub fn response_timeout(mut self, response_timeout: Duration) -> Self {
        self.response_timeout = response_timeout;
        self
    }

    /// How long Redis keeps a sign-in after its last write; 30 days by default, the lifetime of Coze's refresh token. It also applies to
    /// the quarantine.
    pub fn keep_for(mut self, keep_for: Duration) -> Self {
        self.keep_for = keep_for;
        self
    }

    /// For `rediss://`: trusts these certificate authorities (PEM, one or more) instead of those of the system.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities_pem = Some(pem.into());
        self
    }

    /// Allows unencrypted `redis://` to this host. Others on the network can read and change the password and all tokens: use it in an
    /// isolated network only. Loopback hosts are always allowed.
    ///
    /// ```
    /// use coze_auth_stores::RedisStore;
    ///
    /// assert!(RedisStore::new("redis://redis:6379").is_err());
    /// let in_a_container = RedisStore::builder("redis://redis:6379").allow_plaintext_host("redis").build()?;
    /// # Ok::<(), coze_auth::store::StoreError>(())
    /// ```
    pub fn allow_plaintext_host(mut self, host: impl Into<String>) -> Self {
        self.plaintext_hosts.push(host.into());
        self
    }

    /// Builds the store. No I/O to Redis happens here: the store connects when it is first used.
    ///
    /// # Errors
    ///
    /// [`Other`](StoreErrorKind::Other) if the URL, the prefix, a duration or the certificates are invalid, if the URL is unencrypted and
    /// its host is neither loopback nor [allowed](Self::allow_plaintext_host), or if the system's certificates can't be read. Errors do
    /// not contain the URL, which may contain a password.
    pub fn build(self) -> Result<RedisStore, StoreError> {
        let times = [self.connect_timeout, self.response_timeout, self.keep_for];
        if times.iter().any(|time| time.as_millis() == 0) {
            return Err(unusable("a timeout or keep_for of Redis is zero"));
        }
        let is_forbidden = |c: char| c.is_control() || matches!(c, '{' | '}');
        if self.key_prefix.contains(is_forbidden) {
            return Err(unusable(
                "the key prefix for Redis contains a brace or a control character",
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
            (false, Some(_)) => {
                return Err(unusable(
                    "root certificates are set for Redis, but its URL does not begin with rediss://",
                ));
            }
            (false, None) if is_loopback(&host) || self.allows_plaintext(&host) => None,
            (false, None) => {
                return Err(unusable(&format!(
                    "the Redis URL sends tokens unencrypted: {host} is not a loopback host; use rediss://, or allow this host by name \
                     (allow_plaintext_host)"
                )));
            }
        };
        Ok(RedisStore {
            connections: Arc::new(Connections {
                host,
                port,
                tls,
                login,
                connect_timeout: self.connect_timeout,
                response_timeout: self.response_timeout,
                by_runtime: Mutex::default(),
            }),
            key_prefix: self.key_prefix.into(),
            keep_for: self.keep_for,
        })
    }

    fn allows_plaintext(&self, host: &str) -> bool {
        let host = unbracketed(host);
        self.plaintext_hosts
            .iter()
            .any(|allowed| unbracketed(allowed.trim()).eq_ignore_ascii_case(host))
    }
}

fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => is_localhost(host),
    }
}

/// Whether a name is that of this machine, which no DNS server decides (RFC 6761 section 6.3).
pub(super) fn is_localhost(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// Removes the brackets of an IPv6 address in a URL.
fn unbracketed(host: &str) -> &str {
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(host)
}

pub(super) fn unusable(what: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Other, what)
}

/// The parsed URL.
struct Server {
    host: String,
    port: u16,
    is_tls: bool,
    login: RedisConnectionInfo,
}

impl Server {
    fn at(url: &str) -> Result<Self, StoreError> {
        let refused = || {
            unusable(
                "the Redis URL is invalid: write it like rediss://host:6379/0, without quotation marks",
            )
        };
        let mut url = Url::parse(url).map_err(|_| refused())?;
        let is_tls = match url.scheme() {
            "redis" => false,
            "rediss" => true,
            _ => return Err(refused()),
        };
        // The redis crate accepts `#insecure`, which disables certificate checks.
        if url.fragment().is_some() || url.query().is_some() {
            return Err(refused());
        }
        // The redis crate need not know about TLS: see `Tls`.
        url.set_scheme("redis").map_err(|()| refused())?;
        let connection = url.into_connection_info().map_err(|_| refused())?;
        let ConnectionAddr::Tcp(host, port) = connection.addr() else {
            return Err(refused());
        };
        Ok(Self {
            host: host.clone(),
            port: *port,
            is_tls,
            login: connection.redis_settings().clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_server_user_and_database() {
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
    fn an_invalid_url_is_refused_and_not_quoted() {
        for url in [
            "",
            "hush",
            "http://u:hush@127.0.0.1",
            "redis+unix:///tmp/hush",
            "redis://u:hush@127.0.0.1/zero",
            "redis://u:hush@127.0.0.1:port",
            "rediss://u:hush@127.0.0.1/#insecure",
            "redis://u:hush@127.0.0.1/?protocol=hush",
            "\"redis://u:hush@127.0.0.1\"",
        ] {
            let error = RedisStore::new(url).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Other, "{url}");
            let text = error.to_string();
            assert!(
                text.contains("write it like rediss://host:6379/0,"),
                "{text}"
            );
            assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
        }
    }

    #[test]
    fn neither_debug_nor_an_error_shows_the_password() {
        let store = RedisStore::new("redis://replica:hush@127.0.0.1:7000").unwrap();
        let shown = format!("{store:?}");
        assert!(shown.contains("127.0.0.1:7000"), "{shown}");
        assert!(!shown.contains("hush"), "{shown}");
    }

    #[test]
    fn plaintext_is_allowed_for_loopback_and_for_hosts_by_name() {
        for loopback in [
            "redis://localhost",
            "redis://redis.localhost:7000",
            "redis://127.9.9.9",
            "redis://[::1]:7000",
        ] {
            assert!(RedisStore::new(loopback).is_ok(), "{loopback}");
        }
        for elsewhere in [
            "redis://redis",
            "redis://10.0.0.1",
            "redis://[fe80::1]",
            "redis://localhost.example.com",
            "redis://u:hush@127.0.0.1.example.com",
        ] {
            let error = RedisStore::new(elsewhere).unwrap_err().to_string();
            assert!(error.contains("unencrypted"), "{error}");
            assert!(!error.contains("hush"), "{error}");
        }
        for (host, allowed) in [
            ("Redis", "redis"),
            ("[fe80::1]", "fe80::1"),
            ("[fe80::1]", "[fe80::1]"),
        ] {
            let builder = RedisStore::builder(format!("redis://{host}:7000"));
            let builder = builder.allow_plaintext_host("other");
            assert!(
                builder.allow_plaintext_host(allowed).build().is_ok(),
                "{host}"
            );
        }
        assert!(RedisStore::new("rediss://redis").is_ok());
    }

    #[test]
    fn invalid_settings_are_refused() {
        let builder = || RedisStore::builder("redis://127.0.0.1");
        for builder in [
            builder().key_prefix("a{b"),
            builder().connect_timeout(Duration::ZERO),
            builder().keep_for(Duration::from_micros(1)),
            builder().root_certificates("-----BEGIN CERTIFICATE-----"),
            RedisStore::builder("rediss://127.0.0.1").root_certificates("nothing"),
        ] {
            let error = builder.build().unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Other, "{error}");
        }
    }
}
