//! Routing: from method and path of a request to its endpoint.

use crate::contract::Contract;
use crate::endpoint::Endpoint;
use crate::error::Error;
use http::Method;
use std::borrow::Cow;

pub(crate) const ONE_SLASH: &str = "one slash between segments";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// One of Coze's endpoints, with the id in its path.
    Coze(Endpoint, Option<String>),
    /// A path of Coze's with a method that it does not support, and the supported one.
    WrongMethod(Endpoint, Method),
    /// One of the mock's own paths: the part after `/_mock/`.
    Mock(String),
    Unknown,
}

/// The path with consecutive slashes collapsed into one; `None` if there are none.
pub(crate) fn fold_slashes(path: &str) -> Option<String> {
    path.contains("//").then(|| {
        let mut out = String::with_capacity(path.len());
        for character in path.chars() {
            if character != '/' || !out.ends_with('/') {
                out.push(character);
            }
        }
        out
    })
}

/// The endpoints by method and path, read from the schemas of the contract.
pub(crate) struct Routes(Vec<Entry>);

struct Entry {
    endpoint: Endpoint,
    method: Method,
    /// `None` stands for an id.
    segments: Vec<Option<String>>,
}

impl Entry {
    /// The id in the path, if the path matches.
    fn id_in<'s>(&self, segments: &[&'s str]) -> Option<Option<&'s str>> {
        if segments.len() != self.segments.len() {
            return None;
        }
        let mut id = None;
        for (segment, expected) in segments.iter().zip(&self.segments) {
            match expected {
                Some(expected) if expected == segment => {}
                Some(_) => return None,
                None => id = Some(*segment),
            }
        }
        Some(id)
    }
}

impl Routes {
    pub(crate) fn of(contract: &Contract) -> Result<Self, Error> {
        let entry = |endpoint: Endpoint| {
            let (method, path) = contract.method_and_path(endpoint)?;
            let segment = |text: &str| (!text.starts_with('{')).then(|| text.to_owned());
            Some(Entry {
                endpoint,
                method: method.parse().ok()?,
                segments: path.split('/').skip(1).map(segment).collect(),
            })
        };
        let missing =
            |endpoint| Error::Contract(format!("no operation for the endpoint {endpoint}"));
        let entries = Endpoint::ALL
            .into_iter()
            .map(|endpoint| entry(endpoint).ok_or_else(|| missing(endpoint)));
        entries.collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn find(&self, method: &Method, path: &str) -> Route {
        if let Some(rest) = path.strip_prefix("/_mock/") {
            return Route::Mock(rest.to_owned());
        }
        let mut segments: Vec<Cow<'_, str>> = Vec::with_capacity(7);
        for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
            match percent_encoding::percent_decode_str(segment).decode_utf8() {
                Ok(segment) => segments.push(segment),
                Err(_) => return Route::Unknown,
            }
        }
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        let mut matching = self
            .0
            .iter()
            .filter_map(|entry| Some((entry, entry.id_in(&segments)?)));
        let Some((entry, id)) = matching.next() else {
            return Route::Unknown;
        };
        if id.is_some_and(|id| matches!(id, "" | "." | "..")) {
            return Route::Unknown;
        }
        if entry.method != *method {
            return Route::WrongMethod(entry.endpoint, entry.method.clone());
        }
        Route::Coze(entry.endpoint, id.map(str::to_owned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_routes_to_its_endpoint_and_id() {
        let contract = Contract::load().expect("a contract");
        let routes = Routes::of(contract).expect("routes");
        for (method, path, expected) in [
            (
                Method::POST,
                "/api/permission/oauth2/token",
                Route::Coze(Endpoint::Token, None),
            ),
            (
                Method::GET,
                "/api/permission/oauth2/token",
                Route::WrongMethod(Endpoint::Token, Method::POST),
            ),
            (
                Method::POST,
                "/api/permission/oauth2/account/a%2Fb%20c/token",
                Route::Coze(Endpoint::AccountToken, Some("a/b c".into())),
            ),
            (
                Method::POST,
                "/api/permission/oauth2/account/%2E%2E/token",
                Route::Unknown,
            ),
            (
                Method::POST,
                "/api/permission/oauth2/account//token",
                Route::Unknown,
            ),
            (Method::GET, "/v1/bots/%FF", Route::Unknown),
            (
                Method::GET,
                "/v1/users/me",
                Route::Coze(Endpoint::UsersMe, None),
            ),
            (Method::GET, "/v1/users/me/", Route::Unknown),
            (
                Method::GET,
                "/_mock/requests",
                Route::Mock("requests".into()),
            ),
        ] {
            assert_eq!(routes.find(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn only_consecutive_slashes_are_collapsed() {
        assert_eq!(fold_slashes("//api///x/").as_deref(), Some("/api/x/"));
        assert_eq!(fold_slashes("/api/x"), None);
    }
}
