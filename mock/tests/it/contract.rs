//! Strict and lenient mode: which requests are refused, which are accepted, and that each deviation is recorded.

use crate::client::*;
use coze_mock::{Decision, MockCoze, Tolerance, defaults};
use http::Method;
use serde_json::{Value, json};

const JSON: (&str, &str) = ("content-type", "application/json");

async fn poll_with(client: &Client, headers: &[(&str, &str)], path: &str, body: &str) -> Reply {
    client.call(Method::POST, path, headers, body).await
}

/// Requests that are refused in both modes, each with one violation: headers, path, body, error, location.
#[tokio::test]
async fn violations_that_both_modes_refuse() {
    let good = refresh(defaults::PKCE_CLIENT_ID, "x").to_string();
    let form = ("content-type", "application/x-www-form-urlencoded");
    #[allow(clippy::type_complexity, reason = "a table")]
    let cases: &[(&[(&str, &str)], &str, &str, &str, &str)] = &[
        (
            &[form],
            TOKEN,
            "grant_type=refresh_token",
            "400 invalid_request",
            "header/Content-Type",
        ),
        (
            &[],
            TOKEN,
            &good,
            "400 invalid_request",
            "header/Content-Type",
        ),
        (
            &[("content-type", "text/json")],
            TOKEN,
            &good,
            "400 invalid_request",
            "header/Content-Type",
        ),
        (&[JSON], TOKEN, "{", "400 invalid_request", "body"),
        (&[JSON], TOKEN, "", "400 invalid_request", "body"),
        (&[JSON], TOKEN, "[]", "400 invalid_request", "body"),
        (
            &[JSON],
            TOKEN,
            "{}",
            "400 invalid_request",
            "body/grant_type",
        ),
        (
            &[JSON],
            TOKEN,
            r#"{"grant_type":1}"#,
            "400 invalid_request",
            "body/grant_type",
        ),
        (
            &[JSON],
            TOKEN,
            r#"{"grant_type":"password"}"#,
            "400 unsupported_grant_type",
            "body/grant_type",
        ),
        (
            &[JSON],
            &format!("{TOKEN}?client_id=x"),
            &good,
            "400 invalid_request",
            "query/client_id",
        ),
        (
            &[JSON, ("authorization", "Basic YTpi")],
            TOKEN,
            &good,
            "400 invalid_request",
            "header/Authorization",
        ),
        (
            &[JSON, ("authorization", "Bearer x")],
            TOKEN,
            &good,
            "400 invalid_request",
            "header/Authorization",
        ),
        (
            &[JSON, ("authorization", "Bearer x y")],
            TOKEN,
            &good,
            "400 invalid_request",
            "header/Authorization",
        ),
        (
            &[JSON],
            DEVICE,
            r#"{"client_id":""}"#,
            "400 invalid_request",
            "body/client_id",
        ),
        (
            &[JSON],
            DEVICE,
            r#"{"client_id":7}"#,
            "400 invalid_request",
            "body/client_id",
        ),
        (
            &[JSON],
            "/api/permission/oauth2/account/1/token",
            &good,
            "400 unsupported_grant_type",
            "body/grant_type",
        ),
    ];
    for lenient in [false, true] {
        for (headers, path, body, refusal, place) in cases {
            let client = Client::of(MockCoze::builder().lenient(lenient));
            let reply = poll_with(&client, headers, path, body).await;
            assert_eq!(reply.refusal(), *refusal, "{path} {body}: {}", reply.json);
            let violations = client.mock.violations();
            assert!(
                violations.iter().any(|one| one.place == *place),
                "{path} {body}: {violations:?}"
            );
            assert!(violations.iter().any(|one| one.tolerated.is_none()));
        }
    }
}

#[tokio::test]
async fn a_web_client_must_send_its_secret_as_a_bearer_token() {
    for lenient in [false, true] {
        let client = Client::of(MockCoze::builder().lenient(lenient));
        for authorization in [None, Some("Basic YTpi"), Some("Bearer"), Some("Bearer ")] {
            let body = web_code(&client.approved(&client.web_page())).to_string();
            let mut headers = vec![JSON];
            headers.extend(authorization.map(|value| ("authorization", value)));
            let reply = client.call(Method::POST, TOKEN, &headers, &body).await;
            assert_eq!(reply.refusal(), "400 invalid_request", "{authorization:?}");
            assert_eq!(
                reply.text("error_message"),
                "invalid request: client_secret"
            );
        }
        assert_eq!(client.mock.violations().len(), 4);
    }
}

