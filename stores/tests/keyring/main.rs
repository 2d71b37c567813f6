//! `KeyringStore` on a real GNOME Keyring.
//!
//! No test uses the keyring of the user who runs the tests. Each test starts a D-Bus session with its own home folder, and in it
//! this program again, for one of the tests in [`inside`].

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests and their helpers panic on failure, and child processes print their results"
)]

#[path = "../support/left_out.rs"]
mod left_out;

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use coze_auth::store::{
    CompareAndSet, Contents, Key, Owner, Profile, Store, StoreErrorKind, TryLock, Version,
};
use coze_auth_stores::KeyringStore;
use tempfile::TempDir;

use crate::left_out::{left_out, skipped};

/// If this variable is set, tests fail without a keyring.
const REQUIRED: &str = "COZE_TESTS_REQUIRE_KEYRING";
/// Set in the sessions of these tests only.
const SESSION: &str = "COZE_TESTS_KEYRING_SESSION";
const NUMBER: &str = "COZE_TESTS_KEYRING_NUMBER";
const PASSWORD: &str = "COZE_TESTS_KEYRING_PASSWORD";

const PROGRAM: &str = "coze-tests";

/// The kind of a session.
#[derive(Clone, Copy)]
enum Session {
    /// An unlocked keyring.
    Unlocked,
    /// A keyring that stays locked.
    Locked,
    /// A bus without a secret service, on which none can be started.
    WithoutKeyring,
    WithoutBus,
}

impl Session {
    fn command(self, home: &Path) -> Command {
        let in_bus = |script: &str| {
            let mut command = Command::new("dbus-run-session");
            command.args(["--", "sh", "-ec", script, "sh"]);
            command
        };
        match self {
            Self::Unlocked => in_bus(START_AND_LOG),
            // The bus starts a locked keyring.
            Self::Locked => in_bus("\"$@\""),
            Self::WithoutKeyring => {
                let config = home.join("bus.conf");
                fs::write(&config, BUS_WITHOUT_SERVICES).unwrap();
                let mut command = Command::new("dbus-run-session");
                command.arg("--config-file").arg(config).arg("--");
                command
            }
            Self::WithoutBus => {
                let mut command = Command::new("env");
                command.arg("DBUS_SESSION_BUS_ADDRESS=unix:path=/nonexistent/bus");
                command
            }
        }
    }

    fn run(self, home: &Path, test: &str) -> Output {
        if matches!(self, Self::Locked) {
            // The first session creates the keyring with a password. The next one does not know the password.
            let mut first = Self::Unlocked.command(home);
            first.env(PASSWORD, "password");
            let signed_in = run_in_home(&mut first, home, "writes_for_another_test");
            if !has_passed(&signed_in) {
                return signed_in;
            }
            let _ = fs::remove_dir_all(home.join("run/keyring"));
        }
        run_in_home(&mut self.command(home), home, test)
    }
}

/// Starts a keyring whose messages are logged.
const START_AND_LOG: &str = r#"
printf "${COZE_TESTS_KEYRING_PASSWORD:-\n}" |
    gnome-keyring-daemon --unlock --components=secrets --foreground >/dev/null 2>"$HOME/keyring.log" &
is_there() {
    dbus-send --session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.NameHasOwner \
        string:org.freedesktop.secrets | grep -q true
}
tries=0
until is_there; do
    tries=$((tries + 1))
    if [ $tries -ge 600 ]; then
        echo "gnome-keyring-daemon does not appear on the bus" >&2
        cat "$HOME/keyring.log" >&2
        exit 1
    fi
    sleep 0.05
done
"$@"
"#;

/// The message of GNOME Keyring when it crashes because of its issue 196: it loses a client when another one connects or disconnects at
/// the same moment (observed with 42.1, in about one of a hundred runs of these tests).
const KEYRING_DIED: &str = "gkd_secret_service_get_pkcs11_session: assertion 'client' failed";

const BUS_WITHOUT_SERVICES: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:tmpdir=/tmp</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"#;

