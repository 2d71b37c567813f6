//! Connecting to the endpoint: proxies from the environment, loopback names, CA certificates. Tests that depend on environment
//! variables run in a child process.

use std::{
    net::SocketAddr,
    process::Command,
    sync::{Arc, Mutex},
};

use coze_auth::{DeviceFlow, Endpoint, Error, ErrorKind, OAuthClient, reqwest};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use crate::support::secs;

/// An API host that does not exist in DNS.
const API_HOST: &str = "api.coze.test";

/// Every variable that configures a proxy.
const PROXY_VARIABLES: [&str; 6] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
];

const NO_CERTIFICATES: [(&str, &str); 2] = [
    ("SSL_CERT_FILE", "/dev/null"),
    ("SSL_CERT_DIR", "/nonexistent"),
];

/// The received requests: the first line of each.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn push(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Reads a request up to the end of its headers.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Answers one device authorization request.
async fn answer_device(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    heard: Heard,
) -> std::io::Result<()> {
    let head = head(&mut stream).await?;
    heard.push(head.lines().next().unwrap_or_default());
    let body = r#"{"device_code":"d1","user_code":"U1","verification_uri":"https://www.coze.com/open/oauth/device","expires_in":300,"interval":5}"#;
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    // The rest of the request is read, so that closing does not reset the connection and discard the response.
    let _ = tokio::time::timeout(secs(5), stream.read_to_end(&mut Vec::new())).await;
    Ok(())
}

/// A device authorization server, or a proxy that answers like one, at this address.
async fn device_server(at: &str) -> Option<(SocketAddr, Heard)> {
    let listener = TcpListener::bind(at).await.ok()?;
    let address = listener.local_addr().unwrap();
    let heard = Heard::default();
    let kept = heard.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_device(stream, heard.clone()));
        }
    });
    Some((address, kept))
}

/// The same over TLS with a certificate for this host. Also returns its CA certificate as PEM.
pub(crate) async fn tls_server(host: &str) -> (SocketAddr, Heard, String) {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([host.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Heard::default();
    let kept = heard.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, heard) = (acceptor.clone(), heard.clone());
            tokio::spawn(async move { answer_device(acceptor.accept(stream).await?, heard).await });
        }
    });
    (address, kept, authority.pem())
}

/// A SOCKS5 proxy (RFC 1928) that forwards everything to one address, and records the requested host.
async fn socks_server(to: SocketAddr) -> (SocketAddr, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Heard::default();
    let kept = heard.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_socks(stream, to, heard.clone()));
        }
    });
    (address, kept)
}

async fn serve_socks(mut stream: TcpStream, to: SocketAddr, heard: Heard) -> std::io::Result<()> {
    let (_version, methods) = (stream.read_u8().await?, stream.read_u8().await?);
    stream.read_exact(&mut vec![0; methods.into()]).await?;
    stream.write_all(&[5, 0]).await?;
    let mut request = [0; 5];
    stream.read_exact(&mut request).await?;
    let [_, connect, _, by_name, length] = request;
    assert_eq!((connect, by_name), (1, 3), "CONNECT, by name");
    let mut name = vec![0; length.into()];
    stream.read_exact(&mut name).await?;
    stream.read_u16().await?;
    heard.push(String::from_utf8_lossy(&name));
    stream.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 0]).await?;
    let mut outbound = TcpStream::connect(to).await?;
    tokio::io::copy_bidirectional(&mut stream, &mut outbound).await?;
    Ok(())
}

/// Starts a device authorization.
async fn start_device(client: OAuthClient) -> Result<(), Error> {
    let device = DeviceFlow::new(client, "my-client-id.app.coze").unwrap();
    device.start().await.map(drop)
}

const BASE: &str = "COZE_TESTS_PROXIES_BASE";
const ADDRESS: &str = "COZE_TESTS_PROXIES_ADDRESS";

/// Not a test but the child process of [`output_in`].
#[tokio::test]
#[ignore = "started by other tests with a different environment"]
async fn child() {
    let Ok(base) = std::env::var(BASE) else {
        return;
    };
    let endpoint = Endpoint::builder(base)
        .allow_http_host(API_HOST)
        .build()
        .unwrap();
    let mut client = OAuthClient::builder().endpoint(endpoint);
    if let Ok(address) = std::env::var(ADDRESS) {
        let address: SocketAddr = address.parse().unwrap();
        client = client.http(move || reqwest::Client::builder().resolve(API_HOST, address));
    }
    let outcome = match client.build() {
        Ok(client) => start_device(client).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => println!("\nsaid: well"),
        Err(error) => println!("\nsaid: {:?}: {error}; {}", error.kind(), error.hint()),
    }
}

/// The output of a process that starts a device authorization in this environment.
async fn output_in(environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["proxies::child", "--exact", "--ignored", "--nocapture"]);
    for variable in PROXY_VARIABLES.iter().chain(&["NO_PROXY", "no_proxy"]) {
        command.env_remove(variable);
    }
    command.envs(environment.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = text.lines().find_map(|line| line.strip_prefix("said: "));
    said.unwrap_or_else(|| panic!("{text} {}", String::from_utf8_lossy(&output.stderr)))
        .to_owned()
}

