//! Runtimes that end, are blocked, or share connections must not lose a token or a sign-in. Also
//! requests that an HTTP/2 server reports as not processed. All over sockets and in real time.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use coze_auth::{
    CachedProvider, Endpoint, Error, ErrorKind, OAuthClient, PkceFlow, SignIn, Token,
    TokenProvider, UserFlow, UserPool, WebFlow, reqwest, store::MemoryStore,
};
use coze_mock::{Decision, Endpoint as MockEndpoint, Fault, MockCoze, Target, Times, defaults};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Handle, Runtime},
    time::{sleep, timeout},
};

use crate::support::{REDIRECT_URI, jwt_flow, millis, secs};

/// A mock on a runtime that exists as long as the test.
struct Server {
    mock: MockCoze,
    runtime: Runtime,
}

impl Server {
    fn start() -> Self {
        let runtime = with_workers();
        let mock = runtime.block_on(MockCoze::start()).unwrap();
        Self { mock, runtime }
    }

    fn client(&self) -> OAuthClient {
        client_of(self.mock.url())
    }

    fn web(&self) -> WebFlow {
        let secret = defaults::WEB_CLIENT_SECRET;
        WebFlow::new(self.client(), defaults::WEB_CLIENT_ID.into(), secret.into()).unwrap()
    }

    fn jwt(&self) -> CachedProvider {
        CachedProvider::jwt(jwt_flow(self.client())).build()
    }

    async fn sign_in(&self) -> Token {
        let web = self.web();
        let (page, login) = web.login(REDIRECT_URI).begin().unwrap();
        let callback = self.mock.authorize(page.as_str(), Decision::Approve);
        let callback: String = callback.unwrap().into();
        web.complete(login, &callback).await.unwrap()
    }

    /// A sign-in whose token the API has refused.
    fn refused(&self) -> (CachedProvider, Token) {
        self.runtime.block_on(async {
            let first = self.sign_in().await;
            let sign_in = SignIn::new(MemoryStore::new(), "default").unwrap();
            sign_in.put(&first).await.unwrap();
            let provider = CachedProvider::stored(self.web(), sign_in).build();
            let token = provider.token().await.unwrap();
            provider.invalidate(&token);
            (provider, first)
        })
    }

    fn slow_down(&self, target: impl Into<Target>, delay: Duration) {
        let fault = Fault::Latency { delay };
        self.mock.faults().add(fault, target, Times::Forever);
    }

    /// The number of token requests.
    fn token_requests(&self) -> usize {
        let requests = self.mock.requests();
        let of_tokens = requests
            .iter()
            .filter(|request| request.endpoint == Some(MockEndpoint::Token));
        of_tokens.count()
    }

    fn assert_refreshed_once(&self, first: &Token) {
        let refresh_token = first.refresh_token().unwrap().expose();
        let sign_in = self.mock.sign_in_of(refresh_token).unwrap();
        assert_eq!(sign_in.generations.len(), 2);
        assert_eq!(sign_in.reuse_attempts(), 0);
    }
}

fn client_of(base: &str) -> OAuthClient {
    OAuthClient::builder()
        .endpoint(Endpoint::custom(base).unwrap())
        .http(|| reqwest::Client::builder().no_proxy())
        .build()
        .unwrap()
}

fn with_workers() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

fn without_workers() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Requests a token, and drops the future before the response.
fn request_and_drop(runtime: &Runtime, provider: &CachedProvider) {
    let asked = runtime.block_on(async { timeout(millis(50), provider.token()).await });
    assert!(asked.is_err(), "the request takes longer");
}

// Runtimes

#[test]
fn a_thread_without_a_runtime_and_a_worker_in_place_may_block() {
    let server = Server::start();
    // This thread belongs to no runtime.
    assert!(Handle::try_current().is_err());
    futures_executor::block_on(server.jwt().token()).unwrap();
    let provider = server.jwt();
    let runtime = with_workers();
    let token = runtime.block_on(async move {
        let in_place = move || Handle::current().block_on(provider.token());
        tokio::spawn(async move { tokio::task::block_in_place(in_place) }).await
    });
    token.unwrap().unwrap();
}

#[test]
fn a_refresh_survives_the_end_of_its_runtime() {
    for runtime in [without_workers, with_workers] {
        let server = Server::start();
        let (provider, first) = server.refused();
        server.slow_down(Target::refresh(), millis(200));
        let short_lived = runtime();
        request_and_drop(&short_lived, &provider);
        short_lived.shutdown_background();
        let token = without_workers().block_on(provider.token()).unwrap();
        assert_ne!(token.expose(), first.access_token().expose());
        server.assert_refreshed_once(&first);
    }
}

