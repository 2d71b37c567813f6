//! Reads the configuration of an OAuth app: the console's `coze_oauth_config.json`, or the environment variables
//! that the examples of the official SDKs use.

mod environment;
mod file;

use std::{ffi::OsString, path::Path, str::FromStr, sync::Arc};

use coze_wire::Secret;

use crate::{
    CachedProvider, ClientId, DeviceFlow, Endpoint, Error, ErrorKind, FixedToken, Flow, JwtFlow,
    KeyId, OAuthClient, OAuthClientBuilder, PkceFlow, PrivateKey, Result, SignIn, TokenProvider,
    WebFlow,
    flow::app::{App, sealed::Sealed},
    input::{
        file::{self as input_file, shown_path},
        identifier,
    },
};
use environment::Environment;

/// The complete, validated configuration of one flow.
///
/// ```
/// use coze_auth::{ConfiguredFlow, OAuthConfig};
///
/// let config: OAuthConfig = r#"{
///     "client_type": "device",
///     "client_id": "client-id",
///     "coze_api_base": "https://api.coze.cn",
///     "coze_www_base": "https://www.coze.cn"
/// }"#.parse()?;
/// let ConfiguredFlow::Device(device) = config.build()? else {
///     return Err("this program needs an app for the device flow".into());
/// };
/// // device.start().await …
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct OAuthConfig {
    credentials: ConfiguredCredentials,
    endpoint: Endpoint,
    redirect_uri: Option<String>,
}

#[derive(Debug)]
enum ConfiguredCredentials {
    Token(FixedToken),
    Web {
        client_id: ClientId,
        client_secret: Secret,
    },
    Pkce {
        client_id: ClientId,
    },
    Device {
        client_id: ClientId,
    },
    Jwt {
        client_id: ClientId,
        key_id: KeyId,
        private_key: PrivateKey,
    },
}

/// The flow that an [`OAuthConfig`] describes, ready for use.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ConfiguredFlow {
    /// A personal or service access token.
    Token(FixedToken),
    /// Authorization code with a client secret.
    Web(WebFlow),
    /// Authorization code with PKCE.
    Pkce(PkceFlow),
    /// Device authorization.
    Device(DeviceFlow),
    /// JWT.
    Jwt(JwtFlow),
}

impl ConfiguredFlow {
    /// Returns a token provider for this flow. The web, PKCE and device flows need the user's sign-in; a fixed token and
    /// a JWT app ignore it.
    ///
    /// ```no_run
    /// # async fn example() -> coze_auth::Result<()> {
    /// use coze_auth::{OAuthConfig, TokenProvider};
    ///
    /// let provider = OAuthConfig::from_env()?.build()?.provider(None)?;
    /// let token = provider.token().await?;
    /// // Before the program ends:
    /// provider.shutdown().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Configuration`](ErrorKind::Configuration) if the flow needs a sign-in and `sign_in` is `None`.
    pub fn provider(self, sign_in: Option<SignIn>) -> Result<Arc<dyn TokenProvider>> {
        let stored = |flow: &Arc<App>| {
            let missing = || {
                let what = "this flow needs the sign-in of a user (SignIn), and none was given";
                Error::new(ErrorKind::Configuration, what).in_flow(flow.flow())
            };
            let sign_in = sign_in.ok_or_else(missing)?;
            Ok::<_, Error>(CachedProvider::of_app(flow, sign_in).build())
        };
        Ok(Arc::new(match &self {
            Self::Token(token) => return Ok(Arc::new(token.clone())),
            Self::Jwt(jwt) => CachedProvider::jwt(jwt.clone()).build(),
            Self::Web(web) => stored(web.app())?,
            Self::Pkce(pkce) => stored(pkce.app())?,
            Self::Device(device) => stored(device.app())?,
        }))
    }
}

/// Parses the text of a `coze_oauth_config.json`, as [`from_file`](OAuthConfig::from_file) does.
impl FromStr for OAuthConfig {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        file::config("coze_oauth_config.json", text)
    }
}