/// Sets this home folder, and removes the variables for display, bus and keyring.
fn in_home(command: &mut Command, home: &Path) {
    for variable in [
        "DBUS_SESSION_BUS_ADDRESS",
        "GNOME_KEYRING_CONTROL",
        "DISPLAY",
        "WAYLAND_DISPLAY",
    ] {
        command.env_remove(variable);
    }
    command.env("HOME", home);
    for (variable, folder) in [
        ("XDG_DATA_HOME", "data"),
        ("XDG_STATE_HOME", "state"),
        ("XDG_CONFIG_HOME", "config"),
        ("XDG_CACHE_HOME", "cache"),
        ("XDG_RUNTIME_DIR", "run"),
    ] {
        let folder = home.join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        command.env(variable, folder);
    }
}

/// Runs one of the tests in [`inside`] in a session of this kind.
fn run_inside(session: Session, test: &str) {
    if let Some(missing) = ["dbus-run-session", "gnome-keyring-daemon"]
        .into_iter()
        .find(|program| !is_installed(program))
    {
        return left_out(&format!("{missing} is not installed"), REQUIRED);
    }
    let mut tries = 0;
    loop {
        tries += 1;
        let home = Home::new();
        let output = session.run(home.path(), test);
        let said = fs::read_to_string(home.path().join("keyring.log")).unwrap_or_default()
            + &String::from_utf8_lossy(&output.stderr);
        if has_passed(&output) || tries == 6 || !said.contains(KEYRING_DIED) {
            return expect_passed(test, &output);
        }
        println!("retrying, because the keyring crashed: {KEYRING_DIED}");
    }
}

fn run_in_home(session: &mut Command, home: &Path, test: &str) -> Output {
    in_home(session, home);
    session
        .arg(env::current_exe().unwrap())
        .args(for_test(test))
        .env(SESSION, "1")
        .stdin(Stdio::null());
    session.output().unwrap()
}

/// A home folder. Its drop also kills processes that run with it, because a keyring may outlive its session.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for process in fs::read_dir("/proc").unwrap().flatten() {
            if lives_in(&self.path().display().to_string(), &process.path()) {
                let _ = Command::new("kill").arg(process.file_name()).status();
            }
        }
    }
}

fn lives_in(home: &str, process: &Path) -> bool {
    let home = format!("HOME={home}");
    let environment = fs::read(process.join("environ")).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|variable| variable == home.as_bytes())
}

fn is_installed(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    found.is_ok()
}

fn for_test(inside: &str) -> [String; 4] {
    [
        format!("inside::{inside}"),
        "--exact".to_owned(),
        "--ignored".to_owned(),
        "--nocapture".to_owned(),
    ]
}

fn has_passed(output: &Output) -> bool {
    let out = String::from_utf8_lossy(&output.stdout);
    output.status.success() && out.contains("1 passed")
}

fn expect_passed(test: &str, output: &Output) {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(
        has_passed(output),
        "inside::{test} did not pass: {}\n{out}\n{err}",
        output.status
    );
}

macro_rules! in_sessions {
    ($($session:ident: $test:ident,)*) => {
        $(#[test]
        fn $test() {
            run_inside(Session::$session, stringify!($test));
        })*
    };
}

in_sessions! {
    Unlocked: passes_the_suite,
    Unlocked: a_lock_ends_with_its_process,
    Unlocked: a_lock_without_its_file_does_not_count,
    Unlocked: programs_have_separate_entries,
    Unlocked: one_of_many_processes_writes,
    Unlocked: a_killed_client_has_written_or_not,
    Unlocked: a_killed_keyring_has_the_old_or_the_new,
    Unlocked: nothing_is_not_read_during_a_change,
    Unlocked: a_restarted_keyring_is_found_again,
    Unlocked: a_keyring_that_hung_is_used_again,
    Unlocked: a_loose_lock_folder_is_refused,
    Locked: a_locked_keyring_is_an_error,
    Locked: a_keyring_that_waits_does_not_keep_the_program,
    WithoutKeyring: no_keyring_is_an_error,
    WithoutBus: no_bus_is_an_error,
}

const TTL: Duration = Duration::from_secs(60);

/// As long as a sign-in.
fn contents(number: usize) -> Contents {
    Contents::from(format!("{number} {}", "hush ".repeat(300)).into_bytes())
}

fn version(number: usize) -> Version {
    Version::of(&contents(number))
}

fn profile() -> Profile {
    Profile::new("default").unwrap()
}

fn key() -> Key {
    Key::record(&profile())
}

fn owner(number: u8) -> Owner {
    Owner::new([number; 16], &format!("owner {number}"))
}

