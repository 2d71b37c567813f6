//! Sends the request of a call: token, timeouts, retries and limits, in the same way for all operations.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use coze_auth::{AccessToken, ApiCall, Error as AuthError, ErrorCode, ErrorKind, OAuthClient};
use coze_wire::{
    Call, CallOptions, Captured, OperationInfo, Retry, SendError, SendErrorKind, sanitize,
};
use reqwest::{Request, Response, StatusCode, header::CONTENT_TYPE};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::{Error, Result, decode::Decode, recovery::Bound};

/// How long a stream may be silent, by default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The maximum size of a response body, by default: 32 MiB.
const BODY_LIMIT: usize = 32 * 1024 * 1024;
/// The maximum size of an event of a stream, by default: 16 MiB.
const EVENT_LIMIT: usize = 16 * 1024 * 1024;
/// The maximum number of retries, by default.
const RETRIES: u32 = 2;
/// The delay before the first retry, before jitter; each later one doubles.
const FIRST_DELAY: Duration = Duration::from_millis(500);
/// The longest delay that a call waits for by itself. With a longer `Retry-After`, it fails, and the caller decides.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A deadline that is never reached: 100 years.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// The API's code for "too many requests".
const RATE_LIMIT: i64 = 4013;

/// The configuration and state that all calls of a client share.
pub(crate) struct Dispatch {
    client: OAuthClient,
    bound: Bound,
    options: CallOptions,
    /// No request is sent before this time, because the API has rate-limited the client.
    not_before: Mutex<Option<Instant>>,
}

/// The limits of one call.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    timeout: Duration,
    pub(crate) idle_timeout: Duration,
    retries: u32,
    body_limit: usize,
    pub(crate) event_limit: usize,
}

/// A response: complete, or an event stream.
pub struct Answered {
    pub(crate) origin: Origin,
    pub(crate) body: Body,
}

/// The call that a response belongs to.
pub(crate) struct Origin {
    pub(crate) call: ApiCall,
    pub(crate) operation: &'static OperationInfo,
}

pub(crate) enum Body {
    Read(Captured),
    Events {
        response: Response,
        /// When the first byte must have arrived.
        deadline: Instant,
        limits: Limits,
    },
}

/// Parses a response. Called for each attempt.
type Read<'r> = dyn FnMut(Answered) -> Result<()> + Send + 'r;

/// Sends a call and parses its response.
pub(crate) async fn send<A: Decode>(call: Call) -> Result<A::Reply> {
    let Some(dispatch) = call.dispatcher.clone().downcast::<Dispatch>() else {
        let what = "the operation does not belong to a CozeApi";
        return Err(AuthError::new(ErrorKind::InvalidInput, what).into());
    };
    let operation = call.info;
    let mut reply = None;
    let mut read = |answered| {
        reply = Some(A::decode(answered)?);
        Ok(())
    };
    let done = dispatch.run(call, A::HAS_EVENTS, &mut read).await;
    done.map_err(|error| error.in_operation(operation))?;
    reply.ok_or_else(|| AuthError::new(ErrorKind::InvalidAnswer, "there is no response").into())
}

impl Dispatch {
    pub(crate) fn new(client: OAuthClient, bound: Bound, options: CallOptions) -> Self {
        Self {
            client,
            bound,
            options,
            not_before: Mutex::new(None),
        }
    }

    pub(crate) fn api_base(&self) -> &str {
        self.client.endpoint().api_base()
    }

    async fn run(&self, call: Call, has_events: bool, read: &mut Read<'_>) -> Result<()> {
        let Call {
            info,
            mut request,
            options,
            ..
        } = call;
        let limits = self.limits(options);
        let mut delay = FIRST_DELAY;
        let mut attempts_left = limits.retries;
        let mut is_renewed = false;
        let mut token = self.bound.token().await?;
        loop {
            self.wait_until_allowed().await?;
            let again = request.try_clone();
            // Where there is no second request, this one is gone by then.
            let named = match &again {
                None => conversation_id(&request),
                Some(_) => None,
            };
            let attempt = self.attempt(&token, info, request, has_events, limits, &mut *read);
            let Err(error) = attempt.await else {
                return Ok(());
            };
            self.note_rate_limit(&error);
            let conversation_id = named.or_else(|| conversation_id(again.as_ref()?));
            let finished = |error: Error| {
                let error = if is_renewed {
                    error.map(AuthError::with_renewed_token)
                } else {
                    error
                };
                let error = error.of_chat(None, conversation_id);
                if info.retry != Retry::Read && may_be_processed(&error) {
                    error.with_unknown_fate()
                } else {
                    error
                }
            };
            let Some(again) = again else {
                return Err(finished(error));
            };
            if error.is_token_refused() && !is_renewed {
                match self.bound.token_instead_of(&token).await? {
                    None => return Err(finished(error)),
                    Some(other) => token = other,
                }
                tracing::debug!(
                    operation = info.id,
                    "the API refused the access token; retrying once with a new one"
                );
                is_renewed = true;
            } else {
                let wait = error.retry_after().unwrap_or_default();
                let wait = wait.max(delay.mul_f64(jitter()));
                if attempts_left == 0 || !is_retried(info.retry, &error) || wait > LONGEST_WAIT {
                    return Err(finished(error));
                }
                attempts_left -= 1;
                delay *= 2;
                tracing::debug!(operation = info.id, kind = ?error.kind(), ?wait, "the call failed; retrying");
                sleep(wait).await;
                token = self.bound.token().await?;
            }
            request = again;
        }
    }

