//! `RedisStore` against a real `redis-server`.
//!
//! Each test starts its own. Where none is installed, the tests say that they are left out, and pass;
//! with `COZE_TESTS_REQUIRE_REDIS=1` they fail.

mod server;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use coze_auth::{
    Error, ErrorKind, RefreshToken,
    store::{
        Lease, LeaseKind, Leasing, Profile, Record, RedisStore, RedisStoreBuilder, Removed, Saved,
        Store,
    },
    testing::store::{Subject, SubjectFuture, check},
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

pub(crate) use server::RedisServer;

const KEY: &str = "coze-auth:{ann}";
const ASIDE: &str = "coze-auth:{ann}:aside";
const LEASE: &str = "coze-auth:{ann}:lease";
const UNRELEASED: &str = "coze-auth:{ann}:unreleased";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const HOLD: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(20);

fn ann() -> Profile {
    Profile::new("ann").unwrap()
}

fn store(server: &RedisServer) -> RedisStore {
    patient(server.url())
}

/// One that a machine which stalls for seconds does not make fail.
pub(crate) fn patient(url: String) -> RedisStore {
    let store = RedisStore::builder(url)
        .connect_timeout(PATIENCE)
        .response_timeout(PATIENCE);
    store.build().unwrap()
}

/// One that gives up soon. Even an unharmed Redis may be too slow for it, on a machine that is busy.
fn hasty(server: &RedisServer) -> RedisStoreBuilder {
    RedisStore::builder(server.url())
        .connect_timeout(Duration::from_millis(200))
        .response_timeout(Duration::from_millis(200))
}

/// What a hasty store finds as soon as it has an answer.
async fn stored_number_at_last(hasty: &RedisStore) -> Option<u32> {
    let began = Instant::now();
    loop {
        match hasty.load(&ann()).await {
            Ok(stored) => return stored.map(|stored| number_of(&stored.record)),
            Err(error) => assert!(began.elapsed() < Duration::from_secs(10), "{error}"),
        }
    }
}

fn json_of(number: u32) -> Value {
    json!({
        "version": 1,
        "access_token": format!("hush_access_{number}"),
        "refresh_token": format!("hush_refresh_{number}"),
        "expires_at": 1_900_000_000,
        "life_ms": 899_000,
        "of_the_future": [number],
    })
}

fn record_of(json: &Value) -> Record {
    Record::from_json(json.to_string().as_bytes()).unwrap()
}

/// Sign-in number so and so: each follows the one before.
fn record(number: u32) -> Record {
    record_of(&json_of(number))
}

fn dead(number: u32) -> Record {
    let mut json = json_of(number);
    json["dead"] = json!({ "code": "invalid_grant" });
    record_of(&json)
}

fn token(number: u32) -> RefreshToken {
    record(number).refresh_token().clone()
}

fn number_of(record: &Record) -> u32 {
    let number = record.refresh_token().expose().rsplit('_').next();
    number.unwrap().parse().unwrap()
}

async fn stored_number(store: &RedisStore) -> Option<u32> {
    let stored = store.load(&ann()).await.unwrap();
    stored.map(|stored| number_of(&stored.record))
}

async fn numbers_aside(store: &RedisStore) -> Vec<u32> {
    let aside = store.set_aside(&ann()).await.unwrap();
    aside.iter().flatten().map(number_of).collect()
}

async fn save(store: &RedisStore, redeemed: u32, successor: u32) -> Saved {
    let (redeemed, successor) = (token(redeemed), record(successor));
    store.save(&ann(), &redeemed, &successor).await.unwrap()
}

fn moved_on_to(saved: &Saved) -> Option<u32> {
    match saved {
        Saved::Saved => panic!("it was saved"),
        Saved::MovedOn(stored) => stored.as_ref().map(|stored| number_of(&stored.record)),
    }
}

async fn leased(store: &RedisStore, hold: Duration) -> Box<dyn Lease> {
    match store.lease(&ann(), hold).await.unwrap() {
        Leasing::Got(lease) => lease,
        held => panic!("somebody has the lease: {held:?}"),
    }
}

async fn is_held(store: &RedisStore) -> bool {
    match store.lease(&ann(), HOLD).await.unwrap() {
        Leasing::Got(lease) => {
            lease.release().await.unwrap();
            false
        }
        _ => true,
    }
}

/// It says what failed, where and why, and nothing that is secret.
#[track_caller]
fn assert_says(error: &Error, kind: ErrorKind, cause: &str) {
    let text = format!("{error} {error:?}");
    assert_eq!(error.kind(), kind, "{text}");
    assert!(text.contains(cause), "{cause:?} is not in: {text}");
    assert!(!text.contains("hush"), "{text}");
}

#[tokio::test]
async fn a_sign_in_comes_back_as_it_was_stored() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (one, other) = (store(&server), store(&server));
    assert!(one.load(&ann()).await.unwrap().is_none());
    one.put(&ann(), &record(1)).await.unwrap();
    let stored = other.load(&ann()).await.unwrap().unwrap();
    let json: Value = serde_json::from_str(&stored.record.to_json().unwrap()).unwrap();
    assert_eq!(json, json_of(1));
    assert!(stored.age < Duration::from_secs(5), "{:?}", stored.age);
}

