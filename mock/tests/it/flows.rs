//! Every flow from start to end, as a client uses it.

use crate::client::*;
use coze_mock::{App, Decision, Grant, MockCoze, defaults, fingerprint};
use serde_json::json;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test]
async fn a_web_app_exchanges_a_code_and_refreshes() {
    let client = Client::new();
    let callback = client
        .mock
        .authorize(&client.web_page(), Decision::Approve)
        .expect("a callback");
    assert!(
        callback
            .query_pairs()
            .any(|(name, value)| name == "state" && value == "xyz")
    );

    let first = client
        .post(
            TOKEN,
            defaults::WEB_CLIENT_SECRET,
            &web_code(&code_of(&callback)),
        )
        .await;
    assert_eq!(first.status, 200, "{}", first.json);
    assert!(first.text("access_token").starts_with("czu_"));
    assert_eq!(
        first.json["expires_in"],
        START + 900,
        "a point in time, not a duration"
    );
    assert_eq!(first.header("cache-control"), Some("no-store"));
    assert_eq!(
        client
            .get("/v1/users/me", first.text("access_token"))
            .await
            .status,
        200
    );

    let body = refresh(defaults::WEB_CLIENT_ID, first.text("refresh_token"));
    let second = client.post(TOKEN, defaults::WEB_CLIENT_SECRET, &body).await;
    assert_eq!(second.status, 200, "{}", second.json);
    assert_ne!(
        first.text("refresh_token"),
        second.text("refresh_token"),
        "a refresh token rotates"
    );
    let again = client.post(TOKEN, defaults::WEB_CLIENT_SECRET, &body).await;
    assert_eq!(again.refusal(), "400 invalid_grant");
    client.mock.assert_clean();
}

#[tokio::test]
async fn pkce_needs_no_credential() {
    let client = Client::new();
    let code = client.approved(&client.pkce_page());
    let first = client.post(TOKEN, "", &pkce_code(&code)).await;
    assert_eq!(first.status, 200, "{}", first.json);
    let body = refresh(defaults::PKCE_CLIENT_ID, first.text("refresh_token"));
    assert_eq!(client.post(TOKEN, "", &body).await.status, 200);
    client.mock.assert_clean();
}

#[tokio::test]
async fn device_polls_until_the_user_approves() {
    let client = Client::new();
    let device = client.start_device().await;
    assert_eq!(device.json["expires_in"], 300, "a duration here");
    assert_eq!(device.json["interval"], 5);
    let device_code = device.text("device_code");
    assert_eq!(
        client.poll(device_code).await.refusal(),
        "400 authorization_pending"
    );
    client.mock.clock().advance(Duration::from_secs(5));
    assert_eq!(
        client.poll(device_code).await.refusal(),
        "400 authorization_pending"
    );
    client
        .mock
        .approve_device(&device.text("user_code").to_lowercase())
        .expect("a pending device authorization");
    let tokens = client.poll(device_code).await;
    assert_eq!(tokens.status, 200, "{}", tokens.json);
    assert_eq!(
        client.poll(device_code).await.refusal(),
        "400 invalid_grant",
        "a device code is single-use"
    );
    let body = refresh(defaults::DEVICE_CLIENT_ID, tokens.text("refresh_token"));
    assert_eq!(client.post(TOKEN, "", &body).await.status, 200);
    client.mock.assert_clean();
}

