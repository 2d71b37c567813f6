//! Sends the request of a call: token, timeouts, retries and limits, in the same way for all operations.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use coze_auth::{ApiCall, Error as AuthError, ErrorCode, ErrorKind, OAuthClient};
use coze_wire::{
    Call, CallOptions, Captured, OperationInfo, RATE_LIMIT, Retry, SendError, SendErrorKind,
    sanitize_log_id,
};
use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
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
/// The longest delay between two attempts that the server does not ask for.
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// Calls that wait for the same time start within this time after it.
const LONGEST_SPREAD: Duration = Duration::from_millis(500);
/// The longest delay that a call waits for because the server asks for it. With a longer `Retry-After`, it fails, and the caller decides.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A deadline that is never reached: 100 years.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

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
    pub(crate) ids: ChatIds,
}

/// The ids of a chat and its conversation, as far as they are known.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChatIds {
    pub(crate) chat: Option<String>,
    pub(crate) conversation: Option<String>,
}

impl ChatIds {
    /// Those in the query of a request.
    pub(crate) fn of(request: &Request) -> Self {
        let mut ids = Self::default();
        for (name, id) in request.url().query_pairs() {
            match &*name {
                "chat_id" => ids.chat = sanitize_log_id(&id, &[]),
                "conversation_id" => ids.conversation = sanitize_log_id(&id, &[]),
                _ => {}
            }
        }
        ids
    }
}

pub(crate) enum Body {
    Read(Captured),
    Events { body: Chunks, limits: Limits },
}

/// The body of a response, as it arrives.
pub(crate) type Chunks = BoxStream<'static, reqwest::Result<Bytes>>;

/// Parses the response of each attempt.
trait Read: Send {
    fn read(&mut self, answered: Answered) -> BoxFuture<'_, Result<()>>;
}

/// The reply of an operation, once there is one.
struct Parsed<A: Decode>(Option<A::Reply>);

impl<A: Decode> Read for Parsed<A> {
    fn read(&mut self, answered: Answered) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            self.0 = Some(A::decode(answered).await?);
            Ok(())
        })
    }
}

/// Sends a call and parses its response.
pub(crate) async fn send<A: Decode>(call: Call) -> Result<A::Reply> {
    let Some(dispatch) = call.dispatcher.clone().downcast::<Dispatch>() else {
        let what = "the operation does not belong to a CozeApi";
        return Err(AuthError::new(ErrorKind::InvalidInput, what).into());
    };
    let operation = call.info;
    let mut parsed = Parsed::<A>(None);
    let done = dispatch.run(call, A::HAS_EVENTS, &mut parsed).await;
    done.map_err(|error| error.in_operation(operation))?;
    parsed
        .0
        .ok_or_else(|| AuthError::new(ErrorKind::InvalidAnswer, "there is no response").into())
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

    async fn run(&self, call: Call, has_events: bool, parsed: &mut dyn Read) -> Result<()> {
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
        let ids = ChatIds::of(&request);
        let mut token = self.bound.token().await?;
        loop {
            self.wait_until_allowed().await?;
            let again = request.try_clone();
            let origin = Origin {
                call: self.client.api_call(&token),
                operation: info,
                ids: ids.clone(),
            };
            let attempt = Self::attempt(origin, request, has_events, limits, &mut *parsed);
            let Err(error) = attempt.await else {
                return Ok(());
            };
            self.note_rate_limit(&error);
            let finished = |error: Error| {
                let error = if is_renewed {
                    error.map(AuthError::with_renewed_token)
                } else {
                    error
                };
                let error = error.of_chat(ids.chat.clone(), ids.conversation.clone());
                if info.retry != Retry::Read && may_be_processed(&error) {
                    error.with_unknown_fate()
                } else {
                    error
                }
            };
            let is_token_refused = error.is_token_refused() && !is_renewed;
            let Some(again) = again else {
                if is_token_refused {
                    self.bound.invalidate(&token);
                }
                return Err(finished(error));
            };
            if is_token_refused {
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
                let asked = error.retry_after().unwrap_or_default();
                if attempts_left == 0 || !is_retried(info.retry, &error) || asked > LONGEST_WAIT {
                    return Err(finished(error));
                }
                let own = delay.mul_f64(0.75 + random() / 2.0).min(LONGEST_DELAY);
                let wait = own.max(if asked.is_zero() {
                    asked
                } else {
                    asked + spread()
                });
                attempts_left -= 1;
                delay = (delay * 2).min(LONGEST_DELAY);
                tracing::debug!(operation = info.id, kind = ?error.kind(), ?wait, "the call failed; retrying");
                sleep(wait).await;
                token = self.bound.token().await?;
            }
            request = again;
        }
    }

    async fn attempt(
        origin: Origin,
        request: Request,
        has_events: bool,
        limits: Limits,
        parsed: &mut dyn Read,
    ) -> Result<()> {
        let began = Instant::now();
        let deadline = after(began, limits.timeout);
        let operation = origin.operation;
        let answered = async {
            let mut response = origin.call.open(request).await?;
            let status = response.status();
            if has_events && status.is_success() && may_be_event_stream(&response) {
                let chunks = first_chunks(&mut response, &origin.call).await?;
                let is_json = is_json(&chunks);
                let headers = std::mem::take(response.headers_mut());
                let chunks = stream::iter(chunks.into_iter().map(Ok));
                let body = chunks.chain(response.bytes_stream()).boxed();
                if !is_json {
                    return Ok((status, Body::Events { body, limits }));
                }
                let mut json = http::Response::new(reqwest::Body::wrap_stream(body));
                *json.status_mut() = status;
                *json.headers_mut() = headers;
                response = json.into();
            }
            let captured = origin.call.capture(response, limits.body_limit).await;
            Ok::<_, Error>((status, Body::Read(captured)))
        };
        let in_time = timeout_at(deadline, answered).await;
        let (status, body) = in_time.unwrap_or_else(|_| {
            let what = format!("nothing within {:?}", limits.timeout);
            Err(timed_out(&origin.call, &what))
        })?;
        let outcome = parsed.read(Answered { origin, body }).await;
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

    /// Waits while the API rate-limits the client, up to `LONGEST_WAIT`. Calls that wait start one after another, so
    /// the response to the first one may delay the others again.
    async fn wait_until_allowed(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            let until = *self
                .not_before
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let Some(until) = until.filter(|until| *until > now) else {
                return Ok(());
            };
            if until.duration_since(began) > LONGEST_WAIT {
                let what = "Coze has rate-limited the client: nothing was sent";
                let error = AuthError::new(ErrorKind::Refused, what);
                let error = error.with_status(StatusCode::TOO_MANY_REQUESTS);
                return Err(error.with_retry_after(Some(until - now)).into());
            }
            sleep_until(until + spread()).await;
        }
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

/// A random number between 0 and 1, so that many calls don't start at the same time.
fn random() -> f64 {
    let mut bytes = [0; 2];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u16::from_ne_bytes(bytes)) / f64::from(u16::MAX),
        Err(_) => 1.0,
    }
}

