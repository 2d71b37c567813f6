//! [`Endpoint`]: the base URLs of Coze, and the audience of JWTs.

use std::{borrow::Cow, fmt, str::FromStr};

use url::{Host, Url};

use crate::{Error, Result, input::cleaned};

/// The base URLs of Coze or of your own host: the API base for token and API requests, the WWW base for the authorization
/// pages in the browser, and the audience (`aud`) of JWTs.
///
/// Source: <https://www.coze.cn/open/docs/developer_guides/authentication>.
///
/// ```
/// use coze_auth::Endpoint;
///
/// assert_eq!(Endpoint::default(), Endpoint::COM);
/// assert_eq!(Endpoint::CN.api_base(), "https://api.coze.cn");
///
/// // The WWW base follows from the API base: a leading `api.` becomes `www.`.
/// let own = Endpoint::custom("https://api.example.com/coze/")?;
/// assert_eq!(own.api_base(), "https://api.example.com/coze");
/// assert_eq!(own.www_base(), "https://www.example.com/coze");
/// assert_eq!(own.audience(), "api.example.com");
/// # Ok::<(), coze_auth::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    api_base: Cow<'static, str>,
    www_base: Cow<'static, str>,
    audience: Cow<'static, str>,
}

impl Endpoint {
    /// Coze International: `https://api.coze.com` and `https://www.coze.com`.
    pub const COM: Self = Self {
        api_base: Cow::Borrowed("https://api.coze.com"),
        www_base: Cow::Borrowed("https://www.coze.com"),
        audience: Cow::Borrowed("api.coze.com"),
    };

    /// Coze China (扣子): `https://api.coze.cn` and `https://www.coze.cn`.
    pub const CN: Self = Self {
        api_base: Cow::Borrowed("https://api.coze.cn"),
        www_base: Cow::Borrowed("https://www.coze.cn"),
        audience: Cow::Borrowed("api.coze.cn"),
    };

    /// An endpoint for another host, from its API base. To set the WWW base or the audience, use [`builder`](Self::builder).
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the base is not an `https` URL (`http` is allowed for loopback
    /// hosts), or has a user name, a query or a fragment.
    pub fn custom(api_base: impl AsRef<str>) -> Result<Self> {
        Self::builder(api_base.as_ref()).build()
    }

    /// An endpoint for another host, with options for the WWW base, the audience and plain `http`.
    ///
    /// ```
    /// use coze_auth::Endpoint;
    ///
    /// let in_a_container = Endpoint::builder("http://coze-mock:8080")
    ///     .allow_http_host("coze-mock")
    ///     .www_base("http://localhost:8080")
    ///     .build()?;
    /// assert_eq!(in_a_container.audience(), "coze-mock");
    /// # Ok::<(), coze_auth::Error>(())
    /// ```
    pub fn builder(api_base: impl Into<String>) -> EndpointBuilder {
        EndpointBuilder {
            api_base: api_base.into(),
            www_base: None,
            audience: None,
            http_hosts: Vec::new(),
        }
    }

    /// The base URL of token and API requests, without a trailing slash.
    #[must_use]
    pub fn api_base(&self) -> &str {
        &self.api_base
    }

    /// The base URL of the authorization pages in the browser, without a trailing slash.
    #[must_use]
    pub fn www_base(&self) -> &str {
        &self.www_base
    }

    /// The audience (`aud`) of JWTs; by default the API host.
    #[must_use]
    pub fn audience(&self) -> &str {
        &self.audience
    }
}

/// Parses `com`, `cn`, or an API base as in [`custom`](Endpoint::custom).
///
/// ```
/// use coze_auth::Endpoint;
///
/// assert_eq!("cn".parse::<Endpoint>()?, Endpoint::CN);
/// assert_eq!("https://api.coze.com".parse::<Endpoint>()?, Endpoint::COM);
/// # Ok::<(), coze_auth::Error>(())
/// ```
impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match cleaned(text) {
            "com" => Ok(Self::COM),
            "cn" => Ok(Self::CN),
            api_base => Self::custom(api_base),
        }
    }
}

impl Default for Endpoint {
    /// [`Endpoint::COM`], as in the official SDKs.
    fn default() -> Self {
        Self::COM
    }
}

