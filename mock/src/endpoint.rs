//! The endpoints of Coze that the mock serves.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Declares [`Endpoint`]: for each variant its name, and the id of its operation in the OpenAPI description.
macro_rules! endpoints {
    ($($(#[$doc:meta])* $variant:ident = $name:literal is $operation_id:literal;)*) => {
        /// An endpoint that the mock serves.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Endpoint {
            $($(#[$doc])* $variant,)*
        }

        impl Endpoint {
            pub(crate) const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name of the operation in the OpenAPI description of Coze's endpoints.
            #[must_use]
            pub fn operation_id(self) -> &'static str {
                match self {
                    $(Self::$variant => $operation_id,)*
                }
            }

            fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

endpoints! {
    /// `GET /api/permission/oauth2/authorize`, which leads to the consent page.
    Authorize = "authorize" is "authorize";
    /// `GET /api/permission/oauth2/workspace_id/{workspace_id}/authorize`.
    WorkspaceAuthorize = "workspace_authorize" is "authorize_workspace";
    /// `POST /api/permission/oauth2/token`.
    Token = "token" is "issue_token";
    /// `POST /api/permission/oauth2/account/{account_id}/token`.
    AccountToken = "account_token" is "issue_account_token";
    /// `POST /api/permission/oauth2/enterprise_id/{enterprise_id}/token`.
    EnterpriseToken = "enterprise_token" is "issue_enterprise_token";
    /// `POST /api/permission/oauth2/device/code`.
    DeviceCode = "device_code" is "start_device_authorization";
    /// `POST /api/permission/oauth2/workspace_id/{workspace_id}/device/code`.
    WorkspaceDeviceCode = "workspace_device_code" is "start_workspace_device_authorization";
    /// `GET /v1/users/me`.
    UsersMe = "users_me" is "get_current_user";
    /// `GET /v1/workspaces`.
    Workspaces = "workspaces" is "list_workspaces";
    /// `GET /v1/bots`.
    Bots = "bots" is "list_bots";
    /// `GET /v1/bots/{bot_id}`.
    Bot = "bot" is "get_bot";
    /// `GET /v1/space/published_bots_list`, the deprecated form of [`Bots`](Self::Bots).
    PublishedBots = "published_bots" is "list_published_bots";
    /// `GET /v1/bot/get_online_info`, the deprecated form of [`Bot`](Self::Bot).
    PublishedBot = "published_bot" is "get_published_bot";
    /// `POST /v3/chat`, with and without a stream.
    CreateChat = "create_chat" is "create_chat";
    /// `GET /v3/chat/retrieve`.
    RetrieveChat = "retrieve_chat" is "retrieve_chat";
    /// `GET /v3/chat/message/list`.
    ListChatMessages = "list_chat_messages" is "list_chat_messages";
    /// `POST /v3/chat/cancel`.
    CancelChat = "cancel_chat" is "cancel_chat";
    /// `POST /v3/chat/submit_tool_outputs`, with and without a stream.
    SubmitToolOutputs = "submit_tool_outputs" is "submit_tool_outputs";
    /// `POST /v1/conversation/message/create`.
    CreateMessage = "create_message" is "create_message";
    /// `POST /v1/conversation/message/list`.
    ListMessages = "list_messages" is "list_messages";
    /// `GET /v1/conversation/message/retrieve`.
    RetrieveMessage = "retrieve_message" is "retrieve_message";
    /// `POST /v1/conversation/message/modify`.
    UpdateMessage = "update_message" is "update_message";
    /// `POST /v1/conversation/message/delete`.
    DeleteMessage = "delete_message" is "delete_message";
    /// `POST /v1/conversations/{conversation_id}/messages/{message_id}/feedback`.
    CreateMessageFeedback = "create_message_feedback" is "create_message_feedback";
    /// `DELETE /v1/conversations/{conversation_id}/messages/{message_id}/feedback`.
    DeleteMessageFeedback = "delete_message_feedback" is "delete_message_feedback";
    /// `POST /v1/conversation/create`.
    CreateConversation = "create_conversation" is "create_conversation";
    /// `GET /v1/conversation/retrieve`.
    RetrieveConversation = "retrieve_conversation" is "retrieve_conversation";
    /// `GET /v1/conversations`.
    ListConversations = "list_conversations" is "list_conversations";
    /// `PUT /v1/conversations/{conversation_id}`.
    UpdateConversation = "update_conversation" is "update_conversation";
    /// `DELETE /v1/conversations/{conversation_id}`.
    DeleteConversation = "delete_conversation" is "delete_conversation";
    /// `POST /v1/conversations/{conversation_id}/clear`.
    ClearConversation = "clear_conversation" is "clear_conversation";
}

impl Endpoint {
    pub(crate) fn issues_tokens(self) -> bool {
        matches!(
            self,
            Self::Token | Self::AccountToken | Self::EnterpriseToken
        )
    }

    pub(crate) fn is_api(self) -> bool {
        !self.issues_tokens()
            && !self.is_page()
            && !matches!(self, Self::DeviceCode | Self::WorkspaceDeviceCode)
    }

    pub(crate) fn is_page(self) -> bool {
        matches!(self, Self::Authorize | Self::WorkspaceAuthorize)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_has_one_name_in_text_and_in_json() {
        for endpoint in Endpoint::ALL {
            let json = serde_json::to_value(endpoint).expect("JSON");
            assert_eq!(json, endpoint.to_string());
        }
    }
}
