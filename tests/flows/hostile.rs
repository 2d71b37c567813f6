//! Malicious servers: their cost is bounded in time and memory. Faults of HTTP/2 streams are tested in
//! `runtimes.rs`, redirects in `faults.rs`, wrong certificates in `proxies.rs`.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use coze_auth::{
    Endpoint, Error, ErrorKind, OAuthClient, reqwest,
    testing::{SendFuture, Transport},
};
use futures_util::{Stream, StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use crate::support::{jwt_flow, millis, secs};

/// An upper bound of what is read from a response before it is abandoned: its limit plus socket buffers.
const TAKEN_AT_MOST: usize = 16 * 1024 * 1024;

/// Responds with the stream that this function creates.
struct Streams<F>(F);

impl<F, S> Transport for Streams<F>
where
    F: Fn() -> S + Send + Sync + 'static,
    S: Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
{
    fn send(&self, _: reqwest::Request) -> SendFuture<'_> {
        let body = reqwest::Body::wrap_stream((self.0)());
        Box::pin(async { Ok(http::Response::new(body).into()) })
    }
}

async fn error_over(transport: impl Transport) -> Error {
    let client = OAuthClient::builder().transport(transport).build().unwrap();
    jwt_flow(client).token().await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_ends_at_the_timeout() {
    for drip in [millis(10), secs(1), secs(29)] {
        let dripping = move || {
            stream::repeat(()).then(move |()| async move {
                tokio::time::sleep(drip).await;
                Ok(Bytes::from_static(b" "))
            })
        };
        let began = Instant::now();
        let error = error_over(Streams(dripping)).await;
        assert_eq!(began.elapsed(), secs(30), "{drip:?}");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{drip:?}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn endless_chunks_are_read_up_to_the_limit() {
    for size in [1, 1000, 64 * 1024] {
        let taken = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&taken);
        let endless = move || {
            let counted = Arc::clone(&counted);
            stream::repeat_with(move || {
                counted.fetch_add(size, Ordering::SeqCst);
                Ok(Bytes::from(vec![b' '; size]))
            })
        };
        let error = error_over(Streams(endless)).await;
        assert_eq!(error.kind(), ErrorKind::InvalidAnswer, "{size}: {error}");
        assert!(error.to_string().contains("longer than"), "{error}");
        let taken = taken.load(Ordering::SeqCst);
        assert!(taken <= 1024 * 1024 + size, "{size}: {taken}");
    }
}

/// A server that sends `first` and then repeats `rest` until the client disconnects. Also returns the number of bytes
/// that it sent.
async fn endless_server(first: &'static str, rest: &'static str) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move { talk(stream, first, rest, &counted).await });
        }
    });
    (base, sent)
}

async fn talk(
    mut stream: TcpStream,
    first: &str,
    rest: &str,
    sent: &AtomicUsize,
) -> std::io::Result<()> {
    stream.read_buf(&mut Vec::with_capacity(64 * 1024)).await?;
    stream.write_all(first.as_bytes()).await?;
    let many = rest.repeat(16 * 1024 / rest.len() + 1);
    loop {
        stream.write_all(many.as_bytes()).await?;
        sent.fetch_add(many.len(), Ordering::SeqCst);
    }
}

fn client_of(base: &str) -> OAuthClient {
    OAuthClient::builder()
        .endpoint(Endpoint::custom(base).unwrap())
        .request_timeout(secs(10))
        .build()
        .unwrap()
}

#[tokio::test]
async fn an_endless_response_is_abandoned_over_a_socket() {
    use ErrorKind::{Interrupted, InvalidAnswer};
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    for (what, first, rest, kind) in [
        ("chunks", CHUNKED, "8\r\n        \r\n", InvalidAnswer),
        (
            "a body",
            "HTTP/1.1 200 OK\r\n\r\n",
            "        ",
            InvalidAnswer,
        ),
        ("headers", "HTTP/1.1 200 OK\r\n", "x-a: b\r\n", Interrupted),
        (
            "a header",
            "HTTP/1.1 200 OK\r\nx-a: ",
            "bbbbbbbb",
            Interrupted,
        ),
        ("a status line", "HTTP/1.1 200 ", "OKOKOKOK", Interrupted),
    ] {
        let (base, sent) = endless_server(first, rest).await;
        let error = jwt_flow(client_of(&base)).token().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");
        let sent = sent.load(Ordering::SeqCst);
        assert!(sent < TAKEN_AT_MOST, "{what}: {sent} bytes");
    }
}

