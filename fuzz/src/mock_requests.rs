//! Requests to the mock: each response matches Coze's description, and the records are bounded and contain no control characters.

use std::{
    collections::HashMap,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use coze_auth::{PrivateKey, Signer};
use coze_mock::{Decision, MockClock, MockCoze};
use futures_util::FutureExt;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use jsonschema::Validator;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{key_text, world::NOW};

/// The log capacity of the mock.
const KEPT: usize = 3;

/// The described responses, by operation and by status or `default`.
static ANSWERS: LazyLock<HashMap<(String, String), Validator>> = LazyLock::new(|| {
    let documents = [
        include_str!("../../mock/schemas/coze-oauth.json"),
        include_str!("../../mock/schemas/coze-api.json"),
    ];
    let mut validators = HashMap::new();
    for document in documents {
        let document: Value = serde_json::from_str(document).expect("generated JSON");
        for operation in document["operations"].as_array().into_iter().flatten() {
            let id = operation["operation_id"].as_str().unwrap_or_default();
            for (status, schema) in operation["responses"].as_object().into_iter().flatten() {
                let schema = json!({"allOf": [schema], "$defs": document["$defs"]});
                let validator = jsonschema::draft202012::new(&schema).expect("a schema");
                validators.insert((id.to_owned(), status.clone()), validator);
            }
        }
    }
    validators
});

/// The key of the mock's JWT app.
static KEY: LazyLock<PrivateKey> =
    LazyLock::new(|| PrivateKey::from_pem(key_text::pem()).expect("a good key"));

/// The options of the mock.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub is_lenient: bool,
    pub has_control: bool,
    pub revokes: bool,
}

/// Values from responses, by the names that later steps use.
type Brought = Vec<(&'static str, String)>;

/// Runs a script of steps, separated by lines of `~`, and asserts after each:
///
/// - It has a response with a log id, a date and its length, and never a server error, unless a fault was planned.
/// - JSON from one of Coze's endpoints matches the description; a page contains nothing unescaped.
/// - Records are bounded, and no log line contains a control character.
/// - Each sign-in has at most one valid refresh token.
///
/// A step is a request: method and target, headers, and the body after an empty line; or an action of the user, `authorize URL`,
/// `approve CODE`, `deny CODE`; or `advance SECONDS`. `@AT`, `@RT`, `@DC`, `@UC`, `@CODE` and `@TICKET` stand for the values of the last
/// responses, `@JWT{..}` for a JWT with these claims.
pub fn play(options: Options, script: &str) {
    let clock = MockClock::frozen_at(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW));
    let mock = MockCoze::builder()
        .lenient(options.is_lenient)
        .control_endpoints(options.has_control)
        .reuse_revokes_family(options.revokes)
        .refresh_revokes_access_token(options.revokes)
        .clock(clock)
        .log_capacity(KEPT)
        .build()
        .expect("a mock");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let mut brought = Brought::new();
    for step in script.split("\n~\n").take(12) {
        let step = filled_in(step, &brought);
        let (verb, rest) = step.split_once(' ').unwrap_or((&step, ""));
        match verb {
            "authorize" => {
                if let Ok(callback) = mock.authorize(rest, Decision::Approve) {
                    let code = callback.query_pairs().find(|(name, _)| name == "code");
                    brought.extend(code.map(|(_, code)| ("@CODE", code.into_owned())));
                }
            }
            "approve" => drop(mock.approve_device(rest)),
            "deny" => drop(mock.deny_device(rest)),
            "advance" => mock
                .clock()
                .advance(Duration::from_secs(rest.parse().unwrap_or(1))),
            _ => {
                if let Some(request) = request(&step) {
                    runtime.block_on(send(&mock, request, &mut brought, script));
                }
            }
        }
        assert_kept(&mock, script);
    }
}

fn filled_in(step: &str, brought: &Brought) -> String {
    let mut step = step.to_owned();
    for (name, value) in brought.iter().rev() {
        step = step.replacen(name, value, 2);
    }
    if let Some((before, rest)) = step.split_once("@JWT")
        && let Some((claims, behind)) = rest.split_once('\n')
    {
        step = format!("{before}{}\n{behind}", jwt(claims));
    }
    step
}

fn jwt(claims: &str) -> String {
    let header =
        json!({"alg": "RS256", "typ": "JWT", "kid": coze_mock::defaults::JWT_PUBLIC_KEY_ID});
    let header = URL_SAFE_NO_PAD.encode(header.to_string());
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let signature = KEY.sign(message.as_bytes()).now_or_never();
    let signature = signature
        .and_then(Result::ok)
        .expect("an immediate signature");
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Parses a request that a client can send.
fn request(text: &str) -> Option<Request<Full<Bytes>>> {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.split('\n');
    let (method, target) = lines.next()?.split_once(' ')?;
    let mut request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).ok()?)
        .uri(target.parse::<Uri>().ok()?);
    for line in lines {
        let (name, value) = line.split_once(':')?;
        request = request.header(name, value.trim());
    }
    request.body(Full::from(body.to_owned())).ok()
}

