//! Device authorization, for a program without a browser.
//!
//! Against Coze: set `COZE_DEVICE_OAUTH_CLIENT_ID` (and `COZE_API_BASE` for coze.cn).

use anyhow::Context;
use coze_api::prelude::*;
use coze_auth::{ConfiguredFlow, FixedToken, Flow, UserFlow};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // In your program: OAuthConfig::from_env_for(Flow::Device)?
    let config = coze_examples::mock_unless_configured(Flow::Device).await?;
    let ConfiguredFlow::Device(device) = config.build()? else {
        anyhow::bail!("this is not a device app");
    };

    let authorization = device.start().await?;
    println!("open   {}", authorization.verification_uri_complete());
    println!("and confirm the code {}\n", authorization.user_code());
    coze_examples::open_in_browser(authorization.verification_uri_complete());

    let token = device
        .poll_with(&authorization, |step| {
            let left = step.remaining.as_secs();
            match &step.error {
                None => println!("wait   {left} s left"),
                Some(error) => println!("retry  {left} s left: {error}"),
            }
        })
        .await?;
    println!("token  for {} s", token.remaining().as_secs());

    // The refresh token is single-use: keep the next one, or let a provider do all this (see the example `stored`).
    let refresh_token = token.refresh_token().context("no refresh token")?;
    let next = device.refresh(refresh_token).await?;
    println!("next   for {} s", next.remaining().as_secs());

    let coze = CozeApi::new(device.client().clone(), FixedToken::from(next));
    let me = coze.users().me().send().await?;
    println!("user   {} ({})", me.user_name, me.user_id);
    Ok(())
}