#[test]
fn a_background_refresh_works_with_a_runtime_per_call() {
    let server = Server::start();
    let lived = Fault::ShortLivedTokens { seconds: 2 };
    server
        .mock
        .faults()
        .add(lived, MockEndpoint::Token, Times::ONCE);
    let first = server.runtime.block_on(server.sign_in());
    let sign_in = SignIn::new(MemoryStore::new(), "default").unwrap();
    without_workers().block_on(sign_in.put(&first)).unwrap();
    let provider = CachedProvider::stored(server.web(), sign_in).build();
    let token = || without_workers().block_on(provider.token()).unwrap();
    let old = token();
    let until = std::time::Instant::now() + secs(10);
    while token().expose() == old.expose() {
        assert!(std::time::Instant::now() < until, "never refreshed");
        std::thread::sleep(millis(10));
    }
    server.assert_refreshed_once(&first);
}

#[test]
fn callers_do_not_wait_for_a_blocked_runtime() {
    let server = Server::start();
    server.slow_down(MockEndpoint::Token, millis(200));
    let provider = server.jwt();
    let idle = without_workers();
    request_and_drop(&idle, &provider);
    let live = with_workers();
    let token = live.block_on(async { timeout(secs(10), provider.token()).await });
    token.expect("a token despite the blocked runtime").unwrap();
    assert_eq!(server.token_requests(), 1, "the same request completed");
    drop(idle);
}

#[test]
fn callers_of_a_request_that_ended_with_its_runtime_get_a_token() {
    let server = Server::start();
    server.slow_down(MockEndpoint::Token, millis(300));
    let provider = server.jwt();
    let ends = with_workers();
    ends.spawn({
        let provider = provider.clone();
        async move { provider.token().await }
    });
    let stays = with_workers();
    let token = stays.block_on(async {
        while server.token_requests() == 0 {
            sleep(millis(5)).await;
        }
        let joined = tokio::spawn({
            let provider = provider.clone();
            async move { provider.token().await }
        });
        sleep(millis(50)).await;
        ends.shutdown_background();
        joined.await.unwrap()
    });
    token.unwrap();
    assert_eq!(server.token_requests(), 2);
    assert_eq!(provider.stats().coalesced, 1);
}

#[test]
fn queued_sessions_of_an_ended_runtime_are_served_by_another() {
    let server = Server::start();
    server.slow_down(MockEndpoint::Token, millis(100));
    let pool = coze_auth::SessionPool::builder(jwt_flow(server.client()))
        .max_concurrent_requests(2)
        .build();
    let ask = |user: u32| {
        let session = pool.session(format!("user-{user}"));
        async move { session.token().await }
    };
    let ends = with_workers();
    for user in 0..20 {
        ends.spawn(ask(user));
    }
    std::thread::sleep(millis(150));
    let stays = with_workers();
    let asked: Vec<_> = (0..20).map(|user| stays.spawn(ask(user))).collect();
    std::thread::sleep(millis(50));
    ends.shutdown_background();
    for token in asked {
        let token = stays.block_on(async { timeout(secs(20), token).await });
        token.expect("in time").unwrap().unwrap();
    }
    assert_eq!(pool.stats().cached, 20);
}

#[test]
fn a_user_pool_works_with_a_runtime_per_call() {
    let server = Server::start();
    let pool = UserPool::builder(server.web(), MemoryStore::new()).build();
    let mut signed_in = Vec::new();
    for number in 0..5 {
        let user = pool.user(format!("user-{number}"));
        let first = server.runtime.block_on(server.sign_in());
        without_workers().block_on(user.put(&first)).unwrap();
        let token = without_workers().block_on(user.token()).unwrap();
        user.invalidate(&token);
        without_workers().block_on(user.token()).unwrap();
        signed_in.push(first);
    }
    without_workers().block_on(pool.shutdown()).unwrap();
    for first in &signed_in {
        server.assert_refreshed_once(first);
    }
}

// Connections

