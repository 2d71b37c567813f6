//! `coze whoami`: the user of the token, as Coze knows it.

use coze_api::SendExt as _;
use serde_json::json;

use crate::{failure::Result, session::Session, terminal::Printable};

pub(crate) async fn run(as_json: bool, session: &Session<'_>) -> Result<()> {
    let api = session.api().await?;
    let user = api.users().me().send().await?;
    if as_json {
        let user = json!({
            "user_id": user.user_id,
            "user_name": user.user_name,
            "nick_name": user.nick_name,
            "api_base": api.base(),
        });
        return session.terminal.print_json(user).await;
    }
    let (id, base) = (Printable(&user.user_id), api.base());
    let name = Printable(&user.user_name);
    session
        .terminal
        .print(format_args!("{name} (user id {id}) at {base}"))
        .await
}