#[tokio::test]
async fn the_age_is_by_the_clock_of_redis() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    store.put(&ann(), &record(1)).await.unwrap();
    let saved_at: u64 = server.ask(&format!("HGET {KEY} saved_at"));
    let (seconds, _): (u64, u64) = server.ask("TIME");
    assert!(saved_at.abs_diff(seconds * 1000) < 5000, "{saved_at}");
    // As if this machine's clock went wrong: only Redis's counts.
    for (shift, hours) in [(3_600_000, 1), (0, 0)] {
        server.tell(&format!("HSET {KEY} saved_at {}", saved_at - shift));
        let age = store.load(&ann()).await.unwrap().unwrap().age;
        assert_eq!(age.as_secs() / 3600, hours);
    }
    // After a failover to a machine whose clock is behind.
    let now = || {
        let (seconds, micros): (u64, u64) = server.ask("TIME");
        seconds * 1000 + micros / 1000
    };
    for (later, unknown) in [(1_500, Duration::ZERO), (3_600_000, Duration::MAX)] {
        loop {
            let saved_at = now() + later;
            server.tell(&format!("HSET {KEY} saved_at {saved_at}"));
            let age = store.load(&ann()).await.unwrap().unwrap().age;
            // Else this machine was too slow, and the record no longer of the future.
            if now() < saved_at {
                assert_eq!(age, unknown);
                break;
            }
        }
    }
}

#[tokio::test]
async fn each_save_renews_the_time_to_live() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let left = || Duration::from_millis(server.ask(&format!("PTTL {KEY}")));
    let store = store(&server);
    store.put(&ann(), &record(1)).await.unwrap();
    assert!(left() > 29 * DAY && left() <= 30 * DAY, "{:?}", left());
    server.tell(&format!("PEXPIRE {KEY} 60000"));
    assert!(matches!(save(&store, 1, 2).await, Saved::Saved));
    assert!(left() > 29 * DAY, "{:?}", left());
    let brief = RedisStore::builder(server.url()).keep_for(Duration::from_millis(50));
    brief
        .build()
        .unwrap()
        .put(&ann(), &record(3))
        .await
        .unwrap();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(stored_number(&store).await, None);
}

#[tokio::test]
async fn a_save_wants_the_refresh_token_that_was_redeemed() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    store.put(&ann(), &record(1)).await.unwrap();
    assert!(matches!(save(&store, 1, 2).await, Saved::Saved));
    assert_eq!(moved_on_to(&save(&store, 1, 3).await), Some(2));
    assert_eq!(stored_number(&store).await, Some(2));
    assert_eq!(numbers_aside(&store).await, [3]);
    // Its answer may have been lost, so it is tried again: nothing is set aside twice.
    assert_eq!(moved_on_to(&save(&store, 1, 3).await), Some(2));
    assert_eq!(numbers_aside(&store).await, [3]);
    let left: i64 = server.ask(&format!("TTL {ASIDE}"));
    assert!(left > 29 * 86_400, "{left}");
}

#[tokio::test]
async fn a_save_after_a_removal_is_set_aside() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    assert_eq!(moved_on_to(&save(&store, 1, 2).await), None);
    assert_eq!(stored_number(&store).await, None);
    assert_eq!(numbers_aside(&store).await, [2]);
}

#[tokio::test]
async fn a_save_whose_answer_was_lost_succeeds_again() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    store.put(&ann(), &record(1)).await.unwrap();
    let impatient = RedisStore::builder(server.url())
        .response_timeout(Duration::from_millis(100))
        .build()
        .unwrap();
    // The server gets it, and may do it when the pause is over.
    server.tell("CLIENT PAUSE 30000 WRITE");
    let lost = impatient.save(&ann(), &token(1), &record(2)).await;
    assert_says(
        &lost.unwrap_err(),
        ErrorKind::Store,
        "no answer within 100ms",
    );
    server.tell("CLIENT UNPAUSE");
    assert!(matches!(save(&store, 1, 2).await, Saved::Saved));
    // When it is asked once more, it certainly has done it.
    assert!(matches!(save(&store, 1, 2).await, Saved::Saved));
    assert_eq!(stored_number(&store).await, Some(2));
    assert!(numbers_aside(&store).await.is_empty());
}

