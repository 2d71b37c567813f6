//! `coze login`: signs a user in, and keeps the sign-in in a profile.
//!
//! The store is checked before the user signs in: a sign-in that can't be kept would be lost.

mod app;
mod browser;
mod device;

use coze_auth::{ConfiguredFlow, OAuthClient, Token};
use coze_credentials::{ProfileConfig, StoreKind};

use self::app::App;
use crate::{
    args::Login,
    failure::{Failure, Result},
    session::{Session, client, profiles},
};

pub(crate) async fn run(options: Login, session: &Session<'_>) -> Result<()> {
    let name = session.profile_name()?;
    let profiles = profiles()?;
    let App { config, secret } = App::choose(&options, &name, session).await?;
    profiles.path(&name)?;
    let checked = profiles.check_store(config.store()).await;
    checked.map_err(|error| unusable_store(error, config.store()))?;

    let client = client().endpoint(config.endpoint().clone()).build()?;
    let token = sign_in(&options, &config, &client, secret.clone(), session).await?;
    let (saved_name, saved_config) = (name.clone(), config.clone());
    session
        .save(async move {
            let put = profiles.put(&saved_name, &saved_config, secret.as_ref(), &token);
            Ok(put.await.map(drop)?)
        })
        .await?;
    session.terminal.note(format_args!(
        "Signed in at {}, as profile {name}. Try: coze whoami",
        config.endpoint().api_base()
    ));
    Ok(())
}

fn unusable_store(error: coze_auth::Error, kind: StoreKind) -> Failure {
    let failure = Failure::from(error);
    match kind {
        StoreKind::Keyring => failure.with_hint(
            "nobody has signed in yet; keep the sign-in in a file instead: coze login --store file",
        ),
        _ => failure.with_hint("nobody has signed in yet; make the folder usable, then try again"),
    }
}

async fn sign_in(
    options: &Login,
    config: &ProfileConfig,
    client: &OAuthClient,
    secret: Option<coze_auth::Secret>,
    session: &Session<'_>,
) -> Result<Token> {
    match config.build(client, secret)? {
        ConfiguredFlow::Device(flow) => device::sign_in(&flow, config, session).await,
        ConfiguredFlow::Pkce(flow) => browser::sign_in(&flow, options, config, session).await,
        ConfiguredFlow::Web(flow) => browser::sign_in(&flow, options, config, session).await,
        _ => Err(Failure::usage("this flow signs nobody in")),
    }
}
