//! What has been said to be saved survives a loss of power: by a trace of the system calls of one save.

#![cfg(target_os = "linux")]

use std::{collections::HashMap, fs, path::PathBuf, process::Command};

use crate::left_out::left_out;

/// One step of a change of the folder, in the order of the trace.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Write(String),
    Sync(String),
    Rename(String, String),
}

/// Makes a save that can't be traced a failure.
const REQUIRED: &str = "COZE_TESTS_REQUIRE_STRACE";

#[test]
fn a_save_is_written_synced_renamed_and_its_folder_synced() {
    let Some(program) = one_save() else {
        return left_out("the example one-save of coze-tests is not built", REQUIRED);
    };
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("sign-ins");
    let trace = place.path().join("trace");
    let traced = Command::new("strace")
        .args(["--follow-forks", "--string-limit=0", "--output"])
        .arg(&trace)
        .arg("--trace=openat,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,close")
        .arg(program)
        .arg(&folder)
        .output();
    let traced = match traced {
        Ok(traced) => traced,
        Err(error) => return left_out(&format!("no strace here ({error})"), REQUIRED),
    };
    let said = String::from_utf8_lossy(&traced.stderr);
    if said.contains("PTRACE_TRACEME") || said.contains("Operation not permitted") {
        return left_out(&format!("nothing can be traced here: {said}"), REQUIRED);
    }
    assert!(traced.status.success(), "{said}");

    let trace = fs::read_to_string(trace).unwrap();
    let folder = folder.to_str().unwrap();
    let file = |ending: &str| format!("{folder}/default.{ending}");
    // The proof and the names of the owners of locks are no part of it.
    let steps: Vec<_> = steps(&trace)
        .into_iter()
        .filter(|step| match step {
            Step::Write(path) | Step::Sync(path) => *path == file("next") || path == folder,
            Step::Rename(..) => true,
        })
        .collect();
    let one_change = || {
        [
            Step::Write(file("next")),
            Step::Sync(file("next")),
            Step::Rename(file("next"), file("json")),
            Step::Sync(folder.to_owned()),
        ]
    };
    let put_and_save: Vec<_> = one_change().into_iter().chain(one_change()).collect();
    assert_eq!(steps, put_and_save, "{trace}");
}

/// Beside this test program, where cargo builds examples.
fn one_save() -> Option<PathBuf> {
    let tests = std::env::current_exe().ok()?;
    let program = tests.parent()?.parent()?.join("examples/one-save");
    program.exists().then_some(program)
}

/// The steps that succeeded, with paths for the numbers of open files.
fn steps(trace: &str) -> Vec<Step> {
    let mut open = HashMap::new();
    let mut steps = Vec::new();
    for line in whole_calls(trace) {
        let Some((name, arguments, result)) = parts(&line) else {
            continue;
        };
        if result.starts_with('-') {
            continue;
        }
        let quoted: Vec<_> = arguments.split('"').skip(1).step_by(2).collect();
        let first = arguments.split(',').next().unwrap_or_default();
        let path = || open.get(first).cloned().unwrap_or_default();
        match name {
            "openat" => drop(open.insert(result.to_owned(), quoted[0].to_owned())),
            "close" => drop(open.remove(first)),
            "write" | "pwrite64" => steps.push(Step::Write(path())),
            "fsync" | "fdatasync" => steps.push(Step::Sync(path())),
            "rename" | "renameat" | "renameat2" => {
                steps.push(Step::Rename(quoted[0].to_owned(), quoted[1].to_owned()));
            }
            other => panic!("{other}"),
        }
    }
    steps
}

/// The calls in the order in which they ended. One that was interrupted by another thread's is on two lines.
fn whole_calls(trace: &str) -> Vec<String> {
    let mut begun = HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let (thread, call) = line.split_once(' ').unwrap();
        let call = call.trim_start();
        if let Some(beginning) = call.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, beginning);
        } else if let Some((_, end)) = call.split_once(" resumed>") {
            calls.push(format!("{}{end}", begun.remove(thread).unwrap()));
        } else {
            calls.push(call.to_owned());
        }
    }
    calls
}

/// `name(arguments) = result …`
fn parts(call: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = call.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let arguments = arguments.trim_end().strip_suffix(')')?;
    Some((name, arguments, result.split(' ').next()?))
}
