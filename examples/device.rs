//! Device authorization, for a program without a browser.
//!
//! Against Coze: set `COZE_DEVICE_OAUTH_CLIENT_ID` (and `COZE_API_BASE` for coze.cn).

use coze_auth::Flow;
use coze_examples::{Stage, approve_soon, flow, shown, users_me};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let stage = Stage::set(Flow::Device).await?;
    let endpoint = stage.config.endpoint().clone();
    let device = flow!(stage.config, Device);

    let authorization = device.start().await?;
    println!("open   {}", authorization.verification_url());
    println!("and confirm the code {}\n", authorization.user_code());
    if let Some(mock) = &stage.mock {
        tokio::spawn(approve_soon(mock, authorization.user_code()));
    }

    let token = device
        .poll_with(&authorization, |step| {
            println!(
                "wait   {:?}, {} s left",
                step.status,
                step.remaining.as_secs()
            );
        })
        .await?;
    println!(
        "token  {}, for {} s",
        shown(token.access_token().expose()),
        token.remaining().as_secs()
    );
    let user = users_me(&endpoint, token.authorization()).await?;
    println!("user   {} ({})", user.user_name, user.user_id);

    if let Some(refresh_token) = token.refresh_token() {
        let next = device.refresh(refresh_token).await?;
        println!(
            "next   {}, by the refresh token",
            shown(next.access_token().expose())
        );
    }
    Ok(())
}
