//! What the toolkit weighs: the crates that it brings, a cold build, its public items, its lines.
//!
//! The packages that are built are written to a temporary folder, with the toolkit's own lock file.

#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use coze_benches::{
    report::{Goal, Report},
    rounds::median,
    run::Run,
};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};
use serde_json::Value;

/// As the toolkit uses it.
const REQWEST: &str =
    r#"reqwest = { version = "0.13", default-features = false, features = ["rustls", "json"] }"#;

/// Its default features have no API at all, so its smallest build that can chat is measured.
const OPENAI: &str = r#"async-openai = { version = "0.43", features = ["chat-completion"] }"#;
const OPENAI_NOTE: &str = "default features, and `chat-completion`: without a group it has no API";

/// The toolkit's crates whose lines are counted.
const CRATES: [&str; 9] = [
    "wire",
    "generated",
    "auth",
    "stores",
    "credentials",
    "api",
    "mock",
    "cli",
    "xtask",
];

fn main() -> Result<()> {
    let run = Run::from_args()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()?;
    let folder = std::env::temp_dir().join(format!("coze-bench-weight-{}", std::process::id()));
    let mut report = Report::new();
    let outcome = measure(&mut report, &root, &folder, run.quick);
    let _ = fs::remove_dir_all(&folder);
    outcome?;
    report.finish(&run)
}

fn measure(report: &mut Report, root: &Path, folder: &Path, quick: bool) -> Result<()> {
    let ours = format!("coze-auth = {{ path = {:?} }}", root.join("auth"));
    let ours = Package::write(folder, "ours", &ours, root)?;
    let bare = Package::write(folder, "bare", REQWEST, root)?;

    report.figure("crates: bare reqwest", bare.crates()?, "", "rustls, JSON");
    report.goal(
        "crates: coze-auth",
        ours.crates()?,
        "",
        Goal::AtMost(105.0),
        "default features, the toolkit's own crates included",
        "progenitor's client, which the generated code needs, brings 3",
    );
    let api = format!("coze-api = {{ path = {:?} }}", root.join("api"));
    let api = Package::write(folder, "api", &api, root)?;
    let peer = Package::write(folder, "peer", OPENAI, &root.join("benches"))?;
    report.figure("crates: coze-api", api.crates()?, "", "default features");
    report.figure("crates: async-openai", peer.crates()?, "", OPENAI_NOTE);
    if !quick {
        let builds = (0..3)
            .map(|_| Ok((ours.cold_build()?, bare.cold_build()?)))
            .collect::<Result<Vec<_>>>()?;
        let ratios = builds
            .iter()
            .map(|(ours, bare)| ours.elapsed / bare.elapsed);
        let seconds = |pick: fn(&(Took, Took)) -> f64| median(builds.iter().map(pick).collect());
        report.figure(
            "cold build: bare reqwest",
            seconds(|pair| pair.1.elapsed),
            "s",
            "median of three",
        );
        report.figure(
            "cold build: coze-auth",
            seconds(|pair| pair.0.elapsed),
            "s",
            "median of three",
        );
        report.goal(
            "cold build: coze-auth / bare reqwest",
            median(ratios.collect()),
            "x",
            Goal::AtMost(1.2),
            "built in turn, three pairs",
            "the generated client and the JWT's cryptography",
        );

        let builds = (0..3)
            .map(|_| Ok((api.cold_build()?, peer.cold_build()?)))
            .collect::<Result<Vec<_>>>()?;
        for (name, pick, note) in [
            (
                "coze-api",
                (|pair| pair.0.cpu) as fn(&(Took, Took)) -> f64,
                "default features",
            ),
            ("async-openai", |pair| pair.1.cpu, OPENAI_NOTE),
        ] {
            let seconds = median(builds.iter().map(pick).collect());
            report.figure(format!("cold build: {name}"), seconds, "s of CPU", note);
        }
        let ratios = builds.iter().map(|(api, peer)| api.cpu / peer.cpu);
        report.figure(
            "cold build: coze-api / async-openai",
            median(ratios.collect()),
            "x",
            "processor time of all processes; built in turn, three pairs",
        );
    }

    let benches = root.join("benches");
    for (package, of, goals) in [
        ("gcp_auth", &*benches, None),
        ("google-cloud-auth", &*benches, None),
        ("coze-auth", root, Some((55.0, 150.0))),
    ] {
        let (types, functions) = public_items(package, of, folder)?;
        for (what, count, goal) in [
            ("types", types, goals.map(|goals| goals.0)),
            ("functions", functions, goals.map(|goals| goals.1)),
        ] {
            let row = format!("public {what}: {package}");
            match goal {
                Some(goal) => report.goal(row, count, "", Goal::AtMost(goal), "all features", ""),
                None => report.figure(row, count, "", "the features that it is used with here"),
            }
        }
    }

    for name in CRATES {
        let lines = code_lines(&root.join(name))?;
        report.figure(
            format!("code lines: {name}"),
            lines,
            "",
            "without comments and unit tests",
        );
    }
    Ok(())
}

/// A package that only depends on something.
struct Package {
    folder: PathBuf,
    target: PathBuf,
}

impl Package {
    fn write(folder: &Path, name: &str, dependency: &str, root: &Path) -> Result<Self> {
        let package = folder.join(name);
        fs::create_dir_all(package.join("src"))?;
        fs::write(package.join("src/lib.rs"), "")?;
        fs::write(
            package.join("Cargo.toml"),
            format!(
                "[workspace]\n[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
                 [dependencies]\n{dependency}\n"
            ),
        )?;
        fs::copy(root.join("Cargo.lock"), package.join("Cargo.lock"))?;
        let package = Self {
            target: package.join("target"),
            folder: package,
        };
        run(package.cargo().args(["fetch", "--quiet"]))?;
        Ok(package)
    }