/// Builds an [`Endpoint`]; see [`Endpoint::builder`].
#[derive(Clone)]
#[must_use]
pub struct EndpointBuilder {
    api_base: String,
    www_base: Option<String>,
    audience: Option<String>,
    http_hosts: Vec<String>,
}

impl fmt::Debug for EndpointBuilder {
    // The bases have not been validated, so they may contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointBuilder")
            .field("audience", &self.audience)
            .field("http_hosts", &self.http_hosts)
            .finish_non_exhaustive()
    }
}

impl EndpointBuilder {
    /// Sets the WWW base. By default, it is the API base with `www.` instead of a leading `api.`.
    pub fn www_base(mut self, www_base: impl Into<String>) -> Self {
        self.www_base = Some(www_base.into());
        self
    }

    /// Sets the audience of JWTs. By default, it is the host of the API base without the port.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// Allows plain `http` for this host. The traffic can be read and changed in transit, so use this only for a mock in a
    /// closed network, never for Coze.
    ///
    /// A proxy could read the credentials too, so requests to this host ignore `HTTP_PROXY` and `ALL_PROXY`. Only a proxy that
    /// you set in [`OAuthClientBuilder::http`](crate::OAuthClientBuilder::http) is used.
    pub fn allow_http_host(mut self, host: impl Into<String>) -> Self {
        self.http_hosts.push(host.into());
        self
    }

    /// Validates the values and builds the endpoint.
    ///
    /// # Errors
    ///
    /// Those of [`Endpoint::custom`]; also [`InvalidInput`](crate::ErrorKind::InvalidInput) if the audience is empty.
    pub fn build(self) -> Result<Endpoint> {
        let api = self.checked_base("API base", &self.api_base)?;
        if let Some(right) = api.host_str().and_then(api_host_of_site) {
            return Err(Error::invalid_input(format!(
                "the API base is the address of the web site, not of the API; use https://{right}"
            )));
        }
        let www = match &self.www_base {
            Some(www_base) => self.checked_base("WWW base", www_base)?,
            None => www_of(&api)?,
        };
        let audience = match self.audience {
            Some(audience) => cleaned(&audience).to_owned(),
            None => api.host_str().unwrap_or_default().to_owned(),
        };
        if audience.is_empty() {
            return Err(Error::invalid_input("the audience is empty"));
        }
        Ok(Endpoint {
            api_base: without_trailing_slash(&api).into(),
            www_base: without_trailing_slash(&www).into(),
            audience: audience.into(),
        })
    }

    fn checked_base(&self, name: &str, base: &str) -> Result<Url> {
        let refused = |why: &str| Err(Error::invalid_input(format!("the {name} {why}")));
        let base = cleaned(base);
        if base.is_empty() {
            return refused("is empty; use a URL such as https://api.coze.com");
        }
        let url = match Url::parse(base) {
            Ok(url) => url,
            Err(error) => {
                return refused(&format!(
                    "is not a URL ({error}); use one such as https://api.coze.com"
                ));
            }
        };
        if !url.username().is_empty() || url.password().is_some() {
            return refused("has a user name or password; remove it");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return refused("has a query or a fragment; remove it");
        }
        let Some(host) = url.host() else {
            return refused("has no host; use a URL such as https://api.coze.com");
        };
        match url.scheme() {
            "https" => Ok(url),
            "http" if coze_wire::is_loopback(&url) || self.allows_http(&host) => Ok(url),
            "http" => refused(&format!(
                "would send credentials unencrypted, because {host} is not a loopback host; use https, or allow http for this host (allow_http_host)"
            )),
            other => refused(&format!("has the scheme {other}; use https")),
        }
    }

    fn allows_http(&self, host: &Host<&str>) -> bool {
        let host = host.to_string();
        self.http_hosts
            .iter()
            .any(|allowed| allowed.trim().eq_ignore_ascii_case(&host))
    }
}

/// The API host that belongs to the host of a Coze web site.
fn api_host_of_site(host: &str) -> Option<&'static str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    match host.strip_prefix("www.").unwrap_or(host) {
        "coze.com" => Some("api.coze.com"),
        "coze.cn" => Some("api.coze.cn"),
        _ => None,
    }
}

