//! Background processes that end with their parent.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::Result;

/// A process that is ended when this is dropped.
pub(crate) struct Background {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Background {
    /// Starts the process, and returns the lines that it prints.
    pub(crate) fn start(mut command: Command) -> Result<(Self, Receiver<String>)> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {program}: {error}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or("its output is not captured")?;
        Ok((Self { child, stdin }, lines_of(stdout)))
    }

    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        use std::io::Write as _;
        let stdin = self.stdin.as_mut().ok_or("its input is closed")?;
        writeln!(stdin, "{line}")?;
        Ok(stdin.flush()?)
    }

    /// Sends SIGKILL, so that the process cannot clean up.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn has_ended_within(&mut self, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        loop {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Our processes end at the end of their input.
        drop(self.stdin.take());
        if !self.has_ended_within(Duration::from_secs(5)) {
            let _ = self.kill();
        }
    }
}

fn lines_of(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // Continue to read without a receiver: a program whose output is blocked might stop.
            let _ = sender.send(line);
        }
    });
    lines
}

/// A command that ends a program at the end of its input, although the program does not read it: if this process is killed, nothing
/// is left running. A shell supervises it.
pub(crate) fn ends_with_input(program: &Path) -> Command {
    const WATCH: &str = r#""$0" "$@" </dev/null & watched=$!; trap 'kill $watched; wait $watched' EXIT INT TERM; cat >/dev/null"#;
    let mut command = Command::new("sh");
    command.args(["-c", WATCH]).arg(program);
    command
}
