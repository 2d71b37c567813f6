//! The mock: its program, and its control endpoints.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::START_TIMEOUT;
use super::child::{self, Running};

const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);

/// A running mock. It is stopped on drop.
pub(super) struct Mock {
    _program: Running,
    ready: Value,
    /// The base URL of its control endpoints, with a trailing slash.
    control: String,
    agent: ureq::Agent,
}

/// The violations and notes of the mock.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) violations: Vec<Value>,
    pub(super) notes: Vec<Value>,
}

impl Mock {
    pub(super) fn start(program: &Path, lenient: bool, log: &Path) -> Result<Self> {
        let mut command = child::ends_with_input(program);
        // The SDKs poll every 5 s regardless of the interval; coze-auth respects it, so a short one saves time.
        command.args(["--listen", "127.0.0.1:0", "--device-interval", "1"]);
        if lenient {
            command.arg("--lenient");
        }
        let mut program = Running::start(&mut command, log)?;
        let ready: Value = program
            .json_line("ready", START_TIMEOUT)
            .context("starting the mock")?;
        let control = ready["control"]
            .as_str()
            .context("the mock's ready line has no control URL")?
            .to_owned();
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(CONTROL_TIMEOUT))
            .http_status_as_error(false)
            .proxy(None)
            .build();
        Ok(Self {
            _program: program,
            ready,
            control,
            agent: config.new_agent(),
        })
    }

    /// Its ready line: base URLs and the apps' credentials.
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

    /// How many requests there were.
    pub(super) fn request_count(&self) -> Result<u64> {
        let requests = json_of(self.agent.get(self.url("requests")).call())?;
        requests["ever"]
            .as_u64()
            .context("the mock does not count requests")
    }

    /// Plans a fault, for one request.
    pub(super) fn plan(&self, fault: &Value) -> Result<()> {
        let request = self.agent.post(self.url("faults"));
        let request = request.content_type("application/json");
        json_of(request.send(fault.to_string())).map(drop)
    }

    pub(super) fn findings(&self) -> Result<Findings> {
        Ok(Findings {
            violations: self.list("violations", "violations")?,
            notes: self.list("notes", "notes")?,
        })
    }

    /// The properties of an access token, or null.
    pub(super) fn inspect(&self, access_token: &str) -> Result<Value> {
        let body = json!({"access_token": access_token});
        let request = self.agent.post(self.url("tokens/inspect"));
        let request = request.content_type("application/json");
        let mut answer = json_of(request.send(body.to_string()))?;
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
        match json_of(self.agent.get(self.url(path)).call())?[field].take() {
            Value::Array(items) => Ok(items),
            _ => bail!("the mock's response to {path} has no list {field}"),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.control)
    }
}

fn json_of(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value> {
    let mut answer = answer.context("calling the mock")?;
    let status = answer.status();
    let body = answer.body_mut().read_to_string()?;
    ensure!(status == 200, "the mock returned HTTP {status}: {body}");
    serde_json::from_str(&body).context("the mock's response is not JSON")
}
