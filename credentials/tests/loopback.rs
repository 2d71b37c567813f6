//! Sign-in by a browser on the same machine: what completes a login, what does not, and what is left behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests and their helpers panic on failure"
)]

use std::{
    future::ready,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use coze_auth::{
    Endpoint, ErrorCode, ErrorKind, OAuthClient, PkceFlow, Result, Token, Url, WebFlow,
};
use coze_credentials::{LoopbackLogin, RedirectFlow};
use coze_mock::{Decision, Fault, MockCoze, Target, Times, defaults};
use reqwest::{Method, StatusCode, header};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

/// A free port: of the mock's redirect URIs, those of loopback have any.
const REDIRECT_URI: &str = "http://127.0.0.1:0/callback";
/// Longer than any test takes that does not fail.
const LONG: Duration = Duration::from_secs(60);

async fn mock() -> MockCoze {
    MockCoze::start().await.unwrap()
}

fn client(mock: &MockCoze) -> OAuthClient {
    OAuthClient::new(Endpoint::custom(mock.url()).unwrap()).unwrap()
}

fn pkce(mock: &MockCoze) -> PkceFlow {
    PkceFlow::new(client(mock), defaults::PKCE_CLIENT_ID).unwrap()
}

fn web(mock: &MockCoze) -> WebFlow {
    let (id, secret) = (defaults::WEB_CLIENT_ID, defaults::WEB_CLIENT_SECRET);
    WebFlow::new(client(mock), id.into(), secret.into()).unwrap()
}

/// A login that runs, and the page that the browser was sent to.
struct Running {
    authorize: Url,
    login: JoinHandle<Result<Token>>,
}

impl Running {
    async fn start<F: RedirectFlow + 'static>(login: LoopbackLogin<F>) -> Self {
        let (sender, opened) = oneshot::channel();
        let login = login.open_with(move |url| {
            let _ = sender.send(url);
            ready(Ok(()))
        });
        let login = tokio::spawn(login.run());
        let authorize = opened
            .await
            .expect("the login ended before it opened the browser");
        Self { authorize, login }
    }

    fn parameter(&self, name: &str) -> String {
        let mut query = self.authorize.query_pairs();
        let (_, value) = query.find(|(each, _)| each == name).unwrap();
        value.into_owned()
    }

    fn redirect_uri(&self) -> Url {
        self.parameter("redirect_uri").parse().unwrap()
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.redirect_uri().port().unwrap()).into()
    }

    /// The callback to which the mock sends the browser.
    fn callback(&self, mock: &MockCoze, decision: Decision) -> Url {
        mock.authorize(self.authorize.as_str(), decision).unwrap()
    }

    async fn ends(self) -> Result<Token> {
        let address = self.address();
        let ended = timeout(LONG, self.login).await.expect("the login goes on");
        assert_free(address).await;
        ended.unwrap()
    }
}

/// Another test may get the port at once, and gives it back.
async fn assert_free(address: SocketAddr) {
    let bound = async {
        while TcpListener::bind(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG, bound)
        .await
        .expect("the port is still in use");
}

struct Page {
    status: StatusCode,
    headers: header::HeaderMap,
    text: String,
}

async fn request(method: Method, url: impl AsRef<str>) -> reqwest::Result<Page> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let response = http.request(method, url.as_ref()).send().await?;
    Ok(Page {
        status: response.status(),
        headers: response.headers().clone(),
        text: response.text().await?,
    })
}

async fn get(url: impl AsRef<str>) -> Page {
    request(Method::GET, url).await.unwrap()
}

/// The page shows nothing of a login, loads nothing and is not kept.
fn assert_harmless(page: &Page, callback: &Url) {
    let secrets = callback.query_pairs().map(|(_, value)| value);
    for secret in secrets.filter(|value| value.len() > 20) {
        assert!(!page.text.contains(&*secret), "{}", page.text);
    }
    for part in ["czu_", "<script", "http:", "https:", "src=", "href="] {
        assert!(!page.text.contains(part), "{part}: {}", page.text);
    }
    let header = |name| {
        page.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    };
    assert_eq!(header(header::CACHE_CONTROL), "no-store");
    assert_eq!(header(header::REFERRER_POLICY), "no-referrer");
    assert_eq!(header(header::X_CONTENT_TYPE_OPTIONS), "nosniff");
    let policy = header(header::CONTENT_SECURITY_POLICY);
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(header(header::CONNECTION), "close");
}

