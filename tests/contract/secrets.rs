//! No secret may leak: not in `Debug`, not in an error or its sources, not in a log, whatever a
//! server answers and however a connection ends; neither plain nor encoded.
//!
//! Every secret here contains [`CANARY`], or is recorded when it is created. A [`Witness`] collects everything
//! that a program could print while it runs the flows, and everything traced or logged at level
//! `TRACE` by any crate. At the end it searches that for every secret. A panic prints the `Debug` of an error, so that is covered too.

use std::{
    error::Error as _,
    ffi::OsString,
    fmt::Debug,
    io::Write,
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, SystemTime},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use coze_api::{CozeApi, SendExt};
use coze_auth::{
    CachedProvider, DeviceAuthorization, DeviceFlow, Endpoint, Error, FixedToken, Flow, JwtFlow,
    JwtTokenRequest, OAuthClient, OAuthClientBuilder, OAuthConfig, PkceFlow, PrivateKey,
    RefreshToken, Result, Scope, SignFuture, SignIn, Signer, Token, UserFlow, WebFlow, reqwest,
    store::{MemoryStore, Store},
    testing::{SendErrorKind, TestClock},
};
use coze_auth_stores::FileStore;
use coze_wire::is_invisible;
use serde_json::{Value, json};
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::any};

use crate::support::{
    CLIENT_ID, InProcess, KEY_ID, Manners, REDIRECT_URI, Refusing, RudeServer, Step, TestKey,
};

const CANARY: &str = "hushcanary";
const API_TOKEN: &str = "pat_hushcanary-api-token";
const CLIENT_SECRET: &str = "hushcanary-client-secret";
const STATE: &str = "hushcanary-state";
const CALLBACK: &str = "https://example.com/cb?code=hushcanary-code&state=hushcanary-state";
const CODE_VERIFIER: &str = "hushcanary-verifier-0123456789-0123456789-0123456789";
const REFRESH_TOKEN: &str = "hushcanary-refresh-token-sent";

/// A successful token response.
fn good_answer(request: &Request) -> Value {
    if request.url.path().ends_with("/device/code") {
        return device_answer();
    }
    json!({
        "access_token": "hushcanary-access-token",
        "refresh_token": "hushcanary-refresh-token-got",
        "expires_in": 4_102_444_800_i64,
    })
}

fn device_answer() -> Value {
    json!({
        "device_code": "hushcanary-device-code",
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://www.coze.com/device",
        "expires_in": 60,
        "interval": 1,
    })
}

/// Everything that could be printed.
struct Witness {
    /// The location, and what was printed there.
    printed: Vec<(String, String)>,
    traced: Traced,
    jwts: Arc<Mutex<Vec<String>>>,
    _subscriber: tracing::subscriber::DefaultGuard,
    /// With a single dispatcher, tracing asks only the thread that reaches a callsite first, possibly that of another
    /// test, whether there is a subscriber, and caches a negative result.
    _second: tracing::Dispatch,
}

impl Witness {
    /// Observes this thread, on which everything of a test runs except wiremock's servers.
    fn new() -> Self {
        LazyLock::force(&LOGGED);
        let traced = Traced::default();
        let writer = traced.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        Self {
            printed: Vec::new(),
            traced,
            jwts: Arc::default(),
            _subscriber: tracing::subscriber::set_default(subscriber),
            _second: tracing::Dispatch::new(tracing_subscriber::registry()),
        }
    }

    fn sees(&mut self, what: &str, value: &impl Debug) {
        let text = format!("{value:?}\n{value:#?}");
        self.printed.push((what.to_owned(), text));
    }

    fn sees_error(&mut self, what: &str, error: &Error) {
        let mut text = format!(
            "{error}\n{error:#}\n{error:?}\n{error:#?}\n{:?} {:?} {:?} {:?} {}",
            error.code(),
            error.endpoint(),
            error.message(),
            error.log_id(),
            error.hint()
        );
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(&format!("\n{error}\n{error:#}\n{error:?}\n{error:#?}"));
            cause = error.source();
        }
        self.printed.push((what.to_owned(), text));
    }

    fn sees_result<T: Debug>(&mut self, what: &str, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.sees(what, &value);
                Some(value)
            }
            Err(error) => {
                self.sees_error(what, &error);
                None
            }
        }
    }

    /// The outcome of a call of the API.
    fn sees_call<T: Debug>(&mut self, what: &str, result: coze_api::Result<T>) {
        match &result {
            Ok(answer) => self.sees(what, answer),
            Err(error) => {
                self.sees(what, &format_args!("{error:?} {error}"));
                self.sees_error(what, error);
            }
        }
    }

    /// A signer that records every JWT.
    fn signer(&self) -> impl Signer {
        NotingSigner(Arc::clone(&self.jwts))
    }

    /// The secrets that no text may contain.
    fn secrets(&self) -> Vec<String> {
        let mut secrets = vec![CANARY.to_owned()];
        secrets.extend(TestKey::get().pem_lines().map(str::to_owned));
        for jwt in &*self.jwts.lock().unwrap() {
            // The header is not secret: it contains only the key id.
            secrets.extend(jwt.split('.').skip(1).map(str::to_owned));
        }
        secrets
    }

    /// Searches everything that was collected.
    fn assert_no_secret_leaked(mut self) {
        let traced = self.traced.text();
        let logged = LOGGED.text();
        assert!(
            traced.contains("coze_auth"),
            "no event of coze-auth was traced: {traced}"
        );
        self.printed.push(("tracing".to_owned(), traced));
        self.printed.push(("log".to_owned(), logged));
        for (what, text) in &self.printed {
            let odd = text.lines().find(|line| line.contains(is_invisible));
            let is_ours = !matches!(&**what, "tracing" | "log");
            assert!(!is_ours || odd.is_none(), "{what}: {odd:?}");
        }
        let secrets: Vec<_> = self.secrets().iter().flat_map(|s| forms(s)).collect();
        let shown: Vec<_> = self
            .printed
            .iter()
            .filter_map(|(what, text)| {
                let line = line_with_any(text, &secrets)?;
                Some(format!("a secret leaked in {what}: {line}"))
            })
            .collect();
        assert!(shown.is_empty(), "{}", shown.join("\n\n"));
    }
}

