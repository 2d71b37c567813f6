//! Slow, idle, excess and aborted connections. Timeouts are short here, and the tests wait long for them.

use coze_mock::{Builder, Endpoint, Fault, MockCoze, ScriptedResponse, Times, When, defaults};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const SHORT: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
const PATIENT: Duration = Duration::from_secs(60);

async fn start(builder: Builder) -> MockCoze {
    builder.start().await.expect("a mock")
}

async fn connect(mock: &MockCoze) -> TcpStream {
    let address = mock.address().expect("a socket");
    TcpStream::connect(address).await.expect("a connection")
}

fn users_me(more: &str) -> String {
    let token = defaults::PERSONAL_ACCESS_TOKEN;
    format!(
        "GET /v1/users/me HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n{more}\r\n"
    )
}

/// Reads until the mock closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = timeout(PATIENT, stream.read_to_end(&mut bytes)).await;
    // A reset also ends the connection.
    let _ = read.expect("the mock closes the connection");
    String::from_utf8(bytes).expect("text")
}

async fn is_served(mock: &MockCoze) -> bool {
    let mut stream = connect(mock).await;
    let request = users_me("connection: close\r\n");
    let sent = stream.write_all(request.as_bytes()).await;
    sent.is_ok() && rest(&mut stream).await.starts_with("HTTP/1.1 200")
}

#[tokio::test]
async fn an_incomplete_head_times_out() {
    let mock = start(MockCoze::builder().head_timeout(SHORT)).await;
    for sent in [
        "",
        "GET",
        "GET /v1/users/me HTTP/1.1\r\nhost: localhost\r\n",
    ] {
        let mut stream = connect(&mock).await;
        stream.write_all(sent.as_bytes()).await.expect("sent");
        rest(&mut stream).await;
    }
    // Sending single bytes does not extend the timeout.
    let mut stream = connect(&mock).await;
    stream.write_all(b"GET /").await.expect("sent");
    let ended = timeout(PATIENT, async {
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    ended.await.expect("the mock closes the connection");
    assert!(is_served(&mock).await);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_response() {
    let mock = start(MockCoze::builder().head_timeout(SHORT)).await;
    let mut stream = connect(&mock).await;
    stream
        .write_all(users_me("").as_bytes())
        .await
        .expect("sent");
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn an_incomplete_body_times_out() {
    let mock = start(MockCoze::builder().body_timeout(SHORT).head_timeout(DAY)).await;
    for length in ["content-length: 1000", "transfer-encoding: chunked"] {
        let (mut reader, mut writer) = connect(&mock).await.into_split();
        let head = format!(
            "POST /api/permission/oauth2/token HTTP/1.1\r\nhost: localhost\r\n{length}\r\n\r\n"
        );
        writer.write_all(head.as_bytes()).await.expect("sent");
        let trickle = tokio::spawn(async move {
            let piece = if head.contains("chunked") {
                "1\r\nx\r\n"
            } else {
                "x"
            };
            for _ in 0..999 {
                if writer.write_all(piece.as_bytes()).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let mut start = [0; 12];
        let read = timeout(PATIENT, reader.read_exact(&mut start)).await;
        read.expect("in time").expect("an answer");
        assert_eq!(&start, b"HTTP/1.1 408", "{length}");
        let requests = mock.requests();
        let record = requests.last().expect("a record");
        assert_eq!(record.status(), Some(408), "{length}");
        trickle.abort();
    }
    assert!(is_served(&mock).await);
}

#[tokio::test]
async fn a_client_that_reads_nothing_or_slowly_times_out() {
    for reads in [false, true] {
        let builder = MockCoze::builder().body_timeout(SHORT).head_timeout(DAY);
        let mock = start(builder.max_connections(1)).await;
        // The response exceeds every buffer.
        let answer = ScriptedResponse::new(200, vec![b' '; 64 * 1024 * 1024]);
        mock.faults()
            .add(Fault::Scripted(answer), Endpoint::UsersMe, Times::ONCE);
        let mut stream = connect(&mock).await;
        stream
            .write_all(users_me("").as_bytes())
            .await
            .expect("sent");
        let reader = tokio::spawn(async move {
            // About 20 MB per second: too slow for the timeout, but never idle for long.
            let mut piece = vec![0; 256 * 1024];
            while !reads || stream.read(&mut piece).await.is_ok_and(|read| read > 0) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        // The limit is one connection.
        let mut next = connect(&mock).await;
        let request = users_me("connection: close\r\n");
        next.write_all(request.as_bytes()).await.expect("sent");
        assert!(rest(&mut next).await.starts_with("HTTP/1.1 200"));
        reader.abort();
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let mock = start(MockCoze::builder().max_connections(2).head_timeout(DAY)).await;
    let (one, two) = (connect(&mock).await, connect(&mock).await);
    let mut third = connect(&mock).await;
    let request = users_me("connection: close\r\n");
    third.write_all(request.as_bytes()).await.expect("sent");
    let early = timeout(SHORT, third.read_u8()).await;
    assert!(early.is_err(), "it waits");
    drop(one);
    assert!(rest(&mut third).await.starts_with("HTTP/1.1 200"));
    drop(two);
}

#[tokio::test]
async fn an_aborted_connection_frees_its_slot() {
    let mock = start(MockCoze::builder().max_connections(1).head_timeout(DAY)).await;
    let when = When::BeforeProcessing;
    for fault in [Fault::Timeout { when }, Fault::latency(DAY)] {
        mock.faults().add(fault, Endpoint::UsersMe, Times::ONCE);
        let mut stream = connect(&mock).await;
        stream
            .write_all(users_me("").as_bytes())
            .await
            .expect("sent");
        let waited = timeout(SHORT, stream.read_u8()).await;
        assert!(waited.is_err(), "no answer");
        drop(stream);
        assert!(is_served(&mock).await);
    }
}