impl OAuthConfig {
    /// Reads a `coze_oauth_config.json` file of at most 256 KiB. Unknown fields are ignored, except misspellings of known
    /// fields, such as `clientId`.
    ///
    /// # Errors
    ///
    /// [`Configuration`](ErrorKind::Configuration) if the file can't be read or is not valid. The message names the file
    /// and all fields that are missing, misspelled, invalid or contradictory, such as the base URLs of both coze.com and
    /// coze.cn.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = shown_path(path).ok_or_else(|| {
            Error::new(
                ErrorKind::Configuration,
                "the given path is the configuration itself; parse it",
            )
        })?;
        let contents = input_file::read(path).map_err(|error| {
            Error::new(ErrorKind::Configuration, format!("{name} can't be read")).with_source(error)
        })?;
        let text = input_file::text(&contents).ok_or_else(|| {
            let what = format!("{name} is not text; save it as UTF-8");
            Error::new(ErrorKind::Configuration, what)
        })?;
        file::config(&name, &text)
    }

    /// Reads the environment variables that the examples of the official SDKs use, and selects the flow whose variables
    /// are set. An empty variable counts as not set. Surrounding white space, one pair of quotation marks and escaped line
    /// breaks, as found in env files, are removed from a value. Any other invalid character is an error, which names the
    /// variable and the character, but not the value.
    ///
    /// | flow | variables |
    /// |---|---|
    /// | token | `COZE_API_TOKEN` |
    /// | web | `COZE_WEB_OAUTH_CLIENT_ID`, `COZE_WEB_OAUTH_CLIENT_SECRET`, `COZE_WEB_OAUTH_REDIRECT_URI` (optional) |
    /// | PKCE | `COZE_PKCE_OAUTH_CLIENT_ID`, `COZE_PKCE_OAUTH_REDIRECT_URI` (optional) |
    /// | device | `COZE_DEVICE_OAUTH_CLIENT_ID` |
    /// | JWT | `COZE_JWT_OAUTH_CLIENT_ID`, `COZE_JWT_OAUTH_PUBLIC_KEY_ID`, and `COZE_JWT_OAUTH_PRIVATE_KEY_FILE_PATH` or `COZE_JWT_OAUTH_PRIVATE_KEY` (the file takes precedence) |
    /// | all | `COZE_API_BASE` (optional) |
    ///
    /// # Errors
    ///
    /// [`Configuration`](ErrorKind::Configuration) if no flow is complete, naming the missing variables; if several flows
    /// are complete, naming them (choose one with [`from_env_for`](Self::from_env_for)); or if a value is invalid.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var_os(name), None)
    }

    /// Like [`from_env`](Self::from_env), but for one flow; the variables of other flows are ignored.
    ///
    /// # Errors
    ///
    /// [`Configuration`](ErrorKind::Configuration) if a variable of this flow is missing or invalid, naming all of them.
    pub fn from_env_for(flow: Flow) -> Result<Self> {
        Self::from_variables(|name| std::env::var_os(name), Some(flow))
    }

    /// Like [`from_env`](Self::from_env), or [`from_env_for`](Self::from_env_for) if `flow` is given, with variables from
    /// another source, such as a `.env` file, a secret manager or a test. `variable` returns the value of a name.
    ///
    /// # Errors
    ///
    /// Those of [`from_env`](Self::from_env) and [`from_env_for`](Self::from_env_for).
    pub fn from_variables(
        variable: impl Fn(&str) -> Option<OsString>,
        flow: Option<Flow>,
    ) -> Result<Self> {
        Environment::read(variable).config(flow)
    }

    /// Like [`from_variables`](Self::from_variables), for variables that need not be set: `None` if no variable that the flow
    /// requires is set, or if none of any flow is. A flow that is set only in part is an error. If `flow` is `None` and
    /// `COZE_API_TOKEN` is set, the other flows are ignored.
    ///
    /// ```
    /// use coze_auth::OAuthConfig;
    ///
    /// assert!(OAuthConfig::from_variables_if_set(|_| None, None)?.is_none());
    /// # Ok::<(), coze_auth::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`from_variables`](Self::from_variables), except that no variable is set.
    pub fn from_variables_if_set(
        variable: impl Fn(&str) -> Option<OsString>,
        flow: Option<Flow>,
    ) -> Result<Option<Self>> {
        Environment::read(variable).config_if_set(flow)
    }

    /// The flow of this configuration.
    #[must_use]
    pub fn flow(&self) -> Flow {
        match self.credentials {
            ConfiguredCredentials::Token(_) => Flow::Token,
            ConfiguredCredentials::Web { .. } => Flow::Web,
            ConfiguredCredentials::Pkce { .. } => Flow::Pkce,
            ConfiguredCredentials::Device { .. } => Flow::Device,
            ConfiguredCredentials::Jwt { .. } => Flow::Jwt,
        }
    }

    /// The configured endpoint; [`Endpoint::COM`] by default.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Replaces the configured endpoint, such as to ask another site about the same app.
    ///
    /// ```
    /// use coze_auth::{Endpoint, OAuthConfig};
    ///
    /// let config: OAuthConfig = r#"{"client_type": "device", "client_id": "client-id"}"#.parse()?;
    /// assert_eq!(config.endpoint(), &Endpoint::COM);
    /// assert_eq!(config.with_endpoint(Endpoint::CN).endpoint(), &Endpoint::CN);
    /// # Ok::<(), coze_auth::Error>(())
    /// ```
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoint = endpoint;
        self
    }

    /// The client id of the app; a fixed token has none.
    #[must_use]
    pub fn client_id(&self) -> Option<&ClientId> {
        match &self.credentials {
            ConfiguredCredentials::Token(_) => None,
            ConfiguredCredentials::Web { client_id, .. }
            | ConfiguredCredentials::Pkce { client_id }
            | ConfiguredCredentials::Device { client_id }
            | ConfiguredCredentials::Jwt { client_id, .. } => Some(client_id),
        }
    }

    /// The client secret, if the flow is [`Flow::Web`].
    #[must_use]
    pub fn client_secret(&self) -> Option<&Secret> {
        match &self.credentials {
            ConfiguredCredentials::Web { client_secret, .. } => Some(client_secret),
            _ => None,
        }
    }

    /// The redirect URI, if an environment variable sets one.
    #[must_use]
    pub fn redirect_uri(&self) -> Option<&str> {
        self.redirect_uri.as_deref()
    }

    /// The fixed token, if the flow is [`Flow::Token`].
    pub(crate) fn into_token(self) -> Option<FixedToken> {
        match self.credentials {
            ConfiguredCredentials::Token(token) => Some(token.with_endpoint(self.endpoint)),
            _ => None,
        }
    }

    /// Builds the flow, with a default [`OAuthClient`] for the configured endpoint.
    ///
    /// # Errors
    ///
    /// Those of [`OAuthClientBuilder::build`].
    pub fn build(self) -> Result<ConfiguredFlow> {
        self.build_with(OAuthClient::builder())
    }

    /// Builds the flow with your own client. Its endpoint is set to the configured one.
    ///
    /// # Errors
    ///
    /// Those of [`OAuthClientBuilder::build`].
    pub fn build_with(self, client: OAuthClientBuilder) -> Result<ConfiguredFlow> {
        let client = client.endpoint(self.endpoint.clone()).build()?;
        self.build_on(client)
    }

    /// Builds the flow on a client that exists already, to share its connections.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the client is for another endpoint than the configured one.
    pub fn build_on(self, client: OAuthClient) -> Result<ConfiguredFlow> {
        if *client.endpoint() != self.endpoint {
            let what = "the client is for another endpoint than the configuration";
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        Ok(match self.credentials {
            ConfiguredCredentials::Token(token) => {
                ConfiguredFlow::Token(token.with_endpoint(client.endpoint().clone()))
            }
            ConfiguredCredentials::Web {
                client_id,
                client_secret,
            } => ConfiguredFlow::Web(WebFlow::new(client, client_id, client_secret)?),
            ConfiguredCredentials::Pkce { client_id } => {
                ConfiguredFlow::Pkce(PkceFlow::new(client, client_id)?)
            }
            ConfiguredCredentials::Device { client_id } => {
                ConfiguredFlow::Device(DeviceFlow::new(client, client_id)?)
            }
            ConfiguredCredentials::Jwt {
                client_id,
                key_id,
                private_key,
            } => ConfiguredFlow::Jwt(JwtFlow::new(client, client_id, key_id, private_key)?),
        })
    }
}

