//! Parser for `coze_oauth_config.json`, which the Coze console offers for download.

use std::collections::BTreeMap;

use coze_wire::Secret;
use serde_json::value::RawValue;

use super::{ConfiguredCredentials, OAuthConfig, Problems, jwt_credentials};
use crate::{
    PrivateKey, Result,
    input::{cleaned, credential, is_blank, unescaped},
};

/// Parses the text of the file. `name` is used in errors.
pub(super) fn config(name: &str, text: &str) -> Result<OAuthConfig> {
    let mut problems = Problems::new(name);
    // Editors on Windows add a byte order mark; text copied from a chat or a web page may start with a no-break or zero-width
    // space.
    let text = text.trim_start_matches(|c: char| !c.is_ascii() && is_blank(c));
    if text.trim().is_empty() {
        return problems.refuse("is empty; a JSON object is expected");
    }
    let fields: Fields<'_> = match serde_json::from_str(text) {
        Ok(fields) => fields,
        // The parser's message would quote the text, which may contain secrets.
        Err(error) if error.is_data() => return problems.refuse("is JSON, but not an object"),
        Err(error) => {
            let advice = advice(&error, text);
            return problems.refuse(format!("is not valid JSON: {error}{advice}"));
        }
    };
    report_misspelled_fields(&fields, &mut problems);
    ConfigFile::read(&fields, &mut problems).check(problems)
}

/// A suggestion for fixing invalid JSON, based on the character at the position of the error.
fn advice(error: &serde_json::Error, text: &str) -> &'static str {
    let line = text.lines().nth(error.line().saturating_sub(1));
    let rest = line.and_then(|line| line.get(error.column().saturating_sub(1)..));
    let message = error.to_string();
    if message.starts_with("control character") {
        return r" (write a line break inside a string as \n, a tab as \t)";
    }
    if message.starts_with("invalid escape") {
        return r" (write a backslash inside a string as \\)";
    }
    match rest.unwrap_or_default().chars().next() {
        Some('/' | '#') => " (JSON has no comments; remove them)",
        Some('\'' | '“' | '”' | '‘' | '’') => {
            " (use straight double quotation marks for strings)"
        }
        Some(c) if !c.is_ascii() && is_blank(c) => {
            " (remove the invisible character or no-break space)"
        }
        Some(c) if c.is_ascii_alphabetic() && message.starts_with("key must be a string") => {
            " (put field names in double quotation marks)"
        }
        _ if error.is_eof() => " (the file is incomplete)",
        _ => "",
    }
}

/// Reports a field whose name is misspelled, such as `clientId`, if the correct name is missing. Otherwise a misspelled optional
/// field would be ignored silently.
fn report_misspelled_fields(fields: &Fields<'_>, problems: &mut Problems) {
    let plain = |name: &str| {
        let letters = name.chars().filter(char::is_ascii_alphanumeric);
        letters.collect::<String>().to_ascii_lowercase()
    };
    for name in FIELDS
        .into_iter()
        .filter(|name| !fields.contains_key(*name))
    {
        if fields.keys().any(|other| plain(other) == plain(name)) {
            problems.add(name, " is misspelled; use exactly this name");
        }
    }
}

const FIELDS: [&str; 7] = [
    "client_type",
    "client_id",
    "client_secret",
    "private_key",
    "public_key_id",
    "coze_api_base",
    "coze_www_base",
];

/// The fields as raw JSON. For a string with escapes, such as a private key, `serde_json` would use an internal buffer that is not
/// zeroized.
type Fields<'t> = BTreeMap<String, &'t RawValue>;

/// Fields that may be numbers instead of strings.
const IDS: [&str; 2] = ["client_id", "public_key_id"];

/// The file `coze_oauth_config.json`, which the Coze console offers and all official SDKs read.
#[derive(Debug)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(title = "coze_oauth_config.json"))]
struct ConfigFile {
    /// Which flow the OAuth app is for.
    #[cfg_attr(test, schemars(with = "ClientType"))]
    client_type: Option<ClientType>,
    /// The OAuth app's id.
    #[cfg_attr(test, schemars(with = "String"))]
    client_id: Option<String>,
    /// The client secret; required for `web`, and not allowed for `pkce` and `device`.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    client_secret: Option<Secret>,
    /// The RSA private key as PEM text; required for `jwt`, and not allowed for `pkce` and `device`.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    private_key: Option<Secret>,
    /// The fingerprint of the public key; required for `jwt`.
    public_key_id: Option<String>,
    /// The base URL of the API; `https://api.coze.com` by default.
    coze_api_base: Option<String>,
    /// The base URL of the authorize pages; by default it follows from the API base.
    coze_www_base: Option<String>,
}

