//! What is spoken on a connection, by its first bytes, which stay in front of
//! what the caller has to say.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

use crate::base::clock;
use crate::base::timers::{TICK, Timer, Timers};
use crate::codec::client_hello::{self, Hello};
use crate::codec::{FAREWELL, ServerContext, Stream};

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// HTTP/1, or what a caller takes for it.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// TLS: a ClientHello.
    Tls,
    /// PostgreSQL: a startup message, or the wish for encryption.
    Postgres,
    /// Something else.
    Opaque,
    /// Nothing came, or not enough.
    Nothing,
    /// Nothing has come in the time that was given.
    Silent,
}

/// What a listener can make use of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Anything: it is known where the connection goes.
    Any,
    /// HTTP, well-formed or not.
    Http,
    /// HTTP and TLS, which say where they want to go.
    Addressed,
}

/// The longest pause between two looks at bytes that do not tell yet.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// Bytes that are looked at.
const LOOK: usize = 16;

/// A caller's stream, at whose first bytes somebody looks.
pub struct Look {
    stream: Stream,
    /// Seen so far. A socket has them still; of any other stream they were read.
    seen: BytesMut,
    /// When the first byte came, if it did not tell enough.
    begun: Option<Instant>,
    /// Until the next look at a socket: the reactor tells of new bytes only once
    /// those at hand are taken.
    pause: Option<Timer>,
    next_pause: Duration,
}

impl Look {
    /// Nothing was looked at yet.
    pub fn new(stream: Stream) -> Self {
        Self { stream, seen: BytesMut::new(), begun: None, pause: None, next_pause: TICK }
    }

    /// When the first byte came, if there was a wait for more.
    pub fn begun(&self) -> Option<Instant> {
        self.begun
    }

    /// The stream with everything that it has to say.
    pub fn into_stream(self) -> Stream {
        match self.stream {
            Stream::Tcp(_) => self.stream,
            other => other.with_prefix(self.seen.freeze()),
        }
    }

    /// Looks at the first bytes. Where none has come within `patience`, it says
    /// so, and may be asked again. It holds no buffer while none have come.
    pub async fn first(
        &mut self,
        context: &ServerContext,
        expect: Expect,
        patience: Option<Duration>,
    ) -> First {
        let mut timer = context.timers.at(match self.begun {
            Some(begun) => begun + context.limits.header_timeout,
            None => clock::now() + patience.unwrap_or(context.limits.connection_idle),
        });
        let mut leaving = false;
        std::future::poll_fn(|cx| {
            loop {
                match self.poll_first(cx, &context.timers, expect) {
                    Poll::Ready(Some(first)) => return Poll::Ready(first),
                    Poll::Ready(None) if self.begun.is_none() => {
                        let now = clock::now();
                        self.begun = Some(now);
                        timer.arm(now + context.limits.header_timeout);
                    }
                    Poll::Ready(None) => {}
                    Poll::Pending => break,
                }
            }
            if self.begun.is_none() && patience == Some(Duration::ZERO) {
                return Poll::Ready(First::Silent);
            }
            if context.is_draining() && !leaving {
                // A request may be on its way.
                leaving = true;
                timer.arm(clock::now() + FAREWELL);
            }
            ready!(timer.poll_fired(cx));
            Poll::Ready(match (self.begun, patience) {
                (None, Some(_)) if !leaving => First::Silent,
                (None, _) => First::Nothing,
                // It can't become clear any more.
                (Some(_), _) if expect == Expect::Any => First::Opaque,
                (Some(_), _) => First::Http1,
            })
        })
        .await
    }

    /// Looks on until the hello of a TLS connection tells its name, or can't.
    pub async fn hello(&mut self, context: &ServerContext) -> Hello {
        let now = clock::now();
        let begun = *self.begun.get_or_insert(now);
        let mut timer = context.timers.at(begun + context.limits.header_timeout);
        std::future::poll_fn(|cx| {
            loop {
                let hello = client_hello::server_name(&self.seen);
                if hello != Hello::More {
                    return Poll::Ready(hello);
                }
                match self.poll_more(cx, &context.timers, client_hello::MOST) {
                    Poll::Ready(Ok(true)) => {}
                    Poll::Ready(Ok(false) | Err(_)) => return Poll::Ready(Hello::Malformed),
                    Poll::Pending => break,
                }
            }
            timer.poll_fired(cx).map(|()| Hello::Malformed)
        })
        .await
    }

