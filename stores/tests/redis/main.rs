//! `RedisStore` against a real `redis-server`.
//!
//! Each test starts its own server. If `redis-server` is not installed, the tests are skipped; with
//! `COZE_TESTS_REQUIRE_REDIS=1` they fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests panic on failure"
)]

mod failures;
#[path = "../support/left_out.rs"]
mod left_out;
mod locks;
mod proxy;
mod security;
mod server;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use coze_auth::store::{
    CompareAndSet, Contents, Key, LockLifetime, Owner, Profile, Store, StoreError, StoreErrorKind,
    Stored, TryLock, Version,
};
use coze_auth_stores::{RedisStore, RedisStoreBuilder};
use tokio::{task::JoinSet, time::sleep};

use self::{proxy::Proxy, server::RedisServer};

const KEY: &str = "coze-auth:{ann}";
const LOCK: &str = "coze-auth:{ann}:lock";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const TTL: Duration = Duration::from_secs(30);
const TOLERANT: Duration = Duration::from_secs(20);

fn profile(name: &str) -> Profile {
    Profile::new(name).unwrap()
}

fn ann() -> Key {
    Key::record(&profile("ann"))
}

fn slot(slot: u8) -> Key {
    Key::quarantine_slots(&profile("ann"))
        .nth(slot.into())
        .unwrap()
}

fn store(server: &RedisServer) -> RedisStore {
    tolerant(server.url()).build().unwrap()
}

/// A store with timeouts that tolerate a machine which stalls for seconds.
fn tolerant(url: String) -> RedisStoreBuilder {
    RedisStore::builder(url)
        .connect_timeout(TOLERANT)
        .response_timeout(TOLERANT)
}

/// All contents have the same length, so none grows the record.
fn contents(number: u32) -> Contents {
    format!("{{\"hush\":{number:08}}}").into_bytes().into()
}

fn number_in(stored: &Stored) -> u32 {
    let text = str::from_utf8(stored.contents.expose()).unwrap();
    text[8..16].parse().unwrap()
}

async fn load(store: &RedisStore, key: &Key) -> Option<Stored> {
    store.load(key).await.unwrap()
}

async fn number(store: &RedisStore) -> Option<u32> {
    load(store, &ann()).await.as_ref().map(number_in)
}

async fn change(
    store: &RedisStore,
    key: &Key,
    expected: Option<&Version>,
    new: Option<Contents>,
) -> Result<CompareAndSet, StoreError> {
    store.compare_and_set(key, expected, new.as_ref()).await
}

/// Writes to a key, and returns the version; `None` after a conflict.
async fn write_to(
    store: &RedisStore,
    key: &Key,
    expected: Option<&Version>,
    new: u32,
) -> Option<Version> {
    let done = change(store, key, expected, Some(contents(new))).await;
    match done.unwrap() {
        CompareAndSet::Done(version) => Some(version.expect("a write has a version")),
        _ => None,
    }
}

async fn write(store: &RedisStore, expected: Option<&Version>, new: u32) -> Option<Version> {
    write_to(store, &ann(), expected, new).await
}

async fn create(store: &RedisStore, new: u32) -> Version {
    write(store, None, new).await.expect("the key was absent")
}

async fn delete(store: &RedisStore, expected: &Version) -> bool {
    let done = change(store, &ann(), Some(expected), None).await;
    done.unwrap() == CompareAndSet::Done(None)
}

/// The error must name the server and the cause, and must not contain a secret.
#[track_caller]
fn assert_says(error: &StoreError, kind: StoreErrorKind, cause: &str) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    assert!(text.contains("Redis at "), "{text}");
    assert!(text.contains(cause), "{cause:?} is not in: {text}");
    assert!(!format!("{text} {error:?}").contains("hush"), "{error:?}");
}

