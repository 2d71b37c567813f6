//! Files and folders with too open permissions, and file systems that fail.
//!
//! File modes do not restrict root. So these tests use full or read-only mounts, in a mount namespace that ends with its process, or an
//! unprivileged user. A test that can do neither is skipped, or fails if the variables below are set.

use std::{
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::Path,
    process::Command,
};

use coze_auth::store::StoreErrorKind;

use super::{
    left_out::left_out,
    processes::{Role, assert_passed},
    *,
};

/// If this variable is set, a test that can't mount file systems fails.
const REQUIRED_MOUNTS: &str = "COZE_TESTS_REQUIRE_MOUNTS";
/// If this variable is set, a test that can't use another user fails.
const REQUIRED_USERS: &str = "COZE_TESTS_REQUIRE_USERS";
const NOBODY: u32 = 65534;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// The errors of all operations that write.
async fn failures(store: &FileStore) -> Vec<StoreError> {
    let (key, version) = (key(), Version::of(&contents("first")));
    let new = contents("second");
    vec![
        store.try_lock(&key, &owner(1), TTL).await.unwrap_err(),
        store
            .compare_and_set(&key, None, Some(&new))
            .await
            .unwrap_err(),
        store
            .compare_and_set(&key, Some(&version), Some(&new))
            .await
            .unwrap_err(),
        store
            .compare_and_set(&key, Some(&version), None)
            .await
            .unwrap_err(),
    ]
}

async fn assert_refused(store: &FileStore, says: &[&str]) {
    let mut errors = failures(store).await;
    errors.push(store.load(&key()).await.unwrap_err());
    assert_told(&errors, StoreErrorKind::NotPermitted, says);
}

fn assert_told(errors: &[StoreError], kind: StoreErrorKind, says: &[&str]) {
    for error in errors {
        let text = told(error);
        assert_eq!(error.kind(), kind, "{text}");
        assert!(says.iter().all(|said| text.contains(said)), "{text}");
    }
}

#[tokio::test]
async fn only_the_owner_can_access_created_files() {
    let (place, first) = Place::written().await;
    lock(&place.store, 1).await;
    load(&place.store, &key()).await;
    set(
        &place.store,
        &key(),
        Some(&Version::of(&first)),
        Some(&contents("second")),
    )
    .await;
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(place.store.folder()), 0o700);
    let names = place.names().await;
    assert_eq!(
        names,
        ["clock", "default.change", "default.json", "default.lock"]
    );
    for name in names {
        assert_eq!(mode(&place.store.folder().join(&name)), 0o600, "{name}");
    }
}

#[tokio::test]
async fn too_open_modes_are_refused() {
    for mode in [0o644, 0o640, 0o606, 0o610, 0o666] {
        let (place, first) = Place::written().await;
        let file = place.file("json");
        set_mode(&file, mode);
        let advice = format!("chmod 600 {}", file.display());
        assert_refused(&place.store, &[&format!("mode {mode:04o}"), &advice]).await;
        set_mode(&file, 0o400);
        assert_eq!(held(&place.store, &key()).await, first.expose());
    }
    for mode in [0o755, 0o710, 0o701, 0o1777] {
        let (place, first) = Place::written().await;
        set_mode(place.store.folder(), mode);
        let advice = format!("chmod 700 {}", place.store.folder().display());
        assert_refused(&place.store, &[&format!("mode {mode:04o}"), &advice]).await;
        set_mode(place.store.folder(), 0o700);
        assert_eq!(held(&place.store, &key()).await, first.expose());
    }
}

