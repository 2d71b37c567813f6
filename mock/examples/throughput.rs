//! How many requests per second the mock answers, compared with a bare server on the same HTTP library.
//!
//! ```console
//! $ cargo run --release -p coze-mock --example throughput
//! ```

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use coze_mock::{MockCoze, defaults};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::error::Error;
use std::io::{Write as _, stdout};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

type Anything<T> = Result<T, Box<dyn Error + Send + Sync>>;

const CONNECTIONS: usize = 32;
const MEASURED: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> Anything<()> {
    let mock = MockCoze::builder().lenient(false).start().await?;
    let address = mock.address().ok_or("no socket")?;
    let bare = bare_server().await?;
    let authorization = |token: &str| format!("authorization: Bearer {token}\r\n");
    let pat = authorization(defaults::PERSONAL_ACCESS_TOKEN);
    let device = json!({"client_id": defaults::DEVICE_CLIENT_ID}).to_string();
    let device_path = "/api/permission/oauth2/device/code";
    let jwts = jwts(&address.ip().to_string(), 30_000)?;

    let mut out = stdout();
    writeln!(
        out,
        "{CONNECTIONS} connections, client and server in one process:"
    )?;
    for (name, address, requests) in [
        ("bare server, GET", bare, same(get("/v1/users/me", &pat))),
        (
            "mock, GET /v1/users/me",
            address,
            same(get("/v1/users/me", &pat)),
        ),
        (
            "bare server, POST",
            bare,
            same(post(device_path, "", &device)),
        ),
        (
            "mock, POST device/code",
            address,
            same(post(device_path, "", &device)),
        ),
        ("mock, POST token (JWT)", address, jwts),
    ] {
        let rate = measure(address, requests).await?;
        writeln!(out, "{name:24} {rate:>8.0} requests/s")?;
    }
    writeln!(out, "violations: {}", mock.violations().len())?;
    Ok(())
}

/// The requests to send: a finite list, or the same request repeated.
type Requests = Arc<dyn Fn(usize) -> Option<Bytes> + Send + Sync>;

fn same(request: String) -> Requests {
    let request = Bytes::from(request);
    Arc::new(move |_| Some(request.clone()))
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}\r\n")
}

fn post(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

/// A JWT is single-use, so all of them are signed before the measurement.
fn jwts(host: &str, count: usize) -> Anything<Requests> {
    let pem = defaults::jwt_private_key_pem()?;
    let der: String = pem
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    let key = RsaKeyPair::from_pkcs8(&STANDARD.decode(der)?)?;
    let random = SystemRandom::new();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(json!({"alg": "RS256", "typ": "JWT", "kid": defaults::JWT_PUBLIC_KEY_ID}));
    let body = json!({"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer"}).to_string();
    let mut requests = Vec::with_capacity(count);
    for number in 0..count {
        let claims = json!({"iss": defaults::JWT_CLIENT_ID, "aud": host, "iat": now, "exp": now + 600,
            "jti": format!("{number:0>40}")});
        let message = format!("{header}.{}", part(claims));
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(
            &RSA_PKCS1_SHA256,
            &random,
            message.as_bytes(),
            &mut signature,
        )?;
        let authorization = format!(
            "authorization: Bearer {message}.{}\r\n",
            URL_SAFE_NO_PAD.encode(signature)
        );
        requests.push(Bytes::from(post(
            "/api/permission/oauth2/token",
            &authorization,
            &body,
        )));
    }
    Ok(Arc::new(move |number| requests.get(number).cloned()))
}

async fn measure(address: SocketAddr, requests: Requests) -> Anything<f64> {
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (requests, next) = (Arc::clone(&requests), Arc::clone(&next));
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut answered = 0usize;
            let mut buffer = Vec::with_capacity(4096);
            while start.elapsed() < MEASURED {
                let Some(request) =
                    requests(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                else {
                    break;
                };
                stream.write_all(&request).await?;
                read_answer(&mut stream, &mut buffer).await?;
                answered += 1;
            }
            Anything::Ok(answered)
        });
    }
    let mut answered = 0;
    for client in clients.join_all().await {
        answered += client?;
    }
    #[allow(
        clippy::cast_precision_loss,
        reason = "a rate does not need 53 bits of precision"
    )]
    Ok(answered as f64 / start.elapsed().as_secs_f64())
}

/// Reads one response: its head, then `content-length` bytes of body.
async fn read_answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Anything<()> {
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err("the server closed the connection".into());
        }
        let Some(head_end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let head = std::str::from_utf8(&buffer[..head_end])?;
        if !head.starts_with("HTTP/1.1 200") {
            return Err(head.to_owned().into());
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .ok_or("no length")?;
        if buffer.len() >= head_end + 4 + length.parse::<usize>()? {
            return Ok(());
        }
    }
}

/// Reads each request completely and answers with a body as long as the mock's.
async fn bare_server() -> Anything<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let body = Bytes::from(vec![b' '; 190]);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let body = body.clone();
            let answer =
                hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let body = body.clone();
                    async move {
                        request.into_body().collect().await?;
                        Ok::<_, hyper::Error>(http::Response::new(Full::new(body)))
                    }
                });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer);
            tokio::spawn(connection);
        }
    });
    Ok(address)
}
