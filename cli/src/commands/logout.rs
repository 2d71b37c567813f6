//! `coze logout`: deletes the tokens of a profile, or of all.

use tokio::sync::oneshot;

use crate::{
    failure::Result,
    session::{Session, profiles},
};

pub(crate) async fn run(all: bool, session: &Session<'_>) -> Result<()> {
    let profiles = profiles()?;
    let names = match all {
        true => profiles.list()?,
        false => vec![session.profile_name()?],
    };
    let mut outcome = Ok(());
    for name in names {
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
            outcome = Err(failure);
            continue;
        }
        session.terminal.note(match receiver.await {
            Ok(true) => format!(
                "Signed out of profile {name}. Its last access token stays valid until it expires."
            ),
            _ => format!("There is no profile {name}."),
        });
    }
    outcome
}