fn line_with_any<'a>(text: &'a str, forms: &[String]) -> Option<&'a str> {
    let mut lines = text.lines().filter(|line| !is_debug_data_of_goaway(line));
    lines.find(|line| forms.iter().any(|form| line.contains(form)))
}

/// The only exception, because no library above can prevent it: `h2` traces the debug
/// data of a GOAWAY at level `DEBUG`, and `hyper` traces the error that contains it.
fn is_debug_data_of_goaway(line: &str) -> bool {
    line.contains(" h2::") && line.contains("GoAway")
        || line.contains(" hyper") && line.contains("GOAWAY")
}

/// The forms of a secret: plain, percent-encoded, hexadecimal and Base64, at any offset of the encoded
/// text.
fn forms(secret: &str) -> Vec<String> {
    let hex = |each: &str| -> String {
        let bytes = secret.bytes();
        bytes.map(|byte| format!("{each}{byte:02x}")).collect()
    };
    let mut forms = vec![secret.to_owned()];
    for hex in [hex(""), hex("%")] {
        forms.extend([hex.to_uppercase(), hex]);
    }
    for before in 0..3 {
        let code = STANDARD_NO_PAD.encode([&vec![0; before], secret.as_bytes()].concat());
        // The first and the last character may contain bits of the neighbouring bytes.
        let code = &code[(before * 8).div_ceil(6)..(before + secret.len()) * 8 / 6];
        forms.extend([code.to_owned(), code.replace('+', "-").replace('/', "_")]);
    }
    forms.dedup();
    forms
}

/// What has been traced or logged.
#[derive(Clone, Default)]
struct Traced(Arc<Mutex<Vec<u8>>>);

impl Traced {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Traced {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// `log` has one logger for the whole process. reqwest writes to it, and so do wiremock's servers,
/// which legitimately know all secrets.
static LOGGED: LazyLock<Traced> = LazyLock::new(|| {
    let logged = Traced::default();
    log::set_boxed_logger(Box::new(logged.clone())).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    logged
});

impl log::Log for Traced {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        !metadata.target().starts_with("wiremock")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let _ = writeln!(self.clone(), "{} {}", record.target(), record.args());
        }
    }

    fn flush(&self) {}
}

struct NotingSigner(Arc<Mutex<Vec<String>>>);

impl Signer for NotingSigner {
    fn sign<'a>(&'a self, message: &'a [u8]) -> SignFuture<'a> {
        Box::pin(async move {
            let signature = TestKey::get().sign(message);
            let message = str::from_utf8(message).unwrap();
            let jwt = format!("{message}.{}", URL_SAFE_NO_PAD.encode(&signature));
            self.0.lock().unwrap().push(jwt);
            Ok(signature)
        })
    }
}

fn client_of(base_url: &str) -> OAuthClientBuilder {
    OAuthClient::builder()
        .endpoint(Endpoint::custom(base_url).unwrap())
        .http(|| reqwest::Client::builder().no_proxy())
}

fn http2() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
}

fn refresh_token() -> RefreshToken {
    RefreshToken::new(REFRESH_TOKEN).unwrap()
}

