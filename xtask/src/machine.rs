//! The machine and the commit of a measurement.

use std::path::Path;
use std::process::Command;

/// Processor, cores, system.
pub(crate) fn name() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let processor = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        })
        .unwrap_or_else(|| "unknown processor".to_owned());
    format!(
        "{processor}, {cores} cores, {} {}",
        std::env::consts::OS,
        std::env::consts::ARCH
    )
}

pub(crate) fn date() -> String {
    said_by("date", &["-u", "+%F"])
}

pub(crate) fn compiler() -> String {
    said_by("rustc", &["--version"])
}

/// The current commit, with a plus sign if there are uncommitted changes outside of `written`.
/// `None` without git, or outside of a working tree.
pub(crate) fn commit(root: &Path, written: &[&str]) -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(root)
            .args(arguments)
            .output()
            .ok()?;
        let said = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| said.trim().to_owned())
    };
    let hash = git(&["rev-parse", "--short", "HEAD"])?;
    let but: Vec<_> = written
        .iter()
        .map(|path| format!(":(exclude){path}"))
        .collect();
    let mut status = vec!["status", "--porcelain", "--", "."];
    status.extend(but.iter().map(String::as_str));
    let mark = if git(&status)?.is_empty() { "" } else { "+" };
    Some(format!("{hash}{mark}"))
}

/// The output of a program.
pub(crate) fn said_by(program: &str, arguments: &[&str]) -> String {
    Command::new(program)
        .args(arguments)
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "unknown".to_owned(), |said| said.trim().to_owned())
}