#[tokio::test]
async fn a_charset_parameter_is_accepted() {
    let client = Client::new();
    let body = json!({"client_id": defaults::DEVICE_CLIENT_ID}).to_string();
    let headers = [("content-type", "Application/JSON; charset=utf-8")];
    assert_eq!(
        client
            .call(Method::POST, DEVICE, &headers, &body)
            .await
            .status,
        200
    );
    client.mock.assert_clean();
}

/// Each tolerance: refused by a strict mock, accepted and recorded by a lenient one.
#[tokio::test]
async fn every_tolerance_is_accepted_in_lenient_mode_only() {
    for lenient in [false, true] {
        for tolerance in [
            Tolerance::NullOption,
            Tolerance::UnknownField,
            Tolerance::EmptyBearer,
            Tolerance::AudienceWithPort,
            Tolerance::DoubleSlash,
            Tolerance::ShortVerifier,
            Tolerance::MissingState,
            Tolerance::PostForGet,
            Tolerance::MissingTyp,
        ] {
            let client = Client::of(MockCoze::builder().lenient(lenient));
            let reply = tolerated_request(&client, tolerance).await;
            assert_eq!(
                reply.status.as_u16() < 400,
                lenient,
                "{tolerance:?}, lenient {lenient}: {}",
                reply.json
            );
            let violations = client.mock.violations();
            assert_eq!(violations.len(), 1, "{violations:?}");
            assert_eq!(violations[0].tolerated, lenient.then_some(tolerance));
        }
    }
}

async fn tolerated_request(client: &Client, tolerance: Tolerance) -> Reply {
    match tolerance {
        Tolerance::NullOption => {
            let scope = json!({"account_permission": {"permission_list": ["Connector.botChat"]}, "attribute_constraint": null});
            let body = json!({"grant_type": JWT_GRANT, "scope": scope});
            client
                .post(TOKEN, &JwtParts::good("1").signed(), &body)
                .await
        }
        Tolerance::UnknownField => {
            client
                .post(
                    DEVICE,
                    "",
                    &json!({"client_id": defaults::DEVICE_CLIENT_ID, "log_level": "hush"}),
                )
                .await
        }
        Tolerance::EmptyBearer => {
            let body = json!({"client_id": defaults::DEVICE_CLIENT_ID}).to_string();
            client
                .call(
                    Method::POST,
                    DEVICE,
                    &[JSON, ("authorization", "Bearer ")],
                    &body,
                )
                .await
        }
        Tolerance::AudienceWithPort => {
            let mut parts = JwtParts::good("1");
            parts.claims["aud"] = json!("api.coze.test:8080");
            client.post(TOKEN, &parts.signed(), &jwt_body()).await
        }
        Tolerance::MissingTyp => {
            let mut parts = JwtParts::good("1");
            parts.header = json!({"alg": "RS256", "kid": defaults::JWT_PUBLIC_KEY_ID});
            client.post(TOKEN, &parts.signed(), &jwt_body()).await
        }
        Tolerance::DoubleSlash => {
            client
                .post(
                    &format!("/{DEVICE}"),
                    "",
                    &json!({"client_id": defaults::DEVICE_CLIENT_ID}),
                )
                .await
        }
        Tolerance::MissingState => {
            let url = client.web_page().replace("&state=xyz", "");
            let path = url.strip_prefix("https://www.coze.test").expect("a path");
            client.call(Method::GET, path, &[], "").await
        }
        Tolerance::PostForGet => {
            let chat = "conversation_id=7381473525342978089&chat_id=7382159487131697202";
            let path = format!("/v3/chat/retrieve?{chat}");
            let token = defaults::PERSONAL_ACCESS_TOKEN;
            client.post(&path, token, &json!({})).await
        }
        Tolerance::ShortVerifier => {
            // The challenge has the full length; the verifier is too short.
            let short = "sixteen-chars-16";
            let challenge = s256(short);
            let more = format!("&code_challenge={challenge}&code_challenge_method=S256");
            let page = authorize_url("", defaults::PKCE_CLIENT_ID, REDIRECT, "xyz", &more);
            let mut body = pkce_code(&client.approved(&page));
            body["code_verifier"] = json!(short);
            client.post(TOKEN, "", &body).await
        }
        other => panic!("no request is known for {other:?}"),
    }
}

fn s256(code_verifier: &str) -> String {
    use base64::Engine as _;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, code_verifier.as_bytes());
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest)
}

#[tokio::test]
async fn a_plain_challenge_has_the_length_of_its_verifier() {
    let more = "&code_challenge=sixteen-chars-16&code_challenge_method=plain";
    let page = authorize_url("", defaults::PKCE_CLIENT_ID, REDIRECT, "xyz", more);
    let strict = Client::new();
    assert!(strict.mock.authorize(&page, Decision::Approve).is_err());

    let lenient = Client::of(MockCoze::builder().lenient(true));
    let mut body = pkce_code(&lenient.approved(&page));
    body["code_verifier"] = json!("sixteen-chars-16");
    let reply = lenient.post(TOKEN, "", &body).await;
    assert_eq!(reply.status, 200, "{}", reply.json);
    let tolerated: Vec<_> = lenient
        .mock
        .violations()
        .into_iter()
        .map(|violation| violation.tolerated)
        .collect();
    assert_eq!(tolerated, [Some(Tolerance::ShortVerifier); 2]);
}

