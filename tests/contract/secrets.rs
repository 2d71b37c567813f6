//! No secret may show: not in `Debug`, not in an error or what caused it, not in a log, whatever a
//! server answers and however a connection ends.
//!
//! Every secret here has `hush` in it, or is noted when it is made. A [`Witness`] writes down everything
//! that a program could print on its way through the flows, and all that is traced and logged at level
//! `TRACE`; in the end it searches for every one of them.

use std::{
    error::Error as _,
    ffi::OsString,
    fmt::Debug,
    io::Write,
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coze_auth::{
    CodeVerifier, DeviceAuthorization, DeviceFlow, Endpoint, Error, FixedToken, Flow, JwtFlow,
    JwtTokenRequest, OAuthClient, OAuthClientBuilder, OAuthConfig, PkceFlow, PrivateKey,
    RefreshToken, Result, Scope, SignFuture, Signer, WebFlow, reqwest, testing::SendErrorKind,
};
use serde_json::{Value, json};
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::any};

use crate::support::{
    CLIENT_ID, InProcess, KEY_ID, Manners, REDIRECT_URI, Refusing, RudeServer, Step, TestKey,
};

const CLIENT_SECRET: &str = "hush-client-secret";
const STATE: &str = "hush-state";
const CALLBACK: &str = "https://example.com/cb?code=hush-code&state=hush-state";
const CODE_VERIFIER: &str = "hush-verifier-0123456789-0123456789-0123456789";
const REFRESH_TOKEN: &str = "hush-refresh-token-sent";

/// What a server answers when all is well.
fn good_answer(request: &Request) -> Value {
    if request.url.path().ends_with("/device/code") {
        return device_answer();
    }
    json!({
        "access_token": "hush-access-token",
        "refresh_token": "hush-refresh-token-got",
        "expires_in": 4_102_444_800_i64,
    })
}

fn device_answer() -> Value {
    json!({
        "device_code": "hush-device-code",
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://www.coze.com/device",
        "expires_in": 60,
        "interval": 1,
    })
}

/// All that could be seen.
struct Witness {
    /// Where, and what was printed there.
    printed: Vec<(String, String)>,
    traced: Traced,
    jwts: Arc<Mutex<Vec<String>>>,
    _subscriber: tracing::subscriber::DefaultGuard,
    /// With one dispatcher alone, tracing asks only the thread that comes to a callsite first, which may be another
    /// test's, whether anybody listens; and remembers its no.
    _second: tracing::Dispatch,
}

impl Witness {
    /// Begins to watch this thread, on which everything of a test runs but the servers of wiremock.
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
            "{error}\n{error:?}\n{error:#?}\n{:?} {:?} {:?} {}",
            error.endpoint(),
            error.message(),
            error.log_id(),
            error.hint()
        );
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(&format!("\n{error}\n{error:?}\n{error:#?}"));
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

    /// A signer that notes every JWT.
    fn signer(&self) -> impl Signer {
        NotingSigner(Arc::clone(&self.jwts))
    }

    /// The secrets that no text may hold.
    fn secrets(&self) -> Vec<String> {
        let mut secrets = vec!["hush".to_owned()];
        secrets.extend(TestKey::get().pem_lines().map(str::to_owned));
        for jwt in &*self.jwts.lock().unwrap() {
            // The header is no secret: it says only the key's id.
            secrets.extend(jwt.split('.').skip(1).map(str::to_owned));
        }
        secrets
    }

    /// Looks at everything that was seen.
    fn assert_no_secret_showed(mut self) {
        let traced = self.traced.text();
        let logged = LOGGED.text();
        assert!(
            traced.contains("coze_auth"),
            "nothing of ours was traced: {traced}"
        );
        self.printed.push(("tracing".to_owned(), traced));
        self.printed.push(("log".to_owned(), logged));
        let secrets = self.secrets();
        let shown: Vec<_> = self
            .printed
            .iter()
            .filter_map(|(what, text)| {
                let line = line_with_any(text, &secrets)?;
                Some(format!("a secret shows in {what}: {line}"))
            })
            .collect();
        assert!(shown.is_empty(), "{}", shown.join("\n\n"));
    }
}

