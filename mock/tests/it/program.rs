//! The program, started as its users start it.

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

struct Program {
    child: Child,
    ready: Value,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_coze-mock"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output"))
            .read_line(&mut line)
            .expect("a line");
        Self {
            ready: serde_json::from_str(&line).expect("one line of JSON"),
            child,
        }
    }

    fn get(&self, path: &str, bearer: &str) -> String {
        let address = self.ready["coze_api_base"]
            .as_str()
            .and_then(|url| url.strip_prefix("http://"))
            .expect("a URL");
        let mut stream = TcpStream::connect(address).expect("a connection");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {bearer}\r\nconnection: close\r\n\r\n")
            .expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }
}

#[cfg(unix)]
impl Program {
    fn stop(&mut self) {
        let process = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &process]).status();
        assert!(asked.expect("kill").success());
        assert!(self.child.wait().expect("an exit status").success());
    }
}

#[cfg(not(unix))]
impl Program {
    /// Windows has no such request that could be sent to one process only.
    fn stop(&mut self) {
        self.child.kill().expect("a process");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_says_where_it_is_serves_logs_and_stops() {
    let mut program = Program::start(&["--listen", "127.0.0.1:0"]);
    let apps = program.ready["apps"].as_array().expect("apps");
    let jwt = apps
        .iter()
        .find(|app| app["client_type"] == "jwt")
        .expect("a JWT app");
    assert!(
        jwt["private_key"]
            .as_str()
            .expect("a key")
            .starts_with("-----BEGIN PRIVATE KEY-----")
    );
    assert_eq!(jwt["coze_api_base"], program.ready["coze_api_base"]);
    let token = program.ready["access_tokens"][0]
        .as_str()
        .expect("a token")
        .to_owned();
    assert!(
        program
            .get("/v1/users/me", &token)
            .starts_with("HTTP/1.1 200")
    );
    assert!(program.get("/_mock/requests", "").contains("\"ever\":1"));

    program.stop();
    let mut log = String::new();
    program
        .child
        .stderr
        .take()
        .expect("its log")
        .read_to_string(&mut log)
        .expect("text");
    assert!(
        log.starts_with("#1 GET /v1/users/me -> 200 logid "),
        "{log}"
    );
    assert!(!log.contains(&token));
}

#[test]
fn it_reads_its_apps_from_a_file() {
    let path = std::env::temp_dir().join(format!("coze-mock-apps-{}.json", std::process::id()));
    let apps = r#"{"access_tokens":["pat_mine"],"apps":[
        {"client_type":"web","client_id":"w","client_secret":"s","redirect_uris":["https://example.com/cb?x=1#frag"]},
        {"client_type":"jwt","client_id":"j","public_keys":[{"public_key_id":"k"}]}]}"#;
    std::fs::write(&path, apps).expect("a file");
    let program = Program::start(&[
        "--quiet",
        "--lenient",
        "--apps",
        path.to_str().expect("a path"),
    ]);
    std::fs::remove_file(&path).expect("a file");
    let ids: Vec<_> = program.ready["apps"]
        .as_array()
        .expect("apps")
        .iter()
        .map(|app| app["client_id"].clone())
        .collect();
    assert_eq!(ids, ["j", "w"]);
    assert!(
        program
            .get("/v1/users/me", "pat_mine")
            .starts_with("HTTP/1.1 200")
    );
}

#[test]
fn it_says_what_is_wrong_with_a_file() {
    let output = Command::new(env!("CARGO_BIN_EXE_coze-mock"))
        .args(["--apps", "/nowhere/apps.json"])
        .output()
        .expect("the program");
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot read /nowhere/apps.json"));
}
