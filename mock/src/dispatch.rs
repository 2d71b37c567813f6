//! The lifecycle of one request: recorded, subjected to faults, passed to its endpoint, answered.

use crate::answer::Answer;
use crate::body::{MockBody, ServiceError};
use crate::clock::millis;
use crate::context::RequestContext;
use crate::contract::Findings;
use crate::core::Core;
use crate::endpoint::Endpoint;
use crate::fault::{self, Applied, Asked, Fault};
use crate::host::Called;
use crate::jwt::Jwt;
use crate::record::{RequestRecord, Tolerance};
use crate::recording::{Ending, close, finish};
use crate::request::{Credential, Incoming, credential};
use crate::routing::{ONE_SLASH, Route, fold_slashes};
use crate::scripted_response::When;
use crate::{api, control, device, pages, token};
use http::{Method, Response, StatusCode, header};

pub(crate) async fn respond(
    core: &Core,
    incoming: Incoming,
) -> Result<Response<MockBody>, ServiceError> {
    let arrived = core.now();
    let log_id = core.next_log_id(arrived);
    let folded = fold_slashes(&incoming.path);
    let mut route = core.routes.find(
        &incoming.method,
        folded.as_deref().unwrap_or(&incoming.path),
    );
    let posts_for_get = matches!(route, Route::WrongMethod(Endpoint::RetrieveChat, _))
        && incoming.method == Method::POST;
    if posts_for_get && core.options.lenient {
        route = Route::Coze(Endpoint::RetrieveChat, Vec::new());
    }
    if let Route::Mock(path) = &route {
        let answer = control::answer(core, &incoming, path, &log_id);
        return Ok(finish(core, answer, &log_id, 0));
    }

    let endpoint = match &route {
        Route::Coze(endpoint, _) | Route::WrongMethod(endpoint, _) => Some(*endpoint),
        Route::Mock(_) | Route::Unknown => None,
    };
    let bearer = match credential(&incoming.headers) {
        Credential::Bearer(token) if endpoint.is_some_and(Endpoint::issues_tokens) => Some(token),
        _ => None,
    };
    let jwt = bearer.and_then(Jwt::parse);
    let body = incoming.json();
    let number = core.log.open(RequestRecord::of(
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
    let asked = match &route {
        Route::Coze(endpoint, _) if incoming.called != Called::Unclear => Some(Asked {
            endpoint: *endpoint,
            grant_type,
            for_stream: core.contract.asks_for_stream(*endpoint, body.as_ref()),
        }),
        _ => None,
    };
    let mut applied = match &asked {
        Some(asked) => core.faults.take(asked),
        None => Applied::default(),
    };
    if !applied.latency.is_zero() {
        tokio::time::sleep(applied.latency).await;
    }

    let mut findings = Findings::new(core.options.lenient, number, endpoint);
    if posts_for_get && core.options.lenient {
        findings.tolerates(Tolerance::PostForGet, "method", "must be GET");
    }
    let double_slash_passes =
        folded.is_none() || findings.tolerates(Tolerance::DoubleSlash, "path", ONE_SLASH);
    let ending = match &route {
        // RFC 9112 section 3.2.
        _ if incoming.called == Called::Unclear => {
            findings.violation("header/Host", "exactly one host, with or without a port");
            let message = "the request has no valid host, or more than one";
            let status = StatusCode::BAD_REQUEST;
            Ending::answer(Answer::api_error(status, 4000, message, &log_id))
        }
        Route::Coze(endpoint, path_ids) if double_slash_passes => {
            let fault = applied.outcome.take();
            let mut context = RequestContext {
                core,
                incoming: &incoming,
                endpoint: *endpoint,
                path_ids,
                jwt: jwt.as_ref(),
                body: body.as_ref(),
                log_id: &log_id,
                now: core.now(),
                asked: asked.as_ref(),
                applied,
                findings,
            };
            let ending = context.end(fault);
            applied = context.applied;
            findings = context.findings;
            ending
        }
        Route::WrongMethod(_, methods) => {
            let methods = methods.as_str();
            findings.violation("method", format!("must be {methods}"));
            let message = "this path does not support this method";
            let status = StatusCode::METHOD_NOT_ALLOWED;
            let answer = Answer::api_error(status, 4000, message, &log_id);
            Ending::answer(answer.with_header(header::ALLOW, methods))
        }
        _ => {
            // Browsers request it on their own.
            if incoming.path != "/favicon.ico" && folded.is_none() {
                findings.violation("path", "one of the documented paths");
            }
            Ending::answer(Answer::api_error(
                StatusCode::NOT_FOUND,
                4000,
                "no such path",
                &log_id,
            ))
        }
    };
    let skew_seconds = applied.skew_seconds;
    close(core, number, &ending, applied.into_names(), findings);
    match ending {
        Ending::Answer(answer) => Ok(finish(core, *answer, &log_id, skew_seconds)),
        Ending::Reset => Err(ServiceError::connection_reset()),
        Ending::Never => std::future::pending().await,
    }
}

/// The response to a request whose body timed out. The connection is closed afterwards.
pub(crate) fn body_is_late(core: &Core, incoming: &Incoming) -> Response<MockBody> {
    let now = core.now();
    let log_id = core.next_log_id(now);
    let message = "the body did not arrive in time";
    let answer = Answer::api_error(StatusCode::REQUEST_TIMEOUT, 4000, message, &log_id)
        .with_header(header::CONNECTION, "close");
    let endpoint = match core.routes.find(&incoming.method, &incoming.path) {
        Route::Mock(_) => return finish(core, answer, &log_id, 0),
        Route::Coze(endpoint, _) | Route::WrongMethod(endpoint, _) => Some(endpoint),
        Route::Unknown => None,
    };
    let record = RequestRecord::of(incoming, endpoint, log_id.clone(), millis(now), None, None);
    let number = core.log.open(record);
    let mut findings = Findings::new(core.options.lenient, number, endpoint);
    findings.violation("body", "a complete body within the timeout");
    let ending = Ending::answer(answer.clone());
    close(core, number, &ending, Vec::new(), findings);
    finish(core, answer, &log_id, 0)
}

impl RequestContext<'_> {
    fn end(&mut self, fault: Option<Fault>) -> Ending {
        let Some(fault) = fault else {
            return Ending::answer(self.process());
        };
        if let Some(answer) = fault::answer_instead(
            &fault,
            self.endpoint,
            self.core.options.error_shape,
            self.now,
            self.log_id,
        ) {
            return Ending::answer(answer);
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
                Ending::answer(answer)
            }
            Fault::Scripted(scripted) => {
                self.process_if(scripted.when());
                Ending::answer(scripted.answer())
            }
            Fault::Stream(stream) => {
                let instead = stream.answer_instead(self.log_id);
                Ending::answer(instead.unwrap_or_else(|| {
                    let mut answer = self.process();
                    // Only now is it known whether the request is refused.
                    let script = answer.is_stream.then(|| self.take_script(Fault::as_stream));
                    if let Some(script) = script.flatten() {
                        script.apply(&mut answer);
                    }
                    answer
                }))
            }
            fault => Ending::answer(fault::spoil(&fault, self.process())),
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
            _ => api::answer(self),
        }
    }
}
