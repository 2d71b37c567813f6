//! The table of faults, [FAULTS.md](FAULTS.md): what a program observes when its store fails, and that nothing is lost.
//!
//! Each fault is tested with two providers of one sign-in, as in two processes. One has a valid token and is asked for it. The
//! other's token was rejected by the API, so it has to refresh. Then the fault is removed, and the mock's ledger shows whether
//! the chain of refresh tokens is unbroken and its last one is stored. This test writes the table if run with
//! `UPDATE_FAULTS=1`.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests and their helpers panic on failure"
)]

#[path = "../../stores/tests/support/left_out.rs"]
mod left_out;
#[allow(dead_code, reason = "only the tests of the Redis store use all of it")]
#[path = "../../stores/tests/redis/server.rs"]
mod server;

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coze_auth::{
    CachedProvider, Endpoint, Error, OAuthClient, SignIn, TokenProvider, WebFlow,
    store::{Key, Owner, Profile, Store, Stored, TryLock},
};
use coze_auth_stores::{FileStore, RedisStore};
use coze_mock::{Decision, Fault, MockCoze, Outcome, Target, Times, defaults};
use tokio::time::{Instant, sleep};

use crate::{
    left_out::{left_out, skipped},
    server::RedisServer,
};

const REDIRECT_URI: &str = "http://127.0.0.1:8080/callback";
const DEADLINE: Duration = Duration::from_secs(12);
/// The duration of a refresh during which a fault occurs: enough for the slowest fault.
const MIDDLE: Duration = Duration::from_secs(6);

/// A mock, a sign-in in a store, and the two providers that share it.
struct Stage {
    mock: MockCoze,
    flow: WebFlow,
    store: Arc<dyn Store>,
    holder: CachedProvider,
    seeker: CachedProvider,
    /// Its refresh token, to find it in the mock's ledger.
    first: String,
}

/// The observations of one fault.
struct Row {
    fault: &'static str,
    seen: Result<(), Error>,
    sent: usize,
    lost: bool,
}

impl Stage {
    async fn set(store: Arc<dyn Store>) -> Self {
        let mock = MockCoze::start().await.unwrap();
        let client = OAuthClient::builder()
            .endpoint(Endpoint::custom(mock.url()).unwrap())
            .request_timeout(DEADLINE)
            .build()
            .unwrap();
        let secret = defaults::WEB_CLIENT_SECRET;
        let flow = WebFlow::new(client, defaults::WEB_CLIENT_ID.into(), secret.into()).unwrap();
        let provider = || {
            let sign_in = SignIn::new(Arc::clone(&store), "ann").unwrap();
            CachedProvider::stored(flow.clone(), sign_in)
                .deadline(DEADLINE)
                .build()
        };
        let stage = Self {
            holder: provider(),
            seeker: provider(),
            first: String::new(),
            mock,
            flow,
            store,
        };
        let first = stage.sign_in_again().await;
        stage.holder.token().await.unwrap();
        let refused = stage.seeker.token().await.unwrap();
        stage.seeker.invalidate(&refused);
        Self { first, ..stage }
    }

    /// Lets a user sign in, and stores the sign-in.
    async fn sign_in_again(&self) -> String {
        let (page, login) = self.flow.login(REDIRECT_URI).begin().unwrap();
        let callback = self.mock.authorize(page.as_str(), Decision::Approve);
        let callback = callback.unwrap().to_string();
        let token = self.flow.complete(login, &callback).await.unwrap();
        let sign_in = SignIn::new(Arc::clone(&self.store), "ann").unwrap();
        sign_in.put(&token).await.unwrap();
        token.refresh_token().unwrap().expose().to_owned()
    }

    fn refreshes(&self) -> usize {
        self.chain(&self.first).0
    }

    /// The number of refreshes of a sign-in, and its current refresh token.
    fn chain(&self, refresh_token: &str) -> (usize, Option<String>) {
        let sign_in = self.mock.sign_in_of(refresh_token).unwrap();
        assert_eq!(sign_in.reuse_attempts(), 0);
        let live = sign_in.live_refresh_token().map(str::to_owned);
        (sign_in.generations.len() - 1, live)
    }

    /// Observes a fault that lasts until it is repaired.
    async fn meet(&self, fault: &'static str, repair: impl AsyncFnOnce(&Self)) -> Row {
        let seen = self.seeker.token().await.map(drop);
        assert!(
            self.holder.cached().is_some(),
            "{fault}: a valid token is served"
        );
        let sent = self.refreshes();
        repair(self).await;
        self.after(fault, seen, sent).await
    }