#[tokio::test]
async fn contents_are_loaded_with_their_version() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (one, other) = (store(&server), store(&server));
    assert!(load(&one, &ann()).await.is_none());
    for bytes in [&b"{}"[..], b"", b"\0\r\n\xff 1900000000000 "] {
        let new = Contents::from(bytes.to_vec());
        let before = load(&other, &ann()).await.map(|stored| stored.version);
        let done = change(&one, &ann(), before.as_ref(), Some(new)).await;
        let stored = load(&other, &ann()).await.unwrap();
        assert_eq!(stored.contents.expose(), bytes);
        assert_eq!(done.unwrap(), CompareAndSet::Done(Some(stored.version)));
        assert!(stored.age.unwrap() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn the_age_is_measured_with_the_clock_of_redis() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let now = || {
        let (seconds, micros): (u64, u64) = server.ask("TIME");
        seconds * 1000 + micros / 1000
    };
    let store = store(&server);
    create(&store, 1).await;
    let value: String = server.ask(&format!("GET {KEY}"));
    let written_at: u64 = value.split_once(' ').unwrap().0.parse().unwrap();
    assert!(written_at.abs_diff(now()) < 5000, "{written_at}");
    let shifted = async |written_at: u64| {
        let _: redis::Value = server.ask_words(&["SET", KEY, &format!("{written_at} {{}}")]);
        load(&store, &ann()).await.unwrap().age
    };
    let hours = shifted(written_at - 3_600_000).await.unwrap().as_secs() / 3600;
    assert_eq!(hours, 1);
    assert_eq!(shifted(now() + 3_600_000).await, None, "the age is unknown");
}

#[tokio::test]
async fn the_age_counts_from_the_call_of_the_store() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    // Connecting to this database requires a response of the server.
    let store = tolerant(format!("{}/5", server.url())).build().unwrap();
    server.freeze();
    let began = Instant::now();
    let writing = tokio::spawn({
        let store = store.clone();
        async move { create(&store, 1).await }
    });
    sleep(Duration::from_millis(500)).await;
    server.thaw();
    writing.await.unwrap();
    let age = load(&store, &ann()).await.unwrap().age.unwrap();
    assert!(age >= Duration::from_millis(450), "{age:?}");
    // Redis measures whole milliseconds, with another clock.
    assert!(age <= began.elapsed() + Duration::from_millis(5), "{age:?}");
}

#[tokio::test]
async fn each_write_renews_the_ttl() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let left = || Duration::from_millis(server.ask(&format!("PTTL {KEY}")));
    let store = store(&server);
    let first = create(&store, 1).await;
    assert!(left() > 29 * DAY && left() <= 30 * DAY, "{:?}", left());
    server.tell(&format!("PEXPIRE {KEY} 60000"));
    let second = write(&store, Some(&first), 2).await;
    assert!(left() > 29 * DAY, "{:?}", left());
    let brief = tolerant(server.url()).keep_for(Duration::from_millis(50));
    write(&brief.build().unwrap(), second.as_ref(), 3)
        .await
        .unwrap();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(number(&store).await, None);
}

#[tokio::test]
async fn one_of_many_concurrent_writers_succeeds() {
    const WRITERS: u32 = 8;
    let Some(server) = RedisServer::start() else {
        return;
    };
    let one = store(&server);
    let first = create(&one, 1).await;
    for expected in [Some(first), None] {
        let mut writers = JoinSet::new();
        for number in 2..2 + WRITERS {
            let (store, expected) = (store(&server), expected.clone());
            writers.spawn(async move {
                let won = write(&store, expected.as_ref(), number).await;
                won.map(|version| (number, version))
            });
        }
        let mut won = writers.join_all().await.into_iter().flatten();
        let (winner, version) = won.next().unwrap();
        assert_eq!((won.next(), number(&one).await), (None, Some(winner)));
        assert!(delete(&one, &version).await);
    }
}

