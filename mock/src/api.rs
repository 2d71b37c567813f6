//! Coze's API: the envelope, the access token, and users, workspaces and bots. Operations with state are in `chats.rs`.

use crate::answer::Answer;
use crate::chats;
use crate::context::{RequestContext, text};
use crate::endpoint::Endpoint;
use crate::envelope::{Contents, Refused};
use crate::options::Options;
use crate::request::{Credential, credential};
use crate::resources::Bot;
use crate::state::GrantedToken;
use serde_json::{Value, json};

pub(crate) fn answer(context: &mut RequestContext<'_>) -> Answer {
    let contents = authorize(context).and_then(|token| call(context, &token));
    let contents = contents.or_else(|refused| match (&refused, example(context)) {
        (Refused::Unknown, Some(example)) => Ok(example),
        _ => Err(refused),
    });
    match contents {
        Ok(contents) => contents.answer(context.log_id),
        Err(refused) => refused.answer(context.log_id),
    }
}

/// The example response of the description, if the request has the ids of the description's examples.
fn example(context: &RequestContext<'_>) -> Option<Contents> {
    let query = context.incoming.query.iter().chain(context.path_ids);
    let mut ids: Vec<&str> = query
        .filter(|(name, _)| name.ends_with("_id"))
        .map(|(_, id)| id.as_str())
        .collect();
    if let (Endpoint::CancelChat, Some(body)) = (context.endpoint, context.body) {
        ids.extend([text(body, "conversation_id"), text(body, "chat_id")]);
    }
    let mut example = context
        .core
        .contract
        .example(context.endpoint, &ids)?
        .clone();
    let fields = example.as_object_mut()?;
    // The log id is that of this answer.
    fields.remove("detail");
    Some(Contents::Whole(example))
}

fn authorize(context: &mut RequestContext<'_>) -> Result<GrantedToken, Refused> {
    let starts_chat = context.endpoint == Endpoint::CreateChat;
    if let (true, Some(body)) = (starts_chat, context.body) {
        // The bot is looked up before the token.
        let bot_id = body.get("bot_id").and_then(Value::as_str);
        if bot_id.is_some_and(|id| !is_bot(context, id)) {
            return Err(Refused::bot_not_found());
        }
    }
    let Credential::Bearer(token) = credential(&context.incoming.headers) else {
        context
            .findings
            .violation("header/Authorization", "an access token as a bearer token");
        return Err(Refused::no_authentication());
    };
    let state = context.core.state();
    let granted = state.tokens.access(token, context.now).cloned();
    granted.ok_or_else(|| match starts_chat {
        true => Refused::incorrect_token(),
        false => Refused::access_token_invalid(),
    })
}

/// Whether the bot exists: in the mock, or in the description's examples.
fn is_bot(context: &RequestContext<'_>, id: &str) -> bool {
    context.core.options.bots.iter().any(|bot| bot.id == id)
        || context.core.contract.is_example_id(id)
}

/// The validated body; null for an operation without one.
fn checked_body(context: &mut RequestContext<'_>) -> Result<Value, Refused> {
    let checked = if context.core.contract.takes_body(context.endpoint) {
        context.checked_body()
    } else {
        let contract = context.core.contract;
        let query = &context.incoming.query;
        contract
            .check_parameters(
                context.endpoint,
                context.path_ids,
                query,
                &mut context.findings,
            )
            .map(|()| Value::Null)
    };
    checked.map_err(|refusal| Refused::bad_request(refusal.message))
}

fn call(context: &mut RequestContext<'_>, token: &GrantedToken) -> Result<Contents, Refused> {
    let body = checked_body(context)?;
    let query = &context.incoming.query;
    let parameter = |name: &str| {
        let pair = query
            .iter()
            .find(|(known, value)| known == name && !value.is_empty());
        pair.map(|(_, value)| value.as_str())
    };
    let options = &context.core.options;
    let user = &options.user;
    let data = match context.endpoint {
        Endpoint::Workspaces => {
            let mut visible = options.workspaces.clone();
            visible.retain(|workspace| may_enter(token, &workspace.id));
            let page = page(&visible, parameter("page_num"), parameter("page_size"));
            let list: Vec<_> = page.iter().map(|workspace| workspace.json(user)).collect();
            json!({"total_count": visible.len(), "workspaces": list})
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
            json!({"total": visible.len(), "items": list})
        }
        Endpoint::PublishedBots => {
            let visible = visible_bots(options, token, parameter("space_id"))?;
            let page = page(&visible, parameter("page_index"), parameter("page_size"));
            let list: Vec<_> = page.iter().map(|bot| bot.in_published_list()).collect();
            json!({"total": visible.len(), "space_bots": list})
        }
        Endpoint::Bot | Endpoint::PublishedBot => {
            let id = context.path_id().or_else(|| parameter("bot_id"));
            let id = id.unwrap_or_default();
            let bot = options.bots.iter().find(|bot| bot.id == id);
            let bot = bot.ok_or(Refused::Unknown)?;
            if !may_enter(token, &bot.workspace_id) || !may_use(token, &bot.id) {
                return Err(Refused::Forbidden);
            }
            bot.in_full(user)
        }
        Endpoint::UsersMe => json!({
            "user_id": user.user_id,
            "user_name": user.user_name,
            "nick_name": user.nick_name,
            "avatar_url": user.avatar_url,
        }),
        _ => {
            let bot_id = parameter("bot_id").or_else(|| body.get("bot_id")?.as_str());
            if let Some(id) = bot_id {
                let bot = options.bots.iter().find(|bot| bot.id == id);
                let enters = bot.is_none_or(|bot| may_enter(token, &bot.workspace_id));
                if !is_bot(context, id) {
                    return Err(Refused::Unknown);
                }
                if !enters || !may_use(token, id) {
                    return Err(Refused::Forbidden);
                }
            }
            return chats::call(context, &body);
        }
    };
    Ok(Contents::Data(data))
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
        .ok_or(Refused::Unknown)?;
    if !may_enter(token, &workspace.id) {
        return Err(Refused::Forbidden);
    }
    let bots = options
        .bots
        .iter()
        .filter(|bot| bot.workspace_id == workspace.id && may_use(token, &bot.id));
    Ok(bots.collect())
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
