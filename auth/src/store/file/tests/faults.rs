//! Exposed files, other processes, and file systems that fail.
//!
//! Root ignores modes, so what binds it too is used (a full or read-only mount, in a mount namespace that ends with
//! its process), or an unprivileged user. A test that can't bind says that it was skipped; with the variables below it fails.

#![cfg(unix)]

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Write},
    os::unix::fs::{PermissionsExt, chown, symlink},
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use super::left_out::{left_out, skipped};
use super::*;

/// Makes a machine on which nothing can be mounted a failure.
const REQUIRED_MOUNTS: &str = "COZE_TESTS_REQUIRE_MOUNTS";
/// Makes one a failure on which nothing can be given to, or run by, another user.
const REQUIRED_USERS: &str = "COZE_TESTS_REQUIRE_USERS";

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Every way in, and what each says.
async fn refusals(store: &FileStore) -> Vec<Error> {
    vec![
        store.load(&profile()).await.unwrap_err(),
        store.lease(&profile(), HOLD).await.unwrap_err(),
        store.put(&profile(), &record("rt_1")).await.unwrap_err(),
        store
            .save(&profile(), &token("rt_0"), &record("rt_1"))
            .await
            .unwrap_err(),
        store.remove(&profile(), &record("rt_0")).await.unwrap_err(),
    ]
}

fn assert_exposed(errors: &[Error], says: &[&str]) {
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::StoreExposed, "{error}");
        let text = told(error);
        assert!(says.iter().all(|said| text.contains(said)), "{text}");
    }
}

#[tokio::test]
async fn a_looser_mode_is_refused() {
    for mode in [0o644, 0o640, 0o606, 0o610, 0o666] {
        let place = Place::signed_in().await;
        let file = place.file("json");
        set_mode(&file, mode);
        let found = format!("mode {mode:04o}");
        let advice = format!("chmod 600 {}", file.display());
        assert_exposed(&refusals(&place.store).await, &[&found, &advice]);

        set_mode(&file, 0o400);
        assert_eq!(place.stored().await.unwrap(), "rt_0");
        assert!(place.aside().is_empty());
    }
    for mode in [0o755, 0o710, 0o701, 0o1777] {
        let place = Place::signed_in().await;
        set_mode(place.store.folder(), mode);
        let found = format!("mode {mode:04o}");
        let advice = format!("chmod 700 {}", place.store.folder().display());
        assert_exposed(&refusals(&place.store).await, &[&found, &advice]);

        set_mode(place.store.folder(), 0o700);
        assert_eq!(place.stored().await.unwrap(), "rt_0");
    }
}

#[tokio::test]
async fn a_symbolic_link_is_not_followed() {
    let elsewhere = Place::signed_in().await;
    let target = elsewhere.file("json");
    let content = fs::read(&target).unwrap();

    let place = Place::signed_in().await;
    fs::remove_file(place.file("json")).unwrap();
    symlink(&target, place.file("json")).unwrap();
    let says = ["default.json is a symbolic link", "put what it points to"];
    assert_exposed(&refusals(&place.store).await, &says);
    assert!(is_symlink(&place.file("json")), "it stays");

    let dangling = Place::signed_in().await;
    fs::remove_file(dangling.file("json")).unwrap();
    symlink(dangling.file("nowhere"), dangling.file("json")).unwrap();
    assert_exposed(&refusals(&dangling.store).await, &["symbolic link"]);
    assert!(!dangling.file("nowhere").exists());

    let parent = tempfile::tempdir().unwrap();
    let link = parent.path().join("sign-ins");
    symlink(elsewhere.store.folder(), &link).unwrap();
    for path in [link.clone(), link.join("")] {
        let store = FileStore::new(path);
        assert_exposed(
            &refusals(&store).await,
            &["sign-ins is a symbolic link", "name the folder"],
        );
    }

    for ending in ["lease", "lock"] {
        let place = Place::signed_in().await;
        let _ = fs::remove_file(place.file(ending));
        symlink(&target, place.file(ending)).unwrap();
        let error = place.store.lease(&profile(), HOLD).await.unwrap_err();
        assert_exposed(&[error], &[ending, "symbolic link"]);
    }

    let place = Place::signed_in().await;
    symlink(&target, place.file("next")).unwrap();
    symlink(&target, place.file("proof")).unwrap();
    place
        .lease()
        .await
        .prove_save(&record("rt_0"))
        .await
        .unwrap();
    let saved = place
        .store
        .save(&profile(), &token("rt_0"), &record("rt_1"))
        .await;
    assert!(
        matches!(saved.unwrap(), Saved::Saved),
        "the link is replaced"
    );
    assert_eq!(place.stored().await.unwrap(), "rt_1");
    assert_eq!(fs::read(&target).unwrap(), content);
}

