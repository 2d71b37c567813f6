//! Whether a response refuses the access token, for the layers of other HTTP clients. A refused token (HTTP 401, code
//! 4100) is invalidated and replaced in `recovery.rs`; the codes are in `coze-wire`'s `error_codes.rs`.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use coze_wire::refuses_token;
use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::Value;

/// The maximum number of bytes that are buffered to find an error code: 64 KiB.
pub(crate) const PEEK_LIMIT: usize = 64 * 1024;

/// Whether the head of a response refuses the token. `None` if the body has to be checked: it is JSON and not too long.
pub(crate) fn is_refused(status: StatusCode, headers: &HeaderMap) -> Option<bool> {
    if status == StatusCode::UNAUTHORIZED {
        return Some(true);
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let media_type = text(CONTENT_TYPE).and_then(|value| value.split(';').next());
    let is_json =
        media_type.is_some_and(|value| value.trim().eq_ignore_ascii_case("application/json"));
    let length = text(CONTENT_LENGTH).and_then(|value| value.parse().ok());
    let is_short = length.is_none_or(|length: usize| length <= PEEK_LIMIT);
    (!is_json || !is_short).then_some(false)
}

/// Buffers up to [`PEEK_LIMIT`] bytes of a body, and returns whether it refuses the token.
pub(crate) async fn peek<B>(mut body: B) -> (bool, Peeked<B>)
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut read = VecDeque::new();
    let mut text = Vec::new();
    let (rest, is_whole) = loop {
        match body.frame().await {
            None => break (None, true),
            Some(frame) => {
                let data = frame.as_ref().map(Frame::data_ref);
                let is_error = data.is_err();
                if let Ok(Some(data)) = data {
                    text.extend_from_slice(data);
                }
                read.push_back(frame);
                if is_error || text.len() > PEEK_LIMIT {
                    break (Some(body), false);
                }
            }
        }
    };
    let refused = is_whole && is_refusal(&text);
    (refused, Peeked { read, rest })
}

/// Whether this JSON is an API error that refuses the token.
fn is_refusal(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Head {
        code: Value,
        #[serde(default)]
        msg: Value,
    }
    let Ok(head) = serde_json::from_slice::<Head>(body) else {
        return false;
    };
    let in_text = || head.code.as_str().and_then(|code| code.parse().ok());
    let code = head.code.as_i64().or_else(in_text);
    code.is_some_and(|code| refuses_token(code, head.msg.as_str().unwrap_or_default()))
}

/// A response body whose first frames may be buffered. It yields the same frames as the original.
#[cfg_attr(
    not(feature = "tower"),
    allow(unreachable_pub, reason = "public for `TokenService` only")
)]
pub struct Peeked<B: Body> {
    read: VecDeque<Result<Frame<B::Data>, B::Error>>,
    rest: Option<B>,
}

impl<B: Body> Peeked<B> {
    #[cfg(feature = "tower")]
    pub(crate) fn unread(body: B) -> Self {
        let read = VecDeque::new();
        let rest = Some(body);
        Self { read, rest }
    }
}

// No field is structurally pinned, and `rest` is `Unpin`.
impl<B: Body + Unpin> Unpin for Peeked<B> {}

impl<B: Body + Unpin> Body for Peeked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        if let Some(frame) = self.read.pop_front() {
            return Poll::Ready(Some(frame));
        }
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(rest).poll_frame(context));
        if frame.is_none() {
            self.rest = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let data = self.read.iter().flatten().filter_map(Frame::data_ref);
        let read: u64 = data.map(|data| data.remaining() as u64).sum();
        let rest = self
            .rest
            .as_ref()
            .map(Body::size_hint)
            .unwrap_or_else(|| SizeHint::with_exact(0));
        let mut all = SizeHint::new();
        all.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper() {
            all.set_upper(upper.saturating_add(read));
        }
        all
    }
}

impl<B: Body> fmt::Debug for Peeked<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peeked").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Full, StreamBody};

    use super::*;

    #[test]
    fn only_short_json_is_examined() {
        let head = |status, fields: &[(http::HeaderName, &str)]| {
            let fields = fields.iter().cloned();
            let headers = fields.map(|(name, value)| (name, value.parse().unwrap()));
            is_refused(status, &headers.collect())
        };
        let json = (CONTENT_TYPE, "Application/JSON; charset=utf-8");
        assert_eq!(head(StatusCode::UNAUTHORIZED, &[]), Some(true));
        assert_eq!(head(StatusCode::OK, std::slice::from_ref(&json)), None);
        assert_eq!(
            head(StatusCode::OK, &[json.clone(), (CONTENT_LENGTH, "65536")]),
            None
        );
        assert_eq!(
            head(StatusCode::OK, &[json, (CONTENT_LENGTH, "65537")]),
            Some(false)
        );
        for other in ["text/event-stream", "application/json-seq", "text/html"] {
            let head = head(StatusCode::OK, &[(CONTENT_TYPE, other)]);
            assert_eq!(head, Some(false), "{other}");
        }
        assert_eq!(head(StatusCode::OK, &[]), Some(false));
    }

    #[tokio::test]
    async fn a_body_is_returned_unchanged() {
        let long = format!(r#"{{"code":4100,"msg":"{}"}}"#, "x".repeat(PEEK_LIMIT));
        for (text, expected) in [
            (r#"{"code":4100,"msg":"authentication is invalid"}"#, true),
            (r#"{"code":"700012006"}"#, true),
            (r#"{"msg":"the TOKEN is wrong","code":4101}"#, true),
            (r#"{"code":4101,"msg":"no permission"}"#, false),
            (r#"{"code":0,"data":{"code":4100}}"#, false),
            ("{}", false),
            ("", false),
            (r#"{"code":4100"#, false),
            (&*long, false),
        ] {
            let frames = text.as_bytes().chunks(1000).map(Bytes::copy_from_slice);
            let frames: Vec<_> = frames
                .map(|data| Ok::<_, std::io::Error>(Frame::data(data)))
                .collect();
            let (refused, body) = peek(StreamBody::new(futures_util::stream::iter(frames))).await;
            assert_eq!(refused, expected, "{text:.80}");
            assert_eq!(body.collect().await.unwrap().to_bytes(), text, "{text:.80}");
            let (_, body) = peek(Full::<Bytes>::from(text.to_owned())).await;
            assert_eq!(
                body.size_hint().exact(),
                Some(text.len() as u64),
                "{text:.80}"
            );
        }
    }

    #[tokio::test]
    async fn the_error_of_an_interrupted_body_follows_the_frames_before_it() {
        let frames = [
            Ok(Frame::data(Bytes::from(r#"{"code":4100}"#))),
            Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
        ];
        let (refused, mut body) = peek(StreamBody::new(futures_util::stream::iter(frames))).await;
        assert!(!refused, "the body may be incomplete");
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.frame().await.is_none());
    }
}
