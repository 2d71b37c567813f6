//! The snapshot form of a request: everything that matters, and nothing that changes from
//! run to run.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coze_auth::Url;
use serde::Serialize;
use serde_json::{Value, json};

/// Headers that the HTTP stack adds.
const VOLATILE: [&str; 4] = ["accept-encoding", "connection", "content-length", "host"];

/// A request, or the URL of a page that a browser opens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Sent {
    pub(crate) method: String,
    /// The host of an authorize URL; the host of requests is the recording server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<String>,
    pub(crate) path: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) query: Vec<(String, String)>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) jwt: Option<Jwt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body: Option<Value>,
}

/// A decoded JWT; changing values are described instead of shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Jwt {
    pub(crate) header: Value,
    pub(crate) claims: Value,
}

impl Sent {
    pub(crate) fn request(request: &wiremock::Request) -> Self {
        let mut jwt = None;
        let headers = request
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .filter(|(name, _)| !VOLATILE.contains(name))
            .map(|(name, value)| {
                let shown = match name {
                    "authorization" => {
                        jwt = Jwt::of_bearer(value);
                        match jwt {
                            Some(_) => "Bearer <jwt>".to_owned(),
                            None => value.to_owned(),
                        }
                    }
                    "user-agent" => without_versions(value),
                    "x-coze-client-user-agent" => without_json_versions(value),
                    _ => value.to_owned(),
                };
                (name.to_owned(), shown)
            })
            .collect();
        let body = (!request.body.is_empty()).then(|| {
            serde_json::from_slice(&request.body).unwrap_or_else(|error| {
                let text = String::from_utf8_lossy(&request.body);
                panic!("the body sent is not JSON ({error}): {text}")
            })
        });
        Self {
            method: request.method.to_string(),
            origin: None,
            path: request.url.path().to_owned(),
            query: pairs(&request.url),
            headers,
            jwt,
            body,
        }
    }

    pub(crate) fn authorize_url(url: &Url) -> Self {
        Self {
            method: "GET".to_owned(),
            origin: Some(url.origin().ascii_serialization()),
            path: url.path().to_owned(),
            query: pairs(url),
            headers: BTreeMap::new(),
            jwt: None,
            body: None,
        }
    }

    /// Shows the length of a random query parameter instead of its value.
    pub(crate) fn with_random(mut self, name: &str) -> Self {
        for (_, value) in self.query.iter_mut().filter(|(n, _)| n == name) {
            *value = format!("<{} random chars>", value.len());
        }
        self
    }
}

impl Jwt {
    fn of_bearer(authorization: &str) -> Option<Self> {
        let (header, mut claims) = decoded_jwt(authorization.strip_prefix("Bearer ")?)?;
        let iat = claims["iat"].as_i64()?;
        let lifetime = claims["exp"].as_i64()? - iat;
        let jti_length = claims["jti"].as_str()?.len();
        claims["iat"] = json!("<now>");
        claims["exp"] = json!(format!("<iat+{lifetime}>"));
        claims["jti"] = json!(format!("<{jti_length} chars>"));
        Some(Self { header, claims })
    }
}

/// Header and claims of a JWT, unverified; `None` if it is not a JWT.
pub(crate) fn decoded_jwt(text: &str) -> Option<(Value, Value)> {
    let mut parts = text.split('.').map(|part| {
        let json = URL_SAFE_NO_PAD.decode(part).ok()?;
        serde_json::from_slice(&json).ok()
    });
    Some((parts.next()??, parts.next()??))
}

fn pairs(url: &Url) -> Vec<(String, String)> {
    url.query_pairs().into_owned().collect()
}

/// `cozerust/0.1.0 rust/1.95.0 linux/6.1 app/2` becomes `cozerust/<version> … <os>/<version> app/2`.
fn without_versions(user_agent: &str) -> String {
    let parts: Vec<_> = user_agent.split(' ').collect();
    let mut shown = Vec::new();
    for (position, part) in parts.iter().enumerate() {
        let (name, version) = part.split_once('/').unwrap_or((part, ""));
        shown.push(match (position, version) {
            (_, "") => format!("{name}, without a version"),
            (0 | 1, _) => format!("{name}/<version>"),
            (2, _) => "<os>/<version>".to_owned(),
            _ => (*part).to_owned(),
        });
    }
    shown.join(" ")
}

fn without_json_versions(user_agent: &str) -> String {
    let mut fields: BTreeMap<String, String> = serde_json::from_str(user_agent)
        .unwrap_or_else(|error| panic!("{user_agent:?} is not an object of strings: {error}"));
    for (name, value) in &mut fields {
        assert!(!value.is_empty(), "{name} is empty in {user_agent}");
        if name != "lang" {
            *value = format!("<{name}>");
        }
    }
    serde_json::to_string(&fields).unwrap()
}
