//! [`Scope`]: the permissions that a JWT token is limited to.

use coze_oauth_client::types;

use crate::{Error, Result, input::required};

/// The permissions that a JWT token is limited to. A scope that is still empty when it is used is refused.
///
/// Coze documents [`bot_chat`](Self::bot_chat) for channel apps
/// (<https://www.coze.cn/open/docs/developer_guides/oauth_jwt_channel>); the parts for workspaces and workflows
/// are the same as in the official Go SDK.
///
/// ```
/// use coze_auth::Scope;
///
/// // The common case: chat with these bots only.
/// let two_bots = Scope::bot_chat(["bot-1", "bot-2"]);
///
/// // The full form.
/// let more = Scope::default()
///     .account_permissions(["Connector.botChat"])
///     .bots(["bot-1"])
///     .workspace_permissions(["7001"], ["Bot.getMetadata"])
///     .workflow_permissions(["9001"], ["Workflow.run"]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[must_use]
pub struct Scope {
    account_permissions: Vec<String>,
    bots: Vec<String>,
    workspaces: Option<Limited>,
    workflows: Option<Limited>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Limited {
    ids: Vec<String>,
    permissions: Vec<String>,
}

impl Limited {
    fn new(
        ids: impl IntoIterator<Item = impl Into<String>>,
        permissions: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            ids: strings(ids),
            permissions: strings(permissions),
        }
    }
}

fn strings(items: impl IntoIterator<Item = impl Into<String>>) -> Vec<String> {
    items.into_iter().map(Into::into).collect()
}

/// The permission to chat with bots through a channel.
const BOT_CHAT: &str = "Connector.botChat";

impl Scope {
    /// Limits the token to chatting with these bots.
    pub fn bot_chat(bot_ids: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::default()
            .account_permissions([BOT_CHAT])
            .bots(bot_ids)
    }

    /// Permissions of the account (`account_permission`).
    pub fn account_permissions(
        mut self,
        permissions: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.account_permissions = strings(permissions);
        self
    }

    /// The bots that chatting is limited to (`attribute_constraint`).
    pub fn bots(mut self, bot_ids: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.bots = strings(bot_ids);
        self
    }

    /// Permissions in these workspaces (`workspace_permission`).
    pub fn workspace_permissions(
        mut self,
        workspace_ids: impl IntoIterator<Item = impl Into<String>>,
        permissions: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.workspaces = Some(Limited::new(workspace_ids, permissions));
        self
    }

    /// Permissions for these workflows (`workflow_permission`).
    pub fn workflow_permissions(
        mut self,
        workflow_ids: impl IntoIterator<Item = impl Into<String>>,
        permissions: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.workflows = Some(Limited::new(workflow_ids, permissions));
        self
    }

    /// Checks the scope and converts it to its wire format.
    pub(super) fn to_wire(&self) -> Result<types::Scope> {
        if *self == Self::default() {
            return Err(Error::invalid_input(
                "the scope is empty; omit it to request all permissions",
            ));
        }
        let limited = self.workspaces.iter().chain(&self.workflows);
        for item in limited
            .flat_map(|limited| limited.ids.iter().chain(&limited.permissions))
            .chain(&self.account_permissions)
            .chain(&self.bots)
        {
            required("id or permission in the scope", item)?;
        }
        Ok(types::Scope {
            account_permission: (!self.account_permissions.is_empty()).then(|| {
                types::AccountPermission {
                    permission_list: self.account_permissions.clone(),
                }
            }),
            attribute_constraint: (!self.bots.is_empty()).then(|| types::AttributeConstraint {
                connector_bot_chat_attribute: Some(types::ConnectorBotChatAttribute {
                    bot_id_list: self.bots.clone(),
                }),
            }),
            workspace_permission: self.workspaces.as_ref().map(|limited| {
                types::WorkspacePermission {
                    permission_list: limited.permissions.clone(),
                    workspace_id_list: limited.ids.clone(),
                }
            }),
            workflow_permission: self
                .workflows
                .as_ref()
                .map(|limited| types::WorkflowPermission {
                    permission_list: limited.permissions.clone(),
                    workflow_id_list: limited.ids.clone(),
                }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bot_chat_is_serialised_as_documented() {
        let scope = Scope::bot_chat(["bot1", "bot2"]).to_wire().unwrap();
        assert_eq!(
            serde_json::to_value(scope).unwrap(),
            serde_json::json!({
                "account_permission": {"permission_list": ["Connector.botChat"]},
                "attribute_constraint": {
                    "connector_bot_chat_attribute": {"bot_id_list": ["bot1", "bot2"]}
                }
            })
        );
    }

    #[test]
    fn all_four_parts_are_serialised() {
        let scope = Scope::bot_chat(["1"])
            .workspace_permissions(["2"], ["a"])
            .workflow_permissions(["3"], ["b", "c"])
            .to_wire()
            .unwrap();
        let json = serde_json::to_value(scope).unwrap();
        assert_eq!(json["workspace_permission"]["workspace_id_list"][0], "2");
        assert_eq!(json["workspace_permission"]["permission_list"][0], "a");
        assert_eq!(json["workflow_permission"]["workflow_id_list"][0], "3");
        assert_eq!(json["workflow_permission"]["permission_list"][1], "c");
    }

    #[test]
    fn an_empty_scope_is_refused_instead_of_granting_everything() {
        assert!(Scope::default().to_wire().is_err());
        let no_bots = Scope::default().bots(Vec::<String>::new());
        assert!(no_bots.to_wire().is_err());
        assert!(Scope::bot_chat([" "]).to_wire().is_err());
    }
}
