//! The lines of the report.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::{
    failure::{Exit, Failure, Result},
    terminal::{BAD, GOOD, Printable, Terminal, UNSURE},
};

/// A probe that was made, and what was found.
pub(super) struct Check {
    name: String,
    state: State,
    found: String,
    advice: Option<Advice>,
}

/// What to do about it, in both languages of the program.
pub(super) struct Advice {
    english: Cow<'static, str>,
    chinese: Cow<'static, str>,
}

impl Advice {
    pub(super) fn new(
        english: impl Into<Cow<'static, str>>,
        chinese: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            english: english.into(),
            chinese: chinese.into(),
        }
    }

    /// The hint of a failure.
    fn of(failure: &Failure) -> Option<Self> {
        let english = failure.hint(false)?.to_owned();
        let chinese = failure.hint(true).unwrap_or(&english).to_owned();
        Some(Self::new(english, chinese))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Good,
    /// It works, or may not matter here.
    Unsure,
    Bad(Exit),
}

impl Check {
    pub(super) fn good(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            state: State::Good,
            found: found.into(),
            advice: None,
        }
    }

    pub(super) fn unsure(
        name: impl Into<String>,
        found: impl Into<String>,
        advice: Advice,
    ) -> Self {
        Self {
            state: State::Unsure,
            advice: Some(advice),
            ..Self::good(name, found)
        }
    }

    pub(super) fn bad(name: impl Into<String>, found: impl Into<String>, advice: Advice) -> Self {
        Self {
            state: State::Bad(Exit::Usage),
            ..Self::unsure(name, found, advice)
        }
    }

    /// The user has to sign in.
    pub(super) fn signed_out(
        name: impl Into<String>,
        found: impl Into<String>,
        login: Advice,
    ) -> Self {
        Self {
            state: State::Bad(Exit::SignInNeeded),
            ..Self::unsure(name, found, login)
        }
    }

    pub(super) fn failed(name: impl Into<String>, failure: &Failure) -> Self {
        Self {
            state: State::Bad(failure.exit()),
            found: failure.message().to_owned(),
            advice: Advice::of(failure),
            ..Self::good(name, "")
        }
    }

    pub(super) fn unreachable(
        name: impl Into<String>,
        found: impl Into<String>,
        advice: Advice,
    ) -> Self {
        Self {
            state: State::Bad(Exit::Network),
            ..Self::unsure(name, found, advice)
        }
    }
}

#[derive(Default)]
pub(super) struct Report(Vec<Check>);

impl Report {
    pub(super) fn add(&mut self, check: Check) {
        self.0.push(check);
    }

    /// Whether no probe of the network failed.
    pub(super) fn is_network_fine(&self) -> bool {
        let is_network = |check: &Check| check.state == State::Bad(Exit::Network);
        !self.0.iter().any(is_network)
    }

    /// Whether this check was made, and found a problem.
    pub(super) fn has_problem(&self, name: &str) -> bool {
        let is_problem = |check: &Check| matches!(check.state, State::Bad(_));
        { self.0.iter() }.any(|check| check.name == name && is_problem(check))
    }

    /// Prints all. The exit code is that of the first problem.
    pub(super) async fn print(&self, as_json: bool, terminal: &Terminal) -> Result<()> {
        if as_json {
            terminal
                .print_json(format_args!("{:#}", self.json()))
                .await?;
        } else {
            for check in &self.0 {
                self.print_line(check, terminal).await?;
            }
        }
        let mut states = self.0.iter().map(|check| check.state);
        let problem = states.find_map(|state| match state {
            State::Bad(exit) => Some(exit),
            State::Good | State::Unsure => None,
        });
        problem.map_or(Ok(()), |exit| Err(Failure::silent(exit)))
    }

    async fn print_line(&self, check: &Check, terminal: &Terminal) -> Result<()> {
        let (style, mark) = match check.state {
            State::Good => (GOOD, "ok"),
            State::Unsure => (UNSURE, "??"),
            State::Bad(_) => (BAD, "NO"),
        };
        let (name, found) = (&check.name, Printable(&check.found));
        terminal
            .print(format_args!("{style}{mark}{style:#}  {name:<14} {found}"))
            .await?;
        let Some(advice) = &check.advice else {
            return Ok(());
        };
        let advice = if terminal.is_chinese() {
            &advice.chinese
        } else {
            &advice.english
        };
        terminal
            .print(format_args!("{:19}-> {}", "", Printable(advice)))
            .await
    }

    /// For programs: in English in every locale.
    fn json(&self) -> Value {
        let checks = self.0.iter().map(|check| {
            let state = match check.state {
                State::Good => "ok",
                State::Unsure => "unsure",
                State::Bad(_) => "problem",
            };
            let advice = check.advice.as_ref().map(|advice| &advice.english);
            json!({"check": check.name, "state": state, "found": check.found, "advice": advice})
        });
        checks.collect()
    }
}