fn store() -> KeyringStore {
    KeyringStore::new(PROGRAM).unwrap()
}

async fn create(store: &KeyringStore, number: usize) {
    let done = store
        .compare_and_set(&key(), None, Some(&contents(number)))
        .await;
    assert!(matches!(done.unwrap(), CompareAndSet::Done(Some(_))));
}

/// Whether the change succeeded.
async fn replace(store: &KeyringStore, number: usize, new: usize) -> bool {
    let (old, new) = (version(number), contents(new));
    let done = store.compare_and_set(&key(), Some(&old), Some(&new)).await;
    done.unwrap() != CompareAndSet::Conflict
}

async fn stored(store: &KeyringStore) -> Option<usize> {
    let stored = store.load(&key()).await.unwrap()?;
    assert!(stored.age.is_some_and(|age| age < TTL));
    let text = String::from_utf8(stored.contents.expose().to_vec()).unwrap();
    text.split(' ').next()?.parse().ok()
}

async fn try_lock(store: &KeyringStore, number: u8) -> TryLock {
    store.try_lock(&key(), &owner(number), TTL).await.unwrap()
}

async fn lock(store: &KeyringStore, number: u8) {
    let lock = try_lock(store, number).await;
    assert!(matches!(lock, TryLock::Acquired(_)), "{lock:?}");
}

/// The tests that run in a separate session. Each is started by the test of the same name above.
mod inside {
    use std::{
        io::{BufRead, BufReader},
        process::Child,
        sync::Arc,
    };

    use coze_auth::testing::store::{check, check_killed_owner, hold_lock};

    use super::*;

    /// Protects the keyring of a user who runs the tests with `--ignored`.
    fn is_in_session() -> bool {
        let is = env::var_os(SESSION).is_some();
        if !is {
            skipped("it needs a separate session");
        }
        is
    }

