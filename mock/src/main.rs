//! The command-line program: the mock for tests in any language.
//!
//! It prints one line of JSON when it is ready, logs each request to standard error, and stops on SIGINT or SIGTERM.

#![forbid(unsafe_code)]

use clap::{Parser, ValueEnum};
use coze_mock::{App, Builder, ErrorShape, MockCoze, RequestRecord, defaults};
use serde_json::{Value, json};
use std::error::Error;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// A mock of Coze's OAuth server and API, for contract tests without an account.
#[derive(Debug, Parser)]
#[command(name = "coze-mock", version, after_help = CONTROL)]
struct Arguments {
    /// The address to listen on; port 0 means a free port, which the ready line names
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// A JSON file of apps, instead of the default ones
    #[arg(long, value_name = "FILE")]
    apps: Option<PathBuf>,
    /// Accept (and record) the known deviations of third-party clients
    #[arg(long)]
    lenient: bool,
    /// Revoke the whole token family when a redeemed refresh token is sent again (not known of Coze)
    #[arg(long)]
    reuse_revokes_family: bool,
    /// Revoke the previous access token on refresh (not known of Coze)
    #[arg(long)]
    refresh_revokes_access_token: bool,
    /// The shape of the errors of the OAuth endpoints
    #[arg(long, value_enum, default_value_t = Shape::Both)]
    error_shape: Shape,
    /// Minimum interval between two polls of a device, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds, allow_hyphen_values = true)]
    device_interval: Duration,
    /// Lifetime of device codes, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds, allow_hyphen_values = true)]
    device_code_lifetime: Duration,
    /// Lifetime of users' access tokens, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "900", value_parser = seconds, allow_hyphen_values = true)]
    access_token_lifetime: Duration,
    /// A host that the `aud` of JWTs may name (may be repeated; default: the host that the client called)
    #[arg(long, value_name = "HOST")]
    audience: Vec<String>,
    /// The URL under which clients reach the mock, if it differs from the listening address
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Do not log requests
    #[arg(long)]
    quiet: bool,
}

/// How tests control the mock, for `--help`.
const CONTROL: &str = r#"Tests control the mock over HTTP: GET /_mock/ lists how. For example, POST these as JSON to /_mock/faults:
  {"fault": {"stream": {"end": {"cut": 3}}}}           the next stream ends after 3 events, without its end marker
  {"fault": {"stream": {"end": {"reset": 3}}}}         the connection is reset after 3 events
  {"fault": {"stream": {"first_event_millis": 2000, "pause_millis": 100, "comments": true,
    "byte_order_mark": true, "chunk_bytes": 1}}}       slow, with comments, with every character split
  {"fault": {"reply": {"text": "It is warm.",
    "tool_calls": [{"name": "read_thermometer", "arguments": "{}"}]}}}
                                                       the next chat requires an action
The README of coze-mock describes all of them."#;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shape {
    /// The code in both `error_code` and `error`, as Coze sends it
    Both,
    /// `{"error_code", "error_message", "error"}`
    A,
    /// `{"error", "error_description"}`
    B,
    /// `{"code", "msg", "detail"}`
    C,
}

/// A duration in seconds. The builder checks it again; this error names the option as it was typed.
fn seconds(text: &str) -> Result<Duration, String> {
    const MOST: u64 = 3_155_760_000;
    match text.parse() {
        Ok(seconds) if seconds <= MOST => Ok(Duration::from_secs(seconds)),
        _ => Err(format!(
            "a whole number of seconds from 0 to {MOST} (100 years)"
        )),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("coze-mock: {error}");
            let mut cause = error.source();
            while let Some(deeper) = cause {
                text.push_str(&format!(": {deeper}"));
                cause = deeper.source();
            }
            let _ = writeln!(io::stderr(), "{}", Printable(&text));
            ExitCode::FAILURE
        }
    }
}