#[tokio::test]
async fn jwt_works_at_each_of_its_endpoints() {
    let client = Client::new();
    let scope = json!({"account_permission": {"permission_list": ["Connector.botChat"]},
        "attribute_constraint": {"connector_bot_chat_attribute": {"bot_id_list": ["7101"]}}});
    let mut jwt = JwtParts::good("1");
    jwt.claims["session_name"] = json!("user 1");
    jwt.claims["session_context"] = json!({"device_info": {"device_id": "d1"}});
    let body = json!({"grant_type": JWT_GRANT, "duration_seconds": 86399, "scope": scope});
    let token = client.post(TOKEN, &jwt.signed(), &body).await;
    assert_eq!(token.status, 200, "{}", token.json);
    assert!(token.text("access_token").starts_with("czs_"));
    assert_eq!(token.json["expires_in"], START + 86399);
    assert!(token.json.get("refresh_token").is_none());
    let granted = client
        .mock
        .granted(token.text("access_token"))
        .expect("a valid token");
    assert_eq!(granted.flow, Grant::Jwt);
    assert_eq!(granted.session_name.as_deref(), Some("user 1"));
    assert_eq!(
        granted.session_context,
        Some(json!({"device_info": {"device_id": "d1"}}))
    );
    assert_eq!(granted.scope, Some(scope));

    let path = "/api/permission/oauth2/account/volcano_210195/token";
    let token = client
        .post(path, &JwtParts::good("2").signed(), &jwt_body())
        .await;
    assert_eq!(
        token.json["expires_in"],
        START + 900,
        "the server's default"
    );
    let granted = client
        .mock
        .granted(token.text("access_token"))
        .expect("a valid token");
    assert_eq!(granted.account_id.as_deref(), Some("volcano_210195"));

    let path = "/api/permission/oauth2/enterprise_id/a%2Fb%20c/token";
    let token = client
        .post(path, &JwtParts::good("3").signed(), &jwt_body())
        .await;
    let granted = client
        .mock
        .granted(token.text("access_token"))
        .expect("a valid token");
    assert_eq!(granted.enterprise_id.as_deref(), Some("a/b c"));
    client.mock.assert_clean();
}

#[tokio::test]
async fn a_workspace_in_the_path_limits_the_token() {
    let client = Client::new();
    let page = authorize_url(
        "workspace_id/7001/",
        defaults::WEB_CLIENT_ID,
        REDIRECT,
        "xyz",
        "",
    );
    let code = client.approved(&page);
    let tokens = client
        .post(TOKEN, defaults::WEB_CLIENT_SECRET, &web_code(&code))
        .await;
    let granted = client
        .mock
        .granted(tokens.text("access_token"))
        .expect("a valid token");
    assert_eq!(granted.workspace_id.as_deref(), Some("7001"));

    let path = "/api/permission/oauth2/workspace_id/7001/device/code";
    let device = client
        .post(path, "", &json!({"client_id": defaults::DEVICE_CLIENT_ID}))
        .await;
    client
        .mock
        .approve_device(device.text("user_code"))
        .expect("a pending device authorization");
    let tokens = client.poll(device.text("device_code")).await;
    let granted = client
        .mock
        .granted(tokens.text("access_token"))
        .expect("a valid token");
    assert_eq!(granted.workspace_id.as_deref(), Some("7001"));
    client.mock.assert_clean();
}

#[tokio::test]
async fn a_refusal_is_returned_with_the_state() {
    let client = Client::new();
    let callback = client
        .mock
        .authorize(&client.web_page(), Decision::Deny)
        .expect("a callback");
    assert_eq!(callback.query(), Some("error=access_denied&state=xyz"));
}

#[tokio::test]
async fn ids_that_an_app_may_not_use_are_refused() {
    let app = App::jwt("limited")
        .generated_key("k")
        .account("9001")
        .enterprise("ent_1");
    let client = Client::of(MockCoze::builder().app(app));
    for (number, (path, status)) in [
        ("account/9001", 200),
        ("account/9002", 400),
        ("enterprise_id/ent_1", 200),
        ("enterprise_id/ent_2", 400),
    ]
    .into_iter()
    .enumerate()
    {
        let mut jwt = JwtParts::good(&number.to_string());
        jwt.header["kid"] = json!("k");
        jwt.claims["iss"] = json!("limited");
        let reply = client
            .post(
                &format!("/api/permission/oauth2/{path}/token"),
                &jwt.signed(),
                &jwt_body(),
            )
            .await;
        assert_eq!(reply.status.as_u16(), status, "{path}: {}", reply.json);
    }
}