    fn cargo(&self) -> Command {
        let mut command = Command::new(env!("CARGO"));
        command
            .current_dir(&self.folder)
            .env("CARGO_TARGET_DIR", &self.target);
        command
    }

    /// The number of crates in its dependency tree, itself not counted.
    fn crates(&self) -> Result<f64> {
        let tree = run(self
            .cargo()
            .args(["tree", "-e", "normal", "--prefix", "none"]))?;
        let crates: BTreeSet<_> = tree
            .lines()
            .map(|line| line.trim_end_matches(" (*)"))
            .collect();
        Ok(count(crates.len().saturating_sub(1)))
    }

    fn cold_build(&self) -> Result<Took> {
        let (start, start_cpu) = (Instant::now(), cpu_of_children()?);
        run(self.cargo().args(["build", "--quiet", "--offline"]))?;
        let took = Took {
            elapsed: start.elapsed().as_secs_f64(),
            cpu: cpu_of_children()? - start_cpu,
        };
        fs::remove_dir_all(&self.target)?;
        Ok(took)
    }
}

/// Seconds that a build takes.
struct Took {
    elapsed: f64,
    /// Of the processor time of all its processes.
    cpu: f64,
}

/// Seconds of processor time of all processes that have ended.
fn cpu_of_children() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("cannot measure child processes")?;
    let times = [usage.user_time(), usage.system_time()];
    Ok(times
        .iter()
        .map(|time| time.num_microseconds() as f64 / 1e6)
        .sum())
}

/// Runs a command to its end, and returns what it printed.
fn run(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// The public types (structs, enums, traits, aliases) and functions (free, inherent and of traits) of a package: those that
/// a path leads to from its root. A function that a trait of another crate has is not counted.
fn public_items(package: &str, workspace: &Path, folder: &Path) -> Result<(f64, f64)> {
    let target = folder.join("docs");
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(workspace)
        // The JSON form of rustdoc is unstable.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", &target)
        .args(["rustdoc", "--quiet", "--locked", "--package", package]);
    // A dependency has the features that it is used with.
    if package.starts_with("coze-") {
        command.arg("--all-features");
    }
    run(command.args([
        "--",
        "-Zunstable-options",
        "--output-format=json",
        "--cap-lints=allow",
    ]))?;
    let file = target.join("doc").join(package.replace('-', "_") + ".json");
    let docs: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    let mut items = PublicItems {
        docs: &docs,
        seen: BTreeSet::new(),
        types: 0,
        functions: 0,
    };
    items.visit(&docs["root"]);
    ensure!(items.types > 0, "{}: no public type", file.display());
    Ok((count(items.types), count(items.functions)))
}

struct PublicItems<'a> {
    docs: &'a Value,
    seen: BTreeSet<String>,
    types: usize,
    functions: usize,
}

impl<'a> PublicItems<'a> {
    fn item(&self, id: &Value) -> Option<&'a Value> {
        self.docs["index"].get(id.to_string())
    }

    fn visit(&mut self, id: &Value) {
        let Some(item) = self.item(id) else { return };
        if is_hidden(item) {
            return;
        }
        let Some((kind, inner)) = item["inner"]
            .as_object()
            .and_then(|inner| inner.iter().next())
        else {
            return;
        };
        if kind == "use" {
            // What another crate defines is not in the index.
            return self.visit(&inner["id"]);
        }
        if !self.seen.insert(id.to_string()) {
            return;
        }
        match kind.as_str() {
            "module" => each(&inner["items"], |id| {
                let is_public = |item: &Value| item["visibility"] == "public";
                if self.item(id).is_some_and(is_public) {
                    self.visit(id);
                }
            }),
            "struct" | "enum" | "union" => {
                self.types += 1;
                each(&inner["impls"], |id| {
                    let inherent = self.item(id).map(|item| &item["inner"]["impl"]);
                    if let Some(inherent) = inherent.filter(|inherent| inherent["trait"].is_null())
                    {
                        self.functions_of(&inherent["items"], true);
                    }
                });
            }
            "trait" => {
                self.types += 1;
                self.functions_of(&inner["items"], false);
            }
            "type_alias" => self.types += 1,
            "function" => self.functions += 1,
            _ => {}
        }
    }

    fn functions_of(&mut self, items: &Value, only_public: bool) {
        each(items, |id| {
            let counts = self.item(id).is_some_and(|item| {
                item["inner"].get("function").is_some()
                    && (!only_public || item["visibility"] == "public")
                    && !is_hidden(item)
            });
            self.functions += usize::from(counts);
        });
    }
}

fn each(items: &Value, mut visit: impl FnMut(&Value)) {
    for item in items.as_array().into_iter().flatten() {
        visit(item);
    }
}

fn is_hidden(item: &Value) -> bool {
    item["attrs"]
        .to_string()
        .replace([' ', '"', '\\'], "")
        .contains("doc(hidden)")
}

/// The lines of the Rust files below a folder that are neither blank nor comments, without unit tests.
fn code_lines(folder: &Path) -> Result<f64> {
    let mut lines = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if path.is_dir() && !["target", "tests", "examples", "benches"].contains(&name) {
                folders.push(path);
            } else if name.ends_with(".rs") && name != "tests.rs" {
                let text = fs::read_to_string(&path)?;
                let product = text
                    .split("\n#[cfg(test)]\nmod ")
                    .next()
                    .unwrap_or_default();
                let is_code = |line: &&str| !line.is_empty() && !line.starts_with("//");
                lines += product.lines().map(str::trim).filter(is_code).count();
            }
        }
    }
    Ok(count(lines))
}

/// Counts here are far below 2^32.
fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