    /// Ready with `None` where the bytes at hand can still become more than one thing.
    fn poll_first(&mut self, cx: &mut Context<'_>, timers: &Timers, expect: Expect) -> Poll<Option<First>> {
        if let Stream::Tcp(tcp) = &self.stream
            && self.seen.is_empty()
        {
            let mut bytes = [0; LOOK];
            let mut buffer = ReadBuf::new(&mut bytes);
            return Poll::Ready(match ready!(tcp.poll_peek(cx, &mut buffer)) {
                Ok(0) | Err(_) => Some(First::Nothing),
                Ok(_) => {
                    let first = decide(buffer.filled(), expect);
                    if first.is_none() {
                        self.seen.extend_from_slice(buffer.filled());
                    }
                    first
                }
            });
        }
        match ready!(self.poll_more(cx, timers, LOOK)) {
            Ok(true) => Poll::Ready(decide(&self.seen, expect)),
            Ok(false) | Err(_) if self.seen.is_empty() => Poll::Ready(Some(First::Nothing)),
            Ok(false) | Err(_) if expect == Expect::Any => Poll::Ready(Some(First::Opaque)),
            Ok(false) | Err(_) => Poll::Ready(Some(First::Http1)),
        }
    }

    /// Ready with true when more is seen than before, with false at the end of
    /// the stream. At most `most` bytes of a socket are seen.
    fn poll_more(&mut self, cx: &mut Context<'_>, timers: &Timers, most: usize) -> Poll<io::Result<bool>> {
        let Stream::Tcp(tcp) = &self.stream else {
            let mut bytes = [0; 1024];
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            self.seen.extend_from_slice(buffer.filled());
            return Poll::Ready(Ok(!buffer.filled().is_empty()));
        };
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.poll_fired(cx));
                self.pause = None;
            }
            let mut bytes = vec![0; most];
            let mut buffer = ReadBuf::new(&mut bytes);
            if ready!(tcp.poll_peek(cx, &mut buffer))? == 0 {
                return Poll::Ready(Ok(false));
            }
            if buffer.filled().len() > self.seen.len() {
                self.seen.clear();
                self.seen.extend_from_slice(buffer.filled());
                return Poll::Ready(Ok(true));
            }
            self.pause = Some(timers.at(clock::now() + self.next_pause));
            self.next_pause = (self.next_pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// What `bytes`, the first of a connection, begin; `None` while they can still
/// become more than one thing.
fn decide(bytes: &[u8], expect: Expect) -> Option<First> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0";
    let looked = &bytes[..bytes.len().min(PREFACE.len())];
    if PREFACE.starts_with(looked) {
        return (looked.len() >= 3).then_some(First::Http2);
    }
    if expect == Expect::Http {
        return Some(First::Http1);
    }
    match bytes {
        // A record that holds a handshake (RFC 8446, section 5.1).
        [0x16, 0x03, ..] => Some(First::Tls),
        [0x16] => None,
        _ if is_postgres(bytes) => Some(First::Postgres),
        // No HTTP begins so, and no one knows where it is to go.
        [first, ..] if expect == Expect::Addressed => {
            let text =
                !first.is_ascii_control() && first.is_ascii() || matches!(first, b'\r' | b'\n' | b'\t');
            Some(if text { First::Http1 } else { First::Opaque })
        }
        _ => is_method(bytes).map(|is| if is { First::Http1 } else { First::Opaque }),
    }
}

/// Whether PostgreSQL is spoken: a length, and the code of one of the messages
/// that may come first (PostgreSQL's documentation, "Message Formats":
/// `StartupMessage` of protocol 3, `CancelRequest`, `SSLRequest`, `GSSENCRequest`).
fn is_postgres(bytes: &[u8]) -> bool {
    let [a, b, c, d, code @ ..] = bytes else { return false };
    let length = u32::from_be_bytes([*a, *b, *c, *d]);
    match code {
        [0x04, 0xd2, 0x16, 0x2e, ..] => (16..=268).contains(&length),
        [0x04, 0xd2, 0x16, 0x2f | 0x30, ..] => length == 8,
        [0x00, 0x03, 0x00, _, ..] => (9..=10_000).contains(&length),
        _ => false,
    }
}

