//! Edited and scripted responses: the client receives what the test defined, and the mock accepts the tokens that it sent.

use crate::client::*;
use coze_mock::{
    Edit, EditedResponse, Endpoint, ExpiryForm, Fault, Framing, MockCoze, Place, ScriptedResponse,
    Target, Times, defaults,
};
use serde_json::{Value, json};
use std::time::Duration;

async fn refreshed(client: &Client, refresh_token: &str) -> Reply {
    let body = refresh(defaults::WEB_CLIENT_ID, refresh_token);
    client.post(TOKEN, defaults::WEB_CLIENT_SECRET, &body).await
}

/// The response of a refresh with this fault, and the client that sent it.
async fn struck(fault: impl Into<Fault>) -> (Client, Reply) {
    let client = Client::new();
    let first = client.web_tokens().await;
    client
        .mock
        .faults()
        .add(fault, Target::refresh(), Times::ONCE);
    let reply = refreshed(&client, first.text("refresh_token")).await;
    assert!(client.mock.faults().pending().is_empty());
    let reused = refreshed(&client, first.text("refresh_token")).await;
    assert_eq!(
        reused.refusal(),
        "400 invalid_grant",
        "the request took effect"
    );
    (client, reply)
}

#[tokio::test]
async fn a_member_is_set_removed_or_written_in_another_form() {
    let text = |form| Edit::Expiry {
        form,
        text: true,
        shift_seconds: 0,
    };
    let shifted = |form, shift_seconds| Edit::Expiry {
        form,
        text: false,
        shift_seconds,
    };
    for (edit, name, value) in [
        (Edit::set("/expires_in", "900"), "expires_in", json!("900")),
        (Edit::set("/expires_in", 899.5), "expires_in", json!(899.5)),
        (Edit::set("/expires_in", 0), "expires_in", json!(0)),
        (Edit::remove("/expires_in"), "expires_in", Value::Null),
        (Edit::set("/token_type", "mac"), "token_type", json!("mac")),
        (Edit::set("/refresh_token", 7), "refresh_token", json!(7)),
        (Edit::set("/a~1b~0c", true), "a/b~c", json!(true)),
        (Edit::expiry(ExpiryForm::Relative), "expires_in", json!(900)),
        (
            Edit::expiry(ExpiryForm::RelativeMillis),
            "expires_in",
            json!(900_000),
        ),
        (
            Edit::expiry(ExpiryForm::Absolute),
            "expires_in",
            json!(START + 900),
        ),
        (
            Edit::expiry(ExpiryForm::AbsoluteMillis),
            "expires_in",
            json!((START + 900) * 1000),
        ),
        (text(ExpiryForm::Relative), "expires_in", json!("900")),
        (
            shifted(ExpiryForm::Absolute, -1000),
            "expires_in",
            json!(START - 100),
        ),
        (
            shifted(ExpiryForm::Relative, -1000),
            "expires_in",
            json!(-100),
        ),
    ] {
        let (_, reply) = struck(EditedResponse::new([edit.clone()])).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.json[name], value, "{edit:?}");
        assert!(reply.text("access_token").starts_with("czu_"));
    }
}

#[tokio::test]
async fn an_element_of_a_list_is_replaced_added_or_removed() {
    let client = Client::new();
    let list = async || {
        let path = format!("/v1/bots?workspace_id={}", defaults::WORKSPACE_ID);
        let mut reply = client.get(&path, defaults::PERSONAL_ACCESS_TOKEN).await;
        assert_eq!(reply.status, 200);
        reply.json["data"]["items"].take()
    };
    let real = list().await;
    let [first, second] = [real[0].clone(), real[1].clone()];
    let mut renamed = second.clone();
    renamed["name"] = json!(7);
    let unchanged = || json!([first, second]);
    for (edits, expected) in [
        (vec![Edit::set("/data/items/0", 7)], json!([7, second])),
        (
            vec![Edit::set("/data/items/1/name", 7)],
            json!([first, renamed]),
        ),
        (
            vec![Edit::set("/data/items/-", 7)],
            json!([first, second, 7]),
        ),
        (vec![Edit::remove("/data/items/0")], json!([second])),
        (
            vec![Edit::remove("/data/items/0"), Edit::remove("/data/items/0")],
            json!([]),
        ),
        // Places that do not exist.
        (vec![Edit::set("/data/items/2", 7)], unchanged()),
        (vec![Edit::set("/data/items/01", 7)], unchanged()),
        (vec![Edit::set("/data/items/+1", 7)], unchanged()),
        (vec![Edit::set("/data/items/", 7)], unchanged()),
        (vec![Edit::set("/data/items/name", 7)], unchanged()),
        (vec![Edit::set("/data/items/0/name/x", 7)], unchanged()),
        (vec![Edit::remove("/data/items/2")], unchanged()),
        (vec![Edit::remove("/data/items/-")], unchanged()),
        (
            vec![Edit::repeat("/data/items/0", 7, Place::Last)],
            unchanged(),
        ),
    ] {
        let edited = EditedResponse::new(edits.clone());
        let faults = client.mock.faults();
        faults.add(edited, Endpoint::Bots, Times::ONCE);
        assert_eq!(list().await, expected, "{edits:?}");
    }
}

