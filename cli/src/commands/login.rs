//! `coze login`: signs a user in, and keeps the sign-in in a profile.
//!
//! Folder and store are checked before the user signs in: a sign-in that can't be kept would be lost. Nor does a profile lose its sign-in
//! to another app, or a user sign in where a file of another person says, unless the user agrees.

mod app;
mod browser;
mod device;
mod secret;

use std::time::Duration;

use coze_api::{CozeApi, SendExt as _};
use coze_auth::{ConfiguredFlow, ErrorKind, FixedToken, OAuthClient, RefreshToken, Secret, Token};
use coze_credentials::{ProfileConfig, Profiles, StoreKind};
use coze_wire::sanitize_sentence;
use tokio::{sync::oneshot, time::timeout};

use self::app::App;
use crate::{
    args::Login,
    failure::{Exit, Failure, Result},
    session::{Session, client, profiles},
    terminal::{Printable, can_ask, line_of_input},
};

/// How long the user's name may take. The sign-in does not depend on it.
const NAME_TIMEOUT: Duration = Duration::from_secs(5);

/// What Coze has granted. It can't be requested again.
#[derive(Clone)]
enum Granted {
    Token(Box<Token>),
    /// The rest of the response was unusable, as the error says.
    RefreshToken(RefreshToken, coze_auth::Error),
}

impl Granted {
    fn of(outcome: coze_auth::Result<Token>) -> Result<Self> {
        outcome
            .map(|token| Self::Token(token.into()))
            .or_else(|error| match error.refresh_token().cloned() {
                Some(refresh_token) => Ok(Self::RefreshToken(refresh_token, error)),
                None => Err(error.into()),
            })
    }
}

/// A sign-in that is to be kept.
#[derive(Clone)]
struct FreshSignIn {
    profiles: Profiles,
    name: String,
    config: ProfileConfig,
    secret: Option<Secret>,
    granted: Granted,
    /// Where the profile's earlier sign-in may be.
    former_stores: Vec<StoreKind>,
}

pub(crate) async fn run(options: Login, session: &Session<'_>) -> Result<()> {
    let name = session.profile_name()?;
    let profiles = profiles()?;
    let (existing, former_stores) = existing(&profiles, &name, options.replace)?;
    let App { config, secret } = App::choose(&options, &name, existing.as_ref(), session).await?;
    if let Err(error) = profiles.check(&name, &config).await {
        return Err(unusable_store(error, &profiles, &name, &config).await);
    }

    let client = client().endpoint(config.endpoint().clone()).build()?;
    let granted = sign_in(&options, &config, &client, secret.clone(), session).await?;
    let base = config.endpoint().api_base().to_owned();
    let fresh = FreshSignIn {
        profiles,
        name: name.clone(),
        config,
        secret,
        granted: granted.clone(),
        former_stores,
    };
    fresh.keep(session).await?;
    let token = match granted {
        Granted::Token(token) => token,
        Granted::RefreshToken(_, error) => {
            let what = format!(
                "The response of Coze could not be used ({error}), but it has a refresh token, which is kept: signed in at {base}, as profile {name}. The next command gets an access token."
            );
            session.terminal.say(Printable(&what));
            return Ok(());
        }
    };
    if !session.terminal.is_quiet() {
        let user = match FixedToken::new(token.access_token().expose()) {
            Ok(token) => user_name(&client, token).await,
            Err(_) => None,
        };
        let user = user.map_or_else(String::new, |user| format!(" as {}", Printable(&user)));
        session.terminal.note(format_args!(
            "Signed in{user} at {base}, as profile {name}."
        ));
    }
    Ok(())
}

impl FreshSignIn {
    /// Saves it. If that fails, a user at a terminal can fix the store, and nothing is lost.
    async fn keep(self, session: &Session<'_>) -> Result<()> {
        const LOST: &str =
            "the sign-in is lost: make the store work, then sign in again: coze login";
        loop {
            let (sender, receiver) = oneshot::channel();
            let fresh = self.clone();
            let saving = session.save(async move {
                fresh.put().await?;
                let _ = sender.send(fresh.leave_former_stores().await);
                Ok(())
            });
            let failure = match saving.await {
                Ok(()) => {
                    for what_is_left in receiver.await.unwrap_or_default() {
                        session.terminal.say(Printable(&what_is_left));
                    }
                    return Ok(());
                }
                Err(failure) => failure,
            };
            if failure.exit() != Exit::Other || !can_ask() {
                return Err(failure.with_hint(LOST));
            }
            session.terminal.report(&failure);
            session.terminal.say(
                "The sign-in is not kept yet. Fix this, then press Enter to try again; Ctrl-C gives up.",
            );
            if line_of_input().await.is_none() {
                return Err(failure.with_hint(LOST));
            }
        }
    }

    async fn put(&self) -> Result<()> {
        let Self {
            profiles,
            name,
            config,
            ..
        } = self;
        let secret = self.secret.as_ref();
        match &self.granted {
            Granted::Token(token) => profiles.put(name, config, secret, token).await?,
            Granted::RefreshToken(refresh_token, _) => {
                let put = profiles.put_refresh_token(name, config, secret, refresh_token);
                put.await?
            }
        };
        Ok(())
    }

    /// Deletes the earlier sign-in, if it is in another store. Returns what could not be deleted.
    async fn leave_former_stores(&self) -> Vec<String> {
        let mut left = Vec::new();
        let former = self.former_stores.iter();
        for kind in former.filter(|kind| **kind != self.config.store()) {
            if let Err(error) = self.profiles.sign_out_of(&self.name, *kind).await {
                left.push(format!(
                    "The earlier sign-in could not be deleted from the other store ({kind}): {error}"
                ));
            }
        }
        left
    }
}

/// The profile as it is, and the stores that its sign-in may be in. With `replace`, one that can't be read counts as missing, and its
/// sign-in may be in any store.
fn existing(
    profiles: &Profiles,
    name: &str,
    replace: bool,
) -> Result<(Option<ProfileConfig>, Vec<StoreKind>)> {
    match profiles.load(name) {
        Err(error) if error.kind() == ErrorKind::Configuration => match replace {
            true => Ok((None, vec![StoreKind::File, StoreKind::Keyring])),
            // It says how to replace the profile.
            false => Err(Failure::usage(error.to_string())),
        },
        loaded => {
            let loaded = loaded?;
            let stores = loaded.iter().map(ProfileConfig::store).collect();
            Ok((loaded, stores))
        }
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
    secret: Option<Secret>,
    session: &Session<'_>,
) -> Result<Granted> {
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
