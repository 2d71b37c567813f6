//! `coze completions`: a script for a shell, for static completion.

use std::io::Write as _;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{args::Arguments, failure::Result};

pub(crate) fn run(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "coze", &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}
