//! The rules for interpreting responses, one test each with explicit expectations. The letters are those of
//! [`oracle`](crate::checks::oracle).
//!
//! | rule | tested by |
//! |---|---|
//! | a to g, j | the tests below |
//! | h | `flows/api.rs`: `every_form_of_a_refused_token_is_recovered`, `a_missing_permission_is_an_error_without_a_new_token`, `an_api_that_refuses_every_token_does_not_cause_a_renewal_per_call` |
//! | i | `flows/provider.rs`: `a_server_cannot_choose_the_time_of_a_jwt`, `a_jwt_refused_for_another_reason_is_signed_again_at_most_once`; `contract/jwt.rs`: `a_jwt_is_backdated_30_s_and_valid_for_ten_minutes` |

use std::time::Duration;

use coze_auth::{Error, ErrorKind, RefreshToken, Result, Token, UserFlow};

use crate::checks::{
    token_answer::{self, By},
    world::{self, Answer, NOW, REDEEMED, World},
};

/// The result of a refresh with this response, after the common check.
fn refreshed(answer: impl Into<Answer>) -> Result<Token> {
    let answer = answer.into();
    token_answer::check(By::Device, &answer);
    let mut refreshed = None;
    world::run(async |world: &World| {
        world.answers([answer.clone()]);
        let redeemed = RefreshToken::new(REDEEMED).unwrap();
        refreshed = Some(world.device().refresh(&redeemed).await);
    });
    refreshed.unwrap()
}

impl From<&str> for Answer {
    fn from(body: &str) -> Self {
        Self::new(200, body)
    }
}

fn successor(answer: impl Into<Answer>) -> Option<String> {
    let refresh_token = match refreshed(answer) {
        Ok(token) => token.refresh_token().cloned(),
        Err(error) => error.refresh_token().cloned(),
    };
    refresh_token.map(|refresh_token| refresh_token.expose().to_owned())
}

fn error(answer: impl Into<Answer>) -> Error {
    refreshed(answer).unwrap_err()
}

