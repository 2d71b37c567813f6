//! What a command fails with: a message, what to do about it, and the exit code.

use std::{borrow::Cow, fmt, io};

use coze_auth::{ErrorCode, ErrorKind};

use crate::{hints, session::DEFAULT_PROFILE};

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// The exit codes. `coze --help` documents them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Other = 1,
    Usage = 2,
    SignInNeeded = 3,
    Refused = 4,
    Network = 5,
    Server = 6,
    /// 128 + SIGHUP.
    HungUp = 129,
    /// 128 + SIGINT.
    Interrupted = 130,
    /// The reader of standard output is gone: 128 + SIGPIPE.
    OutputClosed = 141,
    /// 128 + SIGTERM.
    Terminated = 143,
}

impl Exit {
    /// Whether a signal ended the command.
    pub(crate) fn is_by_signal(self) -> bool {
        matches!(self, Self::HungUp | Self::Interrupted | Self::Terminated)
    }
}

/// The command that hints tell users to run.
pub(crate) const LOGIN: &str = "coze login";

/// A hint for users who named this profile on the command line: they sign in to the same one.
pub(crate) fn naming_profile(hint: Cow<'static, str>, profile: Option<&str>) -> Cow<'static, str> {
    match profile.filter(|profile| *profile != DEFAULT_PROFILE) {
        Some(profile) => hint
            .replace(LOGIN, &format!("{LOGIN} --profile {profile}"))
            .into(),
        None => hint,
    }
}

#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    /// Empty if nothing is to be printed.
    message: String,
    hint: Option<Cow<'static, str>>,
    hint_in_chinese: Option<Cow<'static, str>>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: None,
            hint_in_chinese: None,
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A failure that prints nothing.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self::new(exit, String::new())
    }

    /// A failed input or output, with what was to be done.
    pub(crate) fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::Interrupted {
            return Self::silent(Exit::Interrupted);
        }
        Self::new(Exit::Other, format!("{what}: {error}"))
    }

    /// With another hint, in both languages.
    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self.hint_in_chinese = None;
        self
    }

    /// The failure of a command that was given this profile.
    #[must_use]
    pub(crate) fn for_profile(mut self, profile: Option<&str>) -> Self {
        for hint in [&mut self.hint, &mut self.hint_in_chinese] {
            *hint = hint.take().map(|hint| naming_profile(hint, profile));
        }
        self
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn hint(&self, is_chinese: bool) -> Option<&str> {
        let in_chinese = self.hint_in_chinese.as_deref().filter(|_| is_chinese);
        in_chinese.or(self.hint.as_deref())
    }

    fn of(
        error: &coze_auth::Error,
        message: String,
        hint: &'static str,
        in_chinese: Option<&'static str>,
    ) -> Self {
        let exit = exit_of(error);
        let hint = match exit {
            Exit::SignInNeeded => "sign in: coze login",
            _ => hint,
        };
        Self {
            exit,
            message,
            hint: Some(hint.into()),
            hint_in_chinese: in_chinese.map(Cow::from),
        }
    }
}

fn exit_of(error: &coze_auth::Error) -> Exit {
    if error.needs_sign_in() {
        return Exit::SignInNeeded;
    }
    match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::Configuration => Exit::Usage,
        ErrorKind::NotSignedIn | ErrorKind::DeviceCodeExpired => Exit::SignInNeeded,
        ErrorKind::Refused if is_temporary(error) => Exit::Server,
        ErrorKind::Refused => Exit::Refused,
        ErrorKind::StateMismatch | ErrorKind::InvalidCallback => Exit::Refused,
        ErrorKind::Connect | ErrorKind::Timeout | ErrorKind::Interrupted => Exit::Network,
        ErrorKind::InvalidAnswer | ErrorKind::UnusableToken => Exit::Server,
        _ => Exit::Other,
    }
}

