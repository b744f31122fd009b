//! Gathers what an HTTP/2 connection writes in one turn of its task.
//!
//! The `h2` crate flushes after every DATA frame of some size. With many
//! streams that are answered at the same moment that is a system call for each;
//! here the frames of all of them leave together, when the task has nothing
//! more to do.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::codec::spare::Spare;

/// Bytes that are gathered before they are written all the same.
const GATHER: usize = 64 * 1024;
/// A write of this size is not copied when it does not fit.
const DIRECT: usize = 8 * 1024;

/// Buffers that a worker keeps for the next connection that writes.
const SPARE_BUFFERS: usize = 4;

thread_local! {
    static SPARE: Spare = const { Spare::new(SPARE_BUFFERS, GATHER) };
}

/// A stream whose writes wait for [`Batch::poll_send`]. Clones are handles to
/// the same stream: one for the crate, one for the task.
pub struct Batch<S>(Rc<RefCell<Inner<S>>>);

struct Inner<S> {
    stream: S,
    waiting: Vec<u8>,
    /// How much of it was written.
    written: usize,
}

impl<S> Clone for Batch<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Batch<S> {
    /// Gathers what is written to `stream`.
    pub fn new(stream: S) -> Self {
        Self(Rc::new(RefCell::new(Inner { stream, waiting: Vec::new(), written: 0 })))
    }

    /// Writes what was gathered.
    pub fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_send(cx)
    }
}

/// Polls `work` and writes what it has gathered, turn by turn.
pub async fn batched<S, F>(batch: &Batch<S>, work: F) -> F::Output
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future,
{
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|cx| {
        let done = work.as_mut().poll(cx);
        // A failed write shows as a failed read soon enough.
        let _ = batch.poll_send(cx);
        done
    })
    .await
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.waiting.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.waiting[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        self.give_back();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_room(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<io::Result<()>> {
        if self.waiting.len() + length > GATHER {
            ready!(self.poll_send(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn buffer(&mut self) -> &mut Vec<u8> {
        if self.waiting.capacity() == 0 {
            self.waiting = SPARE.with(Spare::take);
        }
        &mut self.waiting
    }

    /// A connection that waits holds no buffer.
    fn give_back(&mut self) {
        self.written = 0;
        SPARE.with(|spare| spare.give(std::mem::take(&mut self.waiting)));
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Batch<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Batch<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.borrow_mut();
        let length = slices.iter().map(|slice| slice.len()).sum();
        ready!(inner.poll_room(cx, length))?;
        if inner.waiting.is_empty() && length > DIRECT {
            return Pin::new(&mut inner.stream).poll_write_vectored(cx, slices);
        }
        let buffer = inner.buffer();
        slices.iter().for_each(|slice| buffer.extend_from_slice(slice));
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn writes_wait_for_the_end_of_the_turn_and_come_in_order() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut batch = Batch::new(near);
        batch.write_all(b"one ").await.unwrap();
        batch.write_all(b"two").await.unwrap();
        batch.flush().await.unwrap();
        let mut buffer = [0; 16];
        let early = tokio::time::timeout(std::time::Duration::from_millis(10), far.read(&mut buffer));
        assert!(early.await.is_err(), "nothing has left yet");
        std::future::poll_fn(|cx| batch.poll_send(cx)).await.unwrap();
        let length = far.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], b"one two");
    }

    #[tokio::test]
    async fn what_does_not_fit_is_written_behind_what_waits() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut batch = Batch::new(near);
        let mut wanted = Vec::new();
        for (byte, size) in [(1u8, 100), (2, 60_000), (3, 50_000), (4, 9_000), (5, 10)] {
            let piece = vec![byte; size];
            batch.write_all(&piece).await.unwrap();
            wanted.extend(piece);
        }
        batch.shutdown().await.unwrap();
        drop(batch);
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert!(got == wanted);
    }
}