/// Runs all flows and collects everything they produce.
async fn run_all_flows(
    witness: &mut Witness,
    client: &OAuthClient,
    authorization: Option<&DeviceAuthorization>,
    what: &str,
) {
    witness.sees(what, client);
    witness.sees(what, client.endpoint());
    witness.sees(what, &refresh_token());

    let web = WebFlow::new(client.clone(), CLIENT_ID.into(), CLIENT_SECRET.into()).unwrap();
    witness.sees(what, &web);
    let login = web.login(REDIRECT_URI).state(STATE);
    witness.sees(what, &login);
    let (_, login) = login.begin().unwrap();
    witness.sees(what, &login);
    witness.sees_result(what, web.complete(login, CALLBACK).await);
    witness.sees_result(what, web.refresh(&refresh_token()).await);

    let pkce = PkceFlow::new(client.clone(), CLIENT_ID).unwrap();
    witness.sees(what, &pkce);
    let login =
        json!({"state": STATE, "redirect_uri": REDIRECT_URI, "code_verifier": CODE_VERIFIER});
    let login = serde_json::from_value(login).unwrap();
    witness.sees(what, &login);
    witness.sees_result(what, pkce.complete(login, CALLBACK).await);
    witness.sees_result(what, pkce.refresh(&refresh_token()).await);

    let device = DeviceFlow::new(client.clone(), CLIENT_ID).unwrap();
    witness.sees(what, &device);
    let started = witness.sees_result(what, device.start().await);
    witness.sees_result(what, device.start_in_workspace("7001").await);
    if let Some(authorization) = authorization.or(started.as_ref()) {
        witness.sees_result(what, device.poll_once(authorization).await);
    }
    witness.sees_result(what, device.refresh(&refresh_token()).await);

    let jwt = JwtFlow::new(
        client.clone(),
        CLIENT_ID.into(),
        KEY_ID.into(),
        witness.signer(),
    )
    .unwrap();
    witness.sees(what, &jwt);
    let api = CozeApi::new(client.clone(), FixedToken::new(API_TOKEN).unwrap());
    witness.sees(what, &api);
    let call = api.workspaces().list().send();
    witness.sees_call(what, call.await);

    for request in [
        JwtTokenRequest::default().scope(Scope::bot_chat(["bot_1"])),
        JwtTokenRequest::default().account("9001"),
        JwtTokenRequest::default().enterprise("ent_1"),
    ] {
        witness.sees(what, &request);
        if let Some(token) = witness.sees_result(what, jwt.token_for(&request).await) {
            witness.sees(what, &token.access_token());
            witness.sees(what, &token.access_token());
            witness.sees(what, &token.refresh_token());
        }
    }
}

/// An authorization whose device code is a secret, for [`run_all_flows`].
async fn authorization() -> DeviceAuthorization {
    let server = MockServer::start().await;
    let answer = |request: &Request| ResponseTemplate::new(200).set_body_json(good_answer(request));
    Mock::given(any()).respond_with(answer).mount(&server).await;
    let client = client_of(&server.uri()).build().unwrap();
    let device = DeviceFlow::new(client, CLIENT_ID).unwrap();
    device.start().await.unwrap()
}

#[tokio::test]
async fn no_secret_leaks_on_success() {
    let server = MockServer::start().await;
    let answer = |request: &Request| {
        ResponseTemplate::new(200)
            .insert_header("x-tt-logid", "log_1")
            .set_body_json(good_answer(request))
    };
    Mock::given(any()).respond_with(answer).mount(&server).await;
    let mut witness = Witness::new();
    let client = client_of(&server.uri()).build().unwrap();
    run_all_flows(&mut witness, &client, None, "HTTP/1.1").await;

    // HTTP/2 frames are traced in detail.
    let client = client_of(&server.uri()).http(http2).build().unwrap();
    run_all_flows(&mut witness, &client, None, "HTTP/2").await;

    // The secrets were sent, and the witness works.
    let requests = server.received_requests().await.unwrap();
    let sent: String = requests
        .iter()
        .map(|r| {
            format!(
                "{:?} {}",
                r.headers.get("authorization").map(|a| a.to_str()),
                String::from_utf8_lossy(&r.body)
            )
        })
        .collect();
    for secret in [
        API_TOKEN,
        CLIENT_SECRET,
        "hushcanary-code",
        CODE_VERIFIER,
        "hushcanary-device-code",
        REFRESH_TOKEN,
    ] {
        assert!(sent.contains(secret), "{secret} was not sent: {sent}");
    }
    let jwts = witness.jwts.lock().unwrap().clone();
    assert_eq!(jwts.len(), 6);
    assert!(jwts.iter().all(|jwt| sent.contains(jwt)), "{sent}");
    let traced = witness.traced.text();
    assert!(traced.contains("the request succeeded"), "{traced}");
    assert!(
        traced.contains("h2::"),
        "the HTTP stack is not traced: {traced}"
    );
    assert!(
        LOGGED.text().contains("reqwest"),
        "reqwest is not logged: {}",
        LOGGED.text()
    );
    witness.assert_no_secret_leaked();
}

/// All secrets of a request in one text: the credential and all strings of the body.
fn echo(request: &Request) -> String {
    let bearer = request
        .headers
        .get("authorization")
        .map(|value| value.to_str().unwrap());
    let body = String::from_utf8_lossy(&request.body);
    let fields: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let values = fields
        .as_object()
        .into_iter()
        .flat_map(|fields| fields.values());
    let values: Vec<_> = values.map(Value::to_string).collect();
    format!("{} {} {body}", bearer.unwrap_or_default(), values.join(" "))
}