/// Forwards connections to another server, and counts them.
async fn counting(to: SocketAddr) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut inbound, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut outbound = TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut inbound, &mut outbound).await
            });
        }
    });
    (base, count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redeeming_requests_use_a_new_connection_and_jwts_share_one() {
    let mock = MockCoze::start().await.unwrap();
    let (base, connections) = counting(mock.address().unwrap()).await;
    let taken = || connections.swap(0, Ordering::SeqCst);
    let client = client_of(&base);

    let jwt = jwt_flow(client.clone());
    for _ in 0..3 {
        jwt.token().await.unwrap();
    }
    assert_eq!(taken(), 1, "JWTs share one");

    let pkce = PkceFlow::new(client.clone(), defaults::PKCE_CLIENT_ID).unwrap();
    let (page, login) = pkce.login(REDIRECT_URI).begin().unwrap();
    let callback = mock.authorize(page.as_str(), Decision::Approve).unwrap();
    let mut token = pkce.complete(login, callback.as_str()).await.unwrap();
    assert_eq!(taken(), 1, "the code");
    for _ in 0..3 {
        token = pkce.refresh(token.refresh_token().unwrap()).await.unwrap();
        assert_eq!(taken(), 1, "each refresh");
    }

    let device = coze_auth::DeviceFlow::new(client, defaults::DEVICE_CLIENT_ID).unwrap();
    let authorization = device.start().await.unwrap();
    mock.approve_device(authorization.user_code()).unwrap();
    taken();
    device.poll(&authorization).await.unwrap();
    assert_eq!(taken(), 1, "the device code request");
}

// HTTP/2

/// How the HTTP/2 server handles the first request.
#[derive(Clone, Copy)]
enum First {
    /// RST_STREAM with REFUSED_STREAM.
    Refused,
    /// Processed; then GOAWAY with its id, and the connection is closed.
    ProcessedThenGoAway,
    /// Not processed: GOAWAY with the previous id.
    GoAwayBefore,
}

/// An HTTP/2 server that grants a token for each request except the first. Counts processed requests.
async fn http2_server(first: First) -> (OAuthClient, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let processed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&processed);
    tokio::spawn(async move {
        let mut first = Some(first);
        while let Ok((socket, _)) = listener.accept().await {
            let first = first.take();
            let counted = Arc::clone(&counted);
            tokio::spawn(async move { serve_http2(socket, first, &counted).await });
        }
    });
    let client = OAuthClient::builder()
        .endpoint(Endpoint::custom(base).unwrap())
        .http(|| {
            reqwest::Client::builder()
                .no_proxy()
                .http2_prior_knowledge()
        })
        .request_timeout(secs(5))
        .build();
    (client.unwrap(), processed)
}

async fn serve_http2(
    socket: TcpStream,
    first: Option<First>,
    processed: &AtomicUsize,
) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(socket).await?;
    if matches!(first, Some(First::GoAwayBefore)) {
        // No stream was accepted.
        sleep(millis(50)).await;
        connection.abrupt_shutdown(h2::Reason::NO_ERROR);
        while let Some(request) = connection.accept().await {
            drop(request);
        }
        return Ok(());
    }
    while let Some(request) = connection.accept().await {
        let (mut request, mut respond) = request?;
        match first {
            Some(First::Refused) => {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
                continue;
            }
            Some(First::ProcessedThenGoAway) => {
                processed.fetch_add(1, Ordering::SeqCst);
                connection.abrupt_shutdown(h2::Reason::NO_ERROR);
                continue;
            }
            _ => {}
        }
        processed.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            while let Some(Ok(_)) = request.body_mut().data().await {}
            let body = r#"{"access_token":"czs_1","refresh_token":"rt_1","expires_in":900}"#;
            let response = http::Response::builder().header("content-type", "application/json");
            let mut stream = respond.send_response(response.body(()).unwrap(), false)?;
            stream.send_data(Bytes::from_static(body.as_bytes()), true)
        });
    }
    Ok(())
}

/// Redeems a code.
async fn redeem(client: OAuthClient) -> Result<Token, Error> {
    let pkce = PkceFlow::new(client, "client-id").unwrap();
    let (page, login) = pkce.login(REDIRECT_URI).begin().unwrap();
    let state = page.query_pairs().find(|(name, _)| name == "state");
    let callback = format!("{REDIRECT_URI}?code=c&state={}", state.unwrap().1);
    pkce.complete(login, &callback).await
}

#[tokio::test]
async fn a_code_is_resent_if_its_stream_was_refused() {
    let (client, processed) = http2_server(First::Refused).await;
    redeem(client).await.unwrap();
    assert_eq!(processed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_code_processed_before_goaway_is_not_resent() {
    let (client, processed) = http2_server(First::ProcessedThenGoAway).await;
    let error = redeem(client).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
    assert_eq!(processed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_code_refused_by_goaway_is_not_resent_either() {
    // It was not processed, but its error equals that of a processed one.
    let (client, processed) = http2_server(First::GoAwayBefore).await;
    let outcome = redeem(client).await;
    let error = outcome.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::Connect),
        "{error} {error:?}"
    );
    assert_eq!(processed.load(Ordering::SeqCst), 0);
}
