//! The platform's keyring: the credentials of one program, each with a user name. Blocking.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex},
};

use coze_auth::store::{StoreError, StoreErrorKind};
use keyring_core::{CredentialStore, Entry, Error as Failure};
use zeroize::Zeroizing;

use crate::{folder::Result, lock::locked};

/// The connection to the keyring. It is created when it is first needed, and again after the service has restarted. All stores of a
/// process share it, because GNOME Keyring may crash when a client connects or disconnects while others wait for a response (its
/// issue 196; also observed with 42.1). It does not replace the process-wide default of `keyring_core`, which belongs to the program.
///
/// The mutex is locked while the connection is being created.
#[derive(Default)]
pub(super) struct Link(Mutex<Option<Arc<CredentialStore>>>);

static SHARED: LazyLock<Mutex<Arc<Link>>> = LazyLock::new(Mutex::default);

/// A restarted service does not know our session, and may be shutting down when we connect.
const TRIES: usize = 3;

pub(super) struct Service {
    program: String,
}

impl Service {
    pub(super) fn of(program: String) -> Self {
        Self { program }
    }

    pub(super) fn program(&self) -> &str {
        &self.program
    }

    /// The content of the credential, if it exists.
    pub(super) fn read(&self, user: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
        self.with_entry("read", user, |entry| {
            Ok(Zeroizing::new(entry.get_secret()?))
        })
    }

    /// Creates or replaces the credential by one call.
    pub(super) fn write(&self, user: &str, content: &[u8]) -> Result<()> {
        self.with_entry("written", user, |entry| entry.set_secret(content))
            .map(drop)
    }

    /// Deletes the credential, if it exists.
    pub(super) fn delete(&self, user: &str) -> Result<()> {
        self.with_entry("deleted", user, Entry::delete_credential)
            .map(drop)
    }

    /// `None` if the credential does not exist. `act` may run more than once.
    fn with_entry<T>(
        &self,
        done: &str,
        user: &str,
        act: impl Fn(&Entry) -> Result<T, Failure>,
    ) -> Result<Option<T>> {
        let link = Link::shared();
        let mut tries = 0;
        loop {
            tries += 1;
            let connection = match link.connection() {
                Ok(connection) => connection,
                Err(failure) if tries < TRIES && is_cut_off(&failure) => continue,
                Err(failure) => return Err(unreachable(failure)),
            };
            let acted = self.entry(&*connection, user).and_then(|entry| act(&entry));
            match acted {
                Ok(value) => return Ok(Some(value)),
                Err(Failure::NoEntry) => return Ok(None),
                Err(failure) if tries < TRIES && is_cut_off(&failure) => link.forget(&connection),
                Err(failure) => return Err(failed(done, user, failure)),
            }
        }
    }

    fn entry(&self, connection: &CredentialStore, user: &str) -> Result<Entry, Failure> {
        let label = format!("Coze sign-in of {}: {}", self.program, user);
        connection.build(&self.program, user, Some(&modifiers(&label)))
    }
}

impl Link {
    pub(super) fn shared() -> Arc<Self> {
        Arc::clone(&locked(&SHARED))
    }

    /// Later calls use a new connection.
    pub(super) fn give_up(self: &Arc<Self>) {
        let mut shared = locked(&SHARED);
        if Arc::ptr_eq(&shared, self) {
            *shared = Arc::default();
        }
    }

    fn connection(&self) -> Result<Arc<CredentialStore>, Failure> {
        let mut connection = locked(&self.0);
        if let Some(connection) = &*connection {
            return Ok(Arc::clone(connection));
        }
        let made = connect()?;
        *connection = Some(Arc::clone(&made));
        Ok(made)
    }

    fn forget(&self, lost: &Arc<CredentialStore>) {
        let mut connection = locked(&self.0);
        if connection
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(now, lost))
        {
            *connection = None;
        }
    }
}

/// Whether the connection to the secret service failed, so that a new one may help. Only such a failure has a source, the error of
/// D-Bus. If the user has refused to unlock the keyring, the call must not be retried.
fn is_cut_off(failure: &Failure) -> bool {
    match failure {
        Failure::PlatformFailure(error) => {
            !cfg!(any(windows, target_os = "macos")) && error.source().is_some()
        }
        _ => false,
    }
}

#[cfg(any(target_os = "linux", target_os = "freebsd", target_os = "openbsd"))]
fn connect() -> Result<Arc<CredentialStore>, Failure> {
    Ok(zbus_secret_service_keyring_store::Store::new()?)
}

