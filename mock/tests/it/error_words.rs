//! Each documented error word, by changing exactly one thing of a flow that works.

use crate::client::*;
use coze_mock::{App, Endpoint, ErrorWord, Fault, MockCoze, PollErrors, Times, defaults};
use serde_json::{Value, json};
use std::time::Duration;

/// The one thing that differs. `None` is the flow that works.
#[derive(Clone, Copy, Debug)]
enum Change {
    None,
    // in the request
    RedirectUriMissing,
    GrantType,
    ClientSecret,
    Code,
    RedirectUri,
    ClientId,
    // in the state
    CodeUsedBefore,
    CodeTooOld,
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
    // Without its app being a web app there is no code to be had.
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
        Change::Code => {
            code.push('x');
            body["code"] = json!(code);
        }
        Change::RedirectUri => body["redirect_uri"] = json!("http://127.0.0.1:8081/callback"),
        Change::ClientId => body["client_id"] = json!("other"),
        Change::CodeUsedBefore => drop(client.post(TOKEN, client_secret, &body).await),
        Change::CodeTooOld => client.mock.clock().advance(Duration::from_secs(600)),
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
async fn one_change_to_a_code_exchange() {
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
        (Change::Code, "400 invalid_grant", "unknown"),
        (Change::RedirectUri, "400 invalid_grant", "redirect URI"),
        (Change::ClientId, "400 invalid_grant", "another app"),
        (Change::CodeUsedBefore, "400 invalid_grant", "used"),
        (Change::CodeTooOld, "400 invalid_grant", "expired"),
        (Change::AppDeactivated, "403 access_deny", "deactivated"),
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
        assert!(
            reply.json["error"].is_string(),
            "shape A has a text in error"
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

async fn device_flow(change: DeviceChange, shape: PollErrors) -> Reply {
    let client = Client::of(MockCoze::builder().poll_errors(shape));
    let device = client.start_device().await;
    let mut device_code = device.text("device_code").to_owned();
    let user_code = device.text("user_code");
    match change {
        DeviceChange::Undecided => {}
        DeviceChange::PolledTooFast => drop(client.poll(&device_code).await),
        DeviceChange::Denied => client
            .mock
            .deny_device(user_code)
            .expect("a device that waits"),
        _ => client
            .mock
            .approve_device(user_code)
            .expect("a device that waits"),
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
async fn one_change_to_a_device_flow_in_each_shape() {
    for shape in [PollErrors::Both, PollErrors::A, PollErrors::B] {
        assert_eq!(device_flow(DeviceChange::None, shape).await.status, 200);
        for (change, word) in [
            (DeviceChange::Undecided, ErrorWord::AuthorizationPending),
            (DeviceChange::PolledTooFast, ErrorWord::SlowDown),
            (DeviceChange::Denied, ErrorWord::AccessDenied),
            (DeviceChange::TooOld, ErrorWord::ExpiredToken),
            (DeviceChange::DeviceCode, ErrorWord::InvalidGrant),
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
                PollErrors::Both => {
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
                PollErrors::A => {
                    assert_eq!(fields, ["error", "error_code", "error_message"]);
                    assert_eq!(reply.json["error_code"], word, "{change:?}");
                    assert_ne!(reply.json["error"], word, "free text in shape A");
                }
                PollErrors::B => {
                    assert_eq!(fields, ["error", "error_description"]);
                    assert_eq!(reply.json["error"], word, "{change:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_channel_app_that_is_not_bound_says_so() {
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
async fn one_change_to_a_pkce_exchange() {
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
async fn a_verifier_without_a_challenge_is_no_way_around_pkce() {
    let client = Client::new();
    let mut body = web_code(&client.approved(&client.web_page()));
    body["code_verifier"] = json!(VERIFIER);
    let reply = client.post(TOKEN, defaults::WEB_CLIENT_SECRET, &body).await;
    assert_eq!(reply.refusal(), "400 invalid_grant");
}

#[tokio::test]
async fn a_code_that_a_thief_tries_stays_good_for_its_owner() {
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
