//! Shared by the test modules: inputs, a recording server, the snapshot form of a request, an in-process
//! server, a server that breaks connections, and a key.

mod calls;
mod coze;
mod in_process;
mod key;
mod rude;
mod sent;

pub(crate) use calls::{Brought, Call};
pub(crate) use coze::*;
pub(crate) use in_process::{InProcess, Step};
pub(crate) use key::TestKey;
pub(crate) use rude::{Manners, Refusing, RudeServer};
pub(crate) use sent::{Jwt, Sent, decoded_jwt};
