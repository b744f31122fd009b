//! A request's body that can be sent anew where the peer never looked at it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::base::ProxyError;
use crate::codec::Body;

/// Bytes that are kept of one body: more than most messages of gRPC have.
const MOST: usize = 64 * 1024;

/// Keeps what it gives until the answer comes or it is too much.
pub struct Kept {
    body: Body,
    /// `None` where it can't be sent again.
    frames: Option<VecDeque<Bytes>>,
    bytes: usize,
    trailers: Option<HeaderMap>,
}

/// What was kept, and then the rest.
struct Again {
    frames: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    rest: Body,
}

impl Kept {
    /// A body of which nothing was read.
    pub fn new(body: Body) -> Self {
        Self { body, frames: Some(VecDeque::new()), bytes: 0, trailers: None }
    }

    /// The whole body once more.
    pub fn again(self) -> Option<Body> {
        let frames = self.frames?;
        if frames.is_empty() && self.trailers.is_none() {
            return Some(self.body);
        }
        Some(Body::Boxed(Box::pin(Again { frames, trailers: self.trailers, rest: self.body })))
    }

    /// It is never sent again: the answer has come.
    pub fn let_go(&mut self) {
        self.frames = None;
        self.trailers = None;
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(frames) = &mut self.frames else { return };
        if let Some(data) = frame.data_ref() {
            self.bytes += data.len();
            if self.bytes > MOST {
                self.frames = None;
            } else {
                frames.push_back(data.clone());
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
    }
}

impl http_body::Body for Kept {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.keep(frame),
            Some(Err(_)) => self.frames = None,
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl http_body::Body for Again {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        if let Some(data) = self.frames.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Pin::new(&mut self.rest).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.trailers.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let kept: usize = self.frames.iter().map(Bytes::len).sum();
        match self.rest.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(rest + kept as u64),
            None => SizeHint::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn body(parts: &'static [&'static str]) -> Body {
        let frames = parts.iter().map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes()))));
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", 7.into());
        let frames = frames.chain([Ok(Frame::trailers(trailers))]);
        Body::Boxed(Box::pin(http_body_util::StreamBody::new(futures_util::stream::iter(frames))))
    }

    async fn whole(body: Body) -> (Bytes, Option<HeaderMap>) {
        let collected = body.collect().await.unwrap();
        let trailers = collected.trailers().cloned();
        (collected.to_bytes(), trailers)
    }

    #[tokio::test]
    async fn a_body_comes_again_whole_wherever_it_was_left() {
        for read in 0..4 {
            let mut kept = Kept::new(body(&["one ", "two ", "three"]));
            for _ in 0..read {
                kept.frame().await.unwrap().unwrap();
            }
            let (bytes, trailers) = whole(kept.again().expect("it was small")).await;
            assert_eq!(&bytes[..], b"one two three", "after {read}");
            assert_eq!(trailers.unwrap()["x-sum"], "7", "after {read}");
        }
    }

    #[tokio::test]
    async fn a_large_body_is_not_kept() {
        let mut kept = Kept::new(Body::full(vec![b'a'; MOST + 1]));
        kept.frame().await.unwrap().unwrap();
        assert!(kept.frames.is_none() && kept.again().is_none());
    }
}