    async fn attempt(
        &self,
        token: &AccessToken,
        operation: &'static OperationInfo,
        request: Request,
        has_events: bool,
        limits: Limits,
        read: &mut Read<'_>,
    ) -> Result<()> {
        let began = Instant::now();
        let deadline = after(began, limits.timeout);
        let origin = Origin {
            call: self.client.api_call(token),
            operation,
        };
        let answered = async {
            let response = origin.call.open(request).await?;
            let status = response.status();
            if has_events && status.is_success() && is_event_stream(&response) {
                return Ok((
                    status,
                    Body::Events {
                        response,
                        deadline,
                        limits,
                    },
                ));
            }
            let captured = origin.call.capture(response, limits.body_limit).await;
            Ok::<_, Error>((status, Body::Read(captured)))
        };
        let in_time = timeout_at(deadline, answered).await;
        let (status, body) = in_time.unwrap_or_else(|_| {
            let what = format!("nothing within {:?}", limits.timeout);
            Err(timed_out(&origin.call, &what))
        })?;
        let outcome = read(Answered { origin, body });
        tracing::debug!(
            operation = operation.id,
            status = status.as_u16(),
            duration_ms = began.elapsed().as_millis() as u64,
            log_id = outcome.as_ref().err().and_then(|error| error.log_id()),
            kind = outcome
                .as_ref()
                .err()
                .map(|error| tracing::field::debug(error.kind())),
            "received a response"
        );
        outcome
    }

    fn limits(&self, options: CallOptions) -> Limits {
        let options = options.or(self.options);
        Limits {
            timeout: options.timeout.unwrap_or(self.client.request_timeout()),
            idle_timeout: options.idle_timeout.unwrap_or(IDLE_TIMEOUT),
            retries: options.retries.unwrap_or(RETRIES),
            body_limit: options.body_limit.unwrap_or(BODY_LIMIT),
            event_limit: options.event_limit.unwrap_or(EVENT_LIMIT),
        }
    }

    /// Waits while the API rate-limits the client, up to `LONGEST_WAIT`.
    async fn wait_until_allowed(&self) -> Result<()> {
        let until = *self
            .not_before
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(until) = until else { return Ok(()) };
        let wait = until.saturating_duration_since(Instant::now());
        if wait > LONGEST_WAIT {
            let what = "Coze has rate-limited the client: nothing was sent";
            let error = AuthError::new(ErrorKind::Refused, what);
            let error = error.with_status(StatusCode::TOO_MANY_REQUESTS);
            return Err(error.with_retry_after(Some(wait)).into());
        }
        if !wait.is_zero() {
            sleep_until(until).await;
        }
        Ok(())
    }

    fn note_rate_limit(&self, error: &Error) {
        let is_limit = error.status() == Some(StatusCode::TOO_MANY_REQUESTS)
            || error.code() == Some(&ErrorCode::Api(RATE_LIMIT));
        if let (true, Some(wait)) = (is_limit, error.retry_after()) {
            let until = after(Instant::now(), wait);
            let mut not_before = self
                .not_before
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *not_before = not_before.max(Some(until));
        }
    }
}

/// A factor between 0.75 and 1.25, so that many clients don't retry at the same time.
fn jitter() -> f64 {
    let mut bytes = [0; 2];
    match getrandom::fill(&mut bytes) {
        Ok(()) => 0.75 + f64::from(u16::from_ne_bytes(bytes)) / f64::from(u16::MAX) / 2.0,
        Err(_) => 1.25,
    }
}

pub(crate) fn after(now: Instant, duration: Duration) -> Instant {
    now.checked_add(duration).unwrap_or(now + NEVER)
}

pub(crate) fn timed_out(call: &ApiCall, what: &str) -> Error {
    let error = SendError::new(SendErrorKind::Timeout, what);
    call.unanswered(error).into()
}

fn is_event_stream(response: &Response) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let media_type = content_type.and_then(|value| value.split(';').next());
    media_type.is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// Whether a call is retried. Not after a timeout: the caller has waited as long as it was willing to.
fn is_retried(retry: Retry, error: &Error) -> bool {
    match retry {
        Retry::Read => error.is_retryable() && error.kind() != ErrorKind::Timeout,
        // A write, and what is not known to be a read.
        _ => error.kind() == ErrorKind::Connect,
    }
}

/// Whether the server may have processed a request that failed with this error.
fn may_be_processed(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Timeout | ErrorKind::Interrupted => true,
        ErrorKind::InvalidAnswer => {
            let status = error.status();
            !status.is_some_and(|status| status.is_redirection())
        }
        ErrorKind::Refused => {
            error.code().is_none()
                && error
                    .status()
                    .is_some_and(|status| status.is_server_error())
        }
        _ => false,
    }
}

/// The conversation id in the query of a request.
pub(crate) fn conversation_id(request: &Request) -> Option<String> {
    let mut query = request.url().query_pairs();
    let (_, id) = query.find(|(name, _)| name == "conversation_id")?;
    Some(sanitize(&id, &[])).filter(|id| !id.is_empty())
}
