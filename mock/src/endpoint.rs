//! Routing: from the path of a request to its endpoint.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// An endpoint that the mock serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Endpoint {
    /// `GET /api/permission/oauth2/authorize`, which leads to the consent page.
    Authorize,
    /// `GET /api/permission/oauth2/workspace_id/{workspace_id}/authorize`.
    WorkspaceAuthorize,
    /// `POST /api/permission/oauth2/token`.
    Token,
    /// `POST /api/permission/oauth2/account/{account_id}/token`.
    AccountToken,
    /// `POST /api/permission/oauth2/enterprise_id/{enterprise_id}/token`.
    EnterpriseToken,
    /// `POST /api/permission/oauth2/device/code`.
    DeviceCode,
    /// `POST /api/permission/oauth2/workspace_id/{workspace_id}/device/code`.
    WorkspaceDeviceCode,
    /// `GET /v1/users/me`.
    UsersMe,
    /// `GET /v1/workspaces`.
    Workspaces,
    /// `GET /v1/bots`.
    Bots,
    /// `GET /v1/bots/{bot_id}`.
    Bot,
    /// `GET /v1/space/published_bots_list`, the deprecated form of [`Bots`](Self::Bots).
    PublishedBots,
    /// `GET /v1/bot/get_online_info`, the deprecated form of [`Bot`](Self::Bot).
    PublishedBot,
}

impl Endpoint {
    /// The name of the operation in the OpenAPI description of Coze's endpoints.
    #[must_use]
    pub fn operation_id(self) -> &'static str {
        match self {
            Self::Authorize => "authorize",
            Self::WorkspaceAuthorize => "authorize_workspace",
            Self::Token => "issue_token",
            Self::AccountToken => "issue_account_token",
            Self::EnterpriseToken => "issue_enterprise_token",
            Self::DeviceCode => "start_device_authorization",
            Self::WorkspaceDeviceCode => "start_workspace_device_authorization",
            Self::UsersMe => "get_current_user",
            Self::Workspaces => "list_workspaces",
            Self::Bots => "list_bots",
            Self::Bot => "get_bot",
            Self::PublishedBots => "list_published_bots",
            Self::PublishedBot => "get_published_bot",
        }
    }

    pub(crate) fn issues_tokens(self) -> bool {
        matches!(
            self,
            Self::Token | Self::AccountToken | Self::EnterpriseToken
        )
    }

    pub(crate) fn is_api(self) -> bool {
        matches!(
            self,
            Self::UsersMe
                | Self::Workspaces
                | Self::Bots
                | Self::Bot
                | Self::PublishedBots
                | Self::PublishedBot
        )
    }

    pub(crate) fn is_page(self) -> bool {
        matches!(self, Self::Authorize | Self::WorkspaceAuthorize)
    }

    pub(crate) fn method(self) -> http::Method {
        if self.issues_tokens() || matches!(self, Self::DeviceCode | Self::WorkspaceDeviceCode) {
            return http::Method::POST;
        }
        http::Method::GET
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Authorize => "authorize",
            Self::WorkspaceAuthorize => "workspace_authorize",
            Self::Token => "token",
            Self::AccountToken => "account_token",
            Self::EnterpriseToken => "enterprise_token",
            Self::DeviceCode => "device_code",
            Self::WorkspaceDeviceCode => "workspace_device_code",
            Self::UsersMe => "users_me",
            Self::Workspaces => "workspaces",
            Self::Bots => "bots",
            Self::Bot => "bot",
            Self::PublishedBots => "published_bots",
            Self::PublishedBot => "published_bot",
        })
    }
}

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
