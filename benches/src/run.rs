//! What the programs are told on their command line.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// `--quick` and `--json FILE`.
#[derive(Debug, Default)]
pub struct Run {
    /// Seconds instead of minutes: to see that it works, not what it costs.
    pub quick: bool,
    /// Where the rows go, besides standard output.
    pub json: Option<PathBuf>,
}

impl Run {
    /// Reads the command line.
    ///
    /// # Errors
    ///
    /// When there is anything else on it.
    pub fn from_args() -> Result<Self> {
        let mut run = Self::default();
        let mut args = std::env::args_os().skip(1);
        while let Some(arg) = args.next() {
            match (arg.to_str(), &mut args) {
                (Some("--quick"), _) => run.quick = true,
                (Some("--json"), args) => match args.next() {
                    Some(path) => run.json = Some(path.into()),
                    None => bail!("--json wants a file"),
                },
                _ => bail!("usage: [--quick] [--json FILE]; not {}", arg.display()),
            }
        }
        Ok(run)
    }

    /// One of two amounts: the thorough one, or the quick one.
    pub fn choose<T>(&self, thorough: T, quick: T) -> T {
        if self.quick { quick } else { thorough }
    }
}