/// A random delay after the end of a wait that many calls share.
fn spread() -> Duration {
    LONGEST_SPREAD.mul_f64(random())
}

pub(crate) fn after(now: Instant, duration: Duration) -> Instant {
    now.checked_add(duration).unwrap_or(now + NEVER)
}

pub(crate) fn timed_out(call: &ApiCall, what: &str) -> Error {
    let error = SendError::new(SendErrorKind::Timeout, what);
    call.unanswered(error).into()
}

/// Whether the head of a response to an operation with events allows an event stream: its type is that, or missing.
fn may_be_event_stream(response: &Response) -> bool {
    let Some(content_type) = response.headers().get(CONTENT_TYPE) else {
        return true;
    };
    let media_type = content_type.to_str().ok();
    let media_type = media_type.and_then(|value| value.split(';').next());
    media_type.is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// Reads a body until more than a byte order mark and blanks has arrived.
async fn first_chunks(response: &mut Response, call: &ApiCall) -> Result<Vec<Bytes>> {
    let mut chunks = Vec::new();
    while first_byte(&chunks).is_none() && chunks.len() < 64 {
        match response.chunk().await {
            Ok(Some(chunk)) => chunks.push(chunk),
            Ok(None) => break,
            Err(error) => {
                let error = SendError::from_reqwest(&error, call.secrets());
                return Err(call.unanswered(error).into());
            }
        }
    }
    Ok(chunks)
}

/// Whether the body is a JSON object, whatever its type says. No field of an event begins with a brace.
fn is_json(chunks: &[Bytes]) -> bool {
    first_byte(chunks) == Some(b'{')
}

/// The first byte of a body after a byte order mark and blanks.
fn first_byte(chunks: &[Bytes]) -> Option<u8> {
    let mut bytes = chunks.iter().flatten().copied();
    bytes.find(|byte| !byte.is_ascii_whitespace() && !b"\xef\xbb\xbf".contains(byte))
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
pub(crate) fn may_be_processed(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Timeout | ErrorKind::Interrupted => true,
        ErrorKind::InvalidAnswer => {
            let status = error.status();
            !status.is_some_and(|status| status.is_redirection())
        }
        // A code does not say whether a server, or a gateway in front of it, failed before the change or after it.
        ErrorKind::Refused => error.status().is_some_and(|status| {
            status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT
        }),
        _ => false,
    }
}