impl FixedToken {
    /// Takes the token from the environment variable `COZE_API_TOKEN`, and where it is valid from `COZE_API_BASE`, if that is
    /// set.
    ///
    /// # Errors
    ///
    /// [`Configuration`](ErrorKind::Configuration) when `COZE_API_TOKEN` is not set, or `COZE_API_BASE` can't be used; else
    /// as [`new`](Self::new).
    pub fn from_env() -> Result<Self> {
        let config = OAuthConfig::from_env_for(Flow::Token);
        let no_token = || Error::new(ErrorKind::Configuration, "there is no token");
        config
            .and_then(|config| config.into_token().ok_or_else(no_token))
            .map_err(|error| error.in_flow(Flow::Token))
    }
}

/// Collects the problems of a configuration, so that they are reported in one error.
struct Problems {
    source: String,
    /// The names of fields or variables, with their problems.
    found: Vec<(String, String)>,
}

impl Problems {
    fn new(source: &str) -> Self {
        Self {
            source: source.to_owned(),
            found: Vec::new(),
        }
    }

    fn add(&mut self, name: &str, problem: impl Into<String>) {
        self.found.push((name.to_owned(), problem.into()));
    }

    fn refuse<T>(&self, what: impl AsRef<str>) -> Result<T> {
        Err(Error::new(
            ErrorKind::Configuration,
            format!("{} {}", self.source, what.as_ref()),
        ))
    }