/// The most valuable secret of a request, as a single word.
fn one_secret(request: &Request) -> String {
    if let Some(bearer) = request.headers.get("authorization") {
        return bearer.to_str().unwrap().replace("Bearer ", "");
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    ["code", "refresh_token", "device_code", "client_id"]
        .iter()
        .find_map(|name| body[name].as_str())
        .unwrap()
        .to_owned()
}

/// The same secret in its encoded forms.
fn encoded_secret(request: &Request) -> Vec<String> {
    let secret = one_secret(request);
    let mut encoded = forms(&secret);
    encoded.extend(
        ["", "a", "ab"].map(|before| STANDARD.encode(format!("{before}{secret} {secret}"))),
    );
    encoded.push(secret.chars().flat_map(|c| [c, '\u{200b}']).collect());
    encoded.push(format!("\u{202e}{secret}\u{e0041}\u{1b}]0;{secret}\u{7}"));
    encoded.push(format!(
        "{:?}",
        secret.as_bytes().escape_ascii().to_string()
    ));
    encoded
}

type Answer = fn(&Request) -> ResponseTemplate;

/// Responses of a server that echoes secrets, or returns tokens in the wrong form.
const LEAKY_RESPONSES: &[(&str, Answer)] = &[
    ("shape A", |r| {
        let echo = echo(r);
        ResponseTemplate::new(400).set_body_json(
            json!({"error_code": "invalid_request", "error_message": echo, "error": echo}),
        )
    }),
    ("shape A at 200, the error code is a secret", |r| {
        let secret = one_secret(r);
        ResponseTemplate::new(200).set_body_json(json!({"error_code": secret, "error": echo(r)}))
    }),
    ("shape B", |r| {
        let body = json!({"error": one_secret(r), "error_description": echo(r)});
        ResponseTemplate::new(401).set_body_json(body)
    }),
    ("shape C", |r| {
        let body = json!({"code": 4100, "msg": echo(r), "detail": {"logid": echo(r)}});
        ResponseTemplate::new(500).set_body_json(body)
    }),
    ("a long message with the secrets in its second half", |r| {
        let message = format!("{}{}", "x".repeat(295), echo(r));
        ResponseTemplate::new(400)
            .set_body_json(json!({"error_code": "e", "error_message": message}))
    }),
    ("encoded", |r| {
        let echo = encoded_secret(r).join(" ");
        ResponseTemplate::new(400)
            .insert_header("x-tt-logid", &*encoded_secret(r)[1])
            .set_body_json(json!({"error": "invalid_request", "error_description": echo}))
    }),
    ("encoded, one by one, deep in a long text", |r| {
        let encoded = encoded_secret(r);
        let echo = encoded[r.body.len() % encoded.len()].repeat(30);
        ResponseTemplate::new(400).set_body_json(json!({"code": echo, "msg": format!("x{echo}")}))
    }),
    ("HTML", |r| {
        let page = format!("<html><title>502</title>{}</html>", echo(r));
        ResponseTemplate::new(502).set_body_raw(page, "text/html")
    }),
    ("a content type with a secret", |r| {
        ResponseTemplate::new(200).set_body_raw("<html>", &one_secret(r))
    }),
    ("headers with secrets", |r| {
        ResponseTemplate::new(307)
            .insert_header(
                "location",
                format!("https://example.com/?s={}", one_secret(r)),
            )
            .insert_header("www-authenticate", one_secret(r))
            .insert_header("retry-after", one_secret(r))
            .insert_header("date", one_secret(r))
            .insert_header("set-cookie", format!("s={}", one_secret(r)))
    }),
    ("tokens, cut short", |r| {
        let text = good_answer(r).to_string();
        ResponseTemplate::new(200)
            .set_body_raw(text[..text.len() - 1].to_owned(), "application/json")
    }),
    ("tokens at the wrong status", |r| {
        ResponseTemplate::new(500).set_body_json(good_answer(r))
    }),
    ("tokens in a list", |r| {
        ResponseTemplate::new(200).set_body_json(json!([good_answer(r)]))
    }),
    ("tokens under other names", |r| {
        let body = json!({"data": good_answer(r), "token": "hushcanary-access-token"});
        ResponseTemplate::new(200).set_body_json(body)
    }),
    ("tokens without an expiry", |r| {
        let mut body = good_answer(r);
        body.as_object_mut().unwrap().remove("expires_in");
        ResponseTemplate::new(200).set_body_json(body)
    }),
    ("an expiry that is a secret", |r| {
        let mut body = good_answer(r);
        body["expires_in"] = json!("hushcanary-expiry");
        ResponseTemplate::new(200).set_body_json(body)
    }),
    ("a token that breaks the header", |r| {
        let mut body = good_answer(r);
        body["access_token"] = json!("hushcanary\r\nhushcanary");
        body["device_code"] = json!("");
        ResponseTemplate::new(200).set_body_json(body)
    }),
    ("an error with tokens", |r| {
        let mut body = good_answer(r);
        body.as_object_mut().unwrap().remove("expires_in");
        body["error_code"] = json!("invalid_grant");
        ResponseTemplate::new(200).set_body_json(body)
    }),
    ("an error that repeats the tokens in it", |r| {
        let mut body = good_answer(r);
        body["error_code"] = json!("invalid_request");
        let tokens = ["access_token", "refresh_token", "device_code"];
        let tokens: Vec<&str> = tokens
            .iter()
            .filter_map(|name| body[name].as_str())
            .collect();
        body["error_message"] = json!(format!("no use for {}", tokens.join(" and ")));
        ResponseTemplate::new(400).set_body_json(body)
    }),
    ("a log id that is a token of the same answer", |r| {
        let body = good_answer(r);
        let token = ["access_token", "device_code"].map(|name| body[name].as_str());
        let token = token.into_iter().flatten().next().unwrap();
        ResponseTemplate::new(200)
            .insert_header("x-tt-logid", token)
            .set_body_json(&body)
    }),
    ("an error with a log id that is its token", |r| {
        let mut body = good_answer(r);
        body["logid"] = body["refresh_token"].clone();
        body["error_code"] = json!("invalid_request");
        ResponseTemplate::new(400).set_body_json(body)
    }),
    ("tokens in members of another kind", |r| {
        let mut body = good_answer(r);
        for member in body.as_object_mut().unwrap().values_mut() {
            *member = json!([member]);
        }
        ResponseTemplate::new(200).set_body_json(body)
    }),
    ("nothing", |_| ResponseTemplate::new(500)),
    ("too much", |r| {
        ResponseTemplate::new(200).set_body_string(echo(r).repeat(20_000))
    }),
];

#[tokio::test]
async fn no_secret_leaks_when_a_server_echoes_it() {
    let server = MockServer::start().await;
    let client = client_of(&server.uri()).build().unwrap();
    let http2 = client_of(&server.uri()).http(http2).build().unwrap();
    let authorization = authorization().await;
    let mut witness = Witness::new();
    for (what, answer) in LEAKY_RESPONSES {
        server.reset().await;
        Mock::given(any())
            .respond_with(*answer)
            .mount(&server)
            .await;
        for client in [&client, &http2] {
            run_all_flows(&mut witness, client, Some(&authorization), what).await;
        }
    }
    let traced = witness.traced.text();
    assert!(traced.contains("the request failed"), "{traced}");
    witness.assert_no_secret_leaked();
}

#[tokio::test]
async fn no_secret_leaks_when_a_server_echoes_it_as_the_log_id() {
    let server = MockServer::start().await;
    let answer = |request: &Request| {
        ResponseTemplate::new(400)
            .insert_header("x-tt-logid", one_secret(request))
            .set_body_json(json!({"error_code": "invalid_client"}))
    };
    Mock::given(any()).respond_with(answer).mount(&server).await;
    let client = client_of(&server.uri()).build().unwrap();
    let authorization = authorization().await;
    let mut witness = Witness::new();
    run_all_flows(&mut witness, &client, Some(&authorization), "log id").await;
    witness.assert_no_secret_leaked();
}

#[tokio::test]
async fn no_secret_leaks_when_the_connection_fails() {
    let authorization = authorization().await;
    let mut witness = Witness::new();
    let half =
        "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"access_token\":\"hushcanary-access-token";
    for manners in [
        Manners::Closes,
        Manners::Resets,
        Manners::Says("hushcanary hushcanary hushcanary\r\n\r\n".to_owned()),
        Manners::Says(half.to_owned()),
        Manners::SaysAndHangs(half.to_owned()),
    ] {
        // Only the silent server causes a timeout.
        let timeout = match manners {
            Manners::SaysAndHangs(_) => Duration::from_millis(500),
            _ => Duration::from_secs(30),
        };
        let rude = RudeServer::start(manners.clone()).await;
        let client = client_of(rude.base_url()).request_timeout(timeout);
        let client = client.build().unwrap();
        let what = format!("{manners:?}").replace(CANARY, "(canary)");
        run_all_flows(&mut witness, &client, Some(&authorization), &what).await;
        assert!(rude.requests() > 0, "nothing was sent: {what}");
    }
    let refusing = Refusing::new();
    let client = client_of(&refusing.base_url()).build().unwrap();
    run_all_flows(&mut witness, &client, Some(&authorization), "refused").await;
    witness.assert_no_secret_leaked();
}

#[tokio::test]
async fn no_secret_leaks_through_goaway_debug_data() {
    let authorization = authorization().await;
    let mut witness = Witness::new();
    let debug_data = format!("\u{1b}[2J{CLIENT_SECRET}\u{202e} {API_TOKEN} ");
    let rude = RudeServer::start(Manners::GoesAway(debug_data)).await;
    let client = client_of(rude.base_url()).http(http2).build().unwrap();
    run_all_flows(&mut witness, &client, Some(&authorization), "GOAWAY").await;
    assert!(rude.requests() > 0);
    let told: Vec<_> = witness.printed.iter().map(|(_, text)| &**text).collect();
    let told = told.join("\n");
    assert!(told.contains("HTTP/2 GOAWAY: not a result"), "{told}");
    assert!(!told.contains("[2J"), "the debug data is shown: {told}");
    let longest = told.lines().map(str::len).max();
    assert!(longest < Some(2000), "{longest:?}");
    let traced = witness.traced.text();
    let excepted = traced.lines().filter(|line| is_debug_data_of_goaway(line));
    assert!(excepted.count() > 0, "the exception is still needed");
    witness.assert_no_secret_leaked();
}

/// reqwest logs every byte of a verbose connection.
#[tokio::test]
async fn a_verbose_connection_is_disabled() {
    let server = MockServer::start().await;
    let answer = |request: &Request| ResponseTemplate::new(200).set_body_json(good_answer(request));
    Mock::given(any()).respond_with(answer).mount(&server).await;
    let mut witness = Witness::new();
    let verbose = || {
        reqwest::Client::builder()
            .no_proxy()
            .connection_verbose(true)
    };
    // Without a secret, it is logged.
    let nothing = MockServer::start().await;
    let heard = verbose().build().unwrap().get(nothing.uri());
    heard.send().await.unwrap();
    assert!(LOGGED.text().contains("reqwest::connect::verbose"));
    let client = client_of(&server.uri()).http(verbose).build().unwrap();
    run_all_flows(&mut witness, &client, None, "verbose").await;
    let api = CozeApi::builder(FixedToken::new(API_TOKEN).unwrap())
        .endpoint(Endpoint::custom(server.uri()).unwrap())
        .http(verbose)
        .build()
        .unwrap();
    let call = api.workspaces().list().send();
    witness.sees_call("API", call.await);
    witness.assert_no_secret_leaked();
}

#[tokio::test]
async fn no_secret_leaks_from_a_store_or_a_stored_sign_in() {
    let folder = tempfile::tempdir().unwrap();
    let mut witness = Witness::new();
    use_store(&mut witness, "memory", MemoryStore::new()).await;
    let file = || FileStore::new(folder.path().join("sign-ins"));
    use_store(&mut witness, "file", file()).await;

    // Contents that are not a sign-in, and contents written by another program.
    let files = || {
        let files = std::fs::read_dir(file().folder()).unwrap();
        files
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
    };
    assert!(files().count() > 0);
    for path in files() {
        std::fs::write(path, format!("{{\"{CANARY}\u{202e}\":\"{REFRESH_TOKEN}")).unwrap();
    }
    let sign_in = SignIn::new(file(), "default").unwrap();
    witness.sees_result("damaged", sign_in.load().await);
    witness.sees_result("damaged", sign_in.quarantined().await);
    std::fs::remove_dir_all(file().folder()).unwrap();
    std::fs::write(file().folder(), CANARY).unwrap();
    witness.sees_result("not a folder", sign_in.load().await);
    witness.assert_no_secret_leaked();
}

/// Signs in, refreshes successfully and unsuccessfully, signs out.
async fn use_store(witness: &mut Witness, what: &str, store: impl Store) {
    let server = MockServer::start().await;
    let clock = TestClock::starting_at(SystemTime::now());
    let client = client_of(&server.uri()).test_clock(clock).build().unwrap();
    let web = WebFlow::new(client, CLIENT_ID.into(), CLIENT_SECRET.into()).unwrap();
    let sign_in = SignIn::new(store, "default").unwrap();
    witness.sees(what, &sign_in);
    let answers: [Answer; 3] = [
        |_| {
            let body = json!({"access_token": "hushcanary-1", "refresh_token": "hushcanary-r1", "expires_in": 1});
            ResponseTemplate::new(200).set_body_json(body)
        },
        |r| {
            let body =
                json!({"error": "access_deny", "error_description": encoded_secret(r).join(" ")});
            ResponseTemplate::new(400).set_body_json(body)
        },
        |r| {
            let body = json!({"error": "invalid_grant", "error_description": echo(r)});
            let log_id = one_secret(r);
            ResponseTemplate::new(400)
                .insert_header("x-tt-logid", &*log_id)
                .set_body_json(body)
        },
    ];
    let signed_in: Token = {
        Mock::given(any())
            .respond_with(answers[0])
            .mount(&server)
            .await;
        web.refresh(&refresh_token()).await.unwrap()
    };
    sign_in.put(&signed_in).await.unwrap();
    for answer in answers {
        server.reset().await;
        Mock::given(any()).respond_with(answer).mount(&server).await;
        let provider = CachedProvider::stored(&web, sign_in.clone()).build();
        witness.sees(what, &provider);
        let token = provider.token().await;
        witness.sees_result(what, token);
        witness.sees(what, &provider.stats());
        witness.sees_result(what, provider.shutdown().await);
        witness.sees_result(what, sign_in.load().await);
    }
    sign_in.put(&signed_in).await.unwrap();
    witness.sees_result(what, sign_in.quarantined().await);
    let key = coze_auth::store::Key::record(sign_in.profile());
    witness.sees(what, &sign_in.store().load(&key).await.unwrap());
    witness.sees_result(what, sign_in.sign_out().await);
    witness.sees_result(what, sign_in.load().await);
}

#[tokio::test(start_paused = true)]
async fn no_secret_leaks_without_a_response() {
    let script = [Step::json(200, &device_answer()), Step::Hang];
    let server = InProcess::start(SystemTime::now(), script);
    let device = DeviceFlow::new(server.client(), CLIENT_ID).unwrap();
    let authorization = device.start().await.unwrap();
    let mut witness = Witness::new();
    let client = server.client();
    run_all_flows(&mut witness, &client, Some(&authorization), "silence").await;
    assert_eq!(
        server.recorded().len(),
        1 + 12,
        "each call sends one request"
    );
    witness.assert_no_secret_leaked();
}

#[tokio::test(start_paused = true)]
async fn no_secret_leaks_while_polling() {
    let mut witness = Witness::new();
    let echo = "your device code hushcanary-device-code is busy";
    let script = [
        Step::json(200, &device_answer()),
        Step::json(
            400,
            &json!({"error": "authorization_pending", "error_description": echo}),
        ),
        Step::json(
            400,
            &json!({"error_code": "slow_down", "error_message": echo}),
        ),
        Step::json(500, &json!({"code": 5000, "msg": echo})),
        Step::text(502, echo),
        Step::Fail(SendErrorKind::Timeout),
        Step::Fail(SendErrorKind::Interrupted),
    ];
    let server = InProcess::start(SystemTime::UNIX_EPOCH, script);
    let device = DeviceFlow::new(server.client(), CLIENT_ID).unwrap();
    let authorization = device.start().await.unwrap();
    let mut steps = Vec::new();
    let result = device
        .poll_with(&authorization, |step| steps.push(step.clone()))
        .await;
    assert!(steps.len() >= 5, "{steps:?}");
    for step in &steps {
        witness.sees("step", step);
    }
    witness.sees_result("poll", result);
    witness.assert_no_secret_leaked();
}

#[tokio::test]
async fn no_secret_leaks_when_a_callback_is_refused() {
    let mut witness = Witness::new();
    // Nothing is sent, except one exchange, which proves that the witness works.
    let refusing = Refusing::new();
    let client = client_of(&refusing.base_url()).build().unwrap();
    let web = WebFlow::new(client.clone(), CLIENT_ID.into(), CLIENT_SECRET.into()).unwrap();
    witness.sees_result("awake", web.refresh(&refresh_token()).await);
    let pkce = PkceFlow::new(client, CLIENT_ID).unwrap();
    for callback in [
        "",
        "hushcanary-code",
        "https://user:hushcanary@example.com/hushcanary",
        "?code=hushcanary-code",
        "?code=hushcanary-code&state=hushcanary-other",
        "?code=hushcanary-code&state=",
        "?code=hushcanary-code&state=hushcanary-state&state=hushcanary-state",
        "?code=hushcanary-code&code=hushcanary-code&state=hushcanary-state",
        "?state=hushcanary-state",
        "?error=access_denied&error_description=hushcanary-state&state=hushcanary-state",
        "?error=hushcanary-state&state=hushcanary-state",
        "?error=access_denied&code=hushcanary-code&state=hushcanary-other",
    ] {
        let what = callback.replace(CANARY, "(canary)");
        let (_, login) = web.login(REDIRECT_URI).state(STATE).begin().unwrap();
        let error = web.complete(login, callback).await.unwrap_err();
        witness.sees_error(&what, &error);
        let (_, login) = pkce.login(REDIRECT_URI).state(STATE).begin().unwrap();
        let error = pkce.complete(login, callback).await.unwrap_err();
        witness.sees_error(&what, &error);
    }
    witness.assert_no_secret_leaked();
}

#[tokio::test]
async fn no_secret_leaks_from_invalid_values_or_configurations() {
    let mut witness = Witness::new();
    let server = MockServer::start().await;
    let client = client_of(&server.uri()).build().unwrap();
    let awake = WebFlow::new(client.clone(), CLIENT_ID.into(), CLIENT_SECRET.into()).unwrap();
    witness.sees_result("awake", awake.refresh(&refresh_token()).await);

    for bad in [
        "hushcanary\nhushcanary",
        "hushcanary hushcanary",
        "hushcanary\u{e9}",
        "hushcanary\0",
    ] {
        witness.sees_result(
            "client secret",
            WebFlow::new(client.clone(), CLIENT_ID.into(), bad.into()),
        );
        witness.sees_result("refresh token", RefreshToken::new(bad));
        witness.sees_result("fixed token", FixedToken::new(bad));
    }
    witness.sees_result("fixed token", FixedToken::new("hushcanary-pat"));
    for bad in [
        "https://user:hushcanary@api.coze.com",
        "https://api.coze.com?token=hushcanary",
        "https://api.coze.com#hushcanary",
    ] {
        witness.sees_result("endpoint", Endpoint::custom(bad));
        witness.sees_result(
            "WWW base",
            Endpoint::builder("https://a.b").www_base(bad).build(),
        );
    }

    let key = TestKey::get().pem();
    witness.sees_result("private key", PrivateKey::from_pem(key));
    let lines: Vec<_> = TestKey::get().pem_lines().collect();
    for bad in [
        lines.join("\n"),
        key.replace("PRIVATE", "PUBLIC"),
        key.replace("BEGIN PRIVATE", "BEGIN EC PRIVATE"),
        key.replace(lines[1], "!!"),
        key.replace(lines[1], ""),
        key[..key.len() / 2].to_owned(),
    ] {
        witness.sees_result("private key", PrivateKey::from_pem(bad));
    }

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("coze_oauth_config.json");
    for file in configuration_files() {
        let text = file.to_string();
        let broken = format!("{}, hushcanary", &text[..text.len() - 1]);
        std::fs::write(&path, &text).unwrap();
        let from_file = witness.sees_result("configuration file", OAuthConfig::from_file(&path));
        witness.sees_result("configuration", broken.parse::<OAuthConfig>());
        if let Some(config) = from_file {
            witness.sees_result("configured flow", config.build());
        }
    }

    let variables = |variables: &'static [(&str, &str)]| {
        move |name: &str| {
            let value = variables
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| *value)?;
            Some(OsString::from(value.replace("<key>", TestKey::get().pem())))
        }
    };
    for environment in ENVIRONMENTS {
        for flow in [None, Some(Flow::Web), Some(Flow::Jwt), Some(Flow::Token)] {
            let config = OAuthConfig::from_variables(variables(environment), flow);
            if let Some(config) = witness.sees_result("environment", config) {
                witness.sees_result("configured flow", config.build());
            }
        }
    }

    let mut headers = http::HeaderMap::new();
    headers.insert("x-api-key", "hushcanary-header".parse().unwrap());
    let refusing = Refusing::new().base_url();
    let proxy = refusing.replace("http://", "http://user:hushcanary@");
    let http = move || {
        reqwest::Client::builder()
            .tls_certs_only([])
            .default_headers(headers.clone())
            .proxy(reqwest::Proxy::all(&proxy).unwrap())
    };
    let builder = OAuthClient::builder().http(http);
    witness.sees("client builder", &builder);
    let client = builder.build().unwrap();
    witness.sees("client", &client);
    let through_proxy = WebFlow::new(client, CLIENT_ID.into(), CLIENT_SECRET.into()).unwrap();
    witness.sees_result("proxy", through_proxy.refresh(&refresh_token()).await);
    witness.assert_no_secret_leaked();
}