fn line_with_any<'a>(text: &'a str, secrets: &[String]) -> Option<&'a str> {
    text.lines()
        .find(|line| secrets.iter().any(|secret| line.contains(secret)))
}

/// What was traced, or logged, so far.
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

/// `log` has one logger for the whole process, reqwest writes to it, and so do servers of wiremock,
/// which know all secrets by right.
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

fn refresh_token() -> RefreshToken {
    RefreshToken::new(REFRESH_TOKEN).unwrap()
}

/// Goes through all flows, and writes down everything on the way.
async fn go_through_all_flows(
    witness: &mut Witness,
    client: &OAuthClient,
    authorization: Option<&DeviceAuthorization>,
    what: &str,
) {
    witness.sees(what, client);
    witness.sees(what, client.endpoint());
    witness.sees(what, &refresh_token());

    let web = WebFlow::new(client.clone(), CLIENT_ID, CLIENT_SECRET).unwrap();
    witness.sees(what, &web);
    let login = web.login(REDIRECT_URI).state(STATE);
    witness.sees(what, &login);
    let (_, login) = login.begin().unwrap();
    witness.sees(what, &login);
    witness.sees_result(what, web.complete(login, CALLBACK).await);
    witness.sees_result(what, web.refresh(&refresh_token()).await);

    let pkce = PkceFlow::new(client.clone(), CLIENT_ID).unwrap();
    witness.sees(what, &pkce);
    let verifier = CodeVerifier::new(CODE_VERIFIER).unwrap();
    witness.sees(what, &verifier);
    let login = pkce
        .login(REDIRECT_URI)
        .state(STATE)
        .code_verifier(verifier);
    let login = login.plain_challenge();
    witness.sees(what, &login);
    let (_, login) = login.begin().unwrap();
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

    let jwt = JwtFlow::builder(client.clone())
        .client_id(CLIENT_ID)
        .key_id(KEY_ID)
        .signer(witness.signer());
    witness.sees(what, &jwt);
    let jwt = jwt.build().unwrap();
    witness.sees(what, &jwt);
    for request in [
        JwtTokenRequest::new().scope(Scope::bot_chat(["bot_1"])),
        JwtTokenRequest::new().account("9001"),
        JwtTokenRequest::new().enterprise("ent_1"),
    ] {
        witness.sees(what, &request);
        if let Some(token) = witness.sees_result(what, jwt.token_for(&request).await) {
            witness.sees(what, &token.authorization());
            witness.sees(what, &token.access_token());
            witness.sees(what, &token.refresh_token());
        }
    }
}

/// An authorization whose device code is a secret that [`go_through_all_flows`] can poll with.
async fn authorization() -> DeviceAuthorization {
    let server = MockServer::start().await;
    let answer = |request: &Request| ResponseTemplate::new(200).set_body_json(good_answer(request));
    Mock::given(any()).respond_with(answer).mount(&server).await;
    let client = client_of(&server.uri()).build().unwrap();
    let device = DeviceFlow::new(client, CLIENT_ID).unwrap();
    device.start().await.unwrap()
}

#[tokio::test]
async fn no_secret_shows_when_all_is_well() {
    let server = MockServer::start().await;
    let answer = |request: &Request| {
        ResponseTemplate::new(200)
            .insert_header("x-tt-logid", "log_1")
            .set_body_json(good_answer(request))
    };
    Mock::given(any()).respond_with(answer).mount(&server).await;
    let mut witness = Witness::new();
    let client = client_of(&server.uri()).build().unwrap();
    go_through_all_flows(&mut witness, &client, None, "HTTP/1.1").await;

    // The frames of HTTP/2 are traced in detail.
    let http2 = || {
        reqwest::Client::builder()
            .no_proxy()
            .http2_prior_knowledge()
    };
    let client = client_of(&server.uri()).http(http2).build().unwrap();
    go_through_all_flows(&mut witness, &client, None, "HTTP/2").await;

    // The secrets went through, and the witness was awake.
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
        CLIENT_SECRET,
        "hush-code",
        CODE_VERIFIER,
        "hush-device-code",
        REFRESH_TOKEN,
    ] {
        assert!(sent.contains(secret), "{secret} was never sent: {sent}");
    }
    let jwts = witness.jwts.lock().unwrap().clone();
    assert_eq!(jwts.len(), 6);
    assert!(jwts.iter().all(|jwt| sent.contains(jwt)), "{sent}");
    let traced = witness.traced.text();
    assert!(traced.contains("Coze answered"), "{traced}");
    assert!(
        traced.contains("h2::"),
        "the HTTP stack is not heard: {traced}"
    );
    assert!(
        LOGGED.text().contains("reqwest"),
        "reqwest is not heard: {}",
        LOGGED.text()
    );
    witness.assert_no_secret_showed();
}

