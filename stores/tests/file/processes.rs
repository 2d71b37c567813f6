//! Other processes: stopped, stuck, killed.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use coze_auth::{store::StoreErrorKind, testing::store};

use super::{access, left_out::skipped, *};

#[tokio::test]
async fn a_lock_ends_with_its_process() {
    let (place, _) = Place::written().await;
    let holder = Role::HoldSuiteLock.command(place.store.folder());
    store::check_killed_owner(&place.store, &profile(), holder).await;
}

#[tokio::test]
async fn a_stopped_owner_is_named_and_does_not_block_writes() {
    let (place, first) = Place::written().await;
    let (mut child, mut says) = Role::HoldLock.begin(place.store.folder());
    assert_eq!(line(&mut says), "holding");
    signal(&child, "STOP");
    let by = Some("the child of a test".to_owned());
    assert_eq!(locked(&place.store, 1).await, TryLock::Held { by });
    set(
        &place.store,
        &key(),
        Some(&Version::of(&first)),
        Some(&contents("second")),
    )
    .await;
    kill(&mut child);
    lock(&place.store, 1).await;
}

#[tokio::test]
async fn a_process_that_is_stuck_during_a_change_is_named() {
    let (place, first) = Place::written().await;
    let (mut child, mut says) = Role::ChangeAndChange.begin(place.store.folder());
    line(&mut says);
    let is_locked = || {
        fs::File::open(place.file("change"))
            .unwrap()
            .try_lock()
            .is_err()
    };
    // Repeats until the process is stopped during a change.
    loop {
        signal(&child, "STOP");
        if is_locked() {
            break;
        }
        signal(&child, "CONT");
        std::thread::sleep(Duration::from_micros(300));
    }
    let began = std::time::Instant::now();
    let (key, owner, version) = (key(), owner(1), Version::of(&first));
    let (new, store) = (contents("second"), &place.store);
    let (change, lock_it) = tokio::join!(
        store.compare_and_set(&key, Some(&version), Some(&new)),
        store.try_lock(&key, &owner, TTL)
    );
    for error in [change.unwrap_err(), lock_it.unwrap_err()] {
        assert_eq!(error.kind(), StoreErrorKind::Busy);
        let process = format!("process {} on ", child.id());
        assert!(format!("{error:?}").contains(&process), "{error:?}");
        assert!(told(&error).contains("default.change"), "{error}");
    }
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(load(store, &key).await.is_some(), "a load does not wait");
    kill(&mut child);
    lock(store, 1).await;
}

#[tokio::test]
async fn a_child_process_does_not_inherit_a_lock() {
    let (place, _) = Place::written().await;
    lock(&place.store, 1).await;
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    place.store.unlock(&key(), &owner(1)).await.unwrap();
    lock(&place.store, 2).await;
    kill(&mut child);
}

/// Each change of the child increments a number. The child prints the numbers whose change was confirmed.
#[tokio::test]
async fn confirmed_changes_of_a_killed_process_are_durable() {
    let place = Place::new();
    set(&place.store, &key(), None, Some(&numbered(0))).await;
    let (mut least, mut finished) = (0, 0);
    for round in 0..40 {
        let (mut child, mut says) = Role::ChangeAndChange.begin(place.store.folder());
        let first: u64 = line(&mut says).parse().unwrap();
        assert!(first > least, "{first}");
        std::thread::sleep(Duration::from_micros(round * 850));
        kill(&mut child);
        let said: Vec<_> = says.lines().map_while(Result::ok).collect();
        // The last line may be incomplete.
        let last = said
            .iter()
            .rev()
            .find_map(|line| said_in(line)?.strip_suffix('.'));
        least = last.map_or(first, |last| last.parse().unwrap());

        let before = number(&place).await;
        lock(&place.store, 1).await;
        place.store.unlock(&key(), &owner(1)).await.unwrap();
        let after = number(&place).await;
        finished += after - before;
        assert!(
            before >= least && after <= least + 1,
            "{least} {before} {after}"
        );
        least = after;
    }
    println!("completed for killed processes: {finished} of 40");
    assert!(!place.file("quarantine-0.json").exists());
}

#[test]
fn the_default_folder_is_that_of_the_platform() {
    let parent = tempfile::tempdir().unwrap();
    let mut command = Role::TellDefaultFolder.command(parent.path());
    let output = command
        .env("XDG_STATE_HOME", parent.path())
        .output()
        .unwrap();
    assert_passed(&output);
    if cfg!(target_os = "linux") {
        let told = String::from_utf8(output.stdout).unwrap();
        let folder = parent.path().join("my-program/sign-ins");
        assert!(told.contains(folder.to_str().unwrap()), "{told}");
    }
}

fn numbered(number: u64) -> Contents {
    Contents::from(format!("{number} {}", "hush ".repeat(400)).into_bytes())
}

