//! Routing: from method and path of a request to its endpoint.

use crate::contract::Contract;
use crate::endpoint::Endpoint;
use crate::error::Error;
use http::Method;
use std::borrow::Cow;

pub(crate) const ONE_SLASH: &str = "one slash between segments";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// One of Coze's endpoints, with the ids in its path.
    Coze(Endpoint, PathIds),
    /// A path of Coze's with a method that it does not support, and the supported ones, as in an `Allow` header.
    WrongMethod(Endpoint, String),
    /// One of the mock's own paths: the part after `/_mock/`.
    Mock(String),
    Unknown,
}

/// The ids in a path: the names of its parameters, and their values.
pub(crate) type PathIds = Vec<(String, String)>;

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
    segments: Vec<Segment>,
}

/// A segment of a path template.
enum Segment {
    Text(String),
    /// An id, by the name of its parameter.
    Id(String),
}

impl Entry {
    /// The ids in the path, if the path matches.
    fn ids_in(&self, segments: &[&str]) -> Option<PathIds> {
        if segments.len() != self.segments.len() {
            return None;
        }
        let mut ids = PathIds::new();
        for (segment, expected) in segments.iter().zip(&self.segments) {
            match expected {
                Segment::Text(text) if text == segment => {}
                Segment::Id(name) if !matches!(*segment, "" | "." | "..") => {
                    ids.push((name.clone(), (*segment).to_owned()));
                }
                Segment::Text(_) | Segment::Id(_) => return None,
            }
        }
        Some(ids)
    }
}

impl Routes {
    pub(crate) fn of(contract: &Contract) -> Result<Self, Error> {
        let entry = |endpoint: Endpoint| {
            let (method, path) = contract.method_and_path(endpoint)?;
            let segment = |text: &str| {
                let name = text
                    .strip_prefix('{')
                    .and_then(|name| name.strip_suffix('}'));
                match name {
                    Some(name) => Segment::Id(name.to_owned()),
                    None => Segment::Text(text.to_owned()),
                }
            };
            Some(Entry {
                endpoint,
                method: method.parse().ok()?,
                segments: path.split('/').skip(1).map(segment).collect(),
            })
        };
        let missing =
            |endpoint| Error::Contract(format!("no operation for the endpoint {endpoint}"));
        let entries = Endpoint::ALL
            .iter()
            .map(|endpoint| entry(*endpoint).ok_or_else(|| missing(*endpoint)));
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
        let matching = self
            .0
            .iter()
            .filter_map(|entry| Some((entry, entry.ids_in(&segments)?)));
        // One path may have several methods, each an endpoint.
        let mut others: Vec<&Entry> = Vec::new();
        for (entry, ids) in matching {
            if entry.method == *method {
                return Route::Coze(entry.endpoint, ids);
            }
            others.push(entry);
        }
        let Some(first) = others.first() else {
            return Route::Unknown;
        };
        let methods: Vec<&str> = others.iter().map(|entry| entry.method.as_str()).collect();
        Route::WrongMethod(first.endpoint, methods.join(", "))
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
                Route::Coze(Endpoint::Token, Vec::new()),
            ),
            (
                Method::GET,
                "/api/permission/oauth2/token",
                Route::WrongMethod(Endpoint::Token, "POST".into()),
            ),
            (
                Method::POST,
                "/api/permission/oauth2/account/a%2Fb%20c/token",
                Route::Coze(
                    Endpoint::AccountToken,
                    vec![("account_id".into(), "a/b c".into())],
                ),
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
                Route::Coze(Endpoint::UsersMe, Vec::new()),
            ),
            (Method::GET, "/v1/users/me/", Route::Unknown),
            (
                Method::DELETE,
                "/v1/conversations/1",
                Route::Coze(
                    Endpoint::DeleteConversation,
                    vec![("conversation_id".into(), "1".into())],
                ),
            ),
            (
                Method::PATCH,
                "/v1/conversations/1",
                Route::WrongMethod(Endpoint::UpdateConversation, "PUT, DELETE".into()),
            ),
            (
                Method::POST,
                "/v1/conversations/1/messages/2/feedback",
                Route::Coze(
                    Endpoint::CreateMessageFeedback,
                    vec![
                        ("conversation_id".into(), "1".into()),
                        ("message_id".into(), "2".into()),
                    ],
                ),
            ),
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