#[tokio::test]
async fn of_many_saves_one_wins_and_no_other_is_lost() {
    const SAVERS: u32 = 8;
    let Some(server) = RedisServer::start() else {
        return;
    };
    let one = store(&server);
    one.put(&ann(), &record(1)).await.unwrap();
    let mut savers = JoinSet::new();
    for number in 2..2 + SAVERS {
        let store = store(&server);
        savers.spawn(async move { matches!(save(&store, 1, number).await, Saved::Saved) });
    }
    let won = savers.join_all().await;
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
    let mut all = numbers_aside(&one).await;
    all.extend(stored_number(&one).await);
    all.sort_unstable();
    assert!(all.iter().copied().eq(2..2 + SAVERS), "{all:?}");
}

#[tokio::test]
async fn a_fresh_sign_in_replaces_what_lives_and_sets_aside_what_is_over() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    store.put(&ann(), &record(1)).await.unwrap();
    store.put(&ann(), &record(2)).await.unwrap();
    assert!(numbers_aside(&store).await.is_empty());
    let died = store.save(&ann(), &token(2), &dead(2)).await.unwrap();
    assert!(matches!(died, Saved::Saved));
    store.put(&ann(), &record(3)).await.unwrap();
    assert_eq!(stored_number(&store).await, Some(3));
    assert_eq!(numbers_aside(&store).await, [2]);
}

#[tokio::test]
async fn eight_are_kept_aside_the_newest() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    for number in 1..=11 {
        let _ = save(&store, 0, number).await;
    }
    assert_eq!(numbers_aside(&store).await, [4, 5, 6, 7, 8, 9, 10, 11]);
}

#[tokio::test]
async fn damage_is_reported_kept_and_set_aside_by_a_fresh_sign_in() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    let cut = &json_of(1).to_string()[..50];
    let newer = json_of(1)
        .to_string()
        .replace("\"version\":1", "\"version\":2");
    for (damage, cause) in [("hush", "no JSON"), (cut, "cut short"), (&newer, "update")] {
        store.put(&ann(), &record(1)).await.unwrap();
        let _: u64 = server.ask_words(&["HSET", KEY, "record", damage]);
        let error = store.load(&ann()).await.unwrap_err();
        assert_says(&error, ErrorKind::StoreDamaged, cause);
        assert_says(&error, ErrorKind::StoreDamaged, KEY);
        for life in [1000, 2000] {
            // As a provider tries again: less is left of its life.
            let mut json = json_of(2);
            json["life_ms"] = json!(life);
            let next = record_of(&json);
            let error = store.save(&ann(), &token(1), &next).await.unwrap_err();
            assert_says(&error, ErrorKind::StoreDamaged, cause);
            assert_says(&error, ErrorKind::StoreDamaged, ASIDE);
        }
        assert_eq!(
            numbers_aside(&store).await,
            [2],
            "the successor is not lost"
        );
        let removed = store.remove(&ann(), &record(1)).await.unwrap();
        assert_eq!(removed, Removed::MovedOn);
        assert_eq!(server.ask::<String>(&format!("HGET {KEY} record")), damage);
        store.put(&ann(), &record(3)).await.unwrap();
        assert_eq!(stored_number(&store).await, Some(3));
        assert_eq!(server.ask::<String>(&format!("LINDEX {ASIDE} 0")), damage);
        let aside = store.set_aside(&ann()).await.unwrap();
        assert!(aside.last().unwrap().is_err());
        server.tell("FLUSHALL");
    }
}

#[tokio::test]
async fn a_record_that_somebody_else_has_changed_is_damage() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    for (field, value, cause) in [
        ("record", json_of(7).to_string(), "belong together"),
        ("refresh", "hush".to_owned(), "belong together"),
        ("saved_at", "hush".to_owned(), "saved_at"),
    ] {
        store.put(&ann(), &record(1)).await.unwrap();
        let _: u64 = server.ask_words(&["HSET", KEY, field, &value]);
        let error = store.load(&ann()).await.unwrap_err();
        assert_says(&error, ErrorKind::StoreDamaged, cause);
    }
}

