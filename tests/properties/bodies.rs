//! Strategies for almost valid bodies, modelled on real deviations.

use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
};

use crate::checks::world::{Answer, CLIENT_SECRET, NOW, REDEEMED};

/// A JSON value of any type as text, including unusual ones.
fn odd() -> BoxedStrategy<String> {
    let fixed = select(vec![
        "null",
        "true",
        "false",
        "0",
        "-0",
        "0.0",
        "0e5",
        "1",
        "-1",
        "1e400",
        "-1e400",
        "1e-400",
        "5.5",
        "\"\"",
        "\"0\"",
        "\"00\"",
        "\" \"",
        "\"\\ud800\"",
        "\"\\udc00\\ud800\"",
        "\"\\u0000\"",
        "[]",
        "[ ]",
        "{}",
        "{ }",
        "[0]",
        "{\"a\":1}",
        "[{}]",
        "\"\u{feff}\"",
        "\"a\\nb\"",
        "9007199254740993",
        "123456789012345678901234567890",
    ]);
    let deep = (1_usize..300).prop_map(|depth| "[".repeat(depth) + &"]".repeat(depth));
    prop_oneof![8 => fixed.prop_map(str::to_owned), 1 => deep, 1 => quoted("\\PC*")].boxed()
}

/// A string with some characters escaped.
fn quoted(pattern: &'static str) -> impl Strategy<Value = String> {
    (pattern, any::<bool>()).prop_map(|(text, escapes)| in_quotes(&text, escapes))
}

fn in_quotes(text: &str, escapes: bool) -> String {
    if !escapes {
        return serde_json::to_string(text).unwrap();
    }
    let units = text.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
    format!("\"{}\"", units.collect::<String>())
}

/// A secret of a response, with any characters that JSON supports.
fn secret() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => quoted("(at|rt)-hush-[a-z0-9]{6}"),
        1 => quoted("rt-hush-[ \\n\\x00\"é😀]{1,3}[a-z]{4}"),
        1 => Just(in_quotes(REDEEMED, false)),
    ]
}

fn expires_in() -> BoxedStrategy<String> {
    let now = NOW as f64;
    let number = prop_oneof![
        select(vec![
            0.0,
            1.0,
            899.0,
            900.0,
            86_399.0,
            86_400.0,
            86_401.0,
            999_999_999.0,
            1e9,
            1e12,
            999_999_999_999.0
        ]),
        -1000.0..100_000.0_f64,
        (-90_000.0..180_000.0_f64).prop_map(move |ahead| now + ahead),
        (880.0..920.0_f64).prop_map(move |ahead| now + ahead),
        (-90_000.0..180_000.0_f64).prop_map(move |ahead| (now + ahead) * 1000.0),
        any::<f64>().prop_filter("JSON has only finite numbers", |number| number.is_finite()),
    ];
    (number, 0..4)
        .prop_map(|(number, form)| match form {
            0 => format!("{}", number.trunc()),
            1 => format!("\"{}\"", number.trunc()),
            2 => format!("{number:e}"),
            _ => format!("{number}"),
        })
        .boxed()
}

type Members = Vec<(String, String)>;

fn member(
    names: &'static [&'static str],
    value: impl Strategy<Value = String> + 'static,
) -> BoxedStrategy<Members> {
    let name = select(names.to_vec()).prop_map(str::to_owned);
    (name, value).prop_map(|member| vec![member]).boxed()
}

