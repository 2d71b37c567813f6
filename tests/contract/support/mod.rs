//! What the test modules share: inputs, a recording server, one request's shape, a server in this
//! process, a server that breaks connections, and a key.

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
