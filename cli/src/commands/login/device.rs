//! The device flow at a terminal: the user confirms a code on any device.

use std::{pin::pin, time::Duration};

use coze_auth::{DeviceAuthorization, DeviceFlow};
use coze_credentials::ProfileConfig;
use humantime::format_duration;
use qrcode::{QrCode, render::unicode::Dense1x2};

use super::Granted;
use crate::{
    failure::Result,
    session::Session,
    terminal::{
        BLACK_ON_WHITE, Printable, STRONG, Terminal, messages_are_for_a_terminal,
        messages_have_colours,
    },
};

pub(super) async fn sign_in(
    flow: &DeviceFlow,
    config: &ProfileConfig,
    session: &Session<'_>,
) -> Result<Granted> {
    let authorization = match config.workspace() {
        Some(workspace) => flow.start_in_workspace(workspace).await?,
        None => flow.start().await?,
    };
    let terminal = session.terminal;
    show(&authorization, terminal);
    let outcome = {
        let mut polling = pin!(flow.poll_with(&authorization, |step| {
            if let Some(error) = &step.error {
                tracing::debug!(%error, "a poll failed");
            }
        }));
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        let is_terminal = messages_are_for_a_terminal();
        loop {
            tokio::select! {
                outcome = &mut polling => break outcome,
                _ = seconds.tick(), if is_terminal => {
                    let left = format_duration(whole_seconds(authorization.remaining()));
                    terminal.replace_line(format_args!("Waiting for you to confirm the code; {left} left"));
                }
            }
        }
    };
    terminal.replace_line("");
    Granted::of(outcome)
}

fn show(authorization: &DeviceAuthorization, terminal: &Terminal) {
    let (url, code) = (
        authorization.verification_uri_complete(),
        authorization.user_code(),
    );
    terminal.say(format_args!(
        "Open this address, on any device, and confirm the code:\n\n  {}\n\n{}",
        Printable(&url),
        framed(code)
    ));
    if messages_are_for_a_terminal()
        && let Ok(code) = QrCode::new(&url)
    {
        let mut picture = code.render::<Dense1x2>();
        if !messages_have_colours() {
            // The characters are light on most terminals, and many scanners refuse a picture that is light on dark.
            picture
                .dark_color(Dense1x2::Light)
                .light_color(Dense1x2::Dark);
        }
        for line in picture.build().lines() {
            terminal.say(format_args!("  {BLACK_ON_WHITE}{line}{BLACK_ON_WHITE:#}"));
        }
        terminal.say("");
    } else {
        let left = format_duration(whole_seconds(authorization.remaining()));
        terminal.say(format_args!("The code is valid for {left}."));
    }
}

/// The code with space around each character, in a frame.
fn framed(code: &str) -> String {
    let spaced: String = code
        .chars()
        .flat_map(|character| [' ', character])
        .collect();
    let line = "─".repeat(spaced.chars().count() + 3);
    let code = Printable(&spaced);
    format!("  ┌{line}┐\n  │ {STRONG}{code}{STRONG:#}  │\n  └{line}┘\n")
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_framed() {
        let frame = framed("AB-12").replace(&STRONG.render().to_string(), "");
        let frame = frame.replace(&STRONG.render_reset().to_string(), "");
        assert_eq!(
            frame,
            "  ┌─────────────┐\n  │  A B - 1 2  │\n  └─────────────┘\n"
        );
    }
}
