//! The PKCE and web flows at a terminal: the browser comes back to this program, or the user pastes the address.

use std::io::{self, Write as _};

use coze_credentials::{LoopbackLogin, ProfileConfig, RedirectFlow, open_browser};

use super::Granted;
use crate::{
    args::Login,
    failure::{Failure, Result},
    session::Session,
    terminal::{input_is_terminal, line_of_input},
};

pub(super) async fn sign_in(
    flow: &impl RedirectFlow,
    options: &Login,
    config: &ProfileConfig,
    session: &Session<'_>,
) -> Result<Granted> {
    let redirect_uri = config.redirect_uri().ok_or_else(|| {
        Failure::usage("the redirect URI is missing").with_hint(
            "give one that is registered for the app, with a port of this machine: --redirect-uri http://127.0.0.1:8080/callback",
        )
    })?;
    let opens_browser = !options.no_browser && !options.paste;
    let mut login = LoopbackLogin::new(flow, redirect_uri)
        .program("coze")
        .open_with(move |url| async move {
            let mut err = anstream::stderr();
            writeln!(
                err,
                "Open this address in a browser, and confirm:\n\n  {url}\n"
            )?;
            if opens_browser && let Err(error) = open_browser(&url).await {
                writeln!(
                    err,
                    "No browser could be opened ({error}): open the address yourself."
                )?;
            }
            Ok(())
        });
    if let Some(workspace) = config.workspace() {
        login = login.workspace(workspace);
    }
    // Without a terminal, standard input may be empty from the start, or belong to something else.
    if options.paste || input_is_terminal() {
        login = login.paste_with(|error| async move {
            let _ = match error {
                Some(error) => writeln!(io::stderr(), "{error}. Paste the whole address:"),
                None => writeln!(
                    io::stderr(),
                    "If the browser is on another machine, paste the address that it was sent to, also if it can't load the page:"
                ),
            };
            line_of_input().await
        });
    }
    if options.paste {
        login = login.without_listener();
    }
    session
        .terminal
        .note("Waiting for the browser; Ctrl-C ends this.");
    Granted::of(login.run().await)
}
