//! The command-line program, started as users start it.

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
        self.send(
            &format!("GET {path}"),
            &format!("authorization: Bearer {bearer}\r\n"),
            "",
        )
    }

    fn post(&self, path: &str, body: &str) -> Value {
        let length = body.len();
        let headers = format!("content-type: application/json\r\ncontent-length: {length}\r\n");
        let answer = self.send(&format!("POST {path}"), &headers, body);
        let (_, json) = answer.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(json).expect("JSON")
    }

    fn send(&self, target: &str, headers: &str, body: &str) -> String {
        let address = self.ready["coze_api_base"]
            .as_str()
            .and_then(|url| url.strip_prefix("http://"))
            .expect("a URL");
        let mut stream = TcpStream::connect(address).expect("a connection");
        let head = format!("{target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
        write!(stream, "{head}{headers}\r\n{body}").expect("a request");
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
    /// Windows cannot send an interrupt to a single process.
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
fn it_prints_its_address_serves_logs_and_stops() {
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

/// Each request is logged as one line of printable ASCII, whatever it contains.
#[test]
fn its_log_is_printable_and_its_clock_can_be_reset() {
    let mut program = Program::start(&[
        "--device-interval",
        "3155760000",
        "--device-code-lifetime",
        "3155760000",
        "--access-token-lifetime=0",
    ]);
    let tricks = "\u{9b}\u{202e}\u{200b}";
    program.get(&format!("/v1/{tricks}?{tricks}"), "x");
    let device = "/api/permission/oauth2/device/code";
    let started = program.post(device, "{\"client_id\":\"mock-device.app.coze\"}");
    let device_code = started["device_code"].as_str().expect("a device code");
    for word in ["authorization_pending", "slow_down", "slow_down"] {
        let poll = format!(
            "{{\"grant_type\":\"urn:ietf:params:oauth:grant-type:device_code\",\"client_id\":\"mock-device.app.coze\",\"device_code\":\"{device_code}\"}}"
        );
        let answer = program.post("/api/permission/oauth2/token", &poll);
        assert_eq!(answer["error_code"], word);
    }
    let advanced = program.post("/_mock/clock/advance", "{\"seconds\":86400}");
    let later = advanced["unix_seconds"].as_u64().expect("a time");
    let refused = program.post("/_mock/clock/advance", "{\"seconds\":18446744073709551615}");
    assert!(
        refused["error"]
            .as_str()
            .is_some_and(|why| why.contains("3155760000"))
    );
    program.post("/_mock/reset", "{}");
    let reset = program.post("/_mock/clock/advance", "{\"seconds\":0}");
    assert!(
        reset["unix_seconds"]
            .as_u64()
            .is_some_and(|now| now < later - 80_000)
    );

    program.child.kill().expect("it runs");
    let mut log = Vec::new();
    let mut stderr = program.child.stderr.take().expect("its log");
    stderr.read_to_end(&mut log).expect("bytes");
    let log = String::from_utf8(log).expect("text");
    assert_eq!(log.lines().count(), 5, "{log}");
    assert!(
        log.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')),
        "{log:?}"
    );
}

#[test]
fn it_names_an_option_outside_its_limits() {
    for option in [
        "--device-interval",
        "--device-code-lifetime",
        "--access-token-lifetime",
    ] {
        for number in [
            "18446744073709551615",
            "18446744073709551616",
            "9223372036854775808",
            "3155760001",
            "-1",
            "-9223372036854775808",
            "1.5",
            "1e3",
            "five",
            "",
        ] {
            let output = Command::new(env!("CARGO_BIN_EXE_coze-mock"))
                .args([option, number])
                .output()
                .expect("the program");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && output.stdout.is_empty());
            assert!(
                said.contains(option) && said.contains("from 0 to 3155760000"),
                "{option} {number}: {said}"
            );
        }
    }
    for (option, value) in [("--public-url", "ftp://x"), ("--listen", "127.0.0.1:65536")] {
        let output = Command::new(env!("CARGO_BIN_EXE_coze-mock"))
            .args([option, value])
            .output()
            .expect("the program");
        let said = String::from_utf8_lossy(&output.stderr).replace('_', "-");
        assert!(!output.status.success() && output.stdout.is_empty());
        assert!(said.contains(option.trim_start_matches('-')), "{said}");
    }
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

#[cfg(unix)]
#[test]
fn it_refuses_devices_and_pipes() {
    let pipe = std::env::temp_dir().join(format!("coze-mock-pipe-{}", std::process::id()));
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    for path in ["/dev/zero", pipe.to_str().expect("a path")] {
        let output = Command::new(env!("CARGO_BIN_EXE_coze-mock"))
            .args(["--apps", path])
            .output()
            .expect("the program");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains("not a regular file"),
            "{said}"
        );
    }
    std::fs::remove_file(&pipe).expect("a pipe");
}

#[test]
fn it_reports_an_invalid_file() {
    let output = Command::new(env!("CARGO_BIN_EXE_coze-mock"))
        .args(["--apps", "/nowhere/apps.json"])
        .output()
        .expect("the program");
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot read /nowhere/apps.json"));
}

#[test]
fn it_sends_scripted_streams() {
    let mut program = Program::start(&["--quiet"]);
    let fault = r#"{"fault": {"stream": {"content": {"raw": "event:x\ndata:1\n\nevent:done\n\n"}, "end": {"cut": 1}}}}"#;
    assert!(program.post("/_mock/faults", fault)["id"].is_u64());
    let token = program.ready["access_tokens"][0].as_str().expect("a token");
    let body = format!(
        r#"{{"bot_id": {}, "user_id": "1", "additional_messages": [{{"role": "user", "content": "Hi"}}], "stream": true}}"#,
        program.ready["bot_ids"][0]
    );
    let headers = format!(
        "authorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
        body.len()
    );
    let cut = program.send("POST /v3/chat", &headers, &body);
    assert!(
        cut.contains("event:x\ndata:1\n\n") && !cut.contains("event:done"),
        "{cut}"
    );
    let whole = program.send("POST /v3/chat", &headers, &body);
    assert!(whole.contains("event:done\ndata:\"[DONE]\"\n\n"), "{whole}");
    program.stop();

    let help = Command::new(env!("CARGO_BIN_EXE_coze-mock"))
        .arg("--help")
        .output()
        .expect("the program");
    let help = String::from_utf8(help.stdout).expect("text");
    assert!(
        help.contains("/_mock/faults") && help.contains(r#"{"stream": "#),
        "{help}"
    );
}
