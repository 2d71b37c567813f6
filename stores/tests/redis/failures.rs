//! Servers that are slow, full, stopped or replaced after a failover; lost responses.

use super::*;

async fn lock(store: &RedisStore) -> Result<TryLock, StoreError> {
    store.try_lock(&ann(), &Owner::new([1; 16], ""), TTL).await
}

async fn unlock(store: &RedisStore) -> Result<(), StoreError> {
    store.unlock(&ann(), &Owner::new([1; 16], "")).await
}

async fn write_error(store: &RedisStore, expected: Option<&Version>) -> StoreError {
    let error = change(store, &ann(), expected, Some(contents(9))).await;
    error.unwrap_err()
}

/// A store with short timeouts. On a busy machine, they may elapse even without a fault.
fn short_timeouts(server: &RedisServer) -> RedisStore {
    let store = RedisStore::builder(server.url())
        .connect_timeout(Duration::from_millis(200))
        .response_timeout(Duration::from_millis(200));
    store.build().unwrap()
}

/// The number, after retries of loads that time out.
async fn eventual_number(store: &RedisStore) -> Option<u32> {
    let began = Instant::now();
    loop {
        match store.load(&ann()).await {
            Ok(stored) => return stored.as_ref().map(number_in),
            Err(error) => assert!(began.elapsed() < Duration::from_secs(10), "{error}"),
        }
    }
}

#[tokio::test]
async fn a_change_whose_response_is_lost_is_retried_safely() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let proxy = Proxy::to(&server).await;
    let store = tolerant(proxy.url()).build().unwrap();
    number(&store).await;
    let losing = async |expected: Option<&Version>, new: Option<u32>| {
        proxy.lose_next_answer();
        let done = change(&store, &ann(), expected, new.map(contents)).await;
        assert!(proxy.has_lost_answer());
        match done.unwrap() {
            CompareAndSet::Done(version) => version,
            _ => panic!("the retry conflicts with its own first attempt"),
        }
    };
    let created = losing(None, Some(1)).await.unwrap();
    assert_eq!(load(&store, &ann()).await.unwrap().version, created);
    let replaced = losing(Some(&created), Some(2)).await.unwrap();
    assert_eq!(load(&store, &ann()).await.unwrap().version, replaced);
    assert_eq!(losing(Some(&replaced), None).await, None);
    assert_eq!(number(&store).await, None);
}

#[tokio::test]
async fn a_retry_still_detects_conflicts() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let proxy = Proxy::to(&server).await;
    let store = tolerant(proxy.url()).build().unwrap();
    let first = create(&store, 1).await;
    let second = write(&store, Some(&first), 2).await.unwrap();
    for (expected, new) in [
        (None, Some(contents(1))),
        (Some(&first), Some(contents(3))),
        (Some(&first), None),
    ] {
        proxy.lose_next_answer();
        let done = change(&store, &ann(), expected, new).await;
        assert!(proxy.has_lost_answer());
        assert_eq!(done.unwrap(), CompareAndSet::Conflict);
        assert_eq!(load(&store, &ann()).await.unwrap().version, second);
    }
}

#[tokio::test]
async fn a_change_that_redis_makes_after_the_timeout_is_an_error_and_loaded_later() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    let first = create(&store, 1).await;
    let short_timeout = RedisStore::builder(server.url())
        .response_timeout(Duration::from_millis(100))
        .build()
        .unwrap();
    // The server receives the change, and executes it after the pause.
    server.tell("CLIENT PAUSE 30000 WRITE");
    let error = write_error(&short_timeout, Some(&first)).await;
    assert_says(&error, StoreErrorKind::Transient, "no answer within 100ms");
    server.tell("CLIENT UNPAUSE");
    let began = Instant::now();
    while number(&store).await != Some(9) {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "the change is lost"
        );
    }
    assert_eq!(write(&store, Some(&first), 3).await, None);
}

