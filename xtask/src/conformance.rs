//! Runs the official SDKs and ours against the mock, to verify that the mock behaves like Coze.
//!
//! Each SDK has a folder under `tests/conformance/` with a driver: a small program that runs the requested flows,
//! one per line (the README there describes the protocol). This program installs the SDK, starts a mock for it, requests
//! the flows in order, and checks the results of the driver with the mock. The violations that the mock recorded are compared with
//! `tests/conformance/violations.json`; what each SDK makes of a stream that goes wrong, with `streams.json`.

mod checks;
mod child;
mod mock;
mod objections;
mod recorded;
mod streams;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::child::Running;
use self::mock::Mock;
use self::objections::Seen;
use crate::{cargo, root};

/// The official SDKs. To add one, add a folder under `tests/conformance/` and an entry here. The commands run in a
/// copy of the folder; a program with a slash in its name is relative to that copy.
const SDKS: &[Sdk] = &[
    Sdk {
        name: "python",
        tools: &["python3"],
        manifests: &["requirements.txt"],
        install: &[
            &["python3", "-m", "venv", "--clear", "venv"],
            &[
                "venv/bin/python",
                "-m",
                "pip",
                "install",
                "-r",
                "requirements.txt",
            ],
        ],
        run: &["venv/bin/python", "driver.py"],
    },
    Sdk {
        name: "node",
        tools: &["node", "npm"],
        manifests: &["package.json", "package-lock.json"],
        install: &[&["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]],
        run: &["node", "driver.mjs"],
    },
    Sdk {
        name: "java",
        tools: &["java", "mvn"],
        manifests: &["pom.xml"],
        install: &[&[
            "mvn",
            "-q",
            "-B",
            "dependency:copy-dependencies",
            "-DoutputDirectory=lib",
        ]],
        run: &["java", "-cp", "lib/*", "Driver.java"],
    },
];

struct Sdk {
    /// Its folder under `tests/conformance/`, and its name in options, table and file.
    name: &'static str,
    /// The programs that the language requires.
    tools: &'static [&'static str],
    /// The files that determine the installation: when they change, the SDK is installed again.
    manifests: &'static [&'static str],
    install: &'static [&'static [&'static str]],
    run: &'static [&'static str],
}

/// The row of `coze-auth` and `coze-api`.
const OURS: &str = "rust";

/// The flows in the order in which they run: a refresh follows its sign-in, and `api_expired` is last, because
/// it advances the mock's clock.
const FLOWS: [&str; 18] = [
    "web",
    "web_refresh",
    "pkce",
    "pkce_refresh",
    "device",
    "device_refusal",
    "device_refresh",
    "jwt",
    "jwt_scope",
    "jwt_session",
    "jwt_account",
    "jwt_enterprise",
    "api_call",
    "create_conversation",
    "create_chat",
    "stream_chat",
    "list_messages",
    "api_expired",
];

/// A proxy address without a listener.
const UNREACHABLE_PROXY: &str = "http://127.0.0.1:9";

const BUILD_TIMEOUT: Duration = Duration::from_secs(1800);
const INSTALL_TIMEOUT: Duration = Duration::from_secs(600);
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The SDKs poll every 5 s, regardless of the server's interval.
const FLOW_TIMEOUT: Duration = Duration::from_secs(60);

/// The options of `cargo xtask conformance`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run only these SDKs (python, node, java); ours always runs
    #[arg(long, value_delimiter = ',', value_name = "SDK")]
    only: Vec<String>,
    /// Fail if the language of one of these is not installed, instead of skipping it
    #[arg(long, value_delimiter = ',', value_name = "SDK")]
    require: Vec<String>,
    /// Write the results here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write violations.json, streams.json and STREAMS.md in tests/conformance instead of comparing with them
    #[arg(long)]
    update: bool,
}

/// The inputs of all drivers, so that their requests can be compared.
fn inputs() -> Value {
    json!({
        "redirect_uri": "http://127.0.0.1:8080/callback",
        "state": "a state/with&special=characters",
        "session_name": "user 1",
        "account_id": "9001",
        "enterprise_id": "ent_1",
        "bot_ids": ["7101", "7102"],
        // A little more than the lifetime of an access token, 15 minutes.
        "until_expired": 960,
        "user_id": "user_1",
        "question": "Will it rain in Oslo?",
    })
}

