//! [`ProfileConfig`]: what a later process must know about a sign-in in order to refresh it.

use std::fmt;

use coze_auth::{
    ClientId, ConfiguredFlow, DeviceFlow, Endpoint, Error, ErrorKind, Flow, OAuthClient,
    OAuthConfig, PkceFlow, Result, Secret, WebFlow,
};
use serde::{Deserialize, Serialize};

/// The version of the format that this crate writes.
const VERSION: u64 = 1;

/// What a later process must know about a user's sign-in in order to refresh it: the app that it was granted to, the endpoint, and
/// where the sign-in and the app's client secret are kept. It contains no secret. [`Profiles`](crate::Profiles) keeps it in a file.
///
/// ```
/// use coze_auth::{Endpoint, Flow};
/// use coze_credentials::{ProfileConfig, StoreKind};
///
/// let config = ProfileConfig::new(Flow::Device, "client-id", Endpoint::CN)?
///     .with_store(StoreKind::File)
///     .with_workspace("7001");
/// assert_eq!(config.flow(), Flow::Device);
/// # Ok::<(), coze_auth::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileConfig {
    flow: Flow,
    client_id: ClientId,
    endpoint: Endpoint,
    workspace: Option<String>,
    redirect_uri: Option<String>,
    store: StoreKind,
    client_secret: SecretPlace,
}

/// Which store a profile's sign-in is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum StoreKind {
    /// Files of this user: a [`FileStore`](coze_auth_stores::FileStore).
    #[default]
    File,
    /// The operating system's keyring. It needs the feature `keyring`.
    Keyring,
}

/// Where the client secret of a web app comes from. The profile's file never contains it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SecretPlace {
    /// The store of the sign-in has it, beside the sign-in.
    #[default]
    Store,
    /// The environment variable of this name has it, whenever a process needs it.
    Variable(String),
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::File => "file",
            Self::Keyring => "keyring",
        })
    }
}

/// `file` or `keyring`, in any case.
impl std::str::FromStr for StoreKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let kinds = [Self::File, Self::Keyring];
        let known = kinds
            .into_iter()
            .find(|kind| kind.to_string().eq_ignore_ascii_case(text.trim()));
        known.ok_or_else(|| {
            let what = "unknown store; it is file or keyring";
            Error::new(ErrorKind::InvalidInput, what)
        })
    }
}

impl ProfileConfig {
    /// The sign-in of a user to an app of the web, PKCE or device flow. The sign-in, and the client secret of a web app, are kept in
    /// files, unless another store is set.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the flow is another one, or the client id is empty.
    pub fn new(flow: Flow, client_id: impl Into<ClientId>, endpoint: Endpoint) -> Result<Self> {
        let client_id = client_id.into();
        let refused = |what: &str| Err(Error::new(ErrorKind::InvalidInput, what));
        if !matches!(flow, Flow::Web | Flow::Pkce | Flow::Device) {
            return refused("a profile is for users who sign in: by the web, PKCE or device flow");
        }
        if client_id.as_ref().trim().is_empty() {
            return refused("the client id is empty");
        }
        Ok(Self {
            flow,
            client_id,
            endpoint,
            workspace: None,
            redirect_uri: None,
            store: StoreKind::default(),
            client_secret: SecretPlace::default(),
        })
    }

    /// The sign-in of a user to the app that this configuration describes.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new).
    pub fn of(app: &OAuthConfig) -> Result<Self> {
        let client_id = app.client_id().cloned().unwrap_or_default();
        let mut config = Self::new(app.flow(), client_id, app.endpoint().clone())?;
        config.redirect_uri = app.redirect_uri().map(str::to_owned);
        Ok(config)
    }

    /// Keeps the sign-in in this store; in files by default.
    #[must_use]
    pub fn with_store(mut self, store: StoreKind) -> Self {
        self.store = store;
        self
    }

    /// The workspace that the sign-in is limited to.
    #[must_use]
    pub fn with_workspace(mut self, workspace_id: impl Into<String>) -> Self {
        self.workspace = Some(workspace_id.into());
        self
    }

    /// The redirect URI of the login, so that the user can sign in again without giving it.
    #[must_use]
    pub fn with_redirect_uri(mut self, redirect_uri: impl Into<String>) -> Self {
        self.redirect_uri = Some(redirect_uri.into());
        self
    }

    /// Where the client secret of a web app comes from; from the store of the sign-in by default.
    #[must_use]
    pub fn with_client_secret_from(mut self, place: SecretPlace) -> Self {
        self.client_secret = place;
        self
    }

