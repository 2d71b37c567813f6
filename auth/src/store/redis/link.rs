//! The connection to Redis: made when it is needed, and anew when it has failed.
//!
//! The redis crate's own connection manager is not used. It takes TLS settings from the process-wide default of
//! rustls and panics where there is none; it keeps a connection that no longer answers; and it reports a connection
//! that died at rest instead of making another.

use std::{
    borrow::Cow,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, RedisConnectionInfo, aio::MultiplexedConnection,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    runtime::Handle,
    task::AbortHandle,
    time::{Instant, timeout},
};

use super::{failure::Failure, tls::Tls};

/// Firewalls and load balancers forget a connection at rest, and tell nobody.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// Where Redis is, and how long to wait for it.
pub(super) struct Link {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<Tls>,
    /// User, password and database.
    pub(super) login: RedisConnectionInfo,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) open: OpenConnection,
}

#[derive(Default)]
pub(super) struct OpenConnection {
    current: Mutex<Option<Connection>>,
    /// Whoever makes a connection holds this; the others wait for it.
    connecting: tokio::sync::Mutex<u64>,
}

#[derive(Clone)]
struct Connection {
    to_redis: MultiplexedConnection,
    /// It ends with the last clone of the connection, unless an answer is due that never comes.
    driver: AbortHandle,
    number: u64,
    used: Instant,
}

impl Link {
    /// Runs a command. If the connection has died, it runs again on a new one: each command must bear that.
    pub(super) async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Failure> {
        self.run_made(|| Cow::Borrowed(command)).await
    }

    /// The same, of a command that is made when it can be sent.
    pub(super) async fn run_made<'a, T: FromRedisValue>(
        &self,
        command: impl Fn() -> Cow<'a, Cmd> + Send + Sync,
    ) -> Result<T, Failure> {
        Handle::try_current().map_err(|_| Failure::NoRuntime)?;
        match self.run_once(&command).await {
            Err(failure) if failure.is_broken() => self.run_once(&command).await,
            outcome => outcome,
        }
    }

    async fn run_once<'a, T: FromRedisValue>(
        &self,
        command: &(impl Fn() -> Cow<'a, Cmd> + Send + Sync),
    ) -> Result<T, Failure> {
        let mut connection = self.connected().await?;
        let command = command();
        let answer = command.query_async(&mut connection.to_redis);
        let outcome = match timeout(self.response_timeout, answer).await {
            Ok(answer) => answer.map_err(|error| Failure::of(&error)),
            Err(_) => Err(Failure::SlowAnswer(self.response_timeout)),
        };
        match &outcome {
            Err(failure) if failure.spoils_connection() => self.discard(&connection),
            _ => self.keep(&connection),
        }
        outcome
    }

    async fn connected(&self) -> Result<Connection, Failure> {
        if let Some(connection) = self.usable() {
            return Ok(connection);
        }
        timeout(self.connect_timeout, self.connect_in_turn())
            .await
            .unwrap_or(Err(Failure::SlowConnection(self.connect_timeout)))
    }

    async fn connect_in_turn(&self) -> Result<Connection, Failure> {
        let mut connections = self.open.connecting.lock().await;
        // Whoever held the turn before may have made one.
        if let Some(connection) = self.usable() {
            return Ok(connection);
        }
        let (to_redis, driver) = self.connect().await?;
        *connections += 1;
        let connection = Connection {
            to_redis,
            driver,
            number: *connections,
            used: Instant::now(),
        };
        *self.current() = Some(connection.clone());
        Ok(connection)
    }

    async fn connect(&self) -> Result<(MultiplexedConnection, AbortHandle), Failure> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await;
        let tcp = tcp.map_err(Failure::Unconnected)?;
        tcp.set_nodelay(true).map_err(Failure::Unconnected)?;
        match &self.tls {
            None => self.log_in(tcp).await,
            Some(tls) => {
                let stream = tls.connect(tcp).await.map_err(Failure::Unconnected)?;
                self.log_in(stream).await
            }
        }
    }

    async fn log_in(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<(MultiplexedConnection, AbortHandle), Failure> {
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&self.login, stream, config)
                .await
                .map_err(|error| Failure::of(&error))?;
        Ok((connection, tokio::spawn(driver).abort_handle()))
    }

    fn usable(&self) -> Option<Connection> {
        let current = self.current();
        let connection = current.as_ref()?;
        (connection.used.elapsed() < LONGEST_REST).then(|| connection.clone())
    }

    fn keep(&self, used: &Connection) {
        if let Some(current) = self.current().as_mut()
            && current.number == used.number
        {
            current.used = Instant::now();
        }
    }

    /// Whoever else waits for an answer on it tries again on another.
    fn discard(&self, spoiled: &Connection) {
        let mut current = self.current();
        if current
            .as_ref()
            .is_some_and(|current| current.number == spoiled.number)
        {
            *current = None;
        }
        spoiled.driver.abort();
    }

    fn current(&self) -> MutexGuard<'_, Option<Connection>> {
        let current = self.open.current.lock();
        current.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The address, without user and password.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
