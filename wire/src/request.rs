//! [`RequestParts`]: builds the request of a call for a generated builder.

use std::{borrow::Cow, fmt::Display};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde::Serialize;
use url::form_urlencoded::Serializer;

use crate::Unbuilt;

/// The number of headers that most requests have, at most.
const HEADERS: usize = 6;

/// A request under construction; [`finish`](Self::finish) builds it.
///
/// ```
/// use coze_wire::{RequestParts, reqwest::Method};
///
/// let mut parts = RequestParts::new(Method::GET, "https://api.coze.com", "/v1/bots/{bot_id}");
/// parts.path("bot_id", "a/b")?;
/// parts.query("is_published", Some(&true));
/// assert_eq!(parts.finish()?.url().as_str(), "https://api.coze.com/v1/bots/a%2Fb?is_published=true");
/// # Ok::<(), coze_wire::Unbuilt>(())
/// ```
#[derive(Debug)]
pub struct RequestParts {
    method: Method,
    base_url: String,
    path: Cow<'static, str>,
    query: String,
    headers: HeaderMap,
    body: Option<reqwest::Body>,
}

impl RequestParts {
    /// A request for a path with its parameters in braces.
    #[must_use]
    pub fn new(method: Method, base_url: &str, path: &'static str) -> Self {
        // With room for those that are added when it is sent.
        let mut headers = HeaderMap::with_capacity(HEADERS);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        Self {
            method,
            base_url: base_url.trim_end_matches('/').to_owned(),
            path: path.into(),
            query: String::new(),
            headers,
            body: None,
        }
    }

    /// Sets a path parameter, percent-encoded.
    ///
    /// # Errors
    ///
    /// If it is empty, `.` or `..`, because the request would go to another path.
    pub fn path(&mut self, name: &str, value: &str) -> Result<(), Unbuilt> {
        if matches!(value, "" | "." | "..") {
            return Err(Unbuilt::new(format_args!(
                "{name} is empty or is not valid in a path"
            )));
        }
        let mut encoded = String::with_capacity(value.len());
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                encoded.push(char::from(byte));
            } else {
                encoded.push_str(&format!("%{byte:02X}"));
            }
        }
        self.path = self.path.replace(&format!("{{{name}}}"), &encoded).into();
        Ok(())
    }

    /// Adds a query parameter, if it is set.
    pub fn query(&mut self, name: &'static str, value: Option<&(impl Display + ?Sized)>) {
        if let Some(value) = value {
            let mut query = Serializer::new(std::mem::take(&mut self.query));
            self.query = query.append_pair(name, &value.to_string()).finish();
        }
    }

    /// Adds a constant header.
    pub fn header(&mut self, name: &'static str, value: &'static str) {
        let name = HeaderName::from_static(name);
        self.headers.insert(name, HeaderValue::from_static(value));
    }

    /// Requests an event stream instead of JSON (`Accept`).
    pub fn accept_events(&mut self) {
        let events = HeaderValue::from_static("text/event-stream");
        self.headers.insert(header::ACCEPT, events);
    }

    /// Sets a JSON body.
    ///
    /// # Errors
    ///
    /// If the value can't be serialised.
    pub fn json(&mut self, body: &impl Serialize) -> Result<(), Unbuilt> {
        let body = serde_json::to_vec(body)
            .map_err(|_| Unbuilt::new("the body can't be written as JSON"))?;
        self.raw("application/json", body)
    }

    /// Sets a body of any content type, such as `multipart/form-data; boundary=...`. A request whose body is bytes can
    /// be retried.
    ///
    /// # Errors
    ///
    /// If the content type is not valid in a header.
    pub fn raw(
        &mut self,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Result<(), Unbuilt> {
        let content_type = HeaderValue::from_str(content_type)
            .map_err(|_| Unbuilt::new("the content type of the body is not valid in a header"))?;
        self.headers.insert(header::CONTENT_TYPE, content_type);
        self.body = Some(body.into());
        Ok(())
    }

    /// Builds the request.
    ///
    /// # Errors
    ///
    /// If the base URL is not a URL.
    pub fn finish(self) -> Result<reqwest::Request, Unbuilt> {
        let Self {
            base_url,
            path,
            query,
            ..
        } = &self;
        let mark = if query.is_empty() { "" } else { "?" };
        let url = url::Url::parse(&format!("{base_url}{path}{mark}{query}"))
            .map_err(|_| Unbuilt::new("the base URL is not a URL"))?;
        let mut request = reqwest::Request::new(self.method, url);
        *request.headers_mut() = self.headers;
        *request.body_mut() = self.body;
        Ok(request)
    }
}

/// Checks that a required parameter or field is set.
///
/// # Errors
///
/// [`Unbuilt`] with its name if it is not.
pub fn required<T>(name: &str, value: Option<T>) -> Result<T, Unbuilt> {
    value.ok_or_else(|| Unbuilt::new(format_args!("{name} is required")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &'static str) -> RequestParts {
        RequestParts::new(Method::POST, "https://coze.test/", path)
    }

    #[test]
    fn parameters_are_encoded() {
        let mut parts = parts("/v1/{a}/{b}/c");
        parts.path("a", "x/y?#%ä").unwrap();
        parts.path("b", "{a}").unwrap();
        parts.query("q", Some("a&b=c d"));
        parts.query("absent", None::<&str>);
        assert_eq!(
            parts.finish().unwrap().url().as_str(),
            "https://coze.test/v1/x%2Fy%3F%23%25%C3%A4/%7Ba%7D/c?q=a%26b%3Dc+d"
        );
    }

    #[test]
    fn a_path_parameter_cannot_change_the_path() {
        for value in ["", ".", ".."] {
            let error = parts("/v1/{id}").path("id", value).unwrap_err();
            assert!(error.to_string().starts_with("id is empty"), "{error}");
        }
        let mut dots = parts("/v1/{id}");
        dots.path("id", "...").unwrap();
        assert_eq!(dots.finish().unwrap().url().path(), "/v1/...");
    }

    #[test]
    fn bodies_have_their_content_type_and_can_be_cloned() {
        let mut json = parts("/a");
        json.json(&[1]).unwrap();
        let json = json.finish().unwrap();
        assert_eq!(json.headers()["content-type"], "application/json");
        assert_eq!(
            json.body().and_then(reqwest::Body::as_bytes),
            Some(&b"[1]"[..])
        );
        assert!(json.try_clone().is_some());

        let mut form = parts("/a");
        form.raw("multipart/form-data; boundary=x", "--x--")
            .unwrap();
        form.header("agw-js-conv", "str");
        let form = form.finish().unwrap();
        assert_eq!(
            form.headers()["content-type"],
            "multipart/form-data; boundary=x"
        );
        assert_eq!(form.headers()["agw-js-conv"], "str");
        assert!(parts("/a").raw("a\nb", "").is_err());
    }

    #[test]
    fn a_missing_parameter_is_named() {
        assert_eq!(required("bot_id", Some(1)), Ok(1));
        let error = required::<i64>("bot_id", None).unwrap_err();
        assert_eq!(error.to_string(), "bot_id is required");
    }
}
