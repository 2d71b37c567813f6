//! A request with its body, and its credential.

use crate::host::Called;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, header};
use serde_json::Value;

/// A request with its body read.
pub(crate) struct Incoming {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    /// `None` if it exceeded the size limit.
    pub(crate) body: Option<Bytes>,
    /// The host and port that the client called.
    pub(crate) authority: String,
    /// Where it was named.
    pub(crate) called: Called,
    pub(crate) scheme: &'static str,
}

impl Incoming {
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The media type of the body, without parameters, in lower case.
    pub(crate) fn content_type(&self) -> Option<String> {
        let value = self.header(&header::CONTENT_TYPE)?;
        Some(
            value
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_ascii_lowercase(),
        )
    }

    pub(crate) fn json(&self) -> Option<Value> {
        serde_json::from_slice(self.body.as_ref()?).ok()
    }
}

/// What a request's `Authorization` header holds.
#[derive(Clone, Copy)]
pub(crate) enum Credential<'a> {
    Absent,
    /// The word `Bearer` without a token.
    EmptyBearer,
    Bearer(&'a str),
    /// Anything other than one bearer token.
    NoBearer,
}

pub(crate) fn credential(headers: &HeaderMap) -> Credential<'_> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Credential::Absent;
    };
    let (None, Ok(value)) = (values.next(), value.to_str()) else {
        return Credential::NoBearer;
    };
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Credential::NoBearer;
    }
    match token.trim() {
        "" => Credential::EmptyBearer,
        token if token.contains(char::is_whitespace) => Credential::NoBearer,
        token => Credential::Bearer(token),
    }
}