#[tokio::test]
async fn after_a_failover_that_lost_a_write_the_previous_version_can_be_replaced() {
    let (Some(primary), Some(replica)) = (RedisServer::start(), RedisServer::start()) else {
        return;
    };
    let proxy = Proxy::to(&primary).await;
    let store = tolerant(proxy.url()).build().unwrap();
    let first = create(&store, 1).await;
    replica.tell(&format!("REPLICAOF 127.0.0.1 {}", primary.port()));
    let began = Instant::now();
    while replica
        .ask::<Option<String>>(&format!("GET {KEY}"))
        .is_none()
    {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "the replica does not synchronize"
        );
        sleep(Duration::from_millis(10)).await;
    }
    // The replica misses all later writes.
    replica.tell("REPLICAOF NO ONE");
    let second = write(&store, Some(&first), 2).await.unwrap();
    assert!(matches!(lock(&store).await, Ok(TryLock::Acquired(_))));

    proxy.fail_over_to(&replica);
    assert_eq!(write(&store, Some(&second), 3).await, None);
    let rolled_back = load(&store, &ann()).await.unwrap();
    assert_eq!((number_in(&rolled_back), &rolled_back.version), (1, &first));
    assert!(rolled_back.age.is_some());
    assert!(write(&store, Some(&first), 2).await.is_some());
    assert_eq!(server_number(&replica), 2);
}

fn server_number(server: &RedisServer) -> u32 {
    let value: String = server.ask(&format!("GET {KEY}"));
    value[22..30].parse().unwrap()
}

#[tokio::test]
async fn a_replica_is_neither_read_nor_written_until_it_is_promoted() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    let first = create(&store, 1).await;
    // The replica of a primary that is down keeps its data.
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = unused.local_addr().unwrap().port();
    drop(unused);
    server.tell(&format!("REPLICAOF 127.0.0.1 {port}"));
    for error in [
        store.load(&ann()).await.map(drop).unwrap_err(),
        lock(&store).await.unwrap_err(),
        write_error(&store, Some(&first)).await,
    ] {
        let why = "read-only replica (READONLY)";
        assert_says(&error, StoreErrorKind::Transient, why);
    }
    server.tell("REPLICAOF NO ONE");
    assert_eq!(number(&store).await, Some(1));
    assert!(write(&store, Some(&first), 2).await.is_some());
}

#[tokio::test]
async fn out_of_memory_redis_accepts_writes_that_do_not_grow_a_record_and_the_quarantine() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    let first = create(&store, 1).await;
    server.tell("CONFIG SET maxmemory 1");
    let second = write(&store, Some(&first), 2).await.expect("a save");
    for slot in [slot(0), slot(7)] {
        let written = write_to(&store, &slot, None, 3).await;
        let replaced = write_to(&store, &slot, written.as_ref(), 4).await;
        assert!(replaced.is_some());
        assert_eq!(number_in(&load(&store, &slot).await.unwrap()), 4);
    }
    assert_eq!(number(&store).await, Some(2), "loads succeed");
    // A conflict is not reported as a lack of memory.
    assert_eq!(write(&store, Some(&first), 5).await, None);

    let why = "out of memory (OOM)";
    let longer = Contents::from([contents(5).expose(), b" "].concat());
    let error = change(&store, &ann(), Some(&second), Some(longer)).await;
    assert_says(&error.unwrap_err(), StoreErrorKind::Full, why);
    let bob = Key::record(&profile("bob"));
    let error = change(&store, &bob, None, Some(contents(1))).await;
    assert_says(&error.unwrap_err(), StoreErrorKind::Full, why);
    assert_says(&lock(&store).await.unwrap_err(), StoreErrorKind::Full, why);
    assert_eq!(load(&store, &ann()).await.unwrap().version, second);

    assert!(delete(&store, &second).await);
    server.tell("CONFIG SET maxmemory 0");
    let _ = lock(&store).await.unwrap();
}

#[tokio::test]
async fn out_of_memory_redis_accepts_an_unlock() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    let _ = lock(&store).await.unwrap();
    server.tell("CONFIG SET maxmemory 1");
    unlock(&store).await.unwrap();
    assert_eq!(server.ask::<u64>("DBSIZE"), 0);
}

#[tokio::test]
async fn a_redis_that_cannot_save_to_disk_rejects_writes() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    let first = create(&store, 1).await;
    // Removes the folder. Permissions would not restrict root.
    std::fs::remove_dir_all(server.folder()).unwrap();
    let _: String = server.ask_words(&["CONFIG", "SET", "save", "3600 1"]);
    server.tell("BGSAVE");
    let began = Instant::now();
    while !server
        .ask::<String>("INFO persistence")
        .contains("rdb_last_bgsave_status:err")
    {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "the save succeeds"
        );
        sleep(Duration::from_millis(20)).await;
    }
    let error = write_error(&store, Some(&first)).await;
    assert_says(&error, StoreErrorKind::Other, "disk (MISCONF)");
    assert_eq!(number(&store).await, Some(1));
}

