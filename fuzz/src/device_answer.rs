//! Device authorization responses: whether a login starts, and how it is polled.

use std::time::Duration;

use coze_auth::{DeviceAuthorization, ErrorKind, Url};
use tokio::time::Instant;

use super::{
    oracle::{self, Body, Clocks, Json},
    world::{self, Answer, NOW, World, assert_fit_to_be_shown},
};

/// The responses to polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polled {
    Pending,
    SlowDown,
    /// The page of a captive portal.
    Html,
    BadGateway,
    /// A connection that breaks before the response.
    Nothing,
}

impl Polled {
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::SlowDown,
        Self::Html,
        Self::BadGateway,
        Self::Nothing,
    ];

    fn answer(self) -> Answer {
        match self {
            Self::Pending => Answer::new(400, r#"{"error":"authorization_pending"}"#),
            Self::SlowDown => Answer::new(400, r#"{"error_code":"slow_down"}"#),
            Self::Html => Answer::new(200, "<html>welcome</html>"),
            Self::BadGateway => Answer::new(502, ""),
            Self::Nothing => Answer {
                is_broken: true,
                ..Answer::new(200, "")
            },
        }
    }
}

/// The number of polls before the approval.
const POLLS: usize = 40;

/// Answers a device authorization request, then polls, and asserts:
///
/// - A login starts if and only if the response is a success with a device code, a user code and a URL for a browser.
/// - Otherwise the error names the missing or invalid member, and contains no value.
/// - Rule j: its interval and lifetime.
/// - Polls respect the interval, and the first one is before the expiry. They stop at the expiry, or after an
///   approval.
pub fn check(answer: &Answer, polled: Polled) {
    world::run(async |world| {
        let body = Body::read(&answer.body);
        let mut secrets = answer.secrets(&body, &["device_code"]);
        let is_success = body.is_success(answer.status);
        world.answers([answer.clone()]);
        let device = world.device();
        let outcome = device.start().await;
        let missing = missing(&body);
        match outcome {
            Ok(authorization) => {
                assert!(is_success && missing.is_none(), "{missing:?} {answer:?}");
                let shown = format!("{authorization:?}");
                world::assert_hushed(&shown, &secrets, answer);
                assert_as_rule_j_says(&authorization, answer, &body);
                poll(world, &authorization, polled, answer, &body).await;
            }
            Err(error) => {
                secrets.extend(answer.secrets(&body, &["user_code", "verification_uri"]));
                assert_fit_to_be_shown(&error, &secrets, answer);
                if is_success {
                    let missing = missing.unwrap_or_else(|| panic!("{error} {answer:?}"));
                    let is_named = error.to_string().contains(missing);
                    let is_refusal =
                        error.kind() == ErrorKind::Refused && oracle::refusal(&body).is_some();
                    assert!(is_named || is_refusal, "{error} {answer:?}");
                }
            }
        }
    });
}

/// The first required member that is missing or invalid.
fn missing(body: &Body) -> Option<&'static str> {
    let has_user_code = match body.get("user_code") {
        Some(Json::Text(text)) => {
            let shown = coze_wire::sanitize_to(text, &[], 100);
            (1..=100).contains(&shown.chars().count())
        }
        Some(Json::Number(number)) => number.is_finite(),
        _ => false,
    };
    let opens = |uri: &str| {
        let is_visible = !uri.contains(|c: char| coze_wire::is_invisible(c) || c.is_whitespace());
        let is_opened = |url: Url| {
            let names_nobody = url.username().is_empty() && url.password().is_none();
            let is_safe = url.scheme() == "https" || coze_wire::is_loopback(&url);
            names_nobody && is_safe && matches!(url.scheme(), "http" | "https")
        };
        is_visible && uri.len() <= 2048 && Url::parse(uri).is_ok_and(is_opened)
    };
    match body {
        _ if body.text("device_code").is_none() => Some("device_code"),
        _ if !has_user_code => Some("user_code"),
        _ if !body.text("verification_uri").is_some_and(opens) => Some("verification_uri"),
        _ => None,
    }
}

fn assert_as_rule_j_says(authorization: &DeviceAuthorization, answer: &Answer, body: &Body) {
    let interval = authorization.interval().as_secs_f64();
    let expected = oracle::interval(body.get("interval"));
    assert!((interval - expected).abs() < 1e-6, "{interval} {answer:?}");

    let took = answer.took.as_secs_f64();
    let clocks = Clocks {
        local: NOW as f64 + took,
        date: answer.server_time(),
        took,
    };
    let mut lives = oracle::lives(body.get("expires_in"), clocks, 300.0);
    if lives.iter().any(|lives| lives.contains(&0.0)) {
        // The code could not be used at all, so that cannot be intended.
        lives.extend(oracle::lives(None, clocks, 300.0));
    }
    let remaining = authorization.remaining().as_secs_f64();
    let granted = authorization.expires_in().as_secs_f64();
    assert!(
        lives.iter().any(|lives| lives.contains(&remaining)),
        "{remaining} s is not in {lives:?}: {answer:?}"
    );
    assert!(granted > 0.0 && granted <= oracle::CAP, "{answer:?}");
    assert!(remaining <= granted, "{answer:?}");
}

async fn poll(
    world: &World,
    authorization: &DeviceAuthorization,
    polled: Polled,
    answer: &Answer,
    body: &Body,
) {
    let good = r#"{"access_token":"at-1","refresh_token":"rt-1","expires_in":900}"#;
    let undecided = std::iter::repeat_n(polled.answer(), POLLS - 1);
    world.answers(undecided.chain([Answer::new(200, good)]));
    let began = Instant::now();
    let life = authorization.remaining();
    let outcome = world.device().poll(authorization).await;
    let ended = began.elapsed();

    let requests = world.requests();
    let polls: Vec<_> = requests.iter().map(|r| r.at - began).collect();
    for request in &requests {
        assert_eq!(
            request.text("device_code"),
            body.text("device_code"),
            "{answer:?}"
        );
    }
    let what = || format!("{polls:?} within {life:?}, then {outcome:?}: {polled:?} {answer:?}");
    // The timer has a resolution of milliseconds.
    let tick = Duration::from_millis(1);
    assert!(ended <= life + tick, "{}", what());
    let between = polls.windows(2).map(|pair| pair[1] - pair[0]);
    let interval = authorization.interval();
    assert!(
        between.min().is_none_or(|wait| wait + tick >= interval),
        "{}",
        what()
    );
    if life > tick * 4 {
        let (first, last) = (polls.first(), polls.last());
        assert!(first.is_some_and(|first| *first < life), "{}", what());
        assert!(
            first.is_some_and(|first| *first + tick >= interval.min(life / 2)),
            "{}",
            what()
        );
        let is_approved = polls.len() == POLLS;
        let last_before_end = Duration::from_millis(501) + tick;
        let asked_to_the_end =
            is_approved || last.is_some_and(|last| *last + last_before_end >= life);
        assert!(asked_to_the_end, "{}", what());
        match &outcome {
            Ok(token) => assert!(is_approved && token.access_token().expose() == "at-1"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::DeviceCodeExpired, "{}", what());
                assert!(!is_approved, "{}", what());
            }
        }
    }
}