fn error_member() -> BoxedStrategy<Members> {
    let word = select(vec![
        "authorization_pending",
        "slow_down",
        "access_denied",
        "expired_token",
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unsupported_grant_type",
        "access_deny",
        "internal_error",
        "brand_new",
        "4100",
        "4101",
        "4013",
        "700012006",
        " invalid_grant ",
    ]);
    let word = word.prop_map(|word| in_quotes(word, false)).boxed();
    let number = select(vec![
        "4000",
        "4013",
        "4100",
        "4101",
        "4200",
        "700012006",
        "4100.0",
        "41e2",
        "-1",
    ]);
    let number = number.prop_map(str::to_owned).boxed();
    let text = select(vec![
        "the text",
        "The token you entered is incorrect.",
        "login session invalid",
        "invalid app type",
        "invalid jwt: kid not been registred",
        "verify jwt empty",
        "line\nbreak\u{0}",
        " ",
        "connector app should bind connector id",
    ]);
    let secret = select(vec![REDEEMED, CLIENT_SECRET]);
    let text = prop_oneof![
        text.prop_map(|text| in_quotes(text, false)),
        secret.prop_map(|secret| in_quotes(&format!("you sent {secret}!"), true)),
        quoted("\\PC{0,400}"),
    ];
    let text = text.boxed();
    let object = (word.clone(), text.clone()).prop_map(|(word, text)| {
        format!("{{\"code\":{word},\"message\":{text},\"logid\":\"2026112809\"}}")
    });
    prop_oneof![
        member(
            &["error_code", "error", "code"],
            prop_oneof![word, number, odd(), text.clone()]
        ),
        member(
            &["error_message", "error_description", "msg", "message"],
            prop_oneof![3 => text, 1 => odd()]
        ),
        member(&["error", "detail"], object),
        member(&["logid"], quoted("[0-9a-f ]{0,30}")),
    ]
    .boxed()
}

/// The usual value of this member.
fn usual(name: &str) -> BoxedStrategy<String> {
    let one_of = |all: &'static [&'static str]| select(all).prop_map(str::to_owned).boxed();
    match name {
        "access_token" | "refresh_token" | "device_code" => secret().boxed(),
        "token_type" => one_of(&[
            "\"Bearer\"",
            "\"bearer\"",
            "\" BEARER\"",
            "\"mac\"",
            "\"\\ud800\"",
            "\"\"",
        ]),
        "expires_in" => expires_in(),
        "interval" => prop_oneof![
            one_of(&["5", "\"5\"", "5.5", "300", "1", "0.001", "86400", "86401"]),
            expires_in(),
        ]
        .boxed(),
        "user_code" => {
            prop_oneof![quoted("[A-Z]{4}-[A-Z]{4}"), Just("12345678".to_owned())].boxed()
        }
        _ => one_of(&[
            "\"https://www.coze.com/device\"",
            "\"https://www.coze.com/device\"",
            "\"HTTP://x.y/?a=b\"",
            "\"javascript:x\"",
            "\"/device\"",
        ]),
    }
}

/// A member with its usual value, or with an escaped name, duplicated, of another type, or missing.
fn nearly(name: &'static str) -> BoxedStrategy<Members> {
    let plain = usual(name).prop_map(move |value| vec![(name.to_owned(), value)]);
    let escaped = usual(name).prop_map(move |value| {
        let name = format!("\\u{:04x}{}", name.as_bytes()[0], &name[1..]);
        vec![(name, value)]
    });
    let twice = (usual(name), prop_oneof![usual(name), odd()])
        .prop_map(move |(one, other)| vec![(name.to_owned(), one), (name.to_owned(), other)]);
    let other = odd().prop_map(move |value| vec![(name.to_owned(), value)]);
    prop_oneof![12 => plain, 1 => escaped, 1 => twice, 1 => other, 1 => Just(Vec::new())].boxed()
}

