//! coze-auth and coze-api against the mock of Coze, which knows what it granted: flows, faults, and whether tokens
//! stay valid despite clocks and network failures.
//!
//! | module | question |
//! |---|---|
//! | [`clean`] | Does every flow follow the contract, and get what it requested? |
//! | [`faults`] | What does a caller learn from each fault? |
//! | [`provider`] | Is the cached token valid, requested once, and never lost? |
//! | [`sessions`] | Does each session have its own token, and only one? |
//! | [`outage`] | How does a session pool behave while the server is down? |
//! | [`users`] | Does each signed-in user of a pool have its own token, which is never lost? |
//! | [`backoff`] | When does a provider retry after a failure, and what ends a backoff? |
//! | [`runtimes`] | What if a runtime ends, is blocked, or shares a connection with another? |
//! | [`answers`] | Does a response that deviates from the documentation harm a user? |
//! | [`api`] | Do API calls carry a token, and recover once from a revoked one? |
//! | [`stored`] | Is a stored sign-in shared by its replicas, and never lost? |
//! | [`random_steps`] | Does all of this hold together, over thousands of random steps? |
//!
//! Client and mock share tokio's paused time and a [`Stage`](support::Stage), so no test waits. What
//! needs a socket (resets, timeouts, redirects) is tested over one, with short limits.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests and their helpers panic on failure"
)]

mod answers;
mod api;
mod backoff;
mod clean;
mod faults;
mod hostile;
mod outage;
mod provider;
mod proxies;
mod random_steps;
mod runtimes;
mod sessions;
mod stored;
mod support;
mod users;
