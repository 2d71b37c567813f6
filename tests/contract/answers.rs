//! How each response is interpreted: the three shapes of an error at any status, invalid responses, and
//! broken connections. Callers branch on what these tests specify.

use std::time::{Duration, SystemTime};

use coze_auth::{
    DeviceFlow, Endpoint, Error, ErrorCode, ErrorKind, Login, OAuthClient, OAuthClientBuilder,
    Poll, RefreshToken, Token, reqwest,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use wiremock::{Mock, MockServer, ResponseTemplate, matchers::any};

use crate::support::{
    Brought, Call, Manners, REDIRECT_URI, Refusing, RudeServer, device_answer, good_answer,
    token_answer,
};

/// A client of this loopback server.
fn client_of(base_url: &str) -> OAuthClientBuilder {
    OAuthClient::builder()
        .endpoint(Endpoint::custom(base_url).unwrap())
        .http(|| reqwest::Client::builder().no_proxy())
}

/// A server with one response for every request.
async fn server(answer: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(answer).mount(&server).await;
    server
}

/// A server whose response can be changed, and its client. They are reused because creating both for each of a
/// thousand responses takes a minute.
struct Answering {
    server: MockServer,
    client: OAuthClient,
}

impl Answering {
    async fn start() -> Self {
        let server = MockServer::start().await;
        let client = client_of(&server.uri()).build().unwrap();
        Self { server, client }
    }

    async fn call(&self, call: Call, answer: ResponseTemplate) -> coze_auth::Result<Brought> {
        self.server.reset().await;
        Mock::given(any())
            .respond_with(answer)
            .mount(&self.server)
            .await;
        let result = call.make(&self.client).await;
        let requests = self.server.received_requests().await.unwrap();
        let paths: Vec<_> = requests.iter().map(|r| r.url.path()).collect();
        assert_eq!(paths, [call.path()], "{call:?}: {result:?}");
        result
    }

    async fn token_of(&self, call: Call, answer: ResponseTemplate) -> Token {
        match self.call(call, answer).await {
            Ok(brought) => brought.token(),
            Err(error) => panic!("{call:?} should return a token: {error}"),
        }
    }

    /// Makes a call that must fail after one request, with an error that names the endpoint.
    async fn error_of(&self, call: Call, answer: ResponseTemplate) -> Error {
        let error = match self.call(call, answer).await {
            Ok(brought) => panic!("{call:?} should fail: {brought:?}"),
            Err(error) => error,
        };
        assert_names_endpoint(call, &self.server.uri(), &error);
        error
    }
}

fn assert_names_endpoint(call: Call, base_url: &str, error: &Error) {
    assert_eq!(error.flow(), Some(call.flow()), "{call:?}: {error}");
    let endpoint = format!("{base_url}{}", call.path());
    assert_eq!(
        error.endpoint(),
        Some(endpoint.as_str()),
        "{call:?}: {error}"
    );
    assert!(!error.hint().is_empty(), "{call:?}: {error}");
    assert!(
        !error.to_string().contains(error.hint()),
        "{call:?}: {error}"
    );
    assert!(
        format!("{error:?}").contains(error.hint()),
        "{call:?}: {error:?}"
    );
}

fn json_answer(status: u16, body: &Value) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_json(body)
}

fn text_answer(status: u16, body: impl Into<Vec<u8>>, content_type: &str) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_raw(body, content_type)
}

