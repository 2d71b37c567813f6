//! The lifecycle of one request: recorded, subjected to faults, checked against the contract, answered.

use crate::answer::{Answer, ErrorWord, Refusal};
use crate::app::{App, ClientType};
use crate::builder::Options;
use crate::clock::{MockClock, millis};
use crate::contract::{Contract, Findings, Tolerance};
use crate::endpoint::{Endpoint, Route, fold_slashes, route};
use crate::error::Error;
use crate::fault::{self, Applied, Fault, Faults, When};
use crate::host::Called;
use crate::jwt::Jwt;
use crate::keys::VerifyingKey;
use crate::record::{Finding, Log, Outcome, RequestRecord};
use crate::script::End;
use crate::secret::{digest_of, hex};
use crate::service::{MockBody, ServiceError};
use crate::state::{Flow, GrantedToken, State};
use crate::{api, authorize, control, device, keys, pages, secret, token};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

const ONE_SLASH: &str = "one slash between segments";

pub(crate) const LOG_ID: HeaderName = HeaderName::from_static("x-tt-logid");

/// The shared state of one mock.
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) apps: HashMap<String, Registered>,
    pub(crate) clock: MockClock,
    pub(crate) faults: Faults,
    pub(crate) log: Log,
    pub(crate) contract: &'static Contract,
    /// The listening address, once there is one.
    pub(crate) listening_at: OnceLock<String>,
    /// Whether only this machine can connect.
    pub(crate) loopback_only: AtomicBool,
    state: Mutex<State>,
    log_id_salt: String,
    log_ids: AtomicU64,
}

/// An app with its parsed public keys.
pub(crate) struct Registered {
    pub(crate) app: App,
    pub(crate) keys: Vec<(String, VerifyingKey)>,
    pub(crate) active: AtomicBool,
}

impl Registered {
    fn new(app: App) -> Result<Self, Error> {
        app.check()?;
        let mut verifying = Vec::new();
        for key in &app.keys {
            let pem = match &key.public_pem {
                Some(pem) => pem,
                None => &keys::generated()?.public_pem,
            };
            let problem = |problem: &str| Error::App {
                client_id: app.client_id.clone(),
                problem: format!("the public key {:?} {problem}", key.id),
            };
            verifying.push((
                key.id.clone(),
                VerifyingKey::from_pem(pem).map_err(problem)?,
            ));
        }
        Ok(Self {
            app,
            keys: verifying,
            active: AtomicBool::new(true),
        })
    }

    pub(crate) fn check_active(&self) -> Result<(), Refusal> {
        if self.active.load(Ordering::Relaxed) {
            return Ok(());
        }
        let name = &self.app.name;
        Err(Refusal::new(
            ErrorWord::AccessDeny,
            format!("app: {name} is currently deactivated by the owner"),
        ))
    }
}

/// A request with its body read.
pub(crate) struct Incoming {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    /// `None` if it exceeded the size limit.
    pub(crate) body: Option<Bytes>,
    /// The host and port that the client called.
    pub(crate) authority: String,
    /// Where it was named.
    pub(crate) called: Called,
    pub(crate) scheme: &'static str,
}

impl Incoming {
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The media type of the body, without parameters, in lower case.
    pub(crate) fn content_type(&self) -> Option<String> {
        let value = self.header(&header::CONTENT_TYPE)?;
        Some(
            value
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_ascii_lowercase(),
        )
    }

    pub(crate) fn json(&self) -> Option<Value> {
        serde_json::from_slice(self.body.as_ref()?).ok()
    }
}

/// What a request's `Authorization` header holds.
#[derive(Clone, Copy)]
pub(crate) enum Credential<'a> {
    Absent,
    /// The word `Bearer` without a token.
    EmptyBearer,
    Bearer(&'a str),
    /// Anything other than one bearer token.
    NoBearer,
}

pub(crate) fn credential(headers: &HeaderMap) -> Credential<'_> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Credential::Absent;
    };
    let (None, Ok(value)) = (values.next(), value.to_str()) else {
        return Credential::NoBearer;
    };
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Credential::NoBearer;
    }
    match token.trim() {
        "" => Credential::EmptyBearer,
        token if token.contains(char::is_whitespace) => Credential::NoBearer,
        token => Credential::Bearer(token),
    }
}

