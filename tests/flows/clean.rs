//! Every flow against the strict mock, which refuses whatever Coze does not document.
//! What was granted is compared with what was requested.

use std::sync::{Arc, Mutex};

use coze_auth::{ErrorCode, ErrorKind, Flow, JwtTokenRequest, Poll, Scope, Token, UserFlow};
use coze_mock::{Decision, Grant, defaults};
use serde_json::json;

use crate::support::{REDIRECT_URI, START, Stage, pass, secs, unix};

const WORKSPACE: &str = defaults::WORKSPACE_ID;

/// Checks the properties of a token of a user's sign-in.
#[track_caller]
fn assert_is_a_users(stage: &Stage, token: &Token, flow: Grant, client_id: &str) {
    let granted = stage.granted(token);
    assert_eq!(
        (granted.flow, granted.client_id.as_str()),
        (flow, client_id)
    );
    let refresh_token = token.refresh_token().expect("a refresh token");
    let sign_in = stage.mock.sign_in_of(refresh_token.expose()).unwrap();
    assert_eq!(granted.sign_in, Some(sign_in.id));
    assert_eq!(
        sign_in.live_refresh_token(),
        Some(coze_mock::fingerprint(refresh_token.expose()).as_str()),
        "the refresh token is the current one"
    );
    let expires_at = granted.expires_at.map(unix);
    assert_eq!(
        Some(token.expires_at()),
        expires_at,
        "client and mock agree on the expiry"
    );
    assert_eq!(
        token.log_id(),
        Some(stage.last_log_id().as_str()),
        "the log id is that of the response"
    );
}

