//! A `redis-server` for one test, on a free port of this machine. It ends with the test.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use redis::FromRedisValue;
use tempfile::TempDir;

use crate::left_out::left_out;

/// If this variable is set, tests fail without `redis-server`.
const REQUIRED: &str = "COZE_TESTS_REQUIRE_REDIS";
const STARTS_WITHIN: Duration = Duration::from_secs(10);
/// Between the search for a free port and its use, another program may take it.
const PORTS_TRIED: usize = 5;

pub(crate) struct RedisServer {
    process: Option<Child>,
    port: u16,
    tls_port: Option<u16>,
    arguments: Vec<String>,
    folder: TempDir,
}

impl RedisServer {
    /// Starts a server. If `redis-server` is not installed, reports that the test is skipped, and returns `None`.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// Starts a server with these options, which override the defaults.
    pub(crate) fn start_with(arguments: &[&str]) -> Option<Self> {
        is_installed().then(|| Self::start_on_free_ports(false, arguments))
    }

    /// Starts a server that also supports TLS, with this certificate and key.
    pub(crate) fn start_with_tls(certificate_pem: &str, key_pem: &str) -> Option<Self> {
        if !is_installed() {
            return None;
        }
        if !is_built_with_tls() {
            left_out("redis-server is built without TLS", REQUIRED);
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (
            folder.path().join("cert.pem"),
            folder.path().join("key.pem"),
        );
        std::fs::write(&certificate, certificate_pem).unwrap();
        std::fs::write(&key, key_pem).unwrap();
        let arguments = [
            "--tls-cert-file",
            certificate.to_str().unwrap(),
            "--tls-key-file",
            key.to_str().unwrap(),
            "--tls-auth-clients",
            "no",
        ];
        let server = Self::start_on_free_ports(true, &arguments);
        // The server has read them.
        drop(folder);
        Some(server)
    }

    fn start_on_free_ports(with_tls: bool, arguments: &[&str]) -> Self {
        let mut server = Self {
            process: None,
            port: 0,
            tls_port: None,
            arguments: arguments.iter().map(|&argument| argument.into()).collect(),
            folder: tempfile::tempdir().unwrap(),
        };
        for _ in 0..PORTS_TRIED {
            server.port = free_port();
            server.tls_port = with_tls.then(free_port);
            if server.has_started() {
                return server;
            }
        }
        panic!("redis-server exits after its start");
    }

    /// Starts it again on the same port. Only data that it has written to its folder is kept.
    pub(crate) fn start_again(&mut self) {
        let began = Instant::now();
        // Another program may have taken the port for a moment.
        while !self.has_started() {
            assert!(began.elapsed() < STARTS_WITHIN, "the port is taken");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts it, and returns whether it got its ports. Otherwise it has exited.
    fn has_started(&mut self) -> bool {
        // A server that is built without TLS does not know the option.
        let tls_port = self
            .tls_port
            .map(|port| ["--tls-port".into(), port.to_string()]);
        let process = Command::new("redis-server")
            .args(["--port", &self.port.to_string()])
            .args(tls_port.iter().flatten())
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(&self.arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let id = self.process.insert(process).id();
        let began = Instant::now();
        while self.ask_for_id() != Ok(Some(id)) {
            if self.has_ended() {
                return false;
            }
            assert!(
                began.elapsed() < STARTS_WITHIN,
                "redis-server does not start"
            );
            thread::sleep(Duration::from_millis(10));
        }
        true
    }

    fn has_ended(&mut self) -> bool {
        let process = self.process.as_mut();
        process.is_none_or(|process| process.try_wait().unwrap().is_some())
    }

    /// Suspends the process: it still accepts connections, but does not respond. (`CLIENT PAUSE ... ALL` can't be ended early.)
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// Resumes the process. It also processes the commands that it received while suspended.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.process.as_ref().unwrap().id().to_string();
        let kill = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(kill.unwrap().success());
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn url_as(&self, user: &str, password: &str) -> String {
        format!("redis://{user}:{password}@127.0.0.1:{}", self.port)
    }

    pub(crate) fn tls_url(&self) -> String {
        let port = self.tls_port.expect("the server was started with TLS");
        format!("rediss://localhost:{port}")
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Sends a command to the server directly, without the store: `ask("GET key")`.
    pub(crate) fn ask<T: FromRedisValue>(&self, words: &str) -> T {
        self.ask_words(&words.split(' ').collect::<Vec<_>>())
    }

    pub(crate) fn ask_words<T: FromRedisValue>(&self, words: &[impl AsRef<[u8]>]) -> T {
        let words: Vec<&[u8]> = words.iter().map(AsRef::as_ref).collect();
        let mut command = redis::Cmd::new();
        command.arg(&words);
        let answer = command.query(&mut self.connect().unwrap());
        let asked = || {
            words
                .iter()
                .map(|word| String::from_utf8_lossy(word))
                .collect::<Vec<_>>()
        };
        answer.unwrap_or_else(|error| panic!("{:?}: {error}", asked()))
    }

    /// Sends a command whose response does not matter.
    pub(crate) fn tell(&self, words: &str) {
        self.ask::<redis::Value>(words);
    }

    /// The process id of the server at this port, after it has loaded its data.
    fn ask_for_id(&self) -> redis::RedisResult<Option<u32>> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
        connection.set_read_timeout(Some(Duration::from_secs(1)))?;
        redis::cmd("PING").exec(&mut connection)?;
        let info: redis::InfoDict = redis::cmd("INFO").arg("server").query(&mut connection)?;
        Ok(info.get("process_id"))
    }

    fn connect(&self) -> redis::RedisResult<redis::Connection> {
        redis::Client::open(self.url())?.get_connection()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn is_installed() -> bool {
    if version().is_some() {
        return true;
    }
    left_out("redis-server is not installed", REQUIRED);
    false
}

fn version() -> Option<String> {
    let output = Command::new("redis-server")
        .arg("--version")
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()
}

/// There is no option to query it. But redis-server does not start with an unknown option.
fn is_built_with_tls() -> bool {
    let output = Command::new("redis-server")
        .args(["--port", "0", "--tls-port", "0", "--tls-protocols", "none"])
        .output()
        .unwrap();
    !String::from_utf8_lossy(&output.stdout).contains("Bad directive")
        && !String::from_utf8_lossy(&output.stderr).contains("Bad directive")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
