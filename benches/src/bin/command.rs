//! The program `coze` in a script: what `coze token` costs for a stored sign-in whose token is still valid, and the program's size.

#![forbid(unsafe_code)]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use coze_auth::{DeviceFlow, Endpoint, Flow, OAuthClient};
use coze_benches::{
    report::{Goal, Report},
    rounds::median,
    run::Run,
};
use coze_credentials::{ProfileConfig, Profiles};
use coze_mock::{MockCoze, defaults};
use wait4::Wait4 as _;

const MIB: f64 = 1024.0 * 1024.0;

/// The argument of the process that signs the users in.
const SIGN_IN: &str = "--sign-in";

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    if let (Some(first), Some(home)) = (arguments.next(), arguments.next())
        && first == SIGN_IN
    {
        return sign_in(Path::new(&home));
    }
    let run = Run::from_args()?;
    let coze = build(run.quick)?;
    let folder = std::env::temp_dir().join(format!("coze-bench-command-{}", std::process::id()));
    let outcome = measure(&coze, &folder, &run);
    let _ = std::fs::remove_dir_all(&folder);
    outcome?.finish(&run)
}

/// Builds the program as `cargo install` does, but without symbols.
fn build(quick: bool) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = root.join("target/benches/command");
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(&root)
        .env("CARGO_TARGET_DIR", &target)
        .args(["build", "--quiet", "--locked", "--package=coze-cli"]);
    if !quick {
        command.args(["--release", "--config=profile.release.strip=true"]);
    }
    ensure!(command.status()?.success(), "coze does not build");
    Ok(target
        .join(if quick { "debug" } else { "release" })
        .join("coze"))
}

/// A command that prints a token.
struct Contender {
    name: &'static str,
    command: Command,
    seconds: Vec<f64>,
    most_memory: f64,
}

impl Contender {
    /// With this folder as the user's home, and nothing else in the environment.
    fn new(name: &'static str, program: impl AsRef<Path>, arguments: &[&str], home: &Path) -> Self {
        let mut command = Command::new(program.as_ref());
        command.args(arguments).env_clear().stdout(Stdio::null());
        for variable in ["HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "GH_CONFIG_DIR"] {
            command.env(variable, home);
        }
        Self {
            name,
            command,
            seconds: Vec::new(),
            most_memory: 0.0,
        }
    }

    fn run(&mut self) -> Result<()> {
        let began = Instant::now();
        let ended = self.command.spawn()?.wait4()?;
        self.seconds.push(began.elapsed().as_secs_f64());
        ensure!(ended.status.success(), "{} failed", self.name);
        self.most_memory = self.most_memory.max(ended.rusage.maxrss as f64);
        Ok(())
    }

    fn milliseconds(&self) -> f64 {
        median(self.seconds.clone()) * 1000.0
    }
}

fn measure(coze: &Path, home: &Path, run: &Run) -> Result<Report> {
    // In a process of its own: the memory of a new process counts from that of its parent.
    let mut signing_in = Command::new(std::env::current_exe()?);
    let signed_in = signing_in.arg(SIGN_IN).arg(home).status()?;
    ensure!(signed_in.success(), "the sign-in failed");
    let arguments = ["gho_abcdefghijklmnopqrstuvwxyz0123456789\\n"];
    let mut printf = Contender::new("printf", "/usr/bin/printf", &arguments, home);
    let mut ours = Contender::new("coze token", coze, &["token"], home);
    let mut gh = Contender::new("gh auth token", "/usr/bin/gh", &["auth", "token"], home);
    let has_gh = gh.run().is_ok();
    gh.seconds.clear();
    for _ in 0..run.choose(200, 3) {
        printf.run()?;
        ours.run()?;
        if has_gh {
            gh.run()?;
        }
    }

    let mut report = Report::new();
    report.goal(
        "coze token, warm: elapsed",
        ours.milliseconds(),
        "ms",
        Goal::AtMost(10.0),
        "a stored sign-in, from the start of the process to its end; in turn with the others, 200 times",
        "",
    );
    report.goal(
        "coze token, warm: memory",
        ours.most_memory / MIB,
        "MiB",
        Goal::AtMost(15.0),
        "the most resident memory of the process",
        "",
    );
    let mut others = vec![&printf];
    others.extend(has_gh.then_some(&gh));
    for other in others {
        report.figure(
            format!("coze token, warm: against {}", other.name),
            ours.milliseconds() / other.milliseconds(),
            "x",
            format!(
                "{:.2} ms and {:.1} MiB",
                other.milliseconds(),
                other.most_memory / MIB
            ),
        );
    }
    let size = coze.metadata()?.len() as f64;
    report.figure(
        "coze: size of the program",
        size / MIB,
        "MiB",
        "stripped; the mock is in it",
    );
    Ok(report)
}

/// The user of `coze` has signed in to the mock, and that of `gh` has a token.
fn sign_in(home: &Path) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let mock = MockCoze::builder().device_interval(Duration::from_secs(1));
        let mock = mock.start().await?;
        let endpoint = Endpoint::custom(mock.url())?;
        let client = OAuthClient::new(endpoint.clone())?;
        let device = DeviceFlow::new(client, defaults::DEVICE_CLIENT_ID)?;
        let authorization = device.start().await?;
        mock.approve_device(authorization.user_code())?;
        let token = device.poll(&authorization).await?;
        let config = ProfileConfig::new(Flow::Device, defaults::DEVICE_CLIENT_ID, endpoint)?;
        let profiles = Profiles::in_folder(home.join("coze"), "coze");
        profiles.put("default", &config, None, &token).await?;
        anyhow::Ok(())
    })?;
    let hosts = "github.com:\n    oauth_token: gho_abcdefghijklmnopqrstuvwxyz0123456789\n    user: someone\n";
    std::fs::write(home.join("hosts.yml"), hosts).context("the configuration of gh")
}