#[tokio::test]
async fn codes_and_tokens_expire() {
    let client = Client::new();
    let code = client.approved(&client.web_page());
    let tokens = client.web_tokens().await;
    client.mock.clock().advance(Duration::from_secs(600));
    let late = client
        .post(TOKEN, defaults::WEB_CLIENT_SECRET, &web_code(&code))
        .await;
    assert_eq!(late.refusal(), "400 invalid_grant");

    client.mock.clock().advance(Duration::from_secs(299));
    assert_eq!(
        client
            .get("/v1/users/me", tokens.text("access_token"))
            .await
            .status,
        200
    );
    client.mock.clock().advance(Duration::from_secs(1));
    assert_eq!(
        client
            .get("/v1/users/me", tokens.text("access_token"))
            .await
            .status,
        401
    );

    let body = refresh(defaults::WEB_CLIENT_ID, tokens.text("refresh_token"));
    client
        .mock
        .clock()
        .advance(30 * DAY - Duration::from_secs(901));
    let in_time = client.post(TOKEN, defaults::WEB_CLIENT_SECRET, &body).await;
    assert_eq!(in_time.status, 200, "{}", in_time.json);
    let body = refresh(defaults::WEB_CLIENT_ID, in_time.text("refresh_token"));
    client.mock.clock().advance(30 * DAY);
    assert_eq!(
        client
            .post(TOKEN, defaults::WEB_CLIENT_SECRET, &body)
            .await
            .refusal(),
        "400 invalid_grant"
    );
}

#[tokio::test]
async fn the_ledger_identifies_the_valid_refresh_token() {
    let client = Client::new();
    let first = client.web_tokens().await;
    let first_token = first.text("refresh_token");
    let second = client
        .post(
            TOKEN,
            defaults::WEB_CLIENT_SECRET,
            &refresh(defaults::WEB_CLIENT_ID, first_token),
        )
        .await;
    for _ in 0..2 {
        client
            .post(
                TOKEN,
                defaults::WEB_CLIENT_SECRET,
                &refresh(defaults::WEB_CLIENT_ID, first_token),
            )
            .await;
    }
    let ledger = client.mock.ledger();
    assert_eq!(ledger.len(), 1);
    assert_eq!(ledger[0].generations.len(), 2);
    assert_eq!(ledger[0].reuse_attempts(), 2);
    assert_eq!(
        ledger[0].live_refresh_token(),
        Some(fingerprint(second.text("refresh_token")).as_str())
    );
    assert_eq!(
        client
            .mock
            .sign_in_of(first_token)
            .map(|sign_in| sign_in.id),
        Some(1)
    );
    assert!(!format!("{ledger:?}").contains(first_token));
}

#[tokio::test]
async fn unknown_behaviours_of_coze_are_options() {
    for (reuse_revokes, refresh_revokes) in [(false, false), (true, false), (false, true)] {
        let builder = MockCoze::builder()
            .reuse_revokes_family(reuse_revokes)
            .refresh_revokes_access_token(refresh_revokes);
        let client = Client::of(builder);
        let first = client.web_tokens().await;
        let old = refresh(defaults::WEB_CLIENT_ID, first.text("refresh_token"));
        let second = client.post(TOKEN, defaults::WEB_CLIENT_SECRET, &old).await;
        let alive = |reply: &Reply| client.mock.granted(reply.text("access_token")).is_some();
        assert_eq!(alive(&first), !refresh_revokes);

        assert_eq!(
            client
                .post(TOKEN, defaults::WEB_CLIENT_SECRET, &old)
                .await
                .refusal(),
            "400 invalid_grant"
        );
        assert_eq!(alive(&second), !reuse_revokes);
        let new = refresh(defaults::WEB_CLIENT_ID, second.text("refresh_token"));
        let third = client.post(TOKEN, defaults::WEB_CLIENT_SECRET, &new).await;
        assert_eq!(third.status == 200, !reuse_revokes, "{}", third.json);
    }
}

#[tokio::test]
async fn an_ended_login_session_requires_a_new_sign_in() {
    let client = Client::new();
    let tokens = client.web_tokens().await;
    assert!(client.mock.end_login(tokens.text("refresh_token")));
    let body = refresh(defaults::WEB_CLIENT_ID, tokens.text("refresh_token"));
    let refused = client.post(TOKEN, defaults::WEB_CLIENT_SECRET, &body).await;
    assert_eq!(refused.refusal(), "403 access_deny");
    assert_eq!(refused.text("error_message"), "login session invalid");
    assert_eq!(client.web_tokens().await.status, 200);
}

