//! The registered OAuth apps: what a developer enters in Coze's console.

use crate::error::Error;
use crate::host::Authority;
use crate::keys;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The type of an app, which decides its flow. An app has exactly one type, as in Coze's console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ClientType {
    /// Authorization code with a client secret.
    Web,
    /// Authorization code with PKCE, no secret.
    Pkce,
    /// Device authorization.
    Device,
    /// JWT: the app acts as itself.
    Jwt,
}

impl fmt::Display for ClientType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Web => "web",
            Self::Pkce => "pkce",
            Self::Device => "device",
            Self::Jwt => "jwt",
        })
    }
}

/// One registered app. `Debug` shows neither its secret nor its private key.
///
/// ```
/// use coze_mock::App;
///
/// let app = App::web("shop.app.coze", "a secret").redirect_uri("https://shop.example/callback");
/// assert!(!format!("{app:?}").contains("a secret"));
/// ```
#[derive(Clone)]
pub struct App {
    pub(crate) client_id: String,
    pub(crate) client_type: ClientType,
    pub(crate) client_secret: Option<String>,
    pub(crate) redirect_uris: Vec<String>,
    pub(crate) keys: Vec<AppKey>,
    pub(crate) name: String,
    pub(crate) workspaces: Vec<String>,
    pub(crate) accounts: Vec<String>,
    pub(crate) enterprises: Vec<String>,
    pub(crate) channel_unbound: bool,
}

#[derive(Clone)]
pub(crate) struct AppKey {
    pub(crate) id: String,
    /// `None` stands for the pair that the mock generates once per process.
    pub(crate) public_pem: Option<String>,
}

impl App {
    fn new(client_id: impl Into<String>, client_type: ClientType) -> Self {
        let client_id = client_id.into();
        Self {
            name: client_id.clone(),
            client_id,
            client_type,
            client_secret: None,
            redirect_uris: Vec::new(),
            keys: Vec::new(),
            workspaces: Vec::new(),
            accounts: Vec::new(),
            enterprises: Vec::new(),
            channel_unbound: false,
        }
    }

    /// A web application with a backend, which keeps `client_secret`.
    #[must_use]
    pub fn web(client_id: impl Into<String>, client_secret: impl Into<String>) -> Self {
        Self {
            client_secret: Some(client_secret.into()),
            ..Self::new(client_id, ClientType::Web)
        }
    }

    /// A public client that uses PKCE.
    #[must_use]
    pub fn pkce(client_id: impl Into<String>) -> Self {
        Self::new(client_id, ClientType::Pkce)
    }

    /// A device or command-line program.
    #[must_use]
    pub fn device(client_id: impl Into<String>) -> Self {
        Self::new(client_id, ClientType::Device)
    }

    /// A service that signs JWTs. Register its keys with [`public_key`](Self::public_key) or
    /// [`generated_key`](Self::generated_key).
    #[must_use]
    pub fn jwt(client_id: impl Into<String>) -> Self {
        Self::new(client_id, ClientType::Jwt)
    }

    /// Registers a redirect URI: at most three, `http` or `https`, compared character by character.
    ///
    /// The port `*` of a loopback `http` URI stands for any port (`http://127.0.0.1:*/callback`), as RFC 8252 section 7.3
    /// requires of servers for native apps, which listen on an ephemeral port.
    #[must_use]
    pub fn redirect_uri(mut self, redirect_uri: impl Into<String>) -> Self {
        self.redirect_uris.push(redirect_uri.into());
        self
    }

    /// Registers an RSA public key (PEM, `BEGIN PUBLIC KEY` or `BEGIN RSA PUBLIC KEY`) under the fingerprint that JWTs
    /// carry as `kid`: at most three.
    #[must_use]
    pub fn public_key(mut self, public_key_id: impl Into<String>, pem: impl Into<String>) -> Self {
        self.keys.push(AppKey {
            id: public_key_id.into(),
            public_pem: Some(pem.into()),
        });
        self
    }

    /// Registers the public half of the RSA pair that the mock generates once per process; the private half is
    /// [`private_key_pem`](Self::private_key_pem).
    #[must_use]
    pub fn generated_key(mut self, public_key_id: impl Into<String>) -> Self {
        self.keys.push(AppKey {
            id: public_key_id.into(),
            public_pem: None,
        });
        self
    }

    /// The name that the consent page shows; the client id by default.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Adds a workspace to those that the workspace endpoints accept. Without any, all are accepted.
    #[must_use]
    pub fn workspace(mut self, workspace_id: impl Into<String>) -> Self {
        self.workspaces.push(workspace_id.into());
        self
    }

    /// Adds an account to those that the account endpoint accepts. Without any, all are accepted.
    #[must_use]
    pub fn account(mut self, account_id: impl Into<String>) -> Self {
        self.accounts.push(account_id.into());
        self
    }

    /// Adds an enterprise to those that the enterprise endpoint accepts. Without any, all are accepted.
    #[must_use]
    pub fn enterprise(mut self, enterprise_id: impl Into<String>) -> Self {
        self.enterprises.push(enterprise_id.into());
        self
    }

