//! [`DefaultCredentials`]: the first credentials that are there.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use coze_auth::{
    AccessToken, CachedProvider, ConfiguredFlow, Endpoint, Error, ErrorKind, Flow, GetToken,
    OAuthClient, OAuthClientBuilder, OAuthConfig, RefreshMode, Result, SignIn, TokenFuture,
    TokenProvider, UserFlow,
};

use crate::{Profiles, profiles};

/// The file that the Coze console offers, in the working folder.
const CONFIG_FILE: &str = "coze_oauth_config.json";
/// The variable that names such a file elsewhere.
const CONFIG_VARIABLE: &str = "COZE_OAUTH_CONFIG";
/// The variable that names a profile.
const PROFILE_VARIABLE: &str = "COZE_PROFILE";
/// The profile that is used if no other is named.
pub(crate) const DEFAULT_PROFILE: &str = "default";
/// The program whose profiles are used.
pub(crate) const PROGRAM: &str = "coze";

/// The credentials that this machine has for the Coze API: a token provider, and where it was found. The [crate](crate) lists the
/// places, in their order. Clones share the provider.
///
/// ```no_run
/// # async fn example() -> coze_auth::Result<()> {
/// use coze_auth::TokenProvider;
/// use coze_credentials::DefaultCredentials;
///
/// let credentials = DefaultCredentials::find().await?;
/// let token = credentials.token().await?;
/// // Before the program ends: waits for a refreshed sign-in that is not saved yet.
/// credentials.shutdown().await?;
/// # Ok(()) }
/// ```
///
/// A user's sign-in is refreshed by the caller that finds its token expired, so that a short program never ends in the middle of a
/// refresh. For a service, choose [`RefreshMode::InBackground`]. Processes that share a profile refresh it once.
#[derive(Clone)]
pub struct DefaultCredentials {
    provider: Arc<dyn TokenProvider>,
    client: OAuthClient,
    source: Source,
    flow: Option<Flow>,
}

/// Where credentials were found. `Display` says it in a few words.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The caller passed a provider.
    Caller,
    /// The environment variables of the official SDKs.
    Environment,
    /// A `coze_oauth_config.json`: the one that `COZE_OAUTH_CONFIG` names, or that of the working folder.
    File(PathBuf),
    /// The sign-in of this profile.
    Profile(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caller => f.write_str("the program"),
            Self::Environment => f.write_str("the environment"),
            Self::File(path) => f.write_str(&shown(path)),
            Self::Profile(name) => write!(f, "profile {name}"),
        }
    }
}

impl DefaultCredentials {
    /// The first credentials that are there. Nothing is sent.
    ///
    /// # Errors
    ///
    /// - [`NotSignedIn`](ErrorKind::NotSignedIn) if there are none: the message lists every place that was looked at, and what was
    ///   missing there. Also if the place that was found needs a user's sign-in, and that is missing or has ended.
    /// - [`Configuration`](ErrorKind::Configuration) if the first place that is there can't be used: the message names it.
    /// - [`Store`](ErrorKind::Store) if the store of the sign-in does not work, or the sign-in is damaged.
    pub async fn find() -> Result<Self> {
        Self::builder().find().await
    }

    /// The same with options.
    pub fn builder() -> CredentialsBuilder {
        CredentialsBuilder {
            provider: None,
            profile: None,
            profiles: None,
            variable: Arc::new(|name| std::env::var_os(name)),
            working_folder: None,
            client: OAuthClient::builder(),
            refresh: None,
        }
    }

    /// Where they were found.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The flow of the tokens; `None` if the caller passed a provider.
    #[must_use]
    pub fn flow(&self) -> Option<Flow> {
        self.flow
    }

    /// The client that sends the flow's requests. Share it with an API client to use the same endpoint and connections.
    #[must_use]
    pub fn client(&self) -> &OAuthClient {
        &self.client
    }

    /// The provider.
    #[must_use]
    pub fn provider(&self) -> Arc<dyn TokenProvider> {
        Arc::clone(&self.provider)
    }
}

impl TokenProvider for DefaultCredentials {
    fn cached(&self) -> Option<AccessToken> {
        self.provider.cached()
    }

