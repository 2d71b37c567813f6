//! Untrusted requests: foreign host names, pages of other origins, and malformed requests.

use coze_mock::{MockCoze, defaults};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Sends bytes, and reads until the mock closes the connection.
async fn send(mock: &MockCoze, bytes: &[u8]) -> String {
    let port = mock.address().expect("a socket").port();
    let mut stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("a connection");
    let mut answer = Vec::new();
    let exchange = async {
        // The mock may close the connection before it has read everything.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut answer).await;
    };
    timeout(Duration::from_secs(60), exchange)
        .await
        .expect("an end");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn status(mock: &MockCoze, head: &str) -> String {
    let answer = send(mock, format!("{head}connection: close\r\n\r\n").as_bytes()).await;
    answer.get(9..12).unwrap_or_default().to_owned()
}

async fn controllable(listen: &str) -> MockCoze {
    MockCoze::builder()
        .listen(listen.parse().expect("an address"))
        .control_endpoints(true)
        .public_url("https://mock.example/")
        .start()
        .await
        .expect("a mock")
}

#[tokio::test]
async fn a_loopback_mock_accepts_only_loopback_names() {
    let mock = controllable("127.0.0.1:0").await;
    for (target, hosts, expected) in [
        ("", "host: 127.0.0.1\r\n", "200"),
        ("", "host: 127.0.0.1:65535\r\n", "200"),
        ("", "host: LOCALHOST:8377\r\n", "200"),
        ("", "host: [::1]:8377\r\n", "200"),
        ("", "host: mock.example\r\n", "200"),
        ("http://127.0.0.1", "host: 127.0.0.1\r\n", "200"),
        ("http://127.0.0.1", "", "200"),
        ("", "", "403"),
        ("", "host:\r\n", "403"),
        ("", "host: [::1\r\n", "403"),
        ("", "host: ::1\r\n", "403"),
        ("", "host: localhost:\r\n", "403"),
        ("", "host: localhost:x\r\n", "403"),
        ("", "host: localhost/\r\n", "403"),
        ("", "host: local host\r\n", "403"),
        ("", "host: localhost\x0b\r\n", "400"),
        ("", "host: localhost\u{200b}\r\n", "403"),
        ("", "host: evil.example\r\n", "403"),
        ("", "host: localhost.evil.example\r\n", "403"),
        ("", "host: 127.0.0.1.evil.example\r\n", "403"),
        ("", "host: mock.example.evil.example\r\n", "403"),
        ("", "host: mock.example:80\r\n", "403"),
        ("", "host: evil.example:80@127.0.0.1\r\n", "403"),
        ("", "host: user@127.0.0.1\r\n", "403"),
        ("", "host: 10.0.0.1\r\n", "403"),
        ("", "host: localhost\r\nhost: localhost\r\n", "403"),
        ("", "host: localhost\r\nhost: evil.example\r\n", "403"),
        ("", "host: evil.example\r\nhost: localhost\r\n", "403"),
        ("", "host: localhost, evil.example\r\n", "403"),
        ("http://evil.example", "host: localhost\r\n", "403"),
        ("http://localhost", "host: evil.example\r\n", "403"),
        ("http://evil.example", "", "403"),
        ("http://user@localhost", "host: localhost\r\n", "403"),
    ] {
        for path in ["/_mock/requests", "/_mock/device"] {
            let head = format!("GET {target}{path} HTTP/1.1\r\n{hosts}");
            assert_eq!(status(&mock, &head).await, expected, "{head:?}");
        }
    }
    let head = "GET /_mock/requests HTTP/1.0\r\n";
    assert_eq!(status(&mock, head).await, "403", "HTTP/1.0 needs no host");
}

#[tokio::test]
async fn a_page_of_another_origin_cannot_control_a_mock() {
    for listen in ["127.0.0.1:0", "0.0.0.0:0"] {
        let mock = controllable(listen).await;
        let open = listen.starts_with('0');
        for (host, origins, expected) in [
            ("127.0.0.1:8377", &[][..], "200"),
            ("127.0.0.1:8377", &["http://127.0.0.1:8377"], "200"),
            ("mock.example", &["https://mock.example"], "200"),
            ("127.0.0.1:8377", &["http://127.0.0.1:8378"], "403"),
            ("127.0.0.1:8377", &["http://localhost:8377"], "403"),
            ("127.0.0.1:8377", &["http://evil.example"], "403"),
            (
                "127.0.0.1:8377",
                &["http://127.0.0.1:8377.evil.example"],
                "403",
            ),
            ("127.0.0.1:8377", &["null"], "403"),
            ("127.0.0.1:8377", &[""], "403"),
            ("127.0.0.1:8377", &["http://\u{e9}.example"], "403"),
            (
                "127.0.0.1:8377",
                &["http://127.0.0.1:8377", "http://evil.example"],
                "403",
            ),
            // The page's name was rebound to the mock's address.
            ("evil.example:8377", &["http://evil.example:8377"], "403"),
            ("evil.example", &["https://mock.example"], "403"),
            // Programs in a container network, and a page that one of them serves.
            ("mock.svc.internal", &[], if open { "200" } else { "403" }),
            (
                "coze-mock:8377",
                &["http://coze-mock:8377"],
                if open { "200" } else { "403" },
            ),
        ] {
            for request in ["POST /_mock/reset", "DELETE /_mock/faults"] {
                let origins: String = origins
                    .iter()
                    .map(|origin| format!("origin: {origin}\r\n"))
                    .collect();
                let head = format!("{request} HTTP/1.1\r\nhost: {host}\r\n{origins}");
                assert_eq!(status(&mock, &head).await, expected, "{listen} {head:?}");
            }
        }
        for (site, expected) in [
            ("none", "200"),
            ("same-origin", "200"),
            ("same-site", "403"),
            ("\u{e9}", "403"),
        ] {
            let head = format!(
                "POST /_mock/reset HTTP/1.1\r\nhost: 127.0.0.1\r\nsec-fetch-site: {site}\r\n"
            );
            assert_eq!(status(&mock, &head).await, expected, "{site}");
        }
    }
}

#[tokio::test]
async fn coze_endpoints_require_exactly_one_host() {
    let mock = MockCoze::start().await.expect("a mock");
    for (hosts, expected) in [
        ("host: localhost\r\n", "401"),
        ("host: api.coze.test\r\n", "401"),
        ("host: [::1\r\n", "400"),
        ("host: localhost\r\nhost: localhost\r\n", "400"),
        ("host: a@b\r\n", "400"),
    ] {
        let head = format!("GET /v1/users/me HTTP/1.1\r\n{hosts}");
        assert_eq!(status(&mock, &head).await, expected, "{hosts:?}");
    }
    let places = mock.violations();
    let hosts = places.iter().filter(|found| found.place == "header/Host");
    assert_eq!(hosts.count(), 3);
}

#[tokio::test]
async fn a_client_without_a_host_gets_the_address_of_the_mock() {
    let mock = MockCoze::start().await.expect("a mock");
    let body = "{\"client_id\":\"mock-device.app.coze\"}";
    let length = body.len();
    let request = format!(
        "POST /api/permission/oauth2/device/code HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let answer = send(&mock, request.as_bytes()).await;
    let expected = format!("\"verification_uri\":\"{}/_mock/device\"", mock.url());
    assert!(answer.contains(&expected), "{answer}");
}

/// Every malformed request ends, and the next request is served.
#[tokio::test]
async fn malformed_requests_are_handled() {
    let mock = controllable("127.0.0.1:0").await;
    let token = defaults::PERSONAL_ACCESS_TOKEN;
    let users_me = format!(
        "GET /v1/users/me HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n"
    );
    let post = |path: &str, body: &[u8]| {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        );
        [head.as_bytes(), body].concat()
    };
    let token_path = "/api/permission/oauth2/token";
    let deep = "[".repeat(500_000);
    let deep_object = "{\"scope\":".repeat(50_000);
    let wide = format!("{{{}\"x\":1}}", "\"grant_type\":1,".repeat(50_000));
    let headers = |count: usize, length: usize| {
        let value = "x".repeat(length);
        let lines: String = (0..count).map(|n| format!("x-{n}: {value}\r\n")).collect();
        format!("{users_me}{lines}connection: close\r\n\r\n").into_bytes()
    };
    let long_path = format!(
        "GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "x".repeat(70_000)
    );
    for (what, bytes, expected) in [
        ("nothing", Vec::new(), ""),
        ("zeros", vec![0; 10_000], "400"),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), "400"),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), ""),
        ("HTTP/0.9", b"GET /\r\n\r\n".to_vec(), "400"),
        ("escape in the path", b"GET /\x1b[2J HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(), "400"),
        ("half UTF-8 in the path", b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(), "400"),
        ("a long path", long_path.into_bytes(), "4"),
        ("many headers", headers(101, 1), "431"),
        ("a long header", headers(1, 100_000), "431"),
        ("a header without a name", format!("{users_me}: x\r\n\r\n").into_bytes(), "400"),
        ("a folded header", format!("{users_me}x: a\r\n b\r\n\r\n").into_bytes(), "400"),
        ("two lengths", format!("{users_me}content-length: 1\r\ncontent-length: 2\r\n\r\nx").into_bytes(), "400"),
        ("a length below zero", format!("{users_me}content-length: -1\r\n\r\n").into_bytes(), "400"),
        ("a length beyond u64", format!("{users_me}content-length: 18446744073709551616\r\n\r\n").into_bytes(), "400"),
        ("a chunk beyond u64", format!("{users_me}transfer-encoding: chunked\r\n\r\n11111111111111111\r\nx").into_bytes(), ""),
        ("length and chunks", post(token_path, b"{}").replacen_head("content-length", "transfer-encoding: chunked\r\ncontent-length"), ""),
        ("deep JSON", post(token_path, deep.as_bytes()), "400"),
        ("deep JSON objects", post(token_path, deep_object.as_bytes()), "400"),
        ("deeply nested control request", post("/_mock/faults", deep.as_bytes()), "400"),
        ("one name many times", post(token_path, wide.as_bytes()), "400"),
        ("half UTF-8", post(token_path, b"{\"grant_type\":\"\xff\"}"), "400"),
        ("invalid UTF-8 in a control request", post("/_mock/clock/advance", b"{\"seconds\":1\xff}"), "400"),
        ("half a surrogate", post(token_path, b"{\"grant_type\":\"\\ud800\"}"), "400"),
        ("a number with very many digits", post("/_mock/clock/advance", format!("{{\"seconds\":{}}}", "9".repeat(100_000)).as_bytes()), "400"),
        ("an oversized control request", post("/_mock/faults", &vec![b' '; 2_000_000]), "4"),
        ("CONNECT", b"CONNECT localhost:80 HTTP/1.1\r\nhost: localhost:80\r\nconnection: close\r\n\r\n".to_vec(), "4"),
        ("OPTIONS *", b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_vec(), "404"),
        ("an unknown long method", format!("{} / HTTP/1.1\r\nhost: localhost\r\n\r\n", "X".repeat(10_000)).into_bytes(), "404"),
        ("a malformed query", b"GET /v1/bots?%%%=%ff&&&=&a=%00 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_vec(), "4"),
        ("an upgrade", format!("{users_me}upgrade: h2c\r\nconnection: upgrade, close\r\n\r\n").into_bytes(), "200"),
    ] {
        let answer = send(&mock, &bytes).await;
        let status = answer.get(9..).unwrap_or_default();
        assert!(status.starts_with(expected), "{what}: {answer:.300}");
        let next = format!("{users_me}connection: close\r\n\r\n");
        let served = send(&mock, next.as_bytes()).await;
        assert!(served.starts_with("HTTP/1.1 200"), "after {what}: {served}");
    }
    let pipelined =
        format!("{users_me}\r\n").repeat(50) + &format!("{users_me}connection: close\r\n\r\n");
    let answers = send(&mock, pipelined.as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 51);
}