#[tokio::test]
async fn a_symbolic_link_is_not_followed() {
    let (elsewhere, content) = Place::written().await;
    let target = elsewhere.file("json");

    let (place, _) = Place::written().await;
    fs::remove_file(place.file("json")).unwrap();
    symlink(&target, place.file("json")).unwrap();
    let says = ["default.json is a symbolic link", "put what it points to"];
    assert_refused(&place.store, &says).await;
    assert!(
        fs::symlink_metadata(place.file("json"))
            .unwrap()
            .is_symlink(),
        "the link is not replaced"
    );

    let (dangling, _) = Place::written().await;
    fs::remove_file(dangling.file("json")).unwrap();
    symlink(dangling.file("nowhere"), dangling.file("json")).unwrap();
    assert_refused(&dangling.store, &["symbolic link"]).await;
    assert!(!dangling.file("nowhere").exists());

    let parent = tempfile::tempdir().unwrap();
    let link = parent.path().join("sign-ins");
    symlink(elsewhere.store.folder(), &link).unwrap();
    for path in [link.clone(), link.join("")] {
        let says = ["sign-ins is a symbolic link", "name the folder"];
        assert_refused(&FileStore::new(path), &says).await;
    }

    for ending in ["lock", "change"] {
        let (place, _) = Place::written().await;
        let _ = fs::remove_file(place.file(ending));
        symlink(&target, place.file(ending)).unwrap();
        let error = place
            .store
            .try_lock(&key(), &owner(1), TTL)
            .await
            .unwrap_err();
        assert_told(
            &[error],
            StoreErrorKind::NotPermitted,
            &[ending, "symbolic link"],
        );
    }

    let (place, first) = Place::written().await;
    symlink(&target, place.file("next")).unwrap();
    set(
        &place.store,
        &key(),
        Some(&Version::of(&first)),
        Some(&contents("second")),
    )
    .await;
    assert_eq!(held(&elsewhere.store, &key()).await, content.expose());
}

