//! What is printed, and where: results on standard output, everything else on standard error; colours on terminals only.

use std::{
    borrow::Cow,
    env,
    fmt::{self, Display},
    io::{self, Write as _},
};

use anstyle::{AnsiColor, Color, Style};
use coze_wire::is_invisible;
use tokio::sync::oneshot;
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    args::Global,
    failure::{Exit, Failure, Result},
};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default();
pub(crate) const BLACK_ON_WHITE: Style = AnsiColor::Black
    .on_default()
    .bg_color(Some(Color::Ansi(AnsiColor::BrightWhite)));
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const UNSURE: Style = AnsiColor::Yellow.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(crate) const STRONG: Style = Style::new().bold();

/// The beginning of the names of the crates whose events `--verbose` logs. Those of HTTP libraries may contain what a server repeats.
const LOGGED: &str = "coze";

pub(crate) struct Terminal {
    is_quiet: bool,
    is_chinese: bool,
}

impl Terminal {
    pub(crate) fn new(options: &Global) -> Self {
        if options.verbose {
            let output = tracing_subscriber::fmt::layer()
                .with_writer(anstream::stderr)
                .without_time();
            tracing_subscriber::registry()
                .with(Targets::new().with_target(LOGGED, tracing::Level::DEBUG))
                .with(output)
                .init();
        }
        Self {
            is_quiet: options.quiet,
            is_chinese: is_chinese(|name| env::var(name).ok()),
        }
    }

    /// Whether the user reads Chinese.
    pub(crate) fn is_chinese(&self) -> bool {
        self.is_chinese
    }

    /// Prints a result, with a line break.
    pub(crate) async fn print(&self, text: impl Display) -> Result<()> {
        let text = format!("{text}\n");
        in_thread(move || write_all(anstream::stdout().lock(), text.as_bytes())).await
    }

    /// Prints a part of a text from a server at once: unchanged, or as [`PrintableLines`] on a terminal.
    pub(crate) async fn print_text(&self, text: String) -> Result<()> {
        let text = match output_is_terminal() {
            true => PrintableLines(&text).to_string(),
            false => text,
        };
        self.print_bytes(text).await
    }

    /// Prints JSON, with a line break. On a terminal, the characters that control it or are not seen are escaped.
    pub(crate) async fn print_json(&self, json: impl Display) -> Result<()> {
        let mut json = json.to_string();
        if output_is_terminal() {
            json = crate::json::escaped(&json);
        }
        json.push('\n');
        self.print_bytes(json).await
    }

    /// Prints bytes as they are: not with `anstream`, which removes escape sequences.
    pub(crate) async fn print_bytes(&self, bytes: impl AsRef<[u8]> + Send + 'static) -> Result<()> {
        in_thread(move || write_all(io::stdout().lock(), bytes.as_ref())).await
    }

    /// Tells the user something that is no result. `--quiet` suppresses it.
    pub(crate) fn note(&self, text: impl Display) {
        if !self.is_quiet {
            // There is nowhere to report it if standard error is closed.
            let _ = writeln!(anstream::stderr().lock(), "{text}");
        }
    }

    /// Tells the user what is needed to go on, even if `--quiet` is given.
    pub(crate) fn say(&self, text: impl Display) {
        let _ = writeln!(anstream::stderr().lock(), "{text}");
    }

    /// Whether `--quiet` suppresses notes.
    pub(crate) fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// Asks a question that is answered by yes or no. Anything but a yes is a no.
    pub(crate) async fn confirm(&self, question: impl Display) -> bool {
        let _ = write!(anstream::stderr().lock(), "{question} [y/N] ");
        let answer = line_of_input().await.unwrap_or_default();
        ["y", "yes", "是"].contains(&answer.trim().to_lowercase().as_str())
    }

    /// Replaces the line that was written by this before, on a terminal. An empty text leaves no line. `--quiet` suppresses it.
    pub(crate) fn replace_line(&self, text: impl Display) {
        if !self.is_quiet && messages_are_for_a_terminal() {
            let _ = write!(io::stderr().lock(), "\r\x1b[2K{text}");
        }
    }

    /// Like [`note`](Self::note), without a line break.
    pub(crate) fn note_part(&self, text: impl Display) {
        if !self.is_quiet {
            let _ = write!(anstream::stderr().lock(), "{text}");
        }
    }

    pub(crate) fn report(&self, failure: &Failure) {
        if failure.exit() == Exit::Interrupted && messages_are_for_a_terminal() {
            // After the characters that the terminal shows for Ctrl-C.
            self.say("");
        }
        if failure.message().is_empty() {
            return;
        }
        let mut err = anstream::stderr().lock();
        let message = Printable(failure.message());
        let _ = writeln!(err, "{ERROR}error:{ERROR:#} {message}");
        if let Some(hint) = failure.hint(self.is_chinese) {
            let word = if self.is_chinese {
                "提示："
            } else {
                "hint: "
            };
            let _ = writeln!(err, "{HINT}{word}{HINT:#}{}", Printable(hint));
        }
    }
}

