//! Inputs as bytes, as libFuzzer mutates them and the corpus stores them.
//!
//! An input starts with a few bytes that select options, each by its remainder, so that they can be
//! letters. The rest is the body or the callback.

use std::time::Duration;

use coze_auth::Flow;

use super::{
    callback_url, config, device_answer, error_body, key_text, mock_requests, spec_text,
    store_record, token_answer,
    world::{Answer, NOW, REDEEMED},
};

/// Header bytes of [`token_answer`], [`device_answer`] and [`error_body`], in this order: status, `Date`, framing,
/// and one specific to the check.
const HEADER: usize = 4;

/// Selects one of these by `byte`.
fn one_of<T: Clone>(all: &[T], byte: u8) -> T {
    all[usize::from(byte) % all.len()].clone()
}

fn answer(input: &[u8], statuses: &[u16]) -> Option<(Answer, u8)> {
    let (&[status, date, framing, own], body) = input.split_first_chunk::<HEADER>()?;
    let mut answer = Answer::new(one_of(statuses, status), body);
    answer = match date % 12 {
        0 | 1 => answer,
        2 => answer.dated(0),
        3 => answer.dated(-7200),
        4 => answer.dated(600),
        5 => answer.dated(-60),
        6 => answer.dated(3),
        7 => answer.dated(-100_000_000),
        8 => answer.dated(200_000_000),
        9 => answer.dated(-(NOW as i64)),
        10 => Answer {
            has_age: true,
            ..answer.dated(-7200)
        },
        _ => Answer {
            date: Some("yesterday".to_owned()),
            ..answer
        },
    };
    answer.is_broken = framing & 1 != 0;
    answer.took = Duration::from_millis(one_of(&[0, 0, 500, 4000], framing >> 1));
    answer.log_id = one_of(&[None, Some("20261128log1")], framing >> 3).map(str::to_owned);
    answer.retry_after =
        one_of(&[None, None, None, Some("7"), Some("soon")], framing >> 4).map(str::to_owned);
    Some((answer, own))
}

/// A response to a refresh.
pub fn token_answer(input: &[u8]) {
    const STATUSES: [u16; 16] = [
        200, 200, 200, 200, 200, 200, 201, 204, 299, 302, 400, 401, 404, 429, 500, 599,
    ];
    if let Some((answer, own)) = answer(input, &STATUSES) {
        let by = one_of(&[token_answer::By::Device, token_answer::By::Web], own);
        token_answer::check(by, &answer);
    }
}

/// A device authorization response.
pub fn device_answer(input: &[u8]) {
    const STATUSES: [u16; 8] = [200, 200, 200, 200, 201, 302, 400, 502];
    if let Some((answer, own)) = answer(input, &STATUSES) {
        device_answer::check(&answer, one_of(&device_answer::Polled::ALL, own));
    }
}

/// An error. Its specific byte puts a secret of the request into the log id.
pub fn error_body(input: &[u8]) {
    const STATUSES: [u16; 16] = [
        200, 200, 302, 400, 400, 401, 403, 404, 408, 409, 429, 500, 502, 503, 504, 599,
    ];
    if let Some((mut answer, own)) = answer(input, &STATUSES) {
        if own % 8 == 7 {
            answer.log_id = Some(format!("log {REDEEMED}"));
        }
        error_body::check(&answer);
    }
}

/// A callback: the flow and the form, then the state, the code and the callback, one per line. Without a callback, the
/// round trip.
pub fn callback_url(input: &[u8]) {
    use callback_url::{By, Form};
    let Some((&[flow, form], rest)) = input.split_first_chunk() else {
        return;
    };
    let rest = String::from_utf8_lossy(rest);
    let mut lines = rest.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (state, code, callback) = (line(), line(), line());
    let by = one_of(&[By::Web, By::Pkce], flow);
    let form = one_of(&[Form::Url, Form::Path, Form::Query], form);
    callback_url::round_trip(by, form, state, code, callback);
    callback_url::any(by, state, callback);
}

/// A configuration: `v` and the letter of a flow start variables, with one `LETTER=value` on each further line. Otherwise
/// the input is the text of a file. `@P` stands for a private key.
pub fn config(input: &[u8]) {
    let Some((&first, rest)) = input.split_first() else {
        return;
    };
    if first != b'v' {
        let key = key_text::pem().replace('\n', "\\n");
        return config::json(&String::from_utf8_lossy(input).replacen("@P", &key, 1));
    }
    let rest = String::from_utf8_lossy(rest);
    let rest = rest.replacen("@P", &key_text::pem().replace('\n', "\\n"), 1);
    let mut lines = rest.lines();
    const FLOWS: [Option<Flow>; 6] = [
        None,
        Some(Flow::Token),
        Some(Flow::Web),
        Some(Flow::Pkce),
        Some(Flow::Device),
        Some(Flow::Jwt),
    ];
    let flow = lines.next().and_then(|line| line.bytes().next());
    let flow = one_of(&FLOWS, flow.unwrap_or_default());
    let set: Vec<_> = lines
        .filter_map(|line| line.split_once('='))
        .filter_map(|(name, value)| Some((one_of(&config::VARIABLES, name.bytes().next()?), value)))
        .collect();
    config::variables(&set, flow);
}

/// A key: form, width, line end and surrounding text; then any text, in which `@` and a letter stand for a key
/// ([`key_text::expanded`]), truncated at the position in the first byte.
pub fn key_text(input: &[u8]) {
    let Some((&[form, width, line_end, around, damage], rest)) = input.split_first_chunk() else {
        return;
    };
    if form % 4 < 2 {
        return key_text::round_trip(key_text::Form {
            is_pkcs1: form % 4 == 1,
            width: one_of(&[64, 76, 4000], width),
            line_end: one_of(
                &["\n", "\r\n", "\\n", "\\r\\n", "\n    ", "\n\n", " \n\t"],
                line_end,
            ),
            around: one_of(&["", " ", "\n", "\r\n\t ", "\"", "'"], around),
        });
    }
    let mut text = key_text::expanded(&String::from_utf8_lossy(rest));
    if form % 4 == 3 {
        // Changes one letter of the key.
        let at = text.len() * usize::from(width) / 256 + usize::from(line_end);
        if let Some(found) = text.get(at..).and_then(|rest| rest.chars().next()) {
            text.replace_range(
                at..at + found.len_utf8(),
                &char::from(damage & 0x7f).to_string(),
            );
        }
    }
    key_text::any(&text);
}

/// The contents of a store: `s` and the text of a record after its checksum; else an edit of a valid one: position and length, in
/// two bytes each, and the replacement.
pub fn store_record(input: &[u8]) {
    match input.split_first_chunk() {
        _ if input.first() == Some(&b's') => {
            store_record::sealed(&String::from_utf8_lossy(&input[1..]))
        }
        Some((&[at, further, removed, much], inserted)) => {
            let at = usize::from(at) * 2 + usize::from(further % 2);
            store_record::edited(at, usize::from(removed) * usize::from(much % 4), inserted);
        }
        None => {}
    }
}

/// A script for the mock, after one byte for its options.
pub fn mock_requests(input: &[u8]) {
    let Some((&options, script)) = input.split_first() else {
        return;
    };
    let options = mock_requests::Options {
        is_lenient: options & 1 != 0,
        has_control: options & 2 != 0,
        revokes: options & 4 != 0,
    };
    mock_requests::play(options, &String::from_utf8_lossy(script));
}

/// The text of a description.
pub fn spec_text(input: &[u8]) {
    spec_text::check(&String::from_utf8_lossy(input));
}
