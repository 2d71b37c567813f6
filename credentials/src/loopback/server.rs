//! Receives the callback: answers every request, and hands over the one that belongs to the login.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use coze_auth::{Error, ErrorKind, Result};
use coze_wire::Secret;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{is_stray, listener::Listener, page};

/// How long a request may take to send its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest head of a request, in bytes.
const LONGEST_HEAD: usize = 16 * 1024;
/// The most headers of a request.
const MAX_HEADERS: usize = 100;
/// The most open connections. One more ends the oldest.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection may last. The callback's waits for the exchange of its code.
const LONGEST_CONNECTION: Duration = Duration::from_secs(180);
/// The pause after a connection could not be accepted, such as for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether a callback belongs to the login.
pub(super) type Check = dyn Fn(&str) -> Result<()> + Send + Sync;

type Body = Full<bytes::Bytes>;

/// The callback of the login.
pub(super) struct Callback {
    /// It contains the code.
    text: Secret,
    browser: Option<Browser>,
}

/// The browser's connection, which waits for a page.
struct Browser {
    outcome: oneshot::Sender<Result<()>>,
    /// Ends when the page has been sent.
    sent: Option<oneshot::Receiver<Infallible>>,
}

impl Callback {
    pub(super) fn pasted(text: String) -> Self {
        Self {
            text: Secret::from(text),
            browser: None,
        }
    }

    pub(super) fn text(&self) -> &str {
        self.text.expose()
    }

    /// Shows the outcome in the browser.
    pub(super) fn show(self, outcome: Result<(), &Error>) -> impl Future<Output = ()> + use<> {
        let sent = self.browser.and_then(|browser| {
            let _ = browser.outcome.send(outcome.map_err(Clone::clone));
            browser.sent
        });
        async move {
            if let Some(sent) = sent {
                let _ = sent.await;
            }
        }
    }
}

/// Answers the requests of one login. Dropping it ends all connections.
pub(super) struct Server {
    listener: Option<Listener>,
    login: Arc<PendingLogin>,
    callbacks: mpsc::Receiver<Callback>,
    connections: JoinSet<()>,
    open: VecDeque<AbortHandle>,
}

/// What the connections share.
struct PendingLogin {
    path: String,
    check: Arc<Check>,
    program: Option<String>,
    /// Taken by the callback.
    callback: Mutex<Option<mpsc::Sender<Callback>>>,
    /// The number of requests whose state was missing or another.
    strays: AtomicUsize,
}

impl Server {
    pub(super) fn new(
        listener: Option<Listener>,
        check: Arc<Check>,
        program: Option<String>,
    ) -> Self {
        let (sender, callbacks) = mpsc::channel(1);
        let path = listener.as_ref().map(Listener::path).unwrap_or_default();
        Self {
            login: Arc::new(PendingLogin {
                path: path.to_owned(),
                check,
                program,
                callback: Mutex::new(Some(sender)),
                strays: AtomicUsize::new(0),
            }),
            listener,
            callbacks,
            connections: JoinSet::new(),
            open: VecDeque::new(),
        }
    }

    /// Answers requests when the callback has come. There is no other one.
    pub(super) async fn answer_forever(&mut self) -> Infallible {
        loop {
            let _ = self.callback().await;
        }
    }

    /// Answers requests until the callback comes.
    pub(super) async fn callback(&mut self) -> Callback {
        loop {
            let accept = async {
                match &self.listener {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(callback) = self.callbacks.recv() => return callback,
                Some(_) = self.connections.join_next() => {}
                accepted = accept => match accepted {
                    Ok(stream) => self.serve(stream),
                    Err(error) => {
                        tracing::debug!(%error, "a connection of the browser could not be accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    fn serve(&mut self, stream: TcpStream) {
        self.open.retain(|connection| !connection.is_finished());
        if self.open.len() >= MAX_CONNECTIONS
            && let Some(oldest) = self.open.pop_front()
        {
            oldest.abort();
        }
        let connection = connection(stream, Arc::clone(&self.login));
        self.open.push_back(self.connections.spawn(connection));
    }

    /// The error of a login that nobody has finished in time.
    pub(super) fn too_late(&self, limit: Duration) -> Error {
        let strays = match self.login.strays.load(Ordering::Relaxed) {
            0 => String::new(),
            count => format!(
                "; {count} requests with a wrong state, or none, were ignored: was an old page used?"
            ),
        };
        let seconds = limit.as_secs();
        let what = format!("nobody has signed in within {seconds} s{strays}");
        Error::new(ErrorKind::NotSignedIn, what)
    }
}

async fn connection(stream: TcpStream, login: Arc<PendingLogin>) {
    // It is dropped when the connection ends.
    let (_sent, on_sent) = oneshot::channel();
    let on_sent = Arc::new(Mutex::new(Some(on_sent)));
    let service = service_fn(move |request| {
        let (login, on_sent) = (Arc::clone(&login), Arc::clone(&on_sent));
        async move {
            let on_sent = on_sent
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            Ok::<_, Infallible>(login.answer(&request, on_sent).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(LONGEST_HEAD)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Requests that are not HTTP are ignored. The error's text could contain the request.
    let _ = timeout(LONGEST_CONNECTION, connection).await;
}

impl PendingLogin {
    async fn answer(
        &self,
        request: &Request<Incoming>,
        sent: Option<oneshot::Receiver<Infallible>>,
    ) -> Response<Body> {
        if request.uri().path() != self.path {
            return respond(StatusCode::NOT_FOUND, page::not_found());
        }
        if request.method() != Method::GET {
            let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, page::not_found());
            let allowed = HeaderValue::from_static("GET");
            response.headers_mut().insert(header::ALLOW, allowed);
            return response;
        }
        let query = request.uri().query().unwrap_or_default();
        let text = Secret::from(format!("?{query}"));
        if let Err(error) = (self.check)(text.expose())
            && is_stray(&error)
        {
            self.strays.fetch_add(1, Ordering::Relaxed);
            return respond(StatusCode::BAD_REQUEST, page::stray());
        }
        let sender = self
            .callback
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(sender) = sender else {
            return respond(StatusCode::CONFLICT, page::repeated());
        };
        let (outcome, on_outcome) = oneshot::channel();
        let browser = Some(Browser { outcome, sent });
        // There is room for the only callback.
        let _ = sender.try_send(Callback { text, browser });
        match on_outcome.await {
            Ok(Ok(())) => respond(StatusCode::OK, page::signed_in(self.program.as_deref())),
            Ok(Err(error)) => respond(StatusCode::BAD_REQUEST, page::failed(&error)),
            Err(_) => respond(StatusCode::BAD_REQUEST, page::stray()),
        }
    }
}

fn respond(status: StatusCode, html: String) -> Response<Body> {
    let mut response = Response::new(Full::from(html));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, page::POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
