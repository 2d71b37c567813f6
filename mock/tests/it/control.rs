//! The control endpoints: everything that the Rust handle offers, over HTTP.

use crate::client::*;
use coze_mock::{MockCoze, defaults};
use http::Method;
use serde_json::{Value, json};

fn controlled() -> Client {
    Client::of(MockCoze::builder().control_endpoints(true))
}

async fn post(client: &Client, path: &str, body: Value) -> Reply {
    client.post(&format!("/_mock/{path}"), "", &body).await
}

async fn get(client: &Client, path: &str) -> Value {
    let reply = client
        .call(Method::GET, &format!("/_mock/{path}"), &[], "")
        .await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.json);
    reply.json
}

#[tokio::test]
async fn a_test_in_any_language_acts_as_the_user() {
    let client = controlled();
    let device = client.start_device().await;
    let user_code = json!({"user_code": device.text("user_code")});
    assert_eq!(
        post(&client, "device/approve", user_code.clone())
            .await
            .status,
        200
    );
    assert_eq!(
        post(&client, "device/deny", user_code).await.status,
        404,
        "already decided"
    );
    assert_eq!(client.poll(device.text("device_code")).await.status, 200);

    let reply = post(&client, "authorize", json!({"url": client.web_page()})).await;
    let code = code_of(&url::Url::parse(reply.text("callback")).expect("a URL"));
    let tokens = client
        .post(TOKEN, defaults::WEB_CLIENT_SECRET, &web_code(&code))
        .await;
    assert_eq!(tokens.status, 200);
    let denied = post(
        &client,
        "authorize",
        json!({"url": client.web_page(), "decision": "deny"}),
    )
    .await;
    assert!(denied.text("callback").contains("error=access_denied"));
    assert_eq!(
        post(&client, "authorize", json!({"url": "https://x/y"}))
            .await
            .status,
        400
    );

    assert_eq!(
        get(&client, "ledger").await["sign_ins"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    let one = get(&client, "ledger?sign_in=2").await;
    assert_eq!(one["sign_ins"][0]["id"], 2);
    assert_eq!(one["sign_ins"].as_array().map(Vec::len), Some(1));
    let inspected = post(
        &client,
        "tokens/inspect",
        json!({"access_token": tokens.text("access_token")}),
    )
    .await;
    assert_eq!(
        inspected.json["token"]["client_id"],
        defaults::WEB_CLIENT_ID
    );
    let revoked = post(
        &client,
        "sign-ins/revoke",
        json!({"refresh_token": tokens.text("refresh_token")}),
    )
    .await;
    assert_eq!(revoked.json["ended"], true);
    assert_eq!(
        client
            .get("/v1/users/me", tokens.text("access_token"))
            .await
            .status,
        401
    );
}

#[tokio::test]
async fn clock_apps_and_reset_are_controllable() {
    let client = controlled();
    assert_eq!(
        post(&client, "clock/advance", json!({"seconds": 1.5}))
            .await
            .json["unix_seconds"],
        START + 1
    );
    assert_eq!(
        post(&client, "clock/advance", json!({"seconds": -1}))
            .await
            .status,
        400
    );
    let off = json!({"client_id": defaults::DEVICE_CLIENT_ID, "active": false});
    assert_eq!(post(&client, "apps/active", off).await.status, 200);
    assert_eq!(client.start_device().await.refusal(), "403 access_deny");
    assert_eq!(
        get(&client, "requests").await["requests"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    assert_eq!(
        get(&client, "requests?since=1").await["requests"]
            .as_array()
            .map(Vec::len),
        Some(0)
    );
    assert_eq!(post(&client, "reset", json!({})).await.status, 200);
    assert_eq!(
        get(&client, "requests").await["requests"]
            .as_array()
            .map(Vec::len),
        Some(0)
    );
    assert_eq!(client.start_device().await.status, 200);
    client.post(DEVICE, "", &json!({})).await;
    assert_eq!(get(&client, "violations").await["ever"], 1);
    assert!(get(&client, "notes").await["notes"].is_array());
}

#[tokio::test]
async fn faults_are_planned_listed_and_cleared() {
    let client = controlled();
    for fault in [
        json!({"latency": {"millis": 1}}),
        json!({"connection_reset": {"when": "after_processing"}}),
        json!({"timeout": {"when": "before_processing"}}),
        json!({"status": {"status": 503, "body": "html"}}),
        json!({"status": {"status": 429, "retry_after": {"seconds": 2}}}),
        json!("truncated_json"),
        json!("wrong_content_type"),
        json!("oversized_body"),
        json!({"redirect": {"status": 307, "location": "https://stranger.example/"}}),
        json!({"error_with_status200": {"shape": "a", "code": "invalid_grant"}}),
        json!({"skewed_date": {"seconds": -60}}),
        json!({"short_lived_tokens": {"seconds": 2}}),
        json!({"edited": {"edits": [
            {"set": {"at": "/expires_in", "value": "900"}},
            {"remove": {"at": "/token_type"}},
            {"repeat": {"at": "/refresh_token", "value": "x", "true_one": "last"}},
            {"expiry": {"form": "absolute_millis", "text": true, "shift_seconds": -1}}],
            "headers": {"Age": "30", "Date": null},
            "framing": {"before": "\u{feff}", "behind": "x", "cut": {"behind": "refresh_token"}, "end": {"missing": 9}}}}),
        json!({"edited": {"framing": {"cut": {"bytes": 3}, "end": "no_last_chunk"}}}),
        json!({"scripted": {"status": 200, "headers": {"Content-Type": "text/html"}, "body": "<html>",
            "framing": {"end": "no_last_chunk"}, "when": "after_processing"}}),
        json!({"scripted": {"status": 400, "body": [255, 123]}}),
    ] {
        let target = json!({"endpoint": "users_me"});
        let added = post(
            &client,
            "faults",
            json!({"fault": fault, "target": target, "times": 2}),
        )
        .await;
        assert_eq!(added.status, 200, "{fault}: {}", added.json);
        let listed = get(&client, "faults").await;
        let last = listed["faults"]
            .as_array()
            .and_then(|faults| faults.last())
            .expect("a fault");
        assert_eq!((&last["target"], &last["remaining"]), (&target, &json!(2)));
        let path = format!("/_mock/faults/{}", added.json["id"]);
        assert_eq!(
            client.call(Method::DELETE, &path, &[], "").await.json["removed"],
            true
        );
    }
    let forever = json!({"fault": {"status": {"status": 502}}, "target": {"grant_type": "refresh_token"}, "times": "forever"});
    assert_eq!(post(&client, "faults", forever).await.status, 200);
    assert_eq!(
        get(&client, "faults").await["faults"][0]["remaining"],
        Value::Null
    );
    assert_eq!(
        client
            .call(Method::DELETE, "/_mock/faults", &[], "")
            .await
            .status,
        200
    );
    for nonsense in [
        json!({"fault": "rain"}),
        json!({"fault": {"status": {"status": 7}}}),
        json!({"fault": {"redirect": {"status": 200, "location": "x"}}}),
        json!({"fault": {"redirect": {"status": 307, "location": "x\ny"}}}),
        json!({"fault": "truncated_json", "times": "often"}),
        json!({"fault": {"edited": {"edits": [{"remove": {"at": "expires_in"}}]}}}),
        json!({"fault": {"edited": {"edits": [{"expiry": {"form": "roman"}}]}}}),
        json!({"fault": {"edited": {"headers": {"Content-Length": "7"}}}}),
        json!({"fault": {"scripted": {"status": 101}}}),
        json!({"fault": {"scripted": {"status": 200, "headers": {"a b": "c"}}}}),
        json!({"fault": {"scripted": {"status": 200, "framing": {"end": "well"}}}}),
    ] {
        assert_eq!(
            post(&client, "faults", nonsense.clone()).await.status,
            400,
            "{nonsense}"
        );
    }
    assert_eq!(get(&client, "faults").await["faults"], json!([]));
}

#[tokio::test]
async fn web_pages_cannot_control_the_mock() {
    let client = controlled();
    let reset = |headers: Vec<(&'static str, &'static str)>| {
        let client = &client;
        async move {
            client
                .call(Method::POST, "/_mock/reset", &headers, "{}")
                .await
                .status
                .as_u16()
        }
    };
    let json = ("content-type", "application/json");
    assert_eq!(reset(vec![json]).await, 200);
    assert_eq!(
        reset(vec![json, ("origin", "https://api.coze.test")]).await,
        200
    );
    assert_eq!(
        reset(vec![json, ("origin", "https://evil.example")]).await,
        403
    );
    assert_eq!(
        reset(vec![json, ("sec-fetch-site", "cross-site")]).await,
        403
    );
    let text = client
        .call(
            Method::POST,
            "/_mock/clock/advance",
            &[("content-type", "text/plain")],
            "{\"seconds\":1}",
        )
        .await;
    assert_eq!(text.status, 415);
}

#[tokio::test]
async fn control_endpoints_are_off_by_default() {
    let client = Client::new();
    assert_eq!(
        client
            .call(Method::GET, "/_mock/requests", &[], "")
            .await
            .status,
        404
    );
    assert_eq!(post(&client, "reset", json!({})).await.status, 404);
    assert_eq!(
        client
            .call(Method::GET, "/_mock/device", &[], "")
            .await
            .status,
        200,
        "the user's page is always served"
    );
}
