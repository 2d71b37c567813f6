//! Does the message of an error contain the cause of a failed connection? Most programs print only that message.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use coze_auth::{DeviceFlow, Endpoint, Error, ErrorKind, OAuthClient, reqwest};
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, pem::PemObject},
    },
};

use crate::support::{CLIENT_ID, Manners, Refusing, RudeServer};

/// The error of a request to this base URL.
async fn error(
    api_base: &str,
    http: impl Fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder + Send + Sync + 'static,
) -> Error {
    let client = OAuthClient::builder()
        .endpoint(Endpoint::custom(api_base).unwrap())
        .http(move || http(reqwest::Client::builder().no_proxy()))
        .request_timeout(Duration::from_millis(500))
        .build()
        .unwrap();
    let device = DeviceFlow::new(client, CLIENT_ID).unwrap();
    device.start().await.unwrap_err()
}

#[track_caller]
fn assert_says(error: &Error, kind: ErrorKind, what: &str) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    assert!(text.contains(what), "{what}: {text}");
    assert_eq!(text.matches(what).count(), 1, "once: {text}");
}

#[tokio::test]
async fn a_refused_connection_is_named() {
    let refusing = Refusing::new();
    let error = error(&refusing.base_url(), |http| http).await;
    assert_says(&error, ErrorKind::Connect, "Connection refused");
}

/// A server, by the address of which a proxy is named, that says this to whatever comes.
async fn proxy_that_says(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let _ = connection.read(&mut [0; 1024]).await;
            let _ = connection.write_all(answer).await;
        }
    });
    address
}

#[tokio::test]
async fn a_proxy_that_makes_no_way_is_named_and_its_password_is_not_shown() {
    let refusing = Refusing::new();
    let base_url = refusing.base_url();
    let refusing = base_url.trim_start_matches("http://");
    let wants_login = proxy_that_says(b"HTTP/1.1 407 Login\r\n\r\n").await;
    let forbids = proxy_that_says(b"HTTP/1.1 403 Forbidden\r\n\r\n").await;
    let takes_no_login = proxy_that_says(b"\x05\xff").await;
    for (proxy, what) in [
        (format!("http://u:hush@{refusing}"), "Connection refused"),
        (
            format!("http://u:hush@{wants_login}"),
            "proxy authorization required",
        ),
        (format!("http://u:hush@{forbids}"), "tunnel error"),
        (format!("socks5h://u:hush@{refusing}"), "socks proxy"),
        (
            format!("socks5h://u:hush@{takes_no_login}"),
            "server does not support user/pass",
        ),
    ] {
        let error = error("https://api.example.invalid", move |http| {
            http.proxy(reqwest::Proxy::all(&proxy).unwrap())
        })
        .await;
        assert_says(&error, ErrorKind::Connect, what);
        assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
    }
}

struct UnknownHost;

impl Resolve for UnknownHost {
    fn resolve(&self, _: Name) -> Resolving {
        let unknown =
            io::Error::other("failed to lookup address information: Name or service not known");
        Box::pin(async { Err::<Addrs, _>(unknown.into()) })
    }
}

#[tokio::test]
async fn an_unresolved_host_is_named() {
    let error = error("https://api.example.invalid", |http| {
        http.dns_resolver(Arc::new(UnknownHost))
    })
    .await;
    assert_says(
        &error,
        ErrorKind::Connect,
        "failed to lookup address information",
    );
}

#[tokio::test]
async fn a_silent_server_is_a_timeout() {
    let server = RudeServer::start(Manners::SaysAndHangs(String::new())).await;
    let error = error(server.base_url(), |http| http).await;
    assert_says(&error, ErrorKind::Timeout, "timed out");
}

#[tokio::test]
async fn a_closed_connection_is_named() {
    let server = RudeServer::start(Manners::Closes).await;
    let error = error(server.base_url(), |http| http).await;
    assert_says(
        &error,
        ErrorKind::Interrupted,
        "connection closed before message completed",
    );
}

/// A server with a certificate for another host. Returns its CA certificate as PEM.
async fn server_with_wrong_certificate() -> (String, String) {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["other.example".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let private = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            // The handshake fails because the client closes the connection.
            let _ = acceptor.accept(connection).await;
        }
    });
    (format!("https://127.0.0.1:{port}"), authority.pem())
}

#[tokio::test]
async fn a_wrong_or_untrusted_certificate_is_named() {
    let (api_base, authority) = server_with_wrong_certificate().await;
    let of_another_name = error(&api_base, move |http| {
        let authority = reqwest::Certificate::from_pem(authority.as_bytes()).unwrap();
        http.tls_certs_only([authority])
    })
    .await;
    assert_says(
        &of_another_name,
        ErrorKind::Connect,
        "certificate not valid for name",
    );
    let text = of_another_name.to_string();
    assert!(text.contains("other.example"), "{text}");

    let other = CertifiedIssuer::self_signed(
        CertificateParams::new([]).unwrap(),
        KeyPair::generate().unwrap(),
    );
    let other = other.unwrap().pem();
    let unknown = error(&api_base, move |http| {
        http.tls_certs_only([reqwest::Certificate::from_pem(other.as_bytes()).unwrap()])
    })
    .await;
    assert_says(&unknown, ErrorKind::Connect, "invalid peer certificate");
}
