//! The contents of a store: a sign-in, a sign-out or damage, which must never be confused.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coze_auth::{
    Endpoint, ErrorKind, RefreshToken, SignIn,
    sign_in::Record,
    store::{CompareAndSet, Contents, Key, MemoryStore, Profile, Store, StoreErrorKind},
};
use serde_json::{Map, Value, json};

use super::world::{self, CLIENT_ID, HUSH, assert_fit_to_be_shown};

/// Fields that change with each write, or in quarantine.
const OF_THE_WRITE: [&str; 4] = ["write_id", "life_ms", "not_before", "intents"];

/// Stores the text of a record after its checksum, and asserts:
///
/// - A sign-in is loaded with its values; a sign-out is loaded as none; everything else is damage, whose error contains
///   nothing of it.
/// - A complete record is never damage.
/// - A new sign-in leaves a copy in quarantine: all fields, including unknown ones, or the original bytes if they are damaged.
pub fn sealed(record: &str) {
    let record = record.trim_matches([' ', '\t', '\r', '\n']);
    let value: Option<Value> = serde_json::from_str(record).ok();
    check(&seal(record), value.as_ref());
    if let Some(value) = value.filter(is_complete) {
        // Generated JSON, so no name is duplicated.
        let loaded = check(&seal(&value.to_string()), Some(&value));
        assert!(loaded, "a complete record is reported as damage: {value}");
    }
}

/// Edits the contents of a store with a valid record, and asserts that it loads that record, or damage.
pub fn edited(at: usize, removed: usize, inserted: &[u8]) {
    let good = json!({
        "version": 1, "write_id": "AAAA", "access_token": "at-hush-1", "refresh_token": "rt-hush-1", "expires_at": 1_800_000_900,
        "life_ms": 900_000, "lifetime_ms": 900_000, "client_id": CLIENT_ID, "api_base": "https://api.coze.com",
        "sign_in": "BBBB", "generation": 3,
    });
    let mut contents = seal(&good.to_string());
    let at = at.min(contents.len());
    let removed = removed.min(contents.len() - at);
    contents.splice(at..at + removed, inserted.iter().copied());
    check(&contents, Some(&good));
}

