//! Responses that deviate from the documentation must not harm a user: no lost sign-in, no endless
//! login, no expired token. The mock sends such responses, and knows which tokens are valid.

use std::time::Duration;

use coze_api::{CozeApi, SendExt, types};
use coze_auth::{
    AccessToken, CachedProvider, Endpoint, Error, ErrorCode, ErrorKind, JwtTokenRequest,
    OAuthClient, PkceFlow, Result, SignIn, Token, TokenProvider, UserFlow, reqwest,
    sign_in::Record,
    store::{MemoryStore, Store},
};
use coze_auth_stores::FileStore;
use coze_mock::{
    Decision, Edit, EditedResponse, Endpoint as MockEndpoint, ExpiryForm, Fault, Framing, MockCoze,
    Place, ScriptedResponse, Target, Times, defaults,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::provider::Traced;
use crate::support::{REDIRECT_URI, START, Stage, millis, pass, secs};

/// A user's stored sign-in, and the program that uses it.
struct Kept {
    stage: Stage,
    sign_in: SignIn,
    provider: CachedProvider,
}

impl Kept {
    async fn new() -> Self {
        Self::in_store(MemoryStore::new()).await
    }

    async fn in_store(store: impl Store) -> Self {
        let stage = Stage::new();
        let sign_in = SignIn::new(store, "default").unwrap();
        sign_in.put(&stage.pkce_sign_in().await).await.unwrap();
        Self {
            provider: provider(&stage, &sign_in),
            stage,
            sign_in,
        }
    }

    /// Plans this response for the given number of refreshes.
    fn answers(&self, fault: impl Into<Fault>, times: Times) {
        self.stage
            .mock
            .faults()
            .add(fault, Target::refresh(), times);
    }

    /// Lets the access token expire, and requests one.
    async fn token_after_the_end(&self) -> Result<AccessToken> {
        pass(secs(901)).await;
        self.provider.token().await
    }

    /// Lets the API refuse the access token, and requests another. A file store measures age by the real
    /// clock, which does not advance here.
    async fn renewed(&self, why: &str) {
        let refused = self.provider.token().await;
        let refused = refused.unwrap_or_else(|error| panic!("{why}: {error}"));
        self.stage.mock.revoke_access_token(refused.expose());
        self.provider.invalidate(&refused);
        let token = self.provider.token().await;
        let token = token.unwrap_or_else(|error| panic!("{why}: {error}"));
        assert!(self.stage.takes(&token), "{why}");
    }

    async fn record(&self) -> Record {
        let stored = self.sign_in.load().await.unwrap();
        stored.expect("a sign-in is stored")
    }

    fn refreshes(&self) -> usize {
        self.stage.token_requests().len() - 1
    }

    /// The sign-in is intact: the valid refresh token is stored, and no redeemed one was sent.
    async fn assert_not_lost(&self, why: &str) {
        let record = self.record().await;
        assert!(record.ended().is_none(), "{why}: marked as ended");
        let refresh_token = record.refresh_token().expose();
        let sign_in = self.stage.mock.sign_in_of(refresh_token);
        let sign_in = sign_in.unwrap_or_else(|| panic!("{why}: an unknown token is stored"));
        let live = sign_in.live_refresh_token().map(str::to_owned);
        let stored = coze_mock::fingerprint(refresh_token);
        assert_eq!(live, Some(stored), "{why}: a redeemed token is stored");
        assert_eq!(sign_in.reuse_attempts(), 0, "{why}");
    }

    /// The sign-in can still be refreshed.
    async fn assert_goes_on(&self, why: &str) {
        self.assert_not_lost(why).await;
        pass(secs(3700)).await;
        let token = self.provider.token().await;
        let token = token.unwrap_or_else(|error| panic!("{why}: {error}"));
        assert!(self.stage.takes(&token), "{why}");
        self.assert_not_lost(why).await;
    }
}

fn provider(stage: &Stage, sign_in: &SignIn) -> CachedProvider {
    CachedProvider::stored(stage.pkce(), sign_in.clone()).build()
}

fn edited(edit: Edit) -> EditedResponse {
    EditedResponse::new([edit])
}

fn expires_in(value: impl Into<Value>) -> EditedResponse {
    edited(Edit::set("/expires_in", value))
}

fn framed(framing: Framing) -> EditedResponse {
    EditedResponse::new([]).framed(framing)
}

// 1. Sign-ins are not lost

#[tokio::test(start_paused = true)]
async fn an_unreadable_expiry_does_not_sign_a_user_out() {
    let relative_millis = edited(Edit::expiry(ExpiryForm::RelativeMillis));
    for answer in [
        edited(Edit::remove("/expires_in")),
        expires_in("900"),
        expires_in("soon"),
        expires_in(""),
        expires_in(Value::Null),
        expires_in(true),
        expires_in(json!({"seconds": 900})),
        expires_in(json!([900])),
        expires_in(1e300),
        expires_in(u64::MAX),
        expires_in(10 * 365 * 24 * 3600),
        expires_in(START + 10 * 365 * 24 * 3600),
        relative_millis,
    ] {
        let kept = Kept::new().await;
        let why = format!("{answer:?}");
        kept.answers(answer, Times::ONCE);
        let token = kept.token_after_the_end().await;
        let token = token.unwrap_or_else(|error| panic!("{why}: {error}"));
        assert!(kept.stage.takes(&token), "{why}");
        let life = kept.record().await.life();
        assert!(life > secs(890) && life <= secs(900), "{why}: {life:?}");
        assert_eq!(kept.refreshes(), 1, "{why}");
        kept.assert_goes_on(&why).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_expiry_does_not_lose_a_first_login() {
    for answer in [edited(Edit::remove("/expires_in")), expires_in("900")] {
        let stage = Stage::new();
        let faults = stage.mock.faults();
        for sign_in in 0..3 {
            faults.add(answer.clone(), MockEndpoint::Token, Times::ONCE);
            let token = match sign_in {
                0 => stage.web_sign_in().await,
                1 => stage.pkce_sign_in().await,
                _ => stage.device_sign_in().await,
            };
            assert!(faults.pending().is_empty());
            stage.granted(&token);
            assert!(token.refresh_token().is_some());
            assert_eq!(token.remaining().as_secs().div_ceil(10), 90);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_assumed_lifetime_is_logged_once() {
    let (traced, _watching) = Traced::from_now_on();
    let kept = Kept::new().await;
    kept.answers(edited(Edit::remove("/expires_in")), Times::Forever);
    for _ in 0..3 {
        kept.token_after_the_end().await.unwrap();
    }
    let traced = traced.text();
    let told: Vec<_> = traced
        .lines()
        .filter(|line| line.contains("expires_in"))
        .collect();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].contains("WARN"), "{told:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_missing_expiry_respects_the_requested_duration() {
    let stage = Stage::new();
    stage.mock.faults().add(
        edited(Edit::remove("/expires_in")),
        MockEndpoint::Token,
        Times::Forever,
    );
    let request = JwtTokenRequest::default().duration(secs(60));
    let provider = CachedProvider::jwt_for(stage.jwt(), request).build();
    for _ in 0..30 {
        let token = provider.token().await.unwrap();
        assert!(stage.takes(&token), "an expired token was served");
        pass(secs(7)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_unusable_access_token_does_not_lose_the_sign_in() {
    for (edit, named) in [
        (Edit::set("/access_token", "two\r\nlines"), "access"),
        (Edit::set("/access_token", "\u{1f511}"), "access"),
        (Edit::set("/access_token", ""), "access_token"),
        (Edit::set("/access_token", 7), "access_token is a number"),
        (
            Edit::set("/access_token", json!({"a": "hush"})),
            "access_token is an object",
        ),
        (Edit::remove("/access_token"), "access_token"),
        (Edit::set("/token_type", "mac"), "token"),
        (Edit::set("/token_type", "DPoP"), "token"),
    ] {
        let kept = Kept::new().await;
        let why = format!("{edit:?}");
        kept.answers(edited(edit), Times::ONCE);
        let error = kept.token_after_the_end().await.unwrap_err();
        assert!(!error.needs_sign_in(), "{why}: {error}");
        assert_eq!(error.code(), None, "{why}: {error}");
        assert!(error.to_string().contains(named), "{why}: {error}");
        assert!(!format!("{error} {error:?}").contains("hush"), "{why}");
        kept.assert_not_lost(&why).await;

        pass(secs(5)).await;
        let token = kept.provider.token().await;
        let token = token.unwrap_or_else(|error| panic!("{why}: {error}"));
        assert!(kept.stage.takes(&token), "{why}");
        assert_eq!(kept.refreshes(), 2, "{why}");
        kept.assert_goes_on(&why).await;
    }
}

#[tokio::test(start_paused = true)]
async fn unusable_access_tokens_do_not_cause_a_refresh_per_caller() {
    for answer in [
        edited(Edit::set("/token_type", "mac")),
        edited(Edit::remove("/access_token")),
        framed(Framing::new().cut_behind("refresh_token").missing(40)),
    ] {
        let kept = Kept::new().await;
        let why = format!("{answer:?}");
        pass(secs(901)).await;
        kept.answers(answer, Times::Forever);
        for _ in 0..600 {
            let error = kept.provider.token().await.unwrap_err();
            assert!(!error.needs_sign_in(), "{why}: {error}");
            pass(millis(100)).await;
        }
        let refreshes = kept.refreshes();
        assert!(refreshes <= 12, "{why}: {refreshes} refreshes in a minute");
        kept.stage.mock.faults().clear();
        pass(secs(60)).await;
        kept.assert_goes_on(&why).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_field_does_not_lose_the_sign_in() {
    for (name, value) in [
        ("/access_token", json!("another one")),
        ("/refresh_token", json!("another one")),
        ("/refresh_token", json!(null)),
        ("/refresh_token", json!({"of another": "type"})),
        ("/expires_in", json!(7)),
        ("/token_type", json!("mac")),
    ] {
        let kept = Kept::new().await;
        let why = format!("{name} {value}");
        kept.answers(edited(Edit::repeat(name, value, Place::Last)), Times::ONCE);
        let token = kept.token_after_the_end().await;
        let token = token.unwrap_or_else(|error| panic!("{why}: {error}"));
        assert!(kept.stage.takes(&token), "{why}");
        kept.assert_goes_on(&why).await;
    }
}

/// Broken framings around complete JSON.
fn broken_framings() -> [Framing; 6] {
    [
        Framing::new().without_last_chunk(),
        Framing::new().missing(1),
        Framing::new().missing(100_000),
        Framing::new().behind("\n<!-- added by a proxy -->"),
        Framing::new()
            .behind("}{\"error\":\"invalid_grant\"}")
            .missing(3),
        Framing::new().before("\u{feff}"),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_after_the_json_does_not_lose_the_sign_in() {
    for framing in broken_framings() {
        let kept = Kept::new().await;
        let why = format!("{framing:?}");
        kept.answers(framed(framing), Times::ONCE);
        let token = kept.token_after_the_end().await;
        let token = token.unwrap_or_else(|error| panic!("{why}: {error}"));
        assert!(kept.stage.takes(&token), "{why}");
        assert_eq!(kept.refreshes(), 1, "{why}");
        kept.assert_goes_on(&why).await;
    }
}

#[tokio::test]
async fn a_socket_that_breaks_after_the_json_does_not_lose_the_sign_in() {
    let mock = MockCoze::start().await.unwrap();
    let client = OAuthClient::builder()
        .endpoint(Endpoint::custom(mock.url()).unwrap())
        .http(|| reqwest::Client::builder().no_proxy())
        .build()
        .unwrap();
    let pkce = PkceFlow::new(client, defaults::PKCE_CLIENT_ID).unwrap();
    let (page, login) = pkce.login(REDIRECT_URI).begin().unwrap();
    let callback = mock.authorize(page.as_str(), Decision::Approve).unwrap();
    let mut token = pkce.complete(login, callback.as_str()).await.unwrap();
    for framing in broken_framings() {
        let why = format!("{framing:?}");
        mock.faults()
            .add(framed(framing), Target::refresh(), Times::ONCE);
        let next = pkce.refresh(token.refresh_token().unwrap()).await;
        token = next.unwrap_or_else(|error| panic!("{why}: {error}"));
        assert!(mock.granted(token.access_token().expose()).is_some());
    }
    let sign_in = mock.sign_in_of(token.refresh_token().unwrap().expose());
    assert_eq!(sign_in.unwrap().reuse_attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_response_truncated_after_the_refresh_token_keeps_the_sign_in() {
    for framing in [
        Framing::new().cut_behind("refresh_token"),
        Framing::new().cut_behind("refresh_token").missing(22),
        Framing::new()
            .cut_behind("refresh_token")
            .without_last_chunk(),
        Framing::new().cut_behind("token_type").missing(1),
    ] {
        let kept = Kept::new().await;
        let why = format!("{framing:?}");
        kept.answers(framed(framing), Times::ONCE);
        let error = kept.token_after_the_end().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{why}: {error}");
        assert_eq!(
            kept.refreshes(),
            1,
            "{why}: no redeemed token is sent again"
        );
        kept.assert_not_lost(&why).await;
        pass(secs(5)).await;
        let token = kept.provider.token().await;
        let token = token.unwrap_or_else(|error| panic!("{why}: {error}"));
        assert!(kept.stage.takes(&token), "{why}");
        kept.assert_goes_on(&why).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_expiry_in_milliseconds_is_recognised() {
    for text in [false, true] {
        let kept = Kept::new().await;
        let millis = Edit::Expiry {
            form: ExpiryForm::AbsoluteMillis,
            text,
            shift_seconds: 0,
        };
        kept.answers(edited(millis), Times::Forever);
        // A token that counts as valid for five centuries would be served after its expiry.
        for _ in 0..5 {
            let token = kept.token_after_the_end().await.unwrap();
            assert!(kept.stage.takes(&token), "an expired token was served");
            let life = kept.record().await.life();
            assert!(life > secs(890) && life <= secs(900), "{life:?}");
        }
        kept.assert_goes_on("milliseconds").await;
    }
}

#[tokio::test(start_paused = true)]
async fn expired_tokens_do_not_cause_a_refresh_per_caller() {
    let past = Edit::Expiry {
        form: ExpiryForm::Absolute,
        text: false,
        shift_seconds: -1000,
    };
    for answer in [expires_in(0), expires_in("0"), expires_in(-5), edited(past)] {
        let kept = Kept::new().await;
        let why = format!("{answer:?}");
        pass(secs(901)).await;
        kept.answers(answer, Times::Forever);
        for _ in 0..600 {
            let _ = kept.provider.token().await;
            pass(millis(100)).await;
        }
        let refreshes = kept.refreshes();
        assert!(refreshes <= 12, "{why}: {refreshes} refreshes in a minute");
        kept.stage.mock.faults().clear();
        pass(secs(60)).await;
        kept.assert_goes_on(&why).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_can_sign_in_despite_invalid_times() {
    let interval = |value: Value| Edit::set("/interval", value);
    let life = |value: Value| Edit::set("/expires_in", value);
    for (edits, seconds, expires_in) in [
        (vec![Edit::remove("/interval")], 5.0, 300),
        (vec![interval(json!(null))], 5.0, 300),
        (vec![interval(json!("5"))], 5.0, 300),
        (vec![interval(json!("7"))], 7.0, 300),
        (vec![interval(json!(5.5))], 5.5, 300),
        (vec![interval(json!("soon"))], 5.0, 300),
        (vec![interval(json!({}))], 5.0, 300),
        (vec![interval(json!(-1))], 5.0, 300),
        (vec![interval(json!(365 * 24 * 3600))], 5.0, 300),
        (vec![Edit::remove("/expires_in")], 5.0, 300),
        (vec![life(json!("300"))], 5.0, 300),
        (vec![life(json!(null))], 5.0, 300),
        (vec![life(json!(true))], 5.0, 300),
        (vec![life(json!(START + 300))], 5.0, 300),
        (vec![life(json!((START + 300).to_string()))], 5.0, 300),
        (vec![life(json!((START + 300) * 1000))], 5.0, 300),
        (vec![life(json!(365 * 24 * 3600))], 5.0, 300),
        (vec![interval(json!("x")), life(json!("x"))], 5.0, 300),
    ] {
        let why = format!("{edits:?}");
        let stage = Stage::new();
        stage.mock.faults().add(
            EditedResponse::new(edits),
            MockEndpoint::DeviceCode,
            Times::ONCE,
        );
        let device = stage.device();
        let started = device.start().await;
        let authorization = started.unwrap_or_else(|error| panic!("{why}: {error}"));
        // A clamped interval, or the intended one.
        let expected = Duration::from_secs_f64(seconds);
        assert_eq!(authorization.interval(), expected, "{why}");
        assert_eq!(authorization.expires_in(), secs(expires_in), "{why}");
        stage
            .mock
            .approve_device(authorization.user_code())
            .unwrap();
        let began = Instant::now();
        let token = device.poll(&authorization).await;
        let token = token.unwrap_or_else(|error| panic!("{why}: {error}"));
        stage.granted(&token);
        assert!(began.elapsed() < secs(10), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_with_unusual_characters_is_stored_and_used() {
    for refresh_token in [
        "white space",
        " around ",
        "\ttab\r\nlines\n",
        "\u{0}\u{1}\u{7f}",
        "\"quotes\" and \\ and \u{1f511} and \u{2028}",
    ] {
        let why = format!("{refresh_token:?}");
        let folder = tempfile::tempdir().unwrap();
        let file = || FileStore::new(folder.path().join("sign-ins"));
        let kept = Kept::in_store(file()).await;
        kept.answers(
            edited(Edit::set("/refresh_token", refresh_token)),
            Times::ONCE,
        );
        kept.renewed(&why).await;
        let stored = kept.record().await;
        assert_eq!(stored.refresh_token().expose(), refresh_token, "{why}");

        // A program that starts later loads it, and refreshes.
        let sign_in = SignIn::new(file(), "default").unwrap();
        assert!(!sign_in.requires_sign_in().await.unwrap(), "{why}");
        let later = Kept {
            provider: provider(&kept.stage, &sign_in),
            sign_in,
            ..kept
        };
        pass(secs(60)).await;
        later.renewed(&why).await;
        later.assert_not_lost(&why).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_of_a_wrong_type_keeps_the_stored_one() {
    for value in [json!(7), json!(null), json!({"a": 1}), json!("")] {
        let kept = Kept::new().await;
        let before = kept.record().await;
        let why = value.to_string();
        kept.answers(edited(Edit::set("/refresh_token", value)), Times::ONCE);
        let token = kept.token_after_the_end().await;
        let token = token.unwrap_or_else(|error| panic!("{why}: {error}"));
        assert!(kept.stage.takes(&token), "{why}");
        let after = kept.record().await;
        let kept = after.refresh_token().expose();
        assert_eq!(kept, before.refresh_token().expose(), "{why}");
        assert!(after.ended().is_none(), "{why}");
    }
}

/// Error bodies that deviate slightly from the documented ones.
fn pending_bodies() -> Vec<ScriptedResponse> {
    let word = "authorization_pending";
    let at = |status, body: Value| ScriptedResponse::new(status, body);
    vec![
        at(400, json!({"error": word})),
        at(400, json!({"error_code": word})),
        at(200, json!({"error": word, "error_code": word})),
        at(500, json!({"error": word})),
        at(
            400,
            json!({"error_code": word, "error": {"logid": "20261004095709"}}),
        ),
        at(400, json!({"error": {"code": word, "message": "wait"}})),
        at(
            400,
            json!({"error": word, "access_token": null, "expires_in": "x"}),
        ),
        ScriptedResponse::new(
            400,
            b"{\"error\":\"authorization_pending\",\"error_description\":\"\xff\xfe\"}".to_vec(),
        ),
        at(400, json!({"error": word})).framed(Framing::new().before("\u{feff}")),
        at(400, json!({"error": word})).framed(Framing::new().behind("\n--\n")),
        at(400, json!({"error": word})).framed(Framing::new().missing(9)),
        at(400, json!({"error": word})).header("Content-Type", "text/plain"),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_login_continues_for_every_form_of_pending() {
    for pending in pending_bodies() {
        let why = format!("{pending:?}");
        let stage = Stage::new();
        stage
            .mock
            .faults()
            .add(pending, MockEndpoint::Token, Times::Next(3));
        let device = stage.device();
        let authorization = device.start().await.unwrap();
        stage
            .mock
            .approve_device(authorization.user_code())
            .unwrap();
        let mut failed = Vec::new();
        let token = device
            .poll_with(&authorization, |step| {
                if let Some(error) = &step.error {
                    failed.push(error.clone());
                }
            })
            .await;
        let token = token.unwrap_or_else(|error| panic!("{why}: {error}"));
        stage.granted(&token);
        assert!(failed.is_empty(), "{why}: {failed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_undocumented_error_is_reported_with_its_message() {
    let text = "kid not known";
    for (body, code, message, log_id) in [
        (json!({"error_message": text}), None, text, None),
        (
            json!({"code": "4100", "msg": text}),
            Some(ErrorCode::Api(4100)),
            text,
            None,
        ),
        (
            json!({"code": 4100.0, "msg": text}),
            Some(ErrorCode::Api(4100)),
            text,
            None,
        ),
        (
            json!({"error": {"code": "invalid_client", "message": text}}),
            Some(ErrorCode::InvalidClient),
            text,
            None,
        ),
        (
            json!({"error_code": "invalid_client", "error_message": text, "error": {"logid": "20261004095709"}}),
            Some(ErrorCode::InvalidClient),
            text,
            Some("20261004095709"),
        ),
    ] {
        let stage = Stage::new();
        let scripted = ScriptedResponse::new(400, body.clone());
        stage
            .mock
            .faults()
            .add(scripted, MockEndpoint::Token, Times::Forever);
        let error = stage.jwt().token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{body}: {error}");
        assert_eq!(error.code(), code.as_ref(), "{body}: {error}");
        assert_eq!(error.message(), Some(message), "{body}: {error}");
        assert_eq!(error.log_id(), log_id, "{body}: {error}");
    }
    let stage = Stage::new();
    let body = b"{\"error_code\":\"invalid_client\",\"error_message\":\"not \xff utf-8\"}";
    let scripted = ScriptedResponse::new(401, body.to_vec());
    stage
        .mock
        .faults()
        .add(scripted, MockEndpoint::Token, Times::Forever);
    let error = stage.jwt().token().await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::InvalidClient), "{error}");
    let message = error.message().unwrap_or_default();
    assert!(message.starts_with("not "), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_field_of_a_wrong_type_is_named() {
    let me = |edit| async move {
        let stage = Stage::new();
        let faults = stage.mock.faults();
        faults.add(edited(edit), MockEndpoint::UsersMe, Times::ONCE);
        let provider = CachedProvider::jwt(stage.jwt()).build();
        call_me(&CozeApi::new(stage.client(), provider)).await
    };
    let start = |edit| async move {
        let stage = Stage::new();
        let faults = stage.mock.faults();
        faults.add(edited(edit), MockEndpoint::DeviceCode, Times::ONCE);
        stage.device().start().await
    };
    let hush = || json!(["hush"]);
    for (error, told) in [
        (
            Error::clone(&me(Edit::set("/data/user_name", hush())).await.unwrap_err()),
            "data.user_name is an array, where a string was expected",
        ),
        (
            Error::clone(&me(Edit::set("/data", "hush")).await.unwrap_err()),
            "data is a string",
        ),
        (
            start(Edit::set("/device_code", hush())).await.unwrap_err(),
            "device_code is an array, where a string",
        ),
        (
            start(Edit::set("/verification_uri", hush()))
                .await
                .unwrap_err(),
            "verification_uri is an array, where",
        ),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidAnswer, "{error}");
        assert!(error.to_string().contains(told), "{error}");
        assert!(!error.hint().contains("proxy"), "{}", error.hint());
        assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
    }
}

async fn call_me(api: &CozeApi) -> coze_api::Result<coze_api::Reply<types::User>> {
    api.users().me().send().await
}

// 2. Clocks

#[tokio::test(start_paused = true)]
async fn a_slightly_fast_clock_does_not_prevent_an_exchange() {
    for ahead in 0..=10 {
        let stage = Stage::of(MockCoze::builder().jwt_leeway(Duration::ZERO));
        stage.clock.set_wall_offset_secs(ahead);
        let token = stage.jwt().token().await;
        let token = token.unwrap_or_else(|error| panic!("{ahead} s fast: {error}"));
        stage.granted(&token);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_date_does_not_cause_expired_tokens() {
    let kept = Kept::new().await;
    kept.answers(Fault::SkewedDate { seconds: -7200 }, Times::Forever);
    // Another machine with the same store and a correct clock.
    let elsewhere = provider(&kept.stage, &kept.sign_in);
    kept.token_after_the_end().await.unwrap();
    for minute in 0..120 {
        for provider in [&kept.provider, &elsewhere] {
            let token = provider.token().await.unwrap();
            assert!(kept.stage.takes(&token), "expired after {minute} minutes");
        }
        pass(secs(60)).await;
    }
    kept.assert_not_lost("a slow date").await;
}

#[tokio::test(start_paused = true)]
async fn a_fast_date_does_not_make_new_tokens_expired() {
    for seconds in [600, 899, 7200, 400 * 24 * 3600] {
        let kept = Kept::new().await;
        kept.answers(Fault::SkewedDate { seconds }, Times::Forever);
        let token = kept.token_after_the_end().await.unwrap();
        pass(secs(700)).await;
        let later = kept.provider.token().await.unwrap();
        assert_eq!(later.expose(), token.expose(), "{seconds}");
        assert_eq!(kept.refreshes(), 1, "{seconds}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cached_date_does_not_change_a_lifetime() {
    for seconds in [-7200, -300, 300] {
        let kept = Kept::new().await;
        kept.answers(Fault::SkewedDate { seconds }, Times::Forever);
        kept.answers(EditedResponse::new([]).header("Age", "300"), Times::Forever);
        let token = kept.token_after_the_end().await.unwrap();
        assert!(kept.stage.takes(&token), "{seconds}");
        let life = kept.record().await.life();
        assert_eq!(life.as_secs().div_ceil(5), 180, "{seconds}: {life:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_cannot_choose_the_time_of_a_jwt() {
    for date in [
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Sun, 17 Jan 2027 08:00:00 GMT",
    ] {
        let stage = Stage::new();
        let refusal = ScriptedResponse::new(401, json!({"error_code": "invalid_client"}));
        stage.mock.faults().add(
            refusal.header("Date", date),
            MockEndpoint::Token,
            Times::Forever,
        );
        let error = stage.jwt().token().await.unwrap_err();
        assert_eq!(error.code(), Some(&ErrorCode::InvalidClient), "{error}");
        for issued_at in stage.jwt_claims("iat") {
            let issued_at = issued_at.as_u64().unwrap();
            let a_day = 24 * 3600;
            assert!(issued_at.abs_diff(START) <= a_day, "{date}: {issued_at}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_suspend_an_expired_code_is_not_polled() {
    let stage = Stage::new();
    let authorization = stage.device().start().await.unwrap();
    pass(secs(20)).await;
    // During suspend only the wall clock advances.
    stage.clock.set_wall_offset_secs(200);
    assert_eq!(authorization.remaining(), secs(80));
    stage.clock.set_wall_offset_secs(7 * 24 * 3600);
    assert_eq!(authorization.remaining(), Duration::ZERO);
    let error = stage.device().poll(&authorization).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceCodeExpired, "{error}");
    assert_eq!(stage.token_requests().len(), 0);
}

// 3. Redaction and error messages

#[tokio::test(start_paused = true)]
async fn a_short_device_code_does_not_end_a_login() {
    for device_code in ["d", "pending", "authorization_pending", "_"] {
        let stage = Stage::new();
        let answer = edited(Edit::set("/device_code", device_code));
        stage
            .mock
            .faults()
            .add(answer, MockEndpoint::DeviceCode, Times::ONCE);
        let device = stage.device();
        let authorization = device.start().await.unwrap();
        let mock = stage.mock.clone();
        let user_code = authorization.user_code().to_owned();
        tokio::spawn(async move {
            pass(secs(17)).await;
            mock.approve_device(&user_code).unwrap();
        });
        let token = device.poll(&authorization).await;
        let token = token.unwrap_or_else(|error| panic!("{device_code}: {error}"));
        stage.granted(&token);
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_device_code_does_not_redact_a_log_id() {
    let stage = Stage::new();
    let faults = stage.mock.faults();
    faults.add(
        edited(Edit::set("/device_code", "2")),
        MockEndpoint::DeviceCode,
        Times::ONCE,
    );
    let device = stage.device();
    let authorization = device.start().await.unwrap();
    let log_id = "202610040957090123456789ABCDEF";
    let denied = ScriptedResponse::new(400, json!({"error": "access_denied"}));
    faults.add(
        denied.header("x-tt-logid", log_id),
        MockEndpoint::Token,
        Times::ONCE,
    );
    let error = device.poll(&authorization).await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::AccessDenied));
    assert_eq!(error.log_id(), Some(log_id));
}

const WRONG_TOKEN: &str = "The token you entered is incorrect. Please double-check the token";

#[tokio::test(start_paused = true)]
async fn a_token_refused_with_status_200_is_replaced() {
    let stage = Stage::new();
    let provider = CachedProvider::jwt(stage.jwt()).build();
    let api = CozeApi::new(stage.client(), provider);
    let refusal = ScriptedResponse::new(200, json!({"code": 4101, "msg": WRONG_TOKEN}));
    stage
        .mock
        .faults()
        .add(refusal, MockEndpoint::UsersMe, Times::ONCE);
    let outcome = call_me(&api).await;
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(stage.token_requests().len(), 2, "one renewal");
}

#[tokio::test(start_paused = true)]
async fn a_missing_permission_keeps_the_token_and_the_hint_names_all_causes() {
    let stage = Stage::new();
    let provider = CachedProvider::jwt(stage.jwt()).build();
    let api = CozeApi::new(stage.client(), provider);
    let message = "You do not have permission to this resource";
    let refusal = ScriptedResponse::new(200, json!({"code": 4101, "msg": message}));
    stage
        .mock
        .faults()
        .add(refusal, MockEndpoint::UsersMe, Times::ONCE);
    let error = call_me(&api).await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::Api(4101)));
    assert_eq!(stage.token_requests().len(), 1);
    for named in ["key", "permission", "site"] {
        assert!(error.hint().contains(named), "{named}: {}", error.hint());
    }
}

#[tokio::test(start_paused = true)]
async fn an_ended_login_session_requires_sign_in() {
    let kept = Kept::new().await;
    let record = kept.record().await;
    assert!(kept.stage.mock.end_login(record.refresh_token().expose()));
    let error = kept.token_after_the_end().await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::AccessDeny), "{error}");
    assert!(error.needs_sign_in(), "{error}");
    assert!(kept.sign_in.requires_sign_in().await.unwrap());
    assert!(error.hint().contains("sign in"), "{}", error.hint());
}

/// The error of a JWT app whose exchange is refused with this body.
async fn refused_at(endpoint: Endpoint, answer: ScriptedResponse) -> Error {
    let stage = Stage::new();
    stage
        .mock
        .faults()
        .add(answer, MockEndpoint::Token, Times::Forever);
    let client = stage.client_builder().endpoint(endpoint);
    let jwt = crate::support::jwt_flow(client.build().unwrap());
    jwt.token().await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn the_wrong_site_is_named_in_the_hint() {
    let refusal = || {
        let text = "invalid jwt: kid not been registred";
        let body = json!({"error_code": "invalid_client", "error": "invalid_client", "error_message": text});
        ScriptedResponse::new(401, body)
    };
    for endpoint in [Endpoint::COM, Endpoint::CN] {
        let hint = refused_at(endpoint, refusal()).await.hint();
        for site in ["api.coze.com", "api.coze.cn"] {
            assert!(hint.contains(site), "{hint}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_reason_to_refuse_a_jwt_has_its_own_hint() {
    let mut hints = Vec::new();
    for message in [
        "invalid jwt: kid not been registred",
        "invalid jwt: aud",
        "invalid jwt: exp has passed",
        "invalid jwt: jti was used before",
        "verify jwt empty",
        "something else",
    ] {
        let body = json!({"error_code": "invalid_client", "error_message": message});
        let error = refused_at(Endpoint::COM, ScriptedResponse::new(401, body)).await;
        assert!(
            !hints.contains(&error.hint()),
            "{message}: {}",
            error.hint()
        );
        hints.push(error.hint());
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_app_type_is_named_in_the_hint() {
    let stage = Stage::new();
    let body =
        json!({"error_code": "invalid_request", "error_message": "invalid request: client_secret"});
    let refusal = ScriptedResponse::new(400, body);
    stage
        .mock
        .faults()
        .add(refusal, MockEndpoint::Token, Times::Forever);
    let device = stage.device();
    let authorization = device.start().await.unwrap();
    let error = device.poll(&authorization).await.unwrap_err();
    assert!(error.hint().contains("another type"), "{}", error.hint());
}

/// The messages are Coze's; here the mock produces them without scripting.
#[tokio::test(start_paused = true)]
async fn cozes_messages_about_an_app_have_hints() {
    let stage = Stage::new();
    let pkce = PkceFlow::new(stage.client(), defaults::WEB_CLIENT_ID).unwrap();
    let (page, login) = pkce.login(REDIRECT_URI).begin().unwrap();
    let callback = stage.person(page.as_str(), Decision::Approve);
    let without_secret = pkce.complete(login, &callback).await.unwrap_err();

    let of_another = stage.jwt_of_another_app().token().await.unwrap_err();

    let app = defaults::DEVICE_CLIENT_ID;
    stage.mock.set_app_active(app, false).unwrap();
    let deactivated = stage.device().start().await.unwrap_err();

    for (error, code, message, hint) in [
        (
            without_secret,
            ErrorCode::InvalidRequest,
            "invalid request: client_secret",
            "another type",
        ),
        (
            of_another,
            ErrorCode::InvalidClient,
            "invalid jwt: kid not been registred",
            "key",
        ),
        (
            deactivated,
            ErrorCode::AccessDeny,
            "app: Mock device app is currently deactivated by the owner",
            "deactivated",
        ),
    ] {
        assert_eq!(error.code(), Some(&code));
        assert_eq!(error.message(), Some(message));
        assert!(error.hint().contains(hint), "{}", error.hint());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_new_token_is_not_reported_as_invalid() {
    let stage = Stage::new();
    let provider = CachedProvider::jwt(stage.jwt()).build();
    let api = CozeApi::new(stage.client(), provider);
    let body = json!({"code": 4100, "msg": "authentication is invalid"});
    let refusal = ScriptedResponse::new(401, body);
    stage
        .mock
        .faults()
        .add(refusal, MockEndpoint::UsersMe, Times::Forever);
    let error = call_me(&api).await.unwrap_err();
    let hint = error.hint();
    assert!(hint.contains("token is not the cause"), "{hint}");
}

#[test]
fn the_web_site_as_api_base_is_refused_and_the_api_base_named() {
    for (base, right) in [
        ("https://www.coze.cn", "https://api.coze.cn"),
        ("https://coze.cn", "https://api.coze.cn"),
        ("https://www.coze.com/", "https://api.coze.com"),
        ("https://coze.com", "https://api.coze.com"),
    ] {
        let error = Endpoint::custom(base).unwrap_err();
        assert!(error.to_string().contains(right), "{base}: {error}");
    }
}

// 4. Responses without a decision

fn undecided() -> Vec<ScriptedResponse> {
    let page = "<html><body>Please sign in to this network</body></html>";
    let html = |status| ScriptedResponse::new(status, page).header("Content-Type", "text/html");
    vec![
        html(200),
        ScriptedResponse::new(302, "").header("Location", "http://portal.example/"),
        html(403),
        html(404),
        ScriptedResponse::new(407, "").header("Proxy-Authenticate", "Basic"),
        html(511),
        ScriptedResponse::new(200, ""),
        ScriptedResponse::new(204, ""),
        ScriptedResponse::new(200, "{}"),
        ScriptedResponse::new(200, "[]"),
        ScriptedResponse::new(200, "{\"access_tok").framed(Framing::new().missing(200)),
        ScriptedResponse::new(200, "{\"access_tok"),
        ScriptedResponse::new(400, ""),
    ]
}

/// A login whose user approves at this time. Returns the time of the token, or the error.
async fn login(stage: &Stage, approved_after: Duration) -> (Result<Token>, Duration) {
    let device = stage.device();
    let authorization = device.start().await.unwrap();
    let (mock, user_code) = (stage.mock.clone(), authorization.user_code().to_owned());
    tokio::spawn(async move {
        pass(approved_after).await;
        mock.approve_device(&user_code).unwrap();
    });
    let began = Instant::now();
    let outcome = device.poll(&authorization).await;
    (outcome, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_captive_portal_does_not_end_a_login() {
    for answer in undecided() {
        for times in [1, 3] {
            let why = format!("{times} times {answer:?}");
            let stage = Stage::new();
            let faults = stage.mock.faults();
            faults.add(answer.clone(), MockEndpoint::Token, Times::Next(times));
            let (outcome, took) = login(&stage, secs(1)).await;
            let token = outcome.unwrap_or_else(|error| panic!("{why}: {error}"));
            stage.granted(&token);
            assert!(took < secs(120), "{why}: {took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn behind_a_captive_portal_polling_slows_down_until_the_expiry() {
    let stage = Stage::new();
    let page = ScriptedResponse::new(200, "<html>").header("Content-Type", "text/html");
    stage
        .mock
        .faults()
        .add(page, MockEndpoint::Token, Times::Forever);
    let (outcome, took) = login(&stage, secs(1)).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceCodeExpired, "{error}");
    assert!(took >= secs(299), "{took:?}");
    let polls = stage.token_requests().len();
    assert!((5..15).contains(&polls), "{polls} polls");
}

#[tokio::test(start_paused = true)]
async fn an_approval_just_before_the_expiry_signs_in() {
    // The code expires after 300 s.
    for left in [800, 2000, 4500] {
        let stage = Stage::new();
        let (outcome, _) = login(&stage, secs(300) - millis(left)).await;
        let token = outcome.unwrap_or_else(|error| panic!("{left} ms before: {error}"));
        stage.granted(&token);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_below_the_interval_allows_an_approval() {
    for (life, interval) in [(60, 60), (60, 300), (5, 3600), (300, 86_400)] {
        let mock = MockCoze::builder().device_code_lifetime(secs(life));
        let stage = Stage::of(mock);
        let answer = edited(Edit::set("/interval", interval));
        stage
            .mock
            .faults()
            .add(answer, MockEndpoint::DeviceCode, Times::ONCE);
        let (outcome, took) = login(&stage, secs(1)).await;
        let token = outcome.unwrap_or_else(|error| panic!("{life} {interval}: {error}"));
        stage.granted(&token);
        assert!(took < secs(life), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_gateway_errors_the_interval_recovers() {
    let stage = Stage::new();
    stage
        .mock
        .faults()
        .add(Fault::status(502), MockEndpoint::Token, Times::Next(3));
    let device = stage.device();
    let authorization = device.start().await.unwrap();
    let (mock, user_code) = (stage.mock.clone(), authorization.user_code().to_owned());
    tokio::spawn(async move {
        pass(secs(200)).await;
        mock.approve_device(&user_code).unwrap();
    });
    let mut polls: Vec<(Instant, bool)> = Vec::new();
    let observe = |step: &coze_auth::PollStep| {
        let failed = step.error.is_some();
        polls.push((Instant::now(), failed));
    };
    let token = device.poll_with(&authorization, observe).await.unwrap();
    stage.granted(&token);
    let waits: Vec<_> = polls.windows(2).map(|two| two[1].0 - two[0].0).collect();
    assert_eq!(waits[..2], [secs(10), secs(20)], "slower during failures");
    assert!(
        waits[3..]
            .iter()
            .all(|wait| *wait == authorization.interval()),
        "{waits:?}"
    );
}
