//! Bodies of responses, and their in-process errors.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};

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

    /// Whether the response was truncated by its [`Framing`](crate::Framing).
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        matches!(self.kind, Kind::CutOff)
    }

    /// Whether it was caused by [`Fault::ConnectionReset`](crate::Fault::ConnectionReset).
    #[must_use]
    pub fn is_connection_reset(&self) -> bool {
        matches!(self.kind, Kind::ConnectionReset)
    }
}

/// The body of a response: one frame, followed by an error if a fault truncated it.
#[derive(Debug)]
pub struct MockBody {
    bytes: Bytes,
    end: BodyEnd,
}

#[derive(Debug)]
enum BodyEnd {
    Whole,
    /// Yields once, so that the bytes are sent before the error is reported.
    CutOff {
        had_a_turn: bool,
    },
    Over,
}

impl MockBody {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        let end = BodyEnd::Whole;
        Self { bytes, end }
    }

    pub(crate) fn cut_off(bytes: Bytes) -> Self {
        let end = BodyEnd::CutOff { had_a_turn: false };
        Self { bytes, end }
    }
}

impl Body for MockBody {
    type Data = Bytes;
    type Error = ServiceError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ServiceError>>> {
        if !self.bytes.is_empty() {
            let bytes = std::mem::take(&mut self.bytes);
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match self.end {
            BodyEnd::Whole | BodyEnd::Over => Poll::Ready(None),
            BodyEnd::CutOff { had_a_turn: false } => {
                self.end = BodyEnd::CutOff { had_a_turn: true };
                context.waker().wake_by_ref();
                Poll::Pending
            }
            BodyEnd::CutOff { had_a_turn: true } => {
                self.end = BodyEnd::Over;
                let kind = Kind::CutOff;
                Poll::Ready(Some(Err(ServiceError { kind })))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty() && !matches!(self.end, BodyEnd::CutOff { .. })
    }

    fn size_hint(&self) -> SizeHint {
        let left = u64::try_from(self.bytes.len()).unwrap_or(u64::MAX);
        match self.end {
            BodyEnd::CutOff { .. } => SizeHint::default(),
            BodyEnd::Whole | BodyEnd::Over => SizeHint::with_exact(left),
        }
    }
}