#[tokio::test]
async fn what_is_no_hash_is_damage_and_is_renamed_by_a_fresh_sign_in() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    server.tell(&format!("SET {KEY} hush"));
    let error = store.load(&ann()).await.unwrap_err();
    assert_says(&error, ErrorKind::StoreDamaged, "another type");
    let error = store.save(&ann(), &token(1), &record(2)).await.unwrap_err();
    assert_says(&error, ErrorKind::StoreDamaged, "another type");
    assert_eq!(numbers_aside(&store).await, [2]);
    store.put(&ann(), &record(3)).await.unwrap();
    assert_eq!(stored_number(&store).await, Some(3));
    let renamed: Vec<String> = server.ask("KEYS *:other:*");
    assert_eq!(renamed.len(), 1);
    assert_eq!(server.ask::<String>(&format!("GET {}", renamed[0])), "hush");
    assert_eq!(server.ask::<u64>("EXISTS coze-auth:{ann}:proof"), 0);
    let left: i64 = server.ask(&format!("TTL {KEY}"));
    assert!(left > 29 * 86_400, "{left}");
}

#[tokio::test]
async fn a_removal_spares_what_has_changed() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    assert_eq!(
        store.remove(&ann(), &record(1)).await.unwrap(),
        Removed::Removed
    );
    store.put(&ann(), &record(2)).await.unwrap();
    assert_eq!(
        store.remove(&ann(), &record(1)).await.unwrap(),
        Removed::MovedOn
    );
    assert_eq!(stored_number(&store).await, Some(2));
    assert_eq!(
        store.remove(&ann(), &record(2)).await.unwrap(),
        Removed::Removed
    );
    assert_eq!(stored_number(&store).await, None);
}

#[tokio::test]
async fn profiles_of_odd_names_do_not_meet() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    let names = [
        "a", "a:lease", "a}", "{a}", "a%7D", "a b", "扣子", "*", "a}:aside",
    ];
    for (number, name) in (1..).zip(names) {
        let profile = Profile::new(name).unwrap();
        store.put(&profile, &record(number)).await.unwrap();
    }
    for (number, name) in (1..).zip(names) {
        let stored = store.load(&Profile::new(name).unwrap()).await.unwrap();
        assert_eq!(number_of(&stored.unwrap().record), number, "{name}");
    }
    assert_eq!(server.ask::<usize>("DBSIZE"), names.len());
}

#[tokio::test]
async fn stores_of_another_prefix_or_database_are_apart() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let one = store(&server);
    let of_prefix = RedisStore::builder(server.url())
        .key_prefix("my:")
        .build()
        .unwrap();
    let of_database = patient(format!("{}/5", server.url()));
    one.put(&ann(), &record(1)).await.unwrap();
    of_prefix.put(&ann(), &record(2)).await.unwrap();
    of_database.put(&ann(), &record(3)).await.unwrap();
    assert_eq!(stored_number(&one).await, Some(1));
    assert_eq!(stored_number(&of_prefix).await, Some(2));
    assert_eq!(stored_number(&of_database).await, Some(3));
}

#[tokio::test]
async fn a_lease_excludes_others_and_names_its_owner() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (one, other) = (store(&server), store(&server));
    assert_eq!(one.lease_kind(), LeaseKind::ForItsHold);
    let lease = leased(&one, HOLD).await;
    let Leasing::Held { by } = other.lease(&ann(), HOLD).await.unwrap() else {
        panic!("two have the lease");
    };
    let owner = by.unwrap();
    assert!(
        owner.starts_with(&format!("process {} on ", std::process::id())),
        "{owner}"
    );
    let left: u64 = server.ask(&format!("PTTL {LEASE}"));
    assert!(left > 25_000 && left <= 30_000, "{left}");
    one.put(&ann(), &record(1)).await.unwrap();
    lease.prove_save(&record(1)).await.unwrap();
    lease.release().await.unwrap();
    assert!(!is_held(&other).await);
}

#[tokio::test]
async fn what_others_write_into_a_lease_is_shown_with_care() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    for (owner, shown) in [("hush", None), ("x \u{1b}[31mred\n", Some("[31mred"))] {
        let _: redis::Value = server.ask_words(&["SET", LEASE, owner]);
        let Leasing::Held { by } = store.lease(&ann(), HOLD).await.unwrap() else {
            panic!("it was stolen");
        };
        assert_eq!(by.as_deref(), shown);
    }
}

#[tokio::test]
async fn a_lease_ends_with_its_hold_and_its_former_owner_can_only_save() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (former, heir) = (store(&server), store(&server));
    former.put(&ann(), &record(1)).await.unwrap();
    let began = Instant::now();
    let lost = leased(&former, Duration::from_millis(300)).await;
    while is_held(&heir).await {
        sleep(Duration::from_millis(5)).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(300));
    let lease = leased(&heir, HOLD).await;
    let error = lost.prove_save(&record(1)).await.unwrap_err();
    assert_says(&error, ErrorKind::StoreBusy, "lost");
    assert!(matches!(save(&former, 1, 2).await, Saved::Saved));
    lost.release().await.unwrap();
    assert!(
        is_held(&former).await,
        "the former owner released its heir's lease"
    );
    lease.release().await.unwrap();
    assert!(!is_held(&former).await);
}