#[cfg(target_os = "macos")]
fn connect() -> Result<Arc<CredentialStore>, Failure> {
    Ok(apple_native_keyring_store::keychain::Store::new()?)
}

#[cfg(windows)]
fn connect() -> Result<Arc<CredentialStore>, Failure> {
    // A program's name contains no slash, so the last slash separates user and program.
    let divider = HashMap::from([("prefix", ""), ("divider", "/"), ("suffix", "")]);
    Ok(windows_native_keyring_store::Store::new_with_configuration(
        &divider,
    )?)
}

#[cfg(not(any(
    target_os = "linux",
    target_os = "freebsd",
    target_os = "openbsd",
    target_os = "macos",
    windows
)))]
fn connect() -> Result<Arc<CredentialStore>, Failure> {
    Err(Failure::NotSupportedByStore(
        "no keyring is supported on this platform".to_owned(),
    ))
}

/// The platform's options for a new credential.
fn modifiers(label: &str) -> HashMap<&str, &str> {
    if cfg!(windows) {
        // By default a credential roams to the user's other machines, where it would end with the next refresh here.
        HashMap::from([("persistence", "Local")])
    } else if cfg!(target_os = "macos") {
        HashMap::new()
    } else {
        HashMap::from([("label", label)])
    }
}

fn unreachable(failure: Failure) -> StoreError {
    let advice = if cfg!(any(windows, target_os = "macos")) {
        "run the program in the session of a signed-in user"
    } else {
        "start a secret service (GNOME Keyring, KWallet, KeePassXC) in this user's D-Bus session, or choose another store"
    };
    let cause = cause(&failure);
    let what = format!("the system's keyring can't be reached ({cause}): {advice}");
    of_store(StoreErrorKind::Transient, &what, failure)
}

fn failed(done: &str, user: &str, failure: Failure) -> StoreError {
    use StoreErrorKind as Kind;
    let cause = cause(&failure);
    let (kind, what) = match &failure {
        Failure::NoStorageAccess(_) => (
            Kind::NotPermitted,
            format!(
                "the credential can't be {done} ({cause}): unlock the keyring, or create a default one, and allow access"
            ),
        ),
        Failure::TooLong(_, most) => (
            Kind::Full,
            format!(
                "the credential can't be {done}: this platform's keyring accepts at most {most} bytes; choose another store"
            ),
        ),
        Failure::Ambiguous(found) => {
            let found = found.len();
            (
                Kind::Other,
                format!("{found} credentials match: remove all but one of them"),
            )
        }
        cut_off if is_cut_off(cut_off) => (
            Kind::Transient,
            format!("the credential can't be {done} ({cause})"),
        ),
        _ => (
            Kind::Other,
            format!("the credential can't be {done} ({cause})"),
        ),
    };
    of_store(
        kind,
        &format!("keyring, {}: {what}", user.escape_debug()),
        failure,
    )
}

/// Does not print failures that contain the credential's content.
fn cause(failure: &Failure) -> String {
    match failure {
        Failure::PlatformFailure(error) | Failure::NoStorageAccess(error) => error.to_string(),
        Failure::BadEncoding(_) | Failure::BadDataFormat(..) | Failure::Ambiguous(_) => {
            "invalid data".to_owned()
        }
        other => other.to_string(),
    }
}

fn of_store(kind: StoreErrorKind, what: &str, failure: Failure) -> StoreError {
    let error = StoreError::new(kind, what);
    match failure {
        Failure::PlatformFailure(cause) | Failure::NoStorageAccess(cause) => {
            error.with_source(cause)
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_that_is_too_long_is_full() {
        let error = failed(
            "written",
            "default",
            Failure::TooLong("secret".to_owned(), 2560),
        );
        assert_eq!(error.kind(), StoreErrorKind::Full);
        assert!(error.to_string().contains("2560 bytes"), "{error}");
    }

    #[test]
    fn errors_do_not_contain_what_was_read() {
        for failure in [
            Failure::BadEncoding(b"hush".to_vec()),
            Failure::BadDataFormat(b"hush".to_vec(), "no format".into()),
        ] {
            let error = failed("read", "default", failure);
            let told = format!("{error} {error:?}");
            assert!(
                !told.contains("hush") && !told.contains("104, 117"),
                "{told}"
            );
        }
    }
}