async fn number(place: &Place) -> u64 {
    let held = String::from_utf8(held(&place.store, &key()).await).unwrap();
    held.split(' ').next().unwrap().parse().unwrap()
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

fn line(says: &mut BufReader<ChildStdout>) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(says.read_line(&mut line).unwrap(), 0, "it ended");
        if let Some(said) = said_in(line.trim_end()) {
            return said.trim_end_matches('.').to_owned();
        }
    }
}

/// The child's own output. The test harness of the child prints too.
fn said_in(line: &str) -> Option<&str> {
    line.split_once("> ").map(|(_, said)| said)
}

pub(crate) fn assert_passed(output: &Output) {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains("1 passed"), "{out}{err}");
}

const ROLE: &str = "COZE_FILE_STORE_ROLE";
const FOLDER: &str = "COZE_FILE_STORE_FOLDER";

macro_rules! roles {
    ($($role:ident,)*) => {
        /// The task of a child process, which is this test program, started again.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Role { $($role,)* }

        impl Role {
            const ALL: &[Self] = &[$(Self::$role,)*];
        }
    };
}

roles! {
    HoldLock, HoldSuiteLock, ChangeAndChange, ChangeTwice, TellDefaultFolder,
    MeetFullDisk, MeetReadOnly, MeetMountedFile, MeetImmutable, MeetNoPermission,
}

impl Role {
    pub(crate) fn command(self, folder: &Path) -> Command {
        self.of(Command::new(std::env::current_exe().unwrap()), folder)
    }

    /// `command` ends with the test program.
    pub(crate) fn of(self, mut command: Command, folder: &Path) -> Command {
        command.args(["--exact", "processes::child", "--ignored", "--nocapture"]);
        command.env(ROLE, format!("{self:?}")).env(FOLDER, folder);
        command
    }

    fn begin(self, folder: &Path) -> (Child, BufReader<ChildStdout>) {
        let mut command = self.command(folder);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let says = BufReader::new(child.stdout.take().unwrap());
        (child, says)
    }
}

#[tokio::test]
#[ignore = "started by other tests, as a child process"]
async fn child() {
    let (Ok(role), Some(folder)) = (std::env::var(ROLE), std::env::var_os(FOLDER)) else {
        return skipped("it is started by other tests");
    };
    let folder = Path::new(&folder);
    let known = Role::ALL.iter().find(|known| format!("{known:?}") == role);
    match known.unwrap() {
        Role::HoldLock => hold_lock(folder).await,
        Role::HoldSuiteLock => store::hold_lock(&FileStore::new(folder), &profile()).await,
        Role::ChangeAndChange => change_and_change(folder).await,
        Role::ChangeTwice => change_twice_on_one_thread(folder),
        Role::TellDefaultFolder => {
            let store = FileStore::in_default_folder("my-program").unwrap();
            println!("> {}", store.folder().display());
        }
        Role::MeetFullDisk => access::meet_full_disk(folder).await,
        Role::MeetReadOnly => access::meet_read_only(folder).await,
        Role::MeetMountedFile => access::meet_mounted_file(folder).await,
        Role::MeetImmutable => access::meet_immutable(folder).await,
        Role::MeetNoPermission => access::meet_no_permission(folder).await,
    }
}

async fn hold_lock(folder: &Path) {
    let store = FileStore::new(folder);
    let owner = Owner::new([9; 16], "the child of a test");
    let lock = store.try_lock(&key(), &owner, TTL).await.unwrap();
    assert!(matches!(lock, TryLock::Acquired(_)));
    println!("> holding");
    std::thread::sleep(TTL);
}

async fn change_and_change(folder: &Path) {
    let store = FileStore::new(folder);
    let mut current = load(&store, &key()).await.unwrap();
    let held = String::from_utf8(current.contents.expose().to_vec()).unwrap();
    let from = held
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok());
    for number in from.unwrap_or(0u64) + 1.. {
        set(
            &store,
            &key(),
            Some(&current.version),
            Some(&numbered(number)),
        )
        .await;
        println!("> {number}.");
        current.version = Version::of(&numbered(number));
    }
}

/// On one thread, because strace counts the calls of each thread separately.
fn change_twice_on_one_thread(folder: &Path) {
    let folder = folder.to_owned();
    let work = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.max_blocking_threads(1).enable_all().build();
        runtime.unwrap().block_on(change_twice(&folder));
    });
    work.join().unwrap();
}

async fn change_twice(folder: &Path) {
    let store = FileStore::new(folder);
    let (first, second) = (numbered(1), numbered(2));
    set(&store, &key(), None, Some(&first)).await;
    let second = store
        .compare_and_set(&key(), Some(&Version::of(&first)), Some(&second))
        .await;
    println!("> {second:?}");
    let loaded = store.load(&key()).await;
    println!(
        "> {}",
        loaded.map_or_else(|error| error.to_string(), |_| "loaded".to_owned())
    );
}
