//! coze-auth and coze-api against the mock of Coze, which knows what it granted: flows, faults, and tokens that
//! are to be valid whatever time and the network do.
//!
//! | module | question |
//! |---|---|
//! | [`clean`] | Does every flow keep to the contract, and get what it asked for? |
//! | [`faults`] | What does a caller learn from each thing that can go wrong? |
//! | [`provider`] | Is the cached token valid, got once, and never lost? |
//! | [`sessions`] | Has each end user's session a token of its own, and only one? |
//! | [`outage`] | What does a pool of them do to a server that is down, and to its callers? |
//! | [`users`] | Has each signed-in user of a pool a token of its own, which is never lost? |
//! | [`backoff`] | When does a provider ask again after a failure, and what ends that? |
//! | [`runtimes`] | What if a runtime ends, stands still, or shares a connection with another? |
//! | [`answers`] | What does a user suffer from an answer that is not quite as documented? |
//! | [`api`] | Do API calls carry a token, and recover once from a dead one? |
//! | [`stored`] | Is a stored sign-in shared by its replicas, and never lost? |
//! | [`walk`] | Does all of this hold together, over thousands of random steps? |
//!
//! Client and mock share one time, tokio's paused one, and a [`Stage`](support::Stage): nothing waits. What
//! only a socket can show (resets, time-outs, redirects) is shown over one, with short limits.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise; helpers of tests do too"
)]

mod answers;
mod api;
mod backoff;
mod clean;
mod faults;
mod hostile;
mod outage;
mod provider;
mod runtimes;
mod sessions;
mod stored;
mod support;
mod users;
mod walk;
mod way;
