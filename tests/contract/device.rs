//! When a device code is polled, and when polling stops (RFC 8628 section 3.5). Polling too fast is refused by the
//! server, polling too slowly makes the user wait, and polling without a deadline hangs the program.
//!
//! Time is paused, so each test is instant and exact to the millisecond.

use std::{
    error::Error as _,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use coze_auth::{
    DeviceAuthorization, DeviceFlow, Error, ErrorCode, ErrorKind, Flow, Result, Token,
    testing::SendErrorKind,
};
use serde_json::{Value, json};

use crate::support::{InProcess, Step, device, token_answer};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The device authorization response; without an interval if it is 0.
fn started(interval: u64, expires_in: u64) -> Step {
    let mut body = json!({
        "device_code": "dc_1",
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://www.coze.com/device",
        "expires_in": expires_in,
    });
    if interval > 0 {
        body["interval"] = json!(interval);
    }
    Step::json(200, &body).with_header("x-tt-logid", "log_of_start")
}

/// An error as Coze presumably sends it while polling, with the error code in both fields.
fn word(word: &str) -> Step {
    Step::json(400, &both_shapes(word))
}

fn both_shapes(word: &str) -> Value {
    json!({"error_code": word, "error": word, "error_message": "text", "error_description": "text"})
}

fn pending() -> Step {
    word("authorization_pending")
}

fn granted() -> Step {
    Step::json(200, &token_answer())
}

/// A sign-in on a device. The server's script begins with the device authorization response.
struct SignIn {
    server: InProcess,
    device: DeviceFlow,
    authorization: DeviceAuthorization,
}

impl SignIn {
    async fn start(start: Step, polls: impl IntoIterator<Item = Step>) -> Self {
        Self::start_with_timeout(secs(30), start, polls).await
    }

    async fn start_with_timeout(
        request_timeout: Duration,
        start: Step,
        polls: impl IntoIterator<Item = Step>,
    ) -> Self {
        let wall = SystemTime::UNIX_EPOCH + secs(1_800_000_000);
        let server = InProcess::start(wall, std::iter::once(start).chain(polls));
        let client = server.client_builder().request_timeout(request_timeout);
        let device = device(client.build().unwrap());
        let authorization = device.start().await.unwrap();
        Self {
            server,
            device,
            authorization,
        }
    }

    async fn poll(&self) -> Result<Token> {
        self.device.poll(&self.authorization).await
    }

    /// The times of all polls, in seconds after the start.
    fn polled_at(&self) -> Vec<u64> {
        let recorded = self.server.recorded();
        recorded[1..]
            .iter()
            .map(|request| request.at.as_secs())
            .collect()
    }

    /// Polls until a token is granted and checks the times of all polls.
    async fn assert_granted_after_polls_at(&self, expected: &[u64], what: &str) {
        let result = self.poll().await;
        assert!(result.is_ok(), "{what}: {result:?}");
        assert_eq!(self.polled_at(), expected, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn polls_at_the_interval_of_the_server() {
    for (interval, expected) in [(1, [1, 2, 3]), (5, [5, 10, 15]), (7, [7, 14, 21])] {
        let sign_in =
            SignIn::start(started(interval, 300), [pending(), pending(), granted()]).await;
        let what = format!("interval {interval}");
        sign_in
            .assert_granted_after_polls_at(&expected, &what)
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_valid_interval_it_polls_every_five_seconds() {
    let mut nonsense = json!({
        "device_code": "dc_1", "user_code": "U", "verification_uri": "https://x.y", "expires_in": 300,
    });
    let absent = Step::json(200, &nonsense);
    nonsense["interval"] = json!(0);
    let zero = Step::json(200, &nonsense);
    nonsense["interval"] = json!(-3);
    let negative = Step::json(200, &nonsense);
    for (what, start) in [("absent", absent), ("zero", zero), ("negative", negative)] {
        let sign_in = SignIn::start(start, [pending(), granted()]).await;
        assert_eq!(sign_in.authorization.interval(), secs(5), "{what}");
        sign_in.assert_granted_after_polls_at(&[5, 10], what).await;
    }
}

#[tokio::test(start_paused = true)]
async fn polling_ends_when_the_device_code_expires() {
    let sign_in = SignIn::start(started(1, 3), [pending()]).await;
    let error = sign_in.poll().await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::DeviceCodeExpired, "{error}");
    assert_eq!(error.flow(), Some(Flow::Device));
    assert_eq!(error.log_id(), Some("log_of_start"));
    assert!(!error.is_retryable());
    assert!(error.to_string().contains("within 3 s"), "{error}");
    assert!(error.source().is_none(), "no request failed: {error:?}");
    assert_eq!(sign_in.server.elapsed(), secs(3));
    assert_eq!(sign_in.polled_at(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn an_interval_beyond_the_lifetime_leaves_one_poll_before_expiry() {
    for interval in [10, 60, 86_400] {
        let sign_in = SignIn::start(started(interval, 10), [granted()]).await;
        sign_in
            .assert_granted_after_polls_at(&[9], "one poll")
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_approval_in_the_last_second_is_not_missed() {
    for (interval, life) in [(1, 3), (5, 300), (7, 20)] {
        let sign_in = SignIn::start(started(interval, life), [pending()]).await;
        let server = sign_in.server.clone();
        tokio::spawn(async move {
            tokio::time::sleep(secs(life) - Duration::from_millis(800)).await;
            server.answers_from_now_on(granted());
        });
        let result = sign_in.poll().await;
        assert!(result.is_ok(), "{interval} {life}: {result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_code_that_expired_during_suspend_is_not_polled() {
    let sign_in = SignIn::start(started(5, 300), [pending()]).await;
    sign_in.server.clock().set_wall_offset_secs(290);
    assert_eq!(sign_in.authorization.remaining(), secs(10));
    sign_in.server.clock().set_wall_offset_secs(-3600);
    assert_eq!(sign_in.authorization.remaining(), secs(300));
}

#[tokio::test(start_paused = true)]
async fn the_expiry_counts_from_the_start() {
    let sign_in = SignIn::start(started(5, 60), [pending()]).await;
    tokio::time::sleep(secs(50)).await;
    assert_eq!(sign_in.authorization.remaining(), secs(10));
    let error = sign_in.poll().await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::DeviceCodeExpired);
    assert_eq!(sign_in.server.elapsed(), secs(60));
    assert_eq!(sign_in.polled_at(), [59]);
}

#[tokio::test(start_paused = true)]
async fn each_slow_down_adds_five_seconds_permanently() {
    let slow_down = || word("slow_down");
    let script = [slow_down(), pending(), slow_down(), pending(), granted()];
    let sign_in = SignIn::start(started(1, 300), script).await;
    // 1; then 6 apart, twice; then 11 apart, twice.
    let expected = [1, 7, 13, 24, 35];
    sign_in
        .assert_granted_after_polls_at(&expected, "slow_down")
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_temporary_failure_doubles_the_interval() {
    let gateway = || Step::text(502, "<html>Bad Gateway</html>");
    for (what, failure) in [
        ("500", Step::text(500, "")),
        ("502, HTML", gateway()),
        (
            "503, shape C",
            Step::json(503, &json!({"code": 5000, "msg": "busy"})),
        ),
        ("429", Step::text(429, "")),
        (
            "429 with an unknown error code",
            Step::json(429, &json!({"error": "too_many"})),
        ),
        ("408", Step::text(408, "")),
        ("internal_error", word("internal_error")),
        (
            "API rate limit",
            Step::json(200, &json!({"code": 4013, "msg": "rate limit"})),
        ),
        ("connection reset", Step::Fail(SendErrorKind::Interrupted)),
        ("connection refused", Step::Fail(SendErrorKind::Connect)),
        ("time-out", Step::Fail(SendErrorKind::Timeout)),
    ] {
        let sign_in = SignIn::start(started(2, 300), [failure.clone(), pending(), granted()]).await;
        sign_in
            .assert_granted_after_polls_at(&[2, 6, 8], what)
            .await;

        let again = SignIn::start(started(2, 300), [failure.clone(), failure, granted()]).await;
        again.assert_granted_after_polls_at(&[2, 6, 14], what).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_timed_out_request_doubles_the_interval() {
    let script = [Step::Hang, pending(), granted()];
    let sign_in = SignIn::start_with_timeout(secs(1), started(2, 300), script).await;
    // Sent at 2, timed out at 3, then every 4, and every 2 again after a valid response.
    sign_in
        .assert_granted_after_polls_at(&[2, 7, 9], "hang")
        .await;
}

#[tokio::test(start_paused = true)]
async fn failures_increase_the_interval_to_at_most_a_minute() {
    let down = Step::text(503, "");
    let sign_in = SignIn::start(started(10, 400), [down]).await;
    let error = sign_in.poll().await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::DeviceCodeExpired);
    assert_eq!(
        sign_in.polled_at(),
        [10, 30, 70, 130, 190, 250, 310, 370, 399]
    );
    assert_eq!(sign_in.server.elapsed(), secs(400));
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured_once_in_seconds_or_as_a_date() {
    let busy = || Step::text(429, "");
    let date = busy()
        .with_header("date", "Sun, 22 Nov 2026 12:00:00 GMT")
        .with_header("retry-after", "Sun, 22 Nov 2026 12:00:20 GMT");
    for (what, failure, expected) in [
        (
            "seconds",
            busy().with_header("retry-after", "20"),
            [1, 21, 22],
        ),
        ("a date by the server's clock", date, [1, 21, 22]),
        (
            "less than the interval",
            busy().with_header("retry-after", "1"),
            [1, 3, 4],
        ),
        (
            "nonsense",
            busy().with_header("retry-after", "soon"),
            [1, 3, 4],
        ),
        (
            "503",
            Step::text(503, "").with_header("retry-after", "20"),
            [1, 21, 22],
        ),
    ] {
        let sign_in = SignIn::start(started(1, 300), [failure, pending(), granted()]).await;
        sign_in.assert_granted_after_polls_at(&expected, what).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_beyond_the_expiry_waits_until_the_expiry() {
    let busy = Step::text(429, "").with_header("retry-after", "18446744073709551615");
    let sign_in = SignIn::start(started(1, 30), [busy]).await;
    let error = sign_in.poll().await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::DeviceCodeExpired);
    assert_eq!(sign_in.server.elapsed(), secs(30));
    assert_eq!(sign_in.polled_at(), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_stops_polling_immediately() {
    for (word, code) in [
        ("access_denied", ErrorCode::AccessDenied),
        ("expired_token", ErrorCode::ExpiredToken),
        ("invalid_client", ErrorCode::InvalidClient),
        ("invalid_grant", ErrorCode::InvalidGrant),
        ("access_deny", ErrorCode::AccessDeny),
        ("unheard_of", ErrorCode::Other("unheard_of".to_owned())),
    ] {
        for (shape, body) in shapes(word) {
            for status in [200, 400, 401] {
                let refusal = Step::json(status, &body);
                let sign_in = SignIn::start(started(1, 300), [pending(), refusal]).await;
                let error = sign_in.poll().await.unwrap_err();
                let what = format!("{word}, {shape}, HTTP {status}: {error}");
                assert_eq!(error.kind(), ErrorKind::Refused, "{what}");
                assert_eq!(error.code(), Some(&code), "{what}");
                assert_eq!(sign_in.polled_at(), [1, 2], "{what}");
                assert_eq!(sign_in.server.elapsed(), secs(2), "{what}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pending_continues_in_every_shape_and_at_every_status() {
    for (shape, body) in shapes("authorization_pending") {
        for status in [200, 400, 401, 403, 428, 500] {
            let pending = Step::json(status, &body);
            let sign_in =
                SignIn::start(started(2, 300), [pending.clone(), pending, granted()]).await;
            let what = format!("{shape}, HTTP {status}");
            sign_in
                .assert_granted_after_polls_at(&[2, 4, 6], &what)
                .await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn slow_down_is_obeyed_in_every_shape() {
    for (shape, body) in shapes("slow_down") {
        let slow_down = Step::json(400, &body);
        let sign_in = SignIn::start(started(2, 300), [slow_down, granted()]).await;
        sign_in.assert_granted_after_polls_at(&[2, 9], shape).await;
    }
}

/// An error code in each known form.
fn shapes(word: &str) -> [(&'static str, Value); 4] {
    [
        ("A", json!({"error_code": word, "error_message": "text"})),
        (
            "A with free text",
            json!({"error_code": word, "error_message": "text", "error": "some free text"}),
        ),
        ("B", json!({"error": word, "error_description": "text"})),
        ("both", both_shapes(word)),
    ]
}

#[tokio::test(start_paused = true)]
async fn responses_of_captive_portals_and_proxies_do_not_end_a_login() {
    let page = |status| Step::text(status, "<html>Sign in to the hotel's network</html>");
    for (what, answer) in [
        ("a portal's page", page(200)),
        ("a page that is not found", page(404)),
        ("a page that is forbidden", page(403)),
        ("a proxy that wants a password", page(407)),
        (
            "JSON of a proxy",
            Step::json(403, &json!({"message": "Forbidden"})),
        ),
        ("an empty answer", Step::text(200, "")),
        ("half an answer", Step::text(200, r#"{"access_to"#)),
        (
            "an answer without a token",
            Step::json(200, &json!({"expires_in": 900})),
        ),
        (
            "a redirect",
            Step::text(302, "").with_header("location", "https://example.com"),
        ),
    ] {
        let sign_in = SignIn::start(started(1, 300), [answer, pending(), granted()]).await;
        sign_in
            .assert_granted_after_polls_at(&[1, 3, 4], what)
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_grant_with_an_unusable_access_token_ends_the_login() {
    for (body, kind) in [
        (
            json!({"access_token": "a b", "refresh_token": "rt_1"}).to_string(),
            ErrorKind::UnusableToken,
        ),
        (
            r#"{"refresh_token":"rt_1","access_tok"#.to_owned(),
            ErrorKind::Interrupted,
        ),
    ] {
        let sign_in = SignIn::start(started(1, 300), [Step::text(200, &body)]).await;
        let error = sign_in.poll().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(error.refresh_token().map(|rt| rt.expose()), Some("rt_1"));
        assert!(!format!("{error} {error:?}").contains("rt_1"), "{error:?}");
        assert_eq!(sign_in.polled_at(), [1]);
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_while_it_waits_stops_polling() {
    let sign_in = SignIn::start(started(2, 300), [pending()]).await;
    let gave_up = tokio::time::timeout(secs(5), sign_in.poll()).await;
    assert!(gave_up.is_err(), "polling was still pending: {gave_up:?}");
    assert_eq!(sign_in.server.elapsed(), secs(5));

    tokio::time::sleep(secs(100)).await;
    assert_eq!(sign_in.polled_at(), [2, 4]);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_during_a_request_stops_polling() {
    let late = pending().after(secs(10));
    let sign_in = SignIn::start(started(2, 300), [late]).await;
    let gave_up = tokio::time::timeout(secs(5), sign_in.poll()).await;
    assert!(
        gave_up.is_err(),
        "the request was still pending: {gave_up:?}"
    );
    assert_eq!(sign_in.server.elapsed(), secs(5));

    tokio::time::sleep(secs(100)).await;
    assert_eq!(sign_in.polled_at(), [2]);
}

#[tokio::test(start_paused = true)]
async fn polling_can_be_resumed_after_it_was_dropped() {
    let sign_in = SignIn::start(started(2, 300), [pending(), granted()]).await;
    let gave_up = tokio::time::timeout(secs(3), sign_in.poll()).await;
    assert!(gave_up.is_err(), "polling was still pending: {gave_up:?}");
    // It waits a full interval before the next poll.
    sign_in
        .assert_granted_after_polls_at(&[2, 5], "resumed")
        .await;
}

#[tokio::test(start_paused = true)]
async fn the_observer_sees_each_step() {
    let busy = Step::text(429, "").with_header("retry-after", "20");
    let script = [pending(), word("slow_down"), busy, pending(), granted()];
    let sign_in = SignIn::start(started(2, 300), script).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&seen);
    sign_in
        .device
        .poll_with(&sign_in.authorization, move |step| {
            let status = match &step.error {
                None => "pending".to_owned(),
                Some(error) => format!("failed, HTTP {:?}", error.status()),
            };
            notes.lock().unwrap().push((
                step.requests,
                status,
                step.next_in.as_secs(),
                step.remaining.as_secs(),
            ));
        })
        .await
        .unwrap();

    let expected = [
        (1, "pending", 2, 298),
        (2, "pending", 7, 296),
        (3, "failed, HTTP Some(429)", 20, 289),
        (4, "pending", 7, 269),
    ];
    assert_eq!(
        *seen.lock().unwrap(),
        expected.map(|(n, status, next, left)| (n, status.to_owned(), next, left))
    );
    assert_eq!(sign_in.polled_at(), [2, 4, 11, 31, 38]);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_request_ends_at_the_expiry() {
    let sign_in = SignIn::start(started(5, 12), [Step::Hang]).await;
    let error = sign_in.poll().await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::DeviceCodeExpired);
    assert_eq!(
        sign_in.server.elapsed(),
        secs(12),
        "not after the timeout of 30 s"
    );
    assert_eq!(sign_in.polled_at(), [5]);
}

#[tokio::test(start_paused = true)]
async fn a_grant_just_before_the_expiry_is_accepted() {
    let sign_in = SignIn::start(
        started(5, 12),
        [granted().after(Duration::from_millis(6_999))],
    )
    .await;
    let token = sign_in.poll().await.unwrap();
    assert_eq!(token.access_token().expose(), "at_1");
}

#[tokio::test(start_paused = true)]
async fn the_expiry_error_names_the_last_failure() {
    let down = Step::text(503, "").with_header("x-tt-logid", "log_of_failure");
    let sign_in = SignIn::start(started(5, 20), [pending(), down]).await;
    let error = sign_in.poll().await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::DeviceCodeExpired);
    let source = error
        .source()
        .and_then(|source| source.downcast_ref::<Error>());
    let source = source.expect("the last request failed");
    assert_eq!(source.status().map(|status| status.as_u16()), Some(503));
    assert_eq!(source.log_id(), Some("log_of_failure"));
}

#[tokio::test(start_paused = true)]
async fn the_expiry_error_omits_failures_that_were_retried() {
    let down = Step::text(503, "");
    let sign_in = SignIn::start(started(1, 20), [down, pending()]).await;
    let error = sign_in.poll().await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::DeviceCodeExpired);
    assert!(
        error.source().is_none(),
        "the last answer was `pending`: {error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn polling_once_returns_each_response_unchanged() {
    let script = [
        pending(),
        word("slow_down"),
        Step::text(502, ""),
        word("access_denied"),
        granted(),
    ];
    let sign_in = SignIn::start(started(5, 300), script).await;
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(
            match sign_in.device.poll_once(&sign_in.authorization).await {
                Ok(poll) => match poll {
                    coze_auth::Poll::Granted(token) => token.access_token().expose().to_owned(),
                    other => format!("{other:?}"),
                },
                Err(error) => format!("{:?}, retryable: {}", error.kind(), error.is_retryable()),
            },
        );
    }
    assert_eq!(
        seen,
        [
            "Pending",
            "SlowDown",
            "InvalidAnswer, retryable: true",
            "Refused, retryable: false",
            "at_1",
        ]
    );
    assert_eq!(
        sign_in.server.elapsed(),
        Duration::ZERO,
        "polling once never waits"
    );
}

#[tokio::test(start_paused = true)]
async fn only_the_device_code_of_this_authorization_is_sent() {
    let sign_in = SignIn::start(started(1, 300), [pending(), granted()]).await;
    sign_in.poll().await.unwrap();
    for poll in &sign_in.server.recorded()[1..] {
        assert_eq!(poll.path, "/api/permission/oauth2/token");
        assert_eq!(poll.authorization, None);
        assert_eq!(poll.body["device_code"], "dc_1", "{poll:?}");
    }
}