/// Whether a known method and a space stand at the beginning; `None` while it
/// can still become one.
fn is_method(bytes: &[u8]) -> Option<bool> {
    const METHODS: [&[u8]; 16] = [
        b"GET ",
        b"POST ",
        b"PUT ",
        b"DELETE ",
        b"HEAD ",
        b"OPTIONS ",
        b"PATCH ",
        b"CONNECT ",
        b"TRACE ",
        b"PROPFIND ",
        b"PROPPATCH ",
        b"MKCOL ",
        b"COPY ",
        b"MOVE ",
        b"REPORT ",
        b"QUERY ",
    ];
    let mut open = false;
    for method in METHODS {
        let looked = &bytes[..bytes.len().min(method.len())];
        if method.starts_with(looked) {
            if looked.len() == method.len() {
                return Some(true);
            }
            open = true;
        }
    }
    (!open).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell() {
        use First::{Http1, Http2, Opaque, Postgres, Tls};
        for (bytes, any, addressed, http) in [
            (&b"G"[..], None, Some(Http1), Some(Http1)),
            (b"GET / HTTP/1.1", Some(Http1), Some(Http1), Some(Http1)),
            (b"P", None, None, None),
            (b"PR", None, None, None),
            (b"PRI", Some(Http2), Some(Http2), Some(Http2)),
            (b"PRO", None, Some(Http1), Some(Http1)),
            (b"PRI * HTTP/2.0\r\n", Some(Http2), Some(Http2), Some(Http2)),
            (b"PRI / HTTP/1.1\r\n", Some(Opaque), Some(Http1), Some(Http1)),
            (b"PING\r\n", Some(Opaque), Some(Http1), Some(Http1)),
            (b"\x16", None, None, Some(Http1)),
            (b"\x16\x03\x01", Some(Tls), Some(Tls), Some(Http1)),
            (b"\x16\x04", Some(Opaque), Some(Opaque), Some(Http1)),
            (b"get / ", Some(Opaque), Some(Http1), Some(Http1)),
            (b"\r\nGET / ", Some(Opaque), Some(Http1), Some(Http1)),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Some(Postgres), Some(Postgres), Some(Http1)),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x30", Some(Postgres), Some(Postgres), Some(Http1)),
            (b"\x00\x00\x00\x10\x04\xd2\x16\x2e", Some(Postgres), Some(Postgres), Some(Http1)),
            (b"\x00\x00\x00\x50\x00\x03\x00\x00user", Some(Postgres), Some(Postgres), Some(Http1)),
            (b"\x00\x00\x00\x09\x04\xd2\x16\x2f", Some(Opaque), Some(Opaque), Some(Http1)),
            (b"\xff\xf4", Some(Opaque), Some(Opaque), Some(Http1)),
            (b"AMQP\x00\x00\x09\x01", Some(Opaque), Some(Http1), Some(Http1)),
        ] {
            assert_eq!(decide(bytes, Expect::Any), any, "{bytes:?}");
            assert_eq!(decide(bytes, Expect::Addressed), addressed, "{bytes:?}, addressed");
            assert_eq!(decide(bytes, Expect::Http), http, "{bytes:?}, HTTP only");
        }
    }

    #[test]
    fn whatever_comes_is_decided_within_a_few_bytes() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..LOOK).map(|_| random.u8(..)).collect();
            for expect in [Expect::Any, Expect::Http, Expect::Addressed] {
                let decided = decide(&bytes, expect);
                assert!(decided.is_some(), "{bytes:?} {expect:?}");
                // What some bytes have decided, more of them do not change.
                for length in 1..LOOK {
                    let early = decide(&bytes[..length], expect);
                    let stays = early.is_none() || early == decided || decided == Some(First::Postgres);
                    assert!(stays, "{bytes:?} at {length}: {early:?}, then {decided:?}");
                }
            }
        }
    }
}
