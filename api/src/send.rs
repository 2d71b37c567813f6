//! What a caller finds on every operation.

use std::{future::Future, time::Duration};

use coze_auth::ErrorKind;
use coze_wire::{Call, CallOptions, Operation, OperationInfo, Page, Paged, Position, Unbuilt};
use futures_util::stream::BoxStream;

use crate::{Error, Reply, Result, decode::Decode, dispatch, pages};

/// Sends an operation: bring it into scope with `use coze_api::SendExt`, or with everything in [`prelude`](crate::prelude).
///
/// What [`send`](Self::send) sees to:
///
/// - the token of the client's provider; when the API refuses it (HTTP 401, code 4100 or 700012006, or 4101 about the token),
///   the provider is told, and the same request is sent once more with the next token;
/// - retries: what only reads is sent again when no connection was made, or it broke off, and after 429 and 5xx, not before
///   `Retry-After`; what changes something, only where the server has not processed it;
/// - the API's rate limit: after a 429 with `Retry-After`, all requests of the client wait until then;
/// - limits: how long an attempt may take, and how much of an answer is read.
pub trait SendExt: Operation {
    /// Sends it, and reads the answer.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](ErrorKind::InvalidInput) when a parameter is missing: nothing was sent.
    /// - Those of the provider, when there is no token.
    /// - [`Refused`](ErrorKind::Refused) when the answer is an error of Coze's.
    /// - Those of the transport, and of answers that are not as described.
    fn send(self) -> impl Future<Output = Result<<Self::Answer as Decode>::Reply>> + Send
    where
        Self::Answer: Decode,
    {
        async move {
            let call = self.into_call().map_err(|why| unbuilt(Self::INFO, &why))?;
            dispatch::send::<Self::Answer>(call).await
        }
    }

    /// How long an attempt may take, up to the last byte of its answer; of a stream, up to its first byte. By default, as the
    /// client has it.
    fn timeout(self, timeout: Duration) -> Configured<Self> {
        self.configured(|options| options.timeout = Some(timeout))
    }

    /// How long a stream may bring nothing, not even a comment; 60 seconds by default. A stream may take forever in all.
    fn idle_timeout(self, idle_timeout: Duration) -> Configured<Self> {
        self.configured(|options| options.idle_timeout = Some(idle_timeout))
    }

    /// How often it is sent again at most, where that is safe; twice by default. A refused token does not count.
    fn retries(self, retries: u32) -> Configured<Self> {
        self.configured(|options| options.retries = Some(retries))
    }

    /// The most of an answer's body that is read, in bytes; 32 MiB by default.
    fn body_limit(self, bytes: usize) -> Configured<Self> {
        self.configured(|options| options.body_limit = Some(bytes))
    }

    /// The most of one event of a stream that is read, in bytes; 16 MiB by default.
    fn event_limit(self, bytes: usize) -> Configured<Self> {
        self.configured(|options| options.event_limit = Some(bytes))
    }

    #[doc(hidden)]
    fn configured(self, set: impl FnOnce(&mut CallOptions)) -> Configured<Self> {
        let mut options = CallOptions::default();
        set(&mut options);
        Configured {
            operation: self,
            options,
        }
    }

    /// The pages of a list, from the one that was asked for on. The size of a page is that of the operation.
    ///
    /// The stream ends where the answer says so, at an empty page, at one that repeats the page before it, and at the first
    /// error.
    fn by_page(self) -> BoxStream<'static, Result<Reply<Page<Self::Item>>>>
    where
        Self: Paged,
        Self::Answer: Decode<Reply = Reply<Self::Page>>,
    {
        pages::by_page(self)
    }

    /// The items of a list, page after page, as [`by_page`](Self::by_page).
    fn by_item(self) -> BoxStream<'static, Result<Self::Item>>
    where
        Self: Paged,
        Self::Answer: Decode<Reply = Reply<Self::Page>>,
    {
        pages::by_item(self)
    }
}

impl<O: Operation> SendExt for O {}

pub(crate) fn unbuilt(operation: &'static OperationInfo, why: &Unbuilt) -> Error {
    let what = format!("the request could not be built: {why}");
    Error::from(coze_auth::Error::new(ErrorKind::InvalidInput, what)).in_operation(operation)
}

/// An operation with options of its own: see [`SendExt`].
#[derive(Debug, Clone)]
pub struct Configured<O> {
    operation: O,
    options: CallOptions,
}

impl<O: Operation> Operation for Configured<O> {
    type Answer = O::Answer;

    const INFO: &'static OperationInfo = O::INFO;

    fn into_call(self) -> std::result::Result<Call, Unbuilt> {
        let mut call = self.operation.into_call()?;
        call.options = self.options.or(call.options);
        Ok(call)
    }
}

impl<O: Paged> Paged for Configured<O> {
    type Item = O::Item;
    type Page = O::Page;

    fn position(&self) -> Position {
        self.operation.position()
    }

    fn at(self, position: Position) -> Self {
        Self {
            operation: self.operation.at(position),
            options: self.options,
        }
    }

    fn page(page: O::Page) -> Page<O::Item> {
        O::page(page)
    }
}