#[tokio::test]
async fn a_profile_has_ten_keys_at_most() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    let owner = Owner::new([1; 16], "process 1");
    server.tell(&format!("LPUSH {KEY} of-another-type"));
    for round in 0..3 {
        for key in std::iter::once(ann()).chain(Key::quarantine_slots(&profile("ann"))) {
            let before = load(&store, &key).await.map(|stored| stored.version);
            let written = write_to(&store, &key, before.as_ref(), round).await;
            assert!(written.is_some());
        }
        let _ = store.try_lock(&ann(), &owner, TTL).await.unwrap();
        let mut keys: Vec<String> = server.ask("KEYS *");
        keys.sort_unstable();
        let slots = (0..8).map(|slot| format!("{KEY}:quarantine:{slot}"));
        let expected = [KEY.to_owned(), LOCK.to_owned()].into_iter().chain(slots);
        assert!(keys.iter().eq(&expected.collect::<Vec<_>>()), "{keys:?}");
    }
}

#[tokio::test]
async fn a_key_of_another_type_can_be_quarantined_and_replaced() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    server.tell(&format!("HSET {KEY} field value"));
    let stored = load(&store, &ann()).await.unwrap();
    assert_eq!(stored.age, None);
    assert_eq!(write(&store, None, 1).await, None);
    let quarantined = change(&store, &slot(0), None, Some(stored.contents)).await;
    assert!(matches!(quarantined, Ok(CompareAndSet::Done(_))));
    write(&store, Some(&stored.version), 2).await.unwrap();
    assert_eq!(number(&store).await, Some(2));
    let kept = load(&store, &slot(0)).await.unwrap();
    let words: [&[u8]; 4] = [b"RESTORE", b"elsewhere", b"0", kept.contents.expose()];
    let _: redis::Value = server.ask_words(&words);
    assert_eq!(server.ask::<String>("HGET elsewhere field"), "value");
}

#[tokio::test]
async fn profiles_with_unusual_names_are_separate_and_are_listed() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    let names = [
        "*",
        "a",
        "a b",
        "a%7D",
        "a:lock",
        "a}",
        "a}:quarantine:0",
        "{a}",
        "扣子",
    ];
    for (number, name) in (0..).zip(names) {
        let key = Key::record(&profile(name));
        assert!(write_to(&store, &key, None, number).await.is_some());
    }
    for (number, name) in (0..).zip(names) {
        let stored = load(&store, &Key::record(&profile(name))).await;
        assert_eq!(number_in(&stored.unwrap()), number, "{name}");
    }
    assert_eq!(server.ask::<usize>("DBSIZE"), names.len());
    let mut listed = store.list().await.unwrap().unwrap();
    listed.sort_unstable();
    assert_eq!(listed, names.map(profile));
}

#[tokio::test]
async fn only_records_are_listed_among_many_other_keys() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let my = tolerant(server.url()).key_prefix("[m]*y:").build().unwrap();
    assert_eq!(my.list().await.unwrap(), Some(vec![]));
    let fill = "for i = 1, 2500 do redis.call('SET', 'm:{' .. i .. '}', '') end";
    let _: redis::Value = server.ask_words(&["EVAL", fill, "0"]);
    let owner = Owner::new([1; 16], "");
    for key in [ann(), slot(3), Key::record(&profile("bob"))] {
        assert!(write_to(&my, &key, None, 1).await.is_some());
        let _ = my.try_lock(&key, &owner, TTL).await.unwrap();
    }
    for key in [slot(4), Key::record(&profile("carl"))] {
        let _ = my.try_lock(&key, &owner, TTL).await.unwrap();
    }
    let listed = my.list().await.unwrap().unwrap();
    assert_eq!(listed, [profile("ann"), profile("bob")]);
}

#[tokio::test]
async fn stores_with_another_prefix_or_database_are_separate() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let one = store(&server);
    let of_prefix = tolerant(server.url()).key_prefix("my:").build().unwrap();
    let of_database = tolerant(format!("{}/5", server.url())).build().unwrap();
    for (new, store) in (1..).zip([&one, &of_prefix, &of_database]) {
        create(store, new).await;
    }
    for (new, store) in (1..).zip([&one, &of_prefix, &of_database]) {
        assert_eq!(number(store).await, Some(new));
    }
}

#[test]
fn the_store_passes_the_suite() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    coze_auth::testing::store::check(|| async { Arc::new(store(&server)) as Arc<dyn Store> });
    assert_eq!(server.ask::<u64>("DBSIZE"), 0, "keys are left behind");
}
