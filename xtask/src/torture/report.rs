//! `benches/TORTURE.md`: every kept run, compared with a plain JSON file.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// The runs in a folder, grouped by test and options.
pub(super) fn read(folder: &Path) -> Result<Vec<Value>> {
    let cannot = || format!("cannot read {}", folder.display());
    let mut runs = Vec::new();
    if !folder.is_dir() {
        return Ok(runs);
    }
    for entry in std::fs::read_dir(folder).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let text = std::fs::read_to_string(&path).with_context(cannot)?;
            let run: Value = serde_json::from_str(&text)
                .with_context(|| format!("the run in {}", path.display()))?;
            runs.push(run);
        }
    }
    runs.sort_by_key(|run| (options(run), store_order(run)));
    Ok(runs)
}

fn store_order(run: &Value) -> usize {
    let stores = ["file", "redis", "plain"];
    stores
        .iter()
        .position(|store| run["store"] == *store)
        .unwrap_or(stores.len())
}

pub(super) fn render(runs: &[Value]) -> String {
    let of =
        |show: &str| -> Vec<&Value> { runs.iter().filter(|run| run["show"] == show).collect() };
    let mut out = String::from(
        "# Torture\n\n\
         Written by `cargo xtask torture` from the files in [torture/](torture), one for each run. What was lost is decided \
         by the ledger of the mock, a separate process. *plain* is a JSON file without lock or compare, as in most programs, \
         with the same provider.\n\n",
    );
    let has_changes = |run: &Value| text(&run["on"]["commit"]).ends_with('+');
    if runs.iter().any(has_changes) {
        out.push_str("A plus sign after a commit: with uncommitted changes.\n\n");
    }
    for line in conditions(runs) {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "- {line}");
    }
    out.push_str(&table("Race", RACE, RACE_COLUMNS, &of("race")));
    out.push_str(&table("Crash", CRASH, CRASH_COLUMNS, &of("crash")));
    out
}

const RACE: &str = "Each process requests the token of one sign-in every 20 to 80 ms, and calls the API with it every 250 to 1,000 ms. \
    A quarter of them refreshes on demand, like one-shot programs; the others refresh in the background. *Refreshed before the expiry* is how \
    long before the access token's expiry its successor was issued: earliest, median, latest. None may be earlier than the refresh window, \
    so the earliest limit is *1.25 x lifetime / 5 + lifetime / 50 + 50 ms*: the window is a fifth of the token's lifetime, times 1.25 \
    for the replica with the largest jitter; the expiry margin is a fiftieth of the lifetime; and 50 ms are allowed for rounding and \
    network latency. With clock skew, replicas use the server's `Date`, with a resolution of one second, and \
    the duration of the request: 1,250 ms more. The limit shown is that of the token with the longest lifetime; each refresh is checked \
    against its own. None may be later than the expiry. After a loss the user signs in again, so that the run continues. The plain \
    store is used by the same provider, which loads the record again before it accepts `invalid_grant`. So most refusals are harmless \
    unless the server revokes the family; a program that accepts the first refusal loses the sign-in each time. A refused token is one \
    that the API did not accept (after a refresh that revokes the old one); all others were replaced by one more request.";

const CRASH: &str = "A process that refreshes as fast as possible is killed (SIGKILL) at a random time during its first three refreshes. \
    Then a new owner acquires the lock, and the store is compared with the ledger. *In the window*: the server had committed, \
    and the process was killed before its save; no client can avoid that, and the user must sign in again. The width of the window is calculated \
    from undisturbed refreshes (the latency of the response plus the save), and observed: the share of kills in it, multiplied by \
    the time per refresh. *Completed by the next owner*: a record that the killed process had written and not put in place, \
    which saved the sign-in: with files, the window ends before the save does. \
    *In quarantine*: the current refresh token is not in the record but in a quarantine slot of the profile. Everything else would be a defect: a file that is unreadable, missing, older, \
    or contains tokens that were never issued; a valid sign-in that is marked as ended; a process that cannot refresh a valid sign-in.";

