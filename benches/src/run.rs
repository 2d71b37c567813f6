//! The command line of the programs.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// `--quick` and `--json FILE`.
#[derive(Debug, Default)]
pub struct Run {
    /// Seconds instead of minutes: only to check that it works.
    pub quick: bool,
    /// The output file of the rows, in addition to standard output.
    pub json: Option<PathBuf>,
}

impl Run {
    /// Reads the command line.
    ///
    /// # Errors
    ///
    /// If there are other arguments.
    pub fn from_args() -> Result<Self> {
        let mut run = Self::default();
        let mut args = std::env::args_os().skip(1);
        while let Some(arg) = args.next() {
            match (arg.to_str(), &mut args) {
                (Some("--quick"), _) => run.quick = true,
                (Some("--json"), args) => match args.next() {
                    Some(path) => run.json = Some(path.into()),
                    None => bail!("--json requires a file"),
                },
                _ => bail!("usage: [--quick] [--json FILE]; not {}", arg.display()),
            }
        }
        Ok(run)
    }

    /// The normal or the quick amount.
    pub fn choose<T>(&self, thorough: T, quick: T) -> T {
        if self.quick { quick } else { thorough }
    }
}