#[tokio::test]
async fn unknown_fields_are_tolerated_at_any_depth_but_not_required_nulls() {
    let client = Client::of(MockCoze::builder().lenient(true));
    let scope = json!({"account_permission": {"permission_list": ["x"], "extra": {"deep": 1}}, "workflow_permission": null});
    let body =
        json!({"grant_type": JWT_GRANT, "duration_seconds": null, "scope": scope, "extra": [1]});
    let reply = client
        .post(TOKEN, &JwtParts::good("1").signed(), &body)
        .await;
    assert_eq!(reply.status, 200, "{}", reply.json);
    let mut places: Vec<_> = client
        .mock
        .violations()
        .into_iter()
        .map(|violation| violation.place)
        .collect();
    places.sort();
    assert_eq!(
        places,
        [
            "body/duration_seconds",
            "body/extra",
            "body/scope/account_permission/extra",
            "body/scope/workflow_permission"
        ]
    );
    let reply = client.post(DEVICE, "", &json!({"client_id": null})).await;
    assert_eq!(reply.refusal(), "400 invalid_request");
}

#[tokio::test]
async fn duration_seconds_has_limits() {
    for (number, (seconds, status)) in [
        (json!(1), 200),
        (json!(86399), 200),
        (json!(0), 400),
        (json!(86400), 400),
        (json!("900"), 400),
        (json!(1.5), 400),
    ]
    .into_iter()
    .enumerate()
    {
        let client = Client::new();
        let body = json!({"grant_type": JWT_GRANT, "duration_seconds": seconds});
        let reply = client
            .post(TOKEN, &JwtParts::good(&number.to_string()).signed(), &body)
            .await;
        assert_eq!(reply.status, status, "{seconds}");
    }
}

#[tokio::test]
async fn the_scope_is_validated() {
    for scope in [
        json!("x"),
        json!({"account_permission": {"permission_list": "x"}}),
        json!({"unknown": {}}),
        json!({}),
    ] {
        let client = Client::new();
        let body = json!({"grant_type": JWT_GRANT, "scope": scope});
        let reply = client
            .post(TOKEN, &JwtParts::good("1").signed(), &body)
            .await;
        assert_eq!(reply.refusal(), "400 invalid_request", "{scope}");
    }
    let client = Client::new();
    let scope = json!({"account_permission": {"permission_list": ["Connector.botChat"]}});
    let body = json!({"grant_type": JWT_GRANT, "scope": scope});
    let jwt = JwtParts::good("1").signed();
    assert_eq!(client.post(TOKEN, &jwt, &body).await.status, 200);
    client.mock.assert_clean();
    assert_eq!(client.mock.notes()[0].place, "body/scope");
}

#[tokio::test]
async fn violations_name_locations_and_rules_but_no_values() {
    let client = Client::new();
    let mut body = web_code("code-secret");
    body["client_secret"] = json!("hush-secret");
    body["redirect_uri"] = json!(["hush-array"]);
    client.post(TOKEN, "bearer-secret", &body).await;
    client.post(TOKEN, "", &json!({"grant_type": "refresh_token", "client_id": "x", "refresh_token": {"a": "hush-object"}})).await;
    let text = client
        .mock
        .violations()
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n");
    assert!(text.contains("body/client_secret: unknown field"), "{text}");
    assert!(
        text.contains("body/redirect_uri: must be of type string"),
        "{text}"
    );
    assert!(
        text.contains("body/refresh_token: must be of type string"),
        "{text}"
    );
    assert!(
        !text.contains("hush") && !text.contains("secret\""),
        "{text}"
    );
}

#[tokio::test]
async fn undocumented_paths_and_methods_are_refused() {
    let client = Client::new();
    for (method, path, status) in [
        (Method::GET, TOKEN, 405),
        (Method::POST, "/api/permission/oauth2/revoke", 404),
        (Method::POST, "/v1/users/me", 405),
        (Method::GET, "/", 404),
        (
            Method::POST,
            "/api/permission/oauth2/account/%2e%2e/token",
            404,
        ),
    ] {
        let reply = client.call(method, path, &[], "").await;
        assert_eq!(reply.status, status, "{path}");
        assert_eq!(reply.json["code"], 4000);
        assert_eq!(
            reply.json["detail"]["logid"].as_str(),
            reply.header("x-tt-logid")
        );
    }
    assert_eq!(client.mock.violations().len(), 5);
    assert_eq!(
        client
            .call(Method::GET, "/favicon.ico", &[], "")
            .await
            .status,
        404
    );
    assert_eq!(
        client.mock.violations().len(),
        5,
        "browsers request it on their own"
    );
}

