//! What the benchmarks share: the rows of the result, rounds in which all contenders take turns, and the
//! contenders themselves: `coze-auth`, the floor under it, and its peers.
//!
//! Absolute times depend on the machine and on what else it does. So every goal is a ratio, and both sides of
//! a ratio are measured in turns, in one process: see [`rounds`].

#![forbid(unsafe_code)]

pub mod floor;
pub mod herd;
pub mod keys;
pub mod peers;
pub mod report;
pub mod rounds;
pub mod run;
pub mod server;
pub mod subject;
