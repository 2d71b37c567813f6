//! A configuration: the text of a `coze_oauth_config.json`, or environment variables.

use std::ffi::OsString;

use coze_auth::{ErrorKind, Flow, OAuthConfig, Result};
use serde_json::{Map, Value};

use super::{
    key_text,
    world::{HUSH, assert_fit_to_be_shown, assert_hushed},
};

/// The fields of the file, and those that contain a secret.
const FIELDS: [&str; 7] = [
    "client_type",
    "client_id",
    "client_secret",
    "private_key",
    "public_key_id",
    "coze_api_base",
    "coze_www_base",
];
const SECRETS: [&str; 2] = ["client_secret", "private_key"];

/// The variables, without that of the key's path, because a check opens no file.
pub const VARIABLES: [&str; 11] = [
    "COZE_API_TOKEN",
    "COZE_WEB_OAUTH_CLIENT_ID",
    "COZE_WEB_OAUTH_CLIENT_SECRET",
    "COZE_WEB_OAUTH_REDIRECT_URI",
    "COZE_PKCE_OAUTH_CLIENT_ID",
    "COZE_PKCE_OAUTH_REDIRECT_URI",
    "COZE_DEVICE_OAUTH_CLIENT_ID",
    "COZE_JWT_OAUTH_CLIENT_ID",
    "COZE_JWT_OAUTH_PRIVATE_KEY",
    "COZE_JWT_OAUTH_PUBLIC_KEY_ID",
    "COZE_API_BASE",
];
const SECRET_VARIABLES: [&str; 3] = [
    "COZE_API_TOKEN",
    "COZE_WEB_OAUTH_CLIENT_SECRET",
    "COZE_JWT_OAUTH_PRIVATE_KEY",
];

/// Parses arbitrary text as a `coze_oauth_config.json`, and asserts:
///
/// - An accepted configuration has the flow that it names, and its `Debug` contains no secret.
/// - An error names a field, or the position of invalid JSON, and contains no value.
/// - A complete file with plain values is accepted.
pub fn json(text: &str) {
    let value = serde_json::from_str(text.trim_start_matches('\u{feff}'));
    let fields = match value {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let outcome = text.parse::<OAuthConfig>();
    let known = |name: &str| fields.get(name).and_then(Value::as_str).map(str::trim);
    judge(
        &outcome,
        &FIELDS,
        &|name| SECRETS.contains(&name),
        &known,
        text,
    );
    match &outcome {
        Ok(config) => assert_eq!(
            Some(config.flow().to_string().to_lowercase().as_str()),
            known("client_type"),
            "{text:?}"
        ),
        Err(error) => {
            let names = FIELDS.into_iter().chain(["line", "object", "empty"]);
            let is_named = names.clone().any(|name| error.to_string().contains(name));
            assert!(is_named, "{error} {text:?}");
            assert!(!is_plain(&fields), "{error} {text:?}");
        }
    }
}

/// Whether a file has exactly the fields of its flow, with certainly valid values.
fn is_plain(fields: &Map<String, Value>) -> bool {
    let needed: &[&str] = match fields.get("client_type").and_then(Value::as_str) {
        Some("web") => &["client_id", "client_secret"],
        Some("pkce" | "device") => &["client_id"],
        Some("jwt") => &["client_id", "public_key_id", "private_key"],
        _ => return false,
    };
    let is_good = |name: &str| match fields.get(name).and_then(Value::as_str) {
        Some(value) if name == "private_key" => value == key_text::pem(),
        value => value.is_some_and(is_word),
    };
    needed.iter().all(|name| is_good(name))
        && fields
            .keys()
            .all(|name| name == "client_type" || needed.contains(&name.as_str()))
}

fn is_word(value: &str) -> bool {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    value.starts_with(|c: char| c.is_ascii_alphabetic()) && value.bytes().all(is_good)
}

/// Reads variables, for one flow or for the one that is complete, and asserts the same.
pub fn variables(set: &[(&str, &str)], flow: Option<Flow>) {
    let known = |name: &str| {
        let found = set.iter().rev().find(|(known, _)| *known == name);
        found.map(|(_, value)| *value)
    };
    let outcome = OAuthConfig::from_variables(|name| known(name).map(OsString::from), flow);
    let is_secret = |name: &str| SECRET_VARIABLES.contains(&name);
    judge(
        &outcome,
        &VARIABLES,
        &is_secret,
        &known,
        &format!("{flow:?} {set:?}"),
    );
    match &outcome {
        Ok(config) => assert!(
            flow.is_none_or(|flow| flow == config.flow()),
            "{flow:?} {set:?}"
        ),
        Err(error) => assert!(
            error.to_string().contains("COZE_") || error.to_string().contains("from_env_for"),
            "{error} {set:?}"
        ),
    }
}

/// The assertions for both.
fn judge<'v>(
    outcome: &Result<OAuthConfig>,
    names: &[&str],
    is_secret: &dyn Fn(&str) -> bool,
    value: &dyn Fn(&str) -> Option<&'v str>,
    what: &str,
) {
    // Scheme and host of a base URL may be shown, and are case-insensitive.
    let bases = names
        .iter()
        .filter(|name| name.ends_with("_base") || name.ends_with("_BASE"));
    let holds_secret = |text: &str| text.to_lowercase().contains(HUSH) || key_text::shows_key(text);
    let is_in_base = bases.filter_map(|name| value(name)).any(holds_secret);
    match outcome {
        Ok(config) => {
            let shown = format!("{config:?} {config:#?}");
            let secrets = names
                .iter()
                .filter(|name| is_secret(name))
                .filter_map(|name| value(name));
            let secrets: Vec<_> = secrets
                .map(str::trim)
                .filter(|secret| secret.contains(HUSH))
                .collect();
            let others = names
                .iter()
                .filter(|name| !is_secret(name))
                .filter_map(|name| value(name));
            // A secret in a field that is not for secrets may be shown.
            if !others.into_iter().any(holds_secret) {
                assert_hushed(&shown, &secrets, &what);
                assert!(!key_text::shows_key(&shown), "{shown} {what}");
            }
            let base = config.endpoint().api_base();
            assert!(
                base.starts_with("https://") || base.starts_with("http://"),
                "{base} {what}"
            );
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Configuration, "{what}");
            let secrets: &[&str] = if is_in_base { &[] } else { &[HUSH] };
            assert_fit_to_be_shown(error, secrets, &what);
            let shown = format!("{error} {error:?}");
            assert!(is_in_base || !key_text::shows_key(&shown), "{error} {what}");
        }
    }
}
