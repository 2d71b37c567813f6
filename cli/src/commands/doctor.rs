//! `coze doctor`: finds out what is wrong. Each line of its report is a probe that was made.

mod app;
mod files;
mod network;
mod report;

use coze_api::SendExt as _;
use coze_auth::{Endpoint, Error, ErrorCode, Flow, OAuthConfig, TokenProvider as _};
use coze_credentials::{ProfileConfig, Profiles};
use coze_wire::NO_PERMISSION;

use self::report::{Advice, Check, Report};
use crate::{
    args::Doctor,
    failure::{Exit, Failure, LOGIN, Result, naming_profile},
    session::{DEFAULT_PROFILE, Place, Session, profiles},
    token::{State, state_of},
};

pub(crate) async fn run(options: Doctor, session: &Session<'_>) -> Result<()> {
    let mut report = Report::default();
    let place = session.place();
    let endpoint = match &place {
        Ok(place) => configuration(place, session, &mut report).await,
        Err(failure) => {
            report.add(Check::failed("configuration", failure));
            None
        }
    };
    let flow = match &place {
        Ok(Place::Configuration(_, config)) => Some(config.flow()),
        _ => None,
    };

    let asked = endpoint.as_ref().unwrap_or(&Endpoint::COM);
    network::probe(asked, &mut report).await;
    for site in options.sites.iter().filter(|site| *site != asked) {
        network::reach("site", site, &mut report).await;
    }
    if let Ok(Place::Configuration(source, config)) = &place
        && !report.has_problem("key")
    {
        app::ask_sites(source, config, &options.sites, &mut report).await;
    }
    // It would only repeat what is known to be wrong.
    let is_known_to_fail =
        { ["key", "sign-in", "app"].iter() }.any(|name| report.has_problem(name));
    if endpoint.is_some() && report.is_network_fine() && !is_known_to_fail {
        exchange(session, flow, &mut report).await;
    }
    report.print(options.json, session.terminal).await
}

/// Looks at the configuration and its files. Returns the endpoint that it names.
async fn configuration(
    place: &Place,
    session: &Session<'_>,
    report: &mut Report,
) -> Option<Endpoint> {
    match place {
        Place::Configuration(source, config) => {
            let id = config.client_id().map(|id| format!(" {}", id.as_ref()));
            let endpoint = config.endpoint();
            report.add(Check::good(
                "configuration",
                format!(
                    "{source}: flow {}{} at {}",
                    config.flow(),
                    id.unwrap_or_default(),
                    endpoint.api_base()
                ),
            ));
            files::permissions(source, config.flow(), report);
            match config.flow() {
                Flow::Jwt => app::sign(source, config, report).await,
                Flow::Token => {}
                _ => {
                    if let Ok(name) = session.profile_name() {
                        sign_in(&name, Some(config), report).await;
                    }
                }
            }
            Some(endpoint.clone())
        }
        Place::Profile(name) => sign_in(name, None, report).await,
    }
}

/// Looks at a profile, its store and its sign-in, which has to be one to `app`. Returns its endpoint.
async fn sign_in(name: &str, app: Option<&OAuthConfig>, report: &mut Report) -> Option<Endpoint> {
    let loaded = profiles().and_then(|profiles| Ok((profiles.load(name)?, profiles)));
    let (config, profiles) = match loaded {
        Ok((Some(config), profiles)) => (config, profiles),
        Ok((None, _)) => {
            let found = format!("there is no profile {name}: nobody has signed in");
            report.add(Check::signed_out("sign-in", found, log_in(name)));
            return None;
        }
        Err(failure) => {
            report.add(Check::failed("sign-in", &failure));
            return None;
        }
    };
    if app.is_some_and(|app| !config.is_of(app)) {
        report.add(of_another_app(name, &config));
        return None;
    }
    report.add(store(name, &config, &profiles).await);
    let state = match profiles.sign_in(name, config.store()) {
        Ok(sign_in) => state_of(&sign_in).await,
        Err(error) => Err(error.into()),
    };
    let about = format!(
        "profile {name}, flow {} at {}",
        config.flow(),
        config.endpoint().api_base()
    );
    let signed_out = |why: &str| {
        let found = format!("{about}: {why}");
        Check::signed_out("sign-in", found, log_in(name))
    };
    report.add(match state {
        Ok(state @ (State::Valid(_) | State::Expired)) => {
            Check::good("sign-in", format!("{about}: {state}"))
        }
        Ok(State::SignedOut) => signed_out("nobody has signed in"),
        Ok(State::Ended(why)) => signed_out(&format!("the sign-in has ended ({why})")),
        Err(failure) => Check::failed("sign-in", &failure),
    });
    Some(config.endpoint().clone())
}

