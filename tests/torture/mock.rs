//! The mock's control endpoints.

use std::fmt::Display;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::Result;
use crate::ledger::SignIn;

const TIMEOUT: Duration = Duration::from_secs(60);
/// A race has thousands of requests.
const MOST_READ: u64 = 1 << 30;

#[derive(Clone)]
pub(crate) struct Mock {
    /// The base URL of its control endpoints, with a trailing slash.
    control: String,
    agent: ureq::Agent,
}

/// A request as recorded by the mock, without secrets.
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
    pub(crate) fn at(control: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .proxy(None)
            .build();
        Self {
            control: control.to_owned(),
            agent: config.new_agent(),
        }
    }

    /// Lets the user open the page and approve. Returns the callback URL.
    pub(crate) fn approve(&self, url: &str) -> Result<String> {
        let answer: Value = self.post("authorize", &json!({"url": url}))?;
        let callback = answer["callback"].as_str();
        Ok(callback.ok_or("the mock gave no callback")?.to_owned())
    }

    /// Sets the latency of each refresh, as over the internet.
    pub(crate) fn takes_time(&self, millis: u64) -> Result<()> {
        let fault = json!({
            "fault": {"latency": {"millis": millis}},
            "target": {"grant_type": "refresh_token"},
            "times": "forever",
        });
        let _: Value = self.post("faults", &fault)?;
        Ok(())
    }

    /// The sign-in that an access token belongs to.
    pub(crate) fn sign_in_of(&self, access_token: &str) -> Result<u64> {
        let body = json!({"access_token": access_token});
        let answer: Value = self.post("tokens/inspect", &body)?;
        let id = answer["token"]["sign_in"].as_u64();
        Ok(id.ok_or("the mock does not know the token of a new sign-in")?)
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
        let ledger: Ledger = self.get(path)?;
        Ok(ledger.sign_ins)
    }

    pub(crate) fn requests_since(&self, number: u64) -> Result<Vec<Request>> {
        #[derive(Deserialize)]
        struct Requests {
            requests: Vec<Request>,
        }
        let path = format!("requests?since={number}");
        let answer: Requests = self.get(&path)?;
        Ok(answer.requests)
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        read(path, self.agent.get(self.url(path)).call())
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T> {
        let request = self.agent.post(self.url(path));
        let request = request.content_type("application/json");
        read(path, request.send(body.to_string()))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.control)
    }
}

fn read<T: DeserializeOwned>(
    path: &str,
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<T> {
    let told = |error: &dyn Display| format!("asking the mock, /_mock/{path}: {error}");
    let mut answer = answer.map_err(|error| told(&error))?;
    let body = answer.body_mut().with_config().limit(MOST_READ);
    let body = body.read_to_string().map_err(|error| told(&error))?;
    if answer.status() != 200 {
        return Err(told(&format_args!("HTTP {}: {body}", answer.status())).into());
    }
    Ok(serde_json::from_str(&body).map_err(|error| told(&error))?)
}
