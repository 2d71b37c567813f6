//! Where a person's sign-in is kept, so that it is not lost.
//!
//! Coze's refresh token works once: each refresh returns a new one and kills the one sent. Two processes that
//! refresh at the same moment, or one that dies at the wrong one, and the person has to sign in again. A
//! [`Store`] keeps the sign-in and lets one owner at a time refresh it, across threads, processes and machines:
//!
//! | store | for | its lease ends |
//! |---|---|---|
//! | [`MemoryStore`] | one process; everything ends with it | when released, or after its time |
//! | [`FileStore`] | programs of one person on one machine | with its owner's process |
//! | `KeyringStore` (feature `keyring`) | the same, in the system's secret service | with its owner's process |
//! | `RedisStore` (feature `redis`) | the replicas of a service | when released, or after its time |
//! | yours | implement [`Store`], and run the suite `coze_auth::testing::store` on it | |
//!
//! A [`SignIn`] is a store and the name of a profile in it. Put a fresh sign-in there, and let a
//! [`CachedProvider`](crate::CachedProvider) keep it:
//!
//! ```no_run
//! # async fn example(device: coze_auth::DeviceFlow) -> coze_auth::Result<()> {
//! use coze_auth::{CachedProvider, RefreshMode, store::{FileStore, SignIn}};
//!
//! let sign_in = SignIn::new(FileStore::in_default_folder("my-program")?, "default")?;
//! if sign_in.is_needed().await? {
//!     let authorization = device.start().await?;
//!     println!("open {}", authorization.verification_uri());
//!     sign_in.put(&device.poll(&authorization).await?).await?;
//! }
//! // In line: a program that ends would take a refresh in the background with it.
//! let provider = CachedProvider::device(device, sign_in).refresh(RefreshMode::InLine).build();
//! let token = provider.token().await?;
//! // Before the program ends: it saves what could not be saved yet.
//! provider.shutdown().await?;
//! # Ok(()) }
//! ```
//!
//! When what is stored can't be understood, `?` ends this with an error that says so. [`SignIn::is_needed`] shows how to
//! offer a fresh sign-in then.
//!
//! # How a sign-in is refreshed
//!
//! 1. Take the store's [lease](Store::lease), and [load](Store::load) again. What another owner has refreshed
//!    meanwhile is used.
//! 2. Let the store [prove](Lease::prove_save) that it can save, and still holds what is about to be redeemed. If
//!    not, no refresh is sent.
//! 3. Refresh, and [save](Store::save): a compare-and-set on the refresh token that was redeemed. It succeeds
//!    whether or not the lease is still held, because no lease reaches Coze: once a refresh token has been
//!    redeemed, its answer is the only live one.
//! 4. Release the lease.
//!
//! `invalid_grant` is not believed before the store was loaded again, because another process may have won; and where the
//! lease was [taken over](Lease::was_taken_over) from an owner who has not released it, not before that owner has had
//! more time to save. A sign-in that is really over stays in the store, [marked](Record::dead), until a fresh one
//! replaces it.

pub mod contract;
mod memory;
mod record;
mod sign_in;

use std::{fmt, future::Future, pin::Pin, time::Duration};

pub use contract::Profile;
pub use memory::MemoryStore;
pub use record::{Dead, Record};
pub use sign_in::SignIn;

use crate::{Error, RefreshToken, Result};