async fn signs_in<F: RedirectFlow + 'static>(mock: &MockCoze, flow: &F) {
    let login = LoopbackLogin::new(flow, REDIRECT_URI).program("Tea & Toast");
    let running = Running::start(login.workspace(defaults::WORKSPACE_ID)).await;
    let redirect_uri = running.redirect_uri();
    assert_ne!(redirect_uri.port(), Some(0));
    let workspace = format!("/workspace_id/{}/", defaults::WORKSPACE_ID);
    assert!(running.authorize.path().contains(&workspace));

    let callback = running.callback(mock, Decision::Approve);
    let page = get(&callback).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(
        page.text.contains("return to Tea &amp; Toast."),
        "{}",
        page.text
    );
    assert_harmless(&page, &callback);
    let token = running.ends().await.unwrap();
    assert!(token.refresh_token().is_some());
}

#[tokio::test]
async fn users_of_the_pkce_and_web_flows_sign_in() {
    let mock = mock().await;
    signs_in(&mock, &pkce(&mock)).await;
    signs_in(&mock, &web(&mock)).await;
    mock.assert_clean();
}

#[tokio::test]
async fn other_requests_do_not_end_the_login() {
    let mock = mock().await;
    let running = Running::start(LoopbackLogin::new(&pkce(&mock), REDIRECT_URI)).await;
    let at = |path: &str| running.redirect_uri().join(path).unwrap();
    let callback = running.callback(&mock, Decision::Approve);
    let with_other_state = {
        let state = running.parameter("state");
        callback.as_str().replace(&state, &"A".repeat(state.len()))
    };
    let state = running.parameter("state");
    for (path, expected) in [
        ("/favicon.ico", StatusCode::NOT_FOUND),
        ("/", StatusCode::NOT_FOUND),
        ("/callback/", StatusCode::NOT_FOUND),
        ("/Callback?code=x", StatusCode::NOT_FOUND),
        (
            &format!("/other?{}", callback.query().unwrap()),
            StatusCode::NOT_FOUND,
        ),
        ("/callback", StatusCode::BAD_REQUEST),
        ("/callback?code=x", StatusCode::BAD_REQUEST),
        ("/callback?code=x&state=", StatusCode::BAD_REQUEST),
        ("/callback?error=access_denied", StatusCode::BAD_REQUEST),
        (
            "/callback?error=access_denied&state=x",
            StatusCode::BAD_REQUEST,
        ),
        (
            &format!("/callback?code=x&state={state}&state={state}"),
            StatusCode::BAD_REQUEST,
        ),
        (&with_other_state, StatusCode::BAD_REQUEST),
    ] {
        let page = get(at(path)).await;
        assert_eq!(page.status, expected, "{path}");
        assert_harmless(&page, &callback);
    }
    for method in [Method::HEAD, Method::POST, Method::OPTIONS] {
        let page = request(method.clone(), &callback).await.unwrap();
        assert_eq!(page.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(page.headers[header::ALLOW], "GET");
    }
    assert_eq!(
        mock.requests()
            .iter()
            .filter(|r| r.grant_type().is_some())
            .count(),
        0
    );
    assert_eq!(get(&callback).await.status, StatusCode::OK);
    running.ends().await.unwrap();
}

#[tokio::test]
async fn connections_that_hang_or_do_not_speak_http_do_not_block_the_login() {
    let mock = mock().await;
    let running = Running::start(LoopbackLogin::new(&pkce(&mock), REDIRECT_URI)).await;
    let address = running.address();
    let send = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // It may be closed already.
        let _ = stream.write_all(bytes).await;
        stream
    };
    let mut open = Vec::new();
    for _ in 0..150 {
        open.push(send(b"").await);
        open.push(send(b"GET /callback?code=x").await);
    }
    let long = format!(
        "GET /callback?code={} HTTP/1.1\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let many = format!(
        "GET /callback HTTP/1.1\r\n{}\r\n",
        "X-A: b\r\n".repeat(2000)
    );
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\0\0\0\0\r\n\r\n",
        long.as_bytes(),
        many.as_bytes(),
    ] {
        let mut stream = send(bytes).await;
        let mut answer = Vec::new();
        let read = timeout(LONG, stream.read_to_end(&mut answer)).await;
        // An answer or a reset.
        let _ = read.expect("the connection stays open");
        assert!(!answer.starts_with(b"HTTP/1.1 2"));
    }
    let callback = running.callback(&mock, Decision::Approve);
    assert_eq!(get(&callback).await.status, StatusCode::OK);
    running.ends().await.unwrap();
    mock.assert_clean();
}

