//! The endpoints of Coze that the mock serves.

use serde::{Deserialize, Serialize};
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
    pub(crate) const ALL: [Self; 13] = [
        Self::Authorize,
        Self::WorkspaceAuthorize,
        Self::Token,
        Self::AccountToken,
        Self::EnterpriseToken,
        Self::DeviceCode,
        Self::WorkspaceDeviceCode,
        Self::UsersMe,
        Self::Workspaces,
        Self::Bots,
        Self::Bot,
        Self::PublishedBots,
        Self::PublishedBot,
    ];

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
