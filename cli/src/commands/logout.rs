//! `coze logout`: deletes the tokens of a profile, or of all.

use coze_auth::ErrorKind;
use coze_credentials::Profiles;
use tokio::sync::oneshot;

use crate::{
    failure::{Failure, Result},
    session::{Session, profiles},
};

pub(crate) async fn run(all: bool, session: &Session<'_>) -> Result<()> {
    let profiles = profiles()?;
    let mut failures = Vec::new();
    let names = match all {
        true => all_names(&profiles, &mut failures).await?,
        false => vec![session.profile_name()?],
    };
    for name in names {
        let is_unusable =
            { profiles.load(&name) }.is_err_and(|error| error.kind() == ErrorKind::Configuration);
        let (sender, receiver) = oneshot::channel();
        let signing_out = {
            let (profiles, name) = (profiles.clone(), name.clone());
            async move {
                let _ = sender.send(profiles.sign_out(&name).await?);
                Ok(())
            }
        };
        // Also after Ctrl-C, so that no half of a sign-in remains.
        if let Err(failure) = session.save(signing_out).await {
            // The others are signed out all the same.
            failures.push(failure.for_profile(Some(&name)));
            continue;
        }
        match receiver.await {
            Ok(true) => session.terminal.note(format!(
                "Signed out of profile {name}. Its last access token stays valid until it expires."
            )),
            _ if !all => session
                .terminal
                .note(format!("There is no profile {name}.")),
            // Its user has signed out before.
            _ => {}
        }
        if is_unusable {
            session.terminal.say(format!(
                "The file of profile {name} could not be used, so its sign-in was deleted from every store that could be reached."
            ));
        }
    }
    for failure in &failures {
        session.terminal.report(failure);
    }
    let first = failures.first();
    first.map_or(Ok(()), |first| Err(Failure::silent(first.exit())))
}

/// The names of the profiles, and of sign-ins whose profile is lost.
async fn all_names(profiles: &Profiles, failures: &mut Vec<Failure>) -> Result<Vec<String>> {
    match profiles.list_with_sign_ins().await {
        Ok(names) => Ok(names),
        Err(error) => {
            failures.push(error.into());
            Ok(profiles.list()?)
        }
    }
}
