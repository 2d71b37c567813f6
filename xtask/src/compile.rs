//! What the generated client costs those who compile it: its lines, CPU seconds and peak memory.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Usage, UsageWho, getrusage};

use crate::bench::Row;
use crate::cargo;

const CLIENT: &str = "coze-api-client";

/// The budgets are for a client with all operations of the API.
const CPU_SECONDS: f64 = 12.0;
const PEAK_GIGABYTES: f64 = 1.2;

/// Compiles the client alone, and measures it.
pub(crate) fn rows(root: &Path) -> Result<Vec<Row>> {
    let generated = root.join("generated").join(CLIENT).join("src/generated.rs");
    let text = std::fs::read_to_string(&generated)
        .with_context(|| format!("cannot read {}", generated.display()))?;
    compile(root, &[])?; // its dependencies
    let before = usage()?;
    // Another metadata is another crate: it is compiled, and its dependencies are not.
    let metadata = format!("-Cmetadata=measured-{}", std::process::id());
    compile(root, &["--", &metadata])?;
    let after = usage()?;
    let cpu = cpu(&after).saturating_sub(cpu(&before));
    let peak = f64::from(i32::try_from(after.max_rss())?) / 1024.0 / 1024.0;
    let note = "debug build; the goal is for all operations of the API".to_owned();
    let row = |row: &str, value: f64, unit: &str, goal: Option<f64>| Row {
        row: row.to_owned(),
        value: (value * 100.0).round() / 100.0,
        unit: unit.to_owned(),
        goal: goal.map(|goal| format!("<= {goal}")),
        met: goal.map(|goal| value <= goal),
        note: note.clone(),
    };
    let lines = u32::try_from(text.lines().count())?;
    let operations = u32::try_from(text.matches("impl ::coze_wire::Operation for").count())?;
    Ok(vec![
        row("client: operations", operations.into(), "operations", None),
        row("client: generated", lines.into(), "lines", None),
        row(
            "client: compile",
            cpu.as_secs_f64(),
            "s of CPU",
            Some(CPU_SECONDS),
        ),
        row("client: peak memory", peak, "GiB", Some(PEAK_GIGABYTES)),
    ])
}

fn compile(root: &Path, more: &[&str]) -> Result<()> {
    let mut command = cargo::command();
    command
        .current_dir(root)
        .args(["rustc", "--quiet", "--lib", "--package", CLIENT]);
    let status = command.args(more).status()?;
    ensure!(status.success(), "{CLIENT} does not compile");
    Ok(())
}

/// What all finished child processes used, and theirs.
fn usage() -> Result<Usage> {
    getrusage(UsageWho::RUSAGE_CHILDREN).context("cannot measure child processes")
}

fn cpu(usage: &Usage) -> Duration {
    let micros = [usage.user_time(), usage.system_time()]
        .into_iter()
        .map(|time| {
            let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
            let micros = u64::try_from(time.tv_usec()).unwrap_or_default();
            seconds * 1_000_000 + micros
        })
        .sum();
    Duration::from_micros(micros)
}
