//! What has been confirmed survives a loss of power: by a trace of the system calls of two changes. And what calls that fail do.

use std::{
    path::Path,
    process::{Command, Output},
};

use super::{
    left_out::left_out,
    processes::{Role, assert_passed},
    *,
};

/// Makes a change that can't be traced a failure.
const REQUIRED: &str = "COZE_TESTS_REQUIRE_STRACE";

/// Runs two changes under strace; `None` if there is none.
fn traced(folder: &Path, options: &[&str]) -> Option<Output> {
    let mut command = Command::new("strace");
    command.args(["--follow-forks", "--string-limit=0", "--decode-fds=path"]);
    command.args(options).arg(std::env::current_exe().unwrap());
    let traced = Role::ChangeTwice.of(command, folder).output();
    match traced {
        Err(error) => left_out(&format!("no strace here ({error})"), REQUIRED),
        Ok(traced) => {
            let said = String::from_utf8_lossy(&traced.stderr);
            if !said.contains("PTRACE_TRACEME") && !said.contains("attach: Operation not permitted")
            {
                return Some(traced);
            }
            left_out(&format!("nothing can be traced here: {said}"), REQUIRED);
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

/// One step of a change, if the call is one. The names of the holders of locks are none.
fn step(call: &str, folder: &str) -> Option<String> {
    let call = call.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
    // A call that another thread interrupts is on two lines; the first has its arguments.
    let (name, arguments) = call.split_once('(')?;
    let file = arguments.split_once('<')?.1.split_once('>')?.0;
    let file = file.strip_prefix(folder)?.trim_start_matches('/');
    match name {
        "write" | "pwrite64" => file.ends_with(".next").then(|| format!("write {file}")),
        "fsync" | "fdatasync" => Some(format!("sync {file}").trim_end().to_owned()),
        // A rename by the descriptor of the folder.
        "renameat" | "renameat2" => Some("rename".to_owned()),
        _ => None,
    }
}

#[test]
fn a_lock_that_a_signal_interrupts_is_taken() {
    // Two in three calls.
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
fn what_cannot_be_made_durable_is_not_confirmed_and_not_loaded() {
    let place = Place::new();
    // Of the second change: its folder, and again for the load. The parents' folders come before the first.
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