/// Derives the WWW base: replaces a leading `api.` of the host with `www.`.
fn www_of(api: &Url) -> Result<Url> {
    let mut www = api.clone();
    if let Some(rest) = api.host_str().and_then(|host| host.strip_prefix("api.")) {
        www.set_host(Some(&format!("www.{rest}")))
            .map_err(|error| {
                Error::invalid_input(format!(
                    "can't derive the WWW base from the API base ({error})"
                ))
            })?;
    }
    Ok(www)
}

fn without_trailing_slash(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn the_www_base_changes_only_the_leading_label() {
        for (api, www) in [
            ("https://api.coze.com", "https://www.coze.com"),
            ("https://api.coze.cn///", "https://www.coze.cn"),
            ("https://API.coze.com/pre/", "https://www.coze.com/pre"),
            ("https://myapi.example.com", "https://myapi.example.com"),
            ("https://api.api.example.com", "https://www.api.example.com"),
            ("https://example.com/api.x", "https://example.com/api.x"),
            (
                "https://api.example.com:8443",
                "https://www.example.com:8443",
            ),
            ("http://127.0.0.1:80", "http://127.0.0.1"),
            ("http://[::1]:9/", "http://[::1]:9"),
            (" https://api.coze.com\n", "https://www.coze.com"),
        ] {
            assert_eq!(Endpoint::custom(api).unwrap().www_base(), www, "{api}");
        }
    }

    #[test]
    fn plain_http_is_allowed_only_for_loopback_and_listed_hosts() {
        for loopback in [
            "http://localhost:8080",
            "http://mock.localhost",
            "http://127.0.0.1:1",
            "http://127.9.9.9",
            "http://[::1]:1",
            "http://[::ffff:127.0.0.1]:1",
            "http://localhost.:1",
        ] {
            assert!(Endpoint::custom(loopback).is_ok(), "{loopback}");
        }
        for elsewhere in [
            "http://api.coze.com",
            "http://10.0.0.1",
            "http://localhost.example.com",
            "http://mock:8080",
        ] {
            let error = Endpoint::custom(elsewhere).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("unencrypted"), "{error}");
        }
        let allowed = Endpoint::builder("http://Mock:8080").allow_http_host("mock");
        assert_eq!(allowed.build().unwrap().api_base(), "http://mock:8080");
    }

    #[test]
    fn an_invalid_base_is_refused_without_printing_credentials() {
        for (base, expected) in [
            ("", "is empty"),
            ("api.coze.com", "not a URL"),
            ("ftp://api.coze.com", "scheme ftp"),
            ("https://user:hush@api.coze.com", "user name or password"),
            ("https://api.coze.com?x=hush", "query or a fragment"),
            ("https://api.coze.com#hush", "query or a fragment"),
            ("mailto:x@example.com", "no host"),
            ("https://", "not a URL"),
        ] {
            let error = Endpoint::custom(base).unwrap_err().to_string();
            assert!(error.contains(expected), "{base}: {error}");
            assert!(!error.contains("hush"), "{base}: {error}");
        }
        for (site, right) in [
            ("https://www.coze.cn", "https://api.coze.cn"),
            ("https://coze.cn/", "https://api.coze.cn"),
            ("https://WWW.coze.com/x", "https://api.coze.com"),
            ("https://coze.com.", "https://api.coze.com"),
        ] {
            let error = Endpoint::custom(site).unwrap_err().to_string();
            assert!(error.contains(right), "{site}: {error}");
        }
        let error = Endpoint::builder("https://api.coze.com")
            .www_base("www.coze.com")
            .build()
            .unwrap_err();
        assert!(error.to_string().contains("the WWW base"), "{error}");
        assert!(
            Endpoint::builder("https://a.b")
                .audience(" ")
                .build()
                .is_err()
        );
    }

    #[test]
    fn the_audience_is_the_host_without_port_unless_set() {
        let endpoint = Endpoint::custom("https://api.example.com:8443/x").unwrap();
        assert_eq!(endpoint.audience(), "api.example.com");
        let set = Endpoint::builder("https://proxy.example.com").audience("api.coze.cn");
        assert_eq!(set.build().unwrap().audience(), "api.coze.cn");
    }
}
