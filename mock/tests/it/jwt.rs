//! The checks of a JWT, each by one change to a valid JWT.

use crate::client::*;
use coze_mock::{MockCoze, defaults};
use serde_json::{Value, json};
use std::time::Duration;

async fn exchange(client: &Client, parts: &JwtParts) -> Reply {
    client.post(TOKEN, &parts.signed(), &jwt_body()).await
}

/// Coze's message for an unregistered key and for an app of the other site.
const UNKNOWN_KEY: &str = "invalid jwt: kid not been registred";

#[tokio::test]
async fn each_change_to_a_jwt_has_its_error() {
    // Location, value (null: removed), message of the error (empty: accepted), whether it violates the contract.
    let cases: &[(&str, Value, &str, bool)] = &[
        ("/claims/exp", json!(START + 1), "", false),
        ("/header/alg", json!("HS256"), "alg must be RS256", true),
        ("/header/alg", json!("none"), "alg must be RS256", true),
        ("/header/typ", json!("at+jwt"), "typ", true),
        ("/header/typ", Value::Null, "typ: required", true),
        ("/header/kid", Value::Null, "kid: required", true),
        ("/header/kid", json!("another"), UNKNOWN_KEY, false),
        ("/header/kid", json!(7), "kid", true),
        ("/claims/iss", json!("another"), UNKNOWN_KEY, false),
        ("/claims/iss", Value::Null, "iss", true),
        ("/claims/aud", json!("api.coze.com"), "aud", true),
        ("/claims/aud", json!("api.coze.test:443"), "aud", true),
        ("/claims/aud", json!(["api.coze.test"]), "aud", true),
        ("/claims/aud", Value::Null, "aud", true),
        ("/claims/jti", Value::Null, "jti", true),
        ("/claims/jti", json!(""), "jti", true),
        ("/claims/jti", json!(1), "jti", true),
        ("/claims/jti", json!("short"), "", false),
        ("/claims/iat", Value::Null, "iat", true),
        ("/claims/iat", json!(1.5), "iat", true),
        ("/claims/iat", json!(START.to_string()), "iat", true),
        ("/claims/iat", json!(START + 10), "", false),
        (
            "/claims/iat",
            json!(START + 11),
            "iat is in the future",
            false,
        ),
        ("/claims/exp", Value::Null, "exp", true),
        ("/claims/exp", json!(-1), "exp", true),
        ("/claims/exp", json!(START), "later than iat", true),
        ("/claims/session_name", json!(1), "session_name", true),
        ("/claims/session_name", json!("x"), "", false),
        (
            "/claims/session_context",
            json!("x"),
            "session_context",
            true,
        ),
        (
            "/claims/session_context",
            json!({"device_info": {"device_id": 1}}),
            "session_context",
            true,
        ),
        (
            "/claims/session_context",
            json!({"device_info": {"device_id": "1", "custom_consumer": "2"}}),
            "",
            false,
        ),
        (
            "/claims/session_context",
            json!({"device_info": {"custom_consumer": "2"}}),
            "",
            false,
        ),
    ];
    for (number, (place, value, refusal, breach)) in cases.iter().enumerate() {
        let client = Client::new();
        let mut parts = JwtParts::good(&number.to_string());
        let (part, name) = place[1..].split_once('/').expect("a place");
        let fields = if part == "header" {
            &mut parts.header
        } else {
            &mut parts.claims
        };
        match value {
            Value::Null => drop(fields.as_object_mut().expect("an object").remove(name)),
            value => fields[name] = value.clone(),
        }
        let reply = exchange(&client, &parts).await;
        if refusal.is_empty() {
            assert_eq!(reply.status, 200, "{place} {value}: {}", reply.json);
        } else {
            assert_eq!(
                reply.refusal(),
                "401 invalid_client",
                "{place} {value}: {}",
                reply.json
            );
            assert!(
                reply.text("error_message").contains(refusal),
                "{place} {value}: {}",
                reply.json
            );
        }
        assert_eq!(
            !client.mock.violations().is_empty(),
            *breach,
            "{place} {value}: {:?}",
            client.mock.violations()
        );
    }
}

#[tokio::test]
async fn a_jwt_that_has_expired_is_refused_beyond_the_leeway() {
    for (seconds, status) in [(609, 200), (610, 401)] {
        let client = Client::new();
        client.mock.clock().advance(Duration::from_secs(seconds));
        assert_eq!(
            exchange(&client, &JwtParts::good("1")).await.status,
            status,
            "after {seconds} s"
        );
    }
}

#[tokio::test]
async fn a_signature_over_other_content_is_refused() {
    let client = Client::new();
    let one = JwtParts::good("1").signed();
    let other = JwtParts::good("2").signed();
    let (_, signature) = one.rsplit_once('.').expect("a signature");
    let (content, _) = other.rsplit_once('.').expect("a signature");
    let reply = client
        .post(TOKEN, &format!("{content}.{signature}"), &jwt_body())
        .await;
    assert_eq!(reply.refusal(), "401 invalid_client");
    assert!(reply.text("error_message").contains("signature"));
    // The attempt did not redeem the original.
    assert_eq!(client.post(TOKEN, &one, &jwt_body()).await.status, 200);
}

