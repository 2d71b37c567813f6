//! `coze status`: where tokens come from, without any request.

use coze_auth::{Flow, OAuthConfig};
use coze_auth_stores::FileStore;
use coze_credentials::{ProfileConfig, Source, StoreKind};
use serde_json::{Map, Value};

use crate::{
    failure::{Exit, Failure, Result, naming_profile},
    session::{Place, Session, profiles},
    terminal::Printable,
    token::{State, state_of},
};

pub(crate) async fn run(as_json: bool, session: &Session<'_>) -> Result<()> {
    let status = Status::of(session).await?;
    if as_json {
        let facts: Map<_, _> = status.facts.iter().cloned().collect();
        session.terminal.print_json(Value::Object(facts)).await?;
    } else {
        for (name, value) in &status.facts {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            let name = name.replace('_', " ");
            let value = Printable(&value);
            let line = format!("{name:<12} {value}");
            session.terminal.print(line).await?;
        }
    }
    match status.is_signed_in {
        true => Ok(()),
        false => Err(Failure::silent(Exit::SignInNeeded)),
    }
}

struct Status {
    facts: Vec<(String, Value)>,
    is_signed_in: bool,
}

impl Status {
    async fn of(session: &Session<'_>) -> Result<Self> {
        let mut status = Self {
            facts: Vec::new(),
            is_signed_in: true,
        };
        match session.place()? {
            Place::Profile(name) => {
                status.add("source", Source::Profile(name.clone()));
                status.add_profile(&name, None).await?;
                status.name_profile(session.profile.as_deref());
            }
            Place::Configuration(source, config) => {
                status.add("source", source);
                match config.flow() {
                    Flow::Token => {
                        status.add("flow", "token");
                        status.add("api_base", config.endpoint().api_base());
                        status.add("state", "a fixed token; coze whoami checks it");
                    }
                    Flow::Jwt => {
                        status.add_app(Flow::Jwt, &config);
                        status.add("state", "each token is new; no user signs in");
                    }
                    flow => {
                        let name = session.profile_name()?;
                        status.add("profile", &name);
                        status.add_profile(&name, Some(&config)).await?;
                        if !status.facts.iter().any(|(name, _)| name == "flow") {
                            status.add_app(flow, &config);
                        }
                    }
                }
            }
        }
        Ok(status)
    }

    fn add(&mut self, name: &str, value: impl ToString) {
        self.facts.push((name.to_owned(), value.to_string().into()));
    }

    /// What is said about signing in names the profile of the command line.
    fn name_profile(&mut self, profile: Option<&str>) {
        for (name, value) in &mut self.facts {
            if let ("state", Value::String(text)) = (name.as_str(), value) {
                *text = naming_profile(std::mem::take(text).into(), profile).into_owned();
            }
        }
    }

    fn add_app(&mut self, flow: Flow, config: &OAuthConfig) {
        self.add("flow", flow);
        self.add("client_id", config.client_id().map_or("", AsRef::as_ref));
        self.add("api_base", config.endpoint().api_base());
    }

    async fn add_profile(&mut self, name: &str, app: Option<&OAuthConfig>) -> Result<()> {
        let profiles = match profiles() {
            Ok(profiles) => profiles,
            // There is no home folder.
            Err(failure) => {
                self.is_signed_in = false;
                self.add("state", failure.message());
                return Ok(());
            }
        };
        let Some(config) = profiles.load(name)? else {
            self.is_signed_in = false;
            self.add("state", State::SignedOut);
            return Ok(());
        };
        if app.is_some_and(|app| !is_of(&config, app)) {
            self.is_signed_in = false;
            self.add(
                "state",
                format!("profile {name} is a sign-in to another app: see coze doctor"),
            );
            return Ok(());
        }
        self.add("flow", config.flow());
        self.add("client_id", config.client_id().as_ref());
        self.add("api_base", config.endpoint().api_base());
        if let Some(workspace) = config.workspace() {
            self.add("workspace", workspace);
        }
        self.add("store", shown_store(config.store()));
        let sign_in = profiles.sign_in(name, config.store())?;
        let state = state_of(&sign_in).await?;
        self.is_signed_in = matches!(state, State::Valid(_) | State::Expired);
        self.add("state", state);
        Ok(())
    }
}

/// Whether a profile is a sign-in to this app at this endpoint.
pub(crate) fn is_of(config: &ProfileConfig, app: &OAuthConfig) -> bool {
    app.flow() == config.flow()
        && app.client_id() == Some(config.client_id())
        && app.endpoint() == config.endpoint()
}

fn shown_store(kind: StoreKind) -> String {
    let folder = FileStore::in_default_folder("coze");
    match (kind, folder) {
        (StoreKind::File, Ok(store)) => format!("file: {}", store.folder().display()),
        _ => kind.to_string(),
    }
}