/// Valid and invalid configuration files.
fn configuration_files() -> Vec<Value> {
    let key = TestKey::get().pem();
    vec![
        json!({"client_type": "web", "client_id": "i", "client_secret": "hushcanary"}),
        json!({"client_type": "web", "client_id": "i", "client_secret": "hushcanary\nhushcanary"}),
        json!({"client_type": "web", "client_secret": "hushcanary", "coze_api_base": "http://user:hushcanary@x.y"}),
        json!({"client_type": "hushcanary", "client_id": "i", "client_secret": "hushcanary"}),
        json!({"client_type": "pkce", "client_id": "i", "client_secret": "hushcanary"}),
        json!({"client_type": "device", "client_id": "i", "private_key": key}),
        json!({"client_type": "jwt", "client_id": "i", "public_key_id": "k", "private_key": key}),
        json!({"client_type": "jwt", "client_id": "i", "public_key_id": "k", "private_key": "hushcanary"}),
        json!({"client_type": "jwt", "client_id": "i", "private_key": key}),
        json!({"client_type": "web", "client_id": "i", "client_secret": ["hushcanary"], "hushcanary": "hushcanary"}),
    ]
}

const ENVIRONMENTS: &[&[(&str, &str)]] = &[
    &[("COZE_API_TOKEN", "hushcanary")],
    &[("COZE_API_TOKEN", "hushcanary hushcanary")],
    &[
        ("COZE_WEB_OAUTH_CLIENT_ID", "i"),
        ("COZE_WEB_OAUTH_CLIENT_SECRET", "hushcanary"),
    ],
    &[
        ("COZE_WEB_OAUTH_CLIENT_ID", "i"),
        ("COZE_WEB_OAUTH_CLIENT_SECRET", "hushcanary\nhushcanary"),
    ],
    &[
        ("COZE_API_TOKEN", "hushcanary"),
        ("COZE_WEB_OAUTH_CLIENT_SECRET", "hushcanary"),
    ],
    &[
        ("COZE_JWT_OAUTH_CLIENT_ID", "i"),
        ("COZE_JWT_OAUTH_PUBLIC_KEY_ID", "k"),
        ("COZE_JWT_OAUTH_PRIVATE_KEY", "<key>"),
    ],
    &[
        ("COZE_JWT_OAUTH_CLIENT_ID", "i"),
        ("COZE_JWT_OAUTH_PUBLIC_KEY_ID", "k"),
        ("COZE_JWT_OAUTH_PRIVATE_KEY", "hushcanary"),
    ],
    &[
        ("COZE_API_TOKEN", "hushcanary"),
        ("COZE_API_BASE", "https://user:hushcanary@api.coze.com"),
    ],
];

#[test]
fn the_search_finds_secrets() {
    let secrets = ["hushcanary".to_owned(), "signature".to_owned()];
    assert_eq!(
        line_with_any("a\nb hushcanary-hushcanary c\nd", &secrets),
        Some("b hushcanary-hushcanary c")
    );
    assert_eq!(
        line_with_any("a.b.signature", &secrets),
        Some("a.b.signature")
    );
    assert_eq!(line_with_any("Secret(****)", &secrets), None);
    let forms = forms(CANARY);
    for before in ["", "x", "xy"] {
        let code = STANDARD.encode(format!("{before}a-{CANARY}-and-more"));
        assert!(line_with_any(&code, &forms).is_some(), "{code}");
    }
    for hex in ["68757368", "68%75%73"] {
        assert!(forms.iter().any(|form| form.contains(hex)), "{forms:?}");
    }
}