#[tokio::test]
async fn a_member_can_be_duplicated() {
    for (true_one, starts) in [
        (
            Place::Last,
            r#"{"access_token":"false","access_token":"czu_"#,
        ),
        (Place::First, r#"{"access_token":"czu_"#),
    ] {
        let twice = EditedResponse::new([
            Edit::repeat("/access_token", "false", true_one),
            Edit::repeat("/expires_in", 0, true_one),
        ]);
        let (_, reply) = struck(twice).await;
        let body = String::from_utf8_lossy(&reply.body);
        assert!(body.starts_with(starts), "{body}");
        for name in ["\"access_token\":", "\"expires_in\":"] {
            assert_eq!(body.matches(name).count(), 2, "{body}");
        }
        // The JSON parser of the tests uses the last one.
        assert_eq!(
            reply.text("access_token") == "false",
            true_one == Place::First
        );
        assert_eq!(reply.json["expires_in"] == 0, true_one == Place::First);
    }
}

#[tokio::test]
async fn a_member_can_be_repeated_three_times() {
    let thrice = EditedResponse::new([
        Edit::repeat("/expires_in", 1, Place::Last),
        Edit::repeat("/expires_in", 2, Place::Last),
    ]);
    let (_, reply) = struck(thrice).await;
    let body = String::from_utf8_lossy(&reply.body);
    assert_eq!(body.matches("\"expires_in\":").count(), 3, "{body}");
    assert!(!body.contains("coze-mock"), "{body}");
    assert!(reply.json["expires_in"].as_u64().is_some_and(|at| at > 2));
}

#[tokio::test]
async fn the_mock_accepts_the_edited_tokens() {
    let odd = "white space\t\r\n\u{0}\u{7f} and \"quotes\" \u{1f511}";
    let edits = [
        Edit::set("/refresh_token", odd),
        Edit::set("/access_token", "another"),
        Edit::repeat("/expires_in", 1, Place::Last),
    ];
    let (client, reply) = struck(EditedResponse::new(edits)).await;
    assert_eq!(reply.text("refresh_token"), odd);
    assert!(client.mock.granted("another").is_some());
    let sign_in = client.mock.sign_in_of(odd).expect("a sign-in");
    assert_eq!(
        sign_in.live_refresh_token(),
        Some(coze_mock::fingerprint(odd).as_str())
    );
    let next = refreshed(&client, odd).await;
    assert_eq!(next.status, 200, "{}", next.json);

    let faults = client.mock.faults();
    let spaced = EditedResponse::new([
        Edit::set("/device_code", "a b"),
        Edit::set("/interval", "5"),
    ]);
    faults.add(spaced, Endpoint::DeviceCode, Times::ONCE);
    let device = client.start_device().await;
    assert_eq!(device.json["interval"], "5");
    client
        .mock
        .approve_device(device.text("user_code"))
        .expect("it waits");
    assert_eq!(client.poll("a b").await.status, 200);
    client.mock.assert_clean();
}

#[tokio::test]
async fn a_duplicated_token_is_accepted_by_its_real_value() {
    let twice = Edit::repeat("/refresh_token", "false", Place::Last);
    let (client, reply) = struck(EditedResponse::new([twice])).await;
    let next = refreshed(&client, reply.text("refresh_token")).await;
    assert_eq!(next.status, 200, "{}", next.json);
}

#[tokio::test]
async fn headers_are_set_and_removed() {
    let edited = EditedResponse::new([])
        .header("Age", "30")
        .header("content-type", "text/plain")
        .without_header("Date");
    let (_, reply) = struck(edited).await;
    assert_eq!(reply.header("age"), Some("30"));
    assert_eq!(reply.header("content-type"), Some("text/plain"));
    assert_eq!(reply.header("date"), None);
    assert!(reply.header("x-tt-logid").is_some());
}

#[tokio::test]
async fn bytes_are_added_to_or_removed_from_the_response() {
    let whole = |body: &str| serde_json::from_str::<Value>(body).is_ok();
    for (framing, cut_off, fits) in [
        (
            Framing::new().before("\u{feff}"),
            false,
            Box::new(|body: &str| body.starts_with("\u{feff}{")) as Box<dyn Fn(&str) -> bool>,
        ),
        (
            Framing::new().behind("}<!-- proxy -->"),
            false,
            Box::new(|body| body.ends_with("}}<!-- proxy -->")),
        ),
        (
            Framing::new().cut_after(10),
            false,
            Box::new(|body| body == "{\"access_t"),
        ),
        (Framing::new().cut_after(1_000_000), false, Box::new(whole)),
        (
            Framing::new().cut_behind("refresh_token").missing(5),
            true,
            Box::new(|body| {
                let refresh_token = body.split_once("\"refresh_token\":").expect("the header").1;
                serde_json::from_str::<String>(refresh_token).is_ok()
            }),
        ),
        (Framing::new().without_last_chunk(), true, Box::new(whole)),
        (Framing::new().missing(1), true, Box::new(whole)),
    ] {
        let (_, reply) = struck(EditedResponse::new([]).framed(framing.clone())).await;
        let body = String::from_utf8_lossy(&reply.body);
        assert!(fits(&body), "{framing:?}: {body}");
        assert_eq!(reply.cut_off, cut_off, "{framing:?}");
    }
}

#[tokio::test]
async fn a_scripted_response_replaces_the_real_one() {
    let client = Client::new();
    let page = "<html>Please sign in</html>";
    for scripted in [
        ScriptedResponse::new(200, page).header("Content-Type", "text/html"),
        ScriptedResponse::new(302, "").header("Location", "https://portal.example/"),
        ScriptedResponse::new(403, page).header("Content-Type", "text/html"),
        ScriptedResponse::new(407, ""),
        ScriptedResponse::new(200, ""),
        ScriptedResponse::new(200, "{\"access_to").framed(Framing::new().missing(90)),
        ScriptedResponse::new(400, json!({"error_message": "alone"})),
        ScriptedResponse::new(
            400,
            json!({"error": {"code": 1, "logid": "20261004095709"}}),
        ),
        ScriptedResponse::new(400, b"{\"error_message\":\"\xff\"}".to_vec()),
    ] {
        let first = client.web_tokens().await;
        let planned = client.mock.faults();
        planned.add(scripted.clone(), Target::refresh(), Times::ONCE);
        let script = serde_json::to_value(&scripted).expect("JSON");
        let reply = refreshed(&client, first.text("refresh_token")).await;
        assert_eq!(reply.status.as_u16(), script["status"], "{script}");
        match &script["body"] {
            Value::String(text) => assert_eq!(reply.body, text.as_bytes()),
            bytes => assert_eq!(json!(reply.body.to_vec()), *bytes),
        }
        for (name, value) in script["headers"].as_object().expect("headers") {
            assert_eq!(reply.header(name), value.as_str());
        }
        assert!(reply.header("x-tt-logid").is_none() && reply.header("date").is_some());
        assert_eq!(reply.cut_off, script["framing"]["end"] != "whole");
        let next = refreshed(&client, first.text("refresh_token")).await;
        assert_eq!(next.status, 200, "the request had no effect");
    }
    let page = ScriptedResponse::new(200, page).after_processing();
    let (_, reply) = struck(page.without_header("Date")).await;
    assert!(reply.json.is_null() && reply.header("date").is_none());
}

#[tokio::test]
async fn api_calls_can_be_scripted_too() {
    let client = Client::new();
    let refused = json!({"code": 4101, "msg": "The token you entered is incorrect."});
    let faults = client.mock.faults();
    faults.add(
        ScriptedResponse::new(200, refused.clone()),
        Endpoint::UsersMe,
        Times::ONCE,
    );
    faults.add(
        EditedResponse::new([
            Edit::set("/data/user_id", 7),
            Edit::remove("/no/such/parent"),
        ]),
        Endpoint::UsersMe,
        Times::ONCE,
    );
    let token = defaults::PERSONAL_ACCESS_TOKEN;
    let reply = client.get("/v1/users/me", token).await;
    assert_eq!((reply.status.as_u16(), &reply.json), (200, &refused));
    let reply = client.get("/v1/users/me", token).await;
    assert_eq!(reply.json["data"]["user_id"], 7);
    assert_eq!(reply.json["code"], 0);
}

#[tokio::test]
async fn a_server_without_leeway_is_exact_to_the_second() {
    let client = Client::of(MockCoze::builder().jwt_leeway(Duration::ZERO));
    for (number, (issued_at, expires_at, accepted)) in [
        (START, START + 600, true),
        (START + 1, START + 601, false),
        (START - 600, START + 1, true),
        (START - 600, START, false),
    ]
    .into_iter()
    .enumerate()
    {
        let mut jwt = JwtParts::good(&number.to_string());
        jwt.claims["iat"] = json!(issued_at);
        jwt.claims["exp"] = json!(expires_at);
        let reply = client.post(TOKEN, &jwt.signed(), &jwt_body()).await;
        assert_eq!(reply.status == 200, accepted, "{}", reply.json);
    }
}
