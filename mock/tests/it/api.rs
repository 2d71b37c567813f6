//! The mock's API.

use crate::client::*;
use coze_mock::{Bot, MockCoze, Workspace, defaults};
use http::Method;
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn users_me_returns_cozes_envelope() {
    let client = Client::new();
    let reply = client
        .get("/v1/users/me", defaults::PERSONAL_ACCESS_TOKEN)
        .await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json["code"], 0);
    assert_eq!(reply.json["msg"], "");
    assert_eq!(
        reply.json["detail"]["logid"].as_str(),
        reply.header("x-tt-logid")
    );
    let mut fields: Vec<_> = reply.json["data"]
        .as_object()
        .expect("data")
        .keys()
        .cloned()
        .collect();
    fields.sort();
    assert_eq!(fields, ["avatar_url", "nick_name", "user_id", "user_name"]);
}

#[tokio::test]
async fn a_missing_unknown_or_expired_token_is_refused() {
    let client = Client::new();
    for (authorization, code) in [
        (None, 4100),
        (Some("Bearer"), 4100),
        (Some("Basic eDp5"), 4100),
        (Some("Bearer unknown"), 700_012_006),
    ] {
        let headers: Vec<_> = authorization
            .map(|value| ("authorization", value))
            .into_iter()
            .collect();
        let reply = client.call(Method::GET, "/v1/users/me", &headers, "").await;
        assert_eq!(
            (reply.status.as_u16(), reply.json["code"].as_i64()),
            (401, Some(code)),
            "{authorization:?}"
        );
        assert_eq!(
            reply.json["detail"]["logid"].as_str(),
            reply.header("x-tt-logid")
        );
    }
    let token = client.web_tokens().await;
    let token = token.text("access_token");
    client.mock.clock().advance(Duration::from_secs(900));
    assert_eq!(
        client.get("/v1/users/me", token).await.json["code"],
        700_012_006
    );

    let token = client.web_tokens().await;
    assert!(client.mock.revoke_access_token(token.text("access_token")));
    assert_eq!(
        client
            .get("/v1/users/me", token.text("access_token"))
            .await
            .json["code"],
        700_012_006
    );
}

#[tokio::test]
async fn workspaces_and_bots_are_paged() {
    let mut builder = MockCoze::builder().workspace(Workspace::new("7002", "Other"));
    for number in 0..43 {
        builder = builder.bot(Bot::new(format!("b{number}"), "Bot", "7002"));
    }
    let client = Client::of(builder);
    let pat = defaults::PERSONAL_ACCESS_TOKEN;
    let list = client
        .get("/v1/workspaces?page_num=2&page_size=1", pat)
        .await;
    assert_eq!(list.json["data"]["total_count"], 2);
    assert_eq!(list.json["data"]["workspaces"][0]["id"], "7002");
    for (query, count) in [
        ("", 20),
        ("&page_num=3", 3),
        ("&page_num=4", 0),
        ("&page_size=50", 43),
        ("&publish_status=unpublished_draft", 0),
    ] {
        let list = client
            .get(&format!("/v1/bots?workspace_id=7002{query}"), pat)
            .await;
        assert_eq!(
            list.json["data"]["items"].as_array().map(Vec::len),
            Some(count),
            "{query}: {}",
            list.json
        );
    }
    let bot = client.get("/v1/bots/b7", pat).await;
    assert_eq!(bot.json["data"]["bot_id"], "b7");
    client.mock.assert_clean();
    for path in [
        "/v1/bots",
        "/v1/bots?workspace_id=7002&page_num=0",
        "/v1/bots?workspace_id=7002&page_size=x",
        "/v1/bots?workspace_id=7002&publish_status=never",
        "/v1/bots/b7?is_published=maybe",
        "/v1/users/me?access_token=hush",
    ] {
        let reply = client.get(path, pat).await;
        assert_eq!(
            (reply.status.as_u16(), reply.json["code"].as_i64()),
            (400, Some(4000)),
            "{path}"
        );
    }
}