/// What the methods of a [`Store`] return.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Keeps sign-ins, each under the name of a profile.
///
/// Errors are made with [`Error::of_store`]. No secret may be in them, nor in a log.
///
/// A store that others write to as well (a database, a vault) needs four things: an atomic compare-and-set,
/// a lock that ends, a clock, and durability: what [`save`](Self::save) has said to be saved must survive. The
/// suite `coze_auth::testing::store` checks what can be checked.
///
/// ```
/// use std::time::Duration;
/// use coze_auth::{RefreshToken, store::{
///     LeaseKind, Leasing, MemoryStore, Profile, Record, Removed, Saved, Store, StoreFuture, Stored,
/// }};
///
/// /// Tells how often the store is read.
/// struct Counted(MemoryStore, std::sync::atomic::AtomicU64);
///
/// impl Store for Counted {
///     fn load<'a>(&'a self, profile: &'a Profile) -> StoreFuture<'a, Option<Stored>> {
///         self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
///         self.0.load(profile)
///     }
/// #   fn save<'a>(&'a self, p: &'a Profile, redeemed: &'a RefreshToken, record: &'a Record) -> StoreFuture<'a, Saved> {
/// #       self.0.save(p, redeemed, record)
/// #   }
/// #   fn put<'a>(&'a self, p: &'a Profile, record: &'a Record) -> StoreFuture<'a, ()> { self.0.put(p, record) }
/// #   fn remove<'a>(&'a self, p: &'a Profile, read: &'a Record) -> StoreFuture<'a, Removed> { self.0.remove(p, read) }
/// #   fn lease<'a>(&'a self, p: &'a Profile, hold: Duration) -> StoreFuture<'a, Leasing> { self.0.lease(p, hold) }
/// #   fn lease_kind(&self) -> LeaseKind { self.0.lease_kind() }
///     // … and so on
/// }
/// ```
pub trait Store: Send + Sync + 'static {
    /// Reads what is stored, and how long ago it was stored **by the store's own clock** (that of the
    /// database, the file system): clocks of machines differ.
    ///
    /// # Errors
    ///
    /// [`StoreDamaged`](crate::ErrorKind::StoreDamaged) when it can't be understood; then it stays as it is.
    fn load<'a>(&'a self, profile: &'a Profile) -> StoreFuture<'a, Option<Stored>>;

    /// Replaces what is stored by its successor, in one step, **if** it still holds the refresh token that was
    /// redeemed; whether or not the caller still holds the lease. It returns when the successor is durable.
    ///
    /// If the record has moved on, the successor is set aside beside it, for diagnosis, and the stored record is
    /// returned. Saving a record that is stored already succeeds.
    ///
    /// # Errors
    ///
    /// [`StoreDamaged`](crate::ErrorKind::StoreDamaged) when what is stored can't be understood. It stays as it is,
    /// and the successor, which may hold the only live refresh token, is set aside too.
    fn save<'a>(
        &'a self,
        profile: &'a Profile,
        redeemed: &'a RefreshToken,
        successor: &'a Record,
    ) -> StoreFuture<'a, Saved>;

    /// Stores a fresh sign-in, whatever is there, unless that [descends from](Record::descends_from) it: then it has
    /// been stored before, by a try whose answer was lost, and refreshed since. What can't be understood, or was
    /// [dead](Record::dead), is set aside, never silently deleted.
    fn put<'a>(&'a self, profile: &'a Profile, record: &'a Record) -> StoreFuture<'a, ()>;

    /// Forgets a sign-in, **if** its refresh token is still that of the record that was read.
    fn remove<'a>(&'a self, profile: &'a Profile, read: &'a Record) -> StoreFuture<'a, Removed>;

    /// Tries once to get the exclusive right to refresh, for `hold` at least. A held lease is never stolen.
    fn lease<'a>(&'a self, profile: &'a Profile, hold: Duration) -> StoreFuture<'a, Leasing>;

    /// When its leases end by themselves.
    fn lease_kind(&self) -> LeaseKind;
}

/// The exclusive right to refresh a sign-in. It prevents duplicate refreshes; a save does not depend on it.
///
/// When it is dropped unreleased, it ends as its [kind](LeaseKind) says, or sooner.
pub trait Lease: Send + Sync {
    /// Shows, before the refresh token of this record is sent, that its successor could be saved now: by writing as
    /// much to where the save will be, and checking that the lease is still held, and that what is stored is still
    /// this record (holds its refresh token). A save needs no lease, so one may have come in between, and a refresh
    /// token that is spent must not be sent again.
    ///
    /// # Errors
    ///
    /// - [`StoreBusy`](crate::ErrorKind::StoreBusy) when the lease is lost ([`Error::lease_lost`]), or another record
    ///   or none is stored ([`Error::moved_on`]).
    /// - [`StoreDamaged`](crate::ErrorKind::StoreDamaged) when what is stored can't be understood.
    /// - Others when nothing could be saved.
    fn prove_save<'a>(&'a self, record: &'a Record) -> StoreFuture<'a, ()>;