    fn fetch(&self) -> TokenFuture<'_> {
        self.provider.fetch()
    }

    fn token(&self) -> GetToken<'_> {
        self.provider.token()
    }

    fn endpoint(&self) -> Option<&Endpoint> {
        Some(self.client.endpoint())
    }

    fn invalidate(&self, token: &AccessToken) {
        self.provider.invalidate(token);
    }

    fn shutdown(&self) -> TokenFuture<'_, ()> {
        self.provider.shutdown()
    }
}

impl fmt::Debug for DefaultCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DefaultCredentials")
            .field("source", &self.source)
            .field("flow", &self.flow)
            .field("endpoint", self.client.endpoint())
            .finish_non_exhaustive()
    }
}

/// Returns the value of an environment variable.
type Variable = Arc<dyn Fn(&str) -> Option<OsString> + Send + Sync>;

/// Configures how credentials are found: see [`DefaultCredentials::builder`].
///
/// ```
/// use coze_auth::{ErrorKind, TokenProvider};
/// use coze_credentials::{DefaultCredentials, Profiles, Source};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coze_auth::Result<()> {
/// # let folder = std::env::temp_dir().join("coze-credentials-example-that-does-not-exist");
/// let variables = |name: &str| match name {
///     "COZE_API_TOKEN" => Some("pat_abc".into()),
///     _ => None,
/// };
/// let credentials = DefaultCredentials::builder().variables(variables).find().await?;
/// assert_eq!(credentials.source(), &Source::Environment);
/// assert_eq!(credentials.token().await?.expose(), "pat_abc");
///
/// // Only this profile: the environment is not asked.
/// let named = DefaultCredentials::builder()
///     .variables(variables)
///     .profiles(Profiles::in_folder(folder, "my-program"))
///     .profile("work");
/// assert_eq!(named.find().await.unwrap_err().kind(), ErrorKind::NotSignedIn);
/// # Ok(()) }
/// ```
#[must_use]
pub struct CredentialsBuilder {
    provider: Option<Arc<dyn TokenProvider>>,
    profile: Option<String>,
    profiles: Option<Profiles>,
    variable: Variable,
    working_folder: Option<PathBuf>,
    client: OAuthClientBuilder,
    refresh: Option<RefreshMode>,
}

impl CredentialsBuilder {
    /// Uses this provider, and looks nowhere else.
    pub fn provider(mut self, provider: impl TokenProvider) -> Self {
        self.provider = Some(Arc::new(provider));
        self
    }

    /// Uses the sign-in of this profile, and looks nowhere else.
    pub fn profile(mut self, name: impl Into<String>) -> Self {
        self.profile = Some(name.into());
        self
    }

    /// Where profiles are kept; by default those of the program `coze`.
    pub fn profiles(mut self, profiles: Profiles) -> Self {
        self.profiles = Some(profiles);
        self
    }

    /// Takes the environment variables from here, instead of this process's environment: from a `.env` file, a secret manager or
    /// a test.
    pub fn variables(
        mut self,
        variable: impl Fn(&str) -> Option<OsString> + Send + Sync + 'static,
    ) -> Self {
        self.variable = Arc::new(variable);
        self
    }