type Column = (&'static str, fn(&Value) -> String);

const RACE_COLUMNS: &[Column] = &[
    ("store", |run| text(&run["store"])),
    ("options", options),
    ("processes", |run| text(&run["processes"])),
    ("seconds", |run| text(&run["seconds"])),
    ("refreshes", |run| text(&run["refreshes"])),
    ("tokens handed out", |run| text(&run["tokens_handed_out"])),
    ("sent twice", |run| text(&run["reused"])),
    ("refused (`invalid_grant`)", |run| {
        total(&run["refused_refreshes"])
    }),
    ("breaks in the chain", |run| text(&run["broken_chains"])),
    ("lost sign-ins", |run| total(&run["lost"])),
    ("unreadable, of reads", |run| {
        let unreadable = sum(&run["unreadable"]) + run["missing"].as_u64().unwrap_or(0);
        format!("{unreadable} of {}", text(&run["reads_of_store"]))
    }),
    ("refreshed before the expiry, ms", |run| {
        let lead = &run["lead_ms"];
        format!(
            "{}, {}, {}",
            text(&lead["earliest"]),
            text(&lead["median"]),
            text(&lead["latest"])
        )
    }),
    ("at most", |run| text(&run["lead_at_most_ms"])),
    ("outside", |run| {
        let count = |of: &str| run[of].as_u64().unwrap_or(0);
        (count("early") + count("late")).to_string()
    }),
    ("tokens refused, and refused twice", |run| {
        format!(
            "{}, {}",
            text(&run["api_refused"]),
            text(&run["refused_twice"])
        )
    }),
    ("errors", |run| total(&run["errors"])),
    ("slowest wait, ms", |run| text(&run["slowest_wait_ms"])),
    ("lives on", |run| {
        if run["survives"] == true {
            "yes"
        } else {
            "**no**"
        }
        .to_owned()
    }),
    ("verdict", verdict),
];

const CRASH_COLUMNS: &[Column] = &[
    ("store", |run| text(&run["store"])),
    ("options", options),
    ("kills", |run| text(&run["kills"])),
    ("refreshes", |run| text(&run["refreshes"])),
    ("undisturbed", |run| text(&run["current"])),
    ("completed by the next owner", |run| {
        text(&run["completed_by_next"])
    }),
    ("in the window", |run| text(&run["one_behind"])),
    ("in quarantine", |run| text(&run["quarantined"])),
    ("window calculated, µs", |run| {
        text(&run["window_reckoned_us"])
    }),
    ("observed, µs", |run| text(&run["window_observed_us"])),
    ("request, save, µs (95 of 100 below)", |run| {
        let pace = &run["pace"];
        format!(
            "{} ({}), {} ({})",
            text(&pace["request_us"]),
            text(&pace["request_p95_us"]),
            text(&pace["save_us"]),
            text(&pace["save_p95_us"])
        )
    }),
    ("unreadable", |run| text(&run["unreadable"])),
    ("missing", |run| text(&run["missing"])),
    ("further behind", |run| text(&run["further_behind"])),
    ("never issued", |run| text(&run["unknown_token"])),
    ("live, marked ended", |run| text(&run["live_marked_ended"])),
    ("cannot refresh", |run| {
        (sum(&run["errors"]) + sum(&run["stuck"])).to_string()
    }),
    ("verdict", verdict),
];

fn table(title: &str, about: &str, columns: &[Column], runs: &[&Value]) -> String {
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut out = format!("\n## {title}\n\n{about}\n\n");
    out.push_str(&row(columns
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect()));
    out.push_str(&row(columns.iter().map(|_| "---".to_owned()).collect()));
    for run in runs {
        out.push_str(&row(columns.iter().map(|(_, cell)| cell(run)).collect()));
    }
    out
}

fn options(run: &Value) -> String {
    let words = [
        ("reuse_revokes_family", "reuse revokes the family"),
        (
            "refresh_revokes_access_token",
            "a refresh revokes the old token",
        ),
        ("skewed_clocks", "clocks an hour fast and slow"),
    ];
    let set: Vec<_> = words
        .into_iter()
        .filter_map(|(option, words)| (run[option] == true).then_some(words))
        .collect();
    set.join(", ")
}

fn verdict(run: &Value) -> String {
    match run["losses"].as_array().map(Vec::len) {
        Some(0) if run["one_behind"].as_u64().is_some_and(|times| times > 0) => {
            "nothing lost except in the window".to_owned()
        }
        Some(0) => "nothing lost".to_owned(),
        _ => format!("**{}**", listed(&run["losses"])),
    }
}

fn listed(list: &Value) -> String {
    let items: Vec<_> = list.as_array().into_iter().flatten().map(text).collect();
    items.join("; ").replace('|', "/")
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn sum(tally: &Value) -> u64 {
    let counts = tally
        .as_object()
        .into_iter()
        .flat_map(|counts| counts.values());
    counts.filter_map(Value::as_u64).sum()
}

fn total(tally: &Value) -> String {
    sum(tally).to_string()
}

/// What the runs ran on: mostly one line.
fn conditions(runs: &[Value]) -> BTreeSet<String> {
    runs.iter()
        .map(|run| {
            let on = &run["on"];
            let unoptimised = if on["optimised"] == false {
                ", not optimised"
            } else {
                ""
            };
            let redis = match &on["redis"] {
                Value::String(version) => format!("; Redis {version}"),
                _ => String::new(),
            };
            let commit = match &on["commit"] {
                Value::String(commit) => format!(" at {commit}"),
                _ => String::new(),
            };
            format!(
                "{}: {}; {}; coze-auth {}{commit}{unoptimised}{redis}",
                text(&on["date"]),
                text(&on["machine"]),
                text(&on["rustc"]),
                text(&on["version"]),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn race(store: &str, losses: &[&str]) -> Value {
        json!({
            "show": "race", "store": store, "processes": 64, "lost": {"of an earlier sign-in": 2, "unreadable": 1},
            "reads_of_store": 10, "unreadable": {}, "missing": 0, "survives": true, "losses": losses,
            "on": {"date": "d", "machine": "m", "rustc": "r", "version": "v", "optimised": true},
        })
    }

    #[test]
    fn a_loss_stands_out_and_the_plain_store_stands_below_ours() {
        let folder = tempfile::tempdir().unwrap();
        for (name, run) in [
            ("a.json", race("plain", &["3 sign-ins lost"])),
            ("b.json", race("file", &[])),
        ] {
            std::fs::write(folder.path().join(name), run.to_string()).unwrap();
        }
        let report = render(&read(folder.path()).unwrap());
        let file = report.find("| file |").unwrap();
        let plain = report.find("| plain |").unwrap();
        assert!(file < plain, "{report}");
        assert!(report[file..plain].contains("nothing lost"), "{report}");
        assert!(report[plain..].contains("**3 sign-ins lost**"), "{report}");
        assert_eq!(report.matches("- d: m; r; coze-auth v\n").count(), 1);
    }

    #[test]
    fn it_says_of_which_commit_the_figures_are() {
        let mut run = race("file", &[]);
        run["on"]["commit"] = "79843d4+".into();
        let report = render(&[run]);
        assert!(
            report.contains("- d: m; r; coze-auth v at 79843d4+\n"),
            "{report}"
        );
    }
}