async fn send(mock: &MockCoze, request: Request<Full<Bytes>>, brought: &mut Brought, script: &str) {
    // Slashes are collapsed before the mock's own paths are distinguished from Coze's.
    let is_steering = request
        .uri()
        .path()
        .trim_start_matches('/')
        .starts_with("_mock/");
    let has_fault = !mock.faults().pending().is_empty();
    let ever = mock.request_count();
    let asked = format!("{request:?}");
    // The paused clock advances when idle, so this does not wait.
    let answered = tokio::time::timeout(Duration::from_secs(3600), mock.service().oneshot(request));
    let answer = match answered.await {
        Ok(Ok(answer)) => answer,
        _ => return assert!(has_fault, "no response: {asked} {script:?}"),
    };
    let (head, body) = answer.into_parts();
    let Ok(body) = body.collect().await else {
        return assert!(has_fault, "no complete response: {asked} {script:?}");
    };
    let body = body.to_bytes();
    let text = String::from_utf8_lossy(&body);
    let what = || format!("{head:?} {text} to {asked} in {script:?}");
    brought.extend(collected(&text));
    // The consent page to which the browser is redirected.
    let location = head.headers.get("location").and_then(|to| to.to_str().ok());
    let key = location.and_then(|to| Some(to.split_once("/_mock/consent?authorize_key=")?.1));
    brought.extend(key.map(|key| ("@TICKET", key.to_owned())));
    if has_fault {
        return;
    }
    assert!(!head.status.is_server_error(), "{}", what());
    for name in ["x-tt-logid", "date", "content-length"] {
        assert!(head.headers.contains_key(name), "{name}: {}", what());
    }
    assert_eq!(
        head.headers["content-length"],
        body.len().to_string(),
        "{}",
        what()
    );
    let kind = head
        .headers
        .get("content-type")
        .map(|value| value.as_bytes());
    if kind.is_some_and(|kind| kind.starts_with(b"text/html")) {
        assert!(
            !text.contains("<hush") && !text.contains("\"hush\""),
            "{}",
            what()
        );
        assert!(
            head.headers.contains_key("content-security-policy"),
            "{}",
            what()
        );
        return;
    }
    if is_steering {
        return;
    }
    assert_eq!(mock.request_count(), ever + 1, "{}", what());
    let record = mock
        .requests()
        .pop()
        .unwrap_or_else(|| panic!("not kept: {}", what()));
    assert_eq!(record.status(), Some(head.status.as_u16()), "{}", what());
    if key.is_some() {
        return assert!(head.status == 302 && body.is_empty(), "{}", what());
    }
    let body: Value =
        serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {}", what()));
    let Some(endpoint) = record.endpoint else {
        // 400: no valid host.
        return assert!(matches!(head.status.as_u16(), 400 | 404), "{}", what());
    };
    let id = endpoint.operation_id();
    let described = [head.status.as_str(), "default"];
    let mut described = described
        .iter()
        .filter_map(|status| ANSWERS.get(&(id.to_owned(), (*status).to_owned())));
    if let Some(schema) = described.next() {
        let wrong: Vec<_> = schema
            .iter_errors(&body)
            .map(|error| error.to_string())
            .collect();
        assert!(wrong.is_empty(), "{wrong:?} {}", what());
    }
}

/// The values of a response for later steps.
fn collected(text: &str) -> Brought {
    let mut brought = Brought::new();
    let json: Value = serde_json::from_str(text).unwrap_or_default();
    for (name, field) in [
        ("@AT", "access_token"),
        ("@RT", "refresh_token"),
        ("@DC", "device_code"),
        ("@UC", "user_code"),
    ] {
        brought.extend(json[field].as_str().map(|value| (name, value.to_owned())));
    }
    let ticket = text.split_once("name=\"ticket\" value=\"");
    let ticket = ticket.and_then(|(_, rest)| rest.split_once('"'));
    brought.extend(ticket.map(|(ticket, _)| ("@TICKET", ticket.to_owned())));
    brought
}

fn assert_kept(mock: &MockCoze, script: &str) {
    let (requests, violations, notes) = (mock.requests(), mock.violations(), mock.notes());
    let most = requests.len().max(violations.len()).max(notes.len());
    assert!(most <= KEPT, "{most} are kept: {script:?}");
    let lines = requests.iter().map(ToString::to_string);
    let lines = lines.chain(violations.iter().map(ToString::to_string));
    for line in lines.chain(notes.iter().map(ToString::to_string)) {
        assert!(!line.contains(char::is_control), "{line:?} of {script:?}");
    }
    for sign_in in mock.ledger() {
        let live = sign_in
            .generations
            .iter()
            .filter(|one| one.redeemed_at_unix_ms.is_none());
        assert!(live.count() <= 1, "{sign_in:?} {script:?}");
    }
}