    /// The folder in which `coze_oauth_config.json` is looked for; by default this process's working folder. A relative path in
    /// `COZE_OAUTH_CONFIG` is resolved against it.
    pub fn working_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.working_folder = Some(folder.into());
        self
    }

    /// Your own client. Its endpoint is set to that of the credentials.
    pub fn client(mut self, client: OAuthClientBuilder) -> Self {
        self.client = client;
        self
    }

    /// When a token that will end soon is replaced. By default, [in line](RefreshMode::InLine) for a user's sign-in, and
    /// [in the background](RefreshMode::InBackground) for a JWT app.
    pub fn refresh(mut self, refresh: RefreshMode) -> Self {
        self.refresh = Some(refresh);
        self
    }

    /// The first credentials that are there. Nothing is sent.
    ///
    /// # Errors
    ///
    /// Those of [`DefaultCredentials::find`].
    pub async fn find(mut self) -> Result<DefaultCredentials> {
        if let Some(provider) = self.provider.take() {
            let endpoint = provider.endpoint().cloned().unwrap_or_default();
            return Ok(DefaultCredentials {
                client: self.client.endpoint(endpoint).build()?,
                provider,
                source: Source::Caller,
                flow: None,
            });
        }
        if let Some(name) = self.profile.clone() {
            let none = |what| Err(Error::new(ErrorKind::NotSignedIn, what));
            return match self.of_profile(&name).await? {
                Found::Credentials(credentials) => Ok(credentials),
                Found::Nothing(what) => none(what),
            };
        }
        let mut missing = Vec::new();
        if let Some((source, config)) = self.look_for_configuration(None, &mut missing)? {
            return self.of_configuration(source, config).await;
        }
        let name = self.profile_name()?;
        match self.of_profile(&name).await? {
            Found::Credentials(credentials) => Ok(credentials),
            Found::Nothing(what) => {
                missing.push(what);
                Err(nothing_found(&missing))
            }
        }
    }

    /// The configuration of an app in the environment or in a file: for a program that signs a user in, or that needs one flow. If
    /// `flow` is given, the variables of other flows are ignored, and a file for another flow is an error.
    ///
    /// # Errors
    ///
    /// [`Configuration`](ErrorKind::Configuration) if there is none, which lists every place that was looked at, or if the first
    /// place that is there can't be used, which names it.
    pub fn configuration(&self, flow: Option<Flow>) -> Result<(Source, OAuthConfig)> {
        let mut missing = Vec::new();
        let found = self.look_for_configuration(flow, &mut missing)?;
        found.ok_or_else(|| {
            let what = format!("no app is configured: {}", missing.join("; "));
            Error::new(ErrorKind::Configuration, what)
        })
    }

    /// Like [`configuration`](Self::configuration), but `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`Configuration`](ErrorKind::Configuration) if the first place that is there can't be used, which names it.
    pub fn find_configuration(&self, flow: Option<Flow>) -> Result<Option<(Source, OAuthConfig)>> {
        self.look_for_configuration(flow, &mut Vec::new())
    }

    /// The name of the profile: the caller's, that of `COZE_PROFILE`, or `default`.
    ///
    /// # Errors
    ///
    /// [`Configuration`](ErrorKind::Configuration) if the value of `COZE_PROFILE` can't be the name of a profile.
    pub fn profile_name(&self) -> Result<String> {
        let named = self.named_profile()?;
        Ok(named.unwrap_or_else(|| DEFAULT_PROFILE.to_owned()))
    }

    /// The name of the profile, if the caller or `COZE_PROFILE` names one: a program that signs a user in then prefers the app of
    /// that profile to the environment and to files.
    ///
    /// # Errors
    ///
    /// Those of [`profile_name`](Self::profile_name).
    pub fn named_profile(&self) -> Result<Option<String>> {
        if let Some(name) = &self.profile {
            return Ok(Some(name.clone()));
        }
        let Some(name) = self.variable(PROFILE_VARIABLE)? else {
            return Ok(None);
        };
        match profiles::require_name(&name) {
            Ok(()) => Ok(Some(name)),
            Err(error) => {
                let what = format!("the environment: {PROFILE_VARIABLE}: {error}");
                Err(Error::new(ErrorKind::Configuration, what))
            }
        }
    }

    /// The configuration file that `COZE_OAUTH_CONFIG` names, which need not exist. `None` if the variable is not set: a file that is
    /// found then only lies in the working folder, and may be another person's. A program that signs a user in must not follow such a
    /// file to any endpoint without asking.
    ///
    /// # Errors
    ///
    /// [`Configuration`](ErrorKind::Configuration) if the value is not valid Unicode.
    pub fn named_configuration_file(&self) -> Result<Option<PathBuf>> {
        let path = self.variable(CONFIG_VARIABLE)?;
        Ok(path.map(|path| match path {
            // By mistake the configuration itself, with its secrets: `from_file` says so, and doesn't show it.
            path if path.starts_with('{') => PathBuf::from(path),
            path => self.in_working_folder(unquoted(&path)),
        }))
    }

    fn in_working_folder(&self, path: &str) -> PathBuf {
        match &self.working_folder {
            Some(folder) => folder.join(path),
            None => PathBuf::from(path),
        }
    }

    /// The value of a variable; an empty one counts as not set.
    fn variable(&self, name: &str) -> Result<Option<String>> {
        let value = (self.variable)(name).map(OsString::into_string);
        let value = value.transpose().map_err(|_| {
            let what = format!("the environment: {name} is not valid Unicode");
            Error::new(ErrorKind::Configuration, what)
        })?;
        let value = value.map(|value| value.trim().to_owned());
        Ok(value.filter(|value| !value.is_empty()))
    }

    /// Looks into the environment and the files. What is missing where is added to `missing`.
    fn look_for_configuration(
        &self,
        flow: Option<Flow>,
        missing: &mut Vec<String>,
    ) -> Result<Option<(Source, OAuthConfig)>> {
        let variable = &*self.variable;
        if let Some(config) = OAuthConfig::from_variables_if_set(variable, flow)? {
            return Ok(Some((Source::Environment, config)));
        }
        missing.push(match flow {
            None => "the environment has neither COZE_API_TOKEN nor the variables of a flow (COZE_WEB_OAUTH_…, COZE_PKCE_OAUTH_…, COZE_DEVICE_OAUTH_…, COZE_JWT_OAUTH_…)".to_owned(),
            Some(flow) => format!("the environment has no variables of flow {flow}"),
        });

        let path = match self.named_configuration_file()? {
            Some(path) => path,
            None => {
                missing.push(format!("{CONFIG_VARIABLE} is not set"));
                let path = self.in_working_folder(CONFIG_FILE);
                // Anything else than "not found" is reported when the file is read; so is a link to nothing.
                let found = std::fs::symlink_metadata(&path);
                if found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
                    let path = std::path::absolute(&path).unwrap_or(path);
                    missing.push(format!("{} does not exist", shown(&path)));
                    return Ok(None);
                }
                path
            }
        };
        let config = OAuthConfig::from_file(&path)?;
        match flow {
            Some(flow) if flow != config.flow() => {
                let (path, other) = (shown(&path), config.flow());
                let what = format!("{path} describes an app of flow {other}, not of flow {flow}");
                Err(Error::new(ErrorKind::Configuration, what))
            }
            _ => Ok(Some((Source::File(path), config))),
        }
    }

    fn profiles_or_default(&self) -> Result<Profiles> {
        match &self.profiles {
            Some(profiles) => Ok(profiles.clone()),
            None => Profiles::in_default_folder(PROGRAM),
        }
    }

    async fn of_configuration(
        self,
        source: Source,
        config: OAuthConfig,
    ) -> Result<DefaultCredentials> {
        let sign_in = match config.flow() {
            Flow::Token | Flow::Jwt => None,
            flow => {
                let name = self.profile_name()?;
                let nobody = |why: String| {
                    let what = format!(
                        "{source} describes an app of flow {flow}, to which a user must sign in, and nobody has: {why}"
                    );
                    Error::new(ErrorKind::NotSignedIn, what)
                };
                // There may be no home folder.
                let profiles = self.profiles_or_default();
                let profiles = profiles.map_err(|error| nobody(error.to_string()))?;
                let Some(profile) = profiles.load(&name)? else {
                    let path = profiles.path(&name)?;
                    return Err(nobody(format!("{} does not exist", path.display())));
                };
                if !profile.is_of(&config) {
                    let what = format!(
                        "{source} describes an app of flow {flow}, and profile {name} is a sign-in to another app or at another endpoint: sign in to this app, or choose the profile by name"
                    );
                    return Err(Error::new(ErrorKind::Configuration, what));
                }
                let sign_in = profiles.sign_in(&name, profile.store())?;
                require_signed_in(&sign_in, &profiles.shown_store(profile.store())).await?;
                Some(sign_in)
            }
        };
        let refresh = self.refresh;
        let client = self.client.endpoint(config.endpoint().clone()).build()?;
        let flow = config.build_on(client.clone())?;
        credentials(flow, client, sign_in, source, refresh)
    }

    async fn of_profile(self, name: &str) -> Result<Found> {
        let profiles = match self.profiles_or_default() {
            Ok(profiles) => profiles,
            // There is no home folder.
            Err(error) => return Ok(Found::Nothing(format!("profile {name}: {error}"))),
        };
        let Some(profile) = profiles.load(name)? else {
            let path = profiles.path(name)?;
            let what = format!("profile {name}: {} does not exist", path.display());
            return Ok(Found::Nothing(what));
        };
        let sign_in = profiles.sign_in(name, profile.store())?;
        require_signed_in(&sign_in, &profiles.shown_store(profile.store())).await?;
        let (client, variable) = (self.client, &*self.variable);
        let client = client.endpoint(profile.endpoint().clone()).build()?;
        let flow = profiles.flow(name, &profile, &client, variable).await?;
        let source = Source::Profile(name.to_owned());
        let found = credentials(flow, client, Some(sign_in), source, self.refresh)?;
        Ok(Found::Credentials(found))
    }
}