/// Takes ten seconds of real time.
#[tokio::test]
async fn a_request_that_is_not_completed_is_cut_off() {
    let mock = mock().await;
    let running = Running::start(LoopbackLogin::new(&pkce(&mock), REDIRECT_URI)).await;
    let cut_off = async |start: &'static [u8]| {
        let mut stream = TcpStream::connect(running.address()).await.unwrap();
        stream.write_all(start).await.unwrap();
        let mut answer = Vec::new();
        let read = timeout(LONG, stream.read_to_end(&mut answer)).await;
        let _ = read.expect("the connection stays open");
    };
    tokio::join!(cut_off(b""), cut_off(b"GET /callback HTTP/1.1\r\nHost: x"));
    let callback = running.callback(&mock, Decision::Approve);
    assert_eq!(get(&callback).await.status, StatusCode::OK);
    running.ends().await.unwrap();
}

#[tokio::test]
async fn a_refusal_ends_the_login_and_is_shown() {
    let mock = mock().await;
    let running = Running::start(LoopbackLogin::new(&pkce(&mock), REDIRECT_URI)).await;
    let callback = running.callback(&mock, Decision::Deny);
    let page = get(&callback).await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
    assert!(page.text.contains("Not signed in"), "{}", page.text);
    assert!(page.text.contains("access_denied"), "{}", page.text);
    assert_harmless(&page, &callback);
    let error = running.ends().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(error.code(), Some(&ErrorCode::AccessDenied));
}

#[tokio::test]
async fn an_exchange_that_fails_is_shown_without_the_code() {
    let mock = mock().await;
    let running = Running::start(LoopbackLogin::new(&pkce(&mock), REDIRECT_URI)).await;
    let mut callback = running.redirect_uri();
    callback
        .query_pairs_mut()
        .append_pair("code", "a-code-that-was-never-issued")
        .append_pair("state", &running.parameter("state"));
    let page = get(&callback).await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
    assert!(page.text.contains("invalid_grant"), "{}", page.text);
    let text = page.text.replace(mock.url(), "");
    assert_harmless(&Page { text, ..page }, &callback);
    let error = running.ends().await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::InvalidGrant));
}

#[tokio::test]
async fn a_callback_is_redeemed_once_however_often_the_browser_sends_it() {
    let mock = mock().await;
    mock.faults().add(
        Fault::latency(Duration::from_secs(1)),
        Target::Any,
        Times::Forever,
    );
    let running = Running::start(LoopbackLogin::new(&pkce(&mock), REDIRECT_URI)).await;
    let callback = running.callback(&mock, Decision::Approve);
    let (one, other) = tokio::join!(get(&callback), get(&callback));
    let mut statuses = [one.status, other.status];
    statuses.sort();
    assert_eq!(statuses, [StatusCode::OK, StatusCode::CONFLICT]);
    running.ends().await.unwrap();
    mock.assert_clean();
}

#[tokio::test]
async fn a_login_that_nobody_finishes_ends_in_time() {
    let mock = mock().await;
    let limit = Duration::from_secs(2);
    let login = LoopbackLogin::new(&pkce(&mock), REDIRECT_URI).timeout(limit);
    let began = Instant::now();
    let running = Running::start(login).await;
    let stray = running
        .redirect_uri()
        .join("/callback?code=x&state=y")
        .unwrap();
    assert_eq!(get(stray).await.status, StatusCode::BAD_REQUEST);
    let error = running.ends().await.unwrap_err();
    assert!(began.elapsed() >= limit);
    assert_eq!(error.kind(), ErrorKind::NotSignedIn);
    let text = error.to_string();
    assert!(
        text.contains("nobody has signed in within 2 s; 1 requests"),
        "{text}"
    );
    assert_eq!(mock.requests().len(), 0);
}

