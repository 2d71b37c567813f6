//! The connections to Redis: created when they are needed, and again after a failure.
//!
//! A connection is driven by the tokio runtime on which it was created. So each runtime has its own connection, and does not wait for
//! another runtime, which may have shut down or may not be running.
//!
//! The redis crate's connection manager is not used, because it takes TLS settings from the process-wide default of rustls and panics
//! without one, keeps a connection that no longer responds, and fails instead of reconnecting if an idle connection was closed.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, RedisConnectionInfo, RedisError,
    aio::MultiplexedConnection,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    runtime::{self, Handle},
    task::AbortHandle,
    time::timeout,
};

use super::{builder::is_localhost, failure::Failure, tls::Tls};

/// Firewalls and load balancers silently drop idle connections.
const LONGEST_IDLE: Duration = Duration::from_secs(60);

/// Address, timeouts and connections of one Redis.
pub(super) struct Connections {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<Tls>,
    /// User, password and database.
    pub(super) login: RedisConnectionInfo,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) by_runtime: Mutex<HashMap<runtime::Id, Arc<OfRuntime>>>,
}

/// The connection of one runtime.
#[derive(Default)]
pub(super) struct OfRuntime {
    current: Mutex<Option<Connection>>,
    /// The number of connections created so far. Locked by the caller that connects; other callers wait for it.
    connecting: tokio::sync::Mutex<u64>,
}

#[derive(Clone)]
struct Connection {
    to_redis: MultiplexedConnection,
    /// The driver ends with the last clone of the connection, unless a response is still expected.
    driver: AbortHandle,
    number: u64,
    used: Instant,
}

impl Connections {
    /// Runs a command. If the connection fails, it is retried once on a new connection. `command` creates the command for each attempt;
    /// its argument is true for the second one, because Redis may have executed the first.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        command: impl Fn(bool) -> Cmd + Send + Sync,
    ) -> Result<T, Failure> {
        let runtime = Handle::try_current().map_err(|_| Failure::NoRuntime)?.id();
        let connection = self.of_runtime(runtime);
        match self.run_once(&connection, &command, false).await {
            Err(Failure::Broken) => self.run_once(&connection, &command, true).await,
            outcome => outcome,
        }
    }

    async fn run_once<T: FromRedisValue>(
        &self,
        of_runtime: &OfRuntime,
        command: &(impl Fn(bool) -> Cmd + Send + Sync),
        is_repeated: bool,
    ) -> Result<T, Failure> {
        let mut connection = self.connected(of_runtime).await?;
        let command = command(is_repeated);
        let answer = command.query_async(&mut connection.to_redis);
        let outcome = match timeout(self.response_timeout, answer).await {
            Ok(answer) => answer.map_err(|error| Failure::of(&error)),
            Err(_) => Err(Failure::SlowAnswer(self.response_timeout)),
        };
        match &outcome {
            Err(failure) if failure.spoils_connection() => of_runtime.discard(&connection),
            _ => of_runtime.keep(&connection),
        }
        outcome
    }

    /// The connection of this runtime. Connections that are idle, or whose runtime has shut down, are removed.
    fn of_runtime(&self, runtime: runtime::Id) -> Arc<OfRuntime> {
        let mut by_runtime = locked(&self.by_runtime);
        by_runtime.retain(|&id, other| {
            id == runtime || Arc::strong_count(other) > 1 || other.usable().is_some()
        });
        Arc::clone(by_runtime.entry(runtime).or_default())
    }

    async fn connected(&self, of_runtime: &OfRuntime) -> Result<Connection, Failure> {
        if let Some(connection) = of_runtime.usable() {
            return Ok(connection);
        }
        timeout(self.connect_timeout, self.connect_in_turn(of_runtime))
            .await
            .unwrap_or(Err(Failure::SlowConnection(self.connect_timeout)))
    }

    async fn connect_in_turn(&self, of_runtime: &OfRuntime) -> Result<Connection, Failure> {
        let mut made = of_runtime.connecting.lock().await;
        // Another caller may have connected while this one waited.
        if let Some(connection) = of_runtime.usable() {
            return Ok(connection);
        }
        let (to_redis, driver) = self.connect().await?;
        *made += 1;
        let connection = Connection {
            to_redis,
            driver,
            number: *made,
            used: Instant::now(),
        };
        *locked(&of_runtime.current) = Some(connection.clone());
        Ok(connection)
    }

    async fn connect(&self) -> Result<(MultiplexedConnection, AbortHandle), Failure> {
        let tcp = if is_localhost(&self.host) {
            let here: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            TcpStream::connect(&here.map(|ip| SocketAddr::new(ip, self.port))[..]).await
        } else {
            TcpStream::connect((self.host.as_str(), self.port)).await
        };
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
        // The user may lack permission for `CLIENT SETINFO`.
        let no_login = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (mut connection, driver) =
            MultiplexedConnection::new_with_config(&no_login, stream, config)
                .await
                .map_err(|error| Failure::of(&error))?;
        let mut driver = AbortedOnDrop(Some(tokio::spawn(driver).abort_handle()));
        // The redis crate's own login calls each error of it a wrong password.
        self.authenticate(&mut connection).await?;
        if self.login.db() != 0 {
            let mut select = redis::cmd("SELECT");
            let selected = select.arg(self.login.db()).exec_async(&mut connection);
            selected.await.map_err(|error| Failure::of(&error))?;
        }
        let driver = driver.0.take().ok_or(Failure::NoRuntime)?;
        Ok((connection, driver))
    }

    async fn authenticate(&self, connection: &mut MultiplexedConnection) -> Result<(), Failure> {
        let Some(password) = self.login.password() else {
            return Ok(());
        };
        let mut auth = redis::cmd("AUTH");
        let mut done = auth
            .arg(self.login.username())
            .arg(password)
            .exec_async(connection)
            .await;
        let is_before_6 = |error: &RedisError| {
            let detail = error.detail().unwrap_or_default();
            detail.contains("wrong number of arguments")
        };
        if self.login.username().is_some() && done.as_ref().is_err_and(is_before_6) {
            let mut auth = redis::cmd("AUTH");
            done = auth.arg(password).exec_async(connection).await;
        }
        done.map_err(|error| Failure::of_login(&error))
    }
}

/// Ends the driver of a connection whose login failed or was given up.
struct AbortedOnDrop(Option<AbortHandle>);

impl Drop for AbortedOnDrop {
    fn drop(&mut self) {
        if let Some(driver) = &self.0 {
            driver.abort();
        }
    }
}

impl OfRuntime {
    fn usable(&self) -> Option<Connection> {
        let current = locked(&self.current);
        let connection = current.as_ref()?;
        let is_usable =
            connection.used.elapsed() < LONGEST_IDLE && !connection.driver.is_finished();
        is_usable.then(|| connection.clone())
    }

    fn keep(&self, used: &Connection) {
        if let Some(current) = locked(&self.current).as_mut()
            && current.number == used.number
        {
            current.used = Instant::now();
        }
    }

    /// Callers that wait for a response on this connection retry on a new one.
    fn discard(&self, spoiled: &Connection) {
        locked(&self.current).take_if(|current| current.number == spoiled.number);
        spoiled.driver.abort();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The address, without user and password.
impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
