//! Callback URLs: which authorization code is redeemed.

use coze_auth::ErrorKind;

use super::world::{self, Answer, CLIENT_SECRET, HUSH, World, assert_fit_to_be_shown};

/// The flow whose login the callback completes.
#[derive(Debug, Clone, Copy)]
pub enum By {
    Web,
    Pkce,
}

const REDIRECT_URI: &str = "https://example.com/callback";

/// Completes a login with arbitrary text as its callback, and asserts:
///
/// - A code is redeemed only if the callback has the state of this login once, exactly one code, and no error.
/// - Otherwise nothing is sent, and the error contains neither the state nor the code.
pub fn any(by: By, state: &str, callback: &str) {
    if state.trim().is_empty() {
        return;
    }
    world::run(async |world| {
        let (outcome, sent) = complete(world, by, state, callback).await;
        let parameters = parameters(callback);
        let values = |name: &str| -> Vec<&[u8]> {
            let named = parameters.iter().filter(|(n, _)| n == name.as_bytes());
            named.map(|(_, value)| value.as_slice()).collect()
        };
        let is_ours = values("state") == [state.as_bytes()];
        let what = || format!("{by:?} {state:?} {callback:?}");
        match sent.as_deref() {
            Some(code) => {
                assert!(outcome.is_ok(), "{}", what());
                assert!(is_ours && values("error").is_empty(), "{}", what());
                let [value] = values("code")[..] else {
                    panic!("none or several codes: {}", what());
                };
                assert_eq!(code, String::from_utf8_lossy(value), "{}", what());
                assert!(!code.is_empty(), "{}", what());
            }
            None => {
                let error = outcome.expect_err("nothing was sent");
                let mut secrets = vec![CLIENT_SECRET];
                let values = values("code").into_iter().chain(values("state"));
                let texts: Vec<_> = values.filter_map(|v| std::str::from_utf8(v).ok()).collect();
                let is_secret = |text: &&str| text.len() >= 8 && text.contains(HUSH);
                // The error of a callback is shown, so it is not secret.
                let told = parameters
                    .iter()
                    .filter(|(name, _)| name.starts_with(b"error"));
                let told: Vec<_> = told.map(|(_, v)| String::from_utf8_lossy(v)).collect();
                let is_told = |text: &&str| told.iter().any(|told| told.contains(*text));
                let hidden = texts.into_iter().filter(is_secret);
                secrets.extend(hidden.filter(|text| *text == state || !is_told(text)));
                assert_fit_to_be_shown(&error, &secrets, &what());
                match error.kind() {
                    ErrorKind::Refused => assert!(is_ours, "{}", what()),
                    ErrorKind::StateMismatch => assert!(!is_ours, "{}", what()),
                    ErrorKind::InvalidCallback => {}
                    kind => panic!("{kind:?}: {}", what()),
                }
            }
        }
    });
}

/// The form of a callback.
#[derive(Debug, Clone, Copy)]
pub enum Form {
    Url,
    Path,
    Query,
}

/// Builds the callback of a login and asserts that exactly its code is sent.
pub fn round_trip(by: By, form: Form, state: &str, code: &str, other: &str) {
    if state.trim().is_empty() || code.is_empty() {
        return;
    }
    let query = format!(
        "x={}&code={}&y=&state={}",
        encoded(other),
        encoded(code),
        encoded(state)
    );
    let callback = match form {
        Form::Url => format!("{REDIRECT_URI}?{query}#{}", encoded(other)),
        Form::Path => format!("/callback?{query}"),
        Form::Query => query,
    };
    world::run(async |world| {
        let (outcome, sent) = complete(world, by, state, &callback).await;
        assert_eq!(
            sent.as_deref(),
            Some(code),
            "{by:?} {outcome:?} {callback:?}"
        );
        let token = outcome.unwrap_or_else(|error| panic!("{error} {callback:?}"));
        assert_eq!(token.access_token().expose(), "at-1");
    });
    any(by, state, &callback);
}

/// Completes a login, and returns the code that was sent, if any.
async fn complete(
    world: &World,
    by: By,
    state: &str,
    callback: &str,
) -> (coze_auth::Result<coze_auth::Token>, Option<String>) {
    let good = r#"{"access_token":"at-1","refresh_token":"rt-1","expires_in":900}"#;
    world.answers([Answer::new(200, good)]);
    let outcome = match by {
        By::Web => {
            let web = world.web();
            let login = web.login(REDIRECT_URI).state(state).begin();
            let (url, login) = login.expect("a login can begin");
            assert_states(&url, state);
            web.complete(login, callback).await
        }
        By::Pkce => {
            let pkce = world.pkce();
            let login = pkce.login(REDIRECT_URI).state(state).begin();
            let (url, login) = login.expect("a login can begin");
            assert_states(&url, state);
            pkce.complete(login, callback).await
        }
    };
    let requests = world.requests();
    assert!(requests.len() <= 1, "a code is single-use: {callback:?}");
    let sent = requests.first().and_then(|r| r.text("code"));
    (outcome, sent.map(str::to_owned))
}

/// Asserts that the authorize URL contains the state unchanged.
fn assert_states(url: &coze_auth::Url, state: &str) {
    let states: Vec<_> = url
        .query_pairs()
        .filter(|(name, _)| name == "state")
        .collect();
    assert!(states.len() == 1 && states[0].1 == state, "{url} {state:?}");
}

/// Percent-encodes everything except letters and digits.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            _ if b.is_ascii_alphanumeric() => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

/// The parameters of a callback: a URL, a path with a query, or only a query.
fn parameters(callback: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let callback = callback.trim();
    let callback = callback
        .split_once('#')
        .map_or(callback, |(before, _)| before);
    let is_url = coze_auth::Url::parse(callback).is_ok();
    let query = match callback.split_once('?') {
        Some((_, query)) if is_url || callback.starts_with(['/', '?']) => query,
        None if is_url || callback.starts_with('/') => "",
        _ => callback,
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

/// Decodes a part of a query; invalid UTF-8 is replaced, as in a browser.
fn decoded(text: &str) -> Vec<u8> {
    let text = text.as_bytes();
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let digits = text.get(at + 1..at + 3);
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        match (text[at], digits) {
            (b'+', _) => bytes.push(b' '),
            (b'%', Some(digits)) => {
                bytes.extend(u8::from_str_radix(digits, 16));
                at += 2;
            }
            (byte, _) => bytes.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&bytes).into_owned().into_bytes()
}
