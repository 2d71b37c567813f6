//! `coze token` and `coze header`: the token of this machine, for other programs.

use coze_auth::Secret;
use serde_json::{Value, json};

use crate::{
    args::{Header, Token},
    failure::Result,
    session::Session,
    token::{Expiry, Issued, issue},
};

pub(crate) async fn run(options: Token, session: &Session<'_>) -> Result<()> {
    let issued = issue(session, options.min_validity).await?;
    match options.json {
        true => session.terminal.print_json(as_json(&issued)).await,
        false => session.terminal.print(issued.access_token.expose()).await,
    }
}

pub(crate) async fn header(options: Header, session: &Session<'_>) -> Result<()> {
    let issued = issue(session, options.min_validity).await?;
    let token = issued.access_token.expose();
    session
        .terminal
        .print(format_args!("Authorization: Bearer {token}"))
        .await
}

/// A token and when it expires, in UNIX seconds.
pub(crate) fn as_json(issued: &Issued) -> Value {
    let Issued {
        access_token,
        expiry,
    } = issued;
    let mut json = json!({
        "access_token": Secret::expose(access_token),
        "token_type": "Bearer",
    });
    if let Some(Expiry { at, remaining }) = expiry {
        let since_epoch = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        json["expires_at"] = since_epoch.as_secs().into();
        json["expires_in"] = remaining.as_secs().into();
    }
    json
}