/// Tries the store of a profile.
async fn store(name: &str, config: &ProfileConfig, profiles: &Profiles) -> Check {
    match profiles.check(name, config).await {
        Ok(()) => Check::good(
            "store",
            format!("{}: wrote, read and deleted a value", config.store()),
        ),
        Err(error) => Check::failed("store", &error.into()),
    }
}

/// The profile of a user who has signed in to another app than the configured one.
fn of_another_app(name: &str, config: &ProfileConfig) -> Check {
    let found = format!(
        "profile {name} is a sign-in to another app than the configured one: flow {} {} at {}",
        config.flow(),
        config.client_id().as_ref(),
        config.endpoint().api_base()
    );
    let (english, chinese) = match name {
        DEFAULT_PROFILE => (
            format!("sign in to the configured app: {LOGIN}"),
            format!("请登录所配置的应用：{LOGIN}"),
        ),
        // A login to the profile that is named signs in to the app of that profile.
        _ => (
            format!(
                "sign in to the configured app as a new profile: {LOGIN} --profile NEW, then COZE_PROFILE=NEW"
            ),
            format!(
                "请用新的 profile 登录所配置的应用：{LOGIN} --profile NEW，然后设置 COZE_PROFILE=NEW"
            ),
        ),
    };
    Check::bad(
        "sign-in",
        found,
        Advice::new(
            format!("{english}; or, to use this sign-in, add --profile {name}"),
            format!("{chinese}；如要使用现有的登录，请加上 --profile {name}"),
        ),
    )
}

fn login_command(profile: &str) -> String {
    naming_profile(LOGIN.into(), Some(profile)).into_owned()
}

fn log_in(profile: &str) -> Advice {
    let login = login_command(profile);
    Advice::new(format!("sign in: {login}"), format!("请登录：{login}"))
}

/// Gets a token, and calls the API with it.
async fn exchange(session: &Session<'_>, flow: Option<Flow>, report: &mut Report) {
    let failed = |name: &str, failure: Failure| match session.profile_name() {
        Ok(profile) if failure.exit() == Exit::SignInNeeded => {
            Check::signed_out(name, failure.message(), log_in(&profile))
        }
        _ => Check::failed(name, &failure),
    };
    let token = async {
        let credentials = session.credentials().await?;
        Ok::<_, Failure>(credentials.token().await?)
    };
    match token.await {
        Ok(_) if flow == Some(Flow::Jwt) => {
            report.add(Check::good("exchange", "the app got a token"))
        }
        Ok(_) => {}
        Err(failure) => return report.add(failed("exchange", failure)),
    }
    let api = match session.api().await {
        Ok(api) => api,
        Err(failure) => return report.add(failed("API call", failure)),
    };
    report.add(match api.users().me().send().await {
        Ok(user) => Check::good(
            "API call",
            format!("the token is that of {}", user.user_name),
        ),
        Err(error) if is_no_permission(&error) => Check::unsure(
            "API call",
            format!("the token may not read its user: {error}"),
            Advice::new(
                "tokens of channel apps, or with few permissions, may still do their work: grant the permission if this one should read its user",
                "渠道应用的令牌或权限较少的令牌仍可能正常使用；如需读取用户信息，请为令牌授予相应权限",
            ),
        ),
        Err(error) => failed("API call", error.into()),
    });
}

fn is_no_permission(error: &Error) -> bool {
    matches!(error.code(), Some(ErrorCode::Api(NO_PERMISSION)))
}
