//! `coze logout`: deletes the tokens of a profile, or of all.

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
        let message = match profiles.sign_out(&name).await {
            Ok(true) => format!(
                "Signed out of profile {name}. Its last access token stays valid until it expires."
            ),
            Ok(false) => format!("There is no profile {name}."),
            Err(error) => {
                // The others are signed out all the same.
                outcome = Err(error.into());
                continue;
            }
        };
        session.terminal.note(message);
    }
    outcome
}