    /// Observes a fault that occurs during a refresh.
    async fn meet_in_the_middle(
        &self,
        fault: &'static str,
        strike: impl AsyncFnOnce(&Self) -> Option<String>,
    ) -> Row {
        let slow = Fault::latency(MIDDLE);
        let faults = self.mock.faults();
        faults.add(slow, Target::refresh(), Times::ONCE);
        let seeker = self.seeker.clone();
        let seen = tokio::spawn(async move { seeker.token().await.map(drop) });
        let began = Instant::now();
        while !self.is_refreshing() {
            let waited = began.elapsed();
            assert!(waited < Duration::from_secs(10), "{fault}: no refresh");
            sleep(Duration::from_millis(5)).await;
        }
        let fresh = strike(self).await;
        assert!(self.is_refreshing(), "{fault}: it occurred too late");
        let seen = seen.await.unwrap();
        let sent = self.refreshes();
        let live = fresh.unwrap_or_else(|| self.first.clone());
        self.after_chain(fault, seen, sent, &live).await
    }

    /// Whether the mock is handling a refresh.
    fn is_refreshing(&self) -> bool {
        self.mock.requests().iter().any(|request| {
            request.grant_type() == Some("refresh_token") && request.outcome == Outcome::Open
        })
    }

    async fn after(&self, fault: &'static str, seen: Result<(), Error>, sent: usize) -> Row {
        self.after_chain(fault, seen, sent, &self.first).await
    }

    async fn after_chain(
        &self,
        fault: &'static str,
        seen: Result<(), Error>,
        sent: usize,
        refresh_token: &str,
    ) -> Row {
        // The backoff after a failure, and one more attempt.
        sleep(Duration::from_millis(1200)).await;
        let after = self.seeker.token().await;
        assert!(after.is_ok(), "{fault}: after the repair: {after:?}");
        self.seeker.shutdown().await.unwrap();
        let sign_in = SignIn::new(Arc::clone(&self.store), "ann").unwrap();
        let record = sign_in.load().await.unwrap().unwrap();
        let stored = coze_mock::fingerprint(record.refresh_token().expose());
        let lost = self.chain(refresh_token).1 != Some(stored);
        Row {
            fault,
            seen,
            sent,
            lost,
        }
    }
}

fn ann() -> Key {
    Key::record(&Profile::new("ann").unwrap())
}

impl Row {
    /// Removes what differs from run to run.
    fn line(&self, folder: Option<&Path>, port: Option<u16>) -> String {
        let mut seen = match &self.seen {
            Ok(()) => "a token".to_owned(),
            Err(error) => format!("`{}`: {error}; {}", error.kind(), error.hint()),
        };
        if let Some(folder) = folder {
            seen = seen.replace(&folder.display().to_string(), "FOLDER");
        }
        if let Some(port) = port {
            seen = seen.replace(&format!("127.0.0.1:{port}"), "REDIS");
        }
        seen = seen.replace(&format!("process {}", std::process::id()), "process PID");
        let lost = if self.lost { "**yes**" } else { "no" };
        format!("| {} | {seen} | {} | {lost} |", self.fault, self.sent)
    }
}

/// A group of rows of the table.
fn check(rows: &[String]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("faults/FAULTS.md");
    let committed = fs::read_to_string(&path).unwrap_or_default();
    if std::env::var_os("UPDATE_FAULTS").is_some() {
        let mut lines: Vec<_> = committed.lines().map(str::to_owned).collect();
        for row in rows {
            let fault = row.split(" | ").next().unwrap();
            match lines.iter_mut().find(|line| line.starts_with(fault)) {
                Some(line) => line.clone_from(row),
                None => lines.push(row.clone()),
            }
        }
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        return;
    }
    for row in rows {
        assert!(
            committed.lines().any(|line| line == row),
            "FAULTS.md has no such line (UPDATE_FAULTS=1 writes it):\n{row}"
        );
    }
}

struct InFolder {
    place: tempfile::TempDir,
}

impl InFolder {
    async fn set() -> (Self, Stage) {
        let place = tempfile::tempdir().unwrap();
        let stage = Stage::set(Arc::new(FileStore::new(place.path().join("sign-ins")))).await;
        (Self { place }, stage)
    }

    fn folder(&self) -> PathBuf {
        self.place.path().join("sign-ins")
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.folder().join(format!("ann.{ending}"))
    }

    /// Replaces the file by other content, and restores it afterwards.
    async fn meet_in_its_place(&self, fault: &'static str, stage: &Stage, content: &str) -> Row {
        let whole = fs::read(self.file("json")).unwrap();
        fs::write(self.file("json"), content).unwrap();
        let file = self.file("json");
        stage
            .meet(fault, async |_| fs::write(file, whole).unwrap())
            .await
    }
}