/// Official SDKs call these by default.
#[tokio::test]
async fn the_deprecated_bot_endpoints_are_served() {
    let mut builder = MockCoze::builder().workspace(Workspace::new("7002", "Other"));
    for number in 0..43 {
        builder = builder.bot(Bot::new(format!("b{number}"), "Bot", "7002"));
    }
    let client = Client::of(builder);
    let pat = defaults::PERSONAL_ACCESS_TOKEN;
    for (query, count) in [
        ("", 20),
        ("&page_index=3", 3),
        ("&page_index=1&page_size=50", 43),
    ] {
        let path = format!("{OLD_BOTS}?space_id=7002{query}");
        let list = client.get(&path, pat).await;
        let data = &list.json["data"];
        let bots = data["space_bots"].as_array().expect("bots");
        assert_eq!((&data["total"], bots.len()), (&json!(43), count), "{query}");
        assert!(bots[0]["publish_time"].is_string(), "{}", bots[0]);
    }
    let old = client.get(&format!("{OLD_BOT}?bot_id=b7"), pat).await;
    let new = client.get("/v1/bots/b7", pat).await;
    assert_eq!(old.json["data"], new.json["data"]);
    client.mock.assert_clean();
    for (path, status, code) in [
        (OLD_BOTS.to_owned(), 400, 4000),
        (format!("{OLD_BOTS}?workspace_id=7002"), 400, 4000),
        (format!("{OLD_BOTS}?space_id=7002&page_index=0"), 400, 4000),
        (format!("{OLD_BOTS}?space_id=0"), 403, 4101),
        (OLD_BOT.to_owned(), 400, 4000),
        (format!("{OLD_BOT}?bot_id=0"), 403, 4101),
    ] {
        let reply = client.get(&path, pat).await;
        assert_eq!(
            (reply.status.as_u16(), reply.json["code"].as_i64()),
            (status, Some(code)),
            "{path}"
        );
        let nobody = client.get(&path, "nobody").await;
        assert_eq!(nobody.json["code"], 700_012_006, "{path}");
    }
}

#[tokio::test]
async fn a_token_reaches_only_resources_within_its_scope() {
    let client = Client::of(MockCoze::builder().workspace(Workspace::new("7002", "Other")));
    let page = authorize_url(
        "workspace_id/7002/",
        defaults::WEB_CLIENT_ID,
        REDIRECT,
        "xyz",
        "",
    );
    let tokens = client
        .post(
            TOKEN,
            defaults::WEB_CLIENT_SECRET,
            &web_code(&client.approved(&page)),
        )
        .await;
    let token = tokens.text("access_token");
    assert_eq!(
        client.get("/v1/workspaces", token).await.json["data"]["total_count"],
        1
    );
    assert_eq!(
        client.get("/v1/bots?workspace_id=7002", token).await.status,
        200
    );
    assert_eq!(
        client.get("/v1/bots?workspace_id=7001", token).await.json["code"],
        4101
    );
    for path in [
        "/v1/bots/7101".to_owned(),
        format!("{OLD_BOTS}?space_id=7001"),
        format!("{OLD_BOT}?bot_id=7101"),
    ] {
        assert_eq!(client.get(&path, token).await.json["code"], 4101, "{path}");
    }

    let scope = json!({"attribute_constraint": {"connector_bot_chat_attribute": {"bot_id_list": ["7102"]}}});
    let body = json!({"grant_type": JWT_GRANT, "scope": scope});
    let token = client
        .post(TOKEN, &JwtParts::good("1").signed(), &body)
        .await;
    assert_eq!(token.status, 200, "{}", token.json);
    assert_eq!(
        client
            .get("/v1/bots/7101", token.text("access_token"))
            .await
            .json["code"],
        4101
    );
    assert_eq!(
        client
            .get("/v1/bots/7102", token.text("access_token"))
            .await
            .json["code"],
        0
    );
}
