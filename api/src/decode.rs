//! From an answer to its type.

use coze_auth::ErrorKind;
use coze_wire::{Data, Empty, Events, StreamEvent, Whole};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    EventStream, Reply, Result,
    dispatch::{Answered, Body},
};

/// What an operation answers, and what it becomes. Implemented for the answers of `coze-wire`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no answer of the API",
    note = "the answer of an operation is `Data<T>`, `Whole<T>` (`T` can be deserialized), `Empty` or `Events<E>` (`E` is a `StreamEvent`)"
)]
pub trait Decode: Sized + 'static {
    /// What [`send`](crate::SendExt::send) gives.
    type Reply: Send;

    /// Whether a stream of events may be answered.
    #[doc(hidden)]
    const HAS_EVENTS: bool = false;

    /// Reads it.
    ///
    /// # Errors
    ///
    /// When the answer is an error, or not as described.
    #[doc(hidden)]
    fn decode(answered: Answered) -> Result<Self::Reply>;
}

#[derive(Deserialize)]
struct Envelope<T> {
    #[serde(default)]
    code: i64,
    data: T,
}

/// The envelope, for an answer that has no data, or more than data.
#[derive(Deserialize)]
struct Code {
    #[serde(default)]
    code: i64,
}

impl<T: DeserializeOwned + Send + 'static> Decode for Data<T> {
    type Reply = Reply<T>;

    fn decode(answered: Answered) -> Result<Reply<T>> {
        answered.read(
            |body| {
                let envelope: Envelope<T> = serde_json::from_slice(body).ok()?;
                (envelope.code == 0).then_some(envelope.data)
            },
            |envelope: Envelope<T>| envelope.data,
        )
    }
}

impl<T: DeserializeOwned + Send + 'static> Decode for Whole<T> {
    type Reply = Reply<T>;

    fn decode(answered: Answered) -> Result<Reply<T>> {
        answered.read(
            |body| {
                let envelope: Code = serde_json::from_slice(body).ok()?;
                (envelope.code == 0).then_some(())?;
                serde_json::from_slice(body).ok()
            },
            |whole| whole,
        )
    }
}

impl Decode for Empty {
    type Reply = Reply<()>;

    fn decode(answered: Answered) -> Result<Reply<()>> {
        answered.read(
            |body| {
                let envelope: Code = serde_json::from_slice(body).ok()?;
                (envelope.code == 0).then_some(())
            },
            |_: serde::de::IgnoredAny| (),
        )
    }
}

impl<E: StreamEvent> Decode for Events<E> {
    type Reply = EventStream<E>;

    const HAS_EVENTS: bool = true;

    fn decode(answered: Answered) -> Result<EventStream<E>> {
        let Answered { origin, body } = answered;
        match body {
            Body::Events {
                response,
                deadline,
                limits,
            } => Ok(EventStream::new(origin, response, deadline, limits)),
            Body::Read(captured) => {
                // An error that it holds, first.
                let read = origin.call.read::<serde::de::IgnoredAny>(&captured);
                let what = "the response is JSON; expected an event stream";
                let unexpected = || origin.call.error(ErrorKind::InvalidAnswer, what);
                Err(read.err().unwrap_or_else(unexpected).into())
            }
        }
    }
}

impl Answered {
    /// Reads a success quickly. Whatever it can't make sense of is read tolerantly, and tells what is wrong.
    fn read<T, R: DeserializeOwned>(
        self,
        quickly: impl FnOnce(&[u8]) -> Option<T>,
        value: impl FnOnce(R) -> T,
    ) -> Result<Reply<T>> {
        let call = &self.origin.call;
        let captured = match &self.body {
            Body::Read(captured) => captured,
            Body::Events { .. } => {
                let what = "the response is an event stream; expected JSON";
                return Err(call.error(ErrorKind::InvalidAnswer, what).into());
            }
        };
        let is_success = captured.status().is_success();
        let read = match is_success.then(|| quickly(captured.body())).flatten() {
            Some(value) => Ok(value),
            None => call.read(captured).map(value),
        };
        match read {
            Ok(value) => Ok(Reply::new(value, call.log_id(Some(captured)))),
            Err(error) => Err(error.into()),
        }
    }
}
