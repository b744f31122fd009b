//! The one body type of the request path.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::tape::Player;
use super::{Stream, http1, http2};
use crate::base::ProxyError;

/// A body in either direction, whichever codec made it.
#[derive(Default)]
pub enum Body {
    /// No bytes.
    #[default]
    Empty,
    /// Bytes that are all here.
    Full(Bytes),
    /// What an HTTP/1 connection still has to give.
    Http1(http1::Incoming),
    /// What an HTTP/2 stream still has to give.
    Http2(http2::Incoming),
    /// An answer after which the connection is a tunnel (101, or 2xx to
    /// CONNECT): the upstream's side of it. As a body it is empty.
    Tunnel(Stream),
    /// A body that is recorded, for another attempt.
    Taped(Player),
    /// A body that somebody else made, such as a layer of a library user.
    Boxed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = ProxyError>>>),
}

/// Takes over the caller's connection after the head of an answer was written.
pub type Takeover = Box<dyn FnOnce(Stream) -> Pin<Box<dyn Future<Output = ()>>>>;

/// What a server codec sends as an answer's body.
pub trait AnswerBody: http_body::Body<Data = Bytes, Error = ProxyError> + Unpin + 'static {
    /// What takes over the connection after the head, where this answer opens a tunnel.
    fn takeover(&mut self) -> Option<Takeover> {
        None
    }

    /// The whole answer is with the caller's kernel. An answer that is dropped
    /// before was cut off.
    fn written(&mut self) {}
}

impl Body {
    /// The bytes, or nothing where there are none.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }
}

impl Body {
    /// The same body once more, for another attempt; `None` for one that can be
    /// read only once.
    pub fn replay(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Full(bytes) => Some(Self::Full(bytes.clone())),
            Self::Taped(player) => player.again().map(Self::Taped),
            _ => None,
        }
    }

    /// The same body, of which up to `limit` bytes are recorded as they pass, so
    /// that it can be replayed.
    #[must_use]
    pub fn taped(self, limit: usize) -> Self {
        match self {
            Self::Http1(_) | Self::Http2(_) | Self::Boxed(_) if !http_body::Body::is_end_stream(&self) => {
                Self::Taped(Player::new(self, limit))
            }
            other => other,
        }
    }

    /// Whether it can be sent from its first byte.
    pub fn is_whole(&self) -> bool {
        match self {
            Self::Taped(player) => player.is_whole(),
            _ => true,
        }
    }

    /// Whether all of it is here, and it can be sent from its first byte.
    pub fn is_complete(&self) -> bool {
        match self {
            Self::Taped(player) => player.is_complete(),
            Self::Empty | Self::Full(_) => true,
            _ => false,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        let this = self.get_mut();
        match this {
            Self::Empty | Self::Tunnel(_) => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Http1(incoming) => incoming.poll_frame(cx),
            Self::Http2(incoming) => incoming.poll_frame(cx),
            Self::Taped(player) => player.poll_frame(cx),
            Self::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Tunnel(_) => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Http1(incoming) => incoming.is_end_stream(),
            Self::Http2(incoming) => incoming.is_end_stream(),
            Self::Taped(player) => player.is_end_stream(),
            Self::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Tunnel(_) => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Http1(incoming) => incoming.size_hint(),
            Self::Http2(incoming) => incoming.size_hint(),
            Self::Taped(player) => player.size_hint(),
            Self::Boxed(body) => body.size_hint(),
        }
    }
}

impl AnswerBody for Body {}