impl fmt::Debug for CredentialsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialsBuilder")
            .field("profile", &self.profile)
            .field("profiles", &self.profiles)
            .field("working_folder", &self.working_folder)
            .field("refresh", &self.refresh)
            .finish_non_exhaustive()
    }
}

/// A path in a message.
fn shown(path: &Path) -> String {
    coze_wire::sanitize_sentence(path.display().to_string())
}

/// Without a pair of quotation marks, as env files leave them.
fn unquoted(value: &str) -> &str {
    let inner = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

enum Found {
    Credentials(DefaultCredentials),
    /// What is missing.
    Nothing(String),
}

fn nothing_found(missing: &[String]) -> Error {
    let what = format!("no credentials were found: {}", missing.join("; "));
    Error::new(ErrorKind::NotSignedIn, what)
}

async fn require_signed_in(sign_in: &SignIn, store: &str) -> Result<()> {
    let name = sign_in.profile();
    let why = match sign_in.load().await? {
        None => format!("there is no sign-in in {store}"),
        Some(record) => match record.ended() {
            None => return Ok(()),
            Some(ended) => match ended.code() {
                Some(code) => format!("the sign-in has ended ({code})"),
                None => "the sign-in has ended".to_owned(),
            },
        },
    };
    let what = format!("profile {name}: {why}");
    Err(Error::new(ErrorKind::NotSignedIn, what))
}

/// The credentials of a flow. A flow of users has a sign-in.
fn credentials(
    flow: ConfiguredFlow,
    client: OAuthClient,
    sign_in: Option<SignIn>,
    source: Source,
    refresh: Option<RefreshMode>,
) -> Result<DefaultCredentials> {
    fn stored(
        flow: &impl UserFlow,
        sign_in: Option<SignIn>,
        refresh: Option<RefreshMode>,
    ) -> Result<Arc<dyn TokenProvider>> {
        let what = "this flow needs the sign-in of a user";
        let missing = || Error::new(ErrorKind::NotSignedIn, what);
        let builder = CachedProvider::stored(flow, sign_in.ok_or_else(missing)?);
        let refresh = refresh.unwrap_or(RefreshMode::InLine);
        Ok(Arc::new(builder.refresh(refresh).build()))
    }
    let (provider, flow): (Arc<dyn TokenProvider>, _) = match flow {
        ConfiguredFlow::Token(token) => (Arc::new(token), Flow::Token),
        ConfiguredFlow::Jwt(jwt) => {
            let builder = CachedProvider::jwt(jwt).refresh(refresh.unwrap_or_default());
            (Arc::new(builder.build()), Flow::Jwt)
        }
        ConfiguredFlow::Web(web) => (stored(&web, sign_in, refresh)?, Flow::Web),
        ConfiguredFlow::Pkce(pkce) => (stored(&pkce, sign_in, refresh)?, Flow::Pkce),
        ConfiguredFlow::Device(device) => (stored(&device, sign_in, refresh)?, Flow::Device),
        _ => {
            let what = "this flow is not known to the default credentials";
            return Err(Error::new(ErrorKind::Configuration, what));
        }
    };
    Ok(DefaultCredentials {
        provider,
        client,
        source,
        flow: Some(flow),
    })
}
