//! The sockets of a loopback redirect URI.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    task::Poll,
};

use coze_auth::{Error, ErrorKind, Result, Url};
use tokio::net::{TcpListener, TcpStream};

/// How often two sockets are opened for a free port: the port that is free for IPv4 may be in use for IPv6.
const ATTEMPTS: usize = 32;

/// The sockets of a loopback redirect URI: one, or for `localhost` one for each version of the Internet Protocol.
#[derive(Debug)]
pub(super) struct Listener {
    sockets: Vec<TcpListener>,
    redirect_uri: String,
    path: String,
}

impl Listener {
    pub(super) async fn bind(redirect_uri: &str) -> Result<Self> {
        let refused = |why: String| {
            let what = format!("the program can't listen on the redirect URI: {why}");
            Err(Error::new(ErrorKind::InvalidInput, what))
        };
        let redirect_uri = redirect_uri.trim();
        let url = match Url::parse(redirect_uri) {
            Ok(url) => url,
            Err(error) => return refused(format!("it is not a URL ({error})")),
        };
        if url.scheme() != "http" {
            return refused(format!("its scheme is {}, not http", url.scheme()));
        }
        if !coze_wire::is_loopback(&url) {
            let what = "its host is not this machine; use localhost, 127.0.0.1 or [::1]";
            return refused(what.to_owned());
        }
        let addresses = match url.host_str().map(|host| host.trim_matches(['[', ']'])) {
            Some(host) => match host.parse() {
                Ok(IpAddr::V4(address)) => vec![address.into()],
                Ok(IpAddr::V6(address)) => vec![address.to_canonical()],
                Err(_) => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            },
            None => return refused("it has no host".to_owned()),
        };
        let port = url.port_or_known_default().unwrap_or(80);
        let (sockets, port_of_sockets) = bind_all(&addresses, port).await?;
        let redirect_uri = if port == port_of_sockets {
            redirect_uri.to_owned()
        } else {
            let mut url = url.clone();
            // Only a URL without a host refuses a port.
            let _ = url.set_port(Some(port_of_sockets));
            url.to_string()
        };
        Ok(Self {
            sockets,
            redirect_uri,
            path: url.path().to_owned(),
        })
    }

    /// The redirect URI as it was given, with the port in place of port 0.
    pub(super) fn redirect_uri(&self) -> &str {
        &self.redirect_uri
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The next connection of any socket.
    pub(super) async fn accept(&self) -> io::Result<TcpStream> {
        poll_fn(|context| {
            for socket in &self.sockets {
                if let Poll::Ready(accepted) = socket.poll_accept(context) {
                    return Poll::Ready(accepted.map(|(stream, _)| stream));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Opens a socket for each address, all with the same port.
async fn bind_all(addresses: &[IpAddr], port: u16) -> Result<(Vec<TcpListener>, u16)> {
    let attempts = if port == 0 { ATTEMPTS } else { 1 };
    let mut attempt = 1;
    loop {
        match try_bind_all(addresses, port).await {
            Ok(bound) => return Ok(bound),
            Err((_, error)) if is_in_use(&error) && attempt < attempts => attempt += 1,
            Err((address, error)) => {
                let advice = match error.kind() {
                    io::ErrorKind::AddrInUse => {
                        ": another program uses the port, or another sign-in is waiting; end that"
                    }
                    io::ErrorKind::PermissionDenied => {
                        ": the system reserves the port; register a redirect URI with a port above 1023"
                    }
                    _ => "",
                };
                let what = format!("the program can't listen on {address}: {error}{advice}");
                return Err(Error::new(ErrorKind::System, what));
            }
        }
    }
}

async fn try_bind_all(
    addresses: &[IpAddr],
    mut port: u16,
) -> Result<(Vec<TcpListener>, u16), (SocketAddr, io::Error)> {
    let mut sockets = Vec::new();
    let mut unavailable = None;
    for address in addresses {
        let address = SocketAddr::new(*address, port);
        let bound = TcpListener::bind(address).await;
        match bound.and_then(|socket| Ok((socket.local_addr()?.port(), socket))) {
            Ok((bound_port, socket)) => {
                port = bound_port;
                sockets.push(socket);
            }
            // If another program has the port for one version of the protocol, the browser may send the code there.
            Err(error) if is_in_use(&error) || error.kind() == io::ErrorKind::PermissionDenied => {
                return Err((address, error));
            }
            // A system without IPv6, or without IPv4.
            Err(error) => unavailable = Some((address, error)),
        }
    }
    match unavailable {
        Some(error) if sockets.is_empty() => Err(error),
        _ => Ok((sockets, port)),
    }
}

fn is_in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}