fn is_symlink(path: &Path) -> bool {
    fs::symlink_metadata(path).unwrap().is_symlink()
}

#[tokio::test]
async fn what_is_no_file_is_refused_and_not_waited_for() {
    let place = Place::signed_in().await;
    fs::remove_file(place.file("json")).unwrap();
    fs::create_dir(place.file("json")).unwrap();
    assert_exposed(&refusals(&place.store).await, &["no regular file"]);

    let pipe = place.store.folder().join("pipe.json");
    let made = Command::new("mkfifo")
        .args(["-m", "600"])
        .arg(&pipe)
        .status();
    assert!(made.unwrap().success(), "every Unix has mkfifo");
    let profile = Profile::new("pipe").unwrap();
    let load = tokio::time::timeout(Duration::from_secs(5), place.store.load(&profile));
    assert_exposed(&[load.await.unwrap().unwrap_err()], &["no regular file"]);
}

#[tokio::test]
async fn a_file_of_another_user_is_refused() {
    if !is_root() {
        return left_out("only root gives files away", REQUIRED_USERS);
    }
    let place = Place::signed_in().await;
    for path in [place.file("json"), place.store.folder().to_owned()] {
        chown(&path, Some(NOBODY), None).unwrap();
        let says = ["belongs to user 65534", "run it as user 65534"];
        assert_exposed(&refusals(&place.store).await, &says);
        chown(&path, Some(0), None).unwrap();
    }
}

