//! A small part of Coze's API: enough to see an access token accepted, refused, and limited by its scope.

use crate::answer::Answer;
use crate::context::RequestContext;
use crate::endpoint::Endpoint;
use crate::options::Options;
use crate::request::{Credential, credential};
use crate::resources::Bot;
use crate::state::GrantedToken;
use http::StatusCode;
use serde_json::{Value, json};

/// Why an API call is refused: HTTP status, error code, message.
struct Refused(StatusCode, i64, String);

const BAD_REQUEST: i64 = 4000;
const AUTHENTICATION_INVALID: i64 = 4100;
const NO_PERMISSION: i64 = 4101;
const ACCESS_TOKEN_INVALID: i64 = 700_012_006;

pub(crate) fn answer(context: &mut RequestContext<'_>) -> Answer {
    let log_id = context.log_id;
    match authorize(context).and_then(|token| call(context, &token)) {
        Ok(data) => Answer::json(
            StatusCode::OK,
            &json!({"code": 0, "msg": "", "data": data, "detail": {"logid": log_id}}),
        ),
        Err(Refused(status, code, message)) => Answer::api_error(status, code, &message, log_id),
    }
}

fn authorize(context: &mut RequestContext<'_>) -> Result<GrantedToken, Refused> {
    let refused = |code, message: &str| Refused(StatusCode::UNAUTHORIZED, code, message.to_owned());
    let Credential::Bearer(token) = credential(&context.incoming.headers) else {
        context
            .findings
            .violation("header/Authorization", "an access token as a bearer token");
        return Err(refused(AUTHENTICATION_INVALID, "authentication is invalid"));
    };
    let state = context.core.state();
    let granted = state.tokens.access(token, context.now).cloned();
    granted.ok_or_else(|| refused(ACCESS_TOKEN_INVALID, "access token invalid"))
}

fn call(context: &mut RequestContext<'_>, token: &GrantedToken) -> Result<Value, Refused> {
    let query = &context.incoming.query;
    context
        .core
        .contract
        .check_parameters(
            context.endpoint,
            context.path_id,
            query,
            &mut context.findings,
        )
        .map_err(|refusal| Refused(StatusCode::BAD_REQUEST, BAD_REQUEST, refusal.message))?;
    let parameter = |name: &str| {
        let pair = query
            .iter()
            .find(|(known, value)| known == name && !value.is_empty());
        pair.map(|(_, value)| value.as_str())
    };
    let options = &context.core.options;
    let user = &options.user;
    match context.endpoint {
        Endpoint::Workspaces => {
            let mut visible = options.workspaces.clone();
            visible.retain(|workspace| may_enter(token, &workspace.id));
            let page = page(&visible, parameter("page_num"), parameter("page_size"));
            let list: Vec<_> = page.iter().map(|workspace| workspace.json(user)).collect();
            Ok(json!({"total_count": visible.len(), "workspaces": list}))
        }
        Endpoint::Bots => {
            // All bots of the mock are published and have not been modified since.
            let wanted = matches!(
                parameter("publish_status"),
                None | Some("all" | "published_online")
            );
            let mut visible = visible_bots(options, token, parameter("workspace_id"))?;
            visible.retain(|_| wanted);
            let page = page(&visible, parameter("page_num"), parameter("page_size"));
            let list: Vec<_> = page.iter().map(|bot| bot.in_list(user)).collect();
            Ok(json!({"total": visible.len(), "items": list}))
        }
        Endpoint::PublishedBots => {
            let visible = visible_bots(options, token, parameter("space_id"))?;
            let page = page(&visible, parameter("page_index"), parameter("page_size"));
            let list: Vec<_> = page.iter().map(|bot| bot.in_published_list()).collect();
            Ok(json!({"total": visible.len(), "space_bots": list}))
        }
        Endpoint::Bot | Endpoint::PublishedBot => {
            let id = context.path_id.or_else(|| parameter("bot_id"));
            let id = id.unwrap_or_default();
            let bot = options.bots.iter().find(|bot| bot.id == id);
            let bot =
                bot.filter(|bot| may_enter(token, &bot.workspace_id) && may_use(token, &bot.id));
            bot.map(|bot| bot.in_full(user)).ok_or_else(no_permission)
        }
        _ => Ok(json!({
            "user_id": user.user_id,
            "user_name": user.user_name,
            "nick_name": user.nick_name,
            "avatar_url": user.avatar_url,
        })),
    }
}

/// The bots of a workspace that a token may access.
fn visible_bots<'o>(
    options: &'o Options,
    token: &GrantedToken,
    workspace_id: Option<&str>,
) -> Result<Vec<&'o Bot>, Refused> {
    let mut workspaces = options.workspaces.iter();
    let workspace = workspaces
        .find(|known| Some(known.id.as_str()) == workspace_id)
        .filter(|workspace| may_enter(token, &workspace.id))
        .ok_or_else(no_permission)?;
    let bots = options
        .bots
        .iter()
        .filter(|bot| bot.workspace_id == workspace.id && may_use(token, &bot.id));
    Ok(bots.collect())
}

fn no_permission() -> Refused {
    let message = "no permission for this resource";
    Refused(StatusCode::FORBIDDEN, NO_PERMISSION, message.to_owned())
}

/// A sign-in through a workspace's own authorize page or device endpoint is limited to that workspace.
fn may_enter(token: &GrantedToken, workspace_id: &str) -> bool {
    token
        .workspace_id
        .as_ref()
        .is_none_or(|only| only == workspace_id)
}

/// A scope with a list of bots is limited to those.
fn may_use(token: &GrantedToken, bot_id: &str) -> bool {
    let list = token.scope.as_ref().and_then(|scope| {
        scope
            .pointer("/attribute_constraint/connector_bot_chat_attribute/bot_id_list")?
            .as_array()
    });
    list.is_none_or(|bots| bots.iter().any(|bot| bot == bot_id))
}

/// One page of a list. The contract has already checked both numbers. Default: page 1 with 20 entries.
fn page<'a, T>(all: &'a [T], page_num: Option<&str>, page_size: Option<&str>) -> &'a [T] {
    let number =
        |text: Option<&str>, default| text.and_then(|text| text.parse().ok()).unwrap_or(default);
    let page_size: usize = number(page_size, 20);
    let before = number(page_num, 1).saturating_sub(1);
    let from = page_size.saturating_mul(before).min(all.len());
    let to = from.saturating_add(page_size).min(all.len());
    all.get(from..to).unwrap_or_default()
}
