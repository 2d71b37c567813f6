//! A minimal token server on loopback: every request gets a token, and nothing is checked.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use http::{Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, runtime, time::sleep};

/// The server. It has its own thread, and runs until the process ends.
#[derive(Debug, Clone)]
pub struct TokenServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    requests: AtomicU64,
    delay_millis: AtomicU64,
    /// As a duration, which all peers support.
    expires_in_seconds: AtomicU64,
    /// The length of a token without its prefix.
    digits: AtomicUsize,
    refresh_tokens: AtomicBool,
}

/// The bytes of every token.
pub const TOKEN_LENGTH: usize = 64;

/// The longest lifetime of a token.
pub const A_DAY: u64 = 86_399;

impl TokenServer {
    /// Starts a server without latency, with tokens that live a day.
    ///
    /// # Errors
    ///
    /// If it cannot listen.
    pub fn start() -> Result<Self> {
        let shared = Arc::new(Shared {
            requests: AtomicU64::new(0),
            delay_millis: AtomicU64::new(0),
            expires_in_seconds: AtomicU64::new(A_DAY),
            digits: AtomicUsize::new(TOKEN_LENGTH - 4),
            refresh_tokens: AtomicBool::new(false),
        });
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let serving = Arc::clone(&shared);
        thread::Builder::new()
            .name("token server".to_owned())
            .spawn(move || {
                runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?
                    .block_on(serve(listener, serving))
            })?;
        Ok(Self { address, shared })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A URL with a path.
    pub fn token_uri(&self) -> String {
        format!("{}/api/permission/oauth2/token", self.base())
    }

    /// The number of requests.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Sets the latency of responses.
    pub fn set_delay(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.shared.delay_millis.store(millis, Ordering::SeqCst);
    }

    /// Sets the length of tokens, and adds refresh tokens, as for a signed-in user.
    pub fn grant_to_users(&self, token_length: usize) {
        self.shared
            .digits
            .store(token_length.saturating_sub(4), Ordering::SeqCst);
        self.shared.refresh_tokens.store(true, Ordering::SeqCst);
    }

    /// Sets the lifetime of tokens.
    pub fn set_expires_in(&self, seconds: u64) {
        self.shared
            .expires_in_seconds
            .store(seconds, Ordering::SeqCst);
    }
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let answering = service_fn(|request: http::Request<hyper::body::Incoming>| {
                let shared = Arc::clone(&shared);
                async move {
                    let _ = request.into_body().collect().await;
                    Ok::<_, Infallible>(answer(&shared).await)
                }
            });
            // A client may close its connection.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answering)
                .await;
        });
    }
}

async fn answer(shared: &Shared) -> Response<Full<Bytes>> {
    let number = shared.requests.fetch_add(1, Ordering::SeqCst);
    let delay = Duration::from_millis(shared.delay_millis.load(Ordering::SeqCst));
    if !delay.is_zero() {
        sleep(delay).await;
    }
    let expires_in = shared.expires_in_seconds.load(Ordering::SeqCst);
    let digits = shared.digits.load(Ordering::SeqCst);
    let refresh_token = if shared.refresh_tokens.load(Ordering::SeqCst) {
        format!(r#""refresh_token":"czr_{number:0digits$}","#)
    } else {
        String::new()
    };
    let body = format!(
        r#"{{"access_token":"czs_{number:0digits$}","expires_in":{expires_in},{refresh_token}"token_type":"Bearer"}}"#
    );
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert(
        CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}
