//! Everything under `/_mock/`: the user's pages, and the control endpoints for tests in any language.
//!
//! The control endpoints need no credential, so a web page that is open in the developer's
//! browser must not reach them: other origins are refused, and so are host names that may be the result of DNS rebinding.

use crate::answer::{Answer, JSON};
use crate::authorize::Decision;
use crate::core::Core;
use crate::fault::{Fault, Target, Times};
use crate::host::{Authority, Called};
use crate::limits;
use crate::pages;
use crate::request::Incoming;
use crate::state::{TokenFamily, Tokens};
use crate::visit;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use url::Url;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

pub(crate) fn answer(core: &Core, incoming: &Incoming, path: &str, log_id: &str) -> Answer {
    if let Err(why) = check_origin(core, incoming) {
        return failed(StatusCode::FORBIDDEN, why);
    }
    match (&incoming.method, path) {
        (&Method::GET, "device") => return pages::device(core, incoming),
        (&Method::POST, "device") => return pages::device_decided(core, incoming),
        (&Method::GET, "consent") => return pages::consent(core, incoming),
        (&Method::POST, "consent") => return pages::consent_decided(core, incoming),
        _ => {}
    }
    if !core.options.control {
        return Answer::api_error(StatusCode::NOT_FOUND, 4000, "no such path", log_id);
    }
    control_request(core, incoming, path)
        .unwrap_or_else(|Failure(status, why)| failed(status, &why))
}

/// Refuses requests from web pages of other origins, and from pages whose name was rebound
/// to the mock's address: a browser writes that name into `Host`, and sends `Origin` with every request of a page except `GET`.
fn check_origin(core: &Core, incoming: &Incoming) -> Result<(), &'static str> {
    if incoming.called == Called::Unclear {
        return Err("the request has no valid host, or more than one");
    }
    let called = incoming.called.authority();
    let public = core.options.public.as_ref();
    let named_publicly =
        public.is_some_and(|public| called.is_some_and(|called| called.is(&public.authority)));
    let only_loopback = core.loopback_only.load(Ordering::Relaxed);
    if only_loopback && !named_publicly && !called.is_some_and(Authority::is_loopback) {
        return Err("this mock listens on loopback: call it by a loopback name");
    }
    if incoming.method == Method::GET {
        return Ok(());
    }
    let own = format!("{}://{}", incoming.scheme, incoming.authority);
    let mut origins = incoming.headers.get_all(header::ORIGIN).iter().peekable();
    let in_process = core.listening_at.get().is_none();
    let is_own_page =
        in_process || named_publicly || called.is_some_and(Authority::is_beyond_rebinding);
    if origins.peek().is_some() && !is_own_page {
        return Err("web pages are refused under this name, unless it is the mock's public URL");
    }
    let is_own = |origin: &HeaderValue| {
        let is = |own: &str| origin.as_bytes().eq_ignore_ascii_case(own.as_bytes());
        is(&own) || public.is_some_and(|public| is(&public.origin))
    };
    if !origins.all(is_own) {
        return Err("requests from other origins are refused");
    }
    let mut sites = incoming.headers.get_all(&SEC_FETCH_SITE).iter();
    if !sites.all(|site| site == "same-origin" || site == "none") {
        return Err("requests from other sites are refused");
    }
    Ok(())
}

struct Failure(StatusCode, String);

fn failed(status: StatusCode, why: &str) -> Answer {
    Answer::of_type(status, JSON, ascii(&json!({"error": why})))
}

fn bad(why: impl Into<String>) -> Failure {
    Failure(StatusCode::BAD_REQUEST, why.into())
}

fn done(body: &Value) -> Answer {
    Answer::of_type(StatusCode::OK, JSON, ascii(body)).uncached()
}

