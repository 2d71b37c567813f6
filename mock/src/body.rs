//! Bodies of responses, and their in-process errors.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Sleep;

/// The in-process equivalent of a broken connection, caused by a fault or by the request's body.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct ServiceError {
    kind: Kind,
}

#[derive(Debug, thiserror::Error)]
enum Kind {
    #[error("connection reset by the mock")]
    ConnectionReset,
    #[error("the response was truncated by the mock")]
    CutOff,
    #[error("the request body could not be read")]
    Body,
}

impl ServiceError {
    pub(crate) fn request_body() -> Self {
        Self { kind: Kind::Body }
    }

    pub(crate) fn connection_reset() -> Self {
        Self {
            kind: Kind::ConnectionReset,
        }
    }

    fn cut_off() -> Self {
        Self { kind: Kind::CutOff }
    }

    /// Whether the response was truncated by its [`Framing`](crate::Framing).
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        matches!(self.kind, Kind::CutOff)
    }

    /// Whether it was caused by [`Fault::ConnectionReset`](crate::Fault::ConnectionReset), or by a
    /// [`ScriptedStream`](crate::ScriptedStream) that ends with a reset.
    #[must_use]
    pub fn is_connection_reset(&self) -> bool {
        matches!(self.kind, Kind::ConnectionReset)
    }
}

/// A part of a body.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// Bytes that are sent on their own: over a socket, they are flushed before the next part.
    Bytes(Bytes),
    /// Nothing is sent for this long, in tokio's time.
    Pause(Duration),
    /// The connection is closed without the end of the body.
    CutOff,
    /// The connection is reset.
    Reset,
}

/// The body of a response: its parts in order. An error ends it if a fault truncated it.
#[derive(Debug)]
pub struct MockBody {
    parts: VecDeque<Part>,
    /// Set after bytes: the next poll yields once, so that they are sent before what follows.
    is_unsent: bool,
    pause: Option<Pin<Box<Sleep>>>,
    /// Whether its length is told in advance, as that of a stream is not.
    has_length: bool,
}

impl MockBody {
    pub(crate) fn of(parts: impl IntoIterator<Item = Part>) -> Self {
        let is_empty = |part: &Part| matches!(part, Part::Bytes(bytes) if bytes.is_empty());
        Self {
            parts: parts.into_iter().filter(|part| !is_empty(part)).collect(),
            is_unsent: false,
            pause: None,
            has_length: false,
        }
    }

    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self {
            has_length: true,
            ..Self::of([Part::Bytes(bytes)])
        }
    }

    pub(crate) fn cut_off(bytes: Bytes) -> Self {
        Self::of([Part::Bytes(bytes), Part::CutOff])
    }
}

impl Body for MockBody {
    type Data = Bytes;
    type Error = ServiceError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ServiceError>>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            if self.is_unsent && !self.parts.is_empty() {
                self.is_unsent = false;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let failure = match self.parts.pop_front() {
                None => return Poll::Ready(None),
                Some(Part::Bytes(bytes)) => {
                    self.is_unsent = true;
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Part::Pause(pause)) => {
                    self.pause = Some(Box::pin(tokio::time::sleep(pause)));
                    continue;
                }
                Some(Part::CutOff) => ServiceError::cut_off(),
                Some(Part::Reset) => ServiceError::connection_reset(),
            };
            self.parts.clear();
            return Poll::Ready(Some(Err(failure)));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty() && self.pause.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.parts.front() {
            _ if !self.has_length => SizeHint::default(),
            Some(Part::Bytes(bytes)) => {
                SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
            }
            _ => SizeHint::with_exact(0),
        }
    }
}
