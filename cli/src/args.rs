//! The command line.

use std::{net::SocketAddr, path::PathBuf, str::FromStr as _, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use coze_auth::Endpoint;
use coze_credentials::StoreKind;

use crate::commands::api::ApiPath;

/// Exit codes, which scripts may rely on.
const EXIT_CODES: &str = "\
Exit codes:
  0    success
  1    another failure, such as a store that cannot be written
  2    wrong usage or configuration
  3    sign-in needed
  4    refused by Coze or by the user
  5    network
  6    a failure of the server, too many requests, an incomplete list, or an invalid response
  129  ended by SIGHUP
  130  interrupted by Ctrl-C
  141  standard output was closed
  143  ended by SIGTERM";

/// Sign in to Coze, print access tokens, call the API, chat.
///
/// Secrets are never arguments: they come from environment variables, files, standard input or a prompt.
#[derive(Debug, Parser)]
#[command(name = "coze", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Print only results, errors and what a login needs
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// The profile of a sign-in; the environment and files are then ignored, except by jwt and by login to a new profile. Default: the value of COZE_PROFILE, or default
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// Log the requests, without secrets, to standard error
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Call any operation of the API
    Api(Api),
    /// Chat with a bot
    Chat(Chat),
    /// Print a shell's completions
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Find out what is wrong: configuration, key, files, clock, network, sites
    Doctor(Doctor),
    /// Print an Authorization header with an access token, for curl -H @-
    Header(Header),
    /// Print a new access token of a JWT app
    Jwt(Jwt),
    /// Sign a user in
    Login(Login),
    /// Sign a user out
    Logout {
        /// Of all profiles
        #[arg(long, conflicts_with = "profile")]
        all: bool,
    },
    /// Start a mock of Coze, to try all of this without an account
    Mock(Mock),
    /// List the profiles
    Profiles {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show where tokens come from, and whether a user is signed in
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print an access token, refreshed if need be
    Token(Token),
    /// Show the user of the token
    Whoami {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Api {
    /// The method; by default that of the operation, or else GET, or POST if there are fields or an input
    #[arg(short = 'X', long, value_name = "METHOD")]
    pub(crate) method: Option<String>,
    /// The path, such as /v1/users/me; a parameter in braces is taken from the fields
    #[arg(value_name = "PATH", hide_possible_values = true)]
    pub(crate) path: ApiPath,
    /// A field with a text: in the query of a GET, or else in the JSON body
    #[arg(short = 'f', long = "field", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) fields: Vec<(String, String)>,
    /// The same with a JSON value: true, 20, ["a"]
    #[arg(short = 'F', long = "json-field", value_name = "KEY=JSON", value_parser = key_value)]
    pub(crate) json_fields: Vec<(String, String)>,
    /// A file with the JSON body; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Print all pages of a list, one response a line
    #[arg(long, conflicts_with = "stream")]
    pub(crate) paginate: bool,
    /// Print the events of a stream as they come, as one JSON object a line
    #[arg(long)]
    pub(crate) stream: bool,
    /// How long the whole call may take, with its retries, such as 30s or 1h; of a list, each page; not with --stream
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10m", conflicts_with = "stream")]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Chat {
    /// The bot
    #[arg(long, value_name = "ID", env = "COZE_BOT_ID")]
    pub(crate) bot: String,
    /// An existing conversation
    #[arg(long, value_name = "ID")]
    pub(crate) conversation: Option<String>,
    /// Your name for the user who chats: Coze keeps users' conversations apart
    #[arg(long, value_name = "NAME", default_value = "coze-cli")]
    pub(crate) user: String,
    /// The message; a conversation, line by line, if it is missing
    pub(crate) text: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The sites that are asked whether they know the app: com, cn, or the base URL of an API
    #[arg(long = "site", value_name = "SITE", value_parser = Endpoint::from_str, default_values = ["com", "cn"])]
    pub(crate) sites: Vec<Endpoint>,
}

#[derive(Debug, Args)]
pub(crate) struct Header {
    /// How long a user's token must stay valid at least, such as 5m; it is refreshed otherwise
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) min_validity: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct Token {
    /// Print the token and its expiry as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// How long a user's token must stay valid at least, such as 5m; it is refreshed otherwise
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) min_validity: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct Jwt {
    /// The lifetime of the token, such as 1h or 900s; by default 15 minutes
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// The id of your user: isolates that user's conversations
    #[arg(long, value_name = "NAME")]
    pub(crate) session_name: Option<String>,
    /// Limits a channel app's token to chats with these bots
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub(crate) scope_bots: Vec<String>,
    /// Asks for a token of another account or organisation
    #[arg(long, value_name = "ID", conflicts_with = "enterprise")]
    pub(crate) account: Option<String>,
    /// Asks for a token of an enterprise privilege app
    #[arg(long, value_name = "ID")]
    pub(crate) enterprise: Option<String>,
    /// Print the header and the claims of a JWT, and send nothing
    #[arg(long, conflicts_with = "json")]
    pub(crate) print_claims: bool,
    /// Print the token and its expiry as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Login {
    /// How to sign in; by default as the configured app says, or else with a device code
    #[arg(long, value_enum)]
    pub(crate) flow: Option<LoginFlow>,
    /// The client id of the app, instead of a configured one
    #[arg(long, value_name = "ID")]
    pub(crate) client_id: Option<String>,
    /// com, cn, or the base URL of the API; by default that of the configured app; with --client-id, com
    #[arg(long, value_name = "SITE", value_parser = Endpoint::from_str)]
    pub(crate) site: Option<Endpoint>,
    /// Limits the sign-in to this workspace
    #[arg(long, value_name = "ID")]
    pub(crate) workspace: Option<String>,
    /// Where the sign-in is kept; by default where that of the profile is, or else in a file
    #[arg(long, value_enum)]
    pub(crate) store: Option<LoginStore>,
    /// Replace the profile, even if it is a sign-in to another app or at another endpoint
    #[arg(long)]
    pub(crate) replace: bool,
    /// The registered address that the browser returns to, on this machine (PKCE, web)
    #[arg(long, value_name = "URL")]
    pub(crate) redirect_uri: Option<String>,
    /// Print the address of the page instead of opening a browser (PKCE, web)
    #[arg(long)]
    pub(crate) no_browser: bool,
    /// Ask for the address that the browser returned to, for a browser on another machine (PKCE, web)
    #[arg(long)]
    pub(crate) paste: bool,
}

/// How a user signs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoginFlow {
    /// A code that is confirmed on any device
    Device,
    /// The browser of this machine
    Pkce,
    /// The same, with the client secret of a web app
    Web,
}

/// Where a sign-in is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoginStore {
    /// A file of this user
    File,
    /// The keyring of the operating system
    Keyring,
}

impl From<LoginStore> for StoreKind {
    fn from(store: LoginStore) -> Self {
        match store {
            LoginStore::File => Self::File,
            LoginStore::Keyring => Self::Keyring,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Mock {
    /// The address to listen on; port 0 is any free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8930")]
    pub(crate) listen: SocketAddr,
    /// Print the variables of this app only; by default those of all, in groups
    #[arg(long, value_enum)]
    pub(crate) flow: Option<MockFlow>,
    /// Also write the app of --flow into a new file, as the console's coze_oauth_config.json
    #[arg(long, value_name = "FILE", requires = "flow")]
    pub(crate) config: Option<PathBuf>,
}

/// The ready-made credentials of the mock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MockFlow {
    /// A personal access token
    Token,
    /// A device app
    Device,
    /// A PKCE app
    Pkce,
    /// A web app
    Web,
    /// A JWT app
    Jwt,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it has the form key=value".to_owned()),
    }
}

/// A duration as `5m` or `1h 30m`, or a whole number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|_| "it is a duration such as 90s, 5m or 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_are_seconds_or_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert!(duration("soon").is_err());
    }

    /// No option takes a secret: their names say what is taken.
    #[test]
    fn no_option_takes_a_secret() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                let is_secret = ["secret", "token", "key_pem", "password"]
                    .iter()
                    .any(|word| name.contains(word));
                assert!(!is_secret, "{} --{name}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Arguments::command());
    }
}
