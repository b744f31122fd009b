//! Bytes on their way out of an HTTP/1 connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use crate::codec::Stream;
use crate::codec::spare::Spare;

/// Data up to this size is written in one piece with what stands before it.
const COPY: usize = 4 * 1024;
/// Output buffers that a worker keeps for the next connection.
const SPARE_BUFFERS: usize = 64;

thread_local! {
    static SPARE: Spare = const { Spare::new(SPARE_BUFFERS, 2 * COPY) };
}

/// Bytes on their way out: `head`, then `data`, then `tail`.
#[derive(Default)]
pub struct Output {
    head: Vec<u8>,
    at: usize,
    data: Bytes,
    tail: &'static [u8],
    /// Bytes that the socket has taken since the connection began.
    written: u64,
}

impl Output {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Where small things are written to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.takes_small());
        if self.head.capacity() == 0 {
            self.head = SPARE.with(Spare::take);
        }
        &mut self.head
    }

    /// Writes what waits.
    pub fn poll_flush(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let head = &self.head[self.at..];
            let result = if self.data.is_empty() && self.tail.is_empty() {
                Pin::new(&mut *stream).poll_write(cx, head)
            } else {
                let slices =
                    [io::IoSlice::new(head), io::IoSlice::new(&self.data), io::IoSlice::new(self.tail)];
                Pin::new(&mut *stream).poll_write_vectored(cx, &slices)
            };
            match ready!(result)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.advance(written),
            }
        }
        Pin::new(stream).poll_flush(cx)
    }

    /// Whether [`Self::buffer`] can be had: no data waits behind it.
    pub fn takes_small(&self) -> bool {
        self.data.is_empty() && self.tail.is_empty()
    }

    /// Whether a next part can be queued without a flush.
    pub fn can_queue(&self) -> bool {
        self.takes_small() && self.head.len() < COPY * 2
    }

    /// Adds data, followed by `tail`.
    pub fn queue(&mut self, data: Bytes, tail: &'static [u8]) {
        debug_assert!(self.takes_small());
        if data.len() <= COPY {
            self.buffer().extend_from_slice(&data);
            self.buffer().extend_from_slice(tail);
        } else {
            (self.data, self.tail) = (data, tail);
        }
    }

    /// Bytes that the socket has taken since the connection began.
    pub fn written(&self) -> u64 {
        self.written
    }

    fn advance(&mut self, written: usize) {
        self.written += written as u64;
        let from_head = written.min(self.head.len() - self.at);
        self.at += from_head;
        let from_data = (written - from_head).min(self.data.len());
        self.data.advance(from_data);
        self.tail = &self.tail[written - from_head - from_data..];
        if self.at == self.head.len() {
            self.at = 0;
            SPARE.with(|spare| spare.give(std::mem::take(&mut self.head)));
        }
    }
}
