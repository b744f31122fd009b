//! One HTTP/1 connection: its socket, what was read and not yet taken, what is
//! to be written and was not yet.
//!
//! Reader and writer of a connection are different futures on one thread, so
//! the parts sit behind a `RefCell` that is borrowed for the time of one poll.
//! A connection that waits holds no buffer: bytes are read into the worker's
//! scratch space, and what they hold is copied out.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::decode::{Decoded, Decoder};
use super::head::{self, HeadScanner};
use super::output::Output;
use crate::base::Limits;
use crate::base::{ProxyError, Reason};
use crate::codec::Stream;
use crate::codec::guard::Framing;

/// Bytes asked of a socket at a time.
const READ: usize = 64 * 1024;
/// A body with at least this much to come is read into a buffer of its own.
const DIRECT: u64 = 16 * 1024;
thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// See the module's text.
pub struct Transport(RefCell<Inner>);

struct Inner {
    stream: Stream,
    input: BytesMut,
    scanner: HeadScanner,
    /// The peer has said all it will say.
    ended: bool,
    decoder: Decoder,
    /// Counts messages, so that a body that outlives its message reads nothing.
    message: u32,
    continue_due: bool,
    output: Output,
}

/// Why no head came.
pub enum NoHead {
    /// The peer ended the connection; `clean` if before the first byte of a head.
    Ended {
        /// Nothing of a head had come.
        clean: bool,
    },
    /// The socket failed.
    Failed(io::Error),
    /// The bytes are no head, or too many.
    Refused(ProxyError),
}

/// How a peer has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It will say no more; it may still listen.
    Ended,
    /// The connection failed.
    Failed,
}

/// Why a body did not go on.
pub enum NoBody {
    /// The connection ended within it.
    Ended,
    /// The bytes are no body.
    Malformed(&'static str),
    /// The connection has gone on to another message.
    Over,
}

impl Transport {
    /// A connection of which nothing was read.
    pub fn new(stream: Stream) -> Self {
        Self(RefCell::new(Inner {
            stream,
            input: BytesMut::new(),
            scanner: HeadScanner::default(),
            ended: false,
            decoder: Decoder::new(Framing::None),
            message: 0,
            continue_due: false,
            output: Output::default(),
        }))
    }

