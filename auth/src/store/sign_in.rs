//! One person's sign-in: a store, and the name of the profile in it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{MemoryStore, Profile, Record, Removed, Store, Stored};
use crate::{Error, Result, Token};

/// A person's sign-in, kept in a [`Store`] under the name of a profile. Clones are the same sign-in.
///
/// It belongs to the app that it was granted to: a provider of another app neither uses nor spends it, and says so. Give
/// each app, and so each of coze.com and coze.cn, profiles of its own; [`Record::client_id`] tells whose it is.
///
/// ```
/// use coze_auth::store::{MemoryStore, SignIn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coze_auth::Result<()> {
/// let sign_in = SignIn::new(MemoryStore::new(), "default")?;
/// assert!(sign_in.is_needed().await?);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SignIn {
    store: Arc<dyn Store>,
    profile: Profile,
    /// How often a fresh one was put.
    puts: Arc<AtomicU64>,
}

impl SignIn {
    /// The sign-in of this profile.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the name of the profile can't be one.
    pub fn new(store: impl Store, profile: impl Into<String>) -> Result<Self> {
        Ok(Self {
            store: Arc::new(store),
            profile: Profile::new(profile)?,
            puts: Arc::default(),
        })
    }

    /// A sign-in that nobody else can reach.
    pub(crate) fn in_memory(record: Option<Record>) -> Self {
        let store = MemoryStore::new();
        let profile = Profile::in_memory();
        if let Some(record) = record {
            store.put_now(&profile, record);
        }
        Self {
            store: Arc::new(store),
            profile,
            puts: Arc::default(),
        }
    }

    /// The name of the profile.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Where it is kept.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Keeps the token of a fresh sign-in, in place of whatever is there.
    ///
    /// # Errors
    ///
    /// - [`InvalidAnswer`](crate::ErrorKind::InvalidAnswer) when the token came without a refresh token.
    /// - Those of the store: the token may be stored or not, as an answer can be lost after the change. It is still in the
    ///   caller's hands: put it again.
    pub async fn put(&self, token: &Token) -> Result<()> {
        let record = Record::of(token)?;
        let put = self.store.put(&self.profile, &record).await;
        // Though its answer may have been lost.
        self.puts.fetch_add(1, Ordering::SeqCst);
        put
    }

    /// How often a fresh one was put by this process.
    pub(crate) fn puts(&self) -> u64 {
        self.puts.load(Ordering::SeqCst)
    }

    /// What is stored, if anything.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn load(&self) -> Result<Option<Stored>> {
        self.store.load(&self.profile).await
    }

    /// Whether a person has to sign in: nobody has, or the sign-in [is over](Record::dead). It is not always known
    /// beforehand: also sign in when a call ends with an error that says [so](Error::needs_sign_in).
    ///
    /// What can't be understood is an error, because it may yet be restored, or be a newer program's. To whoever would
    /// rather sign in again, offer that: [`put`](Self::put) sets aside what is there.
    ///
    /// ```
    /// use coze_auth::{ErrorKind, store::{MemoryStore, SignIn}};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> coze_auth::Result<()> {
    /// # let sign_in = SignIn::new(MemoryStore::new(), "default")?;
    /// let is_needed = match sign_in.is_needed().await {
    ///     Err(error) if error.kind() == ErrorKind::StoreDamaged => {
    ///         eprintln!("{error}");
    ///         true
    ///     }
    ///     known => known?,
    /// };
    /// # assert!(is_needed);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of the store; [`StoreDamaged`](crate::ErrorKind::StoreDamaged) when what is stored can't be understood.
    pub async fn is_needed(&self) -> Result<bool> {
        let stored = self.load().await?;
        Ok(stored.is_none_or(|stored| stored.record.dead().is_some()))
    }

    /// Forgets the sign-in: Coze has no way to end one, so the tokens stay valid until they expire.
    ///
    /// # Errors
    ///
    /// Those of the store; [`StoreBusy`](crate::ErrorKind::StoreBusy) when it changed each time it was
    /// about to be removed.
    pub async fn remove(&self) -> Result<()> {
        for _ in 0..REMOVALS {
            let Some(stored) = self.load().await? else {
                return Ok(());
            };
            if self.store.remove(&self.profile, &stored.record).await? == Removed::Removed {
                return Ok(());
            }
        }
        Err(Error::new(
            crate::ErrorKind::StoreBusy,
            format!(
                "the sign-in of profile {} changes faster than it can be removed",
                self.profile
            ),
        ))
    }
}

/// How often a removal is tried when a refresh comes between.
const REMOVALS: usize = 5;

impl fmt::Debug for SignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignIn")
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}
