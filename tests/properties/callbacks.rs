//! Callbacks of a login in a browser.

use proptest::{prelude::*, sample::select};

use crate::{
    answers::cases,
    checks::callback_url::{self, By, Form},
};

const STATE: &str = "state-hush/&=+%25 0123456789";

fn by() -> impl Strategy<Value = By> {
    select(vec![By::Web, By::Pkce])
}

/// A query with parameters that resemble a callback.
fn query() -> impl Strategy<Value = String> {
    let name = select(vec![
        "code",
        "state",
        "state",
        "error",
        "error_description",
        "co%64e",
        "x",
        "",
        "CODE",
    ]);
    let value = prop_oneof![
        select(vec![
            "state-hush%2F%26%3D%2B%2525+0123456789",
            "state-hush%2F%26%3D%2B%2525%200123456789",
            "state-hush/&=+%25 0123456789",
            "code-hush-1",
            "access_denied",
            "",
            "%",
            "%ff",
            "a%00b",
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,12}",
    ];
    let pair = (name, select(vec!["=", "=", "=", ""]), value)
        .prop_map(|(name, equals, value)| format!("{name}{equals}{value}"));
    let start = select(vec![
        "",
        "?",
        "/cb?",
        "https://example.com/cb?",
        "x:?",
        "#",
        "/cb#?",
        " ?",
    ]);
    let end = select(vec!["", "#state=x", "\n", "?code=1"]);
    (start, prop::collection::vec(pair, 0..5), end)
        .prop_map(|(start, pairs, end)| format!("{start}{}{end}", pairs.join("&")))
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn a_code_is_preserved_in_every_form_of_a_callback(
        by in by(), form in select(vec![Form::Url, Form::Path, Form::Query]),
        state in "\\PC{1,20}", code in any::<String>(), other in any::<String>(),
    ) {
        callback_url::round_trip(by, form, &state, &code, &other);
    }

    #[test]
    fn only_a_code_with_the_state_of_the_login_is_redeemed(by in by(), query in query()) {
        callback_url::any(by, STATE, &query);
    }

    #[test]
    fn arbitrary_text_is_not_accepted_as_a_callback(by in by(), text in any::<String>()) {
        callback_url::any(by, STATE, &text);
    }
}
