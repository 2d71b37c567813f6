//! `coze doctor`: finds out what is wrong. Each line of its report is a probe that was made.

mod app;
mod files;
mod network;
mod report;

use coze_auth::{Endpoint, Flow, TokenProvider as _};

use self::report::{Check, Report};
use crate::{
    args::Doctor,
    failure::{Failure, Result},
    session::{Place, Session, profiles},
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
    if let Ok(Place::Configuration(source, config)) = &place {
        app::ask_sites(source, config, &options.sites, &mut report).await;
    }
    if endpoint.is_some() && report.is_network_fine() {
        exchange(session, flow, &mut report).await;
    }
    report.print(options.json, session.terminal)
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
            files::permissions(source, report);
            match config.flow() {
                Flow::Jwt => app::sign(source, config, report).await,
                Flow::Token => {}
                _ => {
                    if let Ok(name) = session.profile_name() {
                        sign_in(&name, report).await;
                    }
                }
            }
            Some(endpoint.clone())
        }
        Place::Profile(name) => sign_in(name, report).await,
    }
}

/// Looks at a profile, its store and its sign-in. Returns its endpoint.
async fn sign_in(name: &str, report: &mut Report) -> Option<Endpoint> {
    let loaded = profiles().and_then(|profiles| Ok((profiles.load(name)?, profiles)));
    let (config, profiles) = match loaded {
        Ok((Some(config), profiles)) => (config, profiles),
        Ok((None, _)) => {
            let what = format!("there is no profile {name}, and no app is configured");
            report.add(Check::bad("sign-in", what, "sign in: coze login"));
            return None;
        }
        Err(failure) => {
            report.add(Check::failed("sign-in", &failure));
            return None;
        }
    };
    let checked = profiles.check(name, &config).await;
    report.add(match checked.map_err(Failure::from) {
        Ok(()) => Check::good(
            "store",
            format!("{}: wrote, read and deleted a value", config.store()),
        ),
        Err(failure) => Check::failed("store", &failure),
    });
    let state = match profiles.sign_in(name, config.store()) {
        Ok(sign_in) => state_of(&sign_in).await,
        Err(error) => Err(error.into()),
    };
    let about = format!(
        "profile {name}, flow {} at {}",
        config.flow(),
        config.endpoint().api_base()
    );
    report.add(match state {
        Ok(state @ (State::Valid(_) | State::Expired)) => {
            Check::good("sign-in", format!("{about}: {state}"))
        }
        Ok(state) => Check::bad(
            "sign-in",
            format!("{about}: {state}"),
            "sign in: coze login",
        ),
        Err(failure) => Check::failed("sign-in", &failure),
    });
    Some(config.endpoint().clone())
}

/// Gets a token, and calls the API with it.
async fn exchange(session: &Session<'_>, flow: Option<Flow>, report: &mut Report) {
    let token = async {
        let credentials = session.credentials().await?;
        Ok::<_, Failure>(credentials.token().await?)
    };
    match token.await {
        Ok(_) if flow == Some(Flow::Jwt) => {
            report.add(Check::good("exchange", "the app got a token"))
        }
        Ok(_) => {}
        Err(failure) => return report.add(Check::failed("exchange", &failure)),
    }
    let user = async {
        let api = session.api().await?;
        Ok::<_, Failure>(coze_api::SendExt::send(api.users().me()).await?)
    };
    report.add(match user.await {
        Ok(user) => Check::good(
            "API call",
            format!("the token is that of {}", user.user_name),
        ),
        Err(failure) => Check::failed("API call", &failure),
    });
}