/// A driver's result of a flow.
#[derive(Deserialize)]
struct Answer {
    flow: String,
    outcome: Outcome,
    detail: String,
    /// The access token that the flow returned, to be checked with the mock.
    #[serde(default)]
    access_token: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Pass,
    Fail,
    Lacks,
}

/// One row of the table.
struct Row {
    name: &'static str,
    version: String,
    flows: BTreeMap<&'static str, (Outcome, String)>,
    seen: Seen,
    streams: streams::Seen,
}

impl Row {
    fn failures(&self) -> impl Iterator<Item = (&'static str, &str)> {
        FLOWS
            .into_iter()
            .filter_map(|flow| match self.flows.get(flow) {
                Some((Outcome::Fail, detail)) => Some((flow, detail.as_str())),
                _ => None,
            })
    }
}

/// The folders.
struct Places {
    /// `tests/conformance`
    drivers: PathBuf,
    /// `target/conformance`
    work: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let root = root::find()?;
    let places = Places {
        drivers: root.join("tests/conformance"),
        work: root.join("target/conformance"),
    };
    let Choice { chosen, left_out } = choose(options)?;
    std::fs::create_dir_all(&places.work)
        .with_context(|| format!("cannot create {}", places.work.display()))?;
    let programs = Programs::build(&root, &places.work)?;

    // In parallel, because the SDKs mostly wait.
    let outcomes: Vec<(&str, Result<Row>)> = std::thread::scope(|scope| {
        let (places, programs) = (&places, &programs);
        let mut threads: Vec<_> = chosen
            .iter()
            .map(|&sdk| (sdk.name, scope.spawn(move || sdk.row(places, programs))))
            .collect();
        threads.push((OURS, scope.spawn(move || our_row(places, programs))));
        threads
            .into_iter()
            .map(|(name, thread)| {
                let outcome = thread
                    .join()
                    .unwrap_or_else(|_| bail!("its thread panicked"));
                (name, outcome.with_context(|| name.to_owned()))
            })
            .collect()
    });

