//! Runtimes that end, stand still, or share connections: a token is got, and a sign-in kept, all the same. And what
//! HTTP/2 says of requests that were not processed. All of it over sockets, in real time.

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
    TokenProvider, UserPool, WebFlow, reqwest, store::MemoryStore,
};
use coze_mock::{Decision, Endpoint as At, Fault, MockCoze, Target, Times, defaults};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Handle, Runtime},
    time::{sleep, timeout},
};

use crate::support::{REDIRECT_URI, jwt_flow, millis, secs};

/// A mock on a runtime that lasts as long as the test.
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
        WebFlow::new(self.client(), defaults::WEB_CLIENT_ID, secret).unwrap()
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

    /// Requests for tokens since the start.
    fn token_requests(&self) -> usize {
        let requests = self.mock.requests();
        let of_tokens = requests
            .iter()
            .filter(|request| request.endpoint == Some(At::Token));
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

/// Asks, and goes away before the answer.
fn ask_and_leave(runtime: &Runtime, provider: &CachedProvider) {
    let asked = runtime.block_on(async { timeout(millis(50), provider.token()).await });
    assert!(asked.is_err(), "it takes longer");
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
fn a_refresh_that_a_runtime_began_which_ended_right_after_is_not_lost() {
    for runtime in [without_workers, with_workers] {
        let server = Server::start();
        let (provider, first) = server.refused();
        server.slow_down(Target::refresh(), millis(200));
        let short_lived = runtime();
        ask_and_leave(&short_lived, &provider);
        short_lived.shutdown_background();
        let token = without_workers().block_on(provider.token()).unwrap();
        assert_ne!(token.expose(), first.access_token().expose());
        server.assert_refreshed_once(&first);
    }
}

#[test]
fn a_runtime_for_each_call_is_enough_for_a_background_refresh() {
    let server = Server::start();
    let lived = Fault::ShortLivedTokens { seconds: 2 };
    server.mock.faults().add(lived, At::Token, Times::ONCE);
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
fn nobody_waits_for_a_runtime_that_stands_still() {
    let server = Server::start();
    server.slow_down(At::Token, millis(200));
    let provider = server.jwt();
    let idle = without_workers();
    ask_and_leave(&idle, &provider);
    let live = with_workers();
    let token = live.block_on(async { timeout(secs(10), provider.token()).await });
    token.expect("it is not waited for in vain").unwrap();
    assert_eq!(server.token_requests(), 1, "it went on");
    drop(idle);
}

#[test]
fn callers_whose_request_ended_with_its_runtime_get_a_token_and_not_its_error() {
    let server = Server::start();
    server.slow_down(At::Token, millis(300));
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
fn sessions_that_queue_up_on_a_runtime_that_ends_are_served_by_another() {
    let server = Server::start();
    server.slow_down(At::Token, millis(100));
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
fn users_of_a_pool_are_served_though_each_call_has_a_runtime_of_its_own() {
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

/// Takes connections to another server, and counts them.
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
async fn what_redeems_something_has_a_connection_of_its_own_and_a_jwt_need_not() {
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
    assert_eq!(taken(), 1, "the device code");
}

// HTTP/2

/// What an HTTP/2 server does with the first request.
#[derive(Clone, Copy)]
enum First {
    /// RST_STREAM with REFUSED_STREAM.
    Refused,
    /// It is processed; then GOAWAY with its id, and the connection is closed.
    ProcessedThenGoAway,
    /// It is not processed: GOAWAY with the id before.
    GoAwayBefore,
}

/// An HTTP/2 server that grants a token for each request but the first. Counts the requests that it has processed.
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
        // No stream has been accepted yet.
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
async fn a_code_whose_stream_was_refused_is_sent_again() {
    let (client, processed) = http2_server(First::Refused).await;
    redeem(client).await.unwrap();
    assert_eq!(processed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_code_that_was_processed_before_the_server_went_away_is_not_sent_again() {
    let (client, processed) = http2_server(First::ProcessedThenGoAway).await;
    let error = redeem(client).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
    assert_eq!(processed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_code_that_met_a_server_going_away_is_not_sent_again_either() {
    // It was not processed; but its error is the same as of one that was.
    let (client, processed) = http2_server(First::GoAwayBefore).await;
    let outcome = redeem(client).await;
    let error = outcome.unwrap_err();
    assert!(
        matches!(
            error.kind(),
            ErrorKind::Interrupted | ErrorKind::NotProcessed
        ),
        "{error} {error:?}"
    );
    assert_eq!(processed.load(Ordering::SeqCst), 0);
}
