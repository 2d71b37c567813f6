//! The mock over a socket, called by a plain TCP client.

use coze_mock::{Endpoint, Fault, Framing, MockCoze, ScriptedResponse, Times, When, defaults};
use std::io::{ErrorKind, Write as _};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

async fn exchange(mock: &MockCoze, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(mock.address().expect("a socket")).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn users_me(mock: &MockCoze) -> String {
    let host = mock.address().expect("a socket");
    let token = defaults::PERSONAL_ACCESS_TOKEN;
    format!(
        "GET /v1/users/me HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    )
}

#[tokio::test]
async fn a_response_has_one_date_from_the_mocks_clock() {
    let clock = crate::client::frozen();
    let mock = MockCoze::builder()
        .clock(clock)
        .start()
        .await
        .expect("a mock");
    let answer = exchange(&mock, &users_me(&mock))
        .await
        .expect("an answer")
        .to_lowercase();
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    assert_eq!(answer.matches("\r\ndate: ").count(), 1);
    assert!(
        answer.contains("date: fri, 15 jan 2027 08:00:00 gmt"),
        "{answer}"
    );
}

/// Whether this system distinguishes a reset from a normal close. Wine does not.
async fn tells_resets() -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut client = TcpStream::connect(address).await.expect("a connection");
    let (server, _) = listener.accept().await.expect("a connection");
    server.set_zero_linger().expect("an option");
    drop(server);
    client.read_u8().await.map_err(|error| error.kind()) == Err(ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn a_connection_reset_is_a_reset() {
    if cfg!(windows) && !tells_resets().await {
        // Written to the file descriptor, because captured output is shown only for failed tests.
        let _ = std::io::stderr()
            .write_all(b"a_connection_reset_is_a_reset: skipped: this system does not distinguish a reset from a close\n");
        return;
    }
    let mock = MockCoze::start().await.expect("a mock");
    for when in [When::BeforeProcessing, When::AfterProcessing] {
        mock.faults().add(
            Fault::ConnectionReset { when },
            Endpoint::UsersMe,
            Times::ONCE,
        );
        let error = exchange(&mock, &users_me(&mock))
            .await
            .expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert!(
        exchange(&mock, &users_me(&mock)).await.is_ok(),
        "the next connection is served"
    );
}

#[tokio::test]
async fn a_truncated_body_is_sent_up_to_its_cut() {
    let mock = MockCoze::start().await.expect("a mock");
    let body = "{\"code\":0}";
    for (framing, head, sent) in [
        (Framing::new(), "content-length: 10\r\n", body),
        (Framing::new().missing(7), "content-length: 17\r\n", body),
        (
            Framing::new().cut_after(4).missing(7),
            "content-length: 11\r\n",
            "{\"co",
        ),
        (
            Framing::new().without_last_chunk(),
            "transfer-encoding: chunked\r\n",
            "A\r\n{\"code\":0}\r\n",
        ),
    ] {
        let scripted = ScriptedResponse::new(200, body).framed(framing);
        mock.faults().add(scripted, Endpoint::UsersMe, Times::ONCE);
        let answer = exchange(&mock, &users_me(&mock))
            .await
            .expect("a normal close");
        let (headers, rest) = answer.split_once("\r\n\r\n").expect("a head");
        let headers = format!("{headers}\r\n").to_lowercase();
        assert!(headers.contains(head), "{answer}");
        assert_eq!(rest, sent, "{answer}");
    }
}

#[tokio::test]
async fn statuses_that_have_no_body_have_none() {
    let mock = MockCoze::start().await.expect("a mock");
    for status in [204, 304] {
        let scripted = ScriptedResponse::new(status, "");
        mock.faults().add(scripted, Endpoint::UsersMe, Times::ONCE);
        let answer = exchange(&mock, &users_me(&mock)).await.expect("an answer");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_timeout_keeps_the_connection_open() {
    let mock = MockCoze::start().await.expect("a mock");
    mock.faults().add(
        Fault::Timeout {
            when: When::BeforeProcessing,
        },
        Endpoint::UsersMe,
        Times::ONCE,
    );
    let answer = tokio::time::timeout(
        Duration::from_millis(100),
        exchange(&mock, &users_me(&mock)),
    )
    .await;
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test]
async fn a_mock_stops_on_shutdown_and_on_drop() {
    let mock = MockCoze::start().await.expect("a mock");
    let address = mock.address().expect("a socket");
    let held = TcpStream::connect(address).await.expect("a connection");
    mock.shutdown().await;
    assert!(TcpStream::connect(address).await.is_err());
    assert!(mock.requests().is_empty(), "the handle still works");
    drop(held);

    let mock = MockCoze::start().await.expect("a mock");
    let address = mock.address().expect("a socket");
    let clone = mock.clone();
    drop(mock);
    assert!(
        TcpStream::connect(address).await.is_ok(),
        "a clone keeps it alive"
    );
    drop(clone);
    for _ in 0..100 {
        if TcpStream::connect(address).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("still listening");
}

#[tokio::test]
async fn two_mocks_share_no_state() {
    let one = MockCoze::start().await.expect("a mock");
    let other = MockCoze::start().await.expect("a mock");
    assert_ne!(one.url(), other.url());
    exchange(&one, &users_me(&one)).await.expect("an answer");
    assert_eq!((one.request_count(), other.request_count()), (1, 0));
}
