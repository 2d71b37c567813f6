//! Who may read the files with secrets.

use coze_credentials::Source;

use super::Report;

#[cfg(unix)]
pub(super) fn permissions(source: &Source, report: &mut Report) {
    use std::{env, os::unix::fs::MetadataExt as _, path::PathBuf};

    use super::Check;

    let key_file = || env::var_os("COZE_JWT_OAUTH_PRIVATE_KEY_FILE_PATH").map(PathBuf::from);
    let path = match source {
        Source::File(path) => Some(path.clone()),
        Source::Environment => key_file(),
        _ => None,
    };
    let Some(path) = path else { return };
    let shown = path.display();
    report.add(match std::fs::metadata(&path) {
        Ok(file) if file.mode() & 0o077 == 0 => {
            Check::good("permissions", format!("only its owner may read {shown}"))
        }
        Ok(file) => Check::unsure(
            "permissions",
            format!(
                "{shown} has mode {:o}: other users of this machine may read its secrets",
                file.mode() & 0o777
            ),
            format!("chmod 600 {shown}"),
        ),
        Err(error) => Check::unsure(
            "permissions",
            format!("{shown} can't be examined: {error}"),
            "check the path and its folders",
        ),
    });
}

#[cfg(not(unix))]
pub(super) fn permissions(_: &Source, _: &mut Report) {}
