//! [`SendExt`]: the methods of every operation.

use std::{future::Future, time::Duration};

use coze_auth::ErrorKind;
use coze_wire::{Call, CallOptions, Operation, OperationInfo, Page, Paged, Position, Unbuilt};
use futures_util::stream::BoxStream;

use crate::{Error, Reply, Result, decode::Decode, dispatch, pages};

/// Sends an operation. Import it with `use coze_api::SendExt`, or with the [`prelude`](crate::prelude).
///
/// [`send`](Self::send) handles:
///
/// - the token: it is that of the client's provider. If the API refuses it (HTTP 401, code 4100 or 700012006, or 4101
///   about the token), it is invalidated, and the request is sent once more with a new token. For a stream, this
///   applies to a refusal in place of the stream and to its first event;
/// - retries: an operation that only reads is retried if the connection failed or was closed, and after 429 and 5xx, no
///   sooner than `Retry-After`; an operation that changes something, only if the server did not process it;
/// - the API's rate limit: after a 429 with `Retry-After`, all requests of the client wait until then;
/// - limits: a timeout for each attempt, and a maximum size of the response.
pub trait SendExt: Operation {
    /// Sends the request and parses the response. Of a stream, it waits for the first event.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](ErrorKind::InvalidInput) when a parameter is missing: nothing was sent.
    /// - Those of the provider, when there is no token.
    /// - [`Refused`](ErrorKind::Refused) when the response is an error of Coze's.
    /// - Errors of the transport, and responses that do not match the description.
    fn send(self) -> impl Future<Output = Result<<Self::Answer as Decode>::Reply>> + Send
    where
        Self::Answer: Decode,
    {
        async move {
            let call = self.into_call().map_err(|why| unbuilt(Self::INFO, &why))?;
            dispatch::send::<Self::Answer>(call).await
        }
    }

    /// The timeout of an attempt, including the response; of a stream, up to its first byte. By default, that of the
    /// client. It does not include getting the token, the delays between attempts, and the wait for
    /// the API's rate limit, which are up to a minute each.
    fn timeout(self, timeout: Duration) -> Configured<Self> {
        self.configured(|options| options.timeout = Some(timeout))
    }

    /// How long a stream may be silent, without even a comment; 60 seconds by default. A stream that is polled too late
    /// gets another second, so that parts that have arrived are read. The duration of the whole stream is not limited.
    fn idle_timeout(self, idle_timeout: Duration) -> Configured<Self> {
        self.configured(|options| options.idle_timeout = Some(idle_timeout))
    }

    /// The maximum number of retries, if they are safe; 2 by default. The delay between two attempts doubles up to 30
    /// seconds, unless the server asks for more. The retry after a refused token does not count.
    fn retries(self, retries: u32) -> Configured<Self> {
        self.configured(|options| options.retries = Some(retries))
    }

    /// The maximum size of the response body, in bytes; 32 MiB by default.
    fn body_limit(self, bytes: usize) -> Configured<Self> {
        self.configured(|options| options.body_limit = Some(bytes))
    }

    /// The maximum size of an event of a stream, in bytes; 16 MiB by default. It counts all lines of the event with their
    /// ends, but no comments.
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

    /// The pages of a list as a stream, from the requested one on. The operation sets the size of a page.
    ///
    /// The stream ends if the response says so, after an empty page, after a page that repeats the previous one, and
    /// after the first error. If the response says that there are more pages, but not where the next one begins, the
    /// stream ends with an error of kind [`InvalidAnswer`](crate::ErrorKind::InvalidAnswer).
    fn by_page(self) -> BoxStream<'static, Result<Reply<Page<Self::Item>>>>
    where
        Self: Paged,
        Self::Answer: Decode<Reply = Reply<Self::Page>>,
    {
        pages::by_page(self)
    }

    /// The items of a list as a stream, from all pages: see [`by_page`](Self::by_page).
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

/// An operation with its own options: see [`SendExt`].
#[derive(Debug, Clone)]
pub struct Configured<O> {
    operation: O,
    options: CallOptions,
}

impl<O> Configured<O> {
    pub(crate) fn new(operation: O, options: CallOptions) -> Self {
        Self { operation, options }
    }
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

    fn page(&self, page: O::Page) -> Page<O::Item> {
        self.operation.page(page)
    }
}