#[tokio::test]
async fn an_endless_body_is_not_read() {
    let client = Client::new();
    let body = format!("{{\"client_id\":\"{}\"}}", "x".repeat(2 * 1024 * 1024));
    assert_eq!(
        client
            .call(Method::POST, DEVICE, &[JSON], &body)
            .await
            .status,
        413
    );
}

#[tokio::test]
#[should_panic(expected = "body/client_id: required")]
async fn assert_clean_fails_with_the_list() {
    let client = Client::new();
    client
        .post(DEVICE, "", &Value::Object(Default::default()))
        .await;
    client.mock.assert_clean();
}

#[tokio::test]
async fn every_response_has_its_own_log_id() {
    let client = Client::new();
    let mut seen = std::collections::HashSet::new();
    for path in ["/v1/users/me", "/", "/_mock/device", "/v1/bots", TOKEN].repeat(20) {
        let reply = client.call(Method::GET, path, &[], "").await;
        assert!(seen.insert(reply.header("x-tt-logid").expect("a log id").to_owned()));
        assert!(reply.header("date").is_some());
    }
    assert_eq!(seen.len(), 100);
}

#[tokio::test]
async fn a_request_cannot_inject_a_line_into_a_log() {
    let client = Client::new();
    let body = json!({"grant_type": "x\n#2 GET /forged -> 200\u{1b}[2J"});
    client.post(TOKEN, "", &body).await;
    let line = client.mock.requests()[0].to_string();
    assert!(!line.contains(char::is_control), "{line:?}");
}

/// Responses of the mock are validated by the same schemas as requests.
#[tokio::test]
async fn every_response_matches_the_contract() {
    let client = Client::of(MockCoze::builder());
    let device = client.start_device().await;
    let pending = client.poll(device.text("device_code")).await;
    let refused = client.post(TOKEN, "", &json!({})).await;
    let pat = defaults::PERSONAL_ACCESS_TOKEN;
    let api: Value =
        serde_json::from_str(include_str!("../../schemas/coze-api.json")).expect("JSON");
    let oauth: Value =
        serde_json::from_str(include_str!("../../schemas/coze-oauth.json")).expect("JSON");
    let jwt = JwtParts::good("1").signed();
    for (document, operation, reply) in [
        (&oauth, "issue_token", client.web_tokens().await),
        (
            &oauth,
            "issue_token",
            client.post(TOKEN, &jwt, &jwt_body()).await,
        ),
        (&oauth, "issue_token", pending),
        (&oauth, "issue_token", refused),
        (&oauth, "start_device_authorization", device),
        (
            &oauth,
            "start_device_authorization",
            client.post(DEVICE, "", &json!({})).await,
        ),
        (
            &api,
            "get_current_user",
            client.get("/v1/users/me", pat).await,
        ),
        (
            &api,
            "get_current_user",
            client.get("/v1/users/me", "nobody").await,
        ),
        (
            &api,
            "list_workspaces",
            client.get("/v1/workspaces", pat).await,
        ),
        (
            &api,
            "list_bots",
            client.get("/v1/bots?workspace_id=7001", pat).await,
        ),
        (&api, "list_bots", client.get("/v1/bots", pat).await),
        (&api, "get_bot", client.get("/v1/bots/7101", pat).await),
        (&api, "get_bot", client.get("/v1/bots/0", pat).await),
        (
            &api,
            "list_published_bots",
            client.get(&format!("{OLD_BOTS}?space_id=7001"), pat).await,
        ),
        (&api, "list_published_bots", client.get(OLD_BOTS, pat).await),
        (
            &api,
            "get_published_bot",
            client.get(&format!("{OLD_BOT}?bot_id=7101"), pat).await,
        ),
        (&api, "get_published_bot", client.get(OLD_BOT, pat).await),
    ] {
        let operations = document["operations"].as_array().expect("operations");
        let known = operations
            .iter()
            .find(|known| known["operation_id"] == operation)
            .expect("an operation");
        let status = if reply.status == 200 {
            "200"
        } else {
            "default"
        };
        let mut schema = known["responses"][status].clone();
        assert!(schema.is_object(), "{operation} {status}: {schema}");
        schema["$defs"] = document["$defs"].clone();
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        let errors: Vec<String> = validator
            .iter_errors(&reply.json)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{operation}: {}: {errors:?}", reply.json);
    }
}
