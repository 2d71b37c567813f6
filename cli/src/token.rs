//! The token of this machine: from the environment, an app's configuration or a stored sign-in, as directly as possible.
//!
//! A stored token that is still valid is only read: no HTTP client is built for it, because that loads the system's certificates.

use std::time::{Duration, SystemTime};

use coze_auth::{
    ConfiguredFlow, Flow, OAuthConfig, Secret, SignIn, Token, TokenProvider, sign_in::Record,
};
use coze_credentials::ProfileConfig;

use crate::{
    commands::status::is_of,
    failure::{Failure, Result},
    session::{Place, Session, client, profiles},
};

/// A token, and what is known of it.
pub(crate) struct Issued {
    pub(crate) access_token: Secret,
    pub(crate) expiry: Option<Expiry>,
}

pub(crate) struct Expiry {
    pub(crate) at: SystemTime,
    pub(crate) remaining: Duration,
}

impl From<Token> for Issued {
    fn from(token: Token) -> Self {
        Self {
            expiry: Some(Expiry {
                at: token.expires_at(),
                remaining: token.remaining(),
            }),
            access_token: Secret::from(token.access_token().expose()),
        }
    }
}

impl Issued {
    /// The token of a record, if it has one.
    fn of(record: &Record) -> Option<Self> {
        Some(Self {
            access_token: record.access_token()?.clone(),
            expiry: Some(Expiry {
                at: record.expires_at(),
                remaining: record.life(),
            }),
        })
    }

    fn outlasts(&self, min_validity: Duration) -> bool {
        let expiry = self.expiry.as_ref();
        expiry.is_none_or(|expiry| expiry.remaining >= min_validity)
    }
}

/// A stored token that is valid for less than this is left to the provider, which refreshes it in time.
const MARGIN: Duration = Duration::from_secs(30);

/// A valid token. With `min_validity`, one that stays valid for at least this long, if the sign-in can give one.
pub(crate) async fn issue(session: &Session<'_>, min_validity: Option<Duration>) -> Result<Issued> {
    match session.place()? {
        Place::Profile(name) => stored(session, &name, None, min_validity).await,
        Place::Configuration(_, config) => match config.flow() {
            Flow::Token | Flow::Jwt => configured(session, *config).await,
            _ => {
                let name = session.profile_name()?;
                stored(session, &name, Some(&config), min_validity).await
            }
        },
    }
}

/// A token that needs no user.
async fn configured(session: &Session<'_>, config: OAuthConfig) -> Result<Issued> {
    if config.flow() == Flow::Token {
        let token = coze_auth::FixedToken::from_env()?;
        return Ok(Issued {
            access_token: Secret::from(token.access_token().expose()),
            expiry: None,
        });
    }
    match config.build_with(client())? {
        ConfiguredFlow::Jwt(jwt) => Ok(jwt.token().await?.into()),
        _ => {
            // The credentials say what is wrong.
            let token = session.credentials().await?.token().await?;
            Ok(Issued {
                access_token: Secret::from(token.expose()),
                expiry: None,
            })
        }
    }
}

/// The token of a stored sign-in, refreshed if need be.
async fn stored(
    session: &Session<'_>,
    name: &str,
    app: Option<&OAuthConfig>,
    min_validity: Option<Duration>,
) -> Result<Issued> {
    let sign_in = sign_in_of(name, app)?;
    if let Some(issued) = valid(sign_in.as_ref()).await?
        && issued.outlasts(min_validity.unwrap_or(MARGIN))
    {
        return Ok(issued);
    }
    // Also if there is no sign-in: the error says where it was looked for.
    let credentials = session.credentials().await?;
    let token = credentials.token().await?;
    let mut issued = issued_as(&token, sign_in.as_ref()).await?;
    if min_validity.is_some_and(|min_validity| !issued.outlasts(min_validity)) {
        credentials.invalidate(&token);
        issued = issued_as(&credentials.token().await?, sign_in.as_ref()).await?;
    }
    Ok(issued)
}

/// What the store knows of a token that a provider has just returned.
async fn issued_as(token: &coze_auth::AccessToken, sign_in: Option<&App>) -> Result<Issued> {
    let stored = valid(sign_in).await?;
    let is_same = |issued: &Issued| issued.access_token.expose() == token.expose();
    Ok(stored.filter(is_same).unwrap_or_else(|| Issued {
        access_token: Secret::from(token.expose()),
        expiry: None,
    }))
}

/// A sign-in, and the app that it has to be of.
struct App(SignIn, ProfileConfig);

/// The sign-in of a profile; `None` if there is no such profile, or if it is not of this app.
fn sign_in_of(name: &str, app: Option<&OAuthConfig>) -> Result<Option<App>> {
    // Without a home folder there are no profiles: the credentials say so, and where else they looked.
    let Ok(profiles) = profiles() else {
        return Ok(None);
    };
    let Some(config) = profiles.load(name)? else {
        return Ok(None);
    };
    if !app.is_none_or(|app| is_of(&config, app)) {
        return Ok(None);
    }
    let sign_in = profiles.sign_in(name, config.store())?;
    Ok(Some(App(sign_in, config)))
}

/// The stored token, if the sign-in has not ended and is of the app, at its endpoint.
async fn valid(app: Option<&App>) -> Result<Option<Issued>, Failure> {
    let Some(App(sign_in, config)) = app else {
        return Ok(None);
    };
    let is_of = |theirs: Option<&str>, ours: &str| theirs.is_none_or(|theirs| theirs == ours);
    let record = sign_in.load().await?.filter(|record| {
        record.ended().is_none()
            && is_of(record.client_id(), config.client_id().as_ref())
            && is_of(record.api_base(), config.endpoint().api_base())
    });
    Ok(record.as_ref().and_then(Issued::of))
}

/// The state of a stored sign-in.
pub(crate) enum State {
    SignedOut,
    /// Why it has ended.
    Ended(String),
    Expired,
    Valid(Duration),
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SignedOut => f.write_str("nobody has signed in: coze login"),
            Self::Ended(why) => write!(f, "the sign-in has ended ({why}): coze login"),
            Self::Expired => f.write_str("signed in; the next token is a refreshed one"),
            Self::Valid(life) => {
                let life = humantime::format_duration(Duration::from_secs(life.as_secs()));
                write!(f, "signed in; the token is valid for {life}")
            }
        }
    }
}

/// What the store says about a sign-in. Nothing is sent.
pub(crate) async fn state_of(sign_in: &SignIn) -> Result<State> {
    let Some(record) = sign_in.load().await? else {
        return Ok(State::SignedOut);
    };
    Ok(match record.ended() {
        Some(ended) => State::Ended(ended.code().map_or_else(String::new, ToString::to_string)),
        None if record.life().is_zero() => State::Expired,
        None => State::Valid(record.life()),
    })
}