    let mut good = true;
    let mut rows = Vec::new();
    for (_, outcome) in outcomes {
        match outcome {
            Ok(row) => rows.push(row),
            Err(error) => {
                good = false;
                eprintln!("error: {error:#}");
            }
        }
    }
    print!("{}", table::render(&rows));
    for (name, missing) in &left_out {
        println!("skipped: {name} ({missing} is not installed)");
    }
    for row in &rows {
        for (flow, detail) in row.failures() {
            good = false;
            eprintln!("{} {flow}: {detail}", row.name);
        }
    }
    if let Some(path) = &options.json {
        write_json(path, &rows)?;
    }
    if good {
        good = objections::check(&places.drivers, &rows, options.update)?;
        good &= streams::check(&places.drivers, &rows, options.update)?;
    } else {
        eprintln!(
            "the recorded files are neither compared nor written, because not every flow passed"
        );
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct Choice {
    chosen: Vec<&'static Sdk>,
    /// With the missing program.
    left_out: Vec<(&'static str, &'static str)>,
}

fn choose(options: &Options) -> Result<Choice> {
    let known: Vec<&str> = SDKS.iter().map(|sdk| sdk.name).collect();
    for name in options.only.iter().chain(&options.require) {
        ensure!(
            known.contains(&name.as_str()),
            "there is no driver for {name:?}: known are {}",
            known.join(", ")
        );
    }
    let (mut chosen, mut left_out) = (Vec::new(), Vec::new());
    for sdk in SDKS {
        let is_named = |names: &[String]| names.iter().any(|name| name == sdk.name);
        let required = is_named(&options.require);
        if !options.only.is_empty() && !is_named(&options.only) {
            ensure!(
                !required,
                "{} is required, but excluded by --only",
                sdk.name
            );
            continue;
        }
        match sdk.tools.iter().find(|tool| !is_installed(tool)) {
            None => chosen.push(sdk),
            Some(tool) if required => {
                bail!("{} is required, and {tool} is not installed", sdk.name)
            }
            Some(tool) => left_out.push((sdk.name, *tool)),
        }
    }
    Ok(Choice { chosen, left_out })
}

fn is_installed(tool: &str) -> bool {
    let mut version = Command::new(tool);
    version.arg("--version");
    child::succeeds(&mut version, START_TIMEOUT)
}

/// The programs of this workspace that are used.
struct Programs {
    mock: PathBuf,
    ours: PathBuf,
}

impl Programs {
    fn build(root: &Path, work: &Path) -> Result<Self> {
        const OUR_DRIVER: &str = "conformance-rust";
        let mut build = cargo::build_with_mock(root, OUR_DRIVER);
        let messages = child::output(&mut build, &work.join("build.log"), BUILD_TIMEOUT)
            .context("building the mock and our driver")?;
        Ok(Self {
            mock: cargo::executable(&messages, "coze-mock")?,
            ours: cargo::executable(&messages, OUR_DRIVER)?,
        })
    }
}

impl Sdk {
    fn row(&self, places: &Places, programs: &Programs) -> Result<Row> {
        let folder = places.work.join(self.name);
        copy_files(&places.drivers.join(self.name), &folder)?;
        self.install(&folder)?;
        let mock = Mock::start(&programs.mock, true, &folder.join("mock.log"))?;
        run_flows(self.name, command_in(&folder, self.run)?, &folder, &mock)
    }

    /// Installs the SDK, unless it is installed from the same manifests.
    fn install(&self, folder: &Path) -> Result<()> {
        let mut wanted = String::new();
        for manifest in self.manifests {
            wanted.push_str(&read(&folder.join(manifest))?);
        }
        let stamp = folder.join("installed");
        if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(());
        }
        eprintln!("{}: installing into {}", self.name, folder.display());
        let started = Instant::now();
        for step in self.install {
            install(folder, step).with_context(|| format!("installing: {}", step.join(" ")))?;
        }
        eprintln!(
            "{}: installed in {} s",
            self.name,
            started.elapsed().as_secs()
        );
        write(&stamp, &wanted)
    }
}

/// Runs one step of an installation, and retries it, because registries fail occasionally.
fn install(folder: &Path, step: &[&str]) -> Result<()> {
    const TRIES: u32 = 3;
    for tries in 1.. {
        let mut command = command_in(folder, step)?;
        match child::finish(&mut command, &folder.join("install.log"), INSTALL_TIMEOUT) {
            Err(error) if tries < TRIES => eprintln!("retrying: {}: {error:#}", step.join(" ")),
            ended => return ended,
        }
    }
    Ok(())
}

fn our_row(places: &Places, programs: &Programs) -> Result<Row> {
    let folder = places.work.join(OURS);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let mock = Mock::start(&programs.mock, false, &folder.join("mock.log"))?;
    let mut row = run_flows(OURS, Command::new(&programs.ours), &folder, &mock)?;
    for violation in &row.seen.findings.violations {
        let (flow, _) = row
            .seen
            .request(&violation["request"])
            .unwrap_or((FLOWS[0], &Value::Null));
        let detail = format!(
            "violation recorded by the strict mock: {}: {}",
            violation["place"].as_str().unwrap_or_default(),
            violation["rule"].as_str().unwrap_or_default()
        );
        row.flows.insert(flow, (Outcome::Fail, detail));
    }
    let faults = streams::faults(&row.streams);
    ensure!(faults.is_empty(), "streams: {}", faults.join("; "));
    Ok(row)
}

/// The first word is the program, relative to the folder if it has a slash.
fn command_in(folder: &Path, words: &[&str]) -> Result<Command> {
    let (program, arguments) = words.split_first().context("a command has no words")?;
    let mut command = if program.contains('/') {
        Command::new(folder.join(program))
    } else {
        Command::new(program)
    };
    command.args(arguments).current_dir(folder);
    Ok(command)
}

/// Starts a driver and requests every flow.
fn run_flows(name: &'static str, mut command: Command, folder: &Path, mock: &Mock) -> Result<Row> {
    let mut config = mock.ready().clone();
    config["inputs"] = inputs();
    command.env("COZE_CONFORMANCE", config.to_string());
    // A proxy in the environment must not affect the SDKs. Ours bypasses proxies for loopback.
    if name != OURS {
        command
            .env("NO_PROXY", "127.0.0.1,localhost")
            .env("no_proxy", "127.0.0.1,localhost");
    } else {
        for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command
                .env(variable, UNREACHABLE_PROXY)
                .env(variable.to_lowercase(), UNREACHABLE_PROXY);
        }
        command.env_remove("NO_PROXY").env_remove("no_proxy");
        command
            .env("SSL_CERT_FILE", "/dev/null")
            .env("SSL_CERT_DIR", "/nonexistent");
    }
    let mut driver = Driver::start(command, folder)?;
    let mut flows = BTreeMap::new();
    let mut seen = Seen::default();
    let mut is_gone = false;
    for flow in FLOWS {
        if is_gone {
            let result = (Outcome::Fail, "not run: the driver has ended".to_owned());
            flows.insert(flow, result);
            continue;
        }
        let answer = driver.ask(flow);
        // After a timeout its results might belong to earlier flows.
        is_gone = answer.is_err();
        let requests = mock.requests_since(seen.last_request())?;
        let result = judge(flow, answer, &requests, mock);
        seen.add(flow, requests);
        flows.insert(flow, result);
    }
    seen.findings = mock.findings()?;
    let streams = match is_gone {
        true => streams::Seen::default(),
        false => streams::run(&mut driver, mock)?,
    };
    Ok(Row {
        name,
        version: driver.version,
        flows,
        seen,
        streams,
    })
}

