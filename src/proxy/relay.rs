//! Copies bytes both ways between two streams, each direction with its own end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::base::timers::Timers;
use crate::codec::Stream;

/// Bytes that one direction may hold.
const BUFFER: usize = 64 * 1024;

/// What went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// From the first stream to the second.
    pub sent: u64,
    /// From the second stream to the first.
    pub received: u64,
    /// Why no more did.
    pub end: End,
}

/// How a relay ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both directions have ended.
    Closed,
    /// A stream failed.
    Failed,
    /// Nothing moved for too long.
    Idle,
}

struct Pipe {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ended: bool,
    closed: bool,
    moved: u64,
}

/// Copies until both directions have ended, one has failed, or nothing has
/// moved for `idle`. An end is passed on, and the other direction goes on
/// (half-close).
pub async fn run(mut first: Stream, mut second: Stream, timers: &Timers, idle: Duration) -> Relayed {
    let (mut there, mut back) = (Pipe::new(), Pipe::new());
    let mut timer = timers.at(Instant::now() + idle);
    let mut seen = 0;
    let end = std::future::poll_fn(|cx| {
        let done_there = there.poll(&mut first, &mut second, cx);
        let done_back = back.poll(&mut second, &mut first, cx);
        match (done_there, done_back) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => return Poll::Ready(End::Failed),
            (Poll::Ready(_), Poll::Ready(_)) => return Poll::Ready(End::Closed),
            _ => {}
        }
        let moved = there.moved + back.moved;
        if moved != seen {
            seen = moved;
            timer.arm(Instant::now() + idle);
        }
        timer.poll_fired(cx).map(|()| End::Idle)
    })
    .await;
    Relayed { sent: there.moved, received: back.moved, end }
}

impl Pipe {
    fn new() -> Self {
        Self { buffer: Vec::new(), start: 0, end: 0, ended: false, closed: false, moved: 0 }
    }

    fn poll(&mut self, from: &mut Stream, to: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.start < self.end {
                let wrote = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer[self.start..self.end]))?;
                if wrote == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.start += wrote;
                self.moved += wrote as u64;
            }
            if self.ended {
                if !self.closed {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.closed = true;
                }
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_read(from, to, cx))?;
        }
    }

    /// Reads into the buffer, which is given up while nothing comes.
    fn poll_read(
        &mut self,
        from: &mut Stream,
        to: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; BUFFER];
        }
        let mut buffer = ReadBuf::new(&mut self.buffer);
        match Pin::new(from).poll_read(cx, &mut buffer) {
            Poll::Pending => {
                self.buffer = Vec::new();
                ready!(Pin::new(to).poll_flush(cx))?;
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {
                (self.start, self.end) = (0, buffer.filled().len());
                self.ended = self.end == 0;
                Poll::Ready(Ok(()))
            }
        }
    }
}