fn seal(record: &str) -> Vec<u8> {
    let checksum = URL_SAFE_NO_PAD.encode(digest(&SHA256, record.as_bytes()));
    format!(r#"{{"checksum":"{checksum}","record":{record},"padding":"AA"}}"#).into_bytes()
}

/// Loads contents, replaces them by a new sign-in, and returns whether they were a record. `record` is the only possible
/// one.
fn check(contents: &[u8], record: Option<&Value>) -> bool {
    let what = String::from_utf8_lossy(contents);
    let mut is_record = false;
    world::run(async |_| {
        let store = MemoryStore::new();
        let profile = Profile::new("default").expect("a valid name");
        let key = Key::record(&profile);
        let stored = Contents::from(contents.to_vec());
        let done = store.compare_and_set(&key, None, Some(&stored)).await;
        assert!(matches!(done, Ok(CompareAndSet::Done(_))), "a memory store");
        let sign_in = SignIn::new(store.clone(), "default").expect("a valid name");

        let loaded = sign_in.load().await;
        let requires_sign_in = sign_in.requires_sign_in().await;
        let mut replaced = Vec::new();
        match (&loaded, record) {
            (Ok(Some(loaded)), Some(record)) => {
                is_record = true;
                replaced.extend(record["sign_in"].as_str());
                assert_is(loaded, record);
                let has_ended = loaded.ended().is_some();
                assert!(requires_sign_in.is_ok_and(|it| it == has_ended), "{what}");
            }
            (Ok(None), Some(record)) => {
                let signed_out = record["signed_out"].as_array();
                let ids = signed_out.unwrap_or_else(|| panic!("not a sign-out: {what}"));
                replaced.extend(ids.iter().filter_map(Value::as_str));
                assert!(requires_sign_in.is_ok_and(|it| it), "{what}");
            }
            (Err(error), _) => {
                assert_eq!(
                    error.kind(),
                    ErrorKind::Store(StoreErrorKind::Damaged),
                    "{what}"
                );
                assert_fit_to_be_shown(error, &[HUSH], &what);
                assert!(requires_sign_in.is_err(), "{what}");
            }
            (Ok(_), None) => panic!("it is not JSON: {what}"),
        }

        let fresh = RefreshToken::new("the token of a new sign-in").expect("a valid token");
        let put = sign_in.put_refresh_token(&fresh, CLIENT_ID, &Endpoint::COM);
        let put = put.await;
        put.unwrap_or_else(|error| panic!("{error} {what}"));
        let now = sign_in
            .load()
            .await
            .ok()
            .flatten()
            .expect("a stored sign-in");
        assert!(now.refresh_token().expose() == fresh.expose(), "{what}");
        let written = read(&store, &key).await;
        let written = written.as_deref().and_then(record_of).expect("a record");
        let named = written.get("replaced").and_then(|ids| ids[0].as_str());
        assert_eq!(named, replaced.first().copied(), "{what}");

        let kept = Key::quarantine_slots(&profile)
            .next()
            .expect("a first slot");
        match (loaded, read(&store, &kept).await) {
            (Ok(None), None) => {}
            (Ok(Some(_)), Some(kept)) => {
                let kept = record_of(&kept).unwrap_or_else(|| panic!("not a record: {what}"));
                assert_is_copy(&kept, record.expect("it was a record"));
            }
            (Err(_), Some(kept)) => assert_eq!(kept, contents, "{what}"),
            (loaded, kept) => panic!("{loaded:?} in quarantine: {kept:?} {what}"),
        }
    });
    is_record
}

async fn read(store: &MemoryStore, key: &Key) -> Option<Vec<u8>> {
    let stored = store.load(key).await.expect("a memory store");
    stored.map(|stored| stored.contents.expose().to_vec())
}

fn record_of(contents: &[u8]) -> Option<Map<String, Value>> {
    let mut envelope: Value = serde_json::from_slice(contents).ok()?;
    match envelope["record"].take() {
        Value::Object(record) => Some(record),
        _ => None,
    }
}

fn assert_is(loaded: &Record, record: &Value) {
    let text = |name: &str| record[name].as_str();
    let refresh_token = loaded.refresh_token().expose();
    assert_eq!(Some(refresh_token), text("refresh_token"), "{record}");
    let stored = serde_json::to_value(loaded).expect("a record");
    let access_token = stored["access_token"].as_str();
    let log_id = stored["log_id"].as_str().map(str::to_owned);
    assert_eq!(access_token, text("access_token"), "{record}");
    assert_eq!(loaded.client_id(), text("client_id"), "{record}");
    assert_eq!(loaded.api_base(), text("api_base"), "{record}");
    assert_eq!(log_id, log_id_of(&record["log_id"]), "{record}");
    assert_eq!(
        Some(loaded.life().as_millis()),
        record["life_ms"].as_u64().map(u128::from),
        "{record}"
    );
    assert_eq!(
        loaded.ended().is_some(),
        !record["ended"].is_null(),
        "{record}"
    );
    let shown = format!("{loaded:?} {loaded:#?}");
    let others = format!("{:?} {:?}", stored["log_id"], loaded.ended());
    for token in [Some(refresh_token), access_token].into_iter().flatten() {
        let is_shown = token.contains(HUSH) && !others.contains(HUSH) && shown.contains(token);
        assert!(!is_shown, "{shown} {record}");
    }
}

/// The log id of a record as it is shown: another version may have stored it unchanged.
fn log_id_of(value: &Value) -> Option<String> {
    coze_wire::sanitize_log_id(value.as_str()?, &[])
}

/// Asserts that a record in quarantine equals the original.
fn assert_is_copy(copy: &Map<String, Value>, record: &Value) {
    let record = record.as_object().expect("a record is an object");
    for (name, value) in record {
        let is_default = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        let known = [
            "access_token",
            "log_id",
            "client_id",
            "api_base",
            "ended",
            "replaced",
        ];
        let is_known = known.contains(&name.as_str());
        let same = match name.as_str() {
            name if OF_THE_WRITE.contains(&name) => true,
            _ if is_known && is_default => !copy.contains_key(name),
            "ended" => copy.contains_key(name),
            "log_id" => copy.get(name).and_then(Value::as_str) == log_id_of(value).as_deref(),
            _ => copy.get(name) == Some(value),
        };
        assert!(same, "{name}: {copy:?} of {record:?}");
    }
    let others = copy.keys().filter(|name| !record.contains_key(*name));
    let others: Vec<_> = others.filter(|name| *name != "lifetime_ms").collect();
    assert!(others.is_empty(), "{others:?} of {record:?}");
}

/// Whether a value is certainly a record: each required field is present, and all have their types.
fn is_complete(value: &Value) -> bool {
    let Value::Object(fields) = value else {
        return false;
    };
    let is_none_or = |name: &str, is: fn(&Value) -> bool| fields.get(name).is_none_or(is);
    let is_text = |name: &str| fields.get(name).is_some_and(Value::is_string);
    let is_number = |name: &str| fields.get(name).is_some_and(Value::is_u64);
    let optional_text = |value: &Value| value.is_null() || value.is_string();
    matches!(fields.get("version").and_then(Value::as_u64), Some(0 | 1))
        && ["write_id", "sign_in", "refresh_token"]
            .into_iter()
            .all(is_text)
        && fields["refresh_token"] != ""
        && ["expires_at", "life_ms", "generation"]
            .into_iter()
            .all(is_number)
        && ["access_token", "log_id", "client_id", "api_base"]
            .into_iter()
            .all(|name| is_none_or(name, optional_text))
        && is_none_or("lifetime_ms", Value::is_u64)
        && is_none_or("replaced", |ids| {
            ids.as_array()
                .is_some_and(|ids| ids.iter().all(Value::is_string))
        })
        && ["ended", "not_before", "signed_out"]
            .into_iter()
            .all(|name| is_none_or(name, Value::is_null))
        && is_none_or("intents", |intents| {
            intents.as_array().is_some_and(Vec::is_empty)
        })
}