trait Head {
    fn replacen_head(self, from: &str, to: &str) -> Self;
}

impl Head for Vec<u8> {
    fn replacen_head(self, from: &str, to: &str) -> Self {
        let text = String::from_utf8(self).expect("text");
        text.replacen(from, to, 1).into_bytes()
    }
}

/// Characters that control a terminal, reorder its text, or are invisible.
const TRICKS: &str = "\u{9b}2J\u{85}\u{202e}\u{2066}\u{200b}\u{feff}\u{ad}\u{e0041}\u{2028}";

#[tokio::test]
async fn only_printable_ascii_reaches_the_log() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&lines);
    let mock = MockCoze::builder()
        .control_endpoints(true)
        .on_request(move |record| log.lock().expect("a lock").push(record.to_string()))
        .start()
        .await
        .expect("a mock");
    let body = serde_json::json!({
        "grant_type": format!("\u{1b}[31m\r\n\0\u{7f}{TRICKS}"),
        "client_id": format!("\u{1b}[31m{TRICKS}"),
        (format!("\u{1b}]0;x\u{7}{TRICKS}")): "x",
    })
    .to_string();
    let at = format!("/\u{1b}[2J\r\n{TRICKS}");
    let edited = serde_json::json!({"fault": {"edited": {"edits": [{"remove": {"at": at}}]}}});
    let edited = edited.to_string();
    for (target, body) in [
        (format!("GET /v1/users/me{TRICKS}?{TRICKS}={TRICKS}"), ""),
        (format!("GET /api/permission/oauth2/authorize?{TRICKS}"), ""),
        ("POST /_mock/faults".into(), edited.as_str()),
        ("POST /api/permission/oauth2/token".into(), body.as_str()),
        (
            "POST /api/permission/oauth2/device/code".into(),
            body.as_str(),
        ),
    ] {
        let length = body.len();
        let head = format!(
            "{target} HTTP/1.1\r\nhost: localhost\r\nuser-agent: {TRICKS}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        let answer = send(&mock, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 "), "{target:?}: {answer:?}");
    }
    let lines = lines.lock().expect("a lock").clone();
    assert_eq!(lines.len(), 4, "{lines:?}");
    let (violations, notes) = (mock.violations(), mock.notes());
    let violations = violations.iter().map(ToString::to_string);
    let all = lines.into_iter().chain(violations);
    for line in all.chain(notes.iter().map(ToString::to_string)) {
        assert!(
            line.bytes().all(|byte| matches!(byte, b' '..=b'~')),
            "{line:?}"
        );
    }
    let listed = send(
        &mock,
        b"GET /_mock/requests HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    )
    .await;
    let (_, json) = listed.split_once("\r\n\r\n").expect("a body");
    assert!(
        json.bytes().all(|byte| matches!(byte, b' '..=b'~')),
        "{json}"
    );
    let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
    let path = json["requests"][0]["path"].as_str();
    assert_eq!(path, Some(format!("/v1/users/me{TRICKS}").as_str()));
}
