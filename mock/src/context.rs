//! What an endpoint needs of one request: the validated body, the client and its authentication.

use crate::answer::{Answer, Refusal};
use crate::app::ClientType;
use crate::contract::Findings;
use crate::core::{Core, Registered};
use crate::endpoint::Endpoint;
use crate::fault::{Applied, Asked, Fault};
use crate::jwt::Jwt;
use crate::limits;
use crate::record::Tolerance;
use crate::request::{Credential, Incoming, credential};
use crate::secret::digest_of;
use bytes::Bytes;
use serde_json::{Value, json};
use std::time::Duration;

/// One request that is being handled.
pub(crate) struct RequestContext<'a> {
    pub(crate) core: &'a Core,
    pub(crate) incoming: &'a Incoming,
    pub(crate) endpoint: Endpoint,
    pub(crate) path_ids: &'a [(String, String)],
    pub(crate) jwt: Option<&'a Jwt<'a>>,
    pub(crate) body: Option<&'a Value>,
    pub(crate) log_id: &'a str,
    pub(crate) now: Duration,
    /// What the targets of scripts are compared with.
    pub(crate) asked: Option<&'a Asked<'a>>,
    pub(crate) applied: Applied,
    pub(crate) findings: Findings,
}

impl<'a> RequestContext<'a> {
    /// Takes the next of these scripts, for a chat or a stream that starts.
    pub(crate) fn take_script<T: Clone>(
        &mut self,
        script: impl Fn(&Fault) -> Option<&T>,
    ) -> Option<T> {
        let (faults, applied) = (&self.core.faults, &mut self.applied);
        faults.take_script(self.asked?, applied, script)
    }

    /// The id in the path of an endpoint whose path has one.
    pub(crate) fn path_id(&self) -> Option<&'a str> {
        self.path_ids.first().map(|(_, id)| id.as_str())
    }

    /// The body, if path, query, content type and body satisfy the contract.
    pub(crate) fn checked_body(&mut self) -> Result<Value, Refusal> {
        let contract = self.core.contract;
        contract.check_parameters(
            self.endpoint,
            self.path_ids,
            &self.incoming.query,
            &mut self.findings,
        )?;
        let is_empty = self.incoming.body.as_ref().is_some_and(Bytes::is_empty);
        if is_empty && self.endpoint.is_api() {
            // A call without any of its optional fields needs no body. The Node SDK then sends the content type of a form.
            return contract.check_body(self.endpoint, json!({}), &mut self.findings);
        }
        if self.incoming.content_type().as_deref() != Some("application/json") {
            self.findings
                .violation("header/Content-Type", "must be application/json");
            return Err(Refusal::invalid_request("Content-Type"));
        }
        let Some(body) = self.body else {
            self.findings.violation("body", "must be JSON");
            return Err(Refusal::invalid_request("body"));
        };
        contract.check_body(self.endpoint, body.clone(), &mut self.findings)
    }

    /// The error response of an OAuth endpoint.
    pub(crate) fn refused(&self, refusal: Refusal) -> Answer {
        refusal.answer(self.core.options.error_shape, self.log_id)
    }

    pub(crate) fn client(&self, client_id: &str) -> Result<&'a Registered, Refusal> {
        self.core
            .apps
            .get(client_id)
            .ok_or_else(|| Refusal::invalid_client("no app has this client id"))
    }

    /// Authenticates a client according to its type: by its secret, or not at all.
    pub(crate) fn authenticate(&mut self, client: &Registered) -> Result<(), Refusal> {
        match client.app.client_type {
            ClientType::Web => self.check_secret(client.app.client_secret().unwrap_or_default()),
            _ => self.check_no_credential(),
        }
    }

    fn check_secret(&mut self, client_secret: &str) -> Result<(), Refusal> {
        match credential(&self.incoming.headers) {
            // Digests are compared, so that the timing reveals nothing about the secret.
            Credential::Bearer(sent) if digest_of(sent) == digest_of(client_secret) => Ok(()),
            Credential::Bearer(_) => Err(Refusal::invalid_client("the client secret is wrong")),
            Credential::Absent | Credential::EmptyBearer | Credential::NoBearer => {
                self.findings.violation(
                    "header/Authorization",
                    "the client secret as a bearer token",
                );
                Err(Refusal::invalid_request("client_secret"))
            }
        }
    }

    /// For clients without a secret: no credential may be sent.
    pub(crate) fn check_no_credential(&mut self) -> Result<(), Refusal> {
        let place = "header/Authorization";
        match credential(&self.incoming.headers) {
            Credential::Absent => return Ok(()),
            Credential::EmptyBearer => {
                if self.findings.tolerates(
                    Tolerance::EmptyBearer,
                    place,
                    "no credential is allowed here, not even an empty one",
                ) {
                    return Ok(());
                }
            }
            Credential::Bearer(_) | Credential::NoBearer => self
                .findings
                .violation(place, "no credential is allowed here"),
        }
        Err(Refusal::invalid_request("Authorization"))
    }
}

/// A field that the contract guarantees to be a string where it is required.
pub(crate) fn text<'b>(body: &'b Value, name: &str) -> &'b str {
    body.get(name).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn client_of_type<'a>(
    context: &RequestContext<'a>,
    body: &Value,
    types: &[ClientType],
) -> Result<&'a Registered, Refusal> {
    let client = context.client(text(body, "client_id"))?;
    if types.contains(&client.app.client_type) {
        Ok(client)
    } else {
        Err(Refusal::invalid_app_type())
    }
}

/// The id in the path, if the app may use it. An app without a list may use any.
pub(crate) fn allowed(
    id: Option<&str>,
    list: &[String],
    parameter: &str,
) -> Result<Option<String>, Refusal> {
    match id {
        Some(id) if id.len() > limits::PATH_ID_BYTES => Err(Refusal::invalid_request(parameter)),
        Some(id) if !list.is_empty() && !list.iter().any(|known| known == id) => {
            Err(Refusal::invalid_request(parameter))
        }
        id => Ok(id.map(str::to_owned)),
    }
}