#[tokio::test]
async fn revoking_a_sign_in_ends_all_its_tokens() {
    let client = Client::new();
    let tokens = client.web_tokens().await;
    assert!(client.mock.revoke_sign_in(tokens.text("refresh_token")));
    assert_eq!(
        client
            .get("/v1/users/me", tokens.text("access_token"))
            .await
            .json["code"],
        700_012_006
    );
    let body = refresh(defaults::WEB_CLIENT_ID, tokens.text("refresh_token"));
    assert_eq!(
        client
            .post(TOKEN, defaults::WEB_CLIENT_SECRET, &body)
            .await
            .refusal(),
        "400 invalid_grant"
    );
}

#[tokio::test(start_paused = true)]
async fn client_and_mock_share_paused_time() {
    let mock = MockCoze::builder()
        .clock(coze_mock::MockClock::following_tokio())
        .build()
        .expect("a mock");
    let client = Client::with(mock);
    let device = client.start_device().await;
    assert_eq!(
        client.poll(device.text("device_code")).await.refusal(),
        "400 authorization_pending"
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(
        client.poll(device.text("device_code")).await.refusal(),
        "400 authorization_pending"
    );
    tokio::time::sleep(Duration::from_secs(295)).await;
    assert_eq!(
        client.poll(device.text("device_code")).await.refusal(),
        "400 expired_token"
    );
}

#[tokio::test]
async fn reset_keeps_only_the_apps() {
    let client = Client::new();
    let tokens = client.web_tokens().await;
    client.post(TOKEN, "", &json!({})).await;
    client
        .mock
        .set_app_active(defaults::WEB_CLIENT_ID, false)
        .expect("an app");
    client.mock.reset();
    assert!(
        client.mock.requests().is_empty()
            && client.mock.violations().is_empty()
            && client.mock.ledger().is_empty()
    );
    assert_eq!(
        client
            .get("/v1/users/me", tokens.text("access_token"))
            .await
            .status,
        401
    );
    assert_eq!(
        client
            .get("/v1/users/me", defaults::PERSONAL_ACCESS_TOKEN)
            .await
            .status,
        200
    );
    assert_eq!(client.web_tokens().await.status, 200);
}

#[tokio::test]
async fn records_contain_no_secrets() {
    let client = Client::new();
    let code = client.approved(&client.pkce_page());
    let tokens = client.post(TOKEN, "", &pkce_code(&code)).await;
    client
        .post(
            TOKEN,
            "",
            &refresh(defaults::PKCE_CLIENT_ID, tokens.text("refresh_token")),
        )
        .await;
    client
        .get("/v1/users/me", tokens.text("access_token"))
        .await;
    client.web_tokens().await;
    let jwt = JwtParts::good("1").signed();
    client.post(TOKEN, &jwt, &jwt_body()).await;
    let mut misplaced = web_code("code-secret");
    misplaced["client_secret"] = json!(defaults::WEB_CLIENT_SECRET);
    client
        .post(
            &format!("{TOKEN}?refresh_token=query-secret"),
            "",
            &misplaced,
        )
        .await;

    let listed = [
        format!("{:?}", client.mock.requests()),
        serde_json::to_string(&client.mock.requests()).expect("JSON"),
        format!(
            "{:?} {:?} {:?}",
            client.mock.violations(),
            client.mock.notes(),
            client.mock.ledger()
        ),
        format!("{:?} {:?}", client.mock, client.mock.apps()),
    ]
    .join("\n");
    let signature = jwt.rsplit('.').next().expect("a signature");
    for secret in [
        code.as_str(),
        VERIFIER,
        tokens.text("access_token"),
        tokens.text("refresh_token"),
        defaults::WEB_CLIENT_SECRET,
        signature,
        "code-secret",
        "query-secret",
    ] {
        assert!(!listed.contains(secret), "{secret} is listed");
    }
    assert!(
        listed.contains(&fingerprint(&code)),
        "the fingerprint of the code is listed"
    );
    assert!(
        listed.contains(defaults::JWT_CLIENT_ID),
        "the claims of the JWT are listed"
    );
}
