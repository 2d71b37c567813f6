//! Tests that can't run on this machine.

use std::{env, io::Write, thread};

/// Reports that this test is skipped, or fails if the environment variable `unless` is set.
pub(crate) fn left_out(why: &str, unless: &str) {
    assert!(env::var_os(unless).is_none(), "{why}, and {unless} is set");
    skipped(why);
}

/// Writes to standard error directly: the output of `eprintln!` is captured, and only shown if the test fails.
pub(crate) fn skipped(why: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "{test}: skipped: {why}");
}
