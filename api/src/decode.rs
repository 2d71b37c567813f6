//! Parses a response into the type of its operation.

use coze_auth::ErrorKind;
use coze_wire::{Data, Empty, EnvelopeData, Events, StreamEvent, Whole};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    EventStream, Reply, Result,
    dispatch::{Answered, Body},
};

/// Parses the response of an operation. Implemented for the response forms of `coze-wire`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a response of the API",
    note = "the response of an operation is `Data<T>`, `Whole<T>` (`T: DeserializeOwned`), `Empty`, `Raw` or `Events<E>` (`E: StreamEvent`)"
)]
pub trait Decode: Sized + 'static {
    /// The type that [`send`](crate::SendExt::send) returns.
    type Reply: Send;

    /// Whether the response may be an event stream.
    #[doc(hidden)]
    const HAS_EVENTS: bool = false;

    /// Parses the response.
    ///
    /// # Errors
    ///
    /// When the response is an error, or does not match the description.
    #[doc(hidden)]
    fn decode(answered: Answered) -> Result<Self::Reply>;
}

/// The usual form of a success. Without a code, or with one that is not a number, the tolerant parser decides.
#[derive(Deserialize)]
struct Envelope<T> {
    code: i64,
    data: T,
}

/// The envelope without its data.
#[derive(Deserialize)]
struct Code {
    code: i64,
}

/// The data of a success whose code the tolerant parser has checked.
#[derive(Deserialize)]
struct Held<T> {
    data: T,
}

impl<T: DeserializeOwned + Send + 'static> Decode for Data<T> {
    type Reply = Reply<T>;

    fn decode(answered: Answered) -> Result<Reply<T>> {
        answered.read(
            |body| {
                let envelope: Envelope<T> = serde_json::from_slice(body).ok()?;
                (envelope.code == 0).then_some(envelope.data)
            },
            |held: Held<EnvelopeData<T>>| held.data.0,
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
            Body::Events { body, limits } => Ok(EventStream::new(origin, body, limits)),
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
    /// Parses a success on the fast path. If that fails, the tolerant parser is used, whose error says what is wrong.
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
