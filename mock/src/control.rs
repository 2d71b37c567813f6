//! What lies under `/_mock/`: the person's pages, and the endpoints by which tests in any language steer the mock.
//!
//! Whoever steers a mock may be anybody who can send it a request, so a web page that happens to be open in the developer's
//! browser must not be able to: other origins are refused, and so are host names that resolve to this machine by trickery.

use crate::answer::Answer;
use crate::core::{Core, Incoming};
use crate::fault::{Fault, Target, Times};
use crate::mock::Decision;
use crate::pages;
use crate::state::{SignIn, Tokens};
use http::{HeaderName, Method, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
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
    steer(core, incoming, path).unwrap_or_else(|Failure(status, why)| failed(status, &why))
}

/// Refuses requests that a web page of another origin makes a browser send.
fn check_origin(core: &Core, incoming: &Incoming) -> Result<(), &'static str> {
    let public = core.options.public_url.as_deref();
    let own = format!("{}://{}", incoming.scheme, incoming.authority);
    let named_publicly = public
        .and_then(|url| url.split_once("://"))
        .is_some_and(|(_, name)| name == incoming.authority);
    let only_loopback = core.loopback_only.load(Ordering::Relaxed);
    if only_loopback && !named_publicly && !is_loopback(&incoming.authority) {
        return Err("this mock listens on loopback: call it by a loopback name");
    }
    if incoming.method == Method::GET {
        return Ok(());
    }
    if incoming
        .header(&header::ORIGIN)
        .is_some_and(|origin| origin != own && Some(origin) != public)
    {
        return Err("requests from other origins are refused");
    }
    if incoming
        .header(&SEC_FETCH_SITE)
        .is_some_and(|site| site != "same-origin" && site != "none")
    {
        return Err("requests from other sites are refused");
    }
    Ok(())
}

fn is_loopback(authority: &str) -> bool {
    let Ok(url) = Url::parse(&format!("http://{authority}/")) else {
        return false;
    };
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

struct Failure(StatusCode, String);

fn failed(status: StatusCode, why: &str) -> Answer {
    Answer::json(status, &json!({"error": why}))
}

fn bad(why: impl Into<String>) -> Failure {
    Failure(StatusCode::BAD_REQUEST, why.into())
}

fn done(body: &Value) -> Answer {
    Answer::json(StatusCode::OK, body).uncached()
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
struct AddFault {
    fault: Fault,
    target: Option<Target>,
    /// Absent: once. Null is not told from absent, so "for ever" is the word.
    times: Option<TimesField>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TimesField {
    Next(u32),
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

const ENDPOINTS: [&str; 21] = [
    "GET /_mock/device: the page that takes a user code",
    "POST /_mock/device/approve {\"user_code\"}",
    "POST /_mock/device/deny {\"user_code\"}",
    "POST /_mock/authorize {\"url\", \"decision\": \"approve\" | \"deny\"}: answers {\"callback\"}",
    "GET /_mock/clock",
    "POST /_mock/clock/advance {\"seconds\"}",
    "GET /_mock/faults",
    "POST /_mock/faults {\"fault\", \"target\", \"times\"}",
    "DELETE /_mock/faults",
    "DELETE /_mock/faults/{id}",
    "GET /_mock/requests?since={number}",
    "GET /_mock/violations",
    "GET /_mock/notes",
    "GET /_mock/ledger?sign_in={id}",
    "POST /_mock/tokens/inspect {\"access_token\"}",
    "POST /_mock/tokens/revoke {\"access_token\"}",
    "POST /_mock/sign-ins/revoke {\"refresh_token\"}",
    "POST /_mock/sign-ins/end-login {\"refresh_token\"}",
    "POST /_mock/apps/active {\"client_id\", \"active\"}",
    "POST /_mock/reset",
    "GET /_mock/: this list",
];

fn steer(core: &Core, incoming: &Incoming, path: &str) -> Result<Answer, Failure> {
    let get = incoming.method == Method::GET;
    let post = incoming.method == Method::POST;
    let delete = incoming.method == Method::DELETE;
    let body = match path {
        "" if get => json!({"endpoints": ENDPOINTS}),
        "device/approve" if post => decide_device(core, incoming, true)?,
        "device/deny" if post => decide_device(core, incoming, false)?,
        "authorize" if post => authorize(core, incoming)?,
        "clock" if get => clock(core),
        "clock/advance" if post => advance(core, incoming)?,
        "faults" if get => json!({"faults": core.faults.pending()}),
        "faults" if post => add_fault(core, incoming)?,
        "faults" if delete => {
            core.faults.clear();
            json!({})
        }
        "requests" if get => {
            let since = number(incoming, "since", "since is the number of a request")?;
            let since = since.unwrap_or(0);
            json!({"requests": core.log.requests_since(since), "ever": core.log.requests_ever()})
        }
        "violations" if get => {
            json!({"violations": core.log.violations(), "ever": core.log.violations_ever()})
        }
        "notes" if get => json!({"notes": core.log.notes()}),
        "ledger" if get => json!({"sign_ins": ledger(core, incoming)?}),
        "tokens/inspect" if post => {
            let wanted: AccessToken = read(incoming)?;
            let now = core.now();
            json!({"token": core.state().tokens.access(&wanted.access_token, now)})
        }
        "tokens/revoke" if post => {
            let wanted: AccessToken = read(incoming)?;
            json!({"revoked": core.state().tokens.revoke_access(&wanted.access_token)})
        }
        "sign-ins/revoke" if post => end_sign_in(core, incoming, Tokens::revoke_family)?,
        "sign-ins/end-login" if post => end_sign_in(core, incoming, Tokens::end_login)?,
        "apps/active" if post => set_active(core, incoming)?,
        "reset" if post => {
            core.reset();
            json!({})
        }
        _ => match path.strip_prefix("faults/").map(str::parse) {
            Some(Ok(id)) if delete => json!({"removed": core.faults.remove(id)}),
            _ => {
                return Err(Failure(
                    StatusCode::NOT_FOUND,
                    "no such control endpoint: GET /_mock/ lists them".into(),
                ));
            }
        },
    };
    Ok(done(&body))
}

/// A JSON body. That its type must say so keeps web pages out, which may send only forms and text without being asked first.
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
fn ledger(core: &Core, incoming: &Incoming) -> Result<Vec<SignIn>, Failure> {
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
        "no device authorization with this user code waits for a decision".into(),
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
        body: None,
        authority: incoming.authority.clone(),
        scheme: incoming.scheme,
    };
    let approve = decision.unwrap_or(Decision::Approve) == Decision::Approve;
    core.person_authorizes(&page, approve)
        .map(|callback| json!({"callback": callback}))
        .map_err(bad)
}

fn clock(core: &Core) -> Value {
    json!({"unix_seconds": core.clock.unix_seconds()})
}

fn advance(core: &Core, incoming: &Incoming) -> Result<Value, Failure> {
    let Advance { seconds } = read(incoming)?;
    let by = Duration::try_from_secs_f64(seconds)
        .map_err(|_| bad("seconds is a number, and not negative"))?;
    core.clock.advance(by);
    Ok(clock(core))
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
    let times = match times {
        None => Times::ONCE,
        Some(TimesField::Next(count)) => Times::Next(count),
        Some(TimesField::Word(Forever::Forever)) => Times::Forever,
    };
    Ok(json!({"id": core.faults.add(fault, target.unwrap_or(Target::Any), times)}))
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
