//! What a test says that can't run on this machine.

use std::{env, io::Write, thread};

/// Says why this test is left out; or fails, because the variable `unless` is set.
pub(crate) fn left_out(why: &str, unless: &str) {
    assert!(env::var_os(unless).is_none(), "{why}, and {unless} is set");
    skipped(why);
}

/// Says it on standard error, past the capture of test output: what `eprintln!` prints is shown of tests that fail only.
pub(crate) fn skipped(why: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "{test}: skipped: {why}");
}
