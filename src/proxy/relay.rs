//! Copies bytes both ways between two streams, each direction with its own end.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::base::clock;
use crate::base::timers::Timers;
use crate::codec::Stream;
use crate::codec::spare::Spare;

/// Bytes that one direction may hold.
const BUFFER: usize = 256 * 1024;
/// How long the other direction may go on once nothing can be written in one.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Buffers that a worker keeps for the next bytes to copy.
const SPARE_BUFFERS: usize = 4;

thread_local! {
    static SPARE: Spare = const { Spare::new(SPARE_BUFFERS, BUFFER) };
}

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

/// Why a direction came to a sudden end.
enum Broken {
    /// Its source failed.
    Read,
    /// Its target takes no more; what that has sent may still be there to be read.
    Write,
}

/// One direction. It holds a buffer only while there are bytes in it.
#[derive(Default)]
struct Pipe {
    buffer: Vec<u8>,
    /// What of the buffer was written.
    start: usize,
    ended: bool,
    closed: bool,
    moved: u64,
}

/// Copies until both directions have ended, one has failed, or nothing has
/// moved for `idle`. An end is passed on, and the other direction goes on
/// (half-close). A failure is passed on as a reset. A stream that takes no more
/// may have said why: for a moment it is still read.
pub async fn run(mut first: Stream, mut second: Stream, timers: &Timers, idle: Duration) -> Relayed {
    let (mut there, mut back) = (Pipe::default(), Pipe::default());
    let mut timer = timers.at(clock::now() + idle);
    let (mut seen, mut refused) = (0, false);
    let (end, abrupt) = std::future::poll_fn(|cx| {
        let done_there = there.poll(&mut first, &mut second, cx);
        let done_back = back.poll(&mut second, &mut first, cx);
        match (done_there, done_back) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready((End::Closed, false)),
            (Poll::Ready(Err(Broken::Write)), Poll::Pending)
            | (Poll::Pending, Poll::Ready(Err(Broken::Write))) => {
                if !std::mem::replace(&mut refused, true) {
                    timer.arm(clock::now() + LAST_WORDS);
                }
                return timer.poll_fired(cx).map(|()| (End::Failed, true));
            }
            // What was said before the end is not taken back.
            (Poll::Ready(Err(_)), other) | (other, Poll::Ready(Err(_))) => {
                return Poll::Ready((End::Failed, !matches!(other, Poll::Ready(Ok(())))));
            }
            _ => {}
        }
        let moved = there.moved + back.moved;
        if moved != seen {
            seen = moved;
            timer.arm(clock::now() + idle);
        }
        timer.poll_fired(cx).map(|()| (End::Idle, false))
    })
    .await;
    if abrupt {
        first.reset_on_close();
        second.reset_on_close();
    }
    Relayed { sent: there.moved, received: back.moved, end }
}

impl Pipe {
    fn poll(&mut self, from: &mut Stream, to: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            ready!(self.poll_write(to, cx)).map_err(|_| Broken::Write)?;
            if self.ended {
                self.give_up();
                if !self.closed {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(|_| Broken::Write)?;
                    self.closed = true;
                }
                return Poll::Ready(Ok(()));
            }
            match self.poll_read(from, cx) {
                Poll::Ready(read) => self.ended = read.map_err(|_| Broken::Read)? == 0,
                Poll::Pending => {
                    self.give_up();
                    ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|_| Broken::Write)?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Writes what is in the buffer, which is empty after it.
    fn poll_write(&mut self, to: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.start < self.buffer.len() {
            let wrote = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer[self.start..]))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start += wrote;
            self.moved += wrote as u64;
        }
        self.buffer.clear();
        self.start = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, from: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() == 0 {
            // Asked first: what waits holds no buffer.
            if let Some(tcp) = from.tcp() {
                ready!(tcp.poll_read_ready(cx))?;
            }
            self.buffer = SPARE.with(Spare::take);
        }
        pin!(from.read_buf(&mut self.buffer)).poll(cx)
    }

    fn give_up(&mut self) {
        SPARE.with(|spare| spare.give(std::mem::take(&mut self.buffer)));
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.give_up();
    }
}