    /// Reads on until a head is complete, and gives it to `parse`.
    pub fn poll_head<T>(
        &self,
        cx: &mut Context<'_>,
        limits: &Limits,
        mut parse: impl FnMut(&[u8]) -> Result<T, ProxyError>,
    ) -> Poll<Result<T, NoHead>> {
        let inner = &mut *self.0.borrow_mut();
        if !inner.input.is_empty()
            && let Some(result) = inner.head_in_input(limits, &mut parse)
        {
            return Poll::Ready(result);
        }
        loop {
            if inner.ended {
                return Poll::Ready(Err(NoHead::Ended { clean: inner.input.is_empty() }));
            }
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let read = ready!(read_into(&mut inner.stream, scratch, cx));
                Poll::Ready(match read {
                    Err(error) => Err(NoHead::Failed(error)),
                    Ok(0) => {
                        inner.ended = true;
                        Ok(None)
                    }
                    Ok(length) if inner.input.is_empty() => {
                        Ok(inner.head_in_scratch(&scratch[..length], limits, &mut parse))
                    }
                    Ok(length) => {
                        inner.input.extend_from_slice(&scratch[..length]);
                        Ok(inner.head_in_input(limits, &mut parse))
                    }
                })
            });
            if let Some(result) = ready!(read)? {
                return Poll::Ready(result);
            }
        }
    }

    /// Whether bytes are here that nobody has taken.
    pub fn has_input(&self) -> bool {
        !self.0.borrow().input.is_empty()
    }

    /// Whether the first line of the head at hand is complete.
    pub fn past_first_line(&self) -> bool {
        self.0.borrow().scanner.past_first_line()
    }

    /// A message with a body begins. Returns its number, for [`Self::poll_body`].
    pub fn begin_body(&self, framing: Framing, expects_continue: bool) -> u32 {
        let inner = &mut *self.0.borrow_mut();
        inner.decoder = Decoder::new(framing);
        inner.message = inner.message.wrapping_add(1);
        inner.continue_due = expects_continue;
        inner.message
    }

    /// An answer begins: from here on, 100 Continue would be part of it.
    pub fn withhold_continue(&self) {
        self.0.borrow_mut().continue_due = false;
    }

    /// Nobody will take the rest of the body any more.
    pub fn abandon_body(&self) {
        let inner = &mut *self.0.borrow_mut();
        inner.message = inner.message.wrapping_add(1);
        inner.continue_due = false;
    }

    /// Whether the body was taken whole.
    pub fn body_is_done(&self) -> bool {
        self.0.borrow().decoder.is_done()
    }

    /// Bytes of the body still to come, where that is known.
    pub fn body_remaining(&self, message: u32) -> Option<u64> {
        let inner = self.0.borrow();
        if inner.message == message { inner.decoder.remaining() } else { Some(0) }
    }

    /// The next part of the body of message number `message`; `None` at its end.
    pub fn poll_body(
        &self,
        cx: &mut Context<'_>,
        message: u32,
    ) -> Poll<Option<Result<Frame<Bytes>, NoBody>>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.message != message {
            return Poll::Ready(Some(Err(NoBody::Over)));
        }
        if inner.continue_due {
            inner.continue_due = false;
            inner.output.buffer().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            // What the socket does not take now is written by whoever answers: only
            // one task may wait for the socket to take more.
            let _ = inner.output.poll_flush(&mut inner.stream, &mut Context::from_waker(Waker::noop()));
        }
        loop {
            match inner.decoder.decode(&mut inner.input) {
                Err(detail) => return Poll::Ready(Some(Err(NoBody::Malformed(detail)))),
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Decoded::Trailers(trailers)) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::More) => {}
            }
            let filled = if inner.ended { Ok(0) } else { ready!(inner.poll_fill(cx)) };
            if matches!(filled, Ok(1..)) {
                continue;
            }
            inner.ended = true;
            // A reset is no end: what came before it may not be all.
            let complete = filled.is_ok() && inner.decoder.end_of_connection();
            return Poll::Ready(if complete { None } else { Some(Err(NoBody::Ended)) });
        }
    }

    /// Ready when the peer has gone while nothing is expected of it. Bytes that
    /// come early are kept.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<Gone> {
        let inner = &mut *self.0.borrow_mut();
        if inner.ended {
            return Poll::Ready(Gone::Ended);
        }
        if !inner.decoder.is_done() || !inner.input.is_empty() {
            return Poll::Pending;
        }
        match ready!(inner.poll_fill(cx)) {
            Ok(1..) => Poll::Pending,
            Ok(0) => {
                inner.ended = true;
                Poll::Ready(Gone::Ended)
            }
            Err(_) => {
                inner.ended = true;
                Poll::Ready(Gone::Failed)
            }
        }
    }

    /// Whether an idle connection can't serve another request: the peer has
    /// closed it, or has said something unasked. With `ask`, the kernel is
    /// asked; else what the reactor has seen so far is believed.
    pub fn is_stale(&self, ask: bool) -> bool {
        if self.poll_gone(&mut Context::from_waker(Waker::noop())).is_ready() || self.has_input() {
            return true;
        }
        let inner = self.0.borrow();
        let Some(tcp) = inner.stream.tcp().filter(|_| ask) else { return false };
        let mut byte = [MaybeUninit::uninit()];
        match socket2::SockRef::from(tcp).peek(&mut byte) {
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            Ok(_) => true,
        }
    }

    /// The output buffer, to write small things to.
    pub fn with_output(&self, write: impl FnOnce(&mut Vec<u8>)) {
        write(self.0.borrow_mut().output.buffer());
    }

    /// Adds bytes of a body, followed by `tail`. What was added before must be
    /// flushed unless it is small.
    pub fn queue(&self, data: Bytes, tail: &'static [u8]) {
        let output = &mut self.0.borrow_mut().output;
        output.queue(data, tail);
    }

    /// Whether something waits for the socket.
    pub fn has_output(&self) -> bool {
        !self.0.borrow().output.is_empty()
    }

    /// Whether a next part can be queued without a flush.
    pub fn can_queue(&self) -> bool {
        self.0.borrow().output.can_queue()
    }

    /// Writes what is queued.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        inner.output.poll_flush(&mut inner.stream, cx)
    }

    /// Bytes that the socket has taken since the connection began.
    pub fn written(&self) -> u64 {
        self.0.borrow().output.written()
    }

    /// Says that no more will be written.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_shutdown(cx)
    }

    /// Reads and throws away; ready with the number of bytes, 0 at the end.
    pub fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<usize> {
        let inner = &mut *self.0.borrow_mut();
        inner.input = BytesMut::new();
        SCRATCH.with_borrow_mut(|scratch| {
            let read = ready!(read_into(&mut inner.stream, scratch, cx));
            Poll::Ready(read.unwrap_or(0))
        })
    }

    /// Makes the close a reset, so that the peer can't take what it has for
    /// whole; or not.
    pub fn reset_on_close(&self, reset: bool) {
        if let Some(tcp) = self.0.borrow().stream.tcp() {
            let _ = socket2::SockRef::from(tcp).set_linger(reset.then_some(Duration::ZERO));
        }
    }

    /// Writes a 1xx answer, as far as the socket takes it now.
    pub fn send_interim(&self, status: StatusCode, headers: &HeaderMap) {
        let inner = &mut *self.0.borrow_mut();
        inner.continue_due &= status != StatusCode::CONTINUE;
        if inner.output.takes_small() {
            let out = inner.output.buffer();
            head::write_response(out, status, headers);
            out.extend_from_slice(b"\r\n");
            let _ = inner.output.poll_flush(&mut inner.stream, &mut Context::from_waker(Waker::noop()));
        }
    }

    /// Gives up the connection as a stream, with what was read and not taken.
    pub fn into_stream(self) -> Stream {
        let inner = self.0.into_inner();
        inner.stream.with_prefix(inner.input.freeze())
    }
}

