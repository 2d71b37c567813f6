//! Routing: from method and path of a request to its endpoint.

use crate::endpoint::Endpoint;
use std::borrow::Cow;

pub(crate) const ONE_SLASH: &str = "one slash between segments";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// One of Coze's endpoints, with the id in its path.
    Coze(Endpoint, Option<String>),
    /// A path of Coze's with a method that it does not support.
    WrongMethod(Endpoint),
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

pub(crate) fn route(method: &http::Method, path: &str) -> Route {
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
    let (endpoint, id) = match segments.as_slice() {
        ["api", "permission", "oauth2", rest @ ..] => match rest {
            ["authorize"] => (Endpoint::Authorize, None),
            ["token"] => (Endpoint::Token, None),
            ["device", "code"] => (Endpoint::DeviceCode, None),
            ["account", id, "token"] => (Endpoint::AccountToken, Some(*id)),
            ["enterprise_id", id, "token"] => (Endpoint::EnterpriseToken, Some(*id)),
            ["workspace_id", id, "authorize"] => (Endpoint::WorkspaceAuthorize, Some(*id)),
            ["workspace_id", id, "device", "code"] => (Endpoint::WorkspaceDeviceCode, Some(*id)),
            _ => return Route::Unknown,
        },
        ["v1", "users", "me"] => (Endpoint::UsersMe, None),
        ["v1", "workspaces"] => (Endpoint::Workspaces, None),
        ["v1", "bots"] => (Endpoint::Bots, None),
        ["v1", "bots", id] => (Endpoint::Bot, Some(*id)),
        ["v1", "space", "published_bots_list"] => (Endpoint::PublishedBots, None),
        ["v1", "bot", "get_online_info"] => (Endpoint::PublishedBot, None),
        _ => return Route::Unknown,
    };
    if id.is_some_and(|id| matches!(id, "" | "." | "..")) {
        return Route::Unknown;
    }
    if endpoint.method() != *method {
        return Route::WrongMethod(endpoint);
    }
    Route::Coze(endpoint, id.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[test]
    fn every_path_routes_to_its_endpoint_and_id() {
        for (method, path, expected) in [
            (
                Method::POST,
                "/api/permission/oauth2/token",
                Route::Coze(Endpoint::Token, None),
            ),
            (
                Method::GET,
                "/api/permission/oauth2/token",
                Route::WrongMethod(Endpoint::Token),
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
            assert_eq!(route(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn only_consecutive_slashes_are_collapsed() {
        assert_eq!(fold_slashes("//api///x/").as_deref(), Some("/api/x/"));
        assert_eq!(fold_slashes("/api/x"), None);
    }
}
