//! A confirmed change survives a power failure: checked by the system calls of two changes. Also tests system calls that fail.

use std::{
    path::Path,
    process::{Command, Output},
};

use super::{
    left_out::left_out,
    processes::{Role, assert_passed},
    *,
};

/// If this variable is set, a test that can't trace system calls fails.
const REQUIRED: &str = "COZE_TESTS_REQUIRE_STRACE";

/// Runs two changes under strace; `None` if strace is not available.
fn traced(folder: &Path, options: &[&str]) -> Option<Output> {
    let mut command = Command::new("strace");
    command.args(["--follow-forks", "--string-limit=0", "--decode-fds=path"]);
    command.args(options).arg(std::env::current_exe().unwrap());
    let traced = Role::ChangeTwice.of(command, folder).output();
    match traced {
        Err(error) => left_out(&format!("strace can't be started ({error})"), REQUIRED),
        Ok(traced) => {
            let said = String::from_utf8_lossy(&traced.stderr);
            if !said.contains("PTRACE_TRACEME") && !said.contains("attach: Operation not permitted")
            {
                return Some(traced);
            }
            left_out(&format!("processes can't be traced: {said}"), REQUIRED);
        }
    }
    None
}

#[test]
fn a_change_is_written_synced_renamed_and_its_folder_synced() {
    let place = Place::new();
    let trace = place.parent.path().join("trace");
    let output = format!("--output={}", trace.display());
    let calls = "--trace=write,pwrite64,fsync,fdatasync,rename,renameat,renameat2";
    let Some(traced) = traced(place.store.folder(), &[&output, calls]) else {
        return;
    };
    assert_passed(&traced);
    let trace = fs::read_to_string(trace).unwrap();
    let folder = place.store.folder().to_str().unwrap();
    let steps: Vec<_> = trace
        .lines()
        .filter_map(|line| step(line, folder))
        .collect();
    let change = ["write default.next", "sync default.next", "rename", "sync"];
    assert_eq!(steps, [change, change].concat(), "{trace}");
}

/// One step of a change; `None` for other calls, such as writing the name of a lock's holder.
fn step(call: &str, folder: &str) -> Option<String> {
    let call = call.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
    // strace prints an interrupted call on two lines. The first contains the arguments.
    let (name, arguments) = call.split_once('(')?;
    let file = arguments.split_once('<')?.1.split_once('>')?.0;
    let file = file.strip_prefix(folder)?.trim_start_matches('/');
    match name {
        "write" | "pwrite64" => file.ends_with(".next").then(|| format!("write {file}")),
        "fsync" | "fdatasync" => Some(format!("sync {file}").trim_end().to_owned()),
        // The rename uses the descriptor of the folder.
        "renameat" | "renameat2" => Some("rename".to_owned()),
        _ => None,
    }
}

#[test]
fn a_lock_call_that_a_signal_interrupts_is_retried() {
    // Together they fail two of three calls.
    let inject = "--inject=flock:error=EINTR:when=1+3";
    let inject_next = "--inject=flock:error=EINTR:when=2+3";
    for options in [&[inject][..], &[inject_next]] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("sign-ins");
        let Some(traced) = traced(&folder, options) else {
            return;
        };
        assert_passed(&traced);
        let said = String::from_utf8_lossy(&traced.stderr);
        assert!(said.contains("EINTR"), "{said}");
        let said = String::from_utf8_lossy(&traced.stdout);
        assert!(
            said.contains("> Ok(Done(") && said.contains("> loaded"),
            "{said}"
        );
    }
}

#[test]
fn a_change_that_cannot_be_synced_is_not_confirmed_and_not_loaded() {
    let place = Place::new();
    // Fails the folder's sync of the second change, and that of the load. The parent folders are synced before the first change.
    let trace = place.parent.path().join("trace");
    let output = format!("--output={}", trace.display());
    let inject = [
        "--trace=fsync",
        "--inject=fsync:error=EIO:when=5+1",
        &output,
    ];
    let Some(traced) = traced(place.store.folder(), &inject) else {
        return;
    };
    assert_passed(&traced);
    let trace = fs::read_to_string(trace).unwrap();
    let said = String::from_utf8_lossy(&traced.stdout);
    let synced = "can't be synced to disk";
    let mut said = said.lines().filter_map(|line| line.strip_prefix("> "));
    for _change_and_load in 0..2 {
        let told = said.next().unwrap();
        assert!(told.contains(synced), "{told}\n{trace}");
    }
}
