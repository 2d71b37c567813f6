//! Each documented error code, produced by one change to a working flow.

use crate::client::*;
use coze_mock::{App, Endpoint, ErrorShape, Fault, MockCoze, OAuthErrorCode, Times, defaults};
use serde_json::{Value, json};
use std::time::Duration;

/// The change to a working flow; `None` changes nothing.
#[derive(Clone, Copy, Debug)]
enum Change {
    None,
    // in the request
    RedirectUriMissing,
    GrantType,
    ClientSecret,
    ClientSecretMissing,
    Code,
    RedirectUri,
    ClientId,
    // in the state
    CodeRedeemed,
    CodeExpired,
    AppDeactivated,
    AppType,
    // by a fault
    ServerBroken,
}

/// A web app exchanges its code.
async fn code_exchange(change: Change) -> Reply {
    let other = App::web("other", defaults::WEB_CLIENT_SECRET).redirect_uri(REDIRECT);
    let mut builder = MockCoze::builder().app(other);
    if matches!(change, Change::AppType) {
        builder = builder.app(App::device(defaults::WEB_CLIENT_ID));
    }
    let client = Client::of(builder);
    // Only a web app can obtain a code.
    let mut code = match change {
        Change::AppType => "any".to_owned(),
        _ => client.approved(&client.web_page()),
    };
    let mut client_secret = defaults::WEB_CLIENT_SECRET;
    let mut body = web_code(&code);
    match change {
        Change::None | Change::AppType => {}
        Change::RedirectUriMissing => drop(
            body.as_object_mut()
                .map(|fields| fields.remove("redirect_uri")),
        ),
        Change::GrantType => body["grant_type"] = json!("password"),
        Change::ClientSecret => client_secret = "another",
        Change::ClientSecretMissing => client_secret = "",
        Change::Code => {
            code.push('x');
            body["code"] = json!(code);
        }
        Change::RedirectUri => body["redirect_uri"] = json!("http://127.0.0.1:8081/callback"),
        Change::ClientId => body["client_id"] = json!("other"),
        Change::CodeRedeemed => drop(client.post(TOKEN, client_secret, &body).await),
        Change::CodeExpired => client.mock.clock().advance(Duration::from_secs(600)),
        Change::AppDeactivated => client
            .mock
            .set_app_active(defaults::WEB_CLIENT_ID, false)
            .expect("an app"),
        Change::ServerBroken => drop(client.mock.faults().add(
            Fault::internal_error(),
            Endpoint::Token,
            Times::ONCE,
        )),
    }
    client.post(TOKEN, client_secret, &body).await
}

#[tokio::test]
async fn each_change_to_a_code_exchange_has_its_error() {
    assert_eq!(code_exchange(Change::None).await.status, 200);
    for (change, refusal, message) in [
        (
            Change::RedirectUriMissing,
            "400 invalid_request",
            "invalid request: redirect_uri",
        ),
        (
            Change::GrantType,
            "400 unsupported_grant_type",
            "not supported grant type: password",
        ),
        (Change::ClientSecret, "401 invalid_client", "secret"),
        (
            Change::ClientSecretMissing,
            "400 invalid_request",
            "invalid request: client_secret",
        ),
        (Change::Code, "400 invalid_grant", "unknown"),
        (Change::RedirectUri, "400 invalid_grant", "redirect URI"),
        (Change::ClientId, "400 invalid_grant", "another app"),
        (Change::CodeRedeemed, "400 invalid_grant", "redeemed"),
        (Change::CodeExpired, "400 invalid_grant", "expired"),
        (
            Change::AppDeactivated,
            "403 access_deny",
            "app: Mock web app is currently deactivated by the owner",
        ),
        (Change::AppType, "403 access_deny", "invalid app type"),
        (
            Change::ServerBroken,
            "500 internal_error",
            "Service internal error.",
        ),
    ] {
        let reply = code_exchange(change).await;
        assert_eq!(reply.refusal(), refusal, "{change:?}: {}", reply.json);
        assert!(
            reply.text("error_message").contains(message),
            "{change:?}: {}",
            reply.json
        );
        assert_eq!(
            reply.json["error"], reply.json["error_code"],
            "the error code is repeated"
        );
    }
}