/// The preface of an HTTP/2 server: SETTINGS (RFC 9113 section 6.5). All frames here are written as ASCII.
const SETTINGS: &str = "\0\0\0\x04\0\0\0\0\0";

#[tokio::test]
async fn an_incomplete_response_ends_at_the_timeout_or_earlier() {
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    const ANSWERED: &str = "\0\0\0\x04\0\0\0\0\0\0\0\x05\x01\x04\0\0\0\x01\x08\x03200";
    const HEADERS_GO_ON: &str = "\0\0\0\x04\0\0\0\0\0\0\0\x05\x01\0\0\0\0\x01\x08\x03200";
    for (what, first, rest) in [
        ("interim answers", "", "HTTP/1.1 103 Early Hints\r\n\r\n"),
        ("the extension of a chunk", CHUNKED, "8;aaaaaa"),
        (
            "trailers",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
            "x-a: b\r\n",
        ),
        ("SETTINGS", SETTINGS, SETTINGS),
        ("PING", SETTINGS, "\0\0\x08\x06\0\0\0\0\0PINGPING"),
        (
            "GOAWAY after stream 1",
            SETTINGS,
            "\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0",
        ),
        (
            "interim HTTP/2 responses",
            SETTINGS,
            "\0\0\x05\x01\x04\0\0\0\x01\x08\x03103",
        ),
        ("empty DATA", ANSWERED, "\0\0\0\0\0\0\0\0\x01"),
        (
            "empty CONTINUATION",
            HEADERS_GO_ON,
            "\0\0\0\x09\0\0\0\0\x01",
        ),
        ("unknown frames", SETTINGS, "\0\0\x08\x7f\0\0\0\0\0........"),
    ] {
        let (base, sent) = endless_server(first, rest).await;
        let is_http2 = first.starts_with(SETTINGS);
        let client = OAuthClient::builder()
            .endpoint(Endpoint::custom(base).unwrap())
            .http(move || match reqwest::Client::builder() {
                builder if is_http2 => builder.http2_prior_knowledge(),
                builder => builder,
            })
            .request_timeout(secs(2))
            .build();
        let call = async { jwt_flow(client.unwrap()).token().await };
        let error = tokio::time::timeout(secs(60), call).await;
        let error = error
            .unwrap_or_else(|_| panic!("{what}: no end"))
            .unwrap_err();
        use ErrorKind::{Interrupted, InvalidAnswer, Timeout};
        let kinds = [Interrupted, InvalidAnswer, Timeout];
        assert!(kinds.contains(&error.kind()), "{what}: {error}");
        // Nothing is read afterwards.
        let stops = async {
            loop {
                let before = sent.load(Ordering::SeqCst);
                tokio::time::sleep(millis(200)).await;
                if sent.load(Ordering::SeqCst) == before {
                    return;
                }
            }
        };
        let stopped = tokio::time::timeout(secs(60), stops).await;
        assert!(stopped.is_ok(), "{what}: the connection is still read");
    }
}

#[tokio::test]
async fn a_response_after_the_timeout_is_ignored() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut late, _) = listener.accept().await.unwrap();
        late.read_buf(&mut Vec::with_capacity(64 * 1024))
            .await
            .unwrap();
        // The second request; the first has timed out and is answered only now.
        let (mut next, _) = listener.accept().await.unwrap();
        next.read_buf(&mut Vec::with_capacity(64 * 1024))
            .await
            .unwrap();
        let _ = late.write_all(token_named("late").as_bytes()).await;
        next.write_all(token_named("next").as_bytes())
            .await
            .unwrap();
        (late, next)
    });
    let client = OAuthClient::builder()
        .endpoint(Endpoint::custom(base).unwrap())
        .request_timeout(secs(3))
        .build();
    let jwt = jwt_flow(client.unwrap());
    let error = jwt.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    let token = jwt.token().await.unwrap();
    assert_eq!(token.access_token().expose(), "next");
    server.await.unwrap();
}

fn token_named(name: &str) -> String {
    let body =
        format!(r#"{{"access_token":"{name}","expires_in":4102444800,"token_type":"Bearer"}}"#);
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}