    /// Makes this a channel app that is not bound to a channel: JWT exchanges are refused with the documented message.
    #[must_use]
    pub fn unbound_channel(mut self) -> Self {
        self.channel_unbound = true;
        self
    }

    /// The client id.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The type.
    #[must_use]
    pub fn client_type(&self) -> ClientType {
        self.client_type
    }

    /// The client secret of a web app.
    #[must_use]
    pub fn client_secret(&self) -> Option<&str> {
        self.client_secret.as_deref()
    }

    /// The registered redirect URIs.
    #[must_use]
    pub fn redirect_uris(&self) -> &[String] {
        &self.redirect_uris
    }

    /// The fingerprints of the registered public keys.
    pub fn public_key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| key.id.as_str())
    }

    /// The private half of the generated pair, PKCS#8 PEM, if this app has a generated key.
    ///
    /// # Errors
    ///
    /// [`Error::KeyGeneration`] if the pair could not be generated.
    pub fn private_key_pem(&self) -> Result<Option<&'static str>, Error> {
        if self.keys.iter().any(|key| key.public_pem.is_none()) {
            return Ok(Some(&keys::generated()?.private_pem));
        }
        Ok(None)
    }

    pub(crate) fn allows_redirect_to(&self, redirect_uri: &str) -> bool {
        self.redirect_uris
            .iter()
            .any(|registered| redirect_matches(registered, redirect_uri))
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let problem = |problem: String| {
            Err(Error::App {
                client_id: self.client_id.clone(),
                problem,
            })
        };
        if self.client_id.is_empty() {
            return problem("the client id is empty".into());
        }
        if self.redirect_uris.len() > 3 {
            return problem(format!(
                "{} redirect URIs; Coze registers at most 3",
                self.redirect_uris.len()
            ));
        }
        for redirect_uri in &self.redirect_uris {
            if let Err(why) = check_redirect(redirect_uri) {
                return problem(format!("the redirect URI {redirect_uri:?} {why}"));
            }
        }
        if self.keys.len() > 3 {
            return problem(format!(
                "{} public keys; Coze registers at most 3",
                self.keys.len()
            ));
        }
        match self.client_type {
            ClientType::Web if self.client_secret.as_deref().unwrap_or_default().is_empty() => {
                problem("a web app needs a client secret".into())
            }
            ClientType::Web | ClientType::Pkce if self.redirect_uris.is_empty() => {
                problem("needs at least one redirect URI".into())
            }
            ClientType::Jwt if self.keys.is_empty() => {
                problem("a JWT app needs a public key".into())
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("client_id", &self.client_id)
            .field("client_type", &self.client_type)
            .field(
                "client_secret",
                &self.client_secret.as_ref().map(|_| "<redacted>"),
            )
            .field("redirect_uris", &self.redirect_uris)
            .field("public_key_ids", &self.public_key_ids().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

const ANY_PORT_HOSTS: [&str; 3] = ["http://127.0.0.1:*", "http://[::1]:*", "http://localhost:*"];

/// Whether `asked` equals the registered URI, or differs from it only in a port that is registered as `*`.
fn redirect_matches(registered: &str, asked: &str) -> bool {
    let Some((origin, path)) = ANY_PORT_HOSTS
        .iter()
        .find_map(|host| Some((*host, registered.strip_prefix(host)?)))
    else {
        return registered == asked;
    };
    let before_port = origin.trim_end_matches('*');
    let Some(rest) = asked.strip_prefix(before_port) else {
        return false;
    };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest[..digits].parse::<u16>().is_ok_and(|port| port > 0) && &rest[digits..] == path
}

fn check_redirect(redirect_uri: &str) -> Result<(), &'static str> {
    let concrete = match ANY_PORT_HOSTS
        .iter()
        .find(|host| redirect_uri.starts_with(**host))
    {
        Some(_) => redirect_uri.replacen(":*", ":1", 1),
        None => redirect_uri.to_owned(),
    };
    let url = url::Url::parse(&concrete)
        .map_err(|_| "is not a URL (the port * is for http on loopback only)")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("has a scheme other than http and https, which Coze does not register");
    }
    // URL parsers also accept characters that are invalid in a `Location` header, and drop or replace them.
    let printable = concrete.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if !printable || concrete.trim() != concrete {
        return Err(
            "has characters that are invalid in a header: percent-encode them, and write the host in Punycode",
        );
    }
    let host = concrete.split_once("://").map_or("", |(_, rest)| rest);
    let end = host.find(['/', '?', '#']).unwrap_or(host.len());
    match Authority::parse(&host[..end]) {
        Some(_) => Ok(()),
        None => Err("names more than a host and a port between :// and the path"),
    }
}

/// The JSON file of apps that the program reads: see the crate's README.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AppsFile {
    pub(crate) apps: Vec<AppEntry>,
    #[serde(default)]
    pub(crate) access_tokens: Option<Vec<String>>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AppEntry {
    client_type: ClientType,
    client_id: String,
    name: Option<String>,
    client_secret: Option<String>,
    #[serde(default)]
    redirect_uris: Vec<String>,
    #[serde(default)]
    public_keys: Vec<KeyEntry>,
    #[serde(default)]
    workspaces: Vec<String>,
    #[serde(default)]
    accounts: Vec<String>,
    #[serde(default)]
    enterprises: Vec<String>,
    #[serde(default)]
    unbound_channel: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    public_key_id: String,
    public_key: Option<String>,
}

impl fmt::Debug for AppEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppEntry")
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

impl AppsFile {
    pub(crate) fn parse(json: &str) -> Result<Self, Error> {
        // serde_json's messages name fields and positions, never the value of a string that had the expected type.
        serde_json::from_str(json.trim_start_matches('\u{feff}'))
            .map_err(|error| Error::AppsFile(error.to_string()))
    }
}

impl From<AppEntry> for App {
    fn from(entry: AppEntry) -> Self {
        let keys = entry.public_keys.into_iter().map(|key| AppKey {
            id: key.public_key_id,
            public_pem: key.public_key,
        });
        Self {
            client_secret: entry.client_secret,
            redirect_uris: entry.redirect_uris,
            keys: keys.collect(),
            workspaces: entry.workspaces,
            accounts: entry.accounts,
            enterprises: entry.enterprises,
            channel_unbound: entry.unbound_channel,
            name: entry.name.unwrap_or_else(|| entry.client_id.clone()),
            ..Self::new(entry.client_id, entry.client_type)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirect_uris_match_exactly_except_for_a_wildcard_loopback_port() {
        let any_port = "http://127.0.0.1:*/callback";
        for (registered, asked, matches) in [
            (
                "https://example.com/cb?x=1#frag",
                "https://example.com/cb?x=1#frag",
                true,
            ),
            ("https://example.com/cb", "https://example.com/cb/", false),
            (
                "https://example.com/cb",
                "https://example.com/cb?x=1",
                false,
            ),
            ("https://example.com/cb", "https://EXAMPLE.com/cb", false),
            (any_port, "http://127.0.0.1:8080/callback", true),
            (any_port, "http://127.0.0.1:/callback", false),
            (any_port, "http://127.0.0.1:0/callback", false),
            (any_port, "http://127.0.0.1:99999/callback", false),
            (any_port, "http://127.0.0.1:1@evil.example/callback", false),
            (any_port, "http://127.0.0.1:80/callback/../x", false),
            (any_port, "https://127.0.0.1:80/callback", false),
            ("http://[::1]:*/cb", "http://[::1]:5/cb", true),
            ("http://*:80/cb", "http://x:80/cb", false),
        ] {
            assert_eq!(
                redirect_matches(registered, asked),
                matches,
                "{registered} against {asked}"
            );
        }
    }

    #[test]
    fn an_invalid_app_is_refused_when_the_mock_is_built() {
        for (app, word) in [
            (App::web("a", ""), "client secret"),
            (App::web("a", "s"), "redirect URI"),
            (App::pkce("a").redirect_uri("javascript:alert(1)"), "scheme"),
            (
                App::web("a", "s").redirect_uri("myapp://callback"),
                "scheme",
            ),
            (App::pkce("a").redirect_uri("http:///"), "not a URL"),
            (
                App::pkce("a").redirect_uri("http://example.com:*/"),
                "not a URL",
            ),
            (
                App::pkce("a")
                    .redirect_uri("https://e.com/1")
                    .redirect_uri("https://e.com/2")
                    .redirect_uri("https://e.com/3")
                    .redirect_uri("https://e.com/4"),
                "at most 3",
            ),
            (
                App::pkce("a").redirect_uri("https://b\u{fc}cher.example/cb"),
                "Punycode",
            ),
            (App::pkce("a").redirect_uri(" https://e.com/cb"), "percent"),
            (App::pkce("a").redirect_uri("https://e.com/\ncb"), "percent"),
            (App::pkce("a").redirect_uri("https:\\\\e.com"), "a host"),
            (App::pkce("a").redirect_uri("https:e.com"), "a host"),
            (App::pkce("a").redirect_uri("https://u:p@e.com/"), "a host"),
            (App::pkce("a").redirect_uri("https://e.com:0/"), "a host"),
            (
                App::pkce("a").redirect_uri("https://e.com;script-src/"),
                "a host",
            ),
            (
                App::pkce("a").redirect_uri("http://127.0.0.1:*@evil.example/"),
                "a host",
            ),
            (App::jwt("a"), "public key"),
            (App::device(""), "empty"),
        ] {
            let error = app.check().expect_err(word).to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn the_apps_file_refuses_unknown_fields() {
        let error =
            AppsFile::parse(r#"{"apps":[{"client_type":"web","client_id":"a","secret":"hush"}]}"#)
                .expect_err("unknown");
        assert!(
            error.to_string().contains("unknown field `secret`")
                && !error.to_string().contains("hush"),
            "{error}"
        );
    }
}
