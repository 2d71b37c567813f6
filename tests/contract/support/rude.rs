//! A server that reads a request completely and then misbehaves in ways that no HTTP server library
//! supports.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};

/// The reaction to a received request.
#[derive(Debug, Clone)]
pub(crate) enum Manners {
    /// Closes the connection.
    Closes,
    /// Resets the connection.
    Resets,
    /// Sends these bytes, then closes the connection.
    Says(String),
    /// Sends these bytes, then nothing, and keeps the connection open.
    SaysAndHangs(String),
    /// Sends this response to the first request of a kept-alive connection, and closes it on the
    /// second.
    AnswersOnce(String),
    /// Over HTTP/2: sends GOAWAY with the body of the request and this text as debug data, 16 KB in total.
    GoesAway(String),
}

pub(crate) struct RudeServer {
    base_url: String,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl RudeServer {
    pub(crate) async fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let connections = Arc::new(AtomicUsize::new(0));
        let (counted, opened) = (Arc::clone(&requests), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                opened.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(connection, manners.clone(), Arc::clone(&counted)));
            }
        });
        Self {
            base_url,
            requests,
            connections,
            task,
        }
    }

    pub(crate) fn base_url(&self) -> &str {
        &self.base_url
    }

    /// The number of complete requests.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// The number of accepted connections.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for RudeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A port that is bound, so that no other process can use it, but not listening.
pub(crate) struct Refusing(TcpSocket);

impl Refusing {
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        Self(socket)
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }
}

async fn serve(mut connection: TcpStream, manners: Manners, requests: Arc<AtomicUsize>) {
    if let Manners::GoesAway(debug_data) = manners {
        if let Some(body) = read_http2_request(&mut connection).await {
            requests.fetch_add(1, Ordering::SeqCst);
            go_away(&mut connection, &[debug_data.into_bytes(), body].concat()).await;
        }
        return;
    }
    if read_request(&mut connection).await.is_none() {
        return;
    }
    requests.fetch_add(1, Ordering::SeqCst);
    match manners {
        Manners::Closes => {}
        Manners::Resets => connection.set_zero_linger().unwrap(),
        Manners::Says(text) => {
            let _ = connection.write_all(text.as_bytes()).await;
            let _ = connection.shutdown().await;
        }
        Manners::SaysAndHangs(text) => {
            let _ = connection.write_all(text.as_bytes()).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        Manners::AnswersOnce(text) => {
            let _ = connection.write_all(text.as_bytes()).await;
            if read_request(&mut connection).await.is_some() {
                requests.fetch_add(1, Ordering::SeqCst);
            }
        }
        Manners::GoesAway(_) => unreachable!("handled by the HTTP/2 server"),
    }
}

/// Reads frames up to the end of the first stream, and returns the payload of the DATA frames (RFC 9113 section 4.1).
async fn read_http2_request(connection: &mut TcpStream) -> Option<Vec<u8>> {
    let mut preface = [0; 24];
    connection.read_exact(&mut preface).await.ok()?;
    let mut body = Vec::new();
    loop {
        let mut header = [0; 9];
        connection.read_exact(&mut header).await.ok()?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; length as usize];
        connection.read_exact(&mut payload).await.ok()?;
        let (kind, ends_stream) = (header[3], header[4] & 1 == 1);
        if kind == 0 {
            body.extend(payload);
        }
        if kind <= 1 && ends_stream {
            return Some(body);
        }
    }
}

/// SETTINGS, which must come first, then GOAWAY without an error (RFC 9113 section 6.8).
async fn go_away(connection: &mut TcpStream, debug_data: &[u8]) {
    let mut frames = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    let mut payload = vec![0; 8];
    payload.extend(debug_data.iter().cycle().take(16_000));
    let length = (payload.len() as u32).to_be_bytes();
    frames.extend(&length[1..]);
    frames.extend([7, 0, 0, 0, 0, 0]);
    frames.extend(payload);
    let _ = connection.write_all(&frames).await;
    // Closing immediately would reset the connection and discard the sent bytes.
    let mut rest = [0; 1024];
    while connection.read(&mut rest).await.is_ok_and(|read| read > 0) {}
}

/// Reads one request with its body; `None` if the connection ends first.
async fn read_request(connection: &mut TcpStream) -> Option<Vec<u8>> {
    let mut read = Vec::new();
    loop {
        if let Some(length) = whole_length(&read)
            && read.len() >= length
        {
            return Some(read);
        }
        if connection.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}

/// The length of a request with its body, once its headers are complete.
fn whole_length(read: &[u8]) -> Option<usize> {
    let end_of_headers = read.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let headers = String::from_utf8_lossy(&read[..end_of_headers]).to_lowercase();
    let body = headers
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .map_or(0, |length| length.trim().parse().unwrap());
    Some(end_of_headers + body)
}