#[derive(Clone, Copy, Debug)]
enum DeviceChange {
    None,
    Undecided,
    PolledTooFast,
    Denied,
    TooOld,
    DeviceCode,
}

async fn device_flow(change: DeviceChange, shape: ErrorShape) -> Reply {
    let client = Client::of(MockCoze::builder().error_shape(shape));
    let device = client.start_device().await;
    let mut device_code = device.text("device_code").to_owned();
    let user_code = device.text("user_code");
    match change {
        DeviceChange::Undecided => {}
        DeviceChange::PolledTooFast => drop(client.poll(&device_code).await),
        DeviceChange::Denied => client
            .mock
            .deny_device(user_code)
            .expect("a pending device authorization"),
        _ => client
            .mock
            .approve_device(user_code)
            .expect("a pending device authorization"),
    }
    match change {
        DeviceChange::TooOld => client.mock.clock().advance(Duration::from_secs(300)),
        DeviceChange::DeviceCode => device_code.push('x'),
        _ => {}
    }
    let reply = client.poll(&device_code).await;
    client.mock.assert_clean();
    reply
}

#[tokio::test]
async fn each_change_to_a_device_flow_has_its_error_in_each_shape() {
    for shape in [
        ErrorShape::Both,
        ErrorShape::A,
        ErrorShape::B,
        ErrorShape::C,
    ] {
        assert_eq!(device_flow(DeviceChange::None, shape).await.status, 200);
        for (change, word) in [
            (
                DeviceChange::Undecided,
                OAuthErrorCode::AuthorizationPending,
            ),
            (DeviceChange::PolledTooFast, OAuthErrorCode::SlowDown),
            (DeviceChange::Denied, OAuthErrorCode::AccessDenied),
            (DeviceChange::TooOld, OAuthErrorCode::ExpiredToken),
            (DeviceChange::DeviceCode, OAuthErrorCode::InvalidGrant),
        ] {
            let reply = device_flow(change, shape).await;
            assert_eq!(reply.status, 400);
            let fields: Vec<&str> = reply
                .json
                .as_object()
                .expect("an object")
                .keys()
                .map(String::as_str)
                .collect();
            let word = Value::from(word.as_str());
            match shape {
                ErrorShape::Both => {
                    assert_eq!(
                        fields,
                        ["error", "error_code", "error_description", "error_message"]
                    );
                    assert_eq!(
                        (&reply.json["error"], &reply.json["error_code"]),
                        (&word, &word),
                        "{change:?}"
                    );
                }
                ErrorShape::A => {
                    assert_eq!(fields, ["error", "error_code", "error_message"]);
                    assert_eq!(reply.json["error_code"], word, "{change:?}");
                    assert_ne!(reply.json["error"], word, "free text in shape A");
                }
                ErrorShape::B => {
                    assert_eq!(fields, ["error", "error_description"]);
                    assert_eq!(reply.json["error"], word, "{change:?}");
                }
                ErrorShape::C => {
                    assert_eq!(fields, ["code", "detail", "msg"]);
                    assert_eq!(reply.json["code"], 4000, "{change:?}");
                }
                other => panic!("no fields are known for {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn every_oauth_endpoint_repeats_the_error_code() {
    let client = Client::new();
    for path in [
        TOKEN,
        "/api/permission/oauth2/account/9001/token",
        "/api/permission/oauth2/enterprise_id/ent_1/token",
        DEVICE,
        "/api/permission/oauth2/workspace_id/7001/device/code",
    ] {
        let reply = client.post(path, "", &json!({})).await;
        let parameter = if path.ends_with("code") {
            "client_id"
        } else {
            "grant_type"
        };
        let text = format!("invalid request: {parameter}");
        assert_eq!(
            (reply.status.as_u16(), reply.json),
            (
                400,
                json!({"error_code": "invalid_request", "error": "invalid_request",
                    "error_message": text, "error_description": text})
            ),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_deactivated_app_is_named_by_every_grant() {
    let client = Client::new();
    let tokens = client.web_tokens().await;
    let device = client.start_device().await;
    for client_id in [
        defaults::WEB_CLIENT_ID,
        defaults::DEVICE_CLIENT_ID,
        defaults::JWT_CLIENT_ID,
    ] {
        let deactivated = client.mock.set_app_active(client_id, false);
        deactivated.expect("an app");
    }
    let renewal = refresh(defaults::WEB_CLIENT_ID, tokens.text("refresh_token"));
    for (reply, name) in [
        (
            client
                .post(TOKEN, defaults::WEB_CLIENT_SECRET, &renewal)
                .await,
            "Mock web app",
        ),
        (
            client.poll(device.text("device_code")).await,
            "Mock device app",
        ),
        (client.start_device().await, "Mock device app"),
        (
            client
                .post(TOKEN, &JwtParts::good("1").signed(), &jwt_body())
                .await,
            "Mock JWT app",
        ),
    ] {
        assert_eq!(reply.refusal(), "403 access_deny");
        let text = format!("app: {name} is currently deactivated by the owner");
        assert_eq!(reply.text("error_message"), text);
    }
}

#[tokio::test]
async fn an_unbound_channel_app_is_refused_with_its_message() {
    for (unbound, status) in [(false, 200), (true, 400)] {
        let mut app = App::jwt(defaults::JWT_CLIENT_ID).generated_key(defaults::JWT_PUBLIC_KEY_ID);
        if unbound {
            app = app.unbound_channel();
        }
        let client = Client::of(MockCoze::builder().app(app));
        let reply = client
            .post(TOKEN, &JwtParts::good("1").signed(), &jwt_body())
            .await;
        assert_eq!(reply.status, status);
        if unbound {
            assert_eq!(
                reply.json["error_message"],
                "connector app should bind connector id"
            );
        }
    }
}

#[tokio::test]
async fn each_change_to_a_pkce_exchange_has_its_error() {
    let client = Client::new();
    for (field, value, refusal) in [
        ("code_verifier", json!(VERIFIER), "200 -"),
        ("code_verifier", json!(CHALLENGE), "400 invalid_grant"),
        ("code_verifier", json!(null), "400 invalid_request"),
        (
            "redirect_uri",
            json!("http://127.0.0.1:1/callback"),
            "400 invalid_grant",
        ),
    ] {
        let code = client.approved(&client.pkce_page());
        let mut body = pkce_code(&code);
        body[field] = value.clone();
        let reply = client.post(TOKEN, "", &body).await;
        assert_eq!(reply.refusal(), refusal, "{field} {value}: {}", reply.json);
    }
    let mut without = pkce_code(&client.approved(&client.pkce_page()));
    without
        .as_object_mut()
        .expect("an object")
        .remove("code_verifier");
    assert_eq!(
        client.post(TOKEN, "", &without).await.refusal(),
        "400 invalid_request"
    );
}

#[tokio::test]
async fn a_verifier_without_a_challenge_is_refused() {
    let client = Client::new();
    let mut body = web_code(&client.approved(&client.web_page()));
    body["code_verifier"] = json!(VERIFIER);
    let reply = client.post(TOKEN, defaults::WEB_CLIENT_SECRET, &body).await;
    assert_eq!(reply.refusal(), "400 invalid_grant");
}

#[tokio::test]
async fn a_failed_attempt_with_a_stolen_code_does_not_invalidate_it() {
    let client = Client::new();
    let code = client.approved(&client.pkce_page());
    let mut stolen = pkce_code(&code);
    stolen["code_verifier"] = json!("x".repeat(43));
    assert_eq!(
        client.post(TOKEN, "", &stolen).await.refusal(),
        "400 invalid_grant"
    );
    assert_eq!(client.post(TOKEN, "", &pkce_code(&code)).await.status, 200);
}