/// The result of a flow: that of the driver, confirmed by the mock if it passed.
fn judge(flow: &str, answer: Result<Answer>, requests: &[Value], mock: &Mock) -> (Outcome, String) {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return (Outcome::Fail, format!("{error:#}")),
    };
    if answer.outcome == Outcome::Pass
        && let Err(error) = checks::confirm(flow, answer.access_token.as_deref(), requests, mock)
    {
        let detail = format!("not confirmed by the mock: {error:#}");
        return (Outcome::Fail, detail);
    }
    (answer.outcome, answer.detail)
}

/// A driver that has sent its hello line.
struct Driver {
    program: Running,
    sdk: String,
    version: String,
}

impl Driver {
    fn start(mut command: Command, folder: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Hello {
            sdk: String,
            version: String,
        }
        let mut program = Running::start(&mut command, &folder.join("driver.log"))?;
        let hello: Hello = program.json_line("version", START_TIMEOUT)?;
        Ok(Self {
            program,
            sdk: hello.sdk,
            version: hello.version,
        })
    }

    fn ask(&mut self, flow: &str) -> Result<Answer> {
        self.program.say(flow)?;
        let answer: Answer = self.program.json_line("flow", FLOW_TIMEOUT)?;
        ensure!(
            answer.flow == flow,
            "the driver returned the result of {} instead",
            answer.flow
        );
        Ok(answer)
    }
}

fn write_json(path: &Path, rows: &[Row]) -> Result<()> {
    let results: BTreeMap<&str, Value> = rows
        .iter()
        .map(|row| {
            let flows: BTreeMap<_, _> = row
                .flows
                .iter()
                .map(|(flow, (outcome, _))| (flow, outcome))
                .collect();
            (row.name, json!({"version": row.version, "flows": flows}))
        })
        .collect();
    let mut text = serde_json::to_string_pretty(&results)?;
    text.push('\n');
    write(path, &text)
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    let cannot = || format!("cannot copy {} to {}", from.display(), to.display());
    std::fs::create_dir_all(to).with_context(cannot)?;
    for entry in std::fs::read_dir(from).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        if entry.file_type().with_context(cannot)?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).with_context(cannot)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(only: &[&str], require: &[&str]) -> Options {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Options {
            only: owned(only),
            require: owned(require),
            json: None,
            update: false,
        }
    }

    #[test]
    fn an_unknown_sdk_is_refused_with_a_list_of_the_known_ones() {
        for broken in [options(&["cobol"], &[]), options(&[], &["cobol"])] {
            let error = choose(&broken).err().unwrap().to_string();
            assert!(
                error.contains("\"cobol\"") && error.contains("python, node, java"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_required_sdk_cannot_be_excluded() {
        let error = choose(&options(&["python"], &["java"])).err().unwrap();
        assert!(error.to_string().contains("java is required"), "{error}");
    }

    #[test]
    fn every_sdk_has_a_folder_with_its_manifests_and_its_driver() {
        let drivers = root::find().unwrap().join("tests/conformance");
        for sdk in SDKS {
            let folder = drivers.join(sdk.name);
            let driver = sdk.run.last().unwrap();
            for file in sdk.manifests.iter().chain([driver]) {
                assert!(
                    folder.join(file).is_file(),
                    "{}/{file} is missing",
                    sdk.name
                );
            }
        }
    }
}
