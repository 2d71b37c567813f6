//! Runs the program in an environment of its own, and shows what it did.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Output, Stdio},
    time::Duration,
};

use coze_auth::SignIn;
use coze_auth_stores::FileStore;
use coze_mock::{MockCoze, defaults};
use tempfile::TempDir;

/// A mock that lets clients poll each second.
pub(crate) async fn start_mock() -> MockCoze {
    let mock = MockCoze::builder().device_interval(Duration::from_secs(1));
    mock.start().await.unwrap()
}

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

    /// A user who has signed in to the mock's device app.
    pub(crate) fn signed_in(mock: &MockCoze) -> Self {
        let world = Self::new();
        let arguments = [
            "login",
            "--client-id",
            defaults::DEVICE_CLIENT_ID,
            "--site",
            mock.url(),
        ];
        let mut login = Dialog::start(world.command(arguments));
        mock.approve_device(&login.user_code()).unwrap();
        login.end().success();
        world
    }

    pub(crate) fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// The same folders, and none of the variables.
    pub(crate) fn without_variables(self) -> Self {
        Self {
            variables: Vec::new(),
            ..self
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The program, which sees nothing of the environment of the test.
    pub(crate) fn command<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        #[cfg(target_os = "linux")]
        inherit_no_ignored_signal();
        let mut command = Command::new(env!("CARGO_BIN_EXE_coze"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env("HOME", self.path())
            .env("USERPROFILE", self.path())
            .env("LOCALAPPDATA", self.path().join("state"))
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

    /// The sign-in of the profile `default`.
    pub(crate) fn sign_in(&self) -> SignIn {
        let store = FileStore::new(self.path().join("state/coze/sign-ins"));
        SignIn::new(store, "default").unwrap()
    }

    /// The file of the profile `default`.
    pub(crate) fn profile(&self) -> PathBuf {
        let folder = if cfg!(windows) { "state" } else { "config" };
        self.path().join(folder).join("coze/profiles/default.json")
    }

    /// Runs it to its end. Its folder is shown as `HOME`.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        let mut run = Run::of(self.command(arguments).output().unwrap());
        let folder = self.path().display().to_string();
        for text in [&mut run.stdout, &mut run.stderr] {
            *text = text.replace(&folder, "HOME");
            if cfg!(windows) {
                *text = as_on_linux(&text.replace(&folder.replace('\\', r"\\"), "HOME"));
            }
        }
        run
    }

    /// The same with this standard input.
    pub(crate) fn run_with_input(&self, arguments: &[&str], input: impl AsRef<[u8]>) -> Run {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // The program may end without having read it.
        let _ = stdin.write_all(input.as_ref());
        drop(stdin);
        Run::of(child.wait_with_output().unwrap())
    }
}

/// A background job of a script ignores SIGINT, and after `nohup` SIGHUP, and so would the programs that it starts. Signals with a
/// handler have their default effect there.
#[cfg(target_os = "linux")]
fn inherit_no_ignored_signal() {
    use tokio::signal::unix::{SignalKind, signal};

    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = u64::from_str_radix(mask.unwrap().trim(), 16).unwrap();
        let kinds = [
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::terminate(),
        ];
        // In a thread without a runtime.
        let handling = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            let _context = runtime.enter();
            for kind in kinds {
                if mask >> (kind.as_raw_value() - 1) & 1 == 1 {
                    // The handler stays.
                    drop(signal(kind).unwrap());
                }
            }
        });
        handling.join().unwrap();
    });
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

/// Paths with slashes, and the name of the program without its ending.
fn as_on_linux(text: &str) -> String {
    let text = text.replace("coze.exe", "coze");
    let mut parts = text.split("HOME");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let ends = |character: char| !(character.is_alphanumeric() || "\\._-".contains(character));
        let (path, rest) = part.split_at(part.find(ends).unwrap_or(part.len()));
        let path = path.replace(r"\\", "/").replace('\\', "/");
        write!(shown, "HOME{path}{rest}").unwrap();
    }
    // Windows has one folder for both.
    shown.replace("HOME/state/coze/profiles", "HOME/config/coze/profiles")
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
    // PowerShell.
    (r"(?m)^\$env:(\w+) = ", "export $1="),
    (r": [^:]+ \(os error \d+\)", ": SYSTEM ERROR"),
    (r"log id \d[0-9A-Za-z]+", "log id LOG-ID"),
    (r#""(logid|jti)":( ?)"[^"]+""#, r#""$1":$2"RANDOM""#),
    (r"in \d+ ms", "in N ms"),
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

    #[cfg(unix)]
    pub(crate) fn send(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Sends a signal, and waits for the end.
    #[cfg(unix)]
    pub(crate) fn signal(mut self, name: &str) -> Option<i32> {
        self.send(name);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program during a login: the test reads what it says, and acts as the user.
pub(crate) struct Dialog {
    child: Child,
    messages: BufReader<ChildStderr>,
    pub(crate) said: String,
}

impl Dialog {
    pub(crate) fn start(mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let messages = BufReader::new(child.stderr.take().unwrap());
        let said = String::new();
        Self {
            child,
            messages,
            said,
        }
    }

    /// Reads until a line for which `find` returns something.
    #[track_caller]
    pub(crate) fn read_until<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> T {
        loop {
            let mut line = String::new();
            let length = self.messages.read_line(&mut line).unwrap();
            assert!(length > 0, "the program said only: {}", self.said);
            self.said.push_str(&line);
            if let Some(found) = find(line.trim()) {
                return found;
            }
        }
    }

    /// The user code in its frame.
    pub(crate) fn user_code(&mut self) -> String {
        self.read_until(|line| {
            let code = line.strip_prefix('│')?.strip_suffix('│')?;
            Some(code.replace(' ', ""))
        })
    }

    /// The address of a page.
    pub(crate) fn url(&mut self) -> String {
        self.read_until(|line| line.starts_with("http").then(|| line.to_owned()))
    }

    pub(crate) fn write(&mut self, text: &str) {
        self.child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    /// Waits until it handles Ctrl-C itself.
    #[cfg(target_os = "linux")]
    pub(crate) fn wait_until_it_listens(&self) {
        let path = format!("/proc/{}/status", self.child.id());
        let handles = || {
            let status = std::fs::read_to_string(&path).unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            // The lowest bit is signal 1, SIGINT is 2.
            u64::from_str_radix(mask.unwrap().trim(), 16).unwrap() & 2 != 0
        };
        while !handles() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[cfg(unix)]
    pub(crate) fn interrupt(&self) {
        signal(&self.child, "INT");
    }

    /// Waits until it has written something, of which one byte is read.
    #[cfg(target_os = "linux")]
    pub(crate) fn wait_for_output(&mut self) {
        let output = self.child.stdout.as_mut().unwrap();
        output.read_exact(&mut [0]).unwrap();
    }

    /// Waits for its end, and fails after a minute.
    #[cfg(target_os = "linux")]
    pub(crate) fn ends(&mut self) {
        for _ in 0..6000 {
            if self.child.try_wait().unwrap().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child.kill().unwrap();
        panic!("it does not end; it said: {}", self.said);
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Run {
        self.messages.read_to_string(&mut self.said).unwrap();
        let mut run = Run::of(self.child.wait_with_output().unwrap());
        run.stderr = self.said;
        run
    }
}

#[cfg(unix)]
fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill")
        .args(["-s", name, &pid])
        .status()
        .unwrap();
    assert!(sent.success());
}

/// The lines of an event stream.
pub(crate) fn events(events: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (event, data) in events {
        write!(text, "event:{event}\ndata:{data}\n\n").unwrap();
    }
    text
}