    /// The flow by which the user signed in: web, PKCE or device.
    #[must_use]
    pub fn flow(&self) -> Flow {
        self.flow
    }

    /// The client id of the app.
    #[must_use]
    pub fn client_id(&self) -> &ClientId {
        &self.client_id
    }

    /// The endpoint that the sign-in is refreshed at.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The workspace that the sign-in is limited to.
    #[must_use]
    pub fn workspace(&self) -> Option<&str> {
        self.workspace.as_deref()
    }

    /// The redirect URI of the login.
    #[must_use]
    pub fn redirect_uri(&self) -> Option<&str> {
        self.redirect_uri.as_deref()
    }

    /// Which store the sign-in is in.
    #[must_use]
    pub fn store(&self) -> StoreKind {
        self.store
    }

    /// Where the client secret comes from, if the app is a web app.
    #[must_use]
    pub fn client_secret_place(&self) -> Option<&SecretPlace> {
        (self.flow == Flow::Web).then_some(&self.client_secret)
    }

    /// Builds the flow of the app, on a client for the same endpoint.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the client is for another endpoint; [`Configuration`](ErrorKind::Configuration)
    /// if it is a web app and there is no client secret; else those of the flow.
    pub fn build(
        &self,
        client: &OAuthClient,
        client_secret: Option<Secret>,
    ) -> Result<ConfiguredFlow> {
        if *client.endpoint() != self.endpoint {
            let what = "the client is for another endpoint than the profile";
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        let (client, client_id) = (client.clone(), self.client_id.clone());
        Ok(match (self.flow, client_secret) {
            (Flow::Web, Some(secret)) => {
                ConfiguredFlow::Web(WebFlow::new(client, client_id, secret)?)
            }
            (Flow::Web, None) => {
                let what = "the client secret of the web app is missing";
                return Err(Error::new(ErrorKind::Configuration, what));
            }
            (Flow::Pkce, _) => ConfiguredFlow::Pkce(PkceFlow::new(client, client_id)?),
            _ => ConfiguredFlow::Device(DeviceFlow::new(client, client_id)?),
        })
    }

    /// Whether both are sign-ins to the same app at the same endpoint.
    pub(crate) fn is_of_same_app(&self, other: &Self) -> bool {
        let app = |config: &Self| {
            (
                config.flow,
                config.client_id.clone(),
                config.endpoint.clone(),
            )
        };
        app(self) == app(other)
    }

    /// Whether this is a sign-in to the app that this configuration describes, at the same endpoint.
    #[must_use]
    pub fn is_of(&self, app: &OAuthConfig) -> bool {
        self.flow == app.flow()
            && Some(&self.client_id) == app.client_id()
            && self.endpoint == *app.endpoint()
    }

    pub(crate) fn to_json(&self) -> Result<String> {
        let file = ProfileFile {
            version: VERSION,
            flow: self.flow.to_string(),
            client_id: self.client_id.as_ref().to_owned(),
            api_base: self.endpoint.api_base().to_owned(),
            www_base: Some(self.endpoint.www_base().to_owned()),
            workspace: self.workspace.clone(),
            redirect_uri: self.redirect_uri.clone(),
            store: self.store,
            client_secret: self.client_secret_place().cloned(),
        };
        // What could not be read again is not written: such as plain http, allowed by name in this process only.
        if file.clone().checked()? != *self {
            let what = "this endpoint can't be kept in a profile; use https, or a loopback host";
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        let json = serde_json::to_string_pretty(&file);
        json.map(|json| json + "\n").map_err(|_| {
            Error::new(
                ErrorKind::InvalidInput,
                "the profile can't be written as JSON",
            )
        })
    }

    /// Reads the text of a profile's file. `name` is used in errors.
    pub(crate) fn from_json(name: &str, text: &str) -> Result<Self> {
        let refused = |what: String| Error::new(ErrorKind::Configuration, format!("{name} {what}"));
        // The parser's message could quote the text.
        let at = |error: &serde_json::Error| {
            format!(
                "is not a valid profile (line {}, column {})",
                error.line(),
                error.column()
            )
        };
        let Version { version } =
            serde_json::from_str(text).map_err(|error| refused(at(&error)))?;
        if version != VERSION {
            return Err(refused(format!(
                "has version {version} of the format, and this program reads version {VERSION}: update it"
            )));
        }
        let file: ProfileFile = serde_json::from_str(text).map_err(|error| refused(at(&error)))?;
        file.checked()
            .map_err(|error| refused(format!("is not a valid profile: {error}")))
    }
}

#[derive(Deserialize)]
struct Version {
    version: u64,
}

/// The contents of a profile's file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ProfileFile {
    version: u64,
    flow: String,
    client_id: String,
    api_base: String,
    #[serde(default)]
    www_base: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workspace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    redirect_uri: Option<String>,
    store: StoreKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_secret: Option<SecretPlace>,
}

impl ProfileFile {
    fn checked(self) -> Result<ProfileConfig> {
        let mut endpoint = Endpoint::builder(self.api_base);
        if let Some(www_base) = self.www_base {
            endpoint = endpoint.www_base(www_base);
        }
        let config = ProfileConfig::new(self.flow.parse()?, self.client_id, endpoint.build()?)?;
        Ok(ProfileConfig {
            workspace: self.workspace,
            redirect_uri: self.redirect_uri,
            store: self.store,
            client_secret: self.client_secret.unwrap_or_default(),
            ..config
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> ProfileConfig {
        let endpoint = Endpoint::custom("http://127.0.0.1:8930").unwrap();
        ProfileConfig::new(Flow::Web, "client-id", endpoint)
            .unwrap()
            .with_store(StoreKind::Keyring)
            .with_workspace("7001")
            .with_redirect_uri("http://localhost:8080/callback")
            .with_client_secret_from(SecretPlace::Variable("MY_SECRET".to_owned()))
    }

    #[test]
    fn a_profile_is_the_same_after_it_was_saved() {
        let device = ProfileConfig::new(Flow::Device, "client-id", Endpoint::CN).unwrap();
        for config in [web(), device.clone()] {
            let json = config.to_json().unwrap();
            assert_eq!(
                ProfileConfig::from_json("x.json", &json).unwrap(),
                config,
                "{json}"
            );
        }
        let json = device.to_json().unwrap();
        assert!(json.contains("\"version\": 1"), "{json}");
        assert!(!json.contains("client_secret"), "{json}");
    }

    #[test]
    fn a_profile_is_for_users_and_for_endpoints_that_can_be_read_again() {
        for flow in [Flow::Token, Flow::Jwt] {
            let error = ProfileConfig::new(flow, "id", Endpoint::COM).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        assert!(ProfileConfig::new(Flow::Device, " ", Endpoint::COM).is_err());
        let plain = Endpoint::builder("http://mock:80")
            .allow_http_host("mock")
            .build();
        let config = ProfileConfig::new(Flow::Device, "id", plain.unwrap()).unwrap();
        assert!(
            config
                .to_json()
                .unwrap_err()
                .to_string()
                .contains("unencrypted")
        );
    }

    #[test]
    fn an_invalid_file_is_named_and_its_text_is_not_shown() {
        let good = web().to_json().unwrap();
        for (text, expected) in [
            ("", "is not a valid profile (line 1"),
            ("[\"hush\"]", "is not a valid profile (line 1"),
            ("{\"version\":\"hush\"}", "is not a valid profile (line 1"),
            (
                &good.replace("\"version\": 1", "\"version\": 2"),
                "has version 2",
            ),
            (
                &good.replace("\"keyring\"", "\"hush\""),
                "is not a valid profile (line",
            ),
            (&good.replace("\"web\"", "\"jwt\""), "for users who sign in"),
            (&good.replace("\"web\"", "\"hush\""), "unknown flow"),
            (
                &good.replace("http://127.0.0.1:8930", "http://a.example"),
                "unencrypted",
            ),
            (
                &good.replace("client_id", "client"),
                "is not a valid profile (line",
            ),
        ] {
            let error = ProfileConfig::from_json("x.json", text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            let error = format!("{error} {error:?}");
            assert!(
                error.contains("x.json ") && error.contains(expected),
                "{text}: {error}"
            );
            assert!(!error.contains("hush"), "{text}: {error}");
        }
    }

    #[test]
    fn a_web_app_needs_its_secret_and_the_client_its_endpoint() {
        let client = |endpoint| OAuthClient::builder().endpoint(endpoint).build().unwrap();
        let config = web();
        let here = client(config.endpoint().clone());
        assert!(config.build(&here, Some("s".into())).is_ok());
        let error = config.build(&here, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let elsewhere = client(Endpoint::custom("http://127.0.0.1:1").unwrap());
        let error = config.build(&elsewhere, Some("s".into())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn the_names_of_the_stores_are_what_they_display() {
        for kind in [StoreKind::File, StoreKind::Keyring] {
            assert_eq!(
                kind.to_string()
                    .to_uppercase()
                    .parse::<StoreKind>()
                    .unwrap(),
                kind
            );
        }
        assert!("redis".parse::<StoreKind>().is_err());
    }
}
