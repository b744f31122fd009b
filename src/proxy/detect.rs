//! What is spoken on a connection, by its first bytes, which stay where they are.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use crate::base::timers::TICK;
use crate::codec::{FAREWELL, ServerContext};

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// HTTP/1, or what a caller takes for it.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// Something else.
    Opaque,
    /// Nothing came.
    Nothing,
}

/// The longest pause between two looks at bytes that do not tell yet.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// Bytes that are looked at.
const LOOK: usize = 16;

/// Looks at the first bytes of a connection, and tells when the first one came
/// if it had to wait for more. It holds no buffer while none have come. With
/// `only_http`, everything is HTTP, well-formed or not.
pub async fn first(tcp: &TcpStream, context: &ServerContext, only_http: bool) -> (First, Option<Instant>) {
    let mut timer = context.timers.at(Instant::now() + context.limits.connection_idle);
    let (mut begun, mut leaving, mut pause) = (None, false, TICK);
    loop {
        let peeked = std::future::poll_fn(|cx| {
            if let Poll::Ready(found) = peek(tcp, cx, only_http) {
                return Poll::Ready(found);
            }
            if context.is_draining() && !leaving {
                // A request may be on its way.
                leaving = true;
                timer.arm(Instant::now() + FAREWELL);
            }
            timer.poll_fired(cx).map(|()| Some(First::Nothing))
        })
        .await;
        match peeked {
            Some(found) => return (found, begun),
            None if begun.is_none() => {
                begun = Some(Instant::now());
                timer.arm(Instant::now() + context.limits.header_timeout);
            }
            None if !timer.is_armed() => return (First::Nothing, begun),
            None => {}
        }
        // The reactor tells of new bytes only once those at hand are taken.
        context.timers.at(Instant::now() + pause).fired().await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// `None` while the bytes at hand can still become more than one thing.
fn peek(tcp: &TcpStream, cx: &mut Context<'_>, only_http: bool) -> Poll<Option<First>> {
    let mut bytes = [0; LOOK];
    let mut buffer = ReadBuf::new(&mut bytes);
    match std::task::ready!(tcp.poll_peek(cx, &mut buffer)) {
        Ok(0) | Err(_) => Poll::Ready(Some(First::Nothing)),
        Ok(_) => Poll::Ready(decide(buffer.filled(), only_http)),
    }
}

/// What `bytes`, the first of a connection, begin.
pub fn decide(bytes: &[u8], only_http: bool) -> Option<First> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0";
    let looked = &bytes[..bytes.len().min(PREFACE.len())];
    if PREFACE.starts_with(looked) {
        return (looked.len() >= 3).then_some(First::Http2);
    }
    if only_http || is_method(bytes)? { Some(First::Http1) } else { Some(First::Opaque) }
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
        for (bytes, any, http) in [
            (&b"G"[..], None, Some(First::Http1)),
            (b"GET / HTTP/1.1", Some(First::Http1), Some(First::Http1)),
            (b"P", None, None),
            (b"PR", None, None),
            (b"PRI", Some(First::Http2), Some(First::Http2)),
            (b"PRO", None, Some(First::Http1)),
            (b"PRI * HTTP/2.0\r\n", Some(First::Http2), Some(First::Http2)),
            (b"PRI / HTTP/1.1\r\n", Some(First::Opaque), Some(First::Http1)),
            (b"PING\r\n", Some(First::Opaque), Some(First::Http1)),
            (b"\x16\x03\x01", Some(First::Opaque), Some(First::Http1)),
            (b"get / ", Some(First::Opaque), Some(First::Http1)),
        ] {
            assert_eq!(decide(bytes, false), any, "{bytes:?}");
            assert_eq!(decide(bytes, true), http, "{bytes:?}, HTTP only");
        }
    }
}
