//! A proxy between a store and its Redis that can lose a response, or switch to another server like a failover.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::server::RedisServer;

pub(crate) struct Proxy {
    port: u16,
    target: watch::Sender<u16>,
    loses_answer: Arc<AtomicBool>,
}

impl Proxy {
    pub(crate) async fn to(server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            target: watch::Sender::new(server.port()),
            loses_answer: Arc::default(),
        };
        let (target, loses_answer) = (proxy.target.subscribe(), Arc::clone(&proxy.loses_answer));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (mut target, loses_answer) = (target.clone(), Arc::clone(&loses_answer));
                let port = *target.borrow_and_update();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = target.changed() => {}
                        _ = forward(client, port, &loses_answer) => {}
                    }
                });
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Redis executes the next command; then the connection is closed without the response.
    pub(crate) fn lose_next_answer(&self) {
        self.loses_answer.store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_lost_answer(&self) -> bool {
        !self.loses_answer.load(Ordering::SeqCst)
    }

    /// Closes the connections. New ones go to this server.
    pub(crate) fn fail_over_to(&self, server: &RedisServer) {
        self.target.send_replace(server.port());
    }
}

async fn forward(
    mut client: TcpStream,
    port: u16,
    loses_answer: &AtomicBool,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    let (mut asked, mut answered) = ([0; 16 * 1024], [0; 16 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => match read? {
                0 => return Ok(()),
                count => server.write_all(&asked[..count]).await?,
            },
            read = server.read(&mut answered) => match read? {
                0 => return Ok(()),
                _ if loses_answer.swap(false, Ordering::SeqCst) => return Ok(()),
                count => client.write_all(&answered[..count]).await?,
            },
        }
    }
}
