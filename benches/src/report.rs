//! The rows of `results.json` and `RESULTS.md`.

use std::fmt;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::run::Run;

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub row: String,
    pub value: f64,
    pub unit: &'static str,
    /// `None` for a figure without a goal.
    pub goal: Option<String>,
    pub met: Option<bool>,
    /// Details; for a missed goal also by how much, and why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// The goal of a figure.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
    Exactly(f64),
}

impl Goal {
    fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
            Self::Exactly(wanted) => (value - wanted).abs() < f64::EPSILON,
        }
    }

    /// How far a figure misses it.
    fn gap(self, value: f64) -> String {
        let (Self::AtMost(wanted) | Self::AtLeast(wanted) | Self::Exactly(wanted)) = self;
        if wanted == 0.0 {
            return format!("missed by {}", shown(value));
        }
        format!("missed by {:.1} %", (value / wanted - 1.0).abs() * 100.0)
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "<= {most}"),
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::Exactly(wanted) => write!(f, "= {wanted}"),
        }
    }
}

/// The rows of one program.
#[derive(Debug, Default)]
pub struct Report(Vec<Row>);

impl Report {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a figure with a goal. `why` is the known reason if the goal is missed.
    pub fn goal(
        &mut self,
        row: impl Into<String>,
        value: f64,
        unit: &'static str,
        goal: Goal,
        note: impl Into<String>,
        why: &str,
    ) {
        let value = rounded(value);
        let met = goal.is_met_by(value);
        let mut note = note.into();
        if !met {
            for part in [goal.gap(value).as_str(), why] {
                if !note.is_empty() && !part.is_empty() {
                    note.push_str("; ");
                }
                note.push_str(part);
            }
        }
        self.push(Row {
            row: row.into(),
            value,
            unit,
            goal: Some(goal.to_string()),
            met: Some(met),
            note,
        });
    }

    /// Adds a figure without a goal.
    pub fn figure(
        &mut self,
        row: impl Into<String>,
        value: f64,
        unit: &'static str,
        note: impl Into<String>,
    ) {
        self.push(Row {
            row: row.into(),
            value: rounded(value),
            unit,
            goal: None,
            met: None,
            note: note.into(),
        });
    }

    /// Rows are printed immediately.
    fn push(&mut self, row: Row) {
        let verdict = match row.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        println!(
            "{:6} {:64} {:>10} {:8} {:9} {}",
            verdict,
            row.row,
            shown(row.value),
            row.unit,
            row.goal.as_deref().unwrap_or(""),
            row.note
        );
        self.0.push(row);
    }

    /// Writes the rows to the file of the command line.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn finish(self, run: &Run) -> Result<()> {
        let Some(path) = &run.json else {
            return Ok(());
        };
        let text = serde_json::to_string_pretty(&self.0)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Formats with three digits, or as a whole number.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let digits = (2 - value.abs().log10().floor() as i32).clamp(0, 6);
    let factor = 10_f64.powi(digits);
    (value * factor).round() / factor
}

fn shown(value: f64) -> String {
    format!("{value}")
}