impl Inner {
    fn head_in_input<T>(
        &mut self,
        limits: &Limits,
        parse: &mut impl FnMut(&[u8]) -> Result<T, ProxyError>,
    ) -> Option<Result<T, NoHead>> {
        match self.scanner.scan(&self.input) {
            Err(detail) => Some(Err(malformed(detail))),
            Ok(Some(span)) if span.end > limits.header_bytes => Some(Err(self.too_large(limits))),
            Ok(Some(span)) => {
                self.scanner = HeadScanner::default();
                let head = self.input.split_to(span.end);
                if self.input.is_empty() {
                    self.input = BytesMut::new();
                }
                Some(parse(&head[span.start..]).map_err(NoHead::Refused))
            }
            Ok(None) if self.input.len() >= limits.header_bytes => Some(Err(self.too_large(limits))),
            Ok(None) if !self.scanner.past_first_line() && self.input.len() > limits.target + 256 => {
                Some(Err(self.too_large(limits)))
            }
            Ok(None) => None,
        }
    }

    fn head_in_scratch<T>(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
        parse: &mut impl FnMut(&[u8]) -> Result<T, ProxyError>,
    ) -> Option<Result<T, NoHead>> {
        match self.scanner.scan(bytes) {
            Ok(Some(span)) if span.end <= limits.header_bytes => {
                self.scanner = HeadScanner::default();
                if bytes.len() > span.end {
                    self.input.extend_from_slice(&bytes[span.end..]);
                }
                Some(parse(&bytes[span.start..span.end]).map_err(NoHead::Refused))
            }
            _ => {
                self.scanner = HeadScanner::default();
                self.input.extend_from_slice(bytes);
                self.head_in_input(limits, parse)
            }
        }
    }

    fn too_large(&self, limits: &Limits) -> NoHead {
        let within_target = !self.scanner.past_first_line() && self.input.len() > limits.target;
        NoHead::Refused(if within_target {
            ProxyError::unsent(Reason::TargetTooLong, "the first line is longer than limits.target")
                .over("target")
        } else {
            ProxyError::unsent(Reason::HeaderTooLarge, "the head is larger than limits.header_bytes")
                .over("header_bytes")
        })
    }

    /// Reads on into `input`.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        if self.decoder.remaining().is_some_and(|left| left < DIRECT) {
            return SCRATCH.with_borrow_mut(|scratch| {
                let length = ready!(read_into(&mut self.stream, scratch, cx))?;
                self.input.extend_from_slice(&scratch[..length]);
                Poll::Ready(Ok(length))
            });
        }
        // Ask first: a body that waits holds no buffer.
        if let Some(tcp) = self.stream.tcp() {
            ready!(tcp.poll_read_ready(cx))?;
        }
        self.input.reserve(READ);
        let read = pin!(self.stream.read_buf(&mut self.input)).poll(cx);
        if read.is_pending() && self.input.is_empty() {
            self.input = BytesMut::new();
        }
        read
    }
}

fn read_into(stream: &mut Stream, buffer: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(buffer);
    ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

fn malformed(detail: &'static str) -> NoHead {
    NoHead::Refused(ProxyError::unsent(Reason::MalformedRequest, detail))
}
