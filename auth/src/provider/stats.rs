//! Statistics of providers and pools.

use std::time::Duration;

use crate::Error;

/// Statistics of a [provider](crate::CachedProvider::stats) or a [pool](crate::UserPool::stats), for your own metrics. Those
/// of a pool are totals over all its keys.
///
/// A refresh ([`refreshes`](Self::refreshes)) gets its token from the token endpoint ([`requests`](Self::requests)) or
/// from the store, if another owner has saved it there ([`loaded_from_store`](Self::loaded_from_store)), or it fails
/// ([`failures`](Self::failures)).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Tokens in the cache. A pool drops an expired or idle token within a minute, if it is in use.
    pub cached: u64,
    /// Tokens served without waiting. Reads while a token is being replaced may be missed.
    pub served_from_cache: u64,
    /// Refreshes started. A refresh may send several requests, or none: if the token is loaded from a
    /// [store](crate::store), or while the circuit breaker of a pool is open.
    pub refreshes: u64,
    /// Requests sent to the token endpoint. Each attempt counts.
    pub requests: u64,
    /// Tokens loaded from the [store](crate::store) without a request, because another owner of the sign-in had saved them.
    pub loaded_from_store: u64,
    /// Callers that joined a refresh in flight.
    pub coalesced: u64,
    /// Sign-ins that are in memory only, because a save to the [store](crate::store) failed. The save is retried. If the
    /// process ends before it succeeds, their users have to sign in again.
    pub unsaved: u64,
    /// The error of one of these failed saves.
    pub unsaved_error: Option<Error>,
    /// Refreshes that failed, except those that an open circuit breaker rejected.
    pub failures: u64,
    /// The last failure, if no refresh has succeeded since.
    pub last_error: Option<Error>,
    /// How long the provider's current token will still be served; `None` if there is none, and for pools.
    pub expires_in: Option<Duration>,
}
