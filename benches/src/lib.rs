//! Shared by the benchmarks: the rows of the result, rounds in which all contenders alternate, and the
//! contenders themselves: `coze-auth`, the floor under it, and its peers.
//!
//! Absolute times depend on the machine and its load. So every goal is a ratio, and both sides of
//! a ratio are measured alternately in one process: see [`rounds`].

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