#[tokio::test]
async fn loopback_bypasses_environment_proxies_and_needs_no_certificates() {
    let (server, heard) = device_server("127.0.0.1:0").await.unwrap();
    let (proxy, proxied) = device_server("127.0.0.1:0").await.unwrap();
    let (proxy, port) = (format!("http://{proxy}"), server.port());
    let mut bases: Vec<_> = [
        "127.0.0.1",
        "localhost",
        "localhost.",
        "mock.localhost",
        "[::ffff:127.0.0.1]",
    ]
    .map(|host| format!("http://{host}:{port}"))
    .into();
    // Not every machine has IPv6.
    let on_v6 = device_server("[::1]:0").await;
    bases.extend(
        on_v6
            .as_ref()
            .map(|(address, _)| format!("http://{address}")),
    );
    for base in &bases {
        let mut environment = vec![(BASE, base.as_str())];
        environment.extend(PROXY_VARIABLES.map(|variable| (variable, proxy.as_str())));
        environment.extend(NO_CERTIFICATES);
        assert_eq!(output_in(&environment).await, "well", "{base}");
    }
    let heard = heard.lines().len() + on_v6.map_or(0, |(_, heard)| heard.lines().len());
    assert_eq!(heard, bases.len());
    assert_eq!(proxied.lines(), Vec::<String>::new());
}

#[tokio::test]
async fn an_allowed_insecure_host_bypasses_the_environment_proxy() {
    let (server, heard) = device_server("127.0.0.1:0").await.unwrap();
    let (proxy, proxied) = device_server("127.0.0.1:0").await.unwrap();
    let (proxy, server) = (format!("http://{proxy}"), server.to_string());
    let base = format!("http://{API_HOST}:{}", server.rsplit(':').next().unwrap());
    let mut environment = vec![(BASE, base.as_str()), (ADDRESS, &server)];
    environment.extend(PROXY_VARIABLES.map(|variable| (variable, proxy.as_str())));
    assert_eq!(output_in(&environment).await, "well");
    assert_eq!((heard.lines().len(), proxied.lines().len()), (1, 0));
}

#[tokio::test]
async fn an_https_endpoint_uses_the_environment_proxy() {
    let (_, _, authority) = tls_server(API_HOST).await;
    let (proxy, proxied) = device_server("127.0.0.1:0").await.unwrap();
    let (base, proxy) = (format!("https://{API_HOST}"), format!("http://{proxy}"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, authority).unwrap();
    let file = file.to_str().unwrap();
    let environment = [
        (BASE, base.as_str()),
        ("ALL_PROXY", &proxy),
        ("SSL_CERT_FILE", file),
    ];
    // This proxy refuses CONNECT.
    let said = output_in(&environment).await;
    assert!(said.starts_with("Connect"), "{said}");
    assert_eq!(
        proxied.lines(),
        [format!("CONNECT {API_HOST}:443 HTTP/1.1")]
    );
}

#[tokio::test]
async fn an_https_endpoint_uses_a_socks_proxy_from_the_environment() {
    let (server, heard, authority) = tls_server(API_HOST).await;
    let (proxy, proxied) = socks_server(server).await;
    let (base, proxy) = (format!("https://{API_HOST}"), format!("socks5h://{proxy}"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, authority).unwrap();
    let file = file.to_str().unwrap();
    let environment = [
        (BASE, base.as_str()),
        ("ALL_PROXY", &proxy),
        ("SSL_CERT_FILE", file),
    ];
    assert_eq!(output_in(&environment).await, "well");
    assert_eq!(proxied.lines(), [API_HOST]);
    assert_eq!(heard.lines().len(), 1);
}

#[tokio::test]
async fn missing_ca_certificates_are_reported_with_the_package_to_install() {
    let mut environment = vec![(BASE, "https://api.coze.com")];
    environment.extend(NO_CERTIFICATES);
    let said = output_in(&environment).await;
    assert!(said.starts_with("System: "), "{said}");
    assert!(said.contains("CA certificates"), "{said}");
    assert!(said.contains("ca-certificates"), "{said}");
    assert!(!said.contains("correct the value"), "{said}");
}

#[tokio::test]
async fn a_proxy_set_by_the_caller_applies_to_loopback_and_allowed_hosts() {
    for host in ["127.0.0.1:9", "mock.localhost:9", "api.coze.test:9"] {
        let (proxy, proxied) = device_server("127.0.0.1:0").await.unwrap();
        let proxy = format!("http://{proxy}");
        let endpoint = Endpoint::builder(format!("http://{host}")).allow_http_host(API_HOST);
        let client = OAuthClient::builder()
            .endpoint(endpoint.build().unwrap())
            .http(move || reqwest::Client::builder().proxy(reqwest::Proxy::all(&proxy).unwrap()));
        start_device(client.build().unwrap()).await.unwrap();
        let [line] = &proxied.lines()[..] else {
            panic!("{host}: {:?}", proxied.lines());
        };
        assert!(line.starts_with(&format!("POST http://{host}/")), "{line}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_ends_the_connection_before_the_request() {
    let (server, heard, authority) = tls_server("api.another.test").await;
    let authority = reqwest::Certificate::from_pem(authority.as_bytes()).unwrap();
    let client = OAuthClient::builder()
        .endpoint(Endpoint::custom(format!("https://{API_HOST}:{}", server.port())).unwrap())
        .http(move || {
            reqwest::Client::builder()
                .no_proxy()
                .tls_certs_only([authority.clone()])
                .resolve(API_HOST, server)
        });
    let error = start_device(client.build().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("certificate"), "{source}");
    assert_eq!(heard.lines(), Vec::<String>::new());
}