/// Everything secret in a request, in one text: the credential and all strings of the body.
fn echo(request: &Request) -> String {
    let bearer = request
        .headers
        .get("authorization")
        .map(|value| value.to_str().unwrap());
    let body = String::from_utf8_lossy(&request.body);
    let fields: Value = serde_json::from_slice(&request.body).unwrap();
    let values: Vec<_> = fields
        .as_object()
        .unwrap()
        .values()
        .map(Value::to_string)
        .collect();
    format!("{} {} {body}", bearer.unwrap_or_default(), values.join(" "))
}

/// The one secret that is most worth having, alone, as a word would stand.
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

type Answer = fn(&Request) -> ResponseTemplate;

/// Answers of a server that repeats what it was told, or lets tokens out in the wrong form.
const INDISCREET: &[(&str, Answer)] = &[
    ("shape A", |r| {
        let echo = echo(r);
        ResponseTemplate::new(400).set_body_json(
            json!({"error_code": "invalid_request", "error_message": echo, "error": echo}),
        )
    }),
    ("shape A at 200, the word is a secret", |r| {
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
    ("a long message with the secrets behind its middle", |r| {
        let message = format!("{}{}", "x".repeat(295), echo(r));
        ResponseTemplate::new(400)
            .set_body_json(json!({"error_code": "e", "error_message": message}))
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
        let body = json!({"data": good_answer(r), "token": "hush-access-token"});
        ResponseTemplate::new(200).set_body_json(body)
    }),
    ("tokens without an expiry", |r| {
        let mut body = good_answer(r);
        body.as_object_mut().unwrap().remove("expires_in");
        ResponseTemplate::new(200).set_body_json(body)
    }),
    ("an expiry that is a secret", |r| {
        let mut body = good_answer(r);
        body["expires_in"] = json!("hush-expiry");
        ResponseTemplate::new(200).set_body_json(body)
    }),
    ("a token that breaks the header", |r| {
        let mut body = good_answer(r);
        body["access_token"] = json!("hush\r\nhush");
        body["device_code"] = json!("");
        ResponseTemplate::new(200).set_body_json(body)
    }),
    ("an error with tokens", |r| {
        let mut body = good_answer(r);
        body.as_object_mut().unwrap().remove("expires_in");
        body["error_code"] = json!("invalid_grant");
        ResponseTemplate::new(200).set_body_json(body)
    }),
    ("nothing", |_| ResponseTemplate::new(500)),
    ("too much", |r| {
        ResponseTemplate::new(200).set_body_string(echo(r).repeat(20_000))
    }),
];

#[tokio::test]
async fn no_secret_shows_when_a_server_repeats_it_or_answers_in_a_wrong_form() {
    let server = MockServer::start().await;
    let client = client_of(&server.uri()).build().unwrap();
    let authorization = authorization().await;
    let mut witness = Witness::new();
    for (what, answer) in INDISCREET {
        server.reset().await;
        Mock::given(any())
            .respond_with(*answer)
            .mount(&server)
            .await;
        go_through_all_flows(&mut witness, &client, Some(&authorization), what).await;
    }
    let traced = witness.traced.text();
    assert!(
        traced.contains("Coze did not give what was asked for"),
        "{traced}"
    );
    witness.assert_no_secret_showed();
}

#[tokio::test]
async fn no_secret_shows_when_a_server_repeats_it_as_the_log_id() {
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
    go_through_all_flows(&mut witness, &client, Some(&authorization), "log id").await;
    witness.assert_no_secret_showed();
}

#[tokio::test]
async fn no_secret_shows_when_the_connection_fails() {
    let authorization = authorization().await;
    let mut witness = Witness::new();
    let half =
        "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"access_token\":\"hush-access-token";
    for manners in [
        Manners::Closes,
        Manners::Resets,
        Manners::Says("hush hush hush\r\n\r\n".to_owned()),
        Manners::Says(half.to_owned()),
        Manners::SaysAndHangs(half.to_owned()),
    ] {
        // Only silence waits for the time-out.
        let patience = match manners {
            Manners::SaysAndHangs(_) => Duration::from_millis(500),
            _ => Duration::from_secs(30),
        };
        let rude = RudeServer::start(manners.clone()).await;
        let client = client_of(rude.base_url()).request_timeout(patience);
        let client = client.build().unwrap();
        let what = format!("{manners:?}").replace("hush", "h-u-s-h");
        go_through_all_flows(&mut witness, &client, Some(&authorization), &what).await;
        assert!(rude.requests() > 0, "nothing was sent: {what}");
    }
    let refusing = Refusing::new();
    let client = client_of(&refusing.base_url()).build().unwrap();
    go_through_all_flows(&mut witness, &client, Some(&authorization), "refused").await;
    witness.assert_no_secret_showed();
}

#[tokio::test(start_paused = true)]
async fn no_secret_shows_when_no_answer_comes() {
    let script = [Step::json(200, &device_answer()), Step::Hang];
    let server = InProcess::start(SystemTime::now(), script);
    let device = DeviceFlow::new(server.client(), CLIENT_ID).unwrap();
    let authorization = device.start().await.unwrap();
    let mut witness = Witness::new();
    let client = server.client();
    go_through_all_flows(&mut witness, &client, Some(&authorization), "silence").await;
    assert_eq!(server.recorded().len(), 1 + 11, "each call was made once");
    witness.assert_no_secret_showed();
}

#[tokio::test(start_paused = true)]
async fn no_secret_shows_in_the_steps_of_polling() {
    let mut witness = Witness::new();
    let echo = "your device code hush-device-code is busy";
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
    witness.assert_no_secret_showed();
}

#[tokio::test]
async fn no_secret_shows_when_a_callback_is_refused() {
    let mut witness = Witness::new();
    // Nothing is sent, but for the trace of one exchange, which proves that the witness is awake.
    let refusing = Refusing::new();
    let client = client_of(&refusing.base_url()).build().unwrap();
    let web = WebFlow::new(client.clone(), CLIENT_ID, CLIENT_SECRET).unwrap();
    witness.sees_result("awake", web.refresh(&refresh_token()).await);
    let pkce = PkceFlow::new(client, CLIENT_ID).unwrap();
    for callback in [
        "",
        "hush-code",
        "https://user:hush@example.com/hush",
        "?code=hush-code",
        "?code=hush-code&state=hush-other",
        "?code=hush-code&state=",
        "?code=hush-code&state=hush-state&state=hush-state",
        "?code=hush-code&code=hush-code&state=hush-state",
        "?state=hush-state",
        "?error=access_denied&error_description=hush-state&state=hush-state",
        "?error=hush-state&state=hush-state",
        "?error=access_denied&code=hush-code&state=hush-other",
    ] {
        let what = callback.replace("hush", "h-u-s-h");
        let (_, login) = web.login(REDIRECT_URI).state(STATE).begin().unwrap();
        let error = web.complete(login, callback).await.unwrap_err();
        witness.sees_error(&what, &error);
        let (_, login) = pkce.login(REDIRECT_URI).state(STATE).begin().unwrap();
        let error = pkce.complete(login, callback).await.unwrap_err();
        witness.sees_error(&what, &error);
    }
    witness.assert_no_secret_showed();
}

#[tokio::test]
async fn no_secret_shows_in_a_value_that_is_refused_or_in_a_configuration() {
    let mut witness = Witness::new();
    let server = MockServer::start().await;
    let client = client_of(&server.uri()).build().unwrap();
    let awake = WebFlow::new(client.clone(), CLIENT_ID, CLIENT_SECRET).unwrap();
    witness.sees_result("awake", awake.refresh(&refresh_token()).await);

    for bad in ["hush\nhush", "hush hush", "hush\u{e9}", "hush\0"] {
        witness.sees_result(
            "client secret",
            WebFlow::new(client.clone(), CLIENT_ID, bad),
        );
        witness.sees_result("refresh token", RefreshToken::new(bad));
        witness.sees_result("fixed token", FixedToken::new(bad));
        witness.sees_result("code verifier", CodeVerifier::new(bad));
    }
    witness.sees_result("fixed token", FixedToken::new("hush-pat"));
    for bad in [
        "https://user:hush@api.coze.com",
        "https://api.coze.com?token=hush",
        "https://api.coze.com#hush",
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
        let broken = format!("{}, hush", &text[..text.len() - 1]);
        std::fs::write(&path, &text).unwrap();
        let from_file = witness.sees_result("configuration file", OAuthConfig::from_file(&path));
        witness.sees_result("configuration", OAuthConfig::from_json(&broken));
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
    headers.insert("x-api-key", "hush-header".parse().unwrap());
    let refusing = Refusing::new().base_url();
    let proxy = refusing.replace("http://", "http://user:hush@");
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
    let through_proxy = WebFlow::new(client, CLIENT_ID, CLIENT_SECRET).unwrap();
    witness.sees_result("proxy", through_proxy.refresh(&refresh_token()).await);
    witness.assert_no_secret_showed();
}

/// Good ones and bad ones.
fn configuration_files() -> Vec<Value> {
    let key = TestKey::get().pem();
    vec![
        json!({"client_type": "web", "client_id": "i", "client_secret": "hush"}),
        json!({"client_type": "web", "client_id": "i", "client_secret": "hush\nhush"}),
        json!({"client_type": "web", "client_secret": "hush", "coze_api_base": "http://user:hush@x.y"}),
        json!({"client_type": "hush", "client_id": "i", "client_secret": "hush"}),
        json!({"client_type": "pkce", "client_id": "i", "client_secret": "hush"}),
        json!({"client_type": "device", "client_id": "i", "private_key": key}),
        json!({"client_type": "jwt", "client_id": "i", "public_key_id": "k", "private_key": key}),
        json!({"client_type": "jwt", "client_id": "i", "public_key_id": "k", "private_key": "hush"}),
        json!({"client_type": "jwt", "client_id": "i", "private_key": key}),
        json!({"client_type": "web", "client_id": "i", "client_secret": ["hush"], "hush": "hush"}),
    ]
}

const ENVIRONMENTS: &[&[(&str, &str)]] = &[
    &[("COZE_API_TOKEN", "hush")],
    &[("COZE_API_TOKEN", "hush hush")],
    &[
        ("COZE_WEB_OAUTH_CLIENT_ID", "i"),
        ("COZE_WEB_OAUTH_CLIENT_SECRET", "hush"),
    ],
    &[
        ("COZE_WEB_OAUTH_CLIENT_ID", "i"),
        ("COZE_WEB_OAUTH_CLIENT_SECRET", "hush\nhush"),
    ],
    &[
        ("COZE_API_TOKEN", "hush"),
        ("COZE_WEB_OAUTH_CLIENT_SECRET", "hush"),
    ],
    &[
        ("COZE_JWT_OAUTH_CLIENT_ID", "i"),
        ("COZE_JWT_OAUTH_PUBLIC_KEY_ID", "k"),
        ("COZE_JWT_OAUTH_PRIVATE_KEY", "<key>"),
    ],
    &[
        ("COZE_JWT_OAUTH_CLIENT_ID", "i"),
        ("COZE_JWT_OAUTH_PUBLIC_KEY_ID", "k"),
        ("COZE_JWT_OAUTH_PRIVATE_KEY", "hush"),
    ],
    &[
        ("COZE_API_TOKEN", "hush"),
        ("COZE_API_BASE", "https://user:hush@api.coze.com"),
    ],
];

#[test]
fn the_search_finds_what_it_is_for() {
    let secrets = ["hush".to_owned(), "signature".to_owned()];
    assert_eq!(
        line_with_any("a\nb hush-hush c\nd", &secrets),
        Some("b hush-hush c")
    );
    assert_eq!(
        line_with_any("a.b.signature", &secrets),
        Some("a.b.signature")
    );
    assert_eq!(line_with_any("Secret(****)", &secrets), None);
}
