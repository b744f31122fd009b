//! Sends a body on an HTTP/2 stream, as fast as the peer's windows allow.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::SendStream;

use crate::base::{ProxyError, Reason};
use crate::codec::guard;

/// A body on its way out.
pub struct Sender<B> {
    stream: SendStream<Bytes>,
    body: B,
    pending: Bytes,
    /// Bytes that the peer's windows have taken.
    taken: u64,
    done: bool,
}

/// Why a body was not sent whole.
#[derive(Debug)]
pub enum Broken {
    /// The body itself failed.
    Body(ProxyError),
    /// The peer reset the stream, or the connection ended.
    Stream,
}

impl<B> Sender<B>
where
    B: http_body::Body<Data = Bytes, Error = ProxyError> + Unpin,
{
    /// A sender of which nothing is sent. `stream` is open.
    pub fn new(stream: SendStream<Bytes>, body: B) -> Self {
        Self { stream, body, pending: Bytes::new(), taken: 0, done: false }
    }

    /// The body.
    pub fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }

    /// The body, of which the stream may have taken some.
    pub fn into_body(self) -> B {
        self.body
    }

    /// Whether all is with the connection, or nothing more will be.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Ends the stream with an error.
    pub fn reset(&mut self, reason: h2::Reason) {
        self.stream.send_reset(reason);
    }

    /// How much the peer's windows have taken, while more waits for them;
    /// `None` while the body is waited for.
    pub fn stalled_at(&self) -> Option<u64> {
        (!self.pending.is_empty()).then_some(self.taken)
    }

    /// Sends what is there. Ready when all is with the connection.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while !self.done {
            if !self.pending.is_empty() {
                ready!(self.poll_pending(cx))?;
                continue;
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => {
                    if self.stream.poll_reset(cx).is_ready() {
                        return Poll::Ready(Err(Broken::Stream));
                    }
                    return Poll::Pending;
                }
                Poll::Ready(None) => {
                    self.done = true;
                    self.stream.send_data(Bytes::new(), true).map_err(|_| Broken::Stream)?;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Broken::Body(error))),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.pending = data,
                    Err(frame) => {
                        let mut trailers = frame.into_trailers().unwrap_or_default();
                        guard::strip_trailers(&mut trailers);
                        self.done = true;
                        self.stream.send_trailers(trailers).map_err(|_| Broken::Stream)?;
                    }
                },
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.stream.capacity() == 0 {
            self.stream.reserve_capacity(self.pending.len());
        }
        while self.stream.capacity() == 0 {
            if self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Broken::Stream));
            }
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                _ => return Poll::Ready(Err(Broken::Stream)),
            }
        }
        let length = self.stream.capacity().min(self.pending.len());
        let data = self.pending.split_to(length);
        self.taken += length as u64;
        self.done = !self.pending.has_remaining() && self.body.is_end_stream();
        let sent = self.stream.send_data(data, self.done);
        Poll::Ready(sent.map_err(|_| Broken::Stream))
    }
}

/// The code with which a stream ends whose answer broke off for `error`.
pub fn reset_for(error: &ProxyError) -> h2::Reason {
    match (error.reset, error.reason) {
        (Some(code), _) => code.into(),
        (_, Reason::Timeout | Reason::StreamIdle | Reason::ShuttingDown | Reason::ClientClosed) => {
            h2::Reason::CANCEL
        }
        _ => h2::Reason::INTERNAL_ERROR,
    }
}