#[tokio::test]
async fn a_login_that_is_dropped_frees_its_port() {
    let mock = mock().await;
    let running = Running::start(LoopbackLogin::new(&pkce(&mock), REDIRECT_URI)).await;
    let address = running.address();
    let _open = TcpStream::connect(address).await.unwrap();
    running.login.abort();
    assert!(running.login.await.unwrap_err().is_cancelled());
    assert_free(address).await;
}

async fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok()
}

#[tokio::test]
async fn localhost_is_reached_by_ipv4_and_ipv6() {
    let mock = mock().await;
    let mut hosts = vec!["127.0.0.1", "localhost"];
    if has_ipv6().await {
        hosts.push("[::1]");
    }
    for host in hosts {
        let login = LoopbackLogin::new(&pkce(&mock), "http://localhost:0/callback");
        let running = Running::start(login).await;
        assert_eq!(running.redirect_uri().host_str(), Some("localhost"));
        let callback = running.callback(&mock, Decision::Approve);
        let seen = callback.as_str().replacen("localhost", host, 1);
        assert_eq!(get(seen).await.status, StatusCode::OK, "{host}");
        running.ends().await.unwrap();
    }
    mock.assert_clean();
}

#[tokio::test]
async fn a_port_that_is_in_use_is_reported_before_the_browser_opens() {
    let mock = mock().await;
    let mut taken = vec![TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()];
    if has_ipv6().await {
        // Half of localhost is not enough: the browser may reach the other program.
        taken.push(TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap());
    }
    for socket in taken {
        let port = socket.local_addr().unwrap().port();
        let redirect_uri = format!("http://localhost:{port}/callback");
        let login = LoopbackLogin::new(&pkce(&mock), redirect_uri);
        let error = login.open_with(|_| async { panic!("opened") }).run().await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::System);
        let text = error.to_string();
        assert!(text.contains(&format!(":{port}: ")), "{text}");
        assert!(text.contains("another program uses the port"), "{text}");
    }
}

#[tokio::test]
async fn a_redirect_uri_that_is_not_this_machine_is_refused() {
    let mock = mock().await;
    for (redirect_uri, why) in [
        ("", "not a URL"),
        ("callback", "not a URL"),
        ("https://127.0.0.1:8080/callback", "its scheme is https"),
        ("myapp://callback", "its scheme is myapp"),
        ("http://example.com:8080/callback", "not this machine"),
        ("http://0.0.0.0:8080/callback", "not this machine"),
        ("http://localhost.example.com/callback", "not this machine"),
    ] {
        let login = LoopbackLogin::new(&pkce(&mock), redirect_uri);
        let error = login.open_with(|_| async { panic!("opened") }).run().await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{redirect_uri}");
        assert!(error.to_string().contains(why), "{redirect_uri}: {error}");
    }
}

#[tokio::test]
async fn a_paste_that_never_waits_does_not_keep_the_login_from_its_end() {
    let mock = mock().await;
    let login = LoopbackLogin::new(&pkce(&mock), REDIRECT_URI)
        .open_with(|_| ready(Ok(())))
        .paste_with(|_| ready(Some("hello".to_owned())))
        .timeout(Duration::from_millis(200));
    let error = timeout(LONG, login.run()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSignedIn);
}

/// What the user pastes, and the errors that the user is told.
struct Pasting {
    texts: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<String>>>,
    errors: Arc<Mutex<Vec<ErrorKind>>>,
}

impl Pasting {
    fn new() -> (mpsc::UnboundedSender<String>, Self) {
        let (sender, texts) = mpsc::unbounded_channel();
        let texts = Arc::new(tokio::sync::Mutex::new(texts));
        let errors = Arc::default();
        (sender, Self { texts, errors })
    }