/// The flows that an OAuth app can be for.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename_all = "lowercase"))]
enum ClientType {
    Web,
    Pkce,
    Device,
    Jwt,
}

impl ClientType {
    const ALL: [Self; 4] = [Self::Web, Self::Pkce, Self::Device, Self::Jwt];

    fn as_str(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Pkce => "pkce",
            Self::Device => "device",
            Self::Jwt => "jwt",
        }
    }
}

impl ConfigFile {
    fn read(fields: &Fields<'_>, problems: &mut Problems) -> Self {
        let mut secret = |name: &str| {
            let json = fields.get(name)?.get();
            let quoted = json.strip_prefix('"').and_then(|q| q.strip_suffix('"'));
            if let Some(quoted) = quoted {
                let text = unescaped(quoted);
                return Some(Secret::from(cleaned(&text))).filter(|text| !text.is_empty());
            }
            if IDS.contains(&name) && json.bytes().all(|b| b.is_ascii_digit()) {
                return Some(Secret::from(json));
            }
            if json != "null" {
                problems.add(name, " must be a string");
            }
            None
        };
        let mut text = |name: &str| secret(name).map(|text| text.expose().to_owned());
        let client_type = text("client_type");
        let file = Self {
            client_type: None,
            client_id: text("client_id"),
            public_key_id: text("public_key_id"),
            coze_api_base: text("coze_api_base"),
            coze_www_base: text("coze_www_base"),
            client_secret: secret("client_secret"),
            private_key: secret("private_key"),
        };
        let values = " (one of pkce, jwt, device, web)";
        let client_type = problems.required_one_of("client_type", values, client_type);
        let client_type = client_type.and_then(|name| {
            let known = ClientType::ALL.into_iter().find(|t| t.as_str() == name);
            if known.is_none() {
                problems.add("client_type", " must be one of pkce, jwt, device, web");
            }
            known
        });
        Self {
            client_type,
            ..file
        }
    }