/// JSON in printable ASCII: it lists what clients sent, and may be printed to a terminal.
fn ascii(json: &Value) -> String {
    let text = json.to_string();
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, ' '..='~') {
            out.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserCode {
    user_code: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Authorize {
    url: String,
    decision: Option<Decision>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    seconds: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reset {
    #[serde(default = "yes")]
    clock: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddFault {
    fault: Fault,
    target: Option<Target>,
    /// Absent means once. Null cannot be distinguished from absent, so "forever" is a separate value.
    times: Option<TimesField>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "times is a whole number from 1 to 4294967295, or \"forever\""
)]
enum TimesField {
    Next(NonZeroU32),
    Word(Forever),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Forever {
    Forever,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccessToken {
    access_token: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefreshToken {
    refresh_token: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetActive {
    client_id: String,
    active: bool,
}

/// Handles a control request, with the id in its path if there is one.
type Handle = fn(&Core, &Incoming, &str) -> Result<Value, Failure>;

/// A control endpoint.
struct Control {
    method: Method,
    /// The path below `/_mock/`; it may end with `{id}`.
    path: &'static str,
    /// Query, body and meaning, for the list of control endpoints.
    usage: &'static str,
    handle: Handle,
}

impl Control {
    /// The id in the path, or an empty text without an id, if the path matches.
    fn id_in<'p>(&self, path: &'p str) -> Option<&'p str> {
        match self.path.strip_suffix("{id}") {
            Some(prefix) => path.strip_prefix(prefix).filter(|id| !id.is_empty()),
            None => (path == self.path).then_some(""),
        }
    }
}

const fn get(path: &'static str, usage: &'static str, handle: Handle) -> Control {
    Control {
        method: Method::GET,
        path,
        usage,
        handle,
    }
}

const fn post(path: &'static str, usage: &'static str, handle: Handle) -> Control {
    Control {
        method: Method::POST,
        path,
        usage,
        handle,
    }
}

const fn delete(path: &'static str, usage: &'static str, handle: Handle) -> Control {
    Control {
        method: Method::DELETE,
        path,
        usage,
        handle,
    }
}

static CONTROLS: [Control; 21] = [
    get("", ": this list", |_, _, _| Ok(list())),
    post("device/approve", " {\"user_code\"}", |core, incoming, _| {
        decide_device(core, incoming, true)
    }),
    post("device/deny", " {\"user_code\"}", |core, incoming, _| {
        decide_device(core, incoming, false)
    }),
    post(
        "authorize",
        " {\"url\", \"decision\": \"approve\" | \"deny\"}: returns {\"callback\"}",
        |core, incoming, _| authorize(core, incoming),
    ),
    get("clock", "", |core, _, _| Ok(clock(core))),
    post("clock/advance", " {\"seconds\"}", |core, incoming, _| {
        advance(core, incoming)
    }),
    post("clock/reset", ": undoes clock/advance", |core, _, _| {
        core.clock.reset();
        Ok(clock(core))
    }),
    get("faults", "", |core, _, _| {
        Ok(json!({"faults": core.faults.pending()}))
    }),
    post(
        "faults",
        " {\"fault\", \"target\", \"times\"}: faults, scripted streams {\"stream\": {..}} and replies {\"reply\": {..}}",
        |core, incoming, _| add_fault(core, incoming),
    ),
    delete("faults", "", |core, _, _| {
        core.faults.clear();
        Ok(json!({}))
    }),
    delete("faults/{id}", "", |core, _, id| match id.parse() {
        Ok(id) => Ok(json!({"removed": core.faults.remove(id)})),
        Err(_) => Err(not_found()),
    }),
    get("requests", "?since={number}", |core, incoming, _| {
        requests(core, incoming)
    }),
    get("violations", "", |core, _, _| {
        Ok(json!({"violations": core.log.violations(), "ever": core.log.violations_ever()}))
    }),
    get("notes", "", |core, _, _| {
        Ok(json!({"notes": core.log.notes()}))
    }),
    get("ledger", "?sign_in={id}", |core, incoming, _| {
        Ok(json!({"sign_ins": ledger(core, incoming)?}))
    }),
    post(
        "tokens/inspect",
        " {\"access_token\"}",
        |core, incoming, _| {
            let AccessToken { access_token } = read(incoming)?;
            let now = core.now();
            Ok(json!({"token": core.state().tokens.access(&access_token, now)}))
        },
    ),
    post(
        "tokens/revoke",
        " {\"access_token\"}",
        |core, incoming, _| {
            let AccessToken { access_token } = read(incoming)?;
            Ok(json!({"revoked": core.state().tokens.revoke_access(&access_token)}))
        },
    ),
    post(
        "sign-ins/revoke",
        " {\"refresh_token\"}",
        |core, incoming, _| end_sign_in(core, incoming, Tokens::revoke_family),
    ),
    post(
        "sign-ins/end-login",
        " {\"refresh_token\"}",
        |core, incoming, _| end_sign_in(core, incoming, Tokens::end_login),
    ),
    post(
        "apps/active",
        " {\"client_id\", \"active\"}",
        |core, incoming, _| set_active(core, incoming),
    ),
    post(
        "reset",
        " {\"clock\": true | false}: removes everything except the apps; resets the clock unless it is false",
        |core, incoming, _| reset(core, incoming),
    ),
];

/// All control endpoints, as `GET /_mock/` lists them.
fn list() -> Value {
    let device_page = "GET /_mock/device: the page that takes a user code".to_owned();
    let controls = CONTROLS.iter().map(|control| {
        format!(
            "{} /_mock/{}{}",
            control.method, control.path, control.usage
        )
    });
    let endpoints: Vec<String> = std::iter::once(device_page).chain(controls).collect();
    json!({"endpoints": endpoints})
}

fn not_found() -> Failure {
    Failure(
        StatusCode::NOT_FOUND,
        "no such control endpoint: GET /_mock/ lists them".into(),
    )
}

fn control_request(core: &Core, incoming: &Incoming, path: &str) -> Result<Answer, Failure> {
    let mut matching = CONTROLS
        .iter()
        .filter(|control| control.method == incoming.method)
        .filter_map(|control| Some((control, control.id_in(path)?)));
    let (control, id) = matching.next().ok_or_else(not_found)?;
    (control.handle)(core, incoming, id).map(|body| done(&body))
}

fn requests(core: &Core, incoming: &Incoming) -> Result<Value, Failure> {
    let since = number(incoming, "since", "since is the number of a request")?;
    let (requests, more) = core.log.requests_since(since.unwrap_or(0));
    Ok(json!({
        "requests": requests,
        "more": more,
        "ever": core.log.requests_ever(),
        "forgotten": core.log.requests_forgotten(),
    }))
}

/// A JSON body. The required content type keeps web pages out: without a CORS preflight they can send only forms and text.
fn read<T: DeserializeOwned>(incoming: &Incoming) -> Result<T, Failure> {
    if incoming.content_type().as_deref() != Some("application/json") {
        return Err(Failure(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send JSON, with Content-Type: application/json".into(),
        ));
    }
    let body = incoming
        .body
        .as_deref()
        .ok_or_else(|| bad("the body is too long"))?;
    serde_json::from_slice(body).map_err(|error| bad(error.to_string()))
}

/// A number in the query, if it is there.
fn number(incoming: &Incoming, name: &str, what: &str) -> Result<Option<u64>, Failure> {
    let value = incoming.query.iter().find(|(known, _)| known == name);
    let number = value.map(|(_, value)| value.parse().map_err(|_| bad(what)));
    number.transpose()
}

/// One sign-in, or all.
fn ledger(core: &Core, incoming: &Incoming) -> Result<Vec<TokenFamily>, Failure> {
    let only = number(incoming, "sign_in", "sign_in is the id of a sign-in")?;
    let tokens = &core.state().tokens;
    Ok(match only {
        Some(id) => tokens.sign_in(id).into_iter().collect(),
        None => tokens.ledger(),
    })
}

fn decide_device(core: &Core, incoming: &Incoming, approve: bool) -> Result<Value, Failure> {
    let UserCode { user_code } = read(incoming)?;
    let now = core.now();
    if core.state().devices.decide(&user_code, approve, now) {
        return Ok(json!({}));
    }
    Err(Failure(
        StatusCode::NOT_FOUND,
        "no device authorization with this user code is pending".into(),
    ))
}

fn authorize(core: &Core, incoming: &Incoming) -> Result<Value, Failure> {
    let Authorize { url, decision } = read(incoming)?;
    let url = Url::parse(&url).map_err(|_| bad("url is not a URL"))?;
    let page = Incoming {
        method: Method::GET,
        path: url.path().to_owned(),
        query: url.query_pairs().into_owned().collect(),
        headers: http::HeaderMap::new(),
        body: Some(bytes::Bytes::new()),
        authority: incoming.authority.clone(),
        called: incoming.called.clone(),
        scheme: incoming.scheme,
    };
    let approve = decision.unwrap_or(Decision::Approve) == Decision::Approve;
    visit::authorize(core, &page, approve)
        .map(|callback| json!({"callback": callback}))
        .map_err(bad)
}

fn clock(core: &Core) -> Value {
    json!({"unix_seconds": core.clock.unix_seconds()})
}

fn advance(core: &Core, incoming: &Incoming) -> Result<Value, Failure> {
    let Advance { seconds } = read(incoming)?;
    let by = Duration::try_from_secs_f64(seconds).ok();
    let by = by.filter(|by| *by <= limits::LONGEST).ok_or_else(|| {
        let most = limits::LONGEST_SECONDS;
        bad(format!("seconds is a number from 0 to {most} (100 years)"))
    })?;
    core.clock.advance(by);
    Ok(clock(core))
}

/// An empty body stands for `{}`.
fn reset(core: &Core, incoming: &Incoming) -> Result<Value, Failure> {
    let Reset { clock } = match incoming.body.as_deref() {
        Some([]) => Reset { clock: true },
        _ => read(incoming)?,
    };
    core.reset();
    if clock {
        core.clock.reset();
    }
    Ok(json!({}))
}

fn add_fault(core: &Core, incoming: &Incoming) -> Result<Value, Failure> {
    let AddFault {
        fault,
        target,
        times,
    } = read(incoming)?;
    fault
        .check()
        .map_err(|why| bad(format!("the fault {why}")))?;
    let target = target.unwrap_or(Target::Any);
    if !core.faults.has_room_for(&fault, &target) {
        let (most, bytes) = (limits::FAULTS, limits::FAULT_BYTES);
        return Err(Failure(
            StatusCode::CONFLICT,
            format!(
                "at most {most} faults, and {bytes} bytes of them, can be planned: DELETE /_mock/faults"
            ),
        ));
    }
    let times = match times {
        None => Times::ONCE,
        Some(TimesField::Next(count)) => Times::Next(count.get()),
        Some(TimesField::Word(Forever::Forever)) => Times::Forever,
    };
    Ok(json!({"id": core.faults.add(fault, target, times)}))
}

fn end_sign_in(
    core: &Core,
    incoming: &Incoming,
    end: fn(&mut Tokens, u64, Duration) -> bool,
) -> Result<Value, Failure> {
    let RefreshToken { refresh_token } = read(incoming)?;
    let now = core.now();
    let tokens = &mut core.state().tokens;
    let sign_in = tokens.sign_in_of(&refresh_token);
    Ok(json!({"ended": sign_in.is_some_and(|id| end(tokens, id, now))}))
}

fn set_active(core: &Core, incoming: &Incoming) -> Result<Value, Failure> {
    let SetActive { client_id, active } = read(incoming)?;
    let registered = core.apps.get(&client_id);
    let registered = registered
        .ok_or_else(|| Failure(StatusCode::NOT_FOUND, "no app has this client id".into()))?;
    registered.active.store(active, Ordering::Relaxed);
    Ok(json!({}))
}
