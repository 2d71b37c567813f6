//! Answers that are no success: one of Coze's three error shapes at any status, or something that does not come
//! from Coze's OAuth at all.
//!
//! Read from the answer as it was captured: the generated clients' own errors drop the headers and print the
//! body.

use std::time::Duration;

use coze_wire::{BodyState, Captured, Secret};
use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use serde_json::Value;

use crate::{Error, ErrorCode, ErrorKind, error::presentable, token::Timing};

/// Reads an answer that is not a success: one of the three error shapes at any status, or something
/// that does not come from Coze's OAuth at all.
pub(crate) fn refusal(captured: &Captured, secrets: &[Secret], timing: &Timing) -> Error {
    let status = captured.status();
    let error = match captured.body_state() {
        BodyState::TooLarge => Error::new(
            ErrorKind::InvalidAnswer,
            format!("the answer is longer than {} bytes", coze_wire::BODY_LIMIT),
        ),
        BodyState::Broken(cause) => Error::unanswered(cause.clone()),
        _ => refusal_in_body(captured, secrets),
    };
    // A log id inside the body stands in for a missing header.
    let log_id = shown_log_id(captured, secrets).or_else(|| error.log_id().map(str::to_owned));
    error
        .with_status(status)
        .with_log_id(log_id)
        .with_retry_after(retry_after(captured, timing))
}

fn refusal_in_body(captured: &Captured, secrets: &[Secret]) -> Error {
    let parsed = serde_json::from_slice::<Value>(captured.body());
    if let Ok(Value::Object(body)) = &parsed
        && let Some(error) = refusal_in_object(body, secrets)
    {
        return error;
    }
    if captured.status().is_redirection() {
        let elsewhere = captured.headers().contains_key(LOCATION);
        return Error::new(
            ErrorKind::Redirected,
            if elsewhere {
                "the server redirected the request; credentials follow no redirect"
            } else {
                "the server answered with a redirect that leads nowhere"
            },
        );
    }
    let what = match parsed {
        Ok(Value::Object(_)) => {
            "the answer holds neither what was asked for nor an error".to_owned()
        }
        Ok(_) => "the answer is JSON, but no object".to_owned(),
        Err(_) if captured.body().trim_ascii().is_empty() => "the answer is empty".to_owned(),
        Err(error) if error.is_eof() => format!(
            "the answer is cut short after {} bytes",
            captured.body().len()
        ),
        Err(_) => {
            let content_type = captured
                .headers()
                .get(CONTENT_TYPE)
                .and_then(|value| value.to_str().ok())
                .map_or_else(
                    || "of no stated type".to_owned(),
                    |t| presentable(t, secrets),
                );
            format!("the answer is not JSON, but {content_type}")
        }
    };
    Error::new(ErrorKind::InvalidAnswer, what)
}

/// Coze's three shapes of an error. In shape A the word is `error_code`, and `error` is free text; in
/// shape B the word is `error`; shape C has a number. A body may mix A and B.
pub(crate) fn refusal_in_object(
    body: &serde_json::Map<String, Value>,
    secrets: &[Secret],
) -> Option<Error> {
    let text = |name: &str| {
        body.get(name)
            .and_then(Value::as_str)
            .map(|text| presentable(text, secrets))
            .filter(|text| !text.is_empty())
    };
    let refused = |code: ErrorCode, message: Option<String>| {
        Error::new(ErrorKind::Refused, "Coze refused")
            .with_code(code)
            .with_message(message)
    };
    let error = text("error");
    if let Some(word) = text("error_code") {
        let message = text("error_message")
            .or_else(|| text("error_description"))
            .or(error.filter(|error| *error != word));
        return Some(refused(ErrorCode::from_word(&word), message));
    }
    if let Some(word) = error {
        let message = text("error_description").or_else(|| text("error_message"));
        return Some(refused(ErrorCode::from_word(&word), message));
    }
    let number = body
        .get("code")
        .and_then(Value::as_i64)
        .filter(|n| *n != 0)?;
    let log_id = body
        .get("detail")
        .and_then(|detail| detail.get("logid"))
        .and_then(Value::as_str)
        .map(|log_id| presentable(log_id, secrets));
    Some(refused(ErrorCode::Api(number), text("msg")).with_log_id(log_id))
}

pub(crate) fn shown_log_id(captured: &Captured, secrets: &[Secret]) -> Option<String> {
    captured
        .log_id()
        .map(|log_id| presentable(log_id, secrets))
        .filter(|log_id| !log_id.is_empty())
}

/// Nobody means more than a day; and it can be added to any time without an overflow.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// `Retry-After` in seconds, or as a date by the server's clock (RFC 9110 section 10.2.3).
fn retry_after(captured: &Captured, timing: &Timing) -> Option<Duration> {
    let value = captured.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let server_now = captured.date().unwrap_or(timing.ended_wall);
    let wait = until.duration_since(server_now).unwrap_or_default();
    Some(wait.min(LONGEST_RETRY_AFTER))
}
