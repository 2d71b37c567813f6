//! A `redis-server` of a test's own, on a free port of this machine. It ends with the test.

use std::{
    io::Write,
    net::TcpListener,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use redis::FromRedisValue;
use tempfile::TempDir;

const STARTS_WITHIN: Duration = Duration::from_secs(10);

pub(crate) struct RedisServer {
    process: Option<Child>,
    port: u16,
    tls_port: Option<u16>,
    arguments: Vec<String>,
    folder: TempDir,
}

impl RedisServer {
    /// A server, or nothing where `redis-server` is not installed; then that is said on standard error, past the
    /// capture of test output, unless the tests of Redis must not be left out.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// One with these options: the last of a kind counts.
    pub(crate) fn start_with(arguments: &[&str]) -> Option<Self> {
        is_installed().then(|| Self::start_on(free_port(), None, arguments))
    }

    /// One that also speaks TLS, with the certificate and the key in these files of its folder.
    pub(crate) fn start_with_tls(certificate_pem: &str, key_pem: &str) -> Option<Self> {
        if !is_installed() {
            return None;
        }
        if !is_built_with_tls() {
            left_out("this redis-server is built without TLS");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (
            folder.path().join("cert.pem"),
            folder.path().join("key.pem"),
        );
        std::fs::write(&certificate, certificate_pem).unwrap();
        std::fs::write(&key, key_pem).unwrap();
        let tls_port = free_port();
        let arguments = [
            "--tls-port",
            &tls_port.to_string(),
            "--tls-cert-file",
            certificate.to_str().unwrap(),
            "--tls-key-file",
            key.to_str().unwrap(),
            "--tls-auth-clients",
            "no",
        ];
        let server = Self::start_on(free_port(), Some(tls_port), &arguments);
        // The server has read them.
        drop(folder);
        Some(server)
    }

    fn start_on(port: u16, tls_port: Option<u16>, arguments: &[&str]) -> Self {
        let mut server = Self {
            process: None,
            port,
            tls_port,
            arguments: arguments.iter().map(|&argument| argument.into()).collect(),
            folder: tempfile::tempdir().unwrap(),
        };
        server.start_again();
        server
    }

    /// On the same port, with nothing in it but what it has written to its folder.
    pub(crate) fn start_again(&mut self) {
        let process = Command::new("redis-server")
            .args(["--port", &self.port.to_string()])
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(&self.arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
        let began = Instant::now();
        while self.ping().is_err() {
            assert!(
                began.elapsed() < STARTS_WITHIN,
                "redis-server does not start"
            );
            thread::sleep(Duration::from_millis(10));
        }
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
        let port = self.tls_port.expect("it was started with TLS");
        format!("rediss://localhost:{port}")
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Asks the server, past the store: `ask("GET key")`.
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

    /// Tells the server to do something whose answer does not matter.
    pub(crate) fn tell(&self, words: &str) {
        self.ask::<redis::Value>(words);
    }

    fn ping(&self) -> redis::RedisResult<()> {
        redis::cmd("PING").exec(&mut self.connect()?)
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
    left_out("no redis-server on PATH");
    false
}

fn version() -> Option<String> {
    let output = Command::new("redis-server")
        .arg("--version")
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()
}

/// It does not say; but it does not start with an option that it does not know.
fn is_built_with_tls() -> bool {
    let output = Command::new("redis-server")
        .args(["--port", "0", "--tls-port", "0", "--tls-protocols", "none"])
        .output()
        .unwrap();
    !String::from_utf8_lossy(&output.stdout).contains("Bad directive")
        && !String::from_utf8_lossy(&output.stderr).contains("Bad directive")
}

fn left_out(why: &str) {
    let must_run = std::env::var("COZE_TESTS_REQUIRE_REDIS").is_ok_and(|value| value == "1");
    assert!(!must_run, "{why}, and COZE_TESTS_REQUIRE_REDIS is set");
    let test = thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "{test}: skipped: {why}");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