#[tokio::test]
async fn a_folder_that_is_replaced_by_a_link_is_still_used() {
    let (place, mut current) = Place::written().await;
    let elsewhere = place.parent.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    set_mode(&elsewhere, 0o700);
    let moved = place.parent.path().join("moved");
    fs::rename(place.store.folder(), &moved).unwrap();
    symlink(&elsewhere, place.store.folder()).unwrap();

    // The folder was opened before, and is still used.
    lock(&place.store, 1).await;
    for name in ["second", "third"] {
        let next = contents(name);
        set(
            &place.store,
            &key(),
            Some(&Version::of(&current)),
            Some(&next),
        )
        .await;
        assert_eq!(held(&place.store, &key()).await, next.expose());
        current = next;
    }
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    assert!(moved.join("default.json").exists());
    let says = ["sign-ins is a symbolic link"];
    assert_refused(&FileStore::new(place.store.folder()), &says).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_replaced_during_writes_is_still_used() {
    let (place, _) = Place::written().await;
    let elsewhere = place.parent.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    set_mode(&elsewhere, 0o700);
    let (folder, moved) = (
        place.store.folder().to_owned(),
        place.parent.path().join("moved"),
    );
    let target = elsewhere.clone();
    let swapping = tokio::task::spawn_blocking(move || {
        for _ in 0..300 {
            fs::rename(&folder, &moved).unwrap();
            symlink(&target, &folder).unwrap();
            std::thread::sleep(Duration::from_micros(200));
            fs::remove_file(&folder).unwrap();
            fs::rename(&moved, &folder).unwrap();
            std::thread::sleep(Duration::from_micros(200));
        }
    });
    while !swapping.is_finished() {
        let version = load(&place.store, &key()).await.unwrap().version;
        set(
            &place.store,
            &key(),
            Some(&version),
            Some(&contents("next")),
        )
        .await;
    }
    swapping.await.unwrap();
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[tokio::test]
async fn folders_and_pipes_are_refused_without_blocking() {
    let (place, _) = Place::written().await;
    fs::remove_file(place.file("json")).unwrap();
    fs::create_dir(place.file("json")).unwrap();
    assert_refused(&place.store, &["not a regular file"]).await;

    let pipe = place.store.folder().join("pipe.json");
    let made = Command::new("mkfifo")
        .args(["-m", "600"])
        .arg(&pipe)
        .status();
    assert!(made.unwrap().success(), "every Unix has mkfifo");
    let pipe = Key::record(&Profile::new("pipe").unwrap());
    let load = tokio::time::timeout(Duration::from_secs(5), place.store.load(&pipe));
    let error = load.await.unwrap().unwrap_err();
    assert_told(
        &[error],
        StoreErrorKind::NotPermitted,
        &["not a regular file"],
    );
}

#[tokio::test]
async fn a_file_of_another_user_is_refused() {
    if !is_root() {
        return left_out("only root can change the owner of a file", REQUIRED_USERS);
    }
    let (place, _) = Place::written().await;
    for path in [place.file("json"), place.store.folder().to_owned()] {
        chown(&path, Some(NOBODY), None).unwrap();
        let says = ["belongs to user 65534", "run it as user 65534"];
        assert_refused(&place.store, &says).await;
        chown(&path, Some(0), None).unwrap();
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_created_is_an_error_with_advice() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    for folder in [file.clone(), file.join("sign-ins")] {
        let store = FileStore::new(&folder);
        let says = [folder.to_str().unwrap(), "name another folder"];
        assert_told(&failures(&store).await, StoreErrorKind::Other, &says);
    }
}

#[tokio::test]
async fn a_folder_that_is_removed_while_locked_is_created_again() {
    let (place, first) = Place::written().await;
    lock(&place.store, 1).await;
    fs::remove_dir_all(place.store.folder()).unwrap();
    let second = contents("second");
    let saved = place
        .store
        .compare_and_set(&key(), Some(&Version::of(&first)), Some(&second))
        .await;
    assert_eq!(saved.unwrap(), CompareAndSet::Conflict);
    set(&place.store, &slot(0), None, Some(&second)).await;
    assert_eq!(
        held(&FileStore::new(place.store.folder()), &slot(0)).await,
        second.expose()
    );
    lock(&FileStore::new(place.store.folder()), 2).await;
}

#[test]
fn a_full_disk_loses_nothing() {
    in_mount_namespace(Role::MeetFullDisk);
}

#[test]
fn a_read_only_file_system_can_be_read() {
    in_mount_namespace(Role::MeetReadOnly);
}

#[test]
fn a_file_that_is_a_mount_point_fails_the_intent() {
    in_mount_namespace(Role::MeetMountedFile);
}

#[test]
fn an_immutable_file_fails_the_intent() {
    in_mount_namespace(Role::MeetImmutable);
}

#[test]
fn without_permission_nothing_is_lost() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("place");
    fs::create_dir(&folder).unwrap();
    if !is_root() {
        return assert_passed(&Role::MeetNoPermission.command(&folder).output().unwrap());
    }
    // The other user must be able to read the program.
    let program = parent.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    set_mode(&program, 0o755);
    set_mode(parent.path(), 0o755);
    chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = Command::new("setpriv");
    let user = NOBODY.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"]);
    command.arg(program);
    match Role::MeetNoPermission.of(command, &folder).output() {
        Ok(output) => assert_passed(&output),
        Err(error) => left_out(
            &format!("setpriv can't be started ({error}), and modes do not restrict root"),
            REQUIRED_USERS,
        ),
    }
}

/// Mounts of the child end with it, even if it is killed.
fn in_mount_namespace(role: Role) {
    let parent = tempfile::tempdir().unwrap();
    let unshare = || {
        let mut unshare = Command::new("unshare");
        if !is_root() {
            unshare.arg("--map-root-user");
        }
        unshare.args(["--mount", "--propagation", "private", "--"]);
        unshare
    };
    let mounted = unshare()
        .args(["mount", "-t", "tmpfs", "tmpfs"])
        .arg(parent.path())
        .output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        return left_out("file systems can't be mounted here", REQUIRED_MOUNTS);
    }
    let mut command = unshare();
    command.arg(std::env::current_exe().unwrap());
    assert_passed(&role.of(command, parent.path()).output().unwrap());
}

fn mount(arguments: &[&str], at: &Path) {
    let mounted = Command::new("mount").args(arguments).arg(at).status();
    assert!(mounted.unwrap().success());
}

/// A store on its own file system, with its first value.
async fn mounted(at: &Path, options: &str) -> (FileStore, Contents) {
    mount(&["-t", "tmpfs", "-o", options, "tmpfs"], at);
    let store = FileStore::new(at.join("sign-ins"));
    let first = contents("first");
    set(&store, &key(), None, Some(&first)).await;
    (store, first)
}

/// A failing change. Both the intent before a refresh and the save after it are such changes.
async fn change(store: &FileStore, expected: &Contents) -> StoreError {
    let (version, new) = (Version::of(expected), contents("next"));
    let set = store
        .compare_and_set(&key(), Some(&version), Some(&new))
        .await;
    set.unwrap_err()
}

pub(crate) async fn meet_full_disk(at: &Path) {
    let (store, first) = mounted(at, "size=64k,mode=700").await;
    lock(&store, 1).await;
    let filler = at.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 512]).is_ok() {}
    drop(file);
    let full = ["default.", "No space left on device", "free some space"];
    let create = store.compare_and_set(&slot(0), None, Some(&first)).await;
    let errors = [change(&store, &first).await, create.unwrap_err()];
    assert_told(&errors, StoreErrorKind::Full, &full);
    assert_eq!(held(&store, &key()).await, first.expose());
    let left = fs::read_dir(store.folder()).unwrap();
    let left = left.map(|file| file.unwrap().file_name().into_string().unwrap());
    assert!(left.into_iter().all(|name| !name.ends_with(".next")));
    // A delete needs no space.
    store.unlock(&key(), &owner(1)).await.unwrap();
    lock(&store, 2).await;

    fs::remove_file(filler).unwrap();
    set(
        &store,
        &key(),
        Some(&Version::of(&first)),
        Some(&contents("second")),
    )
    .await;
}