#[tokio::test]
async fn a_lease_that_was_not_released_is_remembered() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (former, heir) = (store(&server), store(&server));
    let lost = leased(&former, HOLD).await;
    assert!(!lost.was_taken_over());
    let left: u64 = server.ask(&format!("PTTL {UNRELEASED}"));
    const REMEMBERED: std::ops::Range<u64> = 3_600_000..3_630_001;
    assert!(REMEMBERED.contains(&left), "{left}");

    // As if its hold were over, and a heir's after it.
    for _ in 0..2 {
        server.tell(&format!("DEL {LEASE}"));
        let lease = leased(&heir, Duration::from_millis(1)).await;
        assert!(lease.was_taken_over());
        lease.release().await.unwrap();
        let left: u64 = server.ask(&format!("PTTL {UNRELEASED}"));
        assert!(REMEMBERED.contains(&left), "{left}");
    }
    // Too late: others have been told.
    lost.release().await.unwrap();
    assert!(leased(&heir, HOLD).await.was_taken_over());
}

#[tokio::test]
async fn a_release_after_the_hold_still_counts_if_nobody_took_over() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (former, heir) = (store(&server), store(&server));
    let lost = leased(&former, HOLD).await;
    server.tell(&format!("DEL {LEASE}"));
    lost.release().await.unwrap();
    assert_eq!(server.ask::<Vec<String>>("KEYS *"), [""; 0]);
    assert!(!leased(&heir, HOLD).await.was_taken_over());
}

#[tokio::test]
async fn whoever_asks_again_for_a_lease_takes_it_over_from_nobody() {
    const ASK: &str = concat!(
        include_str!("../../auth/src/store/redis/common.lua"),
        include_str!("../../auth/src/store/redis/lease.lua")
    );
    type Answer = (Option<String>, bool);
    let Some(server) = RedisServer::start() else {
        return;
    };
    let ask = |owner: &str| -> Answer {
        server.ask_words(&["EVAL", ASK, "2", LEASE, UNRELEASED, owner, "30000", "60000"])
    };
    let again = |owner: &str, answer: Answer| {
        assert_eq!(ask(owner), answer, "{owner}");
        assert_eq!(ask(owner), answer, "{owner}, whose answer was lost");
        server.tell(&format!("DEL {LEASE}"));
        assert_eq!(ask(owner), answer, "{owner}, whose lease has ended");
    };
    again("one", (None, false));
    assert_eq!(ask("other"), (Some("one".to_owned()), false));
    server.tell(&format!("DEL {LEASE}"));
    again("other", (None, true));
}

#[tokio::test]
async fn a_lease_that_is_dropped_is_given_back() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (one, other) = (store(&server), store(&server));
    drop(leased(&one, HOLD).await);
    let began = Instant::now();
    while is_held(&other).await {
        assert!(began.elapsed() < Duration::from_secs(5), "it is still held");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_lease_whose_asker_gave_up_is_given_back() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (one, other) = (store(&server), store(&server));
    one.load(&ann()).await.unwrap();
    server.tell("CLIENT PAUSE 30000 WRITE");
    let profile = ann();
    let asked = tokio::time::timeout(Duration::from_millis(100), one.lease(&profile, HOLD));
    assert!(asked.await.is_err(), "the server did not pause");
    server.tell("CLIENT UNPAUSE");
    let began = Instant::now();
    while is_held(&other).await {
        assert!(began.elapsed() < Duration::from_secs(5), "it is still held");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_proof_is_of_what_is_stored() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    store.put(&ann(), &record(1)).await.unwrap();
    let lease = leased(&store, HOLD).await;
    lease.prove_save(&record(1)).await.unwrap();
    assert!(matches!(save(&store, 1, 2).await, Saved::Saved));
    let error = lease.prove_save(&record(1)).await.unwrap_err();
    assert_says(&error, ErrorKind::StoreBusy, "moved on");
    let _: u64 = server.ask_words(&["HSET", KEY, "record", "hush"]);
    let error = lease.prove_save(&record(2)).await.unwrap_err();
    assert_says(&error, ErrorKind::StoreDamaged, KEY);
    server.tell(&format!("DEL {KEY}"));
    let error = lease.prove_save(&record(2)).await.unwrap_err();
    assert_says(&error, ErrorKind::StoreBusy, "moved on");
    assert!(is_held(&store).await);
}

#[tokio::test]
async fn a_proof_leaves_nothing_behind() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    store.put(&ann(), &record(1)).await.unwrap();
    let lease = leased(&store, HOLD).await;
    lease.prove_save(&record(1)).await.unwrap();
    lease.release().await.unwrap();
    assert_eq!(server.ask::<Vec<String>>("KEYS *"), [KEY]);
    assert_eq!(stored_number(&store).await, Some(1));
}