#[tokio::test]
async fn a_primary_with_too_few_replicas_rejects_writes() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    let first = create(&store, 1).await;
    server.tell("CONFIG SET min-replicas-to-write 1");
    let error = write_error(&store, Some(&first)).await;
    assert_says(&error, StoreErrorKind::Transient, "too few replicas");
    assert_eq!(number(&store).await, Some(1));
}

#[tokio::test]
async fn a_restart_of_redis_causes_no_error_and_a_stop_does() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    create(&store, 1).await;
    server.stop();
    server.start_again();
    create(&store, 2).await;
    server.stop();
    let error = store.load(&ann()).await.unwrap_err();
    assert_says(&error, StoreErrorKind::Transient, "refused");
    server.start_again();
    assert_eq!(number(&store).await, None, "this server does not persist");
}

#[tokio::test]
async fn writes_survive_a_kill_with_the_documented_configuration() {
    let options = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut server) = RedisServer::start_with(&options) else {
        return;
    };
    let store = store(&server);
    let mut version = create(&store, 1).await;
    for number in 2..6 {
        version = write(&store, Some(&version), number).await.unwrap();
        server.stop();
        server.start_again();
        let stored = load(&store, &ann()).await.unwrap();
        assert_eq!((number_in(&stored), &stored.version), (number, &version));
    }
}

#[tokio::test]
async fn a_connection_that_is_closed_while_idle_causes_no_error() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    let mut version = create(&store, 1).await;
    for number in 2..5 {
        server.tell("CLIENT KILL TYPE normal SKIPME yes");
        server.tell("SCRIPT FLUSH");
        version = write(&store, Some(&version), number).await.unwrap();
    }
    assert_eq!(number(&store).await, Some(4));
}

fn runtime() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap()
}

#[test]
fn a_store_outlives_the_runtime_on_which_it_connected() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = store(&server);
    for number_of_runtime in 1..4 {
        runtime().block_on(async {
            let before = load(&store, &ann()).await.map(|stored| stored.version);
            write(&store, before.as_ref(), number_of_runtime)
                .await
                .unwrap();
            assert_eq!(number(&store).await, Some(number_of_runtime));
        });
    }
}

#[test]
fn a_runtime_does_not_wait_for_another_one_that_is_not_running() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let began = Instant::now();
    let store = store(&server);
    let idle = runtime();
    let first = idle.block_on(create(&store, 1));
    // This task does not run until its runtime does.
    let connecting = idle.spawn({
        let store = store.clone();
        async move { number(&store).await }
    });
    let second = runtime().block_on(write(&store, Some(&first), 2));
    assert!(second.is_some());
    assert!(began.elapsed() < TOLERANT / 2, "{:?}", began.elapsed());
    assert_eq!(idle.block_on(connecting).unwrap(), Some(2));
}

#[test]
fn a_call_outside_a_runtime_is_an_error() {
    let store = RedisStore::new("redis://127.0.0.1").unwrap();
    let key = ann();
    let mut load = store.load(&key);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(Err(error)) = load.as_mut().poll(&mut context) else {
        panic!("the load is pending, or succeeds");
    };
    assert_says(&error, StoreErrorKind::Other, "runtime");
}

#[tokio::test]
async fn a_slow_redis_times_out() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    create(&store(&server), 1).await;
    let store = short_timeouts(&server);
    assert_eq!(eventual_number(&store).await, Some(1));
    server.freeze();
    let began = Instant::now();
    let error = store.load(&ann()).await.unwrap_err();
    assert_says(&error, StoreErrorKind::Transient, "no answer within 200ms");
    let error = lock(&store).await.unwrap_err();
    assert_says(&error, StoreErrorKind::Transient, "within 200ms");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    server.thaw();
    assert_eq!(eventual_number(&store).await, Some(1));
}

#[tokio::test]
async fn many_callers_of_an_unresponsive_redis_time_out_together() {
    const CALLERS: usize = 50;
    // It accepts connections, and does not respond to the login.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://:hush@{}", silent.local_addr().unwrap());
    let store = RedisStore::builder(url).connect_timeout(Duration::from_millis(300));
    let store = store.build().unwrap();
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let store = store.clone();
        callers.spawn(async move { store.load(&ann()).await.unwrap_err() });
    }
    for error in callers.join_all().await {
        let why = "no connection within 300ms";
        assert_says(&error, StoreErrorKind::Transient, why);
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
}
