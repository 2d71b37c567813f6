//! `coze login`: signs a user in, and keeps the sign-in in a profile.
//!
//! Folder and store are checked before the user signs in: a sign-in that can't be kept would be lost. Nor does a profile lose its sign-in
//! to another app, or a user sign in where a file of another person says, unless the user agrees.

mod app;
mod browser;
mod device;

use std::time::Duration;

use coze_api::{CozeApi, SendExt as _};
use coze_auth::{ConfiguredFlow, ErrorKind, FixedToken, OAuthClient, Token};
use coze_credentials::{ProfileConfig, Profiles, StoreKind};
use coze_wire::sanitize_sentence;
use tokio::{sync::oneshot, time::timeout};

use self::app::App;
use crate::{
    args::Login,
    failure::{Failure, Result},
    session::{Session, client, profiles},
    terminal::Printable,
};

/// How long the user's name may take. The sign-in does not depend on it.
const NAME_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) async fn run(options: Login, session: &Session<'_>) -> Result<()> {
    let name = session.profile_name()?;
    let profiles = profiles()?;
    let existing = existing(&profiles, &name, options.replace)?;
    let App { config, secret } = App::choose(&options, &name, existing.as_ref(), session).await?;
    if let Err(error) = profiles.check(&name, &config).await {
        return Err(unusable_store(error, &profiles, &name, &config).await);
    }

    let client = client().endpoint(config.endpoint().clone()).build()?;
    let token = sign_in(&options, &config, &client, secret.clone(), session).await?;
    let access_token = FixedToken::new(token.access_token().expose());
    let former_store = existing.map(|existing| existing.store());
    let former_store = former_store.filter(|kind| *kind != config.store());
    let (sender, receiver) = oneshot::channel();
    let (saved_name, saved_config) = (name.clone(), config.clone());
    session
        .save(async move {
            let put = profiles.put(&saved_name, &saved_config, secret.as_ref(), &token);
            put.await?;
            if let Some(kind) = former_store
                && let Err(error) = profiles.sign_out_of(&saved_name, kind).await
            {
                let _ = sender.send(format!(
                    "The earlier sign-in could not be deleted from the other store ({kind}): {error}"
                ));
            }
            Ok(())
        })
        .await?;
    if let Ok(what_is_left) = receiver.await {
        session.terminal.say(Printable(&what_is_left));
    }
    if !session.terminal.is_quiet() {
        let user = match access_token {
            Ok(token) => user_name(&client, token).await,
            Err(_) => None,
        };
        let user = user.map_or_else(String::new, |user| format!(" as {}", Printable(&user)));
        let base = config.endpoint().api_base();
        session.terminal.note(format_args!(
            "Signed in{user} at {base}, as profile {name}."
        ));
    }
    Ok(())
}

/// The profile as it is. With `replace`, one that can't be read counts as missing.
fn existing(profiles: &Profiles, name: &str, replace: bool) -> Result<Option<ProfileConfig>> {
    match profiles.load(name) {
        Err(error) if error.kind() == ErrorKind::Configuration => match replace {
            true => Ok(None),
            false => Err(Failure::usage(error.to_string())
                .with_hint("replace the profile by a new sign-in: coze login --replace")),
        },
        loaded => Ok(loaded?),
    }
}

async fn unusable_store(
    error: coze_auth::Error,
    profiles: &Profiles,
    name: &str,
    config: &ProfileConfig,
) -> Failure {
    let failure = Failure::from(error);
    let in_a_file = config.clone().with_store(StoreKind::File);
    if config.store() != StoreKind::File && profiles.check(name, &in_a_file).await.is_ok() {
        return failure.with_hint(
            "nobody has signed in yet; keep the sign-in in a file instead: coze login --store file",
        );
    }
    failure.with_hint("nobody has signed in yet; make the folder usable, then try again")
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

/// The user of the token, if Coze tells it in time.
async fn user_name(client: &OAuthClient, token: FixedToken) -> Option<String> {
    let token = token.with_endpoint(client.endpoint().clone());
    let coze = CozeApi::new(client.clone(), token);
    let user = timeout(NAME_TIMEOUT, coze.users().me().send()).await;
    let user = user.ok()?.ok()?;
    Some(sanitize_sentence(user.user_name.clone())).filter(|name| !name.trim().is_empty())
}
