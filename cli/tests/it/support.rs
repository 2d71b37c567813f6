//! Runs the program in an environment of its own, and shows what it did.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use coze_mock::{MockCoze, defaults};
use tempfile::TempDir;

/// The folders and variables of one user.
pub(crate) struct World {
    pub(crate) folder: TempDir,
    variables: Vec<(String, String)>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            variables: Vec::new(),
        }
    }

    /// A user with a personal access token of this mock.
    pub(crate) fn with_token(mock: &MockCoze) -> Self {
        Self::new()
            .set("COZE_API_BASE", mock.url())
            .set("COZE_API_TOKEN", defaults::PERSONAL_ACCESS_TOKEN)
    }

    /// The owner of the mock's JWT app.
    pub(crate) fn with_jwt_app(mock: &MockCoze) -> Self {
        let key = mock.default_jwt_private_key_pem().unwrap();
        Self::new()
            .set("COZE_API_BASE", mock.url())
            .set("COZE_JWT_OAUTH_CLIENT_ID", defaults::JWT_CLIENT_ID)
            .set("COZE_JWT_OAUTH_PUBLIC_KEY_ID", defaults::JWT_PUBLIC_KEY_ID)
            .set("COZE_JWT_OAUTH_PRIVATE_KEY", key)
    }

    pub(crate) fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The program, which sees nothing of the environment of the test.
    pub(crate) fn command<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coze"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env("HOME", self.path())
            .env("XDG_CONFIG_HOME", self.path().join("config"))
            .env("XDG_STATE_HOME", self.path().join("state"))
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null());
        for name in ["SYSTEMROOT", "PATH"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(arguments).output().unwrap())
    }

    /// The same with this standard input.
    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &str) -> Run {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // The program may end without having read it.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        Run::of(child.wait_with_output().unwrap())
    }
}

/// What the program did.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Standard output, if the program succeeded.
    #[track_caller]
    pub(crate) fn success(&self) -> &str {
        assert_eq!(self.code, 0, "{self}");
        &self.stdout
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "exit code {}", self.code)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                writeln!(f, "--- {name}\n{}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

/// Compares a run with its snapshot. What differs between runs is replaced.
#[macro_export]
macro_rules! assert_run {
    ($run:expr) => {
        insta::with_settings!({filters => $crate::support::FILTERS.to_vec()}, {
            insta::assert_snapshot!($run.to_string());
        });
    };
    ($name:expr, $run:expr) => {
        insta::with_settings!({filters => $crate::support::FILTERS.to_vec()}, {
            insta::assert_snapshot!($name, $run.to_string());
        });
    };
}

pub(crate) const FILTERS: &[(&str, &str)] = &[
    (r"127\.0\.0\.1:\d{2,5}", "127.0.0.1:PORT"),
    (r"log id \d[0-9A-Za-z]+", "log id LOG-ID"),
    (r#""(logid|jti)":( ?)"[^"]+""#, r#""$1":$2"RANDOM""#),
    (r"cz[us]_[0-9A-Za-z_-]+", "TOKEN"),
    (
        r#""(iat|exp|expires_at|expires_in)":( ?)\d+"#,
        r#""$1":$2"TIME""#,
    ),
    (
        r"(?s)-----BEGIN PRIVATE KEY-----.*?-----END PRIVATE KEY-----",
        "PRIVATE KEY",
    ),
];

/// The program in the background, which is killed on drop.
pub(crate) struct Running {
    child: Child,
    pub(crate) first_lines: Vec<String>,
}

impl Running {
    /// Starts it, and waits for so many lines of its standard output.
    pub(crate) fn start(mut command: Command, lines: usize) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut first_lines = Vec::new();
        for _ in 0..lines {
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            first_lines.push(line.trim_end().to_owned());
        }
        // So that the program never waits for a reader.
        std::thread::spawn(move || output.read_to_end(&mut Vec::new()));
        Self { child, first_lines }
    }

    /// Sends Ctrl-C, and waits for the end.
    #[cfg(unix)]
    pub(crate) fn interrupt(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
        assert!(sent.success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of an event stream.
pub(crate) fn events(events: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (event, data) in events {
        write!(text, "event:{event}\ndata:{data}\n\n").unwrap();
    }
    text
}