    /// Returns the value, or an error with all problems if there are any.
    fn into_result<T>(self, value: Option<T>) -> Result<T> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => {
                let each = self
                    .found
                    .iter()
                    .map(|(name, problem)| format!("{name}{problem}"));
                let all = each.collect::<Vec<_>>().join("; ");
                Err(Error::new(
                    ErrorKind::Configuration,
                    format!("{}: {all}", self.source),
                ))
            }
        }
    }

    /// Adds the error of a check, if there is one.
    fn checked<T>(&mut self, name: &str, checked: Result<T>) -> Option<T> {
        checked
            .map_err(|error| self.add(name, format!(": {}", error.summary())))
            .ok()
    }

    /// Adds a problem if the value is missing.
    fn required<T>(&mut self, name: &str, value: Option<T>) -> Option<T> {
        self.required_one_of(name, "", value)
    }

    /// Like [`required`](Self::required), with a list of the possible values. A value that is missing because it was invalid
    /// has already been added.
    fn required_one_of<T>(&mut self, name: &str, values: &str, value: Option<T>) -> Option<T> {
        if value.is_none() && !self.found.iter().any(|(added, _)| added == name) {
            self.add(name, format!(" is missing{values}"));
        }
        value
    }

    /// Checks an id, and adds a problem if it is missing or invalid.
    fn required_id<T: From<String>>(&mut self, name: &str, value: Option<String>) -> Option<T> {
        let value = self.required(name, value)?;
        self.checked(name, identifier(name, &value)).map(T::from)
    }

    fn endpoint(
        &mut self,
        api_base: (&str, Option<String>),
        www_base: (&str, Option<String>),
    ) -> Option<Endpoint> {
        let named = match (&api_base.1, &www_base.1) {
            (None, None) => return Some(Endpoint::COM),
            (Some(_), Some(_)) => format!("{} or {}", api_base.0, www_base.0),
            (Some(_), None) => api_base.0.to_owned(),
            (None, Some(_)) => www_base.0.to_owned(),
        };
        let api = api_base
            .1
            .unwrap_or_else(|| Endpoint::COM.api_base().to_owned());
        let mut builder = Endpoint::builder(api);
        if let Some(www_base) = www_base.1 {
            builder = builder.www_base(www_base);
        }
        let endpoint = self.checked(&named, builder.build())?;
        let is_cn = |base: &str| match base.rsplit('/').next()? {
            "api.coze.cn" | "www.coze.cn" => Some(true),
            "api.coze.com" | "www.coze.com" => Some(false),
            _ => None,
        };
        let sites = is_cn(endpoint.api_base()).zip(is_cn(endpoint.www_base()));
        if sites.is_some_and(|(api, www)| api != www) {
            let (api_base, www_base) = (endpoint.api_base(), endpoint.www_base());
            let what = format!(
                ": {api_base} and {www_base} belong to different sites; use both base URLs of the app's site"
            );
            self.add(&named, what);
            return None;
        }
        Some(endpoint)
    }
}

