//! An HTTP client for requests that carry credentials.
//!
//! The base URL decides whether the proxies of the environment are used: not for loopback hosts, and not for plain `http`,
//! where a proxy could read the secrets.

use std::{error::Error, fmt, net::SocketAddr};

use reqwest::{Client, ClientBuilder, NoProxy, Proxy};
use url::{Host, Url};

use crate::{CONNECT_TIMEOUT, ForeignError, REQUEST_TIMEOUT};

/// An HTTP client for this base URL, with [`CONNECT_TIMEOUT`], [`REQUEST_TIMEOUT`] and the settings of
/// [`http_client_from`].
///
/// ```
/// let http = coze_wire::http_client("http://127.0.0.1:8080")?;
/// # Ok::<(), coze_wire::HttpClientError>(())
/// ```
///
/// # Errors
///
/// Those of [`http_client_from`].
pub fn http_client(base_url: &str) -> Result<Client, HttpClientError> {
    http_client_from(base_url, || {
        Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
    })
}

/// Builds an HTTP client from your own builder, for requests with credentials to this base URL only.
///
/// - No redirect is followed: a 307 would send the body, with its code or refresh token, to another host.
/// - The HTTP library retries no request: codes, refresh tokens and JWTs are single-use.
/// - No `Referer` is sent.
/// - `connection_verbose` is switched off: it would log all traffic, credentials and tokens included, at level `TRACE`.
/// - The proxies of the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, or the system's settings) are not used for
///   loopback hosts, nor for plain `http` to any host. A proxy that is set on the builder is always used.
/// - `localhost` and names below it resolve to this machine, without DNS (RFC 6761 section 6.3).
/// - Plain `http` does not require the system's CA certificates.
/// - Without the feature `http2` of this crate, HTTP/1.1 is used, whatever reqwest could speak.
///
/// `builder` may be called more than once.
///
/// ```
/// use coze_wire::reqwest::{Client, Proxy};
///
/// // A proxy that shows what is sent to a mock.
/// let debugging = || Client::builder().proxy(Proxy::all("http://127.0.0.1:8888").expect("a URL"));
/// let http = coze_wire::http_client_from("http://127.0.0.1:8080", debugging)?;
/// # Ok::<(), coze_wire::HttpClientError>(())
/// ```
///
/// # Errors
///
/// [`HttpClientError`] if the system's CA certificates are needed and missing, or the builder's settings are invalid.
pub fn http_client_from(
    base_url: &str,
    builder: impl Fn() -> ClientBuilder,
) -> Result<Client, HttpClientError> {
    let base = Url::parse(base_url).ok();
    let guarded = || guard(builder(), base.as_ref());
    let failed = |is_missing_certificates| {
        move |error: reqwest::Error| HttpClientError {
            is_missing_certificates,
            error: ForeignError::new(error),
        }
    };
    match guarded().build() {
        Err(error) if system_certificates_are_missing() => match base.as_ref().map(Url::scheme) {
            Some("http") => guarded().tls_certs_only([]).build().map_err(failed(false)),
            _ => Err(failed(true)(error)),
        },
        built => built.map_err(failed(false)),
    }
}

fn guard(builder: ClientBuilder, base: Option<&Url>) -> ClientBuilder {
    let mut builder = builder
        .connection_verbose(false)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false);
    // The feature of reqwest may be enabled by another crate. The texts of HTTP/2 errors need this crate's, too.
    if cfg!(not(feature = "http2")) {
        builder = builder.http1_only();
    }
    let Some(base) = base else {
        return builder;
    };
    if base.scheme() == "http" || is_loopback(base) {
        builder = builder.proxy(unused_proxy());
    }
    if let Some(Host::Domain(name)) = base.host()
        && is_loopback(base)
    {
        let here = [[127, 0, 0, 1].into(), [0, 0, 0, 0, 0, 0, 0, 1].into()];
        // Port 0 stands for the port of the URL.
        builder = builder.resolve_to_addrs(name, &here.map(|ip| SocketAddr::new(ip, 0)));
    }
    builder
}