/// Writes in a thread of its own, because a write to a pipe that nobody reads can't be cancelled.
async fn in_thread(write: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<()> {
    let written = tokio::task::spawn_blocking(write).await;
    Ok(written.map_err(io::Error::other)??)
}

fn write_all(mut out: impl io::Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}

/// Whether the user reads Chinese: the first of these variables that is set decides, as for all programs (POSIX, section 8.2).
fn is_chinese(variable: impl Fn(&str) -> Option<String>) -> bool {
    let names = ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter();
    let locale = { names }.find_map(|name| variable(name).filter(|value| !value.is_empty()));
    locale.is_some_and(|locale| locale.starts_with("zh"))
}

/// Whether a character controls a terminal, or could deceive its user. Other invisible characters belong to ordinary text: soft
/// hyphens, the joiners of Persian words and emoji, and variation selectors.
fn is_escaped(c: char) -> bool {
    is_invisible(c)
        && !matches!(
            c,
            '\u{ad}' | '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}'
        )
}

/// A text on one line, without characters that control a terminal or could deceive its user.
pub(crate) struct Printable<'a>(pub(crate) &'a str);

impl Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if is_escaped(character) {
                write!(f, "{}", character.escape_unicode())?;
            } else {
                write!(f, "{character}")?;
            }
        }
        Ok(())
    }
}

/// The same for a text, or a part of one, that may have lines and tabs. A carriage return is not shown before a line feed, which
/// may begin the next part.
pub(crate) struct PrintableLines<'a>(pub(crate) &'a str);

impl Display for PrintableLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(['\n', '\t']) {
            let (line, end) = part.split_at(part.trim_end_matches(['\n', '\t']).len());
            let without_return = line.strip_suffix('\r').filter(|_| end != "\t");
            write!(f, "{}{end}", Printable(without_return.unwrap_or(line)))?;
        }
        Ok(())
    }
}

/// A word of a POSIX shell.
pub(crate) fn shell_word(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.into(),
        false => in_quotes(text).into(),
    }
}

/// A text in quotes of a POSIX shell.
pub(crate) fn in_quotes(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Whether standard output is a terminal.
pub(crate) fn output_is_terminal() -> bool {
    io::IsTerminal::is_terminal(&io::stdout())
}

/// Whether standard error is a terminal.
pub(crate) fn messages_are_for_a_terminal() -> bool {
    io::IsTerminal::is_terminal(&io::stderr())
}

/// Whether standard input is a terminal.
pub(crate) fn input_is_terminal() -> bool {
    io::IsTerminal::is_terminal(&io::stdin())
}

/// Whether the user can answer a question.
pub(crate) fn can_ask() -> bool {
    input_is_terminal() && messages_are_for_a_terminal()
}

/// Whether colours that are written to standard error are shown.
pub(crate) fn messages_have_colours() -> bool {
    anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never
}

/// A line of standard input, read in a thread of its own: a read from a terminal can't be cancelled. `None` at the end of the input.
pub(crate) async fn line_of_input() -> Option<String> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = io::stdin().read_line(&mut line);
        let _ = sender.send(read.ok().filter(|length| *length > 0).map(|_| line));
    });
    receiver.await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_variable_that_is_set_decides_the_language() {
        let language = |set: &'static [(&str, &str)]| {
            is_chinese(|name| {
                let (_, value) = set.iter().find(|(each, _)| *each == name)?;
                Some((*value).to_owned())
            })
        };
        assert!(language(&[("LANG", "zh_CN.UTF-8")]));
        assert!(language(&[("LC_ALL", ""), ("LANG", "zh_TW")]));
        assert!(!language(&[("LC_ALL", "C"), ("LANG", "zh_CN.UTF-8")]));
        assert!(!language(&[("LANG", "en_US.UTF-8")]));
        assert!(!language(&[]));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let text = "a\u{1b}[31m\u{202e}b\n\tc\u{9b}\r\n\r\t";
        let on_one_line = r"a\u{1b}[31m\u{202e}b\u{a}\u{9}c\u{9b}\u{d}\u{a}\u{d}\u{9}";
        assert_eq!(Printable(text).to_string(), on_one_line);
        let in_lines = "a\\u{1b}[31m\\u{202e}b\n\tc\\u{9b}\n\\u{d}\t";
        assert_eq!(PrintableLines(text).to_string(), in_lines);
        for deceiving in
            "\0\u{7f}\u{85}\u{61c}\u{200b}\u{200e}\u{2028}\u{2029}\u{2066}\u{feff}\u{3164}\u{e0041}"
                .chars()
        {
            let shown = PrintableLines(&deceiving.to_string()).to_string();
            assert_eq!(shown, deceiving.escape_unicode().to_string());
        }
    }

    #[test]
    fn ordinary_text_is_unchanged() {
        let text =
            "☀\u{fe0f} ❤\u{fe0f} 👨\u{200d}👩\u{200d}👧 می\u{200c}خواهم Silben\u{ad}trennung 扣子";
        assert_eq!(Printable(text).to_string(), text);
        assert_eq!(PrintableLines(text).to_string(), text);
        // The parts of an answer may end anywhere.
        let parts = ["a\r", "\nb\r\n"].map(|part| PrintableLines(part).to_string());
        assert_eq!(parts.concat(), "a\nb\n");
    }

    #[test]
    fn words_of_a_shell_are_quoted_if_need_be() {
        assert_eq!(shell_word("/etc/my-app_1.json"), "/etc/my-app_1.json");
        assert_eq!(shell_word("/my files/a"), "'/my files/a'");
        assert_eq!(shell_word("it's;$x"), r"'it'\''s;$x'");
        assert_eq!(shell_word(""), "''");
    }
}