    macro_rules! inside {
        ($($(#[$doc:meta])* async fn $test:ident() $body:block)*) => {
            $($(#[$doc])*
            #[tokio::test(flavor = "multi_thread")]
            #[ignore = "started by the test of the same name, in a separate session"]
            async fn $test() {
                if is_in_session() $body
            })*
        };
    }

    fn another_process(test: &str, number: usize) -> Command {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(for_test(test)).env(NUMBER, number.to_string());
        command
    }

    fn number() -> usize {
        env::var(NUMBER).unwrap().parse().unwrap()
    }

    inside! {
        async fn passes_the_suite() {
            // The suite creates its own runtimes.
            let suite = std::thread::spawn(|| {
                check(|| async { Arc::new(store()) as Arc<dyn Store> });
            });
            suite.join().unwrap();
        }

        async fn holds_a_lock_for_another_test() {
            hold_lock(&store(), &profile()).await;
        }

        async fn a_lock_ends_with_its_process() {
            let holder = another_process("holds_a_lock_for_another_test", 0);
            check_killed_owner(&store(), &profile(), holder).await;
        }

        async fn a_lock_without_its_file_does_not_count() {
            let store = store();
            lock(&store, 1).await;
            let held = TryLock::Held { by: Some("owner 1".to_owned()) };
            assert_eq!(try_lock(&store, 2).await, held);
            fs::remove_dir_all(lock_folder()).unwrap();
            lock(&store, 2).await;
            assert!(matches!(try_lock(&store, 1).await, TryLock::Held { .. }));
        }

        async fn programs_have_separate_entries() {
            let another = KeyringStore::new("another-program").unwrap();
            create(&store(), 1).await;
            assert!(another.load(&key()).await.unwrap().is_none());
            create(&another, 2).await;
            assert_eq!(stored(&store()).await, Some(1));
        }

        async fn replaces_for_another_test() {
            println!("{}", if replace(&store(), 0, number()).await { "it has" } else { "conflict" });
        }

        async fn one_of_many_processes_writes() {
            let store = store();
            create(&store, 0).await;
            let start = |new| {
                let mut command = another_process("replaces_for_another_test", new);
                command.stdout(Stdio::piped()).spawn().unwrap()
            };
            let writers: Vec<_> = (1..6).map(|new| (new, start(new))).collect();
            let mut won = Vec::new();
            for (new, writer) in writers {
                let output = writer.wait_with_output().unwrap();
                expect_passed("replaces_for_another_test", &output);
                let out = String::from_utf8_lossy(&output.stdout);
                assert!(out.contains("it has") != out.contains("conflict"), "{out}");
                won.extend(out.contains("it has").then_some(new));
            }
            assert_eq!(won.len(), 1, "written: {won:?}");
            assert_eq!(stored(&store).await, Some(won[0]));
        }

        async fn counts_up_for_another_test() {
            let store = store();
            for number in number().. {
                assert!(replace(&store, number, number + 1).await);
                println!("> {}.", number + 1);
            }
        }

        async fn a_killed_client_has_written_or_not() {
            let store = store();
            create(&store, 0).await;
            let mut least = 0;
            for round in 0..15 {
                let said = killed_after(Duration::from_micros(700 * round), least, |child| {
                    child.kill().unwrap();
                });
                lock(&store, 1).await;
                store.unlock(&key(), &owner(1)).await.unwrap();
                let found = stored(&store).await.unwrap();
                assert!(found >= said && found <= said + 1, "{said} {found}");
                least = found;
            }
        }

        /// GNOME Keyring replaces a credential in one step, so the record always holds an intent or a token.
        async fn a_killed_keyring_has_the_old_or_the_new() {
            let store = store();
            create(&store, 0).await;
            let rounds = env::var("COZE_TESTS_KEYRING_KILLS").map_or(12, |kills| kills.parse().unwrap());
            let mut least = 0;
            for round in 0..rounds {
                let said = killed_after(Duration::from_micros(431 * (round % 60)), least, |child| {
                    // Both at once: otherwise the bus would start another keyring for the child.
                    send("KILL", &[keyrings(), vec![child.id()]].concat());
                });
                start_keyring();
                let found = stored(&store).await;
                println!("killed after {said}: {found:?}");
                // A confirmed change is stored, and the next one may be.
                let found = found.unwrap();
                assert!(found >= said && found <= said + 1, "{said} {found}");
                least = found;
            }
        }

        async fn nothing_is_not_read_during_a_change() {
            let store = store();
            create(&store, 1).await;
            // Simulates another process in the middle of a change, with a service that deletes and creates.
            let change = fs::read_dir(lock_folder()).unwrap().map(|file| file.unwrap().path());
            let change = change.filter(|file| file.extension().is_some_and(|e| e == "change"));
            let change: Vec<_> = change.map(|file| fs::File::open(file).unwrap()).collect();
            let deleted = contents(1);
            assert_eq!(
                store.compare_and_set(&key(), Some(&Version::of(&deleted)), None).await.unwrap(),
                CompareAndSet::Done(None)
            );
            assert_eq!(change.len(), 1);
            change[0].lock().unwrap();
            let loading = tokio::spawn(async { super::store().load(&key()).await });
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(!loading.is_finished(), "the load waits for the change");
            change[0].unlock().unwrap();
            assert!(loading.await.unwrap().unwrap().is_none());
        }

        async fn a_keyring_that_waits_does_not_keep_the_program() {
            // The test fails by not ending: its runtime waits for its blocking threads.
            let store = store().answer_within(Duration::from_secs(2));
            let asked = (0..40).map(|_| {
                let store = store.clone();
                tokio::spawn(async move { store.load(&key()).await.unwrap_err() })
            });
            for error in asked.collect::<Vec<_>>() {
                let error = error.await.unwrap();
                assert!(error.to_string().contains("unlock the keyring"), "{error}");
            }
            assert!(asking_threads() <= 64);
        }

        async fn a_keyring_that_hung_is_used_again() {
            create(&store(), 1).await;
            signal_keyring("STOP");
            let short_timeout = store().answer_within(Duration::from_secs(2));
            // More than the limit of concurrent calls.
            let asked = (0..20).map(|_| {
                let store = short_timeout.clone();
                tokio::spawn(async move { store.load(&key()).await.map(drop) })
            });
            for hung in asked.collect::<Vec<_>>() {
                let error = hung.await.unwrap().unwrap_err();
                assert!(error.to_string().contains("has not answered"), "{error}");
            }
            let (old, new) = (version(1), contents(2));
            short_timeout.compare_and_set(&key(), Some(&old), Some(&new)).await.unwrap_err();
            signal_keyring("CONT");
            while asking_threads() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(replace(&store(), 1, 3).await);
            assert_eq!(stored(&store()).await, Some(3));
        }

        async fn a_restarted_keyring_is_found_again() {
            let store = store();
            create(&store, 1).await;
            start_keyring();
            assert_eq!(stored(&store).await, Some(1));
            assert!(replace(&store, 1, 2).await);
        }

        async fn a_loose_lock_folder_is_refused() {
            let store = store();
            create(&store, 1).await;
            lock(&store, 1).await;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&lock_folder()), 0o700);
            for file in fs::read_dir(lock_folder()).unwrap() {
                assert_eq!(mode(&file.unwrap().path()), 0o600);
            }
            fs::set_permissions(lock_folder(), fs::Permissions::from_mode(0o755)).unwrap();
            let error = store.try_lock(&key(), &owner(2), TTL).await.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::NotPermitted, "{error}");
        }

        async fn writes_for_another_test() {
            create(&store(), 1).await;
        }

        async fn a_locked_keyring_is_an_error() {
            expect_error_everywhere("unlock the keyring").await;
        }

        async fn no_keyring_is_an_error() {
            expect_error_everywhere("start a secret service").await;
        }

        async fn no_bus_is_an_error() {
            expect_error_everywhere("start a secret service").await;
        }
    }