/// Any explicit proxy disables those of the environment. This one matches no URL, and the builder's own proxies come first.
fn unused_proxy() -> Proxy {
    let matches_none = Proxy::custom(|_| None::<Url>);
    // reqwest asks a custom proxy about each request, and one with a URL about each connection.
    Proxy::all("http://proxy.invalid").map_or(matches_none, |proxy| {
        proxy.no_proxy(NoProxy::from_string("*,0.0.0.0/0,::/0"))
    })
}

/// Whether clients can't be built because of missing certificates. reqwest's error does not say so, so two builds are compared.
fn system_certificates_are_missing() -> bool {
    Client::builder().no_proxy().build().is_err()
        && Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .build()
            .is_ok()
}

/// Whether a URL's host is this machine: `localhost` and names below it (RFC 6761 section 6.3), 127.0.0.0/8, `::1`, and
/// IPv4 loopback addresses mapped to IPv6.
///
/// ```
/// use coze_wire::is_loopback;
///
/// assert!(is_loopback(&"http://mock.localhost:8080".parse()?));
/// assert!(is_loopback(&"http://[::ffff:127.0.0.1]".parse()?));
/// assert!(!is_loopback(&"http://localhost.example.com".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
}

/// Why an HTTP client could not be built.
#[derive(Debug)]
pub struct HttpClientError {
    is_missing_certificates: bool,
    error: ForeignError,
}

impl HttpClientError {
    /// What to do when the system has no CA certificates.
    pub const ADVICE: &str = "install them (on Debian, Ubuntu and Alpine: the package ca-certificates), let SSL_CERT_FILE \
                              name a file of them, or give the HTTP client your own";

    /// Whether the system has no CA certificates, which `https` needs.
    #[must_use]
    pub fn is_missing_certificates(&self) -> bool {
        self.is_missing_certificates
    }
}

impl fmt::Display for HttpClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_missing_certificates {
            write!(
                f,
                "https needs CA certificates, and this system has none: {}",
                Self::ADVICE
            )
        } else {
            write!(
                f,
                "the HTTP client could not be built: {}",
                self.error.chain()
            )
        }
    }
}

impl Error for HttpClientError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts_are_recognized_in_every_form() {
        for (host, expected) in [
            ("localhost", true),
            ("LOCALHOST", true),
            ("localhost.", true),
            ("mock.localhost", true),
            ("a.b.localhost.", true),
            ("127.0.0.1", true),
            ("127.1", true),
            ("127.255.255.254", true),
            ("2130706433", true),
            ("0x7f.1", true),
            ("[::1]", true),
            ("[0:0:0:0:0:0:0:1]", true),
            ("[::ffff:127.0.0.1]", true),
            ("[::ffff:7f00:2]", true),
            ("localhost.example.com", false),
            ("notlocalhost", false),
            ("localhost.localdomain", false),
            ("128.0.0.1", false),
            ("10.0.0.1", false),
            ("[::2]", false),
            ("[::ffff:10.0.0.1]", false),
            ("api.coze.com", false),
        ] {
            for scheme in ["http", "https"] {
                let url = format!("{scheme}://{host}:8080/x").parse().unwrap();
                assert_eq!(is_loopback(&url), expected, "{url}");
            }
        }
    }

    #[cfg(not(feature = "http2"))]
    #[tokio::test]
    async fn without_the_feature_a_request_is_http_1_whatever_the_builder_says() {
        use tokio::io::AsyncReadExt as _;

        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x", server.local_addr().unwrap());
        let http = http_client_from(&url, || Client::builder().http2_prior_knowledge()).unwrap();
        let asking = tokio::spawn(async move { http.get(url).send().await.map(drop) });
        let mut first = [0; 14];
        let (mut connection, _) = server.accept().await.unwrap();
        connection.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"GET /x HTTP/1.");
        asking.abort();
    }

    #[test]
    fn an_invalid_builder_is_not_reported_as_missing_certificates() {
        let error = http_client_from("http://127.0.0.1:1", || Client::builder().user_agent("\n"));
        let error = error.unwrap_err();
        assert!(!error.is_missing_certificates(), "{error}");
        let cause = error.source().expect("a cause").to_string();
        assert!(error.to_string().contains(&cause), "{error}");
    }
}