/// Whether the cause of a refusal may be temporary: too many requests, or a failure of the server, whatever its code says.
pub(crate) fn is_temporary(error: &coze_auth::Error) -> bool {
    let of_server = { error.status() }.is_some_and(|status| status.is_server_error());
    // A code of OAuth is final, whatever the status of a gateway.
    let is_of_oauth = { error.code() }
        .is_some_and(|code| !matches!(code, ErrorCode::Api(_) | ErrorCode::Other(_)));
    (of_server && !is_of_oauth) || error.is_retryable()
}

impl From<coze_auth::Error> for Failure {
    fn from(error: coze_auth::Error) -> Self {
        let (hint, in_chinese) = hints::of(&error);
        Self::of(&error, error.to_string(), hint, in_chinese)
    }
}

impl From<coze_api::Error> for Failure {
    fn from(error: coze_api::Error) -> Self {
        let (hint, in_chinese) = hints::of_call(&error);
        Self::of(&error, error.to_string(), hint, in_chinese)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::silent(Exit::OutputClosed),
            io::ErrorKind::Interrupted => Self::silent(Exit::Interrupted),
            _ => Self::new(Exit::Other, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_errors_have_their_exit_codes() {
        for (kind, exit) in [
            (ErrorKind::InvalidInput, Exit::Usage),
            (ErrorKind::Configuration, Exit::Usage),
            (ErrorKind::NotSignedIn, Exit::SignInNeeded),
            (ErrorKind::DeviceCodeExpired, Exit::SignInNeeded),
            (ErrorKind::Refused, Exit::Refused),
            (ErrorKind::Connect, Exit::Network),
            (ErrorKind::Timeout, Exit::Network),
            (ErrorKind::InvalidAnswer, Exit::Server),
            (ErrorKind::System, Exit::Other),
        ] {
            let failure = Failure::from(coze_auth::Error::new(kind, "it failed"));
            assert_eq!(failure.exit(), exit, "{kind}");
            assert!(failure.hint(false).is_some(), "{kind}");
        }
    }

    #[test]
    fn a_refusal_by_an_overloaded_server_is_a_failure_of_the_server() {
        let failure = |status: u16| {
            let error = coze_auth::Error::new(ErrorKind::Refused, "it failed");
            Failure::from(error.with_status(status.try_into().unwrap()))
        };
        for status in [408, 429, 500, 503] {
            let failure = failure(status);
            assert_eq!(failure.exit(), Exit::Server, "{status}");
            assert!(failure.hint(false).unwrap().contains("again"), "{status}");
            assert!(failure.hint(true).unwrap().contains("再试"), "{status}");
        }
        assert_eq!(failure(400).exit(), Exit::Refused);
    }

    #[test]
    fn a_closed_output_is_silent() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.exit() as u8, 141);
        assert_eq!(failure.message(), "");
    }

    #[test]
    fn an_interrupted_input_has_the_exit_code_of_ctrl_c() {
        let error = io::Error::from(io::ErrorKind::Interrupted);
        for failure in [Failure::io("no input", &error), Failure::from(error)] {
            assert_eq!(failure.exit() as u8, 130);
            assert_eq!(failure.message(), "");
        }
    }

    #[test]
    fn another_hint_replaces_both() {
        let failure = Failure::from(coze_auth::Error::new(
            ErrorKind::Store(coze_auth::store::StoreErrorKind::Full),
            "it is full",
        ));
        assert!(failure.hint(true).is_some_and(|hint| hint.contains("存储")));
        let failure = failure.with_hint("sign in again");
        assert_eq!(failure.hint(true), Some("sign in again"));
    }

    #[test]
    fn hints_name_the_profile_of_the_command_line() {
        let error = || coze_auth::Error::new(ErrorKind::NotSignedIn, "nobody has signed in");
        let hint = |profile, is_chinese| {
            let failure = Failure::from(error()).for_profile(profile);
            failure.hint(is_chinese).unwrap().to_owned()
        };
        for is_chinese in [false, true] {
            let plain = hint(None, is_chinese);
            assert!(plain.contains("coze login"), "{plain}");
            assert_eq!(hint(Some("default"), is_chinese), plain);
            let named = hint(Some("work"), is_chinese);
            assert!(named.contains("coze login --profile work"), "{named}");
        }
    }
}