#[tokio::test]
async fn a_jwt_is_single_use() {
    let client = Client::new();
    let jwt = JwtParts::good("1").signed();
    assert_eq!(client.post(TOKEN, &jwt, &jwt_body()).await.status, 200);
    let again = client.post(TOKEN, &jwt, &jwt_body()).await;
    assert_eq!(again.refusal(), "401 invalid_client");
    assert!(again.text("error_message").contains("jti"));
    // Not even at another endpoint.
    let elsewhere = client
        .post("/api/permission/oauth2/account/1/token", &jwt, &jwt_body())
        .await;
    assert_eq!(elsewhere.refusal(), "401 invalid_client");
    client.mock.assert_clean();
}

#[tokio::test]
async fn an_invalid_jwt_is_refused() {
    let client = Client::new();
    for bearer in ["", "secret", "a.b.c", "e30.e30.e30", "W10.e30.AA"] {
        let reply = client.post(TOKEN, bearer, &jwt_body()).await;
        assert_eq!(reply.refusal(), "401 invalid_client", "{bearer}");
    }
    assert_eq!(client.mock.violations().len(), 5);
    let none = client.post(TOKEN, "", &jwt_body()).await;
    assert_eq!(none.text("error_message"), "verify jwt empty");
}

/// Coze's hosts have no port, so it is unknown whether a port is allowed.
#[tokio::test]
async fn the_audience_may_contain_the_called_port() {
    for (authority, audience, told, status) in [
        ("127.0.0.1:8377", "127.0.0.1:8377", None, 200),
        ("127.0.0.1:8377", "127.0.0.1", None, 200),
        ("127.0.0.1:8377", "127.0.0.1:8378", None, 401),
        ("127.0.0.1:8377", "localhost:8377", None, 401),
        ("127.0.0.1", "127.0.0.1:80", None, 401),
        ("[::1]:8377", "[::1]:8377", None, 200),
        ("coze:8377", "coze:8377", Some("coze"), 200),
        ("coze:8377", "coze:8377", Some("api.coze.cn"), 401),
    ] {
        let mut builder = MockCoze::builder();
        if let Some(host) = told {
            builder = builder.audience(host);
        }
        let client = Client::of(builder);
        let mut parts = JwtParts::good("1");
        parts.claims["aud"] = json!(audience);
        let request = http::Request::post(format!("http://{authority}{TOKEN}"))
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {}", parts.signed()))
            .body(jwt_body().to_string().into());
        let reply = client.send(request.expect("a request")).await;
        let reply = reply.expect("an answer");
        let case = format!("{audience} at {authority}, told {told:?}");
        assert_eq!(reply.status, status, "{case}: {}", reply.json);
        assert_eq!(client.mock.violations().is_empty(), status == 200, "{case}");
    }
}

#[tokio::test]
async fn both_session_ids_are_a_note_not_a_violation() {
    let client = Client::new();
    let mut parts = JwtParts::good("1");
    let context = json!({"device_info": {"device_id": "1", "custom_consumer": "2"}});
    parts.claims["session_context"] = context.clone();
    let reply = exchange(&client, &parts).await;
    let granted = client.mock.granted(reply.text("access_token"));
    let granted = granted.expect("a valid token");
    assert_eq!(granted.session_context, Some(context));
    client.mock.assert_clean();
    assert_eq!(client.mock.notes().len(), 1);
    assert_eq!(client.mock.notes()[0].place, "jwt/claims/session_context");
}

#[tokio::test]
async fn a_short_jti_is_a_note_not_a_violation() {
    let client = Client::new();
    let mut parts = JwtParts::good("1");
    parts.claims["jti"] = json!("x".repeat(32));
    assert_eq!(exchange(&client, &parts).await.status, 200);
    client.mock.assert_clean();
    assert_eq!(client.mock.notes().len(), 1);
    assert_eq!(client.mock.notes()[0].place, "jwt/claims/jti");
}

#[tokio::test]
async fn the_audience_can_be_set() {
    let client = Client::of(MockCoze::builder().audience("api.coze.cn"));
    let mut parts = JwtParts::good("1");
    assert_eq!(
        exchange(&client, &parts).await.refusal(),
        "401 invalid_client"
    );
    parts.claims["aud"] = json!("api.coze.cn");
    assert_eq!(exchange(&client, &parts).await.status, 200);
}

#[tokio::test]
async fn a_refused_jwt_is_recorded_too() {
    let client = Client::new();
    let mut parts = JwtParts::good("1");
    parts.claims["aud"] = json!("elsewhere");
    exchange(&client, &parts).await;
    let record = client.mock.requests().pop().expect("a record");
    let jwt = record.jwt.expect("a JWT");
    assert_eq!(jwt.claims["aud"], "elsewhere");
    assert_eq!(jwt.header["kid"], defaults::JWT_PUBLIC_KEY_ID);
}