    /// Kills something while another process counts up from a number. Returns the last number that it reported as written.
    fn killed_after(wait: Duration, from: usize, kill: impl FnOnce(&mut Child)) -> usize {
        let mut command = another_process("counts_up_for_another_test", from);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = from;
        while said == from {
            said = said_in(&lines.next().unwrap().unwrap()).unwrap_or(from);
        }
        std::thread::sleep(wait);
        kill(&mut child);
        // The last line may be incomplete.
        let rest = lines.map_while(Result::ok);
        let last = rest.filter_map(|line| said_in(&line)).last();
        let _ = child.wait();
        last.unwrap_or(said)
    }

    fn said_in(line: &str) -> Option<usize> {
        line.split_once("> ")?.1.strip_suffix('.')?.parse().ok()
    }

    fn start_keyring() {
        let start = "printf '\\n' | gnome-keyring-daemon --replace --unlock --components=secrets --daemonize";
        let started = Command::new("sh")
            .args(["-ec", start])
            .stdout(Stdio::null())
            .status();
        assert!(started.unwrap().success());
    }

    fn asking_threads() -> usize {
        let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
        let asking = threads.filter(|thread| comm(&thread.path()) == "coze-keyring");
        asking.count()
    }

    fn comm(of: &Path) -> String {
        let name = fs::read_to_string(of.join("comm")).unwrap_or_default();
        name.trim().to_owned()
    }

    /// Sends a signal to the keyring of this session.
    fn signal_keyring(signal: &str) {
        send(signal, &keyrings());
    }

    /// The keyring processes of this session. There are two while one replaces the other.
    fn keyrings() -> Vec<u32> {
        let home = env::var("HOME").unwrap();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let keyrings = processes.filter(|process| {
            comm(&process.path()) == "gnome-keyring-d" && lives_in(&home, &process.path())
        });
        keyrings
            .map(|keyring| keyring.file_name().to_str().unwrap().parse().unwrap())
            .collect()
    }

    fn send(signal: &str, processes: &[u32]) {
        let mut kill = Command::new("kill");
        kill.arg(format!("-{signal}"));
        kill.args(processes.iter().map(u32::to_string));
        assert!(kill.status().unwrap().success());
    }

    fn lock_folder() -> std::path::PathBuf {
        let state = env::var_os("XDG_STATE_HOME").unwrap();
        Path::new(&state).join("coze-auth").join("keyring-locks")
    }

    /// Every operation must fail with this advice, except for locks, which need no keyring.
    async fn expect_error_everywhere(advice: &str) {
        let store = store().answer_within(Duration::from_secs(5));
        lock(&store, 1).await;
        let (key, old, new) = (key(), version(1), contents(2));
        for error in [
            store.load(&key).await.map(drop).unwrap_err(),
            store
                .compare_and_set(&key, None, Some(&new))
                .await
                .unwrap_err(),
            store
                .compare_and_set(&key, Some(&old), Some(&new))
                .await
                .unwrap_err(),
            store
                .compare_and_set(&key, Some(&old), None)
                .await
                .unwrap_err(),
        ] {
            println!("{error}");
            assert!(error.to_string().contains(advice), "{error}");
            assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
        }
    }
}
