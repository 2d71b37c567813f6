//! Tests of records, puts, saves, sign-outs and the quarantine. Behaviour over time is tested in `tests/flows`.

use std::sync::atomic::AtomicUsize;

use super::{
    intent::{self, Intent, PADDING},
    record::fingerprint,
    save::{Saved, Successor},
    *,
};
use crate::{
    CachedProvider, DeviceFlow, Endpoint, ErrorKind, OAuthClient, RefreshToken,
    clock::Clock,
    store::{LockLifetime, Owner, StoreFuture, TryLock},
};

/// A store in memory that loses responses, or whose quarantine can't be written.
#[derive(Clone, Default)]
struct Flaky {
    store: MemoryStore,
    /// The number of upcoming writes of the record whose responses are lost after the write.
    loses: Arc<AtomicUsize>,
    has_no_quarantine: bool,
    /// Put by another process immediately before the next change.
    comes_first: Arc<Mutex<Option<Token>>>,
}

impl Store for Flaky {
    fn load<'a>(&'a self, key: &'a Key) -> StoreFuture<'a, Option<Stored>> {
        self.store.load(key)
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        new: Option<&'a Contents>,
    ) -> StoreFuture<'a, CompareAndSet> {
        Box::pin(async move {
            if self.has_no_quarantine && key.slot().is_some() {
                return Err(StoreError::new(StoreErrorKind::Full, "full").with_source("test"));
            }
            let other = self.comes_first.lock().unwrap().take();
            if let Some(other) = other {
                let sign_in = SignIn::new(self.store.clone(), "user").unwrap();
                Box::pin(sign_in.put(&other)).await.unwrap();
            }
            let set = self.store.compare_and_set(key, expected, new).await?;
            let loses = |left: usize| left.checked_sub(1);
            let ordering = Ordering::SeqCst;
            if key.slot().is_none() && self.loses.fetch_update(ordering, ordering, loses).is_ok() {
                return Err(
                    StoreError::new(StoreErrorKind::Transient, "the response is lost")
                        .with_source("test"),
                );
            }
            Ok(set)
        })
    }

    fn try_lock<'a>(
        &'a self,
        key: &'a Key,
        owner: &'a Owner,
        ttl: Duration,
    ) -> StoreFuture<'a, TryLock> {
        self.store.try_lock(key, owner, ttl)
    }

    fn unlock<'a>(&'a self, key: &'a Key, owner: &'a Owner) -> StoreFuture<'a, ()> {
        self.store.unlock(key, owner)
    }

    fn list(&self) -> StoreFuture<'_, Option<Vec<Profile>>> {
        self.store.list()
    }
}

impl Flaky {
    fn sign_in(&self) -> SignIn {
        SignIn::new(self.clone(), "user").unwrap()
    }
}

fn refresh_token(text: &str) -> RefreshToken {
    serde_json::from_value(text.into()).unwrap()
}

fn token(refresh_token: &str) -> Token {
    let record: Record = serde_json::from_value(serde_json::json!({
        "version": 1, "write_id": "w", "access_token": format!("at-{refresh_token}"),
        "refresh_token": refresh_token, "expires_at": 1_800_000_900, "life_ms": 900_000,
        "sign_in": "s", "generation": 0,
    }))
    .unwrap();
    record
        .token(Duration::from_secs(900), &Clock::System)
        .unwrap()
}

fn record(refresh_token: &str) -> Record {
    Record::fresh(&token(refresh_token)).unwrap()
}

