//! Responses to a refresh: what is stored, and what the caller gets.

use std::time::Duration;

use coze_auth::{CachedProvider, Error, ErrorKind, RefreshToken, Token, TokenProvider, UserFlow};

use super::{
    oracle::{self, Body, CAP, Clocks, State},
    sign_in,
    world::{self, Answer, CLIENT_ID, CLIENT_SECRET, NOW, REDEEMED, World, assert_fit_to_be_shown},
};

/// The flow that refreshes.
#[derive(Debug, Clone, Copy)]
pub enum By {
    Device,
    /// With a client secret.
    Web,
}

/// Longer than any backoff, because `Retry-After` may be an hour.
const LONGEST_BACKOFF: Duration = Duration::from_secs(3700);

/// Answers a refresh, and asserts:
///
/// - Rules b and c: afterwards the store holds the successor in the response, else the previous refresh token.
/// - A usable access token is returned unchanged, with a lifetime by rules d and e, never beyond the cap.
/// - Rule f: for a success without one the caller gets an error, and no request is sent until the backoff has elapsed.
/// - The next refresh sends the stored refresh token.
/// - No error contains a secret of the request or of the response.
pub fn check(by: By, answer: &Answer) {
    world::run(async |world| {
        let body = Body::read(&answer.body);
        let mut secrets = match by {
            By::Device => vec![REDEEMED],
            By::Web => vec![REDEEMED, CLIENT_SECRET],
        };
        secrets.extend(answer.secrets(&body, &["access_token", "refresh_token"]));
        refreshed(world, by, answer, &body, &secrets).await;
        stored(world, by, answer, &body, &secrets).await;
    });
}

/// The result of a flow.
async fn refreshed(world: &World, by: By, answer: &Answer, body: &Body, secrets: &[&str]) {
    world.answers([answer.clone()]);
    let redeemed = RefreshToken::new(REDEEMED).expect("a valid refresh token");
    let outcome = match by {
        By::Device => world.device().refresh(&redeemed).await,
        By::Web => world.web().refresh(&redeemed).await,
    };
    let is_success = body.is_success(answer.status);
    match (&outcome, body.access_token().filter(|_| is_success)) {
        (Ok(token), Some(access_token)) => {
            assert_eq!(token.access_token().expose(), access_token, "{answer:?}");
            let refresh_token = token.refresh_token().map(RefreshToken::expose);
            assert_eq!(refresh_token, body.successor(answer.status), "{answer:?}");
            assert_lives_as_granted(token, answer, body);
            world::assert_hushed(&format!("{token:?}"), secrets, answer);
        }
        (Err(error), None) => {
            assert_fit_to_be_shown(error, secrets, answer);
            let refresh_token = error.refresh_token().map(RefreshToken::expose);
            assert_eq!(refresh_token, body.successor(answer.status), "{answer:?}");
            assert_kind(error, answer, body);
        }
        (_, expected) => panic!("{outcome:?} instead of {expected:?}: {answer:?}"),
    }
}

/// Rules d and e.
fn lives(answer: &Answer, body: &Body) -> Vec<oracle::Lives> {
    let took = answer.took.as_secs_f64();
    let clocks = Clocks {
        local: NOW as f64 + took,
        date: answer.server_time(),
        took,
    };
    oracle::lives(body.get("expires_in"), clocks, 900.0)
}

fn assert_lives_as_granted(token: &Token, answer: &Answer, body: &Body) {
    let lives = lives(answer, body);
    let lifetime = token.remaining().as_secs_f64();
    assert!(
        lives.iter().any(|lives| lives.contains(&lifetime)) && lifetime <= CAP,
        "{lifetime} s is not in {lives:?}: {answer:?}"
    );
}

/// The kind of an error tells whether something was redeemed.
fn assert_kind(error: &Error, answer: &Answer, body: &Body) {
    let is_success = body.is_success(answer.status);
    let expected = match (is_success, body.successor(answer.status)) {
        (true, Some(_)) => Some(ErrorKind::UnusableToken),
        (false, Some(_)) => Some(ErrorKind::Interrupted),
        _ if body.state == State::Closed && oracle::refusal(body).is_none() => {
            return assert_ne!(error.kind(), ErrorKind::Refused, "{error} {answer:?}");
        }
        _ => None,
    };
    if let Some(expected) = expected {
        assert_eq!(error.kind(), expected, "{error} {answer:?}");
    }
}

/// The result of a provider, and the contents of its store.
async fn stored(world: &World, by: By, answer: &Answer, body: &Body, secrets: &[&str]) {
    let sign_in = sign_in::stale(REDEEMED, CLIENT_ID).await;
    let provider = match by {
        By::Device => CachedProvider::stored(world.device(), sign_in.clone()),
        By::Web => CachedProvider::stored(world.web(), sign_in.clone()),
    }
    .build();
    world.answers([answer.clone()]);
    let outcome = provider.token().await;
    let requests = world.requests();
    for request in &requests {
        assert_eq!(request.text("refresh_token"), Some(REDEEMED), "{answer:?}");
    }
    let successor = body.successor(answer.status);
    if successor.is_some() || body.is_success(answer.status) {
        assert_eq!(
            requests.len(),
            1,
            "a redeemed token was sent again: {answer:?}"
        );
    }
    let held = sign_in::stored_refresh_token(&sign_in).await;
    let expected = successor.unwrap_or(REDEEMED);
    assert_eq!(held, expected, "{answer:?}");

    let usable = body
        .access_token()
        .filter(|_| body.is_success(answer.status));
    let must_sign_in = match &outcome {
        Ok(token) => {
            assert_eq!(Some(token.expose()), usable, "{answer:?}");
            provider.invalidate(token);
            false
        }
        Err(error) => {
            assert_fit_to_be_shown(error, secrets, answer);
            let may_be_over = lives(answer, body).iter().any(|lives| *lives.start() < 1.0);
            assert!(usable.is_none() || may_be_over, "{error} {answer:?}");
            let again = provider.token().await.expect_err("a backoff");
            assert_fit_to_be_shown(&again, secrets, answer);
            assert_eq!(world.requests().len(), requests.len(), "{error} {answer:?}");
            error.needs_sign_in()
        }
    };

    let good = r#"{"access_token":"at-2","refresh_token":"rt-2","expires_in":900}"#;
    world.answers([Answer::new(200, good)]);
    tokio::time::sleep(LONGEST_BACKOFF).await;
    let next = provider.token().await;
    if must_sign_in {
        let error = next.expect_err("the sign-in has ended");
        assert!(error.needs_sign_in(), "{error} {answer:?}");
        assert!(world.requests().is_empty(), "{answer:?}");
    } else {
        let next = next.unwrap_or_else(|error| panic!("{error} {answer:?}"));
        assert_eq!(next.expose(), "at-2", "{answer:?}");
        let requests = world.requests();
        let sent = requests.first().and_then(|r| r.text("refresh_token"));
        assert_eq!(sent, Some(expected), "{answer:?}");
        assert_eq!(requests.len(), 1, "{answer:?}");
        let held = sign_in::stored_refresh_token(&sign_in).await;
        assert_eq!(held, "rt-2", "{answer:?}");
    }
    provider.shutdown().await.expect("nothing is unsaved");
}