#[tokio::test]
async fn a_missing_folder_that_cannot_be_made_is_told() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    for folder in [file.clone(), file.join("sign-ins")] {
        let store = FileStore::new(&folder);
        for error in refusals(&store).await {
            assert_eq!(error.kind(), ErrorKind::Store);
            let text = told(&error);
            assert!(text.contains(folder.to_str().unwrap()), "{text}");
            assert!(text.contains("name another folder"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_folder_that_vanishes_under_a_lease_is_made_again() {
    let place = Place::signed_in().await;
    let lease = place.lease().await;
    fs::remove_dir_all(place.store.folder()).unwrap();
    let error = lease.prove_save(&record("rt_0")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreBusy, "the lease is lost");
    let saved = place
        .store
        .save(&profile(), &token("rt_0"), &record("rt_1"))
        .await;
    assert!(matches!(saved.unwrap(), Saved::MovedOn(None)));
    assert_eq!(place.aside().len(), 1, "the successor is not lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_saves_for_one_refresh_token_one_is_stored() {
    let place = Place::signed_in().await;
    let saves = (0..8).map(|n| {
        let store = FileStore::new(place.store.folder());
        tokio::spawn(async move {
            let next = record(&format!("rt_{n}_next"));
            let saved = store.save(&profile(), &token("rt_0"), &next).await.unwrap();
            matches!(saved, Saved::Saved).then(|| next.refresh_token().clone())
        })
    });
    let mut winners = Vec::new();
    for save in saves.collect::<Vec<_>>() {
        winners.extend(save.await.unwrap());
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(place.stored().await.unwrap(), winners[0].expose());
    assert_eq!(place.aside().len(), 7);
}

#[tokio::test]
async fn a_lease_ends_with_a_killed_process_and_saves_do_not_wait_for_a_stopped_one() {
    let place = Place::signed_in().await;
    let (mut child, mut says) = Role::HoldLease.begin(place.store.folder());
    assert_eq!(line(&mut says), "holding");
    signal(&child, "STOP");
    let held = place.store.lease(&profile(), HOLD).await.unwrap();
    match held {
        Leasing::Held { by } => assert_eq!(by, Some(format!("process {}", child.id()))),
        got => panic!("{got:?}"),
    }
    let saved = place
        .store
        .save(&profile(), &token("rt_0"), &record("rt_1"))
        .await;
    assert!(matches!(saved.unwrap(), Saved::Saved));

    child.kill().unwrap();
    child.wait().unwrap();
    drop(place.lease().await);
}

#[tokio::test]
async fn a_process_that_is_stuck_in_a_change_is_named() {
    let place = Place::signed_in().await;
    let (mut child, mut says) = Role::HoldTurn.begin(place.store.folder());
    assert_eq!(line(&mut says), "holding");
    let began = std::time::Instant::now();
    let store = &place.store;
    let redeemed = token("rt_0");
    let next = record("rt_1");
    let profile = profile();
    let (save, lease) = tokio::join!(
        store.save(&profile, &redeemed, &next),
        store.lease(&profile, HOLD)
    );
    for error in [save.unwrap_err(), lease.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::StoreBusy);
        let text = told(&error);
        assert!(text.contains(&format!("process {} ", child.id())), "{text}");
        assert!(text.contains("default.lock"), "{text}");
    }
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(
        place.stored().await.unwrap(),
        "rt_0",
        "a load does not wait"
    );

    child.kill().unwrap();
    child.wait().unwrap();
    let saved = store.save(&profile, &redeemed, &next).await;
    assert!(matches!(saved.unwrap(), Saved::Saved));
    drop(place.lease().await);
}

#[tokio::test]
async fn a_child_process_does_not_inherit_a_lease() {
    let place = Place::signed_in().await;
    let lease = place.lease().await;
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    drop(lease);
    drop(place.lease().await);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn what_a_killed_process_has_said_to_be_saved_is_there() {
    let place = Place::signed_in().await;
    let mut saved_at_least = 0;
    for round in 0..20 {
        let (mut child, mut says) = Role::SaveAndSave.begin(place.store.folder());
        let first = line(&mut says);
        assert!(first.parse::<u64>().unwrap() > saved_at_least, "{first}");
        std::thread::sleep(Duration::from_micros(round * 1700));
        child.kill().unwrap();
        child.wait().unwrap();
        let said: Vec<_> = says.lines().map_while(Result::ok).collect();
        // The last line may be cut.
        let whole = said
            .iter()
            .rev()
            .find_map(|line| said_in(line)?.strip_suffix('.'));
        let last = whole.unwrap_or(&first);
        saved_at_least = last.parse().unwrap();

        drop(place.lease().await);
        let stored = place.stored().await.unwrap();
        let stored: u64 = stored.trim_start_matches("rt_").parse().unwrap();
        assert!(stored >= saved_at_least, "{stored} {saved_at_least}");
        assert!(stored <= saved_at_least + 1, "{stored} {saved_at_least}");
        saved_at_least = stored;
    }
    assert!(place.aside().is_empty());
}

#[test]
fn the_default_folder_is_the_platforms() {
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

#[test]
fn a_full_disk_loses_nothing() {
    Role::MeetFullDisk.play_in_mount_namespace();
}

#[test]
fn a_read_only_file_system_can_be_read() {
    Role::MeetReadOnly.play_in_mount_namespace();
}

#[test]
fn a_file_that_is_mounted_by_itself_is_told_before_a_refresh() {
    Role::MeetMountedFile.play_in_mount_namespace();
}

#[test]
fn without_permission_nothing_is_lost() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("place");
    fs::create_dir(&folder).unwrap();
    if !is_root() {
        return assert_passed(&Role::MeetNoPermission.command(&folder).output().unwrap());
    }
    // That user must be able to read the program.
    let program = parent.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    set_mode(&program, 0o755);
    set_mode(parent.path(), 0o755);
    chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = Command::new("setpriv");
    let user = NOBODY.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"]);
    command.arg(program);
    match Role::MeetNoPermission.of(&mut command, &folder).output() {
        Ok(output) => assert_passed(&output),
        Err(error) => left_out(
            &format!("no setpriv here ({error}), and root ignores modes"),
            REQUIRED_USERS,
        ),
    }
}

const NOBODY: u32 = 65534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
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

/// The test harness of the child talks too.
fn said_in(line: &str) -> Option<&str> {
    line.split_once("> ").map(|(_, said)| said)
}

fn assert_passed(output: &Output) {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains("1 passed"), "{out}{err}");
}

const ROLE: &str = "COZE_FILE_STORE_ROLE";
const FOLDER: &str = "COZE_FILE_STORE_FOLDER";

/// What a child process does: this test program, started anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    HoldLease,
    HoldTurn,
    SaveAndSave,
    TellDefaultFolder,
    MeetFullDisk,
    MeetReadOnly,
    MeetMountedFile,
    MeetNoPermission,
}

impl Role {
    const ALL: [Self; 8] = [
        Self::HoldLease,
        Self::HoldTurn,
        Self::SaveAndSave,
        Self::TellDefaultFolder,
        Self::MeetFullDisk,
        Self::MeetReadOnly,
        Self::MeetMountedFile,
        Self::MeetNoPermission,
    ];

    fn command(self, folder: &Path) -> Command {
        self.of(&mut Command::new(std::env::current_exe().unwrap()), folder)
    }

    /// `program` ends with the test program.
    fn of(self, program: &mut Command, folder: &Path) -> Command {
        let mut command = Command::new(program.get_program());
        let arguments: Vec<OsString> = program.get_args().map(ToOwned::to_owned).collect();
        command.args(arguments).args([
            "--exact",
            "store::file::tests::faults::child",
            "--ignored",
            "--nocapture",
        ]);
        command.env(ROLE, format!("{self:?}")).env(FOLDER, folder);
        command
    }

    fn begin(self, folder: &Path) -> (Child, BufReader<ChildStdout>) {
        let mut command = self.command(folder);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let says = BufReader::new(child.stdout.take().unwrap());
        (child, says)
    }

    /// In a namespace of its own: what the child mounts is gone when it ends, however it ends.
    fn play_in_mount_namespace(self) {
        let parent = tempfile::tempdir().unwrap();
        let namespace: &[_] = if is_root() {
            &["--mount"]
        } else {
            &["--map-root-user", "--mount"]
        };
        let unshare = || {
            let mut unshare = Command::new("unshare");
            unshare
                .args(namespace)
                .args(["--propagation", "private", "--"]);
            unshare
        };
        let mounted = unshare()
            .args(["mount", "-t", "tmpfs", "tmpfs"])
            .arg(parent.path())
            .output();
        if !mounted.is_ok_and(|mounted| mounted.status.success()) {
            return left_out("nothing can be mounted here", REQUIRED_MOUNTS);
        }
        let program = std::env::current_exe().unwrap();
        let output = self
            .of(unshare().arg(program), parent.path())
            .output()
            .unwrap();
        assert_passed(&output);
    }
}

#[tokio::test]
#[ignore = "what a child process of other tests does"]
async fn child() {
    let (Ok(role), Some(folder)) = (std::env::var(ROLE), std::env::var_os(FOLDER)) else {
        return skipped("this is started by other tests");
    };
    let folder = PathBuf::from(folder);
    let role = Role::ALL
        .into_iter()
        .find(|known| format!("{known:?}") == role);
    match role.unwrap() {
        Role::HoldLease => hold_lease(&folder).await,
        Role::HoldTurn => hold_turn(&folder).await,
        Role::SaveAndSave => save_and_save(&folder).await,
        Role::TellDefaultFolder => {
            let store = FileStore::in_default_folder("my-program").unwrap();
            println!("> {}", store.folder().display());
        }
        Role::MeetFullDisk => meet_full_disk(&folder).await,
        Role::MeetReadOnly => meet_read_only(&folder).await,
        Role::MeetMountedFile => meet_mounted_file(&folder).await,
        Role::MeetNoPermission => meet_no_permission(&folder).await,
    }
}

async fn hold_lease(folder: &Path) {
    let store = FileStore::new(folder);
    let _lease = got(&store).await;
    println!("> holding");
    std::thread::sleep(HOLD);
}

async fn hold_turn(folder: &Path) {
    let _turn = crate::store::lock::Lock::try_take(&Folder::new(folder.into()), "default.lock");
    println!("> holding");
    std::thread::sleep(HOLD);
}

async fn save_and_save(folder: &Path) {
    let store = FileStore::new(folder);
    let lease = got(&store).await;
    let mut current = store.load(&profile()).await.unwrap().unwrap().record;
    loop {
        let refresh_token = current.refresh_token().expose().to_owned();
        let generation: u64 = refresh_token.trim_start_matches("rt_").parse().unwrap();
        let next = successor(&refresh_token, &format!("rt_{}", generation + 1));
        let saved = store.save(&profile(), current.refresh_token(), &next).await;
        assert!(matches!(saved.unwrap(), Saved::Saved));
        println!("> {}.", generation + 1);
        current = next;
        lease.prove_save(&current).await.unwrap();
    }
}

/// In a mount of its own.
async fn mounted(at: &Path, options: &str) -> FileStore {
    mount(&["-t", "tmpfs", "-o", options, "tmpfs"], at);
    let store = FileStore::new(at.join("sign-ins"));
    store.put(&profile(), &record("rt_0")).await.unwrap();
    store
}

fn mount(arguments: &[&str], at: &Path) {
    let mounted = Command::new("mount")
        .args(arguments)
        .arg(at)
        .status()
        .unwrap();
    assert!(mounted.success());
}

async fn got(store: &FileStore) -> Box<dyn Lease> {
    match store.lease(&profile(), HOLD).await.unwrap() {
        Leasing::Got(lease) => lease,
        held => panic!("{held:?}"),
    }
}

async fn holds(store: &FileStore) -> String {
    let stored = store.load(&profile()).await.unwrap().unwrap();
    stored.record.refresh_token().expose().to_owned()
}

fn assert_told(error: &Error, says: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::Store, "{error}");
    let text = told(error);
    assert!(says.iter().all(|said| text.contains(said)), "{text}");
}

async fn meet_full_disk(at: &Path) {
    let store = mounted(at, "size=64k,mode=700").await;
    let lease = got(&store).await;
    lease.prove_save(&record("rt_0")).await.unwrap();

    let filler = at.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 512]).is_ok() {}
    drop(file);
    let full = ["default.", "No space left on device", "free some space"];
    let next = successor("rt_0", "rt_1");
    let redeemed = token("rt_0");
    for error in [
        lease.prove_save(&record("rt_0")).await.unwrap_err(),
        store.save(&profile(), &redeemed, &next).await.unwrap_err(),
        store.put(&profile(), &record("rt_new")).await.unwrap_err(),
        store
            .save(&profile(), &token("rt_gone"), &next)
            .await
            .unwrap_err(),
    ] {
        assert_told(&error, &full);
    }
    assert_eq!(holds(&store).await, "rt_0");
    let left = fs::read_dir(store.folder()).unwrap().count();
    assert_eq!(left, 3, "json, lease and lock");
    lease.release().await.unwrap();
    let lease = got(&store).await;

    fs::remove_file(filler).unwrap();
    lease.prove_save(&record("rt_0")).await.unwrap();
    let saved = store.save(&profile(), &redeemed, &next).await;
    assert!(matches!(saved.unwrap(), Saved::Saved));
    assert_eq!(holds(&store).await, "rt_1");
}

async fn meet_read_only(at: &Path) {
    let store = mounted(at, "size=1m,mode=700").await;
    let lease = got(&store).await;
    let folder = at.to_str().unwrap();
    mount(&["--bind", folder], at);
    mount(&["-o", "remount,bind,ro", folder], at);
    let next = successor("rt_0", "rt_1");
    let new = Profile::new("new").unwrap();
    for error in [
        lease.prove_save(&record("rt_0")).await.unwrap_err(),
        store.lease(&profile(), HOLD).await.unwrap_err(),
        store
            .save(&profile(), &token("rt_0"), &next)
            .await
            .unwrap_err(),
        store.put(&profile(), &next).await.unwrap_err(),
        store.lease(&new, HOLD).await.unwrap_err(),
        FileStore::new(at.join("other"))
            .lease(&new, HOLD)
            .await
            .unwrap_err(),
    ] {
        assert_told(
            &error,
            &["Read-only file system", "name another folder", folder],
        );
    }
    assert_eq!(holds(&store).await, "rt_0");
    assert!(store.load(&new).await.unwrap().is_none());
}

async fn meet_mounted_file(at: &Path) {
    let store = mounted(at, "size=1m,mode=700").await;
    let lease = got(&store).await;
    let file = store.folder().join("default.json");
    let elsewhere = at.join("elsewhere");
    fs::copy(&file, &elsewhere).unwrap();
    mount(&["--bind", elsewhere.to_str().unwrap()], &file);
    let error = lease.prove_save(&record("rt_0")).await.unwrap_err();
    assert_told(&error, &["mounted by itself", "mount its folder"]);
    let saved = store
        .save(&profile(), &token("rt_0"), &record("rt_1"))
        .await;
    assert_told(&saved.unwrap_err(), &["default.json can't be replaced"]);
    assert_eq!(holds(&store).await, "rt_0");
}

async fn meet_no_permission(at: &Path) {
    assert!(!is_root(), "root ignores modes");
    let store = FileStore::new(at.join("sign-ins"));
    store.put(&profile(), &record("rt_0")).await.unwrap();
    let lease = got(&store).await;
    let next = successor("rt_0", "rt_1");
    let denied = ["Permission denied", "let this user write there", "sign-ins"];

    set_mode(store.folder(), 0o500);
    for error in [
        lease.prove_save(&record("rt_0")).await.unwrap_err(),
        store
            .save(&profile(), &token("rt_0"), &next)
            .await
            .unwrap_err(),
        store.put(&profile(), &next).await.unwrap_err(),
        store.remove(&profile(), &record("rt_0")).await.unwrap_err(),
        store
            .lease(&Profile::new("new").unwrap(), HOLD)
            .await
            .unwrap_err(),
        FileStore::new(store.folder().join("sign-ins"))
            .lease(&profile(), HOLD)
            .await
            .unwrap_err(),
    ] {
        assert_told(&error, &denied);
    }
    assert_eq!(holds(&store).await, "rt_0");

    set_mode(store.folder(), 0o700);
    set_mode(&store.folder().join("default.json"), 0o000);
    assert_told(
        &store.load(&profile()).await.unwrap_err(),
        &["Permission denied"],
    );
    set_mode(&store.folder().join("default.json"), 0o600);

    lease.prove_save(&record("rt_0")).await.unwrap();
    let saved = store.save(&profile(), &token("rt_0"), &next).await;
    assert!(matches!(saved.unwrap(), Saved::Saved));
}