/// One request that is being handled.
pub(crate) struct Exchange<'a> {
    pub(crate) core: &'a Core,
    pub(crate) incoming: &'a Incoming,
    pub(crate) endpoint: Endpoint,
    pub(crate) path_id: Option<&'a str>,
    pub(crate) jwt: Option<&'a Jwt<'a>>,
    pub(crate) body: Option<&'a Value>,
    pub(crate) log_id: &'a str,
    pub(crate) now: Duration,
    pub(crate) token_lifetime: Option<Duration>,
    pub(crate) findings: Findings,
}

impl<'a> Exchange<'a> {
    /// The body, if path, query, content type and body satisfy the contract.
    pub(crate) fn checked_body(&mut self) -> Result<Value, Refusal> {
        let contract = self.core.contract;
        contract.check_parameters(
            self.endpoint,
            self.path_id,
            &self.incoming.query,
            &mut self.findings,
        )?;
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

/// The outcome of a request.
enum Ending {
    Answer(Answer),
    Reset,
    Never,
}

impl Core {
    pub(crate) fn new(options: Options, apps: Vec<App>, clock: MockClock) -> Result<Self, Error> {
        let mut registered = HashMap::new();
        for app in apps {
            registered.insert(app.client_id.clone(), Registered::new(app)?);
        }
        let core = Self {
            apps: registered,
            clock,
            faults: Faults::default(),
            log: Log::new(options.log_capacity, options.log_bytes),
            contract: Contract::load()?,
            listening_at: OnceLock::new(),
            loopback_only: AtomicBool::new(false),
            state: Mutex::default(),
            log_id_salt: hex(&secret::random::<5>()?),
            log_ids: AtomicU64::new(0),
            options,
        };
        core.reset();
        Ok(core)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // No code panics in the middle of a change while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.since_epoch()
    }

    /// Removes everything that clients did and all faults. Apps and clock are kept.
    pub(crate) fn reset(&self) {
        let mut state = State::default();
        for access_token in &self.options.access_tokens {
            state.tokens.insert_access(
                access_token,
                GrantedToken::new(Flow::Fixed, "", None),
                Duration::ZERO,
            );
        }
        *self.state() = state;
        self.faults.clear();
        self.log.clear();
        for registered in self.apps.values() {
            registered.active.store(true, Ordering::Relaxed);
        }
    }

    /// The authority of the mock, for clients that send no host.
    pub(crate) fn own_authority(&self) -> &str {
        let own = self.listening_at.get();
        own.and_then(|url| url.strip_prefix("http://"))
            .unwrap_or("localhost")
    }

    /// The URL under which the client reaches the mock.
    pub(crate) fn base_url(&self, incoming: &Incoming) -> String {
        match &self.options.public {
            Some(public) => public.base.clone(),
            None => format!("{}://{}", incoming.scheme, incoming.authority),
        }
    }

    fn next_log_id(&self, now: Duration) -> String {
        let count = self.log_ids.fetch_add(1, Ordering::Relaxed);
        format!("{:013}{}{count:08X}", millis(now), self.log_id_salt).to_uppercase()
    }

    pub(crate) async fn respond(
        &self,
        incoming: Incoming,
    ) -> Result<Response<MockBody>, ServiceError> {
        let arrived = self.now();
        let log_id = self.next_log_id(arrived);
        let folded = fold_slashes(&incoming.path);
        let route = route(
            &incoming.method,
            folded.as_deref().unwrap_or(&incoming.path),
        );
        if let Route::Mock(path) = &route {
            let answer = control::answer(self, &incoming, path, &log_id);
            return Ok(self.finish(answer, &log_id, 0));
        }

        let endpoint = match &route {
            Route::Coze(endpoint, _) | Route::WrongMethod(endpoint) => Some(*endpoint),
            Route::Mock(_) | Route::Unknown => None,
        };
        let bearer = match credential(&incoming.headers) {
            Credential::Bearer(token) if endpoint.is_some_and(Endpoint::issues_tokens) => {
                Some(token)
            }
            _ => None,
        };
        let jwt = bearer.and_then(Jwt::parse);
        let body = incoming.json();
        let number = self.log.open(RequestRecord::of(
            &incoming,
            endpoint,
            log_id.clone(),
            millis(arrived),
            body.as_ref(),
            jwt.as_ref(),
        ));
        let grant_type = body
            .as_ref()
            .and_then(|body| body.get("grant_type")?.as_str());
        let mut applied = match &route {
            Route::Coze(endpoint, _) if incoming.called != Called::Unclear => {
                self.faults.take(*endpoint, grant_type)
            }
            _ => Applied::default(),
        };
        if !applied.latency.is_zero() {
            tokio::time::sleep(applied.latency).await;
        }

        let mut findings = Findings::new(self.options.lenient, number, endpoint);
        let double_slash_passes =
            folded.is_none() || findings.tolerates(Tolerance::DoubleSlash, "path", ONE_SLASH);
        let ending = match &route {
            // RFC 9112 section 3.2.
            _ if incoming.called == Called::Unclear => {
                findings.violation("header/Host", "exactly one host, with or without a port");
                let message = "the request has no valid host, or more than one";
                let status = StatusCode::BAD_REQUEST;
                Ending::Answer(Answer::api_error(status, 4000, message, &log_id))
            }
            Route::Coze(endpoint, path_id) if double_slash_passes => {
                let mut exchange = Exchange {
                    core: self,
                    incoming: &incoming,
                    endpoint: *endpoint,
                    path_id: path_id.as_deref(),
                    jwt: jwt.as_ref(),
                    body: body.as_ref(),
                    log_id: &log_id,
                    now: self.now(),
                    token_lifetime: applied.token_lifetime,
                    findings,
                };
                let ending = exchange.end(applied.outcome.take());
                findings = exchange.findings;
                ending
            }
            Route::WrongMethod(endpoint) => {
                let method = endpoint.method();
                findings.violation("method", format!("must be {method}"));
                let message = "this path does not support this method";
                let status = StatusCode::METHOD_NOT_ALLOWED;
                let answer = Answer::api_error(status, 4000, message, &log_id);
                Ending::Answer(answer.with_header(header::ALLOW, method.as_str()))
            }
            _ => {
                // Browsers request it on their own.
                if incoming.path != "/favicon.ico" && folded.is_none() {
                    findings.violation("path", "one of the documented paths");
                }
                Ending::Answer(Answer::api_error(
                    StatusCode::NOT_FOUND,
                    4000,
                    "no such path",
                    &log_id,
                ))
            }
        };
        self.close(number, &ending, applied.names, findings);
        match ending {
            Ending::Answer(answer) => Ok(self.finish(answer, &log_id, applied.skew_seconds)),
            Ending::Reset => Err(ServiceError::connection_reset()),
            Ending::Never => std::future::pending().await,
        }
    }

    /// Records the outcome of a request and notifies the observer.
    fn close(&self, number: u64, ending: &Ending, faults: Vec<String>, findings: Findings) {
        let outcome = match ending {
            Ending::Answer(answer) => Outcome::Answered {
                status: answer.status.as_u16(),
                error: answer.error.clone(),
            },
            Ending::Reset => Outcome::ConnectionReset,
            Ending::Never => Outcome::NeverAnswered,
        };
        let observer = self.options.observer.as_ref();
        let finding = Finding {
            outcome,
            faults,
            violations: findings.violations,
            unlisted: findings.unlisted,
            notes: findings.notes,
            observed: observer.is_some(),
        };
        let record = self.log.close(number, finding);
        if let (Some(observer), Some(record)) = (observer, record) {
            observer(&record);
        }
    }

    /// The response to a request whose body timed out. The connection is closed afterwards.
    pub(crate) fn body_is_late(&self, incoming: &Incoming) -> Response<MockBody> {
        let now = self.now();
        let log_id = self.next_log_id(now);
        let message = "the body did not arrive in time";
        let answer = Answer::api_error(StatusCode::REQUEST_TIMEOUT, 4000, message, &log_id)
            .with_header(header::CONNECTION, "close");
        let endpoint = match route(&incoming.method, &incoming.path) {
            Route::Mock(_) => return self.finish(answer, &log_id, 0),
            Route::Coze(endpoint, _) | Route::WrongMethod(endpoint) => Some(endpoint),
            Route::Unknown => None,
        };
        let record = RequestRecord::of(incoming, endpoint, log_id.clone(), millis(now), None, None);
        let number = self.log.open(record);
        let mut findings = Findings::new(self.options.lenient, number, endpoint);
        findings.violation("body", "a complete body within the timeout");
        let ending = Ending::Answer(answer.clone());
        self.close(number, &ending, Vec::new(), findings);
        self.finish(answer, &log_id, 0)
    }

    fn finish(&self, answer: Answer, log_id: &str, skew_seconds: i64) -> Response<MockBody> {
        let Answer {
            status,
            mut headers,
            body,
            header_edits,
            end,
            ..
        } = answer
            .with_header(header::DATE, &fault::http_date(self.now(), skew_seconds))
            .with_header(LOG_ID, log_id);
        for (name, value) in header_edits {
            match value {
                Some(value) => headers.insert(name, value),
                None => headers.remove(name),
            };
        }
        let sent = u64::try_from(body.len()).unwrap_or(u64::MAX);
        let promised = match end {
            End::Whole => Some(sent),
            End::Missing(bytes) => Some(sent.saturating_add(bytes)),
            End::NoLastChunk => None,
        };
        if let Some(length) = promised {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        let mut response = Response::new(match end {
            End::Whole => MockBody::whole(body),
            End::Missing(_) | End::NoLastChunk => MockBody::cut_off(body),
        });
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    /// Lets the user open an authorize URL and decide, without a browser.
    pub(crate) fn user_authorizes(
        &self,
        incoming: &Incoming,
        approve: bool,
    ) -> Result<String, String> {
        let not_a_page = || Err("the path is not that of an authorize endpoint".into());
        let folded = fold_slashes(&incoming.path);
        let path = folded.as_deref().unwrap_or(&incoming.path);
        let Route::Coze(endpoint, path_id) = route(&Method::GET, path) else {
            return not_a_page();
        };
        if !endpoint.is_page() || (folded.is_some() && !self.options.lenient) {
            return not_a_page();
        }
        let now = self.now();
        let log_id = self.next_log_id(now);
        let record = RequestRecord::of(incoming, Some(endpoint), log_id, millis(now), None, None);
        let number = self.log.open(record);
        let mut findings = Findings::new(self.options.lenient, number, Some(endpoint));
        if folded.is_some() {
            findings.tolerates(Tolerance::DoubleSlash, "path", ONE_SLASH);
        }
        let decided = authorize::check(
            self,
            endpoint,
            path_id.as_deref(),
            &incoming.query,
            &mut findings,
        )
        .and_then(|request| {
            authorize::decide(self, &request, approve)
                .map_err(|_| "the operating system provided no random bytes".to_owned())
        });
        let status = if decided.is_ok() {
            StatusCode::FOUND
        } else {
            StatusCode::BAD_REQUEST
        };
        self.close(
            number,
            &Ending::Answer(Answer::empty(status)),
            Vec::new(),
            findings,
        );
        decided
    }
}

impl Exchange<'_> {
    fn end(&mut self, fault: Option<Fault>) -> Ending {
        let Some(fault) = fault else {
            return Ending::Answer(self.process());
        };
        if let Some(answer) = fault::answer_instead(
            &fault,
            self.endpoint,
            self.core.options.error_shape,
            self.now,
            self.log_id,
        ) {
            return Ending::Answer(answer);
        }
        match fault {
            Fault::ConnectionReset { when } => {
                self.process_if(when);
                Ending::Reset
            }
            Fault::Timeout { when } => {
                self.process_if(when);
                Ending::Never
            }
            Fault::Edited(edited) => {
                let mut answer = self.process();
                if let Some((known, sent)) = edited.apply(&mut answer, self.now) {
                    self.core.state().rename(&known, &sent);
                }
                Ending::Answer(answer)
            }
            Fault::Scripted(scripted) => {
                self.process_if(scripted.when());
                Ending::Answer(scripted.answer())
            }
            fault => Ending::Answer(fault::spoil(&fault, self.process())),
        }
    }

    fn process_if(&mut self, when: When) {
        if when == When::AfterProcessing {
            self.process();
        }
    }

    fn process(&mut self) -> Answer {
        if self.incoming.body.is_none() {
            self.findings
                .violation("body", "shorter than the size limit");
            return Answer::api_error(
                StatusCode::PAYLOAD_TOO_LARGE,
                4000,
                "the body is too long",
                self.log_id,
            );
        }
        match self.endpoint {
            Endpoint::Token | Endpoint::AccountToken | Endpoint::EnterpriseToken => {
                token::answer(self)
            }
            Endpoint::DeviceCode | Endpoint::WorkspaceDeviceCode => device::answer(self),
            Endpoint::Authorize | Endpoint::WorkspaceAuthorize => pages::authorize(self),
            Endpoint::UsersMe
            | Endpoint::Workspaces
            | Endpoint::Bots
            | Endpoint::Bot
            | Endpoint::PublishedBots
            | Endpoint::PublishedBot => api::answer(self),
        }
    }
}
