//! One side of an upgraded connection: a stream whose bytes are followed and
//! counted, and that stays at hand when the relay is over.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use metrics::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Follower;
use crate::codec::Stream;

/// Clones are handles to the same stream.
#[derive(Clone)]
pub struct Side(Rc<RefCell<Inner>>);

struct Inner {
    stream: Stream,
    /// What it was told.
    told: Follower,
    /// What it said.
    said: Follower,
    /// Bytes that it was told.
    count: Counter,
    /// It is told no more than the frame at hand.
    stopping: bool,
}

impl Side {
    /// `said` and `told` follow what is read and what is written; `count` is
    /// told of the latter.
    pub fn new(stream: Stream, said: Follower, told: Follower, count: Counter) -> Self {
        Self(Rc::new(RefCell::new(Inner { stream, told, said, count, stopping: false })))
    }

    /// A handle for the relay.
    pub fn stream(&self) -> Stream {
        Stream::Boxed(Box::pin(self.clone()))
    }

    /// Takes no more than the rest of the frame at hand from now on.
    pub fn stop(&self) {
        self.0.borrow_mut().stopping = true;
    }

    /// Whether the frame at hand has passed, as far as there are frames.
    pub fn has_stopped(&self) -> bool {
        !self.0.borrow().told.is_within()
    }

    /// Whether it can be told to close.
    pub fn can_close(&self) -> bool {
        self.0.borrow().told.is_between()
    }

    /// Writes what does not come from the other side.
    pub fn poll_tell(&self, cx: &mut Context<'_>, bytes: &mut &[u8]) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        while !bytes.is_empty() {
            match ready!(Pin::new(&mut inner.stream).poll_write(cx, bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => *bytes = &bytes[written..],
            }
        }
        Pin::new(&mut inner.stream).poll_flush(cx)
    }

    /// Reads and drops what it still says, until it closes or is gone.
    pub fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let inner = &mut *self.0.borrow_mut();
        let mut bytes = [0; 4096];
        while !inner.said.is_closed() {
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut inner.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => inner.said.follow(buffer.filled()),
                _ => break,
            }
        }
        Poll::Ready(())
    }

    /// Ends what it is told.
    pub fn poll_end(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_shutdown(cx)
    }
}

impl AsyncRead for Side {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut inner.stream).poll_read(cx, buffer))?;
        inner.said.follow(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Side {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.borrow_mut();
        let most = if inner.stopping { inner.told.rest(bytes) } else { bytes.len() };
        if most == 0 && !bytes.is_empty() {
            // Whoever stopped it polls the relay no longer than it takes.
            return Poll::Pending;
        }
        let written = ready!(Pin::new(&mut inner.stream).poll_write(cx, &bytes[..most]))?;
        inner.told.follow(&bytes[..written]);
        inner.count.increment(written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_shutdown(cx)
    }
}
