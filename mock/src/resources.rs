//! The resources of the mock's API: user, workspaces and bots.

use serde_json::{Value, json};

/// The user who signs in, as `GET /v1/users/me` returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct User {
    /// The id.
    pub user_id: String,
    /// The unique name.
    pub user_name: String,
    /// The name shown to others.
    pub nick_name: String,
    /// The URL of the avatar.
    pub avatar_url: String,
}

impl User {
    /// A user with this id, name and nick name.
    #[must_use]
    pub fn new(
        user_id: impl Into<String>,
        user_name: impl Into<String>,
        nick_name: impl Into<String>,
    ) -> Self {
        Self {
            user_id: user_id.into(),
            user_name: user_name.into(),
            nick_name: nick_name.into(),
            avatar_url: "https://example.com/avatar.png".into(),
        }
    }
}

impl Default for User {
    fn default() -> Self {
        Self::new("7201", "mock_user", "Mock User")
    }
}

/// A workspace, as `GET /v1/workspaces` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Workspace {
    /// The id.
    pub id: String,
    /// The name.
    pub name: String,
}

impl Workspace {
    /// A team workspace that the user owns.
    #[must_use]
    pub fn new(id: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
        }
    }

    pub(crate) fn json(&self, user: &User) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "icon_url": "https://example.com/workspace.png",
            "role_type": "owner",
            "workspace_type": "team",
            "enterprise_id": "",
            "description": "",
            "joined_status": "joined",
            "owner_uid": user.user_id,
            "admin_uids": [],
        })
    }
}

/// A published bot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bot {
    /// The id.
    pub id: String,
    /// The name.
    pub name: String,
    /// The workspace that it belongs to.
    pub workspace_id: String,
}

/// The creation time of the mock's bots. It is fixed so that snapshots stay stable.
const BOT_TIME: u64 = 1_718_289_297;

impl Bot {
    /// A bot in a workspace.
    #[must_use]
    pub fn new(
        id: impl Into<String>,
        name: impl Into<String>,
        workspace_id: impl Into<String>,
    ) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            workspace_id: workspace_id.into(),
        }
    }

    pub(crate) fn in_list(&self, user: &User) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "description": "",
            "icon_url": "https://example.com/bot.png",
            "is_published": true,
            "published_at": BOT_TIME,
            "updated_at": BOT_TIME,
            "owner_user_id": user.user_id,
        })
    }

    pub(crate) fn in_published_list(&self) -> Value {
        json!({
            "bot_id": self.id,
            "bot_name": self.name,
            "description": "",
            "icon_url": "https://example.com/bot.png",
            "publish_time": BOT_TIME.to_string(),
        })
    }

    pub(crate) fn in_full(&self, user: &User) -> Value {
        json!({
            "bot_id": self.id,
            "name": self.name,
            "description": "",
            "icon_url": "https://example.com/bot.png",
            "create_time": BOT_TIME,
            "update_time": BOT_TIME,
            "version": "1",
            "owner_user_id": user.user_id,
            "bot_mode": 0,
            "prompt_info": {"prompt": ""},
            "onboarding_info": {"prologue": "", "suggested_questions": []},
            "plugin_info_list": [],
            "workflow_info_list": [],
            "shortcut_commands": [],
            "variables": [],
            "voice_info_list": [],
            "knowledge": {"knowledge_infos": []},
            "model_info": {"model_id": "1", "model_name": "Mock model"},
            "default_user_input_type": "text",
        })
    }
}