async fn stored(stage: &Stage) -> Stored {
    stage.store.load(&ann()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_wrong_content_or_type() {
    let mut rows = Vec::new();

    let (place, stage) = InFolder::set().await;
    let whole = fs::read_to_string(place.file("json")).unwrap();
    let row = place.meet_in_its_place("file: truncated", &stage, &whole[..60]);
    rows.push(row.await.line(Some(&place.folder()), None));

    let (place, stage) = InFolder::set().await;
    let edited = fs::read_to_string(place.file("json")).unwrap();
    let edited = edited.replace("\"version\":1", "\"version\": 1");
    let row = place.meet_in_its_place("file: edited by hand", &stage, &edited);
    rows.push(row.await.line(Some(&place.folder()), None));

    let (place, stage) = InFolder::set().await;
    let future = r#"{"version":9,"of_the_future":true}"#;
    let checksum = digest(&SHA256, future.as_bytes());
    let checksum = URL_SAFE_NO_PAD.encode(checksum);
    let future = format!("{{\"checksum\":\"{checksum}\",\"record\":{future}}}");
    let row = place.meet_in_its_place("file: of a future version", &stage, &future);
    rows.push(row.await.line(Some(&place.folder()), None));

    let (place, stage) = InFolder::set().await;
    let elsewhere = place.place.path().join("elsewhere");
    fs::rename(place.file("json"), &elsewhere).unwrap();
    symlink(&elsewhere, place.file("json")).unwrap();
    let file = place.file("json");
    let row = stage.meet("file: replaced by a symbolic link", async |_| {
        fs::remove_file(&file).unwrap();
        fs::rename(&elsewhere, &file).unwrap();
    });
    rows.push(row.await.line(Some(&place.folder()), None));

    let (place, stage) = InFolder::set().await;
    fs::create_dir(place.file("next")).unwrap();
    let next = place.file("next");
    let row = stage.meet("file: a folder in the way of the save", async |_| {
        fs::remove_dir(next).unwrap()
    });
    rows.push(row.await.line(Some(&place.folder()), None));

    let (place, stage) = InFolder::set().await;
    let folder = place.folder();
    let row = stage.meet_in_the_middle(
        "file: folder swapped for a link in the middle",
        async |_| {
            let elsewhere = place.place.path().join("elsewhere");
            fs::create_dir(&elsewhere).unwrap();
            fs::rename(&folder, place.place.path().join("moved")).unwrap();
            symlink(&elsewhere, &folder).unwrap();
            None
        },
    );
    rows.push(row.await.line(Some(&place.folder()), None));

    check(&rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_lock_clock_or_owner_changes() {
    let mut rows = Vec::new();

    let (place, stage) = InFolder::set().await;
    let stuck = Owner::new([1; 16], "process 4711 on host");
    let lock = stage
        .store
        .try_lock(&ann(), &stuck, Duration::from_secs(60))
        .await;
    assert!(matches!(lock.unwrap(), TryLock::Acquired(_)));
    let row = stage.meet("file: lock held by a stuck process", async |stage| {
        stage.store.unlock(&ann(), &stuck).await.unwrap();
    });
    rows.push(row.await.line(Some(&place.folder()), None));

    // After the clock was set back, the record is from the future.
    let (place, stage) = InFolder::set().await;
    let content = fs::read_to_string(place.file("json")).unwrap();
    let (header, record) = content.split_once('\n').unwrap();
    let mut header: serde_json::Value = serde_json::from_str(header).unwrap();
    let written_at = header["written_at_ms"].as_u64().unwrap();
    header["written_at_ms"] = (written_at + 3_600_000).into();
    fs::write(place.file("json"), format!("{header}\n{record}")).unwrap();
    let row = stage.meet("file: clock set back by an hour", async |stage| {
        assert!(
            stored(stage).await.age.unwrap() < Duration::from_secs(60),
            "stamped again"
        );
    });
    rows.push(row.await.line(Some(&place.folder()), None));

    let (place, stage) = InFolder::set().await;
    let lock = place.file("lock");
    let row = stage.meet_in_the_middle("file: lock lost in the middle", async |_| {
        fs::remove_file(lock).unwrap();
        None
    });
    rows.push(row.await.line(Some(&place.folder()), None));

    let (place, stage) = InFolder::set().await;
    let row = stage.meet_in_the_middle("file: another sign-in in the middle", async |stage| {
        Some(stage.sign_in_again().await)
    });
    rows.push(row.await.line(Some(&place.folder()), None));

    check(&rows);
}

/// Large enough for a machine that stalls.
fn tolerant(server: &RedisServer) -> RedisStore {
    let builder = RedisStore::builder(server.url()).connect_timeout(TOLERANT);
    builder.response_timeout(TOLERANT).build().unwrap()
}

const TOLERANT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_fails() {
    let options = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut server) = RedisServer::start_with(&options) else {
        return;
    };
    let port = Some(server.port());
    let connect = |server: &RedisServer| -> Arc<dyn Store> { Arc::new(tolerant(server)) };
    let mut rows = Vec::new();

    let stage = Stage::set(connect(&server)).await;
    server.stop();
    let row = stage.meet("Redis: down, then restarted", async |_| {
        server.start_again()
    });
    rows.push(row.await.line(None, port));

    let as_it_comes = RedisStore::builder(server.url()).build().unwrap();
    let stage = Stage::set(Arc::new(as_it_comes)).await;
    server.freeze();
    let row = stage.meet("Redis: slow", async |_| server.thaw());
    rows.push(row.await.line(None, port));

    let stage = Stage::set(connect(&server)).await;
    let _: String = server.ask("CONFIG SET maxmemory 1");
    let row = stage.meet("Redis: out of memory", async |_| {
        let _: String = server.ask("CONFIG SET maxmemory 0");
    });
    rows.push(row.await.line(None, port));

    let stage = Stage::set(connect(&server)).await;
    let row = stage.meet_in_the_middle("Redis: out of memory in the middle", async |_| {
        let _: String = server.ask("CONFIG SET maxmemory 1");
        None
    });
    rows.push(row.await.line(None, port));
    let _: String = server.ask("CONFIG SET maxmemory 0");

    let stage = Stage::set(connect(&server)).await;
    let row = stage.meet_in_the_middle("Redis: lock lost in the middle", async |_| {
        let deleted: u64 = server.ask("DEL coze-auth:{ann}:lock");
        assert_eq!(deleted, 1);
        None
    });
    rows.push(row.await.line(None, port));

    let stage = Stage::set(connect(&server)).await;
    let row = stage.meet_in_the_middle("Redis: restarted in the middle", async |_| {
        server.stop();
        server.start_again();
        None
    });
    rows.push(row.await.line(None, port));

    let stage = Stage::set(connect(&server)).await;
    let row = stage.meet_in_the_middle("Redis: another sign-in in the middle", async |stage| {
        Some(stage.sign_in_again().await)
    });
    rows.push(row.await.line(None, port));

    check(&rows);
}

/// If set, the test fails on a machine without mount namespaces instead of skipping.
const REQUIRED: &str = "COZE_TESTS_REQUIRE_MOUNTS";
/// The variable with the path of the mounted file system.
const MOUNTED: &str = "COZE_TESTS_MOUNTED";

/// Root ignores file modes, so the test mounts a file system that is full or read-only. It disappears with its mount namespace.
#[test]
fn a_full_or_read_only_disk() {
    let place = tempfile::tempdir().unwrap();
    let unshare = || {
        let mut unshare = Command::new("unshare");
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            unshare.arg("--map-root-user");
        }
        unshare.args(["--mount", "--propagation", "private", "--"]);
        unshare
    };
    let mount = unshare()
        .args(["mount", "-t", "tmpfs", "tmpfs"])
        .arg(place.path())
        .output();
    if !mount.is_ok_and(|mount| mount.status.success()) {
        return left_out("mount namespaces are not available here", REQUIRED);
    }
    let passed = unshare()
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "on_mounts", "--ignored", "--nocapture"])
        .env(MOUNTED, place.path())
        .status()
        .unwrap();
    assert!(passed.success());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "what a_full_or_read_only_disk runs in a mount namespace"]
async fn on_mounts() {
    let Some(at) = std::env::var_os(MOUNTED).map(PathBuf::from) else {
        return skipped("not in its own mount namespace");
    };
    let mount = |arguments: &[&str]| {
        let mount = Command::new("mount").args(arguments).arg(&at).status();
        assert!(mount.unwrap().success());
    };
    mount(&["-t", "tmpfs", "-o", "size=128k", "tmpfs"]);
    let folder = at.join("sign-ins");
    let mut rows = Vec::new();

    let stage = Stage::set(Arc::new(FileStore::new(&folder))).await;
    let filling = at.join("filling");
    let full = fs::write(&filling, vec![0; 1024 * 1024]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let row = stage.meet("file: disk full", async |_| {
        fs::remove_file(filling).unwrap()
    });
    rows.push(row.await.line(Some(&folder), None));

    let stage = Stage::set(Arc::new(FileStore::new(&folder))).await;
    mount(&["-o", "remount,ro"]);
    let row = stage.meet("file: read-only folder", async |_| {
        mount(&["-o", "remount,rw"])
    });
    rows.push(row.await.line(Some(&folder), None));

    for row in &rows {
        assert!(row.contains("| 0 | no |"), "no refresh is sent: {row}");
    }
    check(&rows);
}
