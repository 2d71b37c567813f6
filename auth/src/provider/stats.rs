//! What providers and pools count.

use std::time::Duration;

use crate::Error;

/// How a [provider](crate::CachedProvider::stats) or a [pool](crate::UserPool::stats) has done so far, for your own metrics. A
/// pool's figures are those of all its keys together.
///
/// A token that is wanted ([`refreshes`](Self::refreshes)) comes from the token endpoint ([`requests`](Self::requests)), or
/// from the store, where another owner has saved it ([`loaded_from_store`](Self::loaded_from_store)), or not at all
/// ([`failures`](Self::failures)).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Tokens that are kept now. One of a pool that has ended, or that nobody asks for, is dropped within the next minute in
    /// which the pool is used or asked for this.
    pub cached: u64,
    /// Tokens served without a wait. Reads at the very moment when a token is replaced may be missed.
    pub served_from_cache: u64,
    /// Times that a new token was wanted. Each may have been loaded from a [store](crate::store), or may have taken several
    /// requests; while the circuit breaker of a pool is open, none.
    pub refreshes: u64,
    /// Requests made to the token endpoint, each attempt counted.
    pub requests: u64,
    /// Tokens that were loaded from the [store](crate::store), where another owner of the sign-in had saved them: no
    /// request was sent for them.
    pub loaded_from_store: u64,
    /// Callers who waited for a refresh that another had begun.
    pub coalesced: u64,
    /// Sign-ins that are not in their [store](crate::store), because a save failed: they are in memory only, and the save is
    /// retried. If the process ends before that, their users have to sign in again.
    pub unsaved: u64,
    /// Why one of those is not saved.
    pub unsaved_error: Option<Error>,
    /// Refreshes that ended without a token; not those that the open circuit breaker of a pool turned away.
    pub failures: u64,
    /// The last failure, if no refresh has succeeded since.
    pub last_error: Option<Error>,
    /// How long a provider's token will be served yet; `None` when there is none, and for pools.
    pub expires_in: Option<Duration>,
}
