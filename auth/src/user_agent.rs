//! The `User-Agent` header, in the format of the official SDKs:
//! `coze<lang>/<version> <lang>/<lang version> <os>/<os version>`. [`CLIENT_USER_AGENT`] has the same values as JSON.

use http::HeaderValue;
use serde::Serialize;

use crate::{Error, Result};

/// The name of the header with the JSON format.
pub(crate) const CLIENT_USER_AGENT: &str = "x-coze-client-user-agent";

const LANG: &str = "rust";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The compiler version, set by the build script.
const LANG_VERSION: &str = env!("COZE_AUTH_RUSTC_VERSION");

#[derive(Serialize)]
struct ClientUserAgent {
    version: &'static str,
    lang: &'static str,
    lang_version: &'static str,
    os_name: &'static str,
    os_version: String,
}

pub(crate) fn user_agent(product: Option<&str>) -> Result<HeaderValue> {
    let os_name = std::env::consts::OS;
    let os_version = os_version();
    let mut text =
        format!("coze{LANG}/{VERSION} {LANG}/{LANG_VERSION} {os_name}/{os_version}").to_lowercase();
    if let Some(product) = product.map(str::trim) {
        if product.is_empty() {
            return Err(Error::invalid_input("the product is empty"));
        }
        text.push(' ');
        text.push_str(product);
    }
    if text
        .bytes()
        .any(|byte| byte != b' ' && !byte.is_ascii_graphic())
    {
        return Err(Error::invalid_input(
            "the product contains a control or non-ASCII character; use a form like my-service/1.2",
        ));
    }
    HeaderValue::try_from(text)
        .map_err(|_| Error::invalid_input("the product is not a valid header value"))
}

pub(crate) fn client_user_agent() -> Result<HeaderValue> {
    let client = ClientUserAgent {
        version: VERSION,
        lang: LANG,
        lang_version: LANG_VERSION,
        os_name: std::env::consts::OS,
        os_version: os_version(),
    };
    serde_json::to_string(&client)
        .ok()
        .and_then(|json| HeaderValue::try_from(json).ok())
        .ok_or_else(|| Error::invalid_input("the system's description is not a valid header value"))
}

/// The kernel release on Unix, such as `6.1.0`; `unknown` on other systems.
fn os_version() -> String {
    #[cfg(unix)]
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    #[cfg(not(unix))]
    let release = String::new();
    let shown: String = release
        .to_lowercase()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "._-+".contains(*c))
        .collect();
    if shown.is_empty() {
        "unknown".to_owned()
    } else {
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_agent_has_the_documented_format_and_ends_with_the_product() {
        let text = user_agent(Some(" my-service/1.2 ")).unwrap();
        let parts: Vec<_> = text.to_str().unwrap().split(' ').collect();
        assert_eq!(parts.len(), 4, "{parts:?}");
        assert_eq!(parts[0], format!("cozerust/{VERSION}"));
        assert!(parts[1].starts_with("rust/1."), "{parts:?}");
        assert!(parts[2].starts_with(std::env::consts::OS), "{parts:?}");
        assert_eq!(parts[3], "my-service/1.2");
    }

    #[test]
    fn the_json_format_has_the_five_documented_fields() {
        let json: serde_json::Value =
            serde_json::from_slice(client_user_agent().unwrap().as_bytes()).unwrap();
        let fields: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        assert_eq!(
            fields,
            ["lang", "lang_version", "os_name", "os_version", "version"]
        );
        assert_eq!(json["lang"], "rust");
    }

    #[test]
    fn a_product_that_is_not_a_valid_header_value_is_refused() {
        for product in ["", " ", "a\r\nX: y", "é/1"] {
            assert!(user_agent(Some(product)).is_err(), "{product:?}");
        }
    }
}