/// An object of these members in any order, optionally with members of an error.
fn object(names: &[&'static str], errors: BoxedStrategy<Members>) -> BoxedStrategy<String> {
    let mut all: Vec<_> = names.iter().map(|name| nearly(name)).collect();
    all.push(errors);
    let unknown = ("[a-z]{0,5}", odd()).prop_map(|member| vec![member]);
    all.push(prop_oneof![2 => Just(Vec::new()), 1 => unknown].boxed());
    let members = all.prop_map(|members| members.concat()).prop_shuffle();
    (members, select(vec!["", " ", "\r\n\t"]))
        .prop_map(|(members, space)| {
            let members = members
                .iter()
                .map(|(name, value)| format!("\"{name}\":{space}{value}{space}"));
            format!("{{{space}{}}}", members.collect::<Vec<_>>().join(","))
        })
        .boxed()
}

/// Changes of a body in transit.
fn damaged(body: BoxedStrategy<String>) -> BoxedStrategy<Vec<u8>> {
    let whole = body.clone().prop_map(String::into_bytes);
    let cut = (body.clone(), any::<Index>()).prop_map(|(body, at)| {
        let mut body = body.into_bytes();
        body.truncate(at.index(body.len()));
        body
    });
    let marked = body
        .clone()
        .prop_map(|body| format!("\u{feff}{body}").into_bytes());
    let garbage = (body.clone(), vec(any::<u8>(), 1..8))
        .prop_map(|(body, garbage)| [body.into_bytes(), garbage].concat());
    let twice = body
        .clone()
        .prop_map(|body| format!("{body}{body}").into_bytes());
    let replaced = (body.clone(), any::<Index>(), any::<u8>()).prop_map(|(body, at, byte)| {
        let mut body = body.into_bytes();
        let at = at.index(body.len());
        body[at] = byte;
        body
    });
    let nested = body.prop_map(|body| format!("{{\"data\":{body}}}").into_bytes());
    let other = select(vec![
        "",
        " ",
        "null",
        "[]",
        "\"text\"",
        "<html>502</html>",
        "{",
        "{}",
    ])
    .prop_map(|text| text.as_bytes().to_vec());
    prop_oneof![
        10 => whole, 5 => cut, 1 => marked, 1 => garbage, 1 => twice, 3 => replaced, 1 => nested, 1 => other
    ]
    .boxed()
}

/// A body with any status, mostly a success.
fn answer(body: BoxedStrategy<Vec<u8>>, usual_status: u16) -> impl Strategy<Value = Answer> {
    let status = prop_oneof![2 => Just(usual_status), 1 => 100_u16..600];
    let date = prop_oneof![
        2 => Just(None),
        2 => (-5_i64..5).prop_map(Some),
        2 => (-90_000_i64..90_000).prop_map(Some),
        1 => (-(NOW as i64)..200_000_000).prop_map(Some),
    ];
    let took = select(vec![0, 0, 0, 1, 500, 4000]);
    let log_id = select(vec![
        None,
        Some("20261128095709log"),
        Some("log rt-hush-redeemed-0123456789"),
    ]);
    (
        body,
        status,
        date,
        took,
        (any::<bool>(), log_id, prop::bool::weighted(0.1)),
    )
        .prop_map(|(body, status, date, took, (is_broken, log_id, has_age))| {
            let answer = Answer::new(status, body);
            let answer = match date {
                Some(ahead) => answer.dated(ahead),
                None => answer,
            };
            Answer {
                is_broken,
                has_age,
                took: std::time::Duration::from_millis(took),
                log_id: log_id.map(str::to_owned),
                ..answer
            }
        })
}

fn no_or_some_errors() -> BoxedStrategy<Members> {
    prop_oneof![6 => Just(Vec::new()), 1 => error_member()].boxed()
}

pub(crate) fn token_answer() -> impl Strategy<Value = Answer> {
    let names = ["access_token", "refresh_token", "expires_in", "token_type"];
    answer(damaged(object(&names, no_or_some_errors())), 200)
}

pub(crate) fn device_answer() -> impl Strategy<Value = Answer> {
    let names = [
        "device_code",
        "user_code",
        "verification_uri",
        "expires_in",
        "interval",
    ];
    answer(damaged(object(&names, no_or_some_errors())), 200)
}

pub(crate) fn error_body() -> impl Strategy<Value = Answer> {
    let errors = vec(error_member(), 0..5).prop_map(|members| members.concat());
    answer(damaged(object(&[], errors.boxed())), 400)
}
