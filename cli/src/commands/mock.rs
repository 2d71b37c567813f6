//! `coze mock`: the mock of Coze in this process, with ready-made apps.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write as _},
    path::Path,
};

use coze_mock::{MockCoze, defaults};
use serde_json::{Value, json};

use crate::{
    args::{Mock, MockFlow},
    failure::{Exit, Failure, Result},
    session::Session,
    terminal::in_quotes,
};

pub(crate) async fn run(options: Mock, session: &Session<'_>) -> Result<()> {
    let builder = MockCoze::builder()
        .listen(options.listen)
        .control_endpoints(true);
    let mock = builder.start().await.map_err(|error| {
        let message = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let failure = Failure::new(Exit::Other, message);
        failure.with_hint("listen on a free port: coze mock --listen 127.0.0.1:0")
    })?;
    let apps = Apps {
        url: mock.url(),
        private_key: mock.default_jwt_private_key_pem().map_err(mock_failure)?,
    };
    if let (Some(path), Some(flow)) = (&options.config, options.flow) {
        apps.write_config(flow, path)?;
    }

    let terminal = session.terminal;
    match options.flow {
        Some(flow) => terminal.print(apps.exports(flow)).await?,
        None => terminal.print(apps.all_exports()).await?,
    }
    let url = mock.url();
    let lines = match options.flow {
        Some(_) => "the lines above",
        None => "the lines of one group above",
    };
    terminal.note(format_args!(
        "The mock of Coze listens at {url}. In another terminal, run {lines}, then coze. Ctrl-C stops it."
    ));
    std::future::pending().await
}

fn mock_failure(error: coze_mock::Error) -> Failure {
    Failure::new(Exit::Other, error.to_string())
}

/// The ready-made credentials of a running mock.
struct Apps<'m> {
    url: &'m str,
    private_key: &'m str,
}

impl Apps<'_> {
    fn variables(&self, flow: MockFlow) -> Vec<(&'static str, &str)> {
        let redirect_uri = "http://127.0.0.1:8931/callback";
        let mut variables = vec![
            ("COZE_API_BASE", self.url),
            ("COZE_BOT_ID", defaults::BOT_IDS[0]),
        ];
        variables.extend(match flow {
            MockFlow::Token => vec![("COZE_API_TOKEN", defaults::PERSONAL_ACCESS_TOKEN)],
            MockFlow::Device => vec![("COZE_DEVICE_OAUTH_CLIENT_ID", defaults::DEVICE_CLIENT_ID)],
            MockFlow::Pkce => vec![
                ("COZE_PKCE_OAUTH_CLIENT_ID", defaults::PKCE_CLIENT_ID),
                ("COZE_PKCE_OAUTH_REDIRECT_URI", redirect_uri),
            ],
            MockFlow::Web => vec![
                ("COZE_WEB_OAUTH_CLIENT_ID", defaults::WEB_CLIENT_ID),
                ("COZE_WEB_OAUTH_CLIENT_SECRET", defaults::WEB_CLIENT_SECRET),
                ("COZE_WEB_OAUTH_REDIRECT_URI", redirect_uri),
            ],
            MockFlow::Jwt => vec![
                ("COZE_JWT_OAUTH_CLIENT_ID", defaults::JWT_CLIENT_ID),
                ("COZE_JWT_OAUTH_PUBLIC_KEY_ID", defaults::JWT_PUBLIC_KEY_ID),
                ("COZE_JWT_OAUTH_PRIVATE_KEY", self.private_key),
            ],
        });
        variables
    }

    /// Lines for the shell of this system.
    fn exports(&self, flow: MockFlow) -> String {
        let line = if cfg!(windows) { powershell } else { posix };
        let variables = self.variables(flow).into_iter();
        let lines = variables.map(|(name, value)| line(name, value));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn all_exports(&self) -> String {
        let groups = [
            ("a personal access token", MockFlow::Token),
            ("or a device app, then: coze login", MockFlow::Device),
            ("or a PKCE app, then: coze login", MockFlow::Pkce),
            ("or a web app, then: coze login", MockFlow::Web),
            ("or a JWT app", MockFlow::Jwt),
        ];
        let groups = groups.map(|(name, flow)| format!("# {name}\n{}", self.exports(flow)));
        groups.join("\n\n")
    }

    /// The form of the console's `coze_oauth_config.json`.
    fn config(&self, flow: MockFlow) -> Result<Value> {
        let mut config = match flow {
            MockFlow::Token => {
                let message = "a personal access token has no configuration file";
                return Err(Failure::usage(message)
                    .with_hint("use COZE_API_TOKEN, or --flow device, pkce, web or jwt"));
            }
            MockFlow::Device => {
                json!({"client_type": "device", "client_id": defaults::DEVICE_CLIENT_ID})
            }
            MockFlow::Pkce => json!({"client_type": "pkce", "client_id": defaults::PKCE_CLIENT_ID}),
            MockFlow::Web => json!({
                "client_type": "web",
                "client_id": defaults::WEB_CLIENT_ID,
                "client_secret": defaults::WEB_CLIENT_SECRET,
            }),
            MockFlow::Jwt => json!({
                "client_type": "jwt",
                "client_id": defaults::JWT_CLIENT_ID,
                "public_key_id": defaults::JWT_PUBLIC_KEY_ID,
                "private_key": self.private_key,
            }),
        };
        config["coze_api_base"] = self.url.into();
        config["coze_www_base"] = self.url.into();
        Ok(config)
    }

    fn write_config(&self, flow: MockFlow, path: &Path) -> Result<()> {
        let config = self.config(flow)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let written = options
            .open(path)
            .and_then(|mut file| file.write_all(format!("{config:#}\n").as_bytes()));
        written.map_err(|error| {
            let what = format!("{} can't be written", path.display());
            Failure::io(what, &error).with_hint(match error.kind() {
                ErrorKind::AlreadyExists => "name a file that does not exist yet",
                _ => "name a file in a folder that exists and that you can write to",
            })
        })
    }
}

/// Sets an environment variable in a POSIX shell.
fn posix(name: &str, value: &str) -> String {
    format!("export {name}={}", in_quotes(value))
}

fn powershell(name: &str, value: &str) -> String {
    format!("$env:{name} = '{}'", value.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_for_the_shell() {
        assert_eq!(posix("A", "it's $x"), r"export A='it'\''s $x'");
        assert_eq!(powershell("A", "it's $x"), "$env:A = 'it''s $x'");
    }
}