    fn at<F: RedirectFlow>(&self, login: LoopbackLogin<F>) -> LoopbackLogin<F> {
        let (texts, errors) = (Arc::clone(&self.texts), Arc::clone(&self.errors));
        login.paste_with(move |error| {
            errors
                .lock()
                .unwrap()
                .extend(error.map(|error| error.kind()));
            let texts = Arc::clone(&texts);
            async move { texts.lock().await.recv().await }
        })
    }

    #[track_caller]
    fn assert_told(&self, expected: &[ErrorKind]) {
        assert_eq!(*self.errors.lock().unwrap(), expected);
    }
}

#[tokio::test]
async fn a_callback_can_be_pasted_while_the_program_listens() {
    let mock = mock().await;
    let (paste, pasting) = Pasting::new();
    let login = pasting.at(LoopbackLogin::new(&web(&mock), REDIRECT_URI));
    let running = Running::start(login).await;
    let callback = running.callback(&mock, Decision::Approve);
    for text in ["hello", "http://127.0.0.1/callback?code=x&state=y"] {
        paste.send(text.to_owned()).unwrap();
    }
    paste.send(format!(" {callback}\n")).unwrap();
    running.ends().await.unwrap();
    pasting.assert_told(&[ErrorKind::InvalidCallback, ErrorKind::StateMismatch]);

    // The browser still completes a login whose user pastes nothing, or nothing more.
    let (paste, pasting) = Pasting::new();
    let login = pasting.at(LoopbackLogin::new(&web(&mock), REDIRECT_URI));
    let running = Running::start(login).await;
    drop(paste);
    let callback = running.callback(&mock, Decision::Approve);
    assert_eq!(get(&callback).await.status, StatusCode::OK);
    running.ends().await.unwrap();
    mock.assert_clean();
}

#[tokio::test]
async fn without_a_listener_any_registered_redirect_uri_can_be_pasted() {
    let mock = mock().await;
    let start = async |pasting: &Pasting| {
        let login = LoopbackLogin::new(&pkce(&mock), "https://example.com/callback");
        Running::start(pasting.at(login.without_listener())).await
    };
    let (paste, pasting) = Pasting::new();
    let running = start(&pasting).await;
    let callback = running.callback(&mock, Decision::Approve);
    paste.send(callback.into()).unwrap();
    timeout(LONG, running.login)
        .await
        .unwrap()
        .unwrap()
        .unwrap();

    let (paste, pasting) = Pasting::new();
    let running = start(&pasting).await;
    let callback = running.callback(&mock, Decision::Deny);
    paste.send(callback.into()).unwrap();
    let error = timeout(LONG, running.login).await.unwrap().unwrap();
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Refused);

    let (paste, pasting) = Pasting::new();
    let running = start(&pasting).await;
    paste.send("?code=x&state=y".to_owned()).unwrap();
    drop(paste);
    let error = timeout(LONG, running.login).await.unwrap().unwrap();
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotSignedIn);
    pasting.assert_told(&[ErrorKind::StateMismatch]);
}

#[tokio::test]
async fn a_browser_that_can_not_be_opened_ends_the_login() {
    let mock = mock().await;
    let login = LoopbackLogin::new(&pkce(&mock), REDIRECT_URI)
        .open_with(|_| ready(Err(io::Error::other("no display"))));
    let error = timeout(LONG, login.run()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::System);
    assert!(
        error
            .to_string()
            .contains("no browser could be opened: no display"),
        "{error}"
    );
}

#[tokio::test]
async fn the_address_is_shown_before_a_callback_is_asked_for() {
    let mock = mock().await;
    for _ in 0..20 {
        let said = Arc::new(Mutex::new(Vec::new()));
        let (opening, pasting) = (Arc::clone(&said), Arc::clone(&said));
        let login = LoopbackLogin::new(&pkce(&mock), REDIRECT_URI)
            .open_with(|_| async move {
                opening.lock().unwrap().push("the address");
                Ok(())
            })
            .paste_with(move |_| {
                let said = Arc::clone(&pasting);
                async move {
                    said.lock().unwrap().push("the question");
                    None
                }
            })
            .without_listener();
        let error = login.run().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotSignedIn);
        assert_eq!(*said.lock().unwrap(), ["the address", "the question"]);
    }
}
