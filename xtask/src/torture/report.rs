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

/// The name of a column, and its cells: the names of figures in braces are replaced by their values.
type Column = (&'static str, &'static str);

const RACE_COLUMNS: &[Column] = &[
    ("store", "{store}"),
    ("options", "{options}"),
    ("processes", "{processes}"),
    ("seconds", "{seconds}"),
    ("refreshes", "{refreshes}"),
    ("tokens handed out", "{tokens_handed_out}"),
    ("sent twice", "{reused}"),
    ("refused (`invalid_grant`)", "{refused_refreshes}"),
    ("breaks in the chain", "{broken_chains}"),
    ("lost sign-ins", "{lost}"),
    (
        "unreadable, of reads",
        "{unreadable+missing} of {reads_of_store}",
    ),
    (
        "refreshed before the expiry, ms",
        "{lead_ms/earliest}, {lead_ms/median}, {lead_ms/latest}",
    ),
    ("at most", "{lead_at_most_ms}"),
    ("outside", "{early+late}"),
    (
        "tokens refused, and refused twice",
        "{api_refused}, {refused_twice}",
    ),
    ("errors", "{errors}"),
    ("slowest wait, ms", "{slowest_wait_ms}"),
    ("lives on", "{survives}"),
    ("verdict", "{verdict}"),
];

const CRASH_COLUMNS: &[Column] = &[
    ("store", "{store}"),
    ("options", "{options}"),
    ("kills", "{kills}"),
    ("refreshes", "{refreshes}"),
    ("undisturbed", "{current}"),
    ("completed by the next owner", "{completed_by_next}"),
    ("in the window", "{one_behind}"),
    ("in quarantine", "{quarantined}"),
    ("window calculated, µs", "{window_reckoned_us}"),
    ("observed, µs", "{window_observed_us}"),
    (
        "request, save, µs (95 of 100 below)",
        "{pace/request_us} ({pace/request_p95_us}), {pace/save_us} ({pace/save_p95_us})",
    ),
    ("unreadable", "{unreadable}"),
    ("missing", "{missing}"),
    ("further behind", "{further_behind}"),
    ("never issued", "{unknown_token}"),
    ("live, marked ended", "{live_marked_ended}"),
    ("cannot refresh", "{errors+stuck}"),
    ("verdict", "{verdict}"),
];

fn table(title: &str, about: &str, columns: &[Column], runs: &[&Value]) -> String {
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut out = format!("\n## {title}\n\n{about}\n\n");
    out += &row(columns.iter().map(|(name, _)| (*name).to_owned()).collect());
    out += &row(columns.iter().map(|_| "---".to_owned()).collect());
    for run in runs {
        out += &row(columns
            .iter()
            .map(|(_, template)| cell(run, template))
            .collect());
    }
    out
}

fn cell(run: &Value, template: &str) -> String {
    let mut parts = template.split('{');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('}').unwrap_or((part, ""));
        out += &figure(run, name);
        out += rest;
    }
    out
}

fn figure(run: &Value, name: &str) -> String {
    match name {
        "options" => options(run),
        "verdict" => verdict(run),
        "survives" if run[name] == true => "yes".to_owned(),
        "survives" => "**no**".to_owned(),
        _ => match name.split_once('+') {
            Some((one, other)) => (sum(&run[one]) + sum(&run[other])).to_string(),
            None => text(run.pointer(&format!("/{name}")).unwrap_or(&Value::Null)),
        },
    }
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
        Value::Object(_) => sum(value).to_string(),
        other => other.to_string(),
    }
}

/// A count, or the sum of counts by name.
fn sum(value: &Value) -> u64 {
    match value {
        Value::Object(counts) => counts.values().filter_map(Value::as_u64).sum(),
        count => count.as_u64().unwrap_or(0),
    }
}

/// The machines and versions of the runs: usually one line.
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
    fn a_loss_is_highlighted_and_the_plain_store_is_last() {
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
    fn the_commit_of_the_figures_is_reported() {
        let mut run = race("file", &[]);
        run["on"]["commit"] = "79843d4+".into();
        let report = render(&[run]);
        assert!(
            report.contains("- d: m; r; coze-auth v at 79843d4+\n"),
            "{report}"
        );
    }
}