#[test]
fn rule_a_success() {
    let body =
        |members: &str| format!(r#"{{{members}"access_token":"at-1","refresh_token":"rt-1"}}"#);
    for status in [200, 201, 204, 299] {
        assert!(refreshed(Answer::new(status, body(""))).is_ok(), "{status}");
    }
    for status in [199, 300, 302, 304, 400, 401, 500] {
        assert!(
            refreshed(Answer::new(status, body(""))).is_err(),
            "{status}"
        );
    }
    for none in ["null", "\"\"", "0", "\"0\"", "0.0", "[]", "{}"] {
        for name in ["error_code", "error", "code"] {
            let body = body(&format!("\"{name}\":{none},"));
            assert!(refreshed(body.as_str()).is_ok(), "{body}");
        }
    }
    for some in [
        "1",
        "\"00\"",
        "\"x\"",
        "true",
        "false",
        "[0]",
        "{\"a\":0}",
        "-1",
        "\"\\ud800\"",
    ] {
        for name in ["error_code", "error", "code"] {
            let body = body(&format!("\"{name}\":{some},"));
            assert!(refreshed(body.as_str()).is_err(), "{body}");
        }
    }
    for nested in [
        format!("[{}]", body("")),
        format!(r#"{{"data":{}}}"#, body("")),
    ] {
        assert_eq!(successor(nested.as_str()), None, "{nested}");
    }
}

#[test]
fn rule_b_successor() {
    for (members, expected) in [
        (r#""refresh_token":"rt-1""#, Some("rt-1")),
        (r#""refresh_token":" r\u0000t\n1 ""#, Some(" r\0t\n1 ")),
        (
            r#""refresh_token":"rt-1","refresh_token":"rt-2""#,
            Some("rt-2"),
        ),
        (r#""refresh_token":"rt-1","refresh_token":null"#, None),
        (r#""refresh_token":"""#, None),
        (r#""refresh_token":7"#, None),
        (r#""refresh_token":["rt-1"]"#, None),
        (r#""refresh_token":"\ud800""#, None),
        (r#""\u0072efresh_token":"rt-1""#, Some("rt-1")),
        (r#""x":1"#, None),
    ] {
        let body = format!(r#"{{{members},"access_token":"at-1"}}"#);
        assert_eq!(successor(body.as_str()).as_deref(), expected, "{members}");
    }
}

#[test]
fn rule_c_truncation() {
    let whole = r#"{"refresh_token":"rt-1","access_token":"at-1"}"#;
    for body in [
        format!("{whole}\r\n0\r\n"),
        format!("\u{feff}{whole}"),
        format!("{whole}{whole}"),
    ] {
        for is_broken in [true, false] {
            let answer = Answer {
                is_broken,
                ..Answer::new(200, body.as_str())
            };
            assert!(refreshed(answer).is_ok(), "{body:?}");
        }
    }
    for (cut, expected) in [
        (r#"{"refresh_token":"rt-1""#, Some("rt-1")),
        (
            r#"{"refresh_token":"rt-1","access_token":"at"#,
            Some("rt-1"),
        ),
        (r#"{"refresh_token":"rt-1","expires_in":-"#, Some("rt-1")),
        (r#"{"refresh_token":"rt-1","expires_in":9."#, Some("rt-1")),
        (r#"{"refresh_token":"rt-1","expires_in":9e"#, Some("rt-1")),
        (r#"{"refresh_token":"rt-1","expires_in":9E+"#, Some("rt-1")),
        (r#"{"refresh_token":"rt-1","x":"\u00"#, Some("rt-1")),
        (
            r#"{"refresh_token":"rt-1","error":"invalid_grant""#,
            Some("rt-1"),
        ),
        (r#"{"error":"","refresh_token":"rt-1""#, Some("rt-1")),
        (r#"{"error":"invalid_grant","refresh_token":"rt-1""#, None),
        (r#"{"refresh_token":"rt-"#, None),
        (r#"{"refresh_token":7"#, None),
        // Not truncated, but invalid.
        (r#"{"refresh_token":"rt-1",}"#, None),
        (r#"{"refresh_token":"rt-1","x":1-"#, None),
    ] {
        let error = error(cut);
        let refresh_token = error.refresh_token().map(RefreshToken::expose);
        assert_eq!(refresh_token, expected, "{cut}");
        let is_interrupted = error.kind() == ErrorKind::Interrupted;
        assert_eq!(is_interrupted, expected.is_some(), "{cut}: {error}");
    }
}

/// The lifetime of a token with this `expires_in`.
fn life(expires_in: &str, date: Option<i64>) -> Duration {
    let body =
        format!(r#"{{"access_token":"at-1","refresh_token":"rt-1","expires_in":{expires_in}}}"#);
    let answer = Answer::new(200, body);
    let answer = match date {
        Some(ahead) => answer.dated(ahead),
        None => answer,
    };
    refreshed(answer).unwrap().remaining()
}

#[test]
fn rule_d_forms_of_expires_in() {
    for (expires_in, expected) in [
        ("600", 600.0),
        ("600.5", 600.5),
        ("6e2", 600.0),
        ("\"600\"", 600.0),
        ("86400", 86_400.0),
        ("86401", 900.0),
        ("999999999", 900.0),
        ("1800000600", 600.0),
        ("\"1800000600\"", 600.0),
        ("1800000600000", 600.0),
        ("1800000600500", 600.5),
        ("1800086401", 900.0),
        ("4102444800", 900.0),
        ("0", 0.0),
        ("-1", 0.0),
        ("1799999999", 0.0),
        ("null", 900.0),
        ("\"soon\"", 900.0),
        ("\"\"", 900.0),
        ("{}", 900.0),
        ("true", 900.0),
        ("1e400", 900.0),
    ] {
        assert_eq!(
            life(expires_in, None).as_secs_f64(),
            expected,
            "{expires_in}"
        );
    }
}

#[test]
fn rule_e_absolute_expiry() {
    let at = |seconds: u64| (NOW + seconds).to_string();
    for (expires_in, date, expected) in [
        // Neither has the usual lifetime.
        (at(3600), Some(-1000), 3600),
        (at(3600), Some(1000), 2599),
        // One has the usual lifetime.
        (at(900), Some(-7200), 900),
        (at(900), Some(600), 900),
        (at(1500), Some(600), 899),
        // One is expired or too long.
        (at(900), Some(7200), 900),
        (at(900), Some(-100_000_000), 900),
        (at(100_000), Some(99_000), 999),
        // Both are expired or too long.
        (at(200_000), Some(-60), 900),
        ((NOW - 60).to_string(), Some(60), 0),
        ((NOW - 60).to_string(), None, 0),
        // A relative expiry needs no clock.
        ("600".to_owned(), Some(-100_000_000), 600),
    ] {
        let life = life(&expires_in, date).as_secs();
        assert_eq!(life, expected, "{expires_in} {date:?}");
    }
    let body = format!(r#"{{"access_token":"at-1","expires_in":{}}}"#, at(1500));
    let cached = Answer {
        has_age: true,
        ..Answer::new(200, body).dated(600)
    };
    assert_eq!(refreshed(cached).unwrap().remaining().as_secs(), 1500);
}

#[test]
fn rule_f_unusable_access_token() {
    for unusable in [
        r#""x":1"#,
        r#""access_token":null"#,
        r#""access_token":"""#,
        r#""access_token":7"#,
        r#""access_token":"a b""#,
        r#""access_token":"é""#,
        r#""access_token":"\ud800""#,
        r#""access_token":"at-1","token_type":"mac""#,
        r#""access_token":"at-1","token_type":7"#,
        r#""access_token":"at-1","token_type":"\ud800""#,
    ] {
        let body = format!(r#"{{{unusable},"refresh_token":"rt-1"}}"#);
        let error = error(body.as_str());
        assert_eq!(
            error.kind(),
            ErrorKind::UnusableToken,
            "{unusable}: {error}"
        );
        let refresh_token = error.refresh_token().map(RefreshToken::expose);
        assert_eq!(refresh_token, Some("rt-1"), "{unusable}");
    }
    for usable in ["\"Bearer\"", "\"bEARER\"", "\"\"", "null"] {
        let body = format!(r#"{{"access_token":"at-1","token_type":{usable}}}"#);
        assert!(refreshed(body.as_str()).is_ok(), "{usable}");
    }
}

#[test]
fn rule_g_sign_in_responses() {
    let answers = [
        r#"{"access_token":"at-1","refresh_token":"rt-1","expires_in":"600"}"#,
        r#"{"access_token":"at-1","expires_in":600}trailer"#,
        r#"{"access_token":"a t","refresh_token":"rt-1","expires_in":600}"#,
        r#"{"refresh_token":"rt-1","access_token":"at"#,
    ];
    let expected = [
        (600, Some("rt-1")),
        (600, None),
        (0, Some("rt-1")),
        (0, Some("rt-1")),
    ];
    world::run(async |world: &World| {
        for (answer, expected) in answers.into_iter().zip(expected) {
            let read = |outcome: Result<Token>| match outcome {
                Ok(token) => (token.remaining().as_secs(), token.refresh_token().cloned()),
                Err(error) => (0, error.refresh_token().cloned()),
            };
            let assert = |outcome: Result<Token>| {
                let (life, refresh_token) = read(outcome);
                let refresh_token = refresh_token.as_ref().map(RefreshToken::expose);
                assert_eq!((life, refresh_token), expected, "{answer}");
            };
            let start = r#"{"device_code":"d","user_code":"U","verification_uri":"https://x.y"}"#;
            world.answers([Answer::from(start), Answer::from(answer)]);
            let device = world.device();
            let authorization = device.start().await.unwrap();
            assert(device.poll(&authorization).await);

            world.answers([Answer::from(answer)]);
            let web = world.web();
            let (_, login) = web.login("https://x.y").state("s").begin().unwrap();
            assert(web.complete(login, "code=c&state=s").await);
        }
    });
}

#[test]
fn rule_j_device_defaults() {
    for (members, interval, life) in [
        ("", 5.0, 300),
        (r#""interval":null,"expires_in":null,"#, 5.0, 300),
        (r#""interval":"7","expires_in":"600","#, 7.0, 600),
        (r#""interval":5.5,"expires_in":1800000600,"#, 5.5, 600),
        (r#""interval":"junk","expires_in":[],"#, 5.0, 300),
        (r#""interval":0,"expires_in":0,"#, 5.0, 300),
        (r#""interval":0.001,"expires_in":86401,"#, 5.0, 300),
        (r#""interval":600,"expires_in":30,"#, 600.0, 30),
    ] {
        let body = format!(
            r#"{{{members}"device_code":"d","user_code":"U","verification_uri":"https://x.y"}}"#
        );
        world::run(async |world: &World| {
            let pending = Answer::new(400, r#"{"error":"authorization_pending"}"#);
            world.answers([Answer::from(body.as_str()), pending]);
            let device = world.device();
            let authorization = device.start().await.unwrap();
            assert_eq!(
                authorization.interval().as_secs_f64(),
                interval,
                "{members}"
            );
            assert_eq!(authorization.expires_in().as_secs(), life, "{members}");
            let error = device.poll(&authorization).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DeviceCodeExpired, "{members}");
            assert!(world.requests().len() >= 2, "at least one poll: {members}");
        });
    }
}