    fn check(self, mut problems: Problems) -> Result<OAuthConfig> {
        let endpoint = problems.endpoint(
            ("coze_api_base", self.coze_api_base),
            ("coze_www_base", self.coze_www_base),
        );
        let client_id = problems.required_id("client_id", self.client_id);
        if let Some(public @ (ClientType::Pkce | ClientType::Device)) = self.client_type {
            for (field, given) in [
                ("client_secret", self.client_secret.is_some()),
                ("private_key", self.private_key.is_some()),
            ] {
                if given {
                    let client_type = public.as_str();
                    problems.add(
                        field,
                        format!(" is not allowed for client_type {client_type}"),
                    );
                }
            }
        }
        let credentials = match self.client_type {
            None => None,
            Some(ClientType::Web) => {
                let client_secret = problems
                    .required("client_secret", self.client_secret)
                    .and_then(|secret| {
                        let secret = credential("client secret", secret.expose());
                        problems.checked("client_secret", secret)
                    });
                client_id
                    .zip(client_secret)
                    .map(|(client_id, client_secret)| ConfiguredCredentials::Web {
                        client_id,
                        client_secret,
                    })
            }
            Some(ClientType::Pkce) => {
                client_id.map(|client_id| ConfiguredCredentials::Pkce { client_id })
            }
            Some(ClientType::Device) => {
                client_id.map(|client_id| ConfiguredCredentials::Device { client_id })
            }
            Some(ClientType::Jwt) => {
                let key_id = problems.required_id("public_key_id", self.public_key_id);
                let private_key =
                    problems
                        .required("private_key", self.private_key)
                        .and_then(|pem| {
                            problems.checked("private_key", PrivateKey::from_pem(pem.expose()))
                        });
                jwt_credentials(client_id, key_id, private_key)
            }
        };
        let (credentials, endpoint) = problems.into_result(credentials.zip(endpoint))?;
        Ok(OAuthConfig {
            credentials,
            endpoint,
            redirect_uri: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, Flow};

    fn problems(json: &str) -> String {
        let error = config("x.json", json).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let text = error.to_string();
        assert!(!format!("{text} {error:?}").contains("hush"), "{text}");
        text
    }

    #[test]
    fn each_client_type_yields_its_flow_and_unknown_fields_are_ignored() {
        for (json, flow) in [
            (
                r#"{"client_type":"pkce","client_id":"i","extra":[1]}"#,
                Flow::Pkce,
            ),
            (
                r#"{"client_type":"device","client_id":"i","client_secret":""}"#,
                Flow::Device,
            ),
            (
                r#"{"client_type":"web","client_id":"i","client_secret":" s\n"}"#,
                Flow::Web,
            ),
        ] {
            let config = config("x.json", json).unwrap();
            assert_eq!(config.flow(), flow);
            assert_eq!(config.endpoint(), &crate::Endpoint::COM);
        }
    }

    #[test]
    fn a_numeric_id_is_accepted_and_other_types_are_reported_once() {
        let json = r#"{"client_type":"device","client_id":7312345678901234567}"#;
        let ConfiguredCredentials::Device { client_id } =
            config("x.json", json).unwrap().credentials
        else {
            panic!("not the device flow")
        };
        assert_eq!(client_id.as_ref(), "7312345678901234567");
        for bad in ["-7", "7.5", "7e3", "true", "[7]", "{}"] {
            let text = problems(&format!(r#"{{"client_type":"device","client_id":{bad}}}"#));
            assert_eq!(text, "x.json: client_id must be a string");
        }
        let text = problems(r#"{"client_type":7,"client_id":"i"}"#);
        assert_eq!(text, "x.json: client_type must be a string");
    }

    #[test]
    fn quotes_whitespace_and_escaped_line_breaks_around_values_are_removed() {
        let json = r#"{"client_type":" \"web\"\n","client_id":"'i'","client_secret":"\"\u0073\"\\n",
            "coze_api_base":"\"https://api.coze.cn\"","coze_www_base":"\"\""}"#;
        let config = config("x.json", json).unwrap();
        assert_eq!(config.endpoint(), &crate::Endpoint::CN);
        let ConfiguredCredentials::Web {
            client_id,
            client_secret,
        } = config.credentials
        else {
            panic!("not the web flow")
        };
        assert_eq!((client_id.as_ref(), client_secret.expose()), ("i", "s"));
    }

    #[test]
    fn a_file_that_is_not_regular_not_utf8_or_too_large_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        let refusal = |path: &std::path::Path| {
            let error = OAuthConfig::from_file(path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            error.to_string()
        };
        assert!(refusal(folder.path()).contains("can't be read: it is a directory"));
        assert!(refusal(&path).contains("x.json can't be read: "));
        std::fs::write(&path, b"{\xff}").unwrap();
        assert!(refusal(&path).contains("x.json is not text; save it as UTF-8"));
        std::fs::File::create(&path)
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        assert!(refusal(&path).contains("it is larger than 256 KiB"));
        #[cfg(unix)]
        assert!(refusal(std::path::Path::new("/dev/zero")).contains("it is a device"));

        let json = "\u{feff}{\"client_type\":\"pkce\",\"client_id\":\"i\"}";
        std::fs::write(&path, json).unwrap();
        assert_eq!(OAuthConfig::from_file(&path).unwrap().flow(), Flow::Pkce);
        let utf16: Vec<u8> = json.encode_utf16().flat_map(u16::to_le_bytes).collect();
        std::fs::write(&path, utf16).unwrap();
        assert_eq!(OAuthConfig::from_file(&path).unwrap().flow(), Flow::Pkce);
    }

    #[test]
    fn both_base_urls_are_read() {
        let config = config(
            "x.json",
            r#"{"client_type":"pkce","client_id":"i","coze_api_base":"https://api.coze.cn/",
                "coze_www_base":"https://www.coze.cn"}"#,
        );
        assert_eq!(config.unwrap().endpoint(), &crate::Endpoint::CN);
    }

    #[test]
    fn all_missing_fields_are_reported_at_once() {
        let text = problems(r#"{"client_type":"jwt","coze_api_base":"http://api.coze.com"}"#);
        for name in [
            "x.json",
            "client_id",
            "public_key_id",
            "private_key",
            "coze_api_base",
        ] {
            assert!(text.contains(name), "{name}: {text}");
        }
        let text = problems("{}");
        assert!(text.contains("client_type is missing"), "{text}");
        assert!(text.contains("client_id is missing"), "{text}");
        let text = problems(r#"{"client_type":"web","client_id":"i"}"#);
        assert!(text.contains("client_secret is missing"), "{text}");
    }

    #[test]
    fn a_misspelled_field_is_reported_once_by_its_correct_name() {
        for (json, name) in [
            (r#"{"clientType":"web"}"#, "client_type"),
            (r#"{"client_type":"pkce","clientId":"hush"}"#, "client_id"),
            (r#"{"client_type":"pkce"," client-id":"hush"}"#, "client_id"),
            (
                r#"{"client_type":"pkce","client_id":"i","CozeApiBase":"https://api.coze.cn"}"#,
                "coze_api_base",
            ),
        ] {
            let text = problems(json);
            let expected = format!("{name} is misspelled");
            assert!(text.contains(&expected), "{expected}: {text}");
            assert!(!text.contains(&format!("{name} is missing")), "{text}");
        }
        let both = r#"{"client_type":"pkce","client_id":"i","clientId":"j"}"#;
        assert!(config("x.json", both).is_ok());
    }

    #[test]
    fn an_invalid_escape_is_refused() {
        let text =
            problems(r#"{"client_type":"web","client_id":"i","client_secret":"hush\ud800"}"#);
        assert!(
            text.contains("the client secret contains the control character U+001A (character 5)"),
            "{text}"
        );
    }

    #[test]
    fn base_urls_of_different_sites_are_refused() {
        for bases in [
            r#""coze_www_base":"https://www.coze.cn""#,
            r#""coze_api_base":"https://api.coze.cn","coze_www_base":"https://www.coze.com""#,
        ] {
            let text = problems(&format!(
                r#"{{"client_type":"pkce","client_id":"i",{bases}}}"#
            ));
            assert!(text.contains("coze_www_base"), "{text}");
            assert!(text.contains("belong to different sites"), "{text}");
        }
    }

    #[test]
    fn disallowed_fields_and_invalid_values_are_reported_without_their_values() {
        let text = problems(
            r#"{"client_type":"pkce","client_id":"i","client_secret":"hush","private_key":"hush"}"#,
        );
        assert!(
            text.contains("client_secret is not allowed for client_type pkce"),
            "{text}"
        );
        assert!(
            text.contains("private_key is not allowed for client_type pkce"),
            "{text}"
        );
        let text = problems(
            r#"{"client_type":"jwt","client_id":"i","public_key_id":"k","private_key":"hush"}"#,
        );
        assert!(
            text.contains("private_key: the private key can't be used"),
            "{text}"
        );
        let text = problems(r#"{"client_type":"oauth","client_id":"i"}"#);
        assert!(text.contains("one of pkce, jwt, device, web"), "{text}");
        let text =
            problems(r#"{"client_type":"web","client_id":"i","client_secret":"hush\nhush"}"#);
        assert!(
            text.contains("client_secret: the client secret contains"),
            "{text}"
        );
    }

    #[test]
    fn invalid_json_is_refused_with_its_position() {
        for (text, expected) in [
            ("", "x.json is empty"),
            (" \n", "x.json is empty"),
            ("{\"client_id\":\"", "(the file is incomplete)"),
            ("// hush\n{}", "line 1 column 1 (JSON has no comments"),
            ("{\n  # hush\n}", "line 2 column 3 (JSON has no comments"),
            ("{\"client_id\": \"i\", // hush\n}", "(JSON has no comments"),
            ("{'client_secret': 'hush'}", "(use straight double"),
            ("{“client_secret”: “hush”}", "(use straight double"),
            ("{client_secret: 1}", "(put field names in double"),
            (
                "{\n\u{a0}\u{a0}\"client_id\": 1}",
                "(remove the invisible character",
            ),
            ("{\"client_secret\": \"hu\tsh\"}", r"a tab as \t)"),
            (
                r#"{"private_key": "C:\hush.pem"}"#,
                r"(write a backslash inside a string as \\)",
            ),
            ("{\n  \"client_secret\": hush}", "line 2 column 20"),
            (
                "{\"private_key\": \"hush\nhush\"}",
                r"(write a line break inside a string as \n",
            ),
            ("{\"client_secret\": \"hush\",}", "trailing comma at line 1"),
            ("[\"hush\"]", "not an object"),
            ("null", "not an object"),
        ] {
            assert!(
                problems(text).contains(expected),
                "{text}: {}",
                problems(text)
            );
        }
    }

    /// To update the schema:
    /// `UPDATE_SCHEMA=1 cargo test -p coze-auth the_committed_schema`.
    #[test]
    fn the_committed_schema_matches_the_types() {
        let schema =
            serde_json::to_string_pretty(&schemars::schema_for!(ConfigFile)).unwrap() + "\n";
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/schema/coze_oauth_config.schema.json"
        );
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(path, &schema).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == schema,
            "{path} is out of date; update it: UPDATE_SCHEMA=1 cargo test -p coze-auth the_committed_schema"
        );
    }

    #[test]
    fn every_field_of_the_schema_is_read() {
        let schema = serde_json::to_value(schemars::schema_for!(ConfigFile)).unwrap();
        for name in schema["properties"].as_object().unwrap().keys() {
            let text = problems(&format!(r#"{{"{name}": {{"hush": "hush"}}}}"#));
            assert!(text.contains(&format!("{name} must be a string")), "{text}");
        }
    }
}
