//! Who may read the files with secrets, and who may change the files that say where requests go.

use coze_auth::Flow;
use coze_credentials::Source;

use super::Report;

#[cfg(unix)]
pub(super) fn permissions(source: &Source, flow: Flow, report: &mut Report) {
    use std::os::unix::fs::MetadataExt as _;

    use super::{Advice, Check};

    let (path, has_secret) = match source {
        // That of a device or PKCE app has only its client id, which is public.
        Source::File(path) => (Some(path.clone()), matches!(flow, Flow::Jwt | Flow::Web)),
        Source::Environment if flow == Flow::Jwt => (key_file(), true),
        _ => (None, false),
    };
    let Some(path) = path else { return };
    report.add(match std::fs::metadata(&path) {
        Ok(file) => of_mode(file.mode(), &path.display().to_string(), has_secret),
        Err(error) => Check::unsure(
            "permissions",
            format!("{} can't be examined: {error}", path.display()),
            Advice::new("check the path and its folders", "请检查该路径及其所在目录"),
        ),
    });
}

/// The file with the private key that the environment names.
#[cfg(unix)]
fn key_file() -> Option<std::path::PathBuf> {
    let path = std::env::var("COZE_JWT_OAUTH_PRIVATE_KEY_FILE_PATH").ok()?;
    let path = path.trim().trim_matches(['"', '\'']);
    (!path.is_empty()).then(|| path.into())
}

#[cfg(unix)]
fn of_mode(mode: u32, path: &str, has_secret: bool) -> super::Check {
    use super::{Advice, Check};
    use crate::terminal::shell_word;

    let is_writable = mode & 0o022 != 0;
    let is_readable = mode & 0o044 != 0;
    let mode = mode & 0o777;
    let change = if has_secret { "600" } else { "go-w" };
    let command = format!("chmod {change} {}", shell_word(path));
    let advice = Advice::new(command.clone(), format!("请运行：{command}"));
    if is_writable {
        let found = format!(
            "{path} has mode {mode:o}: other users of this machine may change it, and so redirect requests"
        );
        return Check::bad("permissions", found, advice);
    }
    if !has_secret {
        let found = format!("only its owner may change {path}, which holds no secret");
        return Check::good("permissions", found);
    }
    if is_readable {
        let found =
            format!("{path} has mode {mode:o}: other users of this machine may read its secrets");
        return Check::unsure("permissions", found, advice);
    }
    Check::good("permissions", format!("only its owner may read {path}"))
}

#[cfg(not(unix))]
pub(super) fn permissions(_: &Source, _: Flow, _: &mut Report) {}
