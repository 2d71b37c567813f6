//! The mock: its program, and its control endpoints over the plainest HTTP there is.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::START_AT_MOST;
use super::child::{self, Running};

const CONTROL_AT_MOST: Duration = Duration::from_secs(10);

/// A mock of one's own. It ends when this is dropped.
pub(super) struct Mock {
    _program: Running,
    ready: Value,
    /// `127.0.0.1:port`
    address: String,
}

/// What the mock wrote down about requests beyond the requests themselves.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) violations: Vec<Value>,
    pub(super) notes: Vec<Value>,
}

impl Mock {
    pub(super) fn start(program: &Path, lenient: bool, log: &Path) -> Result<Self> {
        let mut command = child::ends_with_input(program);
        // The SDKs poll every 5 s whatever the interval; coze-auth honours it, and need not keep us waiting.
        command.args(["--listen", "127.0.0.1:0", "--device-interval", "1"]);
        if lenient {
            command.arg("--lenient");
        }
        let mut program = Running::start(&mut command, log)?;
        let ready: Value = program
            .json_line("ready", START_AT_MOST)
            .context("starting the mock")?;
        let address = ready["control"]
            .as_str()
            .and_then(|url| url.strip_prefix("http://")?.strip_suffix("/_mock/"))
            .context("the mock's ready line has no control URL as expected")?
            .to_owned();
        Ok(Self {
            _program: program,
            ready,
            address,
        })
    }

    /// The line that it printed: base URLs and the apps' credentials.
    pub(super) fn ready(&self) -> &Value {
        &self.ready
    }

    /// The client id of the app of this type.
    pub(super) fn client_id(&self, client_type: &str) -> Result<&str> {
        let apps = self.ready["apps"].as_array();
        apps.into_iter()
            .flatten()
            .find(|app| app["client_type"] == client_type)
            .and_then(|app| app["client_id"].as_str())
            .with_context(|| format!("the mock has no {client_type} app"))
    }

    pub(super) fn requests_since(&self, number: u64) -> Result<Vec<Value>> {
        self.list(&format!("requests?since={number}"), "requests")
    }

    pub(super) fn findings(&self) -> Result<Findings> {
        Ok(Findings {
            violations: self.list("violations", "violations")?,
            notes: self.list("notes", "notes")?,
        })
    }

    /// What an access token stands for, or null.
    pub(super) fn inspect(&self, access_token: &str) -> Result<Value> {
        let body = json!({"access_token": access_token});
        let mut answer = self.call("POST", "tokens/inspect", &body.to_string())?;
        Ok(answer["token"].take())
    }

    /// The sign-in with this id.
    pub(super) fn sign_in(&self, id: &Value) -> Result<Value> {
        self.list("ledger", "sign_ins")?
            .into_iter()
            .find(|sign_in| sign_in["id"] == *id)
            .with_context(|| format!("the mock's ledger has no sign-in {id}"))
    }

    fn list(&self, path: &str, field: &str) -> Result<Vec<Value>> {
        match self.call("GET", path, "")?[field].take() {
            Value::Array(items) => Ok(items),
            _ => bail!("the mock's answer to {path} has no list {field}"),
        }
    }

    fn call(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        self.exchange(method, path, body)
            .with_context(|| format!("asking the mock: {method} /_mock/{path}"))
    }

    fn exchange(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        let address = self.address.parse().context("not an address")?;
        let mut stream = TcpStream::connect_timeout(&address, CONTROL_AT_MOST)?;
        stream.set_read_timeout(Some(CONTROL_AT_MOST))?;
        stream.set_write_timeout(Some(CONTROL_AT_MOST))?;
        write!(
            stream,
            "{method} /_mock/{path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )?;
        let mut response = Vec::new();
        stream.read_to_end(&mut response)?;
        json_of(&response)
    }
}

/// The JSON of a response with HTTP 200 whose body ends with the connection.
fn json_of(response: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(response).context("the answer is not text")?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("the answer is cut short")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.split(' ').nth(1) == Some("200"), "{status}: {body}");
    serde_json::from_str(body).context("the answer is not JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_a_refusal_quoted() {
        let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"ever\":17}";
        assert_eq!(json_of(ok).unwrap()["ever"], 17);

        let refused = b"HTTP/1.1 404 Not Found\r\n\r\n{\"error\":\"no such path\"}";
        let error = json_of(refused).unwrap_err().to_string();
        assert!(
            error.contains("404") && error.contains("no such path"),
            "{error}"
        );

        assert!(json_of(b"HTTP/1.1 200 OK\r\n").is_err());
    }
}