/// A message without characters that control a terminal: control, zero-width and bidirectional characters.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '"' | '\'' | '\\' => f.write_char(character)?,
                other => write!(f, "{}", other.escape_debug())?,
            }
        }
        Ok(())
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let stop = Stop::listen()?;
    let mock = configure(&arguments)?.start().await?;
    let ready = ready_line(&mock)?;
    let mut out = io::stdout();
    writeln!(out, "{ready}")?;
    out.flush()?;
    stop.requested().await?;
    mock.shutdown().await;
    Ok(())
}

fn configure(arguments: &Arguments) -> Result<Builder, Box<dyn Error>> {
    let mut builder = MockCoze::builder()
        .listen(arguments.listen)
        .control_endpoints(true)
        .lenient(arguments.lenient)
        .reuse_revokes_family(arguments.reuse_revokes_family)
        .refresh_revokes_access_token(arguments.refresh_revokes_access_token)
        .device_interval(arguments.device_interval)
        .device_code_lifetime(arguments.device_code_lifetime)
        .access_token_lifetime(arguments.access_token_lifetime)
        .error_shape(match arguments.error_shape {
            Shape::Both => ErrorShape::Both,
            Shape::A => ErrorShape::A,
            Shape::B => ErrorShape::B,
            Shape::C => ErrorShape::C,
        });
    if let Some(path) = &arguments.apps {
        let text =
            read_apps(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        builder = builder.apps_json(&text)?;
    }
    for host in &arguments.audience {
        builder = builder.audience(host);
    }
    if let Some(url) = &arguments.public_url {
        builder = builder.public_url(url);
    }
    if !arguments.quiet {
        builder = builder.on_request(log);
    }
    Ok(builder)
}

/// The maximum size of an apps file: 1 MiB.
const APPS_BYTES: u64 = 1024 * 1024;

/// Only regular files are read: reading a pipe may block, and a device may be endless.
fn read_apps(path: &Path) -> io::Result<String> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let file = File::open(path)?;
    if file.metadata()?.len() > APPS_BYTES {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    let mut text = String::new();
    file.take(APPS_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn log(record: &RequestRecord) {
    // Nothing can be reported if standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{record}");
}

/// Everything that a test needs, in one line. Each app has the form of a `coze_oauth_config.json`.
fn ready_line(mock: &MockCoze) -> Result<Value, Box<dyn Error>> {
    let url = mock.public_url();
    let apps = mock
        .apps()
        .iter()
        .map(|app| app_json(app, url))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(json!({
        "ready": true,
        "coze_api_base": url,
        "coze_www_base": url,
        "control": format!("{}/_mock/", mock.url()),
        "apps": apps,
        "access_tokens": mock.fixed_access_tokens(),
        "workspace_id": defaults::WORKSPACE_ID,
        "bot_ids": defaults::BOT_IDS,
    }))
}

fn app_json(app: &App, url: &str) -> Result<Value, coze_mock::Error> {
    let mut entry = json!({
        "client_type": app.client_type(),
        "client_id": app.client_id(),
        "coze_api_base": url,
        "coze_www_base": url,
    });
    if let Some(client_secret) = app.client_secret() {
        entry["client_secret"] = client_secret.into();
    }
    if !app.redirect_uris().is_empty() {
        entry["redirect_uris"] = app.redirect_uris().into();
    }
    if let Some(public_key_id) = app.public_key_ids().next() {
        entry["public_key_id"] = public_key_id.into();
    }
    if let Some(private_key) = app.private_key_pem()? {
        entry["private_key"] = private_key.into();
    }
    Ok(entry)
}

/// The signals that stop the program. They are registered before the ready line is printed, because the parent process may
/// stop the program right after it.
struct Stop {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Stop {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn requested(mut self) -> io::Result<()> {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        Ok(())
    }
}

#[cfg(not(unix))]
impl Stop {
    fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    async fn requested(self) -> io::Result<()> {
        tokio::signal::ctrl_c().await
    }
}