#[tokio::test(start_paused = true)]
async fn a_web_app_signs_a_user_in() {
    let stage = Stage::new();
    let token = stage.web_sign_in().await;
    assert_is_a_users(
        &stage,
        &token,
        Grant::AuthorizationCode,
        defaults::WEB_CLIENT_ID,
    );
    assert_eq!(stage.granted(&token).workspace_id, None);
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_web_app_signs_a_user_in_to_one_workspace() {
    let stage = Stage::new();
    let web = stage.web();
    let (page, login) = web
        .login(REDIRECT_URI)
        .workspace(WORKSPACE)
        .begin()
        .unwrap();
    let callback = stage.person(page.as_str(), Decision::Approve);
    let token = web.complete(login, &callback).await.unwrap();
    let workspace_id = stage.granted(&token).workspace_id;
    assert_eq!(workspace_id.as_deref(), Some(WORKSPACE));

    let next = web.refresh(token.refresh_token().unwrap()).await.unwrap();
    let workspace_id = stage.granted(&next).workspace_id;
    assert_eq!(
        workspace_id.as_deref(),
        Some(WORKSPACE),
        "it stays limited to the workspace"
    );
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_user_who_refuses_a_web_app_causes_access_denied() {
    let stage = Stage::new();
    let web = stage.web();
    let (page, login) = web.login(REDIRECT_URI).begin().unwrap();
    let callback = stage.person(page.as_str(), Decision::Deny);
    let error = web.complete(login, &callback).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(error.code(), Some(&ErrorCode::AccessDenied));
    assert_eq!(stage.network.attempts(), 0, "no code is exchanged");
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_code_is_single_use() {
    let stage = Stage::new();
    let web = stage.web();
    let (page, login) = web.login(REDIRECT_URI).begin().unwrap();
    let callback = stage.person(page.as_str(), Decision::Approve);
    web.complete(login.clone(), &callback).await.unwrap();
    let error = web.complete(login, &callback).await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::InvalidGrant));
    assert_eq!(error.flow(), Some(Flow::Web));
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_public_client_signs_a_user_in_with_pkce() {
    let stage = Stage::new();
    let token = stage.pkce_sign_in().await;
    assert_is_a_users(
        &stage,
        &token,
        Grant::AuthorizationCode,
        defaults::PKCE_CLIENT_ID,
    );
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_public_client_signs_a_user_in_to_one_workspace() {
    let stage = Stage::new();
    let pkce = stage.pkce();
    let login = pkce.login(REDIRECT_URI).workspace(WORKSPACE);
    let (page, login) = login.begin().unwrap();
    let callback = stage.person(page.as_str(), Decision::Approve);
    let token = pkce.complete(login, &callback).await.unwrap();
    let workspace_id = stage.granted(&token).workspace_id;
    assert_eq!(workspace_id.as_deref(), Some(WORKSPACE));
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn the_verifier_of_another_login_does_not_redeem_a_code() {
    let stage = Stage::new();
    let pkce = stage.pkce();
    let login = || pkce.login(REDIRECT_URI).state("the same").begin().unwrap();
    let (page, _) = login();
    let (_, other_login) = login();
    let callback = stage.person(page.as_str(), Decision::Approve);
    let error = pkce.complete(other_login, &callback).await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::InvalidGrant));
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_device_polls_until_its_user_approves() {
    let stage = Stage::new();
    let device = stage.device();
    let authorization = device.start().await.unwrap();
    let mock = stage.mock.clone();
    let user_code = authorization.user_code().to_owned();
    let person = tokio::spawn(async move {
        pass(secs(32)).await;
        mock.approve_device(&user_code).unwrap();
    });
    let token = device.poll(&authorization).await.unwrap();
    person.await.unwrap();
    assert_is_a_users(&stage, &token, Grant::Device, defaults::DEVICE_CLIENT_ID);
    let at: Vec<_> = stage
        .token_requests()
        .iter()
        .map(|request| request.at_unix_ms / 1000 - START)
        .collect();
    assert_eq!(at, [5, 10, 15, 20, 25, 30, 35], "once per interval");
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_device_signs_a_user_in_to_one_workspace() {
    let stage = Stage::new();
    let device = stage.device();
    let authorization = device.start_in_workspace(WORKSPACE).await.unwrap();
    stage
        .mock
        .approve_device(authorization.user_code())
        .unwrap();
    let token = device.poll(&authorization).await.unwrap();
    let workspace_id = stage.granted(&token).workspace_id;
    assert_eq!(workspace_id.as_deref(), Some(WORKSPACE));
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_device_that_its_user_refuses_stops_polling() {
    let stage = Stage::new();
    let device = stage.device();
    let authorization = device.start().await.unwrap();
    stage.mock.deny_device(authorization.user_code()).unwrap();
    let error = device.poll(&authorization).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(error.code(), Some(&ErrorCode::AccessDenied));
    assert_eq!(stage.token_requests().len(), 1);
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn slow_down_increases_the_interval_permanently() {
    let stage = Stage::new();
    let device = stage.device();
    let authorization = device.start().await.unwrap();
    let slowed = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&slowed);
    let mock = stage.mock.clone();
    let user_code = authorization.user_code().to_owned();
    let polling = device.poll_with(&authorization, move |step| {
        let slow = step.error.is_none() && step.requests == 1;
        seen.lock().unwrap().push((slow, step.next_in));
        if step.requests == 3 {
            mock.approve_device(&user_code).unwrap();
        }
    });
    // Another poll 3 s earlier makes the next one too early for the mock.
    let impatient = async {
        pass(secs(2)).await;
        let asked = device.poll_once(&authorization).await.unwrap();
        assert!(
            matches!(asked, Poll::Pending),
            "the first poll may be immediate"
        );
    };
    let (token, ()) = tokio::join!(polling, impatient);
    let token = token.unwrap();
    assert_eq!(
        *slowed.lock().unwrap(),
        [(true, secs(10)), (false, secs(10)), (false, secs(10))],
    );
    assert_eq!(stage.granted(&token).flow, Grant::Device);
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn an_unconfirmed_device_code_expires() {
    let stage = Stage::new();
    let device = stage.device();
    let authorization = device.start().await.unwrap();
    let began = tokio::time::Instant::now();
    let error = device.poll(&authorization).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceCodeExpired);
    assert_eq!(
        began.elapsed(),
        secs(300),
        "the lifetime that the mock granted"
    );
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn each_user_flow_refreshes() {
    let stage = Stage::new();
    let (web, pkce, device) = (
        stage.web_sign_in().await,
        stage.pkce_sign_in().await,
        stage.device_sign_in().await,
    );
    pass(secs(600)).await;
    let refresh_token = |token: &Token| token.refresh_token().unwrap().clone();
    for (flow, client_id, first, next) in [
        (
            Grant::AuthorizationCode,
            defaults::WEB_CLIENT_ID,
            &web,
            stage.web().refresh(&refresh_token(&web)).await,
        ),
        (
            Grant::AuthorizationCode,
            defaults::PKCE_CLIENT_ID,
            &pkce,
            stage.pkce().refresh(&refresh_token(&pkce)).await,
        ),
        (
            Grant::Device,
            defaults::DEVICE_CLIENT_ID,
            &device,
            stage.device().refresh(&refresh_token(&device)).await,
        ),
    ] {
        let next = next.unwrap();
        let granted = stage.granted(&next);
        assert_eq!(
            (granted.flow, granted.client_id.as_str()),
            (flow, client_id)
        );
        assert_eq!(granted.sign_in, stage.granted(first).sign_in);
        assert_eq!(
            granted.expires_at,
            Some(stage.mock.clock().unix_seconds() + 900)
        );
        let sign_in = stage
            .mock
            .sign_in_of(refresh_token(first).expose())
            .unwrap();
        let live = coze_mock::fingerprint(refresh_token(&next).expose());
        assert_eq!(
            sign_in.live_refresh_token(),
            Some(live.as_str()),
            "{client_id}"
        );
        assert_eq!(sign_in.generations.len(), 2, "{client_id}");
        assert_eq!(sign_in.reuse_attempts(), 0, "{client_id}");
    }
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_redeemed_refresh_token_requires_sign_in() {
    let stage = Stage::new();
    let token = stage.pkce_sign_in().await;
    let refresh_token = token.refresh_token().unwrap();
    stage.pkce().refresh(refresh_token).await.unwrap();
    let error = stage.pkce().refresh(refresh_token).await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::InvalidGrant));
    assert!(error.hint().contains("sign in again"), "{error}");
    stage.mock.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_service_gets_the_requested_token() {
    let bots = ["7101", "7102"];
    let scope_sent = json!({
        "account_permission": {"permission_list": ["Connector.botChat"]},
        "attribute_constraint": {"connector_bot_chat_attribute": {"bot_id_list": bots}},
    });
    let new = JwtTokenRequest::default;
    let cases = [
        ("plain", new()),
        ("duration", new().duration(secs(86_399))),
        ("scope", new().scope(Scope::bot_chat(bots))),
        ("session name", new().session_name("user 1 / 用户")),
        ("device", new().device_id("sensor-1")),
        ("consumer", new().custom_consumer("tenant-1")),
        ("account", new().account("9001")),
        ("enterprise", new().enterprise("volcano_210195")),
        (
            "all",
            new()
                .duration(secs(60))
                .scope(Scope::bot_chat(bots))
                .session_name("user 2")
                .account("a/b c"),
        ),
    ];
    let stage = Stage::new();
    for (case, request) in cases {
        let token = stage.jwt().token_for(&request).await.unwrap();
        let granted = stage.granted(&token);
        assert_eq!(granted.flow, Grant::Jwt, "{case}");
        assert_eq!(granted.client_id, defaults::JWT_CLIENT_ID, "{case}");
        let lifetime = match case {
            "duration" => 86_399,
            "all" => 60,
            _ => 900,
        };
        assert_eq!(granted.expires_at, Some(START + lifetime), "{case}");
        assert_eq!(token.remaining(), secs(lifetime), "{case}");
        assert!(token.refresh_token().is_none(), "{case}");
        let scope = matches!(case, "scope" | "all").then(|| scope_sent.clone());
        assert_eq!(granted.scope, scope, "{case}");
        let session_name = match case {
            "session name" => Some("user 1 / 用户"),
            "all" => Some("user 2"),
            _ => None,
        };
        assert_eq!(granted.session_name.as_deref(), session_name, "{case}");
        let context = match case {
            "device" => Some(json!({"device_info": {"device_id": "sensor-1"}})),
            "consumer" => Some(json!({"device_info": {"custom_consumer": "tenant-1"}})),
            _ => None,
        };
        assert_eq!(granted.session_context, context, "{case}");
        let account = match case {
            "account" => Some("9001"),
            "all" => Some("a/b c"),
            _ => None,
        };
        assert_eq!(granted.account_id.as_deref(), account, "{case}");
        let enterprise = (case == "enterprise").then_some("volcano_210195");
        assert_eq!(granted.enterprise_id.as_deref(), enterprise, "{case}");
    }
    stage.mock.assert_clean();
    assert!(stage.mock.notes().is_empty(), "{:?}", stage.mock.notes());
}

#[tokio::test(start_paused = true)]
async fn every_jwt_is_unique() {
    let stage = Stage::new();
    let jwt = stage.jwt();
    for _ in 0..20 {
        jwt.token().await.unwrap();
    }
    let mut ids: Vec<_> = stage
        .jwt_claims("jti")
        .iter()
        .map(|jti| jti.as_str().unwrap().to_owned())
        .collect();
    assert!(ids.iter().all(|jti| jti.len() > 32), "as recommended");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20);
    stage.mock.assert_clean();
}
