//! Child processes: started, awaited with a timeout, and ended with this process.
//!
//! They stay in this process group, so that Ctrl-C in a terminal reaches them too. If this process is killed, drivers end because
//! their input ends; for programs that do not read input there is [`ends_with_input`].

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A program with a line protocol. On drop its input is closed, and it is killed if it does not end.
pub(super) struct Running {
    child: Guarded,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Running {
    /// Starts a program with its standard error redirected to the file `log`.
    pub(super) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let errors = create(log)?;
        let mut child = Guarded::spawn(
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(errors),
        )?;
        let stdin = child.0.stdin.take();
        let stdout = child
            .0
            .stdout
            .take()
            .context("its output is not captured")?;
        Ok(Self {
            child,
            stdin,
            lines: lines_of(stdout),
            log: log.to_owned(),
        })
    }

    pub(super) fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its input is closed")?;
        writeln!(stdin, "{line}")
            .and_then(|()| stdin.flush())
            .with_context(|| format!("the program has ended{}", tail(&self.log)))
    }

    /// The next line that is a JSON object with this field. Other lines are skipped, because an SDK may print too.
    pub(super) fn json_line<T: DeserializeOwned>(
        &mut self,
        field: &str,
        wait: Duration,
    ) -> Result<T> {
        let deadline = Instant::now() + wait;
        loop {
            let line = match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no response within {} s{}", wait.as_secs(), tail(&self.log))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the program has ended{}", tail(&self.log))
                }
            };
            match serde_json::from_str::<Value>(&line) {
                Ok(value) if value.get(field).is_some() => {
                    return serde_json::from_value(value)
                        .context("unexpected form of the program's output");
                }
                _ => {}
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // If it does not end, it is killed next.
        let _ = self.child.wait(Duration::from_secs(10));
    }
}

fn lines_of(stdout: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// A command that ends a program at the end of its input, although the program does not read it. A shell supervises it.
pub(super) fn ends_with_input(program: &Path) -> Command {
    const WATCH: &str = r#""$0" "$@" & watched=$!; trap 'kill $watched; wait $watched' EXIT INT TERM; cat > /dev/null"#;
    let mut command = Command::new("sh");
    command.args(["-c", WATCH]).arg(program);
    command
}

/// Runs a program and returns its output; standard error is redirected to the file `log`.
pub(super) fn output(command: &mut Command, log: &Path, at_most: Duration) -> Result<String> {
    let errors = create(log)?;
    let mut child = Guarded::spawn(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors),
    )?;
    let lines = lines_of(
        child
            .0
            .stdout
            .take()
            .context("its output is not captured")?,
    );
    child.ends_well(at_most, log)?;
    // The channel closes when all writers of the pipe have ended; a background process must not block this one.
    let mut printed = String::new();
    while let Ok(line) = lines.recv_timeout(Duration::from_secs(5)) {
        printed.push_str(&line);
        printed.push('\n');
    }
    Ok(printed)
}

/// Runs a program with all its output redirected to the file `log`.
pub(super) fn finish(command: &mut Command, log: &Path, at_most: Duration) -> Result<()> {
    let errors = create(log)?;
    let printed = errors.try_clone().context("cannot write the log")?;
    let mut child = Guarded::spawn(command.stdin(Stdio::null()).stdout(printed).stderr(errors))?;
    child.ends_well(at_most, log)
}

/// Whether a program can be started and succeeds.
pub(super) fn succeeds(command: &mut Command, at_most: Duration) -> bool {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Guarded::spawn(quiet)
        .and_then(|mut child| child.wait(at_most))
        .is_ok_and(|status| status.success())
}

/// A child process that is killed on drop.
struct Guarded(Child);

impl Guarded {
    fn spawn(command: &mut Command) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        Ok(Self(child))
    }

    fn ends_well(&mut self, at_most: Duration, log: &Path) -> Result<()> {
        let status = self.wait(at_most)?;
        ensure!(status.success(), "{status}{}", tail(log));
        Ok(())
    }

    fn wait(&mut self, at_most: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + at_most;
        loop {
            if let Some(status) = self.0.try_wait().context("cannot wait for it")? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("it did not end within {} s", at_most.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // Both fail only if it has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn create(log: &Path) -> Result<File> {
    File::create(log).with_context(|| format!("cannot write {}", log.display()))
}

/// The end of a log, to append to a message.
fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(15)..]
        .iter()
        .map(|line| format!("\n    {line}"))
        .collect()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_that_times_out_is_killed_and_reported() {
        let folder = tempfile::tempdir().unwrap();
        let started = Instant::now();

        let log = folder.path().join("log");
        let error = output(&mut sh("exec sleep 30"), &log, Duration::from_millis(100)).unwrap_err();

        assert!(error.to_string().contains("did not end within"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_failed_program_is_reported_with_its_log() {
        let folder = tempfile::tempdir().unwrap();

        let log = folder.path().join("log");
        let error = finish(
            &mut sh("echo said; echo why >&2; exit 3"),
            &log,
            Duration::from_secs(10),
        )
        .unwrap_err();

        let text = error.to_string();
        assert!(text.contains("exit status: 3"), "{text}");
        assert!(text.contains("why") && text.contains("said"), "{text}");
    }

    #[test]
    fn other_output_of_a_driver_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let script =
            "read name; echo chatter; echo '{\"other\":1}'; echo \"{\\\"flow\\\":\\\"$name\\\"}\"";
        let mut running = Running::start(&mut sh(script), &folder.path().join("log")).unwrap();

        running.say("web").unwrap();
        let line: Value = running.json_line("flow", Duration::from_secs(10)).unwrap();

        assert_eq!(line["flow"], "web");
        let error = running
            .json_line::<Value>("flow", Duration::from_secs(10))
            .unwrap_err();
        assert!(error.to_string().contains("has ended"), "{error}");
    }

    #[test]
    fn a_silent_driver_times_out() {
        let folder = tempfile::tempdir().unwrap();
        let mut running =
            Running::start(&mut sh("exec sleep 30"), &folder.path().join("log")).unwrap();

        let error = running
            .json_line::<Value>("flow", Duration::from_millis(50))
            .unwrap_err();

        assert!(
            error.to_string().starts_with("no response within"),
            "{error}"
        );
    }

    #[test]
    fn a_program_that_does_not_read_its_input_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("program");
        std::fs::write(&script, r#"echo '{"pid":'$$'}'; exec sleep 30"#).unwrap();
        let mut command = ends_with_input(Path::new("sh"));
        command.arg(&script);
        let mut running = Running::start(&mut command, &folder.path().join("log")).unwrap();
        let line: Value = running.json_line("pid", Duration::from_secs(10)).unwrap();
        let pid = line["pid"].to_string();
        let is_alive = || {
            succeeds(
                Command::new("kill").args(["-0", &pid]),
                Duration::from_secs(10),
            )
        };
        assert!(is_alive());

        drop(running);

        let deadline = Instant::now() + Duration::from_secs(30);
        while is_alive() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(!is_alive());
    }

    #[test]
    fn a_missing_program_is_not_installed() {
        let mut absent = Command::new("no-such-program-anywhere");
        assert!(!succeeds(&mut absent, Duration::from_secs(1)));
    }
}
