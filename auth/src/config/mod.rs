//! Configuration that users already have: the console's `coze_oauth_config.json`, and the environment
//! variables of the official SDKs' examples.

mod environment;
mod file;

use std::{ffi::OsString, path::Path, sync::Arc};

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

/// A complete, checked configuration of one flow.
///
/// ```
/// use coze_auth::{ConfiguredFlow, OAuthConfig};
///
/// let config = OAuthConfig::from_json(r#"{
///     "client_type": "device",
///     "client_id": "client-id",
///     "coze_api_base": "https://api.coze.cn",
///     "coze_www_base": "https://www.coze.cn"
/// }"#)?;
/// let ConfiguredFlow::Device(device) = config.build()? else {
///     return Err("this program is for the device flow".into());
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

/// The flow that a configuration describes, ready for use.
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
    /// The tokens of whatever was configured. Where a user signs in (web, PKCE, device), they are those of this sign-in;
    /// a fixed token or a JWT app needs none.
    ///
    /// ```no_run
    /// # async fn example() -> coze_auth::Result<()> {
    /// use coze_auth::{OAuthConfig, TokenProvider};
    ///
    /// let provider = OAuthConfig::from_env()?.build()?.provider(None)?;
    /// let token = provider.token().await?;
    /// // … and before the program ends:
    /// provider.shutdown().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Configuration`](ErrorKind::Configuration) when a user has to sign in, and no sign-in is given.
    pub fn provider(self, sign_in: Option<SignIn>) -> Result<Arc<dyn TokenProvider>> {
        let stored = |flow: &Arc<App>| {
            let none = || {
                let what = "users sign in by this flow, and no sign-in (SignIn) was given";
                Error::new(ErrorKind::Configuration, what).in_flow(flow.flow())
            };
            let sign_in = sign_in.ok_or_else(none)?;
            Ok(CachedProvider::of_app(flow, sign_in).build())
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

impl OAuthConfig {
    /// Reads a `coze_oauth_config.json`, of at most 256 KiB, from a path. Unknown fields are ignored,
    /// but for one that can only be a known field in another spelling, such as `clientId`.
    ///
    /// # Errors
    ///
    /// [`Configuration`](ErrorKind::Configuration), naming the file and every missing, contradictory (bases of
    /// coze.com and of coze.cn, too), misspelled or unusable field at once.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = shown_path(path).ok_or_else(|| {
            Error::new(
                ErrorKind::Configuration,
                "what was given is not a path but the configuration itself (use from_json)",
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

    /// Reads the text of a `coze_oauth_config.json`.
    ///
    /// # Errors
    ///
    /// As [`from_file`](Self::from_file).
    pub fn from_json(text: &str) -> Result<Self> {
        file::config("coze_oauth_config.json", text)
    }

    /// Reads the environment variables that the official SDKs' examples use, and finds the flow that
    /// they describe. A variable that is set to nothing counts as not set. What env files leave around a value (white space, one
    /// pair of quotation marks, an escaped line break) is dropped; any other character that can't be part of it is an error that
    /// names the variable and the character, never the value.
    ///
    /// | flow | variables |
    /// |---|---|
    /// | token | `COZE_API_TOKEN` |
    /// | web | `COZE_WEB_OAUTH_CLIENT_ID`, `COZE_WEB_OAUTH_CLIENT_SECRET`, `COZE_WEB_OAUTH_REDIRECT_URI` (optional) |
    /// | PKCE | `COZE_PKCE_OAUTH_CLIENT_ID`, `COZE_PKCE_OAUTH_REDIRECT_URI` (optional) |
    /// | device | `COZE_DEVICE_OAUTH_CLIENT_ID` |
    /// | JWT | `COZE_JWT_OAUTH_CLIENT_ID`, `COZE_JWT_OAUTH_PUBLIC_KEY_ID`, and `COZE_JWT_OAUTH_PRIVATE_KEY_FILE_PATH` or `COZE_JWT_OAUTH_PRIVATE_KEY` (the file wins) |
    /// | all | `COZE_API_BASE` (optional) |
    ///
    /// # Errors
    ///
    /// [`Configuration`](ErrorKind::Configuration) when no flow is complete, naming what is missing; when
    /// several are, naming them (then choose with [`from_env_for`](Self::from_env_for)); and when a value
    /// can't be used.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var_os(name), None)
    }

    /// As [`from_env`](Self::from_env), for one flow, whatever else the environment holds.
    ///
    /// # Errors
    ///
    /// [`Configuration`](ErrorKind::Configuration), naming everything that this flow lacks.
    pub fn from_env_for(flow: Flow) -> Result<Self> {
        Self::from_variables(|name| std::env::var_os(name), Some(flow))
    }

    /// As [`from_env`](Self::from_env) or, with a flow, [`from_env_for`](Self::from_env_for), with the
    /// variables from elsewhere: a `.env` file, a secret store, a test.
    ///
    /// # Errors
    ///
    /// As those.
    pub fn from_variables(
        variable: impl Fn(&str) -> Option<OsString>,
        flow: Option<Flow>,
    ) -> Result<Self> {
        Environment::read(variable).config(flow)
    }

    /// The flow that this configures.
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

    /// Where Coze is; [`Endpoint::COM`] unless configured.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The redirect URI, where the environment named one.
    #[must_use]
    pub fn redirect_uri(&self) -> Option<&str> {
        self.redirect_uri.as_deref()
    }

    /// The fixed token, if that is what this configures.
    pub(crate) fn into_token(self) -> Option<FixedToken> {
        match self.credentials {
            ConfiguredCredentials::Token(token) => Some(token.with_endpoint(self.endpoint)),
            _ => None,
        }
    }

    /// Makes the flow, with an [`OAuthClient`] that is default but for the endpoint.
    ///
    /// # Errors
    ///
    /// As [`OAuthClientBuilder::build`].
    pub fn build(self) -> Result<ConfiguredFlow> {
        self.build_with(OAuthClient::builder())
    }

    /// Makes the flow, with this client, whose endpoint is set to the configured one.
    ///
    /// # Errors
    ///
    /// As [`OAuthClientBuilder::build`].
    pub fn build_with(self, client: OAuthClientBuilder) -> Result<ConfiguredFlow> {
        let client = client.endpoint(self.endpoint).build()?;
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
            } => ConfiguredFlow::Jwt(
                JwtFlow::builder(client)
                    .client_id(client_id)
                    .key_id(key_id)
                    .signer(private_key)
                    .build()?,
            ),
        })
    }
}

