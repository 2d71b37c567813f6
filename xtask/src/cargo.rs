//! Cargo, started anew for other packages' programs.

use std::process::Command;

/// The cargo that started this program. What it says of this package is not for the next one: build scripts that look
/// at it would run anew.
pub(crate) fn command() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let of_this_package = ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix));
        if of_this_package {
            command.env_remove(name);
        }
    }
    command
}
