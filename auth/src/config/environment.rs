//! The environment variables of the official SDKs' examples.

use std::{collections::BTreeMap, ffi::OsString};

use zeroize::Zeroizing;

use super::{ConfiguredCredentials, OAuthConfig, Problems, jwt_credentials};
use crate::{
    Error, ErrorKind, FixedToken, Flow, PrivateKey, Result,
    input::{cleaned, cleaned_path, credential, identifier},
};

/// A personal or service access token.
const TOKEN_VARIABLE: &str = "COZE_API_TOKEN";
const WEB_CLIENT_ID: &str = "COZE_WEB_OAUTH_CLIENT_ID";
const WEB_CLIENT_SECRET: &str = "COZE_WEB_OAUTH_CLIENT_SECRET";
const WEB_REDIRECT_URI: &str = "COZE_WEB_OAUTH_REDIRECT_URI";
const PKCE_CLIENT_ID: &str = "COZE_PKCE_OAUTH_CLIENT_ID";
const PKCE_REDIRECT_URI: &str = "COZE_PKCE_OAUTH_REDIRECT_URI";
const DEVICE_CLIENT_ID: &str = "COZE_DEVICE_OAUTH_CLIENT_ID";
const JWT_CLIENT_ID: &str = "COZE_JWT_OAUTH_CLIENT_ID";
const JWT_PRIVATE_KEY: &str = "COZE_JWT_OAUTH_PRIVATE_KEY";
const JWT_PRIVATE_KEY_FILE: &str = "COZE_JWT_OAUTH_PRIVATE_KEY_FILE_PATH";
const JWT_KEY_ID: &str = "COZE_JWT_OAUTH_PUBLIC_KEY_ID";
const API_BASE: &str = "COZE_API_BASE";

const VARIABLES: [&str; 12] = [
    TOKEN_VARIABLE,
    WEB_CLIENT_ID,
    WEB_CLIENT_SECRET,
    WEB_REDIRECT_URI,
    PKCE_CLIENT_ID,
    PKCE_REDIRECT_URI,
    DEVICE_CLIENT_ID,
    JWT_CLIENT_ID,
    JWT_PRIVATE_KEY,
    JWT_PRIVATE_KEY_FILE,
    JWT_KEY_ID,
    API_BASE,
];

/// The values of the variables in [`VARIABLES`] that are set and not empty.
pub(super) struct Environment {
    values: BTreeMap<&'static str, Zeroizing<String>>,
    /// Variables whose values are not valid Unicode.
    unreadable: Vec<&'static str>,
}

impl Environment {
    pub(super) fn read(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let mut environment = Self {
            values: BTreeMap::new(),
            unreadable: Vec::new(),
        };
        for name in VARIABLES {
            match variable(name).map(OsString::into_string) {
                None => {}
                Some(Ok(value)) => {
                    let value = Zeroizing::new(value);
                    if !cleaned(&value).is_empty() {
                        environment.values.insert(name, value);
                    }
                }
                Some(Err(_)) => environment.unreadable.push(name),
            }
        }
        environment
    }

    fn has(&self, name: &'static str) -> bool {
        self.values.contains_key(name) || self.unreadable.contains(&name)
    }

    fn get(&self, name: &'static str) -> Option<&str> {
        let value = self.values.get(name)?;
        Some(match name {
            JWT_PRIVATE_KEY_FILE => cleaned_path(value),
            _ => cleaned(value),
        })
    }

    /// A checked id. A missing one has already been reported by [`missing`](Self::missing).
    fn id<T: From<String>>(&self, name: &'static str, problems: &mut Problems) -> Option<T> {
        problems
            .checked(name, identifier("id", self.get(name)?))
            .map(T::from)
    }

    /// The variables that a flow requires: at least one of each group.
    fn required(flow: Flow) -> &'static [&'static [&'static str]] {
        match flow {
            Flow::Token => &[&[TOKEN_VARIABLE]],
            Flow::Web => &[&[WEB_CLIENT_ID], &[WEB_CLIENT_SECRET]],
            Flow::Pkce => &[&[PKCE_CLIENT_ID]],
            Flow::Device => &[&[DEVICE_CLIENT_ID]],
            Flow::Jwt => &[
                &[JWT_CLIENT_ID],
                &[JWT_KEY_ID],
                &[JWT_PRIVATE_KEY_FILE, JWT_PRIVATE_KEY],
            ],
        }
    }