/// Everything that is wrong with one configuration.
struct Problems {
    source: String,
    /// The field or variable, and what is wrong with it.
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

    /// The value, unless there were problems; then all of them.
    fn none_or<T>(self, value: Option<T>) -> Result<T> {
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

    /// The value of a check, its error noted.
    fn checked<T>(&mut self, name: &str, checked: Result<T>) -> Option<T> {
        checked
            .map_err(|error| self.add(name, format!(": {}", error.summary())))
            .ok()
    }

    /// A value that has to be there.
    fn required<T>(&mut self, name: &str, value: Option<T>) -> Option<T> {
        self.required_one_of(name, "", value)
    }

    /// The same, with the values that are possible. Where it is not there because it can't be used, that has been noted.
    fn required_one_of<T>(&mut self, name: &str, those: &str, value: Option<T>) -> Option<T> {
        if value.is_none() && !self.found.iter().any(|(noted, _)| noted == name) {
            self.add(name, format!(" is missing{those}"));
        }
        value
    }

    /// An id that has to be there.
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
                " leads to two sites, {api_base} and {www_base}; write both bases of the app's site"
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
        OAuthConfig::from_json(&json).unwrap().build().unwrap()
    }

    #[tokio::test]
    async fn each_configured_flow_gives_a_provider() {
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