pub(crate) async fn meet_read_only(at: &Path) {
    let (store, first) = mounted(at, "size=1m,mode=700").await;
    let folder = at.to_str().unwrap();
    mount(&["--bind", folder], at);
    mount(&["-o", "remount,bind,ro", folder], at);
    // A new store opens the folder again: the descriptor of the old store belongs to the writable mount.
    let store = FileStore::new(store.folder());
    let mut errors = failures(&store).await;
    errors.extend(failures(&FileStore::new(at.join("other"))).await);
    let says = ["Read-only file system", "name another folder", folder];
    assert_told(&errors, StoreErrorKind::NotPermitted, &says);
    let stored = load(&store, &key()).await.unwrap();
    assert_eq!(stored.contents.expose(), first.expose());
    assert!(stored.age.unwrap() < TTL);
    assert!(load(&store, &slot(0)).await.is_none());
}

pub(crate) async fn meet_mounted_file(at: &Path) {
    let (store, first) = mounted(at, "size=1m,mode=700").await;
    let file = store.folder().join("default.json");
    let elsewhere = at.join("elsewhere");
    fs::copy(&file, &elsewhere).unwrap();
    mount(&["--bind", elsewhere.to_str().unwrap()], &file);
    for _intent_and_save in 0..2 {
        let error = change(&store, &first).await;
        let says = [
            "default.json can't be replaced",
            "mount point",
            "mount its folder",
        ];
        assert_told(&[error], StoreErrorKind::Other, &says);
    }
    assert_eq!(held(&store, &key()).await, first.expose());
}

pub(crate) async fn meet_immutable(at: &Path) {
    let (store, first) = mounted(at, "size=1m,mode=700").await;
    fs::write(store.folder().join("default.next"), "").unwrap();
    for name in ["default.next", "default.json"] {
        let file = store.folder().join(name);
        let immutable = |flag: &str| Command::new("chattr").arg(flag).arg(&file).status();
        if !immutable("+i").is_ok_and(|set| set.success()) {
            println!("> files can't be made immutable here");
            return;
        }
        for _intent_and_save in 0..2 {
            let error = change(&store, &first).await;
            assert_told(
                &[error],
                StoreErrorKind::NotPermitted,
                &[name, "Operation not permitted"],
            );
        }
        assert_eq!(held(&store, &key()).await, first.expose());
        assert!(immutable("-i").unwrap().success());
    }
    // The change that was written is completed.
    lock(&store, 1).await;
    assert_ne!(held(&store, &key()).await, first.expose());
}

pub(crate) async fn meet_no_permission(at: &Path) {
    assert!(!is_root(), "modes do not restrict root");
    let store = FileStore::new(at.join("sign-ins"));
    let first = contents("first");
    set(&store, &key(), None, Some(&first)).await;
    set_mode(store.folder(), 0o500);
    let deeper = FileStore::new(store.folder().join("sign-ins"));
    let mut errors = vec![
        change(&store, &first).await,
        store
            .compare_and_set(&slot(0), None, Some(&first))
            .await
            .unwrap_err(),
        store
            .compare_and_set(&key(), Some(&Version::of(&first)), None)
            .await
            .unwrap_err(),
        store.try_lock(&slot(0), &owner(1), TTL).await.unwrap_err(),
    ];
    errors.extend(failures(&deeper).await);
    let denied = ["Permission denied", "let this user write there", "sign-ins"];
    assert_told(&errors, StoreErrorKind::NotPermitted, &denied);
    assert_eq!(held(&store, &key()).await, first.expose());

    set_mode(store.folder(), 0o700);
    let file = store.folder().join("default.json");
    set_mode(&file, 0o000);
    let error = store.load(&key()).await.unwrap_err();
    assert_told(
        &[error],
        StoreErrorKind::NotPermitted,
        &["Permission denied"],
    );
    set_mode(&file, 0o600);
    set(
        &store,
        &key(),
        Some(&Version::of(&first)),
        Some(&contents("second")),
    )
    .await;
}
