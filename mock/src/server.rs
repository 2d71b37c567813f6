//! The socket server. It has its own accept loop, so that a fault can reset a TCP connection.

use crate::body::ServiceError;
use crate::core::Core;
use crate::error::Error;
use crate::limits;
use crate::options::Connections;
use crate::service::MockService;
use http_body_util::BodyExt as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Sleep;
use tower::Service as _;

/// A listening mock. Dropping it stops listening and closes every connection.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

impl Server {
    /// Stops, and waits until the port is free again.
    pub(crate) async fn shutdown(&mut self) {
        drop(self.stop.take());
        if let Some(task) = self.task.take() {
            // The only error is that the runtime ended it first.
            let _ = task.await;
        }
    }
}

pub(crate) async fn start(core: Arc<Core>, address: SocketAddr) -> Result<Server, Error> {
    let cannot_listen = |source| Error::Listen {
        address: address.to_string(),
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(cannot_listen)?;
    let address = listener.local_addr().map_err(cannot_listen)?;
    // The local user reaches a wildcard address through loopback.
    let reached_at = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => {
            SocketAddr::from(([127, 0, 0, 1], v4.port()))
        }
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, v6.port()))
        }
        other => other,
    };
    // Set once, because a mock is started at most once.
    let _ = core.listening_at.set(format!("http://{reached_at}"));
    core.loopback_only
        .store(address.ip().is_loopback(), Ordering::Relaxed);
    let (stop, stopped) = oneshot::channel();
    let connections = core.options.connections;
    let service = MockService::new(core).with_body_timeout(connections.body_timeout);
    let task = tokio::spawn(accept(listener, service, connections, stopped));
    Ok(Server {
        address,
        stop: Some(stop),
        task: Some(task),
    })
}

async fn accept(
    listener: TcpListener,
    service: MockService,
    limits: Connections,
    mut stopped: oneshot::Receiver<()>,
) {
    // Dropped with this future, and every connection with it.
    let mut connections = JoinSet::new();
    let free = Arc::new(Semaphore::new(limits.at_most));
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            accepted = next(&listener, &free) => match accepted {
                Ok((stream, permit)) => {
                    let service = service.clone();
                    connections.spawn(async move {
                        serve(stream, service, limits).await;
                        drop(permit);
                    });
                }
                // Out of file descriptors, or the client has closed the connection: both are temporary.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
        }
    }
    connections.shutdown().await;
}

/// The next connection, once the limit permits it.
async fn next(
    listener: &TcpListener,
    free: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(free).acquire_owned().await;
    let permit = permit.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn serve(stream: TcpStream, service: MockService, limits: Connections) {
    // Responses are small and written at once; Nagle's algorithm would delay them.
    let _ = stream.set_nodelay(true);
    let reset = Arc::new(AtomicBool::new(false));
    let peer = TokioIo::new(Peer {
        stream,
        reset: Arc::clone(&reset),
        write_timeout: limits.body_timeout,
        stalled: None,
        ended: None,
    });
    let handle = service_fn(move |request| {
        let answer = service.clone().call(request);
        let reset = Arc::clone(&reset);
        async move {
            let answer = answer.await;
            if answer.is_err() {
                reset.store(true, Ordering::Relaxed);
            }
            let tell = move |error: ServiceError| {
                if error.is_connection_reset() {
                    reset.store(true, Ordering::Relaxed);
                }
                error
            };
            answer.map(|answer| answer.map(|body| body.map_err(tell)))
        }
    });
    // A connection error is caused by the client or by a fault.
    let _ = http1::Builder::new()
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(limits::HEAD_BYTES)
        .max_header_size(limits::HEAD_BYTES)
        .serve_connection(peer, handle)
        .await;
}

/// A client's connection, which a fault can end with a TCP reset.
struct Peer {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
    write_timeout: Duration,
    /// Runs from the first write that blocks until everything is written.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Runs after the client has closed its sending side.
    ended: Option<Pin<Box<Sleep>>>,
}

/// hyper treats a half-closed connection as closed, and sends no response. Reporting the end of input with this delay lets a
/// half-closed client receive its response.
const END_IS_TOLD_AFTER: Duration = Duration::from_millis(200);

impl Peer {
    /// Returns the result of a write, or a timeout if the client has read nothing for too long.
    fn written<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            return written;
        }
        let write_timeout = self.write_timeout;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(write_timeout)));
        stalled.as_mut().poll(context).map(|()| {
            let message = "the client reads too slowly";
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            // With a linger time of zero, closing sends RST.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let is_end = buffer.filled().len() == before && buffer.remaining() > 0;
        if !is_end || !matches!(read, Poll::Ready(Ok(()))) {
            return read;
        }
        let ended = self
            .ended
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(END_IS_TOLD_AFTER)));
        ended.as_mut().poll(context).map(Ok)
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, buffer);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when it has nothing left to write.
        self.stalled = None;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reset.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
