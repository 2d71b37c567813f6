//! The lock of a profile.

use super::*;

fn owner(id: u8) -> Owner {
    Owner::new([id; 16], &format!("process {id} on host"))
}

async fn is_free(store: &RedisStore, id: u8, ttl: Duration) -> bool {
    match store.try_lock(&ann(), &owner(id), ttl).await.unwrap() {
        TryLock::Acquired(lifetime) => {
            assert_eq!(lifetime, LockLifetime::Ttl);
            true
        }
        _ => false,
    }
}

#[tokio::test]
async fn a_lock_excludes_others_and_names_its_owner() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (one, other) = (store(&server), store(&server));
    assert!(is_free(&one, 1, TTL).await);
    let held = other.try_lock(&ann(), &owner(2), TTL).await.unwrap();
    let by = Some("process 1 on host".to_owned());
    assert_eq!(held, TryLock::Held { by });
    let left: u64 = server.ask(&format!("PTTL {LOCK}"));
    assert!(left > 25_000 && left <= 30_000, "{left}");
    other.unlock(&ann(), &owner(2)).await.unwrap();
    assert!(
        !is_free(&other, 2, TTL).await,
        "another owner has unlocked it"
    );
    one.unlock(&ann(), &owner(1)).await.unwrap();
    one.unlock(&ann(), &owner(1)).await.unwrap();
    assert!(is_free(&other, 2, TTL).await);
}

#[tokio::test]
async fn an_owner_can_acquire_its_lock_again_which_renews_the_ttl() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    assert!(is_free(&store, 1, TTL).await);
    assert!(is_free(&store, 1, 2 * TTL).await);
    let left: u64 = server.ask(&format!("PTTL {LOCK}"));
    assert!(left > 30_000, "{left}");
}

#[tokio::test]
async fn a_lock_expires_with_its_ttl_and_its_previous_owner_can_still_write() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (former, next) = (store(&server), store(&server));
    let first = create(&former, 1).await;
    let began = Instant::now();
    assert!(is_free(&former, 1, Duration::from_millis(300)).await);
    while !is_free(&next, 2, TTL).await {
        sleep(Duration::from_millis(5)).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert!(write(&former, Some(&first), 2).await.is_some());
    former.unlock(&ann(), &owner(1)).await.unwrap();
    assert!(
        !is_free(&former, 1, TTL).await,
        "the previous owner has unlocked the lock of the next one"
    );
}

#[tokio::test]
async fn the_name_of_a_holder_is_filtered() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    let long = format!("id {}", "x".repeat(10_000));
    for (holder, shown) in [
        ("hush", None),
        ("x \u{1b}[31mred\n", Some("[31mred".to_owned())),
        (&long, Some("x".repeat(99) + "…")),
    ] {
        let _: redis::Value = server.ask_words(&["SET", LOCK, holder]);
        let held = store.try_lock(&ann(), &owner(1), TTL).await.unwrap();
        assert_eq!(held, TryLock::Held { by: shown });
    }
}

#[tokio::test]
async fn a_lock_whose_response_is_lost_is_acquired_again() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let proxy = Proxy::to(&server).await;
    let (through, direct) = (tolerant(proxy.url()).build().unwrap(), store(&server));
    number(&through).await;
    proxy.lose_next_answer();
    assert!(is_free(&through, 1, TTL).await);
    assert!(proxy.has_lost_answer());
    assert!(!is_free(&direct, 2, TTL).await);
    proxy.lose_next_answer();
    through.unlock(&ann(), &owner(1)).await.unwrap();
    assert!(proxy.has_lost_answer());
    assert!(is_free(&direct, 2, TTL).await);
}