    /// Whether a former owner has not released it, so that what that owner has redeemed may yet be saved: then
    /// `invalid_grant` is not believed at once. Asked only where a lease ends [with its hold](LeaseKind::ForItsHold).
    ///
    /// It must be said as long as a former owner may still save: from the end of its hold for as long again at the
    /// least, since a hold covers a whole refresh. The stores of this crate say it for an hour, because an owner whose
    /// saves fail goes on trying. The release of the next owner does not end that. Whoever asks again because the answer
    /// was lost is no former owner.
    ///
    /// A store that can't tell says yes, as this does: then a sign-in that is really over is reported late.
    fn was_taken_over(&self) -> bool {
        true
    }

    /// Ends it. A lease that has been lost is let be.
    fn release(self: Box<Self>) -> StoreFuture<'static, ()>;
}

/// When a lease ends that its owner does not release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseKind {
    /// When its owner dies, and not before: nobody else has it while the owner lives.
    UntilOwnerDies,
    /// When its time is over, though its owner may live on, and save later.
    ForItsHold,
}

/// What comes of asking for a lease.
#[non_exhaustive]
pub enum Leasing {
    /// The caller has it.
    Got(Box<dyn Lease>),
    /// Somebody else has it.
    Held {
        /// Who, as far as the store can tell: "process 4711". On Windows, the stores whose lease is a lock on a file
        /// can't: its holder's name stands in that file, and nobody else can read a locked one there.
        by: Option<String>,
    },
}

impl fmt::Debug for Leasing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Got(_) => f.write_str("Got(..)"),
            Self::Held { by } => f.debug_struct("Held").field("by", by).finish(),
        }
    }
}

/// A record as it was loaded.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Stored {
    /// What is stored.
    pub record: Record,
    /// How long ago it was stored, by the store's own clock; counted from when the store was asked to, where it can
    /// tell, because the [life](Record::life_when_stored) of the token is. [`Duration::MAX`] when the store can't
    /// know, as its clock was set back: then the token counts as expired, and the save that follows its refresh tells
    /// the time anew.
    pub age: Duration,
}

impl Stored {
    /// A record that was stored this long ago.
    #[must_use]
    pub fn new(record: Record, age: Duration) -> Self {
        Self { record, age }
    }
}

/// What came of a [`save`](Store::save).
#[derive(Debug)]
#[must_use]
pub enum Saved {
    /// It is stored, durably.
    Saved,
    /// What is stored has moved on, to this or to nothing, and stays; the successor was set aside.
    MovedOn(Option<Box<Stored>>),
}

/// What came of a [`remove`](Store::remove).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Removed {
    /// It is gone, or there was none.
    Removed,
    /// What is stored is not what was read; it stays.
    MovedOn,
}

/// What a save says that has found damage, and has kept its record elsewhere.
fn damaged_but_kept(error: &Error, place: impl fmt::Display) -> Error {
    let what = error.what();
    Error::new(
        crate::ErrorKind::StoreDamaged,
        format!("{what}; what was to replace it is set aside in {place}"),
    )
}

/// A store that is shared is one.
impl<S: Store + ?Sized> Store for std::sync::Arc<S> {
    fn load<'a>(&'a self, profile: &'a Profile) -> StoreFuture<'a, Option<Stored>> {
        S::load(self, profile)
    }

    fn save<'a>(
        &'a self,
        profile: &'a Profile,
        redeemed: &'a RefreshToken,
        successor: &'a Record,
    ) -> StoreFuture<'a, Saved> {
        S::save(self, profile, redeemed, successor)
    }

    fn put<'a>(&'a self, profile: &'a Profile, record: &'a Record) -> StoreFuture<'a, ()> {
        S::put(self, profile, record)
    }

    fn remove<'a>(&'a self, profile: &'a Profile, read: &'a Record) -> StoreFuture<'a, Removed> {
        S::remove(self, profile, read)
    }

    fn lease<'a>(&'a self, profile: &'a Profile, hold: Duration) -> StoreFuture<'a, Leasing> {
        S::lease(self, profile, hold)
    }

    fn lease_kind(&self) -> LeaseKind {
        S::lease_kind(self)
    }
}