fn successor(redeemed: &Record, refresh_token: &str) -> Successor {
    let next = token(refresh_token);
    Successor::new(
        redeemed.clone(),
        next.refresh_token().cloned(),
        Some(next.clone()),
    )
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn owner(number: u8) -> Owner {
    Owner::new([number; 16], "an owner")
}

async fn stored(sign_in: &SignIn) -> Option<String> {
    let record = sign_in.load().await.unwrap();
    record.map(|record| record.refresh_token().expose().to_owned())
}

async fn quarantined(sign_in: &SignIn) -> Vec<String> {
    let records = sign_in.quarantined().await.unwrap();
    let token = |record: &Record| record.refresh_token().expose().to_owned();
    records.iter().map(token).collect()
}

/// Writes a record directly to the store.
async fn store(sign_in: &SignIn, record: &Record) {
    let now = sign_in.look(soon()).await.unwrap();
    let version = now.map(|now| now.1.version);
    let write = record.write(0).unwrap();
    let written = sign_in.write(version.as_ref(), &write, soon()).await;
    assert!(written.unwrap().is_some());
}

async fn overwrite(sign_in: &SignIn, contents: &[u8]) {
    let now = sign_in.look(soon()).await.unwrap();
    let version = now.map(|now| now.1.version);
    let contents = contents.to_vec().into();
    let set = sign_in.change(&sign_in.0.key, version.as_ref(), Some(&contents), soon());
    assert_ne!(set.await.unwrap(), CompareAndSet::Conflict);
}

// Records

#[test]
fn fields_of_newer_versions_survive() {
    let mut json = serde_json::to_value(record("a")).unwrap();
    json["of_the_future"] = serde_json::json!({"a": [1]});
    let newer: Record = serde_json::from_value(json).unwrap();
    let age = Some(Duration::from_secs(1));
    for next in [
        newer.rebased(age),
        newer.quarantined(),
        successor(&newer, "b").record(),
    ] {
        let contents = next.write(0).unwrap().contents;
        let Entry::Record(read) = Entry::of(&contents) else {
            panic!("it is a record")
        };
        assert_eq!(
            serde_json::to_value(read).unwrap()["of_the_future"],
            serde_json::json!({"a": [1]})
        );
    }
}

#[test]
fn a_hand_edited_record_is_detected() {
    let contents = record("rt-hush").write(0).unwrap().contents;
    let text = String::from_utf8(contents.expose().to_vec()).unwrap();
    for (from, to) in [
        ("900000", "900001"),
        ("rt-hush", "rt-hash"),
        ("\"generation\":0", "\"generation\": 0"),
    ] {
        let edited = text.replace(from, to);
        assert_ne!(edited, text, "{from}");
        let Entry::Damaged(error) = Entry::of(&edited.into_bytes().into()) else {
            panic!("{from}")
        };
        assert_eq!(error.kind(), ErrorKind::Store(StoreErrorKind::Damaged));
        assert!(error.to_string().contains("checksum"), "{error}");
    }
}

#[test]
fn invalid_contents_are_an_error_that_does_not_quote_them() {
    let sealed = |record: &str| {
        let checksum = super::record::hash(record.as_bytes());
        format!(r#"{{"checksum":"{checksum}","record":{record}}}"#)
    };
    let whole =
        String::from_utf8(record("hush").write(0).unwrap().contents.expose().to_vec()).unwrap();
    for (bad, what) in [
        (String::new(), "truncated"),
        (whole[..whole.len() / 2].to_owned(), "truncated"),
        ("hush".to_owned(), "not JSON"),
        ("{}".to_owned(), "field"),
        (sealed("{}"), "field"),
        (sealed(r#"{"version":1,"refresh_token":"hush"}"#), "field"),
        (sealed(r#"{"version":2,"refresh_token":"hush"}"#), "update"),
    ] {
        let Entry::Damaged(error) = Entry::of(&bad.clone().into_bytes().into()) else {
            panic!("{bad}")
        };
        let text = format!("{error} {error:?}");
        assert!(text.contains(what), "{bad}: {text}");
        assert!(!text.contains("hush"), "{text}");
    }
    assert!(!format!("{:?}", record("hush")).contains("hush"));
}

#[test]
fn any_refresh_token_that_json_can_represent_is_stored_unchanged() {
    for text in [" a b ", "tab\tand\nline", "\u{7}\u{0}", "不\"\\", "=="] {
        let record = record("a").successor(Some(&refresh_token(text)), 1);
        let Entry::Record(read) = Entry::of(&record.write(0).unwrap().contents) else {
            panic!("{text:?}")
        };
        assert_eq!(read.refresh_token().expose(), text);
        assert!(
            read.access_token().is_none(),
            "a record needs no access token"
        );
    }
}

// Rules 4 and 5: every write reduces the durations

#[test]
fn a_hundred_consecutive_intents_extend_no_duration() {
    let mut record = record("a");
    let life = record.life();
    for _ in 0..100 {
        record = record.rebased(Some(Duration::from_millis(250)));
    }
    assert_eq!(record.life(), life - Duration::from_secs(25));
    let unknown = record.rebased(None);
    assert!(unknown.life().is_zero());
    assert!(
        unknown.rebased(Some(Duration::ZERO)).life().is_zero(),
        "a later write does not increase it"
    );
}

#[test]
fn an_unknown_age_clears_not_before_and_reduces_no_intent() {
    let mut record = record("a");
    record.not_before = Some(super::record::NotBefore {
        ms: 9000,
        status: Some(503),
    });
    let hold = Duration::from_secs(60);
    let own = Intent::new(&owner(1), record.fingerprint(), hold);
    intent::renew(&mut record.intents, own);
    let known = record.rebased(Some(Duration::from_secs(4)));
    assert_eq!(known.not_before.as_ref().unwrap().ms, 5000);
    assert_eq!(
        known.intents[0].holds(Some(Duration::ZERO)),
        Duration::from_secs(56)
    );
    assert!(
        known
            .rebased(Some(Duration::from_secs(5)))
            .not_before
            .is_none()
    );
    let unknown = record.rebased(None);
    assert!(unknown.not_before.is_none());
    assert_eq!(unknown.intents, record.intents);
    let over = record.rebased(Some(hold + Duration::from_secs(3600)));
    assert!(
        over.intents.is_empty(),
        "an hour after its lock, the intent no longer counts"
    );
}

#[test]
fn the_intents_with_the_longest_time_and_the_writers_own_are_kept() {
    let mut intents = Vec::new();
    for (number, hold) in [(1, 10), (2, 90), (3, 80), (4, 70), (5, 1)] {
        let own = Intent::new(
            &owner(number),
            "fingerprint".to_owned(),
            Duration::from_secs(hold),
        );
        intent::renew(&mut intents, own);
    }
    let owners: Vec<&str> = intents.iter().map(|intent| intent.owner.as_str()).collect();
    let kept: Vec<Owner> = [2, 3, 4, 5].map(owner).into();
    assert_eq!(owners, kept.iter().map(Owner::id).collect::<Vec<_>>());
    let own = Intent::new(&owner(3), "fingerprint".to_owned(), Duration::ZERO);
    intent::renew(&mut intents, own);
    assert_eq!(intents.len(), 4, "renewed, not added");
    intent::withdraw(&mut intents, &owner(3));
    assert_eq!(intents.len(), 3);
}

#[test]
fn a_writer_drops_intents_for_other_refresh_tokens() {
    let mut record = record("a");
    for (number, of) in [(1, "a"), (2, "b")] {
        let own = Intent::new(
            &owner(number),
            fingerprint(&refresh_token(of)),
            Duration::from_secs(60),
        );
        intent::renew(&mut record.intents, own);
    }
    let next = record.rebased(Some(Duration::ZERO));
    assert_eq!(next.intents.len(), 1);
    assert_eq!(next.intents[0].owner, owner(1).id());
    assert!(successor(&record, "c").record().intents.is_empty());
}

// Rule 13

#[test]
fn a_successor_is_never_longer_than_the_intent_that_it_replaces() {
    let plain = record("a");
    let mut with_intent = plain.rebased(Some(Duration::ZERO));
    let own = Intent::new(&owner(1), plain.fingerprint(), Duration::from_secs(80));
    intent::renew(&mut with_intent.intents, own);
    let length = |record: &Record, padding| record.write(padding).unwrap().contents.expose().len();
    assert!(length(&with_intent, PADDING) >= length(&plain, 0) + 256);
    let longer = successor(&plain, &"b".repeat(120)).record();
    assert!(length(&longer, 0) <= length(&with_intent, PADDING));
}

// Rule 2: saves

#[tokio::test]
async fn a_successor_replaces_the_redeemed_refresh_token_whatever_other_fields_the_record_has() {
    let sign_in = Flaky::default().sign_in();
    let redeemed = record("a");
    let refusal = Error::new(ErrorKind::Refused, "no").with_code(crate::ErrorCode::InvalidGrant);
    let mut beside = redeemed.clone().with_ended(&refusal);
    beside.not_before = Some(super::record::NotBefore {
        ms: 9000,
        status: None,
    });
    let others = Intent::new(&owner(9), beside.fingerprint(), Duration::from_secs(60));
    intent::renew(&mut beside.intents, others);
    store(&sign_in, &beside).await;
    let next = successor(&redeemed, "b");
    // A save is idempotent.
    for _ in 0..2 {
        let saved = sign_in.save(&next, None, soon()).await.unwrap();
        assert!(matches!(saved, Saved::Stored));
        let record = sign_in.load().await.unwrap().unwrap();
        assert_eq!(record.refresh_token().expose(), "b");
        assert!(!record.has_ended() && record.not_before.is_none() && record.intents.is_empty());
    }
    assert!(quarantined(&sign_in).await.is_empty());
}

#[tokio::test]
async fn a_save_is_retried_after_a_conflict_with_a_record_of_the_same_refresh_token() {
    let sign_in = Flaky::default().sign_in();
    let redeemed = record("a");
    store(&sign_in, &redeemed).await;
    let known = sign_in.look(soon()).await.unwrap().unwrap().1.version;
    store(&sign_in, &redeemed).await;
    let next = successor(&redeemed, "b");
    let saved = sign_in.save(&next, Some((redeemed.clone(), known)), soon());
    assert!(matches!(saved.await.unwrap(), Saved::Stored));
    assert_eq!(stored(&sign_in).await.as_deref(), Some("b"));
}

#[tokio::test]
async fn a_successor_does_not_overwrite_its_own_descendant() {
    let sign_in = Flaky::default().sign_in();
    let redeemed = record("a");
    let next = successor(&redeemed, "b");
    store(
        &sign_in,
        &successor(&successor(&next.record(), "c").record(), "d").record(),
    )
    .await;
    assert!(matches!(
        sign_in.save(&next, None, soon()).await.unwrap(),
        Saved::Stored
    ));
    assert_eq!(stored(&sign_in).await.as_deref(), Some("d"));
    assert!(quarantined(&sign_in).await.is_empty());
}

#[tokio::test]
async fn an_ancestor_restored_by_a_failover_is_overwritten() {
    let sign_in = Flaky::default().sign_in();
    let first = record("a");
    store(&sign_in, &first).await;
    let third = successor(&successor(&first, "b").record(), "c");
    assert!(matches!(
        sign_in.save(&third, None, soon()).await.unwrap(),
        Saved::Stored
    ));
    assert_eq!(stored(&sign_in).await.as_deref(), Some("c"));
}

#[tokio::test]
async fn a_successor_whose_record_was_replaced_goes_to_quarantine() {
    let sign_in = Flaky::default().sign_in();
    let next = successor(&record("a"), "b");
    // Deleted by hand: not created again.
    assert!(matches!(
        sign_in.save(&next, None, soon()).await.unwrap(),
        Saved::SignedOut
    ));
    assert_eq!(stored(&sign_in).await, None);
    assert_eq!(quarantined(&sign_in).await, ["b"]);
    // Replaced.
    sign_in.put(&token("f")).await.unwrap();
    assert!(matches!(
        sign_in.save(&next, None, soon()).await.unwrap(),
        Saved::Superseded
    ));
    assert_eq!(stored(&sign_in).await.as_deref(), Some("f"));
    assert_eq!(quarantined(&sign_in).await, ["b"], "once");
    // Damaged.
    overwrite(&sign_in, b"{").await;
    let other = successor(&record("x"), "y");
    assert!(matches!(
        sign_in.save(&other, None, soon()).await.unwrap(),
        Saved::Superseded
    ));
    assert_eq!(quarantined(&sign_in).await, ["b", "y"]);
}

// Rule 3: lost responses

#[tokio::test]
async fn a_write_whose_response_was_lost_is_resolved_by_loading() {
    let flaky = Flaky::default();
    let sign_in = flaky.sign_in();
    let lose = || flaky.loses.store(1, Ordering::SeqCst);
    lose();
    sign_in.put(&token("a")).await.unwrap();
    assert_eq!(stored(&sign_in).await.as_deref(), Some("a"));
    lose();
    let next = successor(&record("a"), "b");
    assert!(matches!(
        sign_in.save(&next, None, soon()).await.unwrap(),
        Saved::Stored
    ));
    lose();
    let now = sign_in.look(soon()).await.unwrap().unwrap();
    let write = next.record().write(PADDING).unwrap();
    let written = sign_in.write(Some(&now.1.version), &write, soon()).await;
    assert!(written.unwrap().is_some(), "an intent or an ended mark");
    lose();
    sign_in.sign_out().await.unwrap();
    assert_eq!(stored(&sign_in).await, None);
    assert_eq!(flaky.loses.load(Ordering::SeqCst), 0);
    assert!(quarantined(&sign_in).await.is_empty());
}

// Rule 9: put

#[tokio::test]
async fn a_record_is_quarantined_before_it_is_replaced() {
    let flaky = Flaky {
        has_no_quarantine: true,
        ..Flaky::default()
    };
    let sign_in = flaky.sign_in();
    sign_in.put(&token("a")).await.unwrap();
    sign_in.put(&token("f")).await.unwrap_err();
    assert_eq!(stored(&sign_in).await.as_deref(), Some("a"));
    overwrite(&sign_in, b"damaged").await;
    sign_in.put(&token("f")).await.unwrap_err();
    assert!(sign_in.load().await.is_err(), "the record is unchanged");
    let sign_in = SignIn::new(flaky.store.clone(), "user").unwrap();
    sign_in.put(&token("f")).await.unwrap();
    sign_in.put(&token("g")).await.unwrap();
    assert_eq!(quarantined(&sign_in).await, ["f"]);
    let slot = Key::quarantine_slots(sign_in.profile()).next().unwrap();
    let kept = flaky.store.load_now(&slot).unwrap();
    assert_eq!(kept.contents.expose(), b"damaged");
}

#[tokio::test]
async fn a_put_of_a_stored_or_since_refreshed_sign_in_changes_nothing() {
    let sign_in = Flaky::default().sign_in();
    for _ in 0..2 {
        sign_in.put(&token("a")).await.unwrap();
    }
    store(&sign_in, &successor(&record("a"), "b").record()).await;
    sign_in.put(&token("a")).await.unwrap();
    assert_eq!(stored(&sign_in).await.as_deref(), Some("b"));
    assert!(quarantined(&sign_in).await.is_empty());
}

#[tokio::test]
async fn a_retried_put_that_was_superseded_writes_nothing() {
    let sign_in = Flaky::default().sign_in();
    let was_sent = std::sync::atomic::AtomicBool::new(true);
    sign_in.put(&token("f")).await.unwrap();
    sign_in.put(&token("g")).await.unwrap();
    sign_in.put(&token("h")).await.unwrap();
    let late = sign_in
        .try_put(
            &|| Record::fresh(&token("f")),
            &was_sent,
            &Changed::of(&sign_in),
            soon(),
        )
        .await;
    assert_eq!(late.unwrap(), Some(()));
    assert_eq!(stored(&sign_in).await.as_deref(), Some("h"));
    // Every save and every tombstone inherits the names.
    store(&sign_in, &successor(&record("h"), "i").record()).await;
    let now = sign_in.load().await.unwrap().unwrap();
    assert!(now.replaced.is_empty(), "this one was written by hand");
    sign_in.put(&token("j")).await.unwrap();
    sign_in.sign_out().await.unwrap();
    let late = sign_in
        .try_put(
            &|| Record::fresh(&token("j")),
            &was_sent,
            &Changed::of(&sign_in),
            soon(),
        )
        .await;
    assert_eq!(late.unwrap(), Some(()));
    assert_eq!(stored(&sign_in).await, None, "the user has signed out");
}

#[tokio::test]
async fn every_successor_names_the_newest_eight_replaced_sign_ins() {
    let sign_in = Flaky::default().sign_in();
    for number in 0..10 {
        sign_in.put(&token(&format!("t{number}"))).await.unwrap();
    }
    let now = sign_in.load().await.unwrap().unwrap();
    let names: Vec<String> = (1..9)
        .rev()
        .map(|n| record(&format!("t{n}")).sign_in)
        .collect();
    assert_eq!(now.replaced, names);
    let next = successor(&now, "next");
    sign_in.save(&next, None, soon()).await.unwrap();
    assert_eq!(sign_in.load().await.unwrap().unwrap().replaced, names);
}

// Rule 10: sign-out

#[tokio::test]
async fn a_sign_out_leaves_a_tombstone_and_no_token() {
    let flaky = Flaky::default();
    let sign_in = flaky.sign_in();
    sign_in.put(&token("a")).await.unwrap();
    sign_in.put(&token("f")).await.unwrap();
    assert_eq!(quarantined(&sign_in).await, ["a"]);
    let next = successor(&sign_in.load().await.unwrap().unwrap(), "f2");
    sign_in.sign_out().await.unwrap();
    assert!(sign_in.requires_sign_in().await.unwrap());
    assert!(quarantined(&sign_in).await.is_empty());
    let left = flaky
        .store
        .load_now(&Key::record(sign_in.profile()))
        .unwrap();
    let left = String::from_utf8(left.contents.expose().to_vec()).unwrap();
    assert!(
        left.contains("signed_out") && !left.contains("token"),
        "{left}"
    );
    // A refresh that was in flight.
    assert!(matches!(
        sign_in.save(&next, None, soon()).await.unwrap(),
        Saved::SignedOut
    ));
    assert!(
        quarantined(&sign_in).await.is_empty(),
        "no live token remains"
    );
    assert_eq!(stored(&sign_in).await, None);
    sign_in.put(&token("g")).await.unwrap();
    assert_eq!(stored(&sign_in).await.as_deref(), Some("g"));
}

#[tokio::test]
async fn a_sign_out_of_a_missing_or_damaged_record_leaves_a_tombstone() {
    let flaky = Flaky::default();
    let sign_in = flaky.sign_in();
    let version = || {
        flaky
            .store
            .load_now(&Key::record(sign_in.profile()))
            .map(|now| now.version)
    };
    sign_in.sign_out().await.unwrap();
    let first = version().expect("a tombstone");
    sign_in.sign_out().await.unwrap();
    assert_ne!(version(), Some(first));
    overwrite(&sign_in, b"{").await;
    sign_in.sign_out().await.unwrap();
    assert!(sign_in.requires_sign_in().await.unwrap());
}

#[tokio::test]
async fn a_sign_out_that_found_nobody_signed_in_leaves_a_sign_in_that_is_put_at_the_same_time() {
    for was_signed_out in [false, true] {
        let flaky = Flaky::default();
        let sign_in = flaky.sign_in();
        if was_signed_out {
            sign_in.put(&token("a")).await.unwrap();
            sign_in.sign_out().await.unwrap();
        }
        // Stored between the first load and its write, whose response says that it conflicts.
        *flaky.comes_first.lock().unwrap() = Some(token("b"));
        sign_in.sign_out().await.unwrap();
        assert_eq!(stored(&sign_in).await.as_deref(), Some("b"));
    }
}

#[tokio::test]
async fn a_put_sweeps_the_quarantine_of_the_signed_out_sign_in() {
    let sign_in = Flaky::default().sign_in();
    sign_in.put(&token("a")).await.unwrap();
    sign_in.sign_out().await.unwrap();
    for left in ["a", "x"] {
        sign_in.quarantine(&record(left), soon()).await.unwrap();
    }
    sign_in.put(&token("f")).await.unwrap();
    assert_eq!(quarantined(&sign_in).await, ["x"]);
}

// Rule 11: quarantine

#[tokio::test]
async fn a_full_quarantine_drops_the_oldest_ended_record_and_only_then_the_oldest() {
    tokio::time::pause();
    let sign_in = Flaky::default().sign_in();
    let refusal = Error::new(ErrorKind::Refused, "no");
    for number in 0..8 {
        let mut kept = record(&format!("t{number}"));
        if number == 3 || number == 5 {
            kept = kept.with_ended(&refusal);
        }
        sign_in.quarantine(&kept, soon()).await.unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    sign_in.quarantine(&record("t4"), soon()).await.unwrap();
    let mut kept: Vec<String> = (0..8).map(|number| format!("t{number}")).collect();
    assert_eq!(
        quarantined(&sign_in).await,
        kept,
        "each refresh token is quarantined once"
    );
    for (new, slot) in [("u", 3), ("v", 5), ("w", 0), ("x", 1)] {
        sign_in.quarantine(&record(new), soon()).await.unwrap();
        kept[slot] = new.to_owned();
        assert_eq!(quarantined(&sign_in).await, kept);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert!(
        sign_in
            .quarantined()
            .await
            .unwrap()
            .iter()
            .all(|record| record.life().is_zero())
    );
}

// Locks

#[tokio::test]
async fn a_lock_is_idempotent_for_its_owner() {
    let store = MemoryStore::new();
    let key = Key::record(&Profile::new("user").unwrap());
    for _ in 0..2 {
        let lock = store
            .try_lock(&key, &owner(1), Duration::from_secs(9))
            .await;
        assert_eq!(lock.unwrap(), TryLock::Acquired(LockLifetime::Ttl));
    }
}

// The app of a sign-in

#[tokio::test]
async fn a_sign_in_is_used_at_its_own_endpoint_only() {
    let endpoint = |base: &str| Endpoint::custom(base).unwrap();
    let (here, elsewhere) = (
        endpoint("http://127.0.0.1:1"),
        endpoint("http://127.0.0.1:2"),
    );
    let provider = |sign_in: &SignIn, endpoint: &Endpoint| {
        let client = OAuthClient::new(endpoint.clone()).unwrap();
        let device = DeviceFlow::new(client, "client-id").unwrap();
        CachedProvider::stored(device, sign_in.clone()).build()
    };
    let sign_in = Flaky::default().sign_in();
    let issued = token("a").issued_to("client-id", &here);
    sign_in.put(&issued).await.unwrap();
    let record = sign_in.load().await.unwrap().unwrap();
    assert_eq!(record.api_base(), Some("http://127.0.0.1:1"));
    let next = record.successor(Some(&refresh_token("b")), 1);
    assert_eq!(next.api_base(), record.api_base());
    provider(&sign_in, &here).token().await.unwrap();
    let imported = Flaky::default().sign_in();
    let imported_token = refresh_token("a");
    let put = imported.put_refresh_token(&imported_token, "client-id", &here);
    put.await.unwrap();
    for sign_in in [&sign_in, &imported] {
        let error = provider(sign_in, &elsewhere).token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let expected = "its API base is http://127.0.0.1:1, not http://127.0.0.1:2";
        assert!(error.to_string().contains(expected), "{error}");
    }
    // An earlier version has stored it.
    let unbound = Flaky::default().sign_in();
    unbound.put(&token("a")).await.unwrap();
    let token = provider(&unbound, &elsewhere).token().await.unwrap();
    assert_eq!(token.expose(), "at-a");
}