    /// The optional variables of a flow.
    fn optional(flow: Flow) -> &'static [&'static str] {
        match flow {
            Flow::Web => &[WEB_REDIRECT_URI, API_BASE],
            Flow::Pkce => &[PKCE_REDIRECT_URI, API_BASE],
            Flow::Token | Flow::Device | Flow::Jwt => &[API_BASE],
        }
    }

    fn missing(&self, flow: Flow) -> Vec<String> {
        Self::required(flow)
            .iter()
            .filter(|group| !group.iter().any(|name| self.has(name)))
            .map(|group| group.join(" or "))
            .collect()
    }

    /// `None` if no variable that a flow requires is set: of the chosen flow, or of any. A token takes precedence over the
    /// other flows.
    pub(super) fn config_if_set(self, chosen: Option<Flow>) -> Result<Option<OAuthConfig>> {
        let is_begun = |flow: Flow| {
            let required = Self::required(flow).iter();
            required.flat_map(|group| *group).any(|name| self.has(name))
        };
        let is_any_begun = match chosen {
            Some(flow) => is_begun(flow),
            None => Flow::ALL.into_iter().any(is_begun),
        };
        if !is_any_begun {
            return Ok(None);
        }
        let chosen = chosen.or(is_begun(Flow::Token).then_some(Flow::Token));
        self.config(chosen).map(Some)
    }

    pub(super) fn config(self, chosen: Option<Flow>) -> Result<OAuthConfig> {
        let mut problems = Problems::new("the environment");
        let flow = match chosen {
            Some(flow) => flow,
            None => self.only_complete_flow()?,
        };
        for missing in self.missing(flow) {
            problems.add(&missing, format!(" is not set (flow {flow})"));
        }
        let required = Self::required(flow).iter().flat_map(|group| *group);
        for name in required.chain(Self::optional(flow)) {
            if self.unreadable.contains(name) {
                problems.add(name, " is not valid Unicode");
            }
        }
        let api_base = self.get(API_BASE).map(str::to_owned);
        let endpoint = problems.endpoint((API_BASE, api_base), ("the WWW base", None));
        let credentials = self.credentials(flow, &mut problems);
        let redirect_uri = match flow {
            Flow::Web => self.get(WEB_REDIRECT_URI),
            Flow::Pkce => self.get(PKCE_REDIRECT_URI),
            _ => None,
        };
        let (credentials, endpoint) = problems.into_result(credentials.zip(endpoint))?;
        Ok(OAuthConfig {
            credentials,
            endpoint,
            redirect_uri: redirect_uri.map(str::to_owned),
        })
    }

    fn only_complete_flow(&self) -> Result<Flow> {
        let complete: Vec<_> = Flow::ALL
            .into_iter()
            .filter(|flow| self.missing(*flow).is_empty())
            .collect();
        match *complete {
            [flow] => Ok(flow),
            [] => {
                let incomplete: Vec<_> = Flow::ALL
                    .into_iter()
                    .filter(|flow| {
                        Self::required(*flow)
                            .iter()
                            .flat_map(|g| *g)
                            .any(|n| self.has(n))
                    })
                    .flat_map(|flow| {
                        self.missing(flow)
                            .into_iter()
                            .map(move |missing| format!("{missing} is not set (flow {flow})"))
                    })
                    .collect();
                let what = if incomplete.is_empty() {
                    format!(
                        "none of Coze's variables is set; set {TOKEN_VARIABLE}, or the variables of a flow (COZE_WEB_OAUTH_…, COZE_PKCE_OAUTH_…, COZE_DEVICE_OAUTH_…, COZE_JWT_OAUTH_…)"
                    )
                } else {
                    incomplete.join("; ")
                };
                Err(Error::new(
                    ErrorKind::Configuration,
                    format!("the environment: {what}"),
                ))
            }
            _ => {
                let names: Vec<_> = complete.iter().map(Flow::to_string).collect();
                Err(Error::new(
                    ErrorKind::Configuration,
                    format!(
                        "the environment has the variables of several flows: {}; choose one with from_env_for",
                        names.join(", ")
                    ),
                ))
            }
        }
    }

    fn credentials(&self, flow: Flow, problems: &mut Problems) -> Option<ConfiguredCredentials> {
        match flow {
            Flow::Token => {
                let token = FixedToken::new(self.get(TOKEN_VARIABLE)?);
                let token = problems.checked(TOKEN_VARIABLE, token)?;
                Some(ConfiguredCredentials::Token(token))
            }
            Flow::Web => {
                let client_secret = credential("client secret", self.get(WEB_CLIENT_SECRET)?);
                Some(ConfiguredCredentials::Web {
                    client_secret: problems.checked(WEB_CLIENT_SECRET, client_secret)?,
                    client_id: self.id(WEB_CLIENT_ID, problems)?,
                })
            }
            Flow::Pkce => Some(ConfiguredCredentials::Pkce {
                client_id: self.id(PKCE_CLIENT_ID, problems)?,
            }),
            Flow::Device => Some(ConfiguredCredentials::Device {
                client_id: self.id(DEVICE_CLIENT_ID, problems)?,
            }),
            Flow::Jwt => {
                let private_key = match (self.get(JWT_PRIVATE_KEY_FILE), self.get(JWT_PRIVATE_KEY))
                {
                    (Some(path), _) => {
                        problems.checked(JWT_PRIVATE_KEY_FILE, PrivateKey::from_pem_file(path))
                    }
                    (None, Some(pem)) => {
                        problems.checked(JWT_PRIVATE_KEY, PrivateKey::from_pem(pem))
                    }
                    (None, None) => None,
                };
                jwt_credentials(
                    self.id(JWT_CLIENT_ID, problems),
                    self.id(JWT_KEY_ID, problems),
                    private_key,
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)], flow: Option<Flow>) -> Result<OAuthConfig> {
        let value = |name: &str| {
            let (_, value) = variables.iter().find(|(n, _)| *n == name)?;
            Some(OsString::from(value))
        };
        OAuthConfig::from_variables(value, flow)
    }

    fn problems(variables: &[(&str, &str)], flow: Option<Flow>) -> String {
        let error = config(variables, flow).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let text = error.to_string();
        assert!(!format!("{text} {error:?}").contains("hush"), "{text}");
        text
    }

    #[test]
    fn variables_that_are_not_set_are_no_configuration_and_half_a_flow_is_an_error() {
        let found = |variables: &[(&str, &str)], flow| {
            let value = |name: &str| {
                let (_, value) = variables.iter().find(|(n, _)| *n == name)?;
                Some(OsString::from(value))
            };
            OAuthConfig::from_variables_if_set(value, flow)
                .map(|config| config.map(|config| config.flow()))
        };
        let half = [(WEB_CLIENT_ID, "id")];
        let two = [(PKCE_CLIENT_ID, "id"), (DEVICE_CLIENT_ID, "id")];
        let with_token = [(TOKEN_VARIABLE, "pat"), two[0], two[1], half[0]];
        for variables in [
            &[][..],
            &[(TOKEN_VARIABLE, " ")],
            &[(API_BASE, "x")],
            &[(PKCE_REDIRECT_URI, "x")],
        ] {
            assert_eq!(found(variables, None).unwrap(), None, "{variables:?}");
        }
        assert_eq!(found(&with_token, None).unwrap(), Some(Flow::Token));
        assert_eq!(
            found(&with_token, Some(Flow::Pkce)).unwrap(),
            Some(Flow::Pkce)
        );
        assert_eq!(found(&two[..1], None).unwrap(), Some(Flow::Pkce));
        assert_eq!(found(&half, Some(Flow::Jwt)).unwrap(), None);
        for (variables, flow) in [(&half[..], None), (&half, Some(Flow::Web)), (&two, None)] {
            let error = found(variables, flow).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration, "{variables:?}");
        }
    }

    #[test]
    fn the_only_complete_flow_is_selected_despite_an_incomplete_one() {
        for (variables, flow) in [
            (&[(TOKEN_VARIABLE, " pat\n")][..], Flow::Token),
            (&[(WEB_CLIENT_ID, "i"), (WEB_CLIENT_SECRET, "s")], Flow::Web),
            (&[(PKCE_CLIENT_ID, "i"), (WEB_CLIENT_ID, "i")], Flow::Pkce),
            (
                &[(DEVICE_CLIENT_ID, "i"), (TOKEN_VARIABLE, " ")],
                Flow::Device,
            ),
        ] {
            assert_eq!(config(variables, None).unwrap().flow(), flow);
        }
    }

    #[test]
    fn quotes_whitespace_and_escaped_line_breaks_around_values_are_removed() {
        let quoted = config(
            &[
                (WEB_CLIENT_ID, "\"i\""),
                (WEB_CLIENT_SECRET, "'s'\\n"),
                (WEB_REDIRECT_URI, "\"https://example.com/cb\""),
                (API_BASE, "\"https://api.coze.cn\"\r"),
                (TOKEN_VARIABLE, "\"\""),
            ],
            None,
        )
        .unwrap();
        assert_eq!(quoted.endpoint(), &crate::Endpoint::CN);
        assert_eq!(quoted.redirect_uri(), Some("https://example.com/cb"));
        let ConfiguredCredentials::Web {
            client_id,
            client_secret,
        } = quoted.credentials
        else {
            panic!("not the web flow")
        };
        assert_eq!((client_id.as_ref(), client_secret.expose()), ("i", "s"));
        let token = config(&[(TOKEN_VARIABLE, "\"pat_abc\\n\"")], None).unwrap();
        let ConfiguredCredentials::Token(token) = token.credentials else {
            panic!("not a token")
        };
        assert_eq!(token.access_token().authorization(), "Bearer pat_abc");
    }

    #[test]
    fn an_invalid_value_is_reported_by_variable_and_character() {
        for (name, value, expected) in [
            (
                TOKEN_VARIABLE,
                "\"hush",
                "COZE_API_TOKEN: the token contains a quotation mark",
            ),
            (
                TOKEN_VARIABLE,
                "hush # mine",
                "COZE_API_TOKEN: the token contains a space",
            ),
            (
                TOKEN_VARIABLE,
                "Bearer hush",
                "COZE_API_TOKEN: the token begins with the word",
            ),
            (
                DEVICE_CLIENT_ID,
                "hu\\nsh",
                "COZE_DEVICE_OAUTH_CLIENT_ID: the id contains a backslash (character 3)",
            ),
        ] {
            let text = problems(&[(name, value)], None);
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }

    #[test]
    fn api_base_and_redirect_uri_are_read() {
        let config = config(
            &[
                (WEB_CLIENT_ID, "i"),
                (WEB_CLIENT_SECRET, "s"),
                (WEB_REDIRECT_URI, "https://example.com/cb"),
                (API_BASE, "https://api.coze.cn"),
            ],
            None,
        )
        .unwrap();
        assert_eq!(config.endpoint(), &crate::Endpoint::CN);
        assert_eq!(config.redirect_uri(), Some("https://example.com/cb"));
    }

    #[test]
    fn several_complete_flows_are_an_error_unless_one_is_chosen() {
        let variables = [(TOKEN_VARIABLE, "hush"), (DEVICE_CLIENT_ID, "i")];
        let text = problems(&variables, None);
        assert!(text.contains("token, device"), "{text}");
        assert_eq!(
            config(&variables, Some(Flow::Device)).unwrap().flow(),
            Flow::Device
        );
    }

    #[test]
    fn all_missing_variables_are_reported_at_once() {
        let text = problems(&[(JWT_CLIENT_ID, "i"), (WEB_CLIENT_SECRET, "hush")], None);
        for name in [
            JWT_KEY_ID,
            JWT_PRIVATE_KEY_FILE,
            JWT_PRIVATE_KEY,
            WEB_CLIENT_ID,
        ] {
            assert!(text.contains(name), "{name}: {text}");
        }
        assert!(problems(&[], None).contains("none of Coze's variables is set"));
        let text = problems(&[(API_BASE, "http://x.y")], Some(Flow::Device));
        assert!(
            text.contains(DEVICE_CLIENT_ID) && text.contains(API_BASE),
            "{text}"
        );
    }

    #[test]
    fn a_key_file_takes_precedence_over_an_inline_key() {
        let jwt = [
            (JWT_CLIENT_ID, "i"),
            (JWT_KEY_ID, "k"),
            (JWT_PRIVATE_KEY, "hush"),
            (JWT_PRIVATE_KEY_FILE, "/nowhere/private_key.pem"),
        ];
        let text = problems(&jwt, None);
        assert!(
            text.contains("/nowhere/private_key.pem can't be read: "),
            "{text}"
        );
        let text = problems(&jwt[..3], None);
        assert!(
            text.contains("COZE_JWT_OAUTH_PRIVATE_KEY: the private key can't be used"),
            "{text}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_variable_that_is_not_unicode_is_reported() {
        use std::os::unix::ffi::OsStringExt;
        let value =
            |name: &str| (name == TOKEN_VARIABLE).then(|| OsString::from_vec(b"hush\xff".to_vec()));
        let text = OAuthConfig::from_variables(value, None)
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("COZE_API_TOKEN is not valid Unicode"),
            "{text}"
        );
        assert!(!text.contains("hush"), "{text}");
    }
}
