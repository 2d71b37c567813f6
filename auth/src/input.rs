//! Values that callers give, checked before anything is sent.

use std::path::Path;

use coze_wire::{Secret, is_invisible};

use crate::{Error, Result};

/// An id that becomes a segment of a path: a workspace, an account, an enterprise. Opaque to us, and
/// percent-encoded by the generated client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PathId(String);

impl PathId {
    /// Takes an id, trimmed.
    ///
    /// `.` and `..` are refused because URL parsers fold them, and a backslash
    /// because they read it as a slash. Control characters are refused because URL parsers drop some.
    pub(crate) fn new(name: &str, id: &str) -> Result<Self> {
        let id = id.trim();
        let refused = |why: &str| Err(Error::invalid_input(format!("the {name} id {why}")));
        match id {
            "" => refused("is empty"),
            "." | ".." => refused("is a dot segment, which URLs fold away"),
            _ if id.contains(is_invisible) => {
                refused("holds a line break, or another character that is not seen")
            }
            _ if id.contains('\\') => refused("holds a backslash, which URLs read as a slash"),
            _ => Ok(Self(id.to_owned())),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A name that must be there and fit on one line, such as a client id; trimmed.
pub(crate) fn required(name: &str, value: &str) -> Result<String> {
    let value = value.trim();
    if value.is_empty() {
        return Err(Error::invalid_input(format!("the {name} is empty")));
    }
    if value.contains(is_invisible) {
        return Err(Error::invalid_input(format!(
            "the {name} holds a line break, or another character that is not seen"
        )));
    }
    Ok(value.to_owned())
}

/// A path as it may be shown; `None` when it is not a path at all but, by mistake, the contents of the
/// file: a key or a configuration, which nobody may see.
pub(crate) fn shown_path(path: &Path) -> Option<String> {
    let shown = path.display().to_string();
    let is_contents = shown.len() > 1024
        || shown.contains("-----BEGIN")
        || shown.contains(is_invisible)
        || shown.trim_start().starts_with('{');
    (!is_contents).then_some(shown)
}

/// A credential that will be sent as a bearer; trimmed, and never printed.
pub(crate) fn credential(name: &str, value: &str) -> Result<Secret> {
    let credential = Secret::from(value.trim());
    match coze_wire::Bearer::new(&credential) {
        Ok(_) => Ok(credential),
        Err(why) => Err(Error::invalid_input(format!("the {name} {why}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_no_escaping_could_keep_in_its_segment_is_refused() {
        for bad in ["", " ", ".", "..", "a\\b", "a\tb", "a\nb"] {
            assert!(PathId::new("account", bad).is_err(), "{bad:?}");
        }
        for good in ["7001", "volcano_210195", "a/../b?c#d", "%2e%2e"] {
            assert_eq!(PathId::new("account", good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn contents_passed_for_a_path_are_not_shown() {
        assert!(shown_path(Path::new("/etc/coze/private_key.pem")).is_some());
        for contents in [
            "-----BEGIN PRIVATE KEY-----",
            "a\nb",
            " {\"client_secret\"",
            &"x".repeat(2000),
        ] {
            assert_eq!(shown_path(Path::new(contents)), None, "{contents}");
        }
    }

    #[test]
    fn a_credential_is_trimmed_and_a_bad_one_is_not_printed() {
        assert_eq!(credential("client secret", " s\r\n").unwrap().expose(), "s");
        for bad in ["", "\n", "hush\nhush"] {
            let error = credential("client secret", bad).unwrap_err().to_string();
            assert!(error.contains("the client secret"), "{error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }
}
