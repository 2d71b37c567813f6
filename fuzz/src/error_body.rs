//! Error responses: what is parsed, which action the error suggests, and what it shows.

use coze_auth::{Error, ErrorCode, ErrorKind, RefreshToken, UserFlow};
use coze_wire::{Secret, sanitize, sanitize_log_id};

use super::{
    oracle::{self, Body, Code, State},
    world::{self, Answer, CLIENT_SECRET, REDEEMED, assert_fit_to_be_shown},
};

/// Answers the refresh of a web application with this response, and asserts, unless it is a success:
///
/// - Code, message and log id are those of the body, in any shape.
/// - Whether to retry, to sign in or to renew the token follows from them.
/// - The message contains no secret of the request and no control character; the hint stands apart.
pub fn check(answer: &Answer) {
    world::run(async |world| {
        let body = Body::read(&answer.body);
        if !oracle::is_exact(&body) {
            return;
        }
        world.answers([answer.clone()]);
        let redeemed = RefreshToken::new(REDEEMED).expect("a valid refresh token");
        let Err(error) = world.web().refresh(&redeemed).await else {
            let is_token = body.is_success(answer.status) && body.access_token().is_some();
            return assert!(is_token, "an error was accepted as a token: {answer:?}");
        };
        let mut secrets = vec![REDEEMED, CLIENT_SECRET];
        secrets.extend(answer.secrets(&body, &["access_token", "refresh_token"]));
        assert_fit_to_be_shown(&error, &secrets, answer);
        assert!(!error.hint().is_empty(), "{answer:?}");
        assert!(!error.to_string().contains(error.hint()), "{answer:?}");
        let status = error.status().map(|status| status.as_u16());
        if error.kind() != ErrorKind::Interrupted {
            assert_eq!(status, Some(answer.status), "{error} {answer:?}");
        }

        let refusal = oracle::refusal(&body);
        if error.kind() == ErrorKind::Refused {
            let refusal = refusal.unwrap_or_else(|| panic!("{error} {answer:?}"));
            assert_eq!(
                code(&error),
                refusal.code.map(|code| shown_code(code, &body)),
                "{error} {answer:?}"
            );
            assert_message(&error, refusal.message.as_deref(), &body, answer);
        } else {
            assert_eq!(error.code(), None, "{error} {answer:?}");
            // A complete body with an error is a refusal, unless it is an unusable success.
            let is_refusal = body.state == State::Closed && refusal.is_some();
            let is_refusal = is_refusal && !body.is_success(answer.status);
            assert!(!is_refusal, "{error} {answer:?}");
        }
        assert_log_id(&error, &body, answer);
        assert_answers(&error, &body, answer);
    });
}

fn code(error: &Error) -> Option<String> {
    error.code().map(ToString::to_string)
}

fn shown_code(code: Code, body: &Body) -> String {
    match code {
        Code::Number(number) => number.to_string(),
        // A known one is the crate's own word, even if a token holds it too.
        Code::Word(word) if oracle::WORDS.contains(&word.as_str()) => word,
        Code::Word(word) => sanitize(&word, &hidden(body)),
    }
}

/// The secrets of the request and of the response.
fn hidden(body: &Body) -> Vec<Secret> {
    let brought = ["access_token", "refresh_token", "device_code"];
    let brought = brought.iter().filter_map(|name| body.text(name));
    let brought = brought.filter(|_| body.state != State::NoObject);
    let all = [CLIENT_SECRET, REDEEMED].into_iter().chain(brought);
    all.map(Secret::from).collect()
}

fn assert_message(error: &Error, message: Option<&str>, body: &Body, answer: &Answer) {
    let expected = message.map(|message| sanitize(message, &hidden(body)));
    let expected = expected.filter(|message| !message.is_empty());
    assert_eq!(error.message(), expected.as_deref(), "{error} {answer:?}");
}

/// The log id of the header, else of the body. A valid log id is not changed, unless it is a secret.
fn assert_log_id(error: &Error, body: &Body, answer: &Answer) {
    let shown = |log_id: &str| sanitize_log_id(log_id, &hidden(body));
    let in_header = answer.log_id.as_deref().and_then(shown);
    let has_header = in_header.is_some();
    let expected = match in_header {
        Some(text) => Some(text),
        None if body.state == State::NoObject => None,
        None => oracle::log_id(body).and_then(|log_id| shown(&log_id)),
    };
    if body.state == State::Closed || has_header {
        assert_eq!(error.log_id(), expected.as_deref(), "{error} {answer:?}");
    }
}

/// The suggested action, as documented for the methods of [`Error`].
fn assert_answers(error: &Error, body: &Body, answer: &Answer) {
    let refusal = oracle::refusal(body).filter(|_| error.kind() == ErrorKind::Refused);
    let message = refusal.and_then(|refusal| refusal.message);
    let says = |text: &str| {
        let message = message.as_deref().unwrap_or_default();
        message.to_lowercase().contains(text)
    };
    let may_pass_by_status = matches!(answer.status, 408 | 429 | 500..=599);
    let is_retryable = match (error.kind(), error.code()) {
        (ErrorKind::Connect | ErrorKind::Timeout | ErrorKind::Interrupted, _) => true,
        (_, Some(ErrorCode::InternalError | ErrorCode::Api(4013))) => true,
        (ErrorKind::Refused, Some(ErrorCode::Api(_) | ErrorCode::Other(_)) | None) => {
            may_pass_by_status
        }
        (ErrorKind::InvalidAnswer, None) => may_pass_by_status,
        _ => false,
    };
    assert_eq!(error.is_retryable(), is_retryable, "{error} {answer:?}");

    let needs_sign_in = match error.code() {
        Some(ErrorCode::InvalidGrant) => true,
        Some(ErrorCode::AccessDeny) => {
            says("login session invalid") && !says("connector app should bind connector id")
        }
        _ => false,
    };
    assert_eq!(error.needs_sign_in(), needs_sign_in, "{error} {answer:?}");

    let is_token_refused = match error.code() {
        Some(ErrorCode::Api(4100 | 700_012_006)) => true,
        Some(ErrorCode::Api(4101)) => {
            says("token") && !says("connector app should bind connector id")
        }
        _ => error.status().is_some_and(|status| status == 401),
    };
    assert_eq!(
        error.is_token_refused(),
        is_token_refused,
        "{error} {answer:?}"
    );
    assert!(!(needs_sign_in && is_retryable), "{error} {answer:?}");
}