#[tokio::test]
async fn a_restart_of_redis_goes_unnoticed_and_a_stop_does_not() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    store.put(&ann(), &record(1)).await.unwrap();
    server.stop();
    server.start_again();
    store.put(&ann(), &record(2)).await.unwrap();
    server.stop();
    let error = store.load(&ann()).await.unwrap_err();
    assert_says(&error, ErrorKind::Store, "refused");
    server.start_again();
    assert_eq!(
        stored_number(&store).await,
        None,
        "nothing is persisted here"
    );
    store.put(&ann(), &record(3)).await.unwrap();
}

#[tokio::test]
async fn what_was_saved_survives_a_kill_as_the_readme_has_redis_run() {
    let options = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut server) = RedisServer::start_with(&options) else {
        return;
    };
    let store = store(&server);
    store.put(&ann(), &record(1)).await.unwrap();
    for number in 1..6 {
        assert!(matches!(
            save(&store, number, number + 1).await,
            Saved::Saved
        ));
        server.stop();
        server.start_again();
        assert_eq!(stored_number(&store).await, Some(number + 1));
    }
}

#[tokio::test]
async fn a_connection_that_is_closed_at_rest_goes_unnoticed() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    for number in 1..5 {
        store.put(&ann(), &record(number)).await.unwrap();
        server.tell("CLIENT KILL TYPE normal SKIPME yes");
        server.tell("SCRIPT FLUSH");
    }
    assert_eq!(stored_number(&store).await, Some(4));
}

#[test]
fn a_store_outlives_the_runtime_that_it_connected_in() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    for number in 1..4 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            store.put(&ann(), &record(number)).await.unwrap();
            assert_eq!(stored_number(&store).await, Some(number));
        });
    }
}

#[test]
fn without_a_runtime_there_is_an_error() {
    let store = RedisStore::connect("redis://127.0.0.1").unwrap();
    let profile = ann();
    let mut load = store.load(&profile);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(Err(error)) = load.as_mut().poll(&mut context) else {
        panic!("it waits, or loads");
    };
    assert_says(&error, ErrorKind::System, "runtime");
}

#[tokio::test]
async fn a_slow_redis_is_given_up_in_time() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    store(&server).put(&ann(), &record(1)).await.unwrap();
    let hasty = hasty(&server).build().unwrap();
    assert_eq!(stored_number_at_last(&hasty).await, Some(1));
    server.freeze();
    let began = Instant::now();
    let error = hasty.load(&ann()).await.unwrap_err();
    assert_says(&error, ErrorKind::Store, "no answer within 200ms");
    let error = hasty.lease(&ann(), HOLD).await.unwrap_err();
    assert_says(&error, ErrorKind::Store, "within 200ms");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    server.thaw();
    assert_eq!(stored_number_at_last(&hasty).await, Some(1));
}

#[tokio::test]
async fn many_callers_of_a_silent_redis_do_not_wait_in_line() {
    const CALLERS: usize = 50;
    // It accepts connections, and says nothing: the login gets no answer.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://:hush@{}", silent.local_addr().unwrap());
    let store = RedisStore::builder(url).connect_timeout(Duration::from_millis(300));
    let store = Arc::new(store.build().unwrap());
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let store = Arc::clone(&store);
        callers.spawn(async move { store.load(&ann()).await.unwrap_err() });
    }
    for error in callers.join_all().await {
        assert_says(&error, ErrorKind::Store, "no connection within 300ms");
    }
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_redis_without_memory_lets_no_refresh_be_sent() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    store.put(&ann(), &record(1)).await.unwrap();
    let lease = leased(&store, HOLD).await;
    server.tell("CONFIG SET maxmemory 1");
    let error = lease.prove_save(&record(1)).await.unwrap_err();
    assert_says(&error, ErrorKind::Store, "out of memory (OOM)");
    let error = store.put(&ann(), &record(3)).await.unwrap_err();
    assert_says(&error, ErrorKind::Store, "out of memory (OOM)");
    assert_eq!(
        stored_number(&store).await,
        Some(1),
        "what is there can be read"
    );
    lease.release().await.unwrap();
    let error = store.lease(&ann(), HOLD).await.unwrap_err();
    assert_says(&error, ErrorKind::Store, "out of memory (OOM)");
    server.tell("CONFIG SET maxmemory 0");
    leased(&store, HOLD).await.release().await.unwrap();
}