fn jwt_credentials(
    client_id: Option<ClientId>,
    key_id: Option<KeyId>,
    private_key: Option<PrivateKey>,
) -> Option<ConfiguredCredentials> {
    Some(ConfiguredCredentials::Jwt {
        client_id: client_id?,
        key_id: key_id?,
        private_key: private_key?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    fn configured(fields: &str) -> ConfiguredFlow {
        let base = r#""coze_api_base":"https://api.coze.cn","coze_www_base":"https://www.coze.cn""#;
        let json = format!(r#"{{{fields},"client_id":"i",{base}}}"#);
        let config: OAuthConfig = json.parse().unwrap();
        config.build().unwrap()
    }

    #[test]
    fn a_flow_is_built_on_a_client_for_its_endpoint_only() {
        let config = || {
            let json = r#"{"client_type":"web","client_id":"i","client_secret":"s","coze_api_base":"https://api.coze.cn"}"#;
            json.parse::<OAuthConfig>().unwrap()
        };
        assert_eq!(config().client_id().unwrap().as_ref(), "i");
        assert!(config().client_secret().unwrap().ct_eq("s"));
        assert!(
            config()
                .build_on(OAuthClient::new(Endpoint::CN).unwrap())
                .is_ok()
        );
        let error = config().build_on(OAuthClient::new(Endpoint::COM).unwrap());
        assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput);
        let elsewhere = config().with_endpoint(Endpoint::COM);
        let flow = elsewhere.build_on(OAuthClient::new(Endpoint::COM).unwrap());
        assert!(matches!(flow, Ok(ConfiguredFlow::Web(_))));
    }

    #[tokio::test]
    async fn every_flow_has_a_provider() {
        for fields in [
            r#""client_type":"web","client_secret":"s""#,
            r#""client_type":"pkce""#,
            r#""client_type":"device""#,
        ] {
            let error = configured(fields).provider(None).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Configuration, "{fields}");
            let sign_in = SignIn::new(MemoryStore::new(), "ann").unwrap();
            let provider = configured(fields).provider(Some(sign_in)).unwrap();
            assert_eq!(provider.endpoint(), Some(&Endpoint::CN), "{fields}");
            let error = provider.token().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotSignedIn, "{fields}");
            provider.shutdown().await.unwrap();
        }
        let variable = |name: &str| match name {
            "COZE_API_TOKEN" => Some("pat".into()),
            "COZE_API_BASE" => Some("https://api.coze.cn".into()),
            _ => None,
        };
        let token = OAuthConfig::from_variables(variable, None).unwrap();
        let provider = token.build().unwrap().provider(None).unwrap();
        assert_eq!(provider.cached().unwrap().expose(), "pat");
        assert_eq!(provider.endpoint(), Some(&Endpoint::CN));
    }
}
