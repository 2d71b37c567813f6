//! `coze profiles`: what is stored on this machine.

use anstyle::Style;
use coze_auth::SignIn;
use coze_credentials::{ProfileConfig, Profiles};
use serde_json::json;

use crate::{
    failure::{LOGIN, Result},
    session::{DEFAULT_PROFILE, Session, profiles},
    terminal::{Printable, STRONG},
    token::state_of,
};

pub(crate) async fn run(as_json: bool, session: &Session<'_>) -> Result<()> {
    let profiles = profiles()?;
    let current = session.profile_name()?;
    let mut all = Vec::new();
    for name in profiles.list()? {
        let row = match row(&profiles, &name, &current).await {
            Ok((config, state)) => json!({
                "profile": name,
                "current": name == current,
                "flow": config.flow().to_string(),
                "client_id": config.client_id().as_ref(),
                "api_base": config.endpoint().api_base(),
                "store": config.store().to_string(),
                "state": state,
            }),
            // One damaged profile does not hide the others.
            Err(failure) => {
                json!({"profile": name, "current": name == current, "state": failure.message()})
            }
        };
        all.push(row);
    }
    if as_json {
        return session.terminal.print_json(json!(all)).await;
    }
    if all.is_empty() {
        session
            .terminal
            .note("There are no profiles. Sign in: coze login");
    }
    for row in &all {
        let text = |name: &str| Printable(row[name].as_str().unwrap_or("-")).to_string();
        let is_current = row["current"] == true;
        let style = if is_current { STRONG } else { Style::new() };
        let mark = if is_current { '*' } else { ' ' };
        let line = format!(
            "{mark} {style}{:<16}{style:#} {:<7} {:<24} {:<8} {}",
            text("profile"),
            text("flow"),
            text("api_base"),
            text("store"),
            text("state"),
        );
        session.terminal.print(line).await?;
    }
    Ok(())
}

async fn row(profiles: &Profiles, name: &str, current: &str) -> Result<(ProfileConfig, String)> {
    let missing = || crate::failure::Failure::usage("the profile was removed");
    let config = profiles.load(name)?.ok_or_else(missing)?;
    let sign_in: SignIn = profiles.sign_in(name, config.store())?;
    let state = state_of(&sign_in).await?.to_string();
    Ok(match (name, current) {
        (DEFAULT_PROFILE, DEFAULT_PROFILE) => (config, state),
        _ => (
            config,
            state.replace(LOGIN, &format!("{LOGIN} --profile {name}")),
        ),
    })
}