#[tokio::test]
async fn what_a_refresh_has_brought_is_saved_without_memory() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    store.put(&ann(), &record(1)).await.unwrap();
    server.tell("CONFIG SET maxmemory 1");
    assert!(matches!(save(&store, 1, 2).await, Saved::Saved));
    assert_eq!(stored_number(&store).await, Some(2));
    assert_eq!(moved_on_to(&save(&store, 1, 3).await), Some(2));
    assert_eq!(numbers_aside(&store).await, [3]);
}

#[tokio::test]
async fn without_memory_nothing_is_lost_that_is_in_the_way() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    server.tell(&format!("SET {KEY} hush"));
    server.tell("CONFIG SET maxmemory 1");
    let error = store.put(&ann(), &record(1)).await.unwrap_err();
    assert_says(&error, ErrorKind::Store, "out of memory (OOM)");
    server.tell("CONFIG SET maxmemory 0");
    assert_eq!(server.ask::<String>(&format!("GET {KEY}")), "hush");
}

#[tokio::test]
async fn a_redis_that_can_not_write_its_disk_lets_no_refresh_be_sent() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    store.put(&ann(), &record(1)).await.unwrap();
    let lease = leased(&store, HOLD).await;
    // Not a matter of permissions: the folder is gone.
    std::fs::remove_dir_all(server.folder()).unwrap();
    let _: String = server.ask_words(&["CONFIG", "SET", "save", "3600 1"]);
    server.tell("BGSAVE");
    let began = Instant::now();
    while !server
        .ask::<String>("INFO persistence")
        .contains("rdb_last_bgsave_status:err")
    {
        assert!(began.elapsed() < Duration::from_secs(10), "it can save");
        sleep(Duration::from_millis(20)).await;
    }
    let error = lease.prove_save(&record(1)).await.unwrap_err();
    assert_says(&error, ErrorKind::Store, "disk (MISCONF)");
}

#[tokio::test]
async fn a_primary_that_wants_replicas_lets_no_refresh_be_sent_without() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    store.put(&ann(), &record(1)).await.unwrap();
    let lease = leased(&store, HOLD).await;
    server.tell("CONFIG SET min-replicas-to-write 1");
    let error = lease.prove_save(&record(1)).await.unwrap_err();
    assert_says(&error, ErrorKind::Store, "too few replicas");
}

#[tokio::test]
async fn a_replica_is_an_error_until_it_is_promoted() {
    let (Some(primary), Some(replica)) = (RedisServer::start(), RedisServer::start()) else {
        return;
    };
    let store = store(&replica);
    store.load(&ann()).await.unwrap();
    replica.tell(&format!("REPLICAOF 127.0.0.1 {}", primary.port()));
    let error = store.lease(&ann(), HOLD).await.unwrap_err();
    assert_says(&error, ErrorKind::Store, "read-only replica (READONLY)");
    replica.tell("REPLICAOF NO ONE");
    leased(&store, HOLD).await.release().await.unwrap();
}

/// The ACL rule of the README. It must be enough, and no word of it too much.
const ACL: &str = "~coze-auth:* +eval +time +type +hmget +hset +pexpire +get +set +del +rename +lrange +lpush +ltrim";

async fn use_all(store: &RedisStore, server: &RedisServer) -> Result<(), Error> {
    server.tell(&format!("SET {KEY} something-else"));
    store.put(&ann(), &record(1)).await?;
    let lease = match store.lease(&ann(), HOLD).await? {
        Leasing::Got(lease) => lease,
        held => panic!("{held:?}"),
    };
    lease.prove_save(&record(1)).await?;
    assert!(matches!(
        store.lease(&ann(), HOLD).await?,
        Leasing::Held { .. }
    ));
    let _ = store.save(&ann(), &token(1), &record(2)).await?;
    let _ = store.save(&ann(), &token(1), &record(3)).await?;
    store.load(&ann()).await?;
    lease.release().await?;
    store.set_aside(&ann()).await?;
    let _ = store.remove(&ann(), &record(2)).await?;
    Ok(())
}

#[tokio::test]
async fn the_documented_permissions_are_enough_and_none_is_too_much() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    assert!(
        include_str!("../../README.md").contains(ACL),
        "the README has another rule"
    );
    let try_with = async |rule: &str| {
        server.tell("FLUSHALL");
        server.tell(&format!("ACL SETUSER replica reset on >hush {rule}"));
        let store = patient(server.url_as("replica", "hush"));
        use_all(&store, &server).await
    };
    try_with(ACL).await.unwrap();
    for word in ACL.split(' ') {
        let rule = ACL
            .replace(&format!("{word} "), "")
            .replace(&format!(" {word}"), "");
        let error = try_with(&rule).await.expect_err(word);
        assert_says(&error, ErrorKind::Store, "lacks a permission (NOPERM)");
    }
}

