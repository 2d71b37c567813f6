//! JWT of a channel app: a token that may only chat with two bots.
//!
//! Against Coze: as for the example `jwt`, with the bots as arguments:
//! `cargo run -p coze-examples --example jwt_channel -- BOT_ID BOT_ID`.

use coze_auth::{Flow, JwtTokenRequest, Scope};
use coze_examples::{Stage, flow, shown};
use coze_mock::defaults;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let stage = Stage::set(Flow::Jwt).await?;
    let jwt = flow!(stage.config, Jwt);

    let mut bots: Vec<String> = std::env::args().skip(1).collect();
    if bots.is_empty() {
        anyhow::ensure!(stage.mock.is_some(), "name the bots as arguments");
        bots.extend(defaults::BOT_IDS.map(str::to_owned));
    }
    let request = JwtTokenRequest::new().scope(Scope::bot_chat(bots.iter().cloned()));

    let token = jwt.token_for(&request).await?;
    println!(
        "token  {}, for the bots {}",
        shown(token.access_token().expose()),
        bots.join(" and ")
    );
    if let Some(mock) = &stage.mock {
        let granted = mock.granted(token.access_token().expose());
        let scope = granted.and_then(|granted| granted.scope);
        println!("scope  {}", scope.unwrap_or_default());
    }
    Ok(())
}