#[tokio::test]
async fn each_shape_of_an_error_is_understood_at_any_status_by_every_call() {
    let coze = Answering::start().await;
    use ErrorCode::{Api, InvalidClient};
    let shapes = [
        (
            "A",
            json!({"error_code": "invalid_client", "error_message": "the text"}),
            InvalidClient,
        ),
        (
            "A with free text",
            json!({"error_code": "invalid_client", "error_message": "the text", "error": "x y"}),
            InvalidClient,
        ),
        (
            "A with the text in error only",
            json!({"error_code": "invalid_client", "error": "the text"}),
            InvalidClient,
        ),
        (
            "B",
            json!({"error": "invalid_client", "error_description": "the text"}),
            InvalidClient,
        ),
        (
            "both",
            json!({
                "error_code": "invalid_client", "error": "invalid_client",
                "error_message": "the text", "error_description": "the text",
            }),
            InvalidClient,
        ),
        (
            "C",
            json!({"code": 4100, "msg": "the text", "detail": {"logid": "log_in_body"}}),
            Api(4100),
        ),
        (
            "C without detail",
            json!({"code": 4100, "msg": "the text"}),
            Api(4100),
        ),
        (
            "A with an empty token",
            json!({"error_code": "invalid_client", "error_message": "the text", "access_token": null}),
            InvalidClient,
        ),
        // Undocumented variants, seen in the tests of SDKs.
        (
            "C as text",
            json!({"code": "4100", "msg": "the text"}),
            Api(4100),
        ),
        (
            "C as a float",
            json!({"code": 4100.0, "msg": "the text"}),
            Api(4100),
        ),
        (
            "C with free text",
            json!({"code": 4100, "msg": "the text", "error": "x y"}),
            Api(4100),
        ),
        (
            "C with a log id in error",
            json!({"code": 4100, "msg": "the text", "error": {"logid": "log_in_body"}}),
            Api(4100),
        ),
        (
            "an object in error",
            json!({"error": {"code": "invalid_client", "message": "the text"}}),
            InvalidClient,
        ),
    ];
    for call in Call::ALL {
        for (shape, body, code) in &shapes {
            for status in [200, 400, 401, 500] {
                let answer = json_answer(status, body).insert_header("x-tt-logid", "log_1");
                let error = coze.error_of(call, answer).await;
                let what = format!("{call:?}, shape {shape}, HTTP {status}: {error}");
                assert_eq!(error.kind(), ErrorKind::Refused, "{what}");
                assert_eq!(error.code(), Some(code), "{what}");
                assert_eq!(error.message(), Some("the text"), "{what}");
                assert_eq!(error.log_id(), Some("log_1"), "{what}");
                assert_eq!(error.status().map(|s| s.as_u16()), Some(status), "{what}");
                assert_eq!(error.retry_after(), None, "{what}");
                // An OAuth error code is final; a number with a server error may be temporary.
                let may_pass = status == 500 && matches!(code, Api(_));
                assert_eq!(error.is_retryable(), may_pass, "{what}");
                for part in ["the text", "log_1", &status.to_string(), &code.to_string()] {
                    assert!(what.contains(part), "{what:?} should contain {part:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_message_without_a_code_is_reported_and_invalid_utf_8_is_read() {
    let coze = Answering::start().await;
    for call in Call::ALL {
        for status in [200, 400, 403] {
            let body = json!({"error_message": "the text", "error": {"logid": "log_in_body"}});
            let error = coze.error_of(call, json_answer(status, &body)).await;
            assert_eq!(error.kind(), ErrorKind::Refused, "{call:?}: {error}");
            assert_eq!(error.code(), None, "{call:?}: {error}");
            assert_eq!(error.message(), Some("the text"), "{call:?}: {error}");
            assert_eq!(error.log_id(), Some("log_in_body"), "{call:?}: {error}");

            let mut body = br#"{"code":4100,"msg":"the text "#.to_vec();
            body.extend(b"\xb4\xed\"}");
            let error = coze
                .error_of(call, text_answer(status, body, "application/json"))
                .await;
            assert_eq!(
                error.code(),
                Some(&ErrorCode::Api(4100)),
                "{call:?}: {error}"
            );
            let message = error.message().unwrap_or_default();
            assert!(message.starts_with("the text"), "{call:?}: {error}");
        }
    }
}

#[tokio::test]
async fn code_and_log_id_are_parsed_before_redaction() {
    let server = server(json_answer(
        400,
        &json!({"error": "authorization_pending", "error_description": "d"}),
    ))
    .await;
    let client = client_of(&server.uri()).build().unwrap();
    let device = DeviceFlow::new(client, "app").unwrap();
    for (device_code, log_id) in [("d", "2026d1"), ("pending", "202611280959pending")] {
        server.reset().await;
        let start = json!({
            "device_code": device_code, "user_code": "U", "verification_uri": "https://x.y",
        });
        let answers = [
            json_answer(200, &start),
            json_answer(400, &json!({"error": "authorization_pending"})),
            json_answer(
                400,
                &json!({"error": "access_denied", "error_description": "d"}),
            )
            .insert_header("x-tt-logid", log_id),
        ];
        for answer in answers {
            let once = Mock::given(any()).respond_with(answer).up_to_n_times(1);
            once.mount(&server).await;
        }
        let authorization = device.start().await.unwrap();
        let pending = device.poll_once(&authorization).await;
        assert!(matches!(pending, Ok(Poll::Pending)), "{pending:?}");
        let denied = device.poll_once(&authorization).await.unwrap_err();
        assert_eq!(denied.code(), Some(&ErrorCode::AccessDenied), "{denied}");
        let hides = device_code.len() > 5;
        assert_eq!(denied.log_id() == Some(log_id), !hides, "{denied}");
    }
}

#[tokio::test]
async fn every_documented_error_code_has_a_hint() {
    let coze = Answering::start().await;
    use ErrorCode as Code;
    for (word, code, may_pass, hint) in [
        (
            "authorization_pending",
            Code::AuthorizationPending,
            false,
            "keep polling",
        ),
        ("slow_down", Code::SlowDown, false, "poll more slowly"),
        ("access_denied", Code::AccessDenied, false, "start again"),
        ("expired_token", Code::ExpiredToken, false, "start again"),
        (
            "invalid_request",
            Code::InvalidRequest,
            false,
            "check the parameter",
        ),
        (
            "invalid_client",
            Code::InvalidClient,
            false,
            "client secret",
        ),
        ("invalid_grant", Code::InvalidGrant, false, "sign in again"),
        (
            "unsupported_grant_type",
            Code::UnsupportedGrantType,
            false,
            "type",
        ),
        ("access_deny", Code::AccessDeny, false, "enable the app"),
        (
            "internal_error",
            Code::InternalError,
            true,
            "try again later",
        ),
        (
            "brand_new",
            Code::Other("brand_new".to_owned()),
            false,
            "log id",
        ),
    ] {
        for status in [200, 400] {
            let body = json!({"error_code": word, "error_message": "the text"});
            let error = coze
                .error_of(Call::WebExchange, json_answer(status, &body))
                .await;
            assert_eq!(error.code(), Some(&code), "{error}");
            assert_eq!(error.is_retryable(), may_pass, "{error}");
            assert!(error.hint().contains(hint), "{word}: {}", error.hint());
        }
    }
    for (number, may_pass, hint) in [
        (4000, false, "log id"),
        (4013, true, "wait"),
        (4100, false, "get a new one"),
        (4101, false, "permission"),
        (700_012_006, false, "get a new one"),
    ] {
        let body = json!({"code": number, "msg": "the text"});
        let error = coze.error_of(Call::Jwt, json_answer(200, &body)).await;
        assert_eq!(error.code(), Some(&Code::Api(number)), "{error}");
        assert_eq!(error.is_retryable(), may_pass, "{error}");
        assert!(error.hint().contains(hint), "{number}: {}", error.hint());
    }
    let unbound = json!({
        "error_code": "invalid_request",
        "error_message": "connector app should bind connector id",
    });
    let error = coze.error_of(Call::Jwt, json_answer(400, &unbound)).await;
    assert!(error.hint().contains("bind the channel app"), "{error}");
}

#[tokio::test]
async fn a_foreign_response_is_described_but_never_quoted() {
    let coze = Answering::start().await;
    let html = "<html><body>502 hush</body></html>";
    let cut_short = r#"{"access_token":"hush_token","expires_in":41024"#;
    for (what, body, content_type, expected) in [
        (
            "array",
            "[\"hush\"]".to_owned(),
            "application/json",
            "JSON, but not an object",
        ),
        (
            "null",
            "null".to_owned(),
            "application/json",
            "JSON, but not an object",
        ),
        (
            "string",
            "\"hush\"".to_owned(),
            "application/json",
            "JSON, but not an object",
        ),
        (
            "object",
            r#"{"other":"hush"}"#.to_owned(),
            "application/json",
            "neither what was asked for nor an error",
        ),
        (
            "empty words",
            r#"{"error_code":"","error":""}"#.to_owned(),
            "application/json",
            "neither",
        ),
        (
            "HTML",
            html.to_owned(),
            "text/html",
            "not JSON, but text/html",
        ),
        (
            "garbage",
            "hush".to_owned(),
            "application/json",
            "not JSON, but application/json",
        ),
        ("empty", String::new(), "application/json", "is empty"),
        ("white space", " \r\n".to_owned(), "text/plain", "is empty"),
        (
            "cut short",
            cut_short.to_owned(),
            "application/json",
            "cut short after 47 bytes",
        ),
        (
            "2 MiB",
            "x".repeat(2 << 20),
            "application/json",
            "longer than 1048576 bytes",
        ),
        (
            "2 MiB of a good token",
            format!("{}{}", " ".repeat(2 << 20), token_answer()),
            "application/json",
            "longer than 1048576 bytes",
        ),
    ] {
        for call in [
            Call::WebExchange,
            Call::DeviceStart,
            Call::DevicePollOnce,
            Call::Jwt,
        ] {
            for status in [200, 404, 502] {
                let answer = text_answer(status, body.clone(), content_type);
                let error = coze
                    .error_of(call, answer.insert_header("x-tt-logid", "log_1"))
                    .await;
                let what = format!("{call:?}, {what}, HTTP {status}: {error}");
                assert_eq!(error.kind(), ErrorKind::InvalidAnswer, "{what}");
                assert_eq!(error.code(), None, "{what}");
                assert_eq!(error.status().map(|s| s.as_u16()), Some(status), "{what}");
                assert_eq!(error.log_id(), Some("log_1"), "{what}");
                assert_eq!(error.is_retryable(), status == 502, "{what}");
                // A success response without the expected field names that field.
                let expected = match status {
                    200 if expected.starts_with("neither") => "the answer has no ",
                    _ => expected,
                };
                assert!(
                    what.contains(expected),
                    "{what:?} should contain {expected:?}"
                );
                assert!(!format!("{error} {error:?}").contains("hush"), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn a_response_without_a_usable_token_is_an_error() {
    let coze = Answering::start().await;
    for (what, body) in [
        (
            "no access token",
            json!({"expires_in": 900, "refresh_token": "rt"}),
        ),
        (
            "a null access token",
            json!({"access_token": null, "expires_in": 900}),
        ),
        (
            "an empty access token",
            json!({"access_token": "", "expires_in": 900}),
        ),
        (
            "a token that breaks the header",
            json!({"access_token": "a\r\nb", "expires_in": 900}),
        ),
        (
            "a token with a space",
            json!({"access_token": "a b", "expires_in": 900}),
        ),
        (
            "a token that is a number",
            json!({"access_token": 1, "expires_in": 900}),
        ),
        (
            "a token of another type",
            json!({"access_token": "at_1", "token_type": "mac", "expires_in": 900}),
        ),
        ("no token at all", json!({"expires_in": 900})),
    ] {
        for call in Call::ALL.into_iter().filter(|call| call.brings_token()) {
            let error = coze.error_of(call, json_answer(200, &body)).await;
            let holds_one = body.get("access_token").or(body.get("refresh_token"));
            let kind = match holds_one {
                Some(_) => ErrorKind::UnusableToken,
                None => ErrorKind::InvalidAnswer,
            };
            assert_eq!(error.kind(), kind, "{call:?}, {what}: {error}");
            let kept = error.refresh_token().map(RefreshToken::expose);
            assert_eq!(kept, body["refresh_token"].as_str(), "{call:?}, {what}");
            assert_eq!(
                error.status().map(|s| s.as_u16()),
                Some(200),
                "{call:?}, {what}"
            );
            assert!(!error.is_retryable(), "{call:?}, {what}: {error}");
        }
    }
}

#[tokio::test]
async fn an_error_with_empty_success_fields_is_an_error() {
    let coze = Answering::start().await;
    // Servers in languages with zero values send them instead of omitting fields.
    let token = json!({
        "access_token": "", "expires_in": 0, "refresh_token": "",
        "error_code": "invalid_grant", "error_message": "the text",
    });
    let codes = json!({
        "device_code": "", "user_code": "", "verification_uri": "", "expires_in": 0, "interval": 0,
        "error_code": "invalid_grant", "error_message": "the text",
    });
    for (call, body) in [(Call::WebRefresh, token), (Call::DeviceStart, codes)] {
        let error = coze.error_of(call, json_answer(200, &body)).await;
        assert_eq!(error.code(), Some(&ErrorCode::InvalidGrant), "{error}");
    }
}

#[tokio::test]
async fn an_empty_device_code_is_an_error_that_names_the_endpoint() {
    let coze = Answering::start().await;
    for field in ["device_code", "user_code"] {
        let mut body = device_answer();
        body[field] = json!("");
        let error = coze
            .error_of(Call::DeviceStart, json_answer(200, &body))
            .await;
        assert_eq!(error.kind(), ErrorKind::InvalidAnswer, "{error}");
        assert_eq!(error.status().map(|s| s.as_u16()), Some(200), "{error}");
    }
}

#[tokio::test]
async fn a_valid_response_may_have_extra_fields() {
    let coze = Answering::start().await;
    let mut more = token_answer();
    more["scope"] = json!("x");
    more["data"] = json!({"nested": [1, null]});
    more["code"] = json!(0);
    more["msg"] = json!("");
    let mut nulls = token_answer();
    nulls["refresh_token"] = json!(null);
    nulls["token_type"] = json!(null);
    nulls["error"] = json!(null);
    for (what, answer) in [
        ("as documented", json_answer(200, &token_answer())),
        ("unknown fields", json_answer(200, &more)),
        ("nulls", json_answer(200, &nulls)),
        (
            "text/plain",
            text_answer(200, token_answer().to_string(), "text/plain"),
        ),
        (
            "text/html",
            text_answer(200, token_answer().to_string(), "text/html"),
        ),
        (
            "white space around",
            text_answer(200, format!("\n {} \n", token_answer()), "application/json"),
        ),
    ] {
        for call in Call::ALL.into_iter().filter(|call| call.brings_token()) {
            let answer = answer.clone().insert_header("x-tt-logid", "log_1");
            let token = coze.token_of(call, answer).await;
            assert_eq!(token.access_token().expose(), "at_1", "{call:?}, {what}");
            assert_eq!(
                token.access_token().authorization(),
                "Bearer at_1",
                "{call:?}, {what}"
            );
            assert!(
                token.access_token().authorization().is_sensitive(),
                "{call:?}, {what}"
            );
            assert_eq!(token.log_id(), Some("log_1"), "{call:?}, {what}");
        }
    }
}

#[tokio::test]
async fn an_empty_refresh_token_counts_as_absent() {
    let coze = Answering::start().await;
    for (refresh_token, expected) in [
        (json!("rt_1"), Some("rt_1")),
        (json!(""), None),
        (json!(null), None),
    ] {
        let mut body = token_answer();
        body["refresh_token"] = refresh_token;
        let token = coze.token_of(Call::Jwt, json_answer(200, &body)).await;
        let refresh_token = token.refresh_token().map(|rt| rt.expose().to_owned());
        assert_eq!(refresh_token.as_deref(), expected);
    }
}

#[tokio::test]
async fn a_numeric_user_code_is_accepted_and_appears_in_the_link() {
    let coze = Answering::start().await;
    for (user_code, uri, shown, link) in [
        (
            json!("WDJB-MJHT"),
            "https://www.coze.com/device",
            "WDJB-MJHT",
            "https://www.coze.com/device?user_code=WDJB-MJHT",
        ),
        (
            json!(48_213_907),
            "https://www.coze.com/device?lang=en",
            "48213907",
            "https://www.coze.com/device?lang=en&user_code=48213907",
        ),
        (
            json!("a&b"),
            "https://x.y/d#f",
            "a&b",
            "https://x.y/d?user_code=a%26b#f",
        ),
    ] {
        let mut body = device_answer();
        body["user_code"] = user_code;
        body["verification_uri"] = json!(uri);
        body["unknown"] = json!({});
        let answer = json_answer(200, &body).insert_header("x-tt-logid", "log_1");
        let brought = coze.call(Call::DeviceStart, answer).await.unwrap();
        let authorization = brought.authorization();
        assert_eq!(authorization.user_code(), shown);
        assert_eq!(authorization.verification_uri(), uri);
        assert_eq!(authorization.verification_uri_complete(), link);
        assert_eq!(authorization.expires_in(), Duration::from_secs(300));
    }
}

#[tokio::test]
async fn an_unsafe_verification_uri_is_not_shown() {
    let coze = Answering::start().await;
    for uri in [
        "",
        "not a URL",
        "javascript:alert(1)",
        "null?user_code=null",
        "http://www.coze.com/device",
        "http://127.0.0.1.example.com/device",
        "https://www.coze.com@evil.example/device",
        "https://user:hush@www.coze.com/device",
        "https://:hush@www.coze.com/device",
        "https://www.coze.com/device\r\u{1b}[2K",
        "https://www.coze.com/\tdevice",
        " https://www.coze.com/device",
        "https://www.coze.com/\u{202e}ecived",
        "https://www.coze.com/de\u{200b}vice",
        "https://www.coze.com/\u{e0041}",
        "https:///",
        "file:///etc/passwd",
        &format!("https://www.coze.com/{}", "d".repeat(2048)),
    ] {
        let mut body = device_answer();
        body["verification_uri"] = json!(uri);
        let error = coze
            .call(Call::DeviceStart, json_answer(200, &body))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidAnswer, "{uri:?}: {error}");
        let shown = format!("{error} {error:?} {error:#?}");
        assert!(
            !shown.contains("hush") && !shown.contains("evil"),
            "{shown}"
        );
        assert!(shown.contains("verification_uri"), "{uri:?}: {shown}");
    }
    for (uri, shown) in [
        ("http://127.0.0.1:1/device", "http://127.0.0.1:1/device"),
        ("http://mock.localhost/d", "http://mock.localhost/d"),
        // A Cyrillic letter, and an ideographic full stop.
        (
            "https://www.c\u{43e}ze.com/device",
            "https://www.xn--cze-sed.com/device",
        ),
        (
            "https://www.coze\u{3002}com/device",
            "https://www.coze.com/device",
        ),
        (
            "https://www.coze.com/扣子",
            "https://www.coze.com/%E6%89%A3%E5%AD%90",
        ),
    ] {
        let mut body = device_answer();
        body["verification_uri"] = json!(uri);
        let brought = coze.call(Call::DeviceStart, json_answer(200, &body)).await;
        assert_eq!(brought.unwrap().authorization().verification_uri(), shown);
    }
}

#[tokio::test]
async fn a_user_code_is_shown_without_line_breaks_and_invisible_characters() {
    let coze = Answering::start().await;
    for (user_code, shown) in [
        (
            "WDJB-MJHT\r\u{1b}[2KOpen https://evil",
            Some("WDJB-MJHT  [2KOpen https://evil"),
        ),
        ("\u{202e}THJM-BJDW", Some("THJM-BJDW")),
        (
            "WD\u{200b}JB\u{ad}-MJ\u{e0041}HT\u{2028}",
            Some("WDJB-MJHT"),
        ),
        ("\u{200b}\n", None),
        (&"X".repeat(101), None),
    ] {
        let mut body = device_answer();
        body["user_code"] = json!(user_code);
        let answer = json_answer(200, &body);
        match (coze.call(Call::DeviceStart, answer).await, shown) {
            (Ok(brought), Some(shown)) => {
                let authorization = brought.authorization();
                assert_eq!(authorization.user_code(), shown);
                let link = authorization.verification_uri_complete();
                assert!(
                    !link.contains(char::is_control) && link.is_ascii(),
                    "{link}"
                );
            }
            (Err(error), None) => {
                assert_eq!(error.kind(), ErrorKind::InvalidAnswer, "{error}");
                assert!(error.to_string().contains("user_code"), "{error}");
            }
            (brought, shown) => panic!("{user_code:?}: {}, {shown:?}", brought.is_ok()),
        }
    }
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let coze = Answering::start().await;
    let stranger = server(json_answer(200, &token_answer())).await;
    for status in [301, 302, 303, 307, 308] {
        for body in [Value::Null, token_answer(), device_answer()] {
            for call in Call::ALL {
                let location = format!("{}{}", stranger.uri(), call.path());
                let answer = json_answer(status, &body).insert_header("location", location);
                let error = coze.error_of(call, answer).await;
                let what = format!("{call:?}, HTTP {status}: {error}");
                assert_eq!(error.kind(), ErrorKind::InvalidAnswer, "{what}");
                assert_eq!(error.status().map(|s| s.as_u16()), Some(status), "{what}");
                assert!(!error.is_retryable(), "{what}");
            }
        }
    }
    let heard = stranger.received_requests().await.unwrap();
    assert!(heard.is_empty(), "{heard:?}");
}

#[tokio::test]
async fn a_callers_redirect_policy_is_ignored() {
    let stranger = server(json_answer(200, &token_answer())).await;
    let answer = ResponseTemplate::new(307).insert_header("location", stranger.uri());
    let server = server(answer).await;
    let following = || {
        reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::limited(10))
    };
    let client = client_of(&server.uri()).http(following).build().unwrap();
    let error = Call::WebRefresh.make(&client).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidAnswer, "{error}");
    let heard = stranger.received_requests().await.unwrap();
    assert!(heard.is_empty(), "{heard:?}");
}

#[tokio::test]
async fn retry_after_is_read_in_seconds_and_as_a_date() {
    let coze = Answering::start().await;
    let server_time = "Sun, 22 Nov 2026 12:00:00 GMT";
    for (retry_after, expected) in [
        ("20", Some(20)),
        (" 20 ", Some(20)),
        ("0", Some(0)),
        ("Sun, 22 Nov 2026 12:01:30 GMT", Some(90)),
        // Earlier than the server's own clock: now.
        ("Sun, 22 Nov 2026 11:00:00 GMT", Some(0)),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("99999999999999999999999", None),
    ] {
        for (status, body) in [
            (429, ""),
            (503, "<html>"),
            (400, r#"{"error_code":"slow_down"}"#),
        ] {
            let answer = text_answer(status, body, "text/html")
                .insert_header("date", server_time)
                .insert_header("retry-after", retry_after);
            let error = coze.error_of(Call::Jwt, answer).await;
            let expected = expected.map(Duration::from_secs);
            assert_eq!(
                error.retry_after(),
                expected,
                "{retry_after}, HTTP {status}: {error}"
            );
        }
    }
}

#[tokio::test]
async fn the_log_id_is_read_from_the_header_else_from_the_body() {
    let coze = Answering::start().await;
    let body = json!({"code": 4100, "msg": "the text", "detail": {"logid": "log_in_body"}});
    for (header, expected) in [
        (Some("log_1"), "log_1"),
        (Some(""), "log_in_body"),
        (None, "log_in_body"),
    ] {
        let mut answer = json_answer(401, &body);
        if let Some(header) = header {
            answer = answer.insert_header("x-tt-logid", header);
        }
        let error = coze.error_of(Call::WebRefresh, answer).await;
        assert_eq!(error.log_id(), Some(expected), "{header:?}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn an_expiry_may_be_absolute_relative_or_invalid() {
    let coze = Answering::start().await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let in_15_minutes = now.unwrap().as_secs() + 900;
    for expires_in in [
        json!(in_15_minutes),
        json!(in_15_minutes * 1000),
        json!(900),
        json!("900"),
        json!(i64::MAX),
        json!(null),
    ] {
        let mut body = token_answer();
        body["expires_in"] = expires_in.clone();
        let token = coze
            .token_of(Call::WebExchange, json_answer(200, &body))
            .await;
        let off = token.remaining().abs_diff(Duration::from_secs(900));
        assert!(off < Duration::from_secs(10), "{expires_in}: {token:?}");
    }
}

#[tokio::test]
async fn connect_interrupted_and_timeout_errors_are_distinguished() {
    let refusing = Refusing::new();
    for call in Call::ALL {
        let client = client_of(&refusing.base_url()).build().unwrap();
        let error = call.make(&client).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect, "{call:?}: {error}");
        assert_names_endpoint(call, &refusing.base_url(), &error);
        assert!(error.is_retryable(), "{call:?}: {error}");
        assert_eq!(error.status(), None, "{call:?}: {error}");
    }

    let head = "HTTP/1.1 200 OK\r\nx-tt-logid: log_1\r\ncontent-type: application/json\r\n";
    let half = format!("{head}content-length: 500\r\n\r\n{{\"access_token\":\"hush");
    use ErrorKind::{Interrupted, Timeout};
    for (manners, kind, status) in [
        (Manners::Closes, Interrupted, None),
        (Manners::Resets, Interrupted, None),
        (Manners::Says("HTTP/1.1 2".to_owned()), Interrupted, None),
        (Manners::Says("hush\r\n\r\n".to_owned()), Interrupted, None),
        (Manners::Says(half.clone()), Interrupted, Some(200)),
        (Manners::SaysAndHangs(String::new()), Timeout, None),
        (Manners::SaysAndHangs(half), Timeout, Some(200)),
    ] {
        // Only the silent server causes timeouts. The timeout suits a busy machine, and all calls run concurrently.
        let timeout = Duration::from_secs(if kind == Timeout { 6 } else { 30 });
        let mut calls = JoinSet::new();
        for call in Call::ALL {
            let rude = RudeServer::start(manners.clone()).await;
            let client = client_of(rude.base_url()).request_timeout(timeout);
            let client = client.build().unwrap();
            calls.spawn(async move { (call, call.make(&client).await, rude) });
        }
        for (call, result, rude) in calls.join_all().await {
            let error = result.unwrap_err();
            let what = format!("{call:?}, {manners:?}: {error}");
            assert_eq!(error.kind(), kind, "{what}");
            assert_names_endpoint(call, rude.base_url(), &error);
            assert!(error.is_retryable(), "{what}");
            assert_eq!(error.status().map(|s| s.as_u16()), status, "{what}");
            assert_eq!(error.log_id(), status.map(|_| "log_1"), "{what}");
            assert!(!format!("{error} {error:?}").contains("hush"), "{what}");
            assert_eq!(rude.requests(), 1, "the request was repeated: {what}");
        }
    }
}

/// Codes, refresh tokens and JWTs are single-use. An HTTP stack that sends a request again, because its kept-alive connection
/// was closed, redeems them twice. A request that redeems a code or a refresh token never uses a kept-alive connection.
#[tokio::test]
async fn a_request_is_not_resent_when_a_kept_alive_connection_closes() {
    let body = token_answer().to_string();
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    for (call, is_kept) in [
        (Call::WebRefresh, false),
        (Call::PkceExchange, false),
        (Call::DeviceRefresh, false),
        (Call::Jwt, true),
    ] {
        let rude = RudeServer::start(Manners::AnswersOnce(answer.clone())).await;
        let client = client_of(rude.base_url()).build().unwrap();
        call.make(&client).await.unwrap();
        // The connection returns to the client's pool in the background.
        tokio::time::sleep(Duration::from_millis(250)).await;
        let second = call.make(&client).await;

        assert_eq!(rude.requests(), 2, "{call:?}: the request was repeated");
        let connections = if is_kept { 1 } else { 2 };
        assert_eq!(rude.connections(), connections, "{call:?}");
        match second {
            Ok(_) => assert!(!is_kept, "{call:?}"),
            Err(error) => {
                assert!(is_kept, "{call:?}: {error}");
                assert_eq!(error.kind(), ErrorKind::Interrupted, "{call:?}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn a_successful_call_sends_one_request_to_its_endpoint() {
    let coze = Answering::start().await;
    for call in Call::ALL {
        // `Answering` checks the requests.
        let brought = coze
            .call(call, json_answer(200, &good_answer(call.path())))
            .await;
        assert!(brought.is_ok(), "{call:?}: {brought:?}");
    }
}

#[tokio::test]
async fn a_callback_may_be_a_bare_query_that_contains_a_question_mark() {
    // RFC 3986 section 3.4 allows an unescaped question mark there, and the state may contain one.
    let coze = Answering::start().await;
    let answer = json_answer(200, &token_answer());
    Mock::given(any())
        .respond_with(answer)
        .mount(&coze.server)
        .await;
    for callback in [
        "/cb?code=a&state=x?y",
        "?code=a&state=x?y",
        "code=a&state=x?y",
    ] {
        let web = crate::support::web(coze.client.clone());
        let (_, login) = web.login(REDIRECT_URI).state("x?y").begin().unwrap();
        let result = web.complete(login, callback).await;
        assert!(result.is_ok(), "{callback}: {result:?}");
    }
}

#[tokio::test]
async fn a_stored_login_with_an_empty_state_accepts_no_callback() {
    let coze = Answering::start().await;
    let answer = json_answer(200, &token_answer());
    Mock::given(any())
        .respond_with(answer)
        .mount(&coze.server)
        .await;
    let stored = json!({"state": "", "redirect_uri": REDIRECT_URI, "code_verifier": null});
    let login: Login = serde_json::from_value(stored).unwrap();
    let web = crate::support::web(coze.client.clone());
    let result = web.complete(login, "?code=stolen&state=").await;
    assert!(result.is_err(), "{result:?}");
}