#[tokio::test]
async fn a_user_who_may_only_read_lets_no_refresh_be_sent() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    server.tell("ACL SETUSER reader on >hush ~coze-auth:* +@read +eval +time");
    store(&server).put(&ann(), &record(1)).await.unwrap();
    let reader = patient(server.url_as("reader", "hush"));
    assert_eq!(stored_number(&reader).await, Some(1));
    let error = reader.lease(&ann(), HOLD).await.unwrap_err();
    assert_says(&error, ErrorKind::Store, "lacks a permission (NOPERM)");
    let error = reader
        .save(&ann(), &token(1), &record(2))
        .await
        .unwrap_err();
    assert_says(
        &error,
        ErrorKind::Store,
        "could not save the sign-in for profile ann",
    );
    assert_eq!(stored_number(&reader).await, Some(1));
}

#[tokio::test]
async fn a_wrong_password_is_an_error_that_does_not_show_it() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    server.tell("CONFIG SET requirepass right");
    let right = patient(server.url_as("default", "right"));
    right.put(&ann(), &record(1)).await.unwrap();
    let wrong = patient(server.url_as("default", "hush"));
    let error = wrong.load(&ann()).await.unwrap_err();
    assert_says(
        &error,
        ErrorKind::Store,
        "refused the user name or the password",
    );
    let none = patient(server.url());
    let error = none.load(&ann()).await.unwrap_err();
    assert_says(&error, ErrorKind::Store, "wants a password (NOAUTH)");
}

#[tokio::test]
async fn tls_with_an_authority_of_ones_own() {
    let issued = Issued::for_host("localhost");
    let Some(server) = RedisServer::start_with_tls(&issued.certificate, &issued.key) else {
        return;
    };
    let builder = || RedisStore::builder(server.tls_url());
    let store = builder()
        .root_certificates(issued.authority)
        .build()
        .unwrap();
    store.put(&ann(), &record(1)).await.unwrap();
    assert_eq!(stored_number(&store).await, Some(1));
    // Neither the system's authorities nor another one signed it.
    let other = Issued::for_host("localhost").authority;
    for builder in [builder(), builder().root_certificates(other)] {
        let error = builder.build().unwrap().load(&ann()).await.unwrap_err();
        assert_says(&error, ErrorKind::Store, "certificate");
    }
}

#[tokio::test]
async fn tls_wants_the_name_of_the_host() {
    let issued = Issued::for_host("redis.example.com");
    let Some(server) = RedisServer::start_with_tls(&issued.certificate, &issued.key) else {
        return;
    };
    let store = RedisStore::builder(server.tls_url()).root_certificates(issued.authority);
    let error = store.build().unwrap().load(&ann()).await.unwrap_err();
    assert_says(&error, ErrorKind::Store, "certificate");
}

/// A certificate for a host, by an authority of its own; all as PEM.
struct Issued {
    authority: String,
    certificate: String,
    key: String,
}

impl Issued {
    fn for_host(host: &str) -> Self {
        use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        Self {
            authority: authority.pem(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// What the shared suite tries the store by.
struct Fleet(RedisServer);

impl Fleet {
    /// The names of the suite's profiles hold spaces, and nothing else that is encoded.
    fn key(profile: &Profile) -> String {
        format!("coze-auth:{{{}}}", profile.name().replace(' ', "%20"))
    }
}

impl Subject for Fleet {
    fn open(&self) -> SubjectFuture<'_, Arc<dyn Store>> {
        Box::pin(async { Arc::new(store(&self.0)) as Arc<dyn Store> })
    }

    fn damage<'a>(&'a self, profile: &'a Profile, bytes: &'a [u8]) -> SubjectFuture<'a, bool> {
        let key = Self::key(profile);
        let words: [&[u8]; 4] = [b"HSET", key.as_bytes(), b"record", bytes];
        let _: u64 = self.0.ask_words(&words);
        Box::pin(async { true })
    }

    fn set_aside<'a>(&'a self, profile: &'a Profile) -> SubjectFuture<'a, Vec<Vec<u8>>> {
        let aside = self
            .0
            .ask(&format!("LRANGE {}:aside 0 -1", Self::key(profile)));
        Box::pin(async { aside })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_passes_the_shared_suite() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    check(&Fleet(server)).await;
}
