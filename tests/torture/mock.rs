//! The mock's control endpoints, over the plainest HTTP there is.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::Result;
use crate::ledger::SignIn;

const AT_MOST: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(crate) struct Mock {
    /// `127.0.0.1:port`
    address: String,
}

/// A request as the mock wrote it down; of its secrets it shows none.
#[derive(Deserialize)]
pub(crate) struct Request {
    pub(crate) number: u64,
    endpoint: Option<String>,
    body: Option<Value>,
    outcome: Value,
}

impl Request {
    pub(crate) fn is_refresh(&self) -> bool {
        let body = self.body.as_ref();
        body.is_some_and(|body| body["grant_type"] == "refresh_token")
    }

    pub(crate) fn is_api_call(&self) -> bool {
        self.endpoint.as_deref() == Some("users_me")
    }

    pub(crate) fn is_open(&self) -> bool {
        self.outcome == "open"
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.outcome["answered"]["status"] == 200
    }

    pub(crate) fn error(&self) -> Option<&str> {
        self.outcome["answered"]["error"].as_str()
    }
}

impl Mock {
    pub(crate) fn at(control: &str) -> Result<Self> {
        let address = control
            .strip_prefix("http://")
            .and_then(|rest| rest.strip_suffix("/_mock/"))
            .ok_or("the mock's ready line has no control URL as expected")?;
        Ok(Self {
            address: address.to_owned(),
        })
    }

    /// A person opens the page and approves: the URL that the browser comes back to.
    pub(crate) fn approve(&self, url: &str) -> Result<String> {
        let answer: Value = self.call("POST", "authorize", &json!({"url": url}))?;
        let callback = answer["callback"].as_str();
        Ok(callback.ok_or("the mock gave no callback")?.to_owned())
    }

    /// From now on each refresh takes this long, as it does over the internet.
    pub(crate) fn takes_time(&self, millis: u64) -> Result<()> {
        let fault = json!({
            "fault": {"latency": {"millis": millis}},
            "target": {"grant_type": "refresh_token"},
            "times": "forever",
        });
        let _: Value = self.call("POST", "faults", &fault)?;
        Ok(())
    }

    /// The sign-in that an access token belongs to.
    pub(crate) fn sign_in_of(&self, access_token: &str) -> Result<u64> {
        let body = json!({"access_token": access_token});
        let answer: Value = self.call("POST", "tokens/inspect", &body)?;
        let id = answer["token"]["sign_in"].as_u64();
        Ok(id.ok_or("the mock does not know the token of a fresh sign-in")?)
    }

    pub(crate) fn sign_in(&self, id: u64) -> Result<SignIn> {
        let ledger = self.ledger_at(&format!("ledger?sign_in={id}"))?;
        let sign_in = ledger.into_iter().next();
        Ok(sign_in.ok_or("the mock's ledger lacks a sign-in")?)
    }

    pub(crate) fn ledger(&self) -> Result<Vec<SignIn>> {
        self.ledger_at("ledger")
    }

    fn ledger_at(&self, path: &str) -> Result<Vec<SignIn>> {
        #[derive(Deserialize)]
        struct Ledger {
            sign_ins: Vec<SignIn>,
        }
        let ledger: Ledger = self.call("GET", path, &Value::Null)?;
        Ok(ledger.sign_ins)
    }

    pub(crate) fn requests_since(&self, number: u64) -> Result<Vec<Request>> {
        #[derive(Deserialize)]
        struct Requests {
            requests: Vec<Request>,
        }
        let path = format!("requests?since={number}");
        let answer: Requests = self.call("GET", &path, &Value::Null)?;
        Ok(answer.requests)
    }

    fn call<T: DeserializeOwned>(&self, method: &str, path: &str, body: &Value) -> Result<T> {
        self.exchange(method, path, &body.to_string())
            .map_err(|error| format!("asking the mock, {method} /_mock/{path}: {error}").into())
    }

    fn exchange<T: DeserializeOwned>(&self, method: &str, path: &str, body: &str) -> Result<T> {
        let mut stream = TcpStream::connect_timeout(&self.address.parse()?, AT_MOST)?;
        stream.set_read_timeout(Some(AT_MOST))?;
        stream.set_write_timeout(Some(AT_MOST))?;
        write!(
            stream,
            "{method} /_mock/{path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        let (head, body) = response
            .split_once("\r\n\r\n")
            .ok_or("the answer is cut short")?;
        if head.split(' ').nth(1) != Some("200") {
            return Err(format!("{}: {body}", head.lines().next().unwrap_or_default()).into());
        }
        Ok(serde_json::from_str(body)?)
    }
}
