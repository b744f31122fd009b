//! A caller that is silent may wait for its server to speak first. So the
//! upstream is dialled while the caller is silent, and whoever speaks first
//! decides what the connection is.
//!
//! To dial costs the upstream a connection, so it is done only after a short
//! pause, for a bounded number of callers; and what was seen of an upstream
//! before makes the pause shorter or longer.

use std::rc::Rc;
use std::time::Duration;

use super::connection::Door;
use super::detect::{Expect, First, Look};
use super::router::Route;
use super::steer;
use super::tunnel::{self, Dialled};
use crate::base::Reason;
use crate::base::clock;
use crate::codec::Stream;
use crate::upstream::Learned;

/// How long a caller may be silent before the upstream is dialled: one that
/// speaks first has nearly always done so by then.
const PAUSE: Duration = Duration::from_millis(8);
/// The same, where callers were seen to speak HTTP: most silent ones are
/// connections kept in store.
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// How often a connection that was made ahead is looked at: somebody else may need it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What the upstream's side says first.
enum Spoke {
    /// Something that is no answer of an HTTP server.
    Itself,
    /// An HTTP server complains of the silence; or the connection is given up.
    Gone,
    /// It ends without a word.
    Ended,
    /// The settings of an HTTP/2 server, which wait for nobody.
    Http2,
}

/// How long to wait for a caller of this route before its upstream is dialled.
pub fn pause(route: &Route) -> Duration {
    match route.upstream.learned() {
        Learned::ServerFirst => Duration::ZERO,
        Learned::Nothing => PAUSE,
        Learned::Http => LONG_PAUSE,
    }
}

/// Dials the upstream of a caller that is silent and listens to both.
pub async fn race(door: &Rc<Door>, route: &Rc<Route>, look: &mut Look) -> (First, Option<Box<Dialled>>) {
    let context = &door.context;
    // A bounded number of connections is not spent on callers that need none yet.
    let pointless = route.upstream.learned() == Learned::Http && route.upstream.is_limited();
    let room = if pointless { None } else { door.worker.may_dial_ahead() };
    let Some(room) = room else {
        return (look.first(context, Expect::Any, None).await, None);
    };
    let dialled = tokio::select! {
        biased;
        first = look.first(context, Expect::Any, None) => return (first, None),
        dialled = tunnel::dial(door, route) => dialled,
    };
    let upstream = match dialled {
        Ok(upstream) => upstream,
        // A connection in store need not know that its upstream is away.
        Err(_) if route.upstream.learned() == Learned::Http => {
            drop(room);
            return (look.first(context, Expect::Any, None).await, None);
        }
        Err(error) => {
            drop(room);
            // A captured caller of HTTP says where it really goes.
            if door.original.is_some()
                && let first = look.first(context, Expect::Any, Some(LONG_PAUSE)).await
                && first != First::Silent
            {
                return (first, None);
            }
            if error.reason == Reason::EgressDenied {
                return (First::Opaque, None);
            }
            tunnel::closed(door, route, &error);
            return (First::Nothing, None);
        }
    };
    let spoke = tokio::select! {
        biased;
        first = look.first(context, Expect::Any, None) => return (first, use_for(door, first, upstream)),
        spoke = listen(&upstream.stream) => spoke,
        () = needed(door, route) => Spoke::Gone,
    };
    // What it was needed for is over.
    drop(room);
    match spoke {
        Spoke::Itself => {
            route.upstream.learn(Learned::ServerFirst);
            (First::Opaque, Some(Box::new(upstream)))
        }
        // Its caller waits for a word that does not come, and gets the end.
        Spoke::Ended if route.upstream.learned() == Learned::ServerFirst => {
            (First::Opaque, Some(Box::new(upstream)))
        }
        spoke @ (Spoke::Gone | Spoke::Ended | Spoke::Http2) => {
            if matches!(spoke, Spoke::Http2) {
                route.upstream.learn(Learned::Http);
            }
            upstream.active.forget();
            drop(upstream);
            (look.first(context, Expect::Any, None).await, None)
        }
    }
}

/// What becomes of the connection once the caller has spoken first.
fn use_for(door: &Door, first: First, upstream: Dialled) -> Option<Box<Dialled>> {
    match first {
        // It may go elsewhere.
        First::Tls if steer::is_open(door) => upstream.active.forget(),
        First::Tls | First::Postgres | First::Opaque => return Some(Box::new(upstream)),
        // What carries the name of one caller is nothing for another's requests.
        First::Http1 if !upstream.told => {
            upstream.active.forget();
            upstream.active.endpoint().keep(upstream.stream);
        }
        _ => upstream.active.forget(),
    }
    None
}

/// Ready when a connection that nobody uses yet is better given up: callers of
/// HTTP wait for one.
async fn needed(door: &Door, route: &Route) {
    if !route.upstream.is_limited() {
        return std::future::pending().await;
    }
    let mut timer = door.worker.timers.timer();
    loop {
        timer.arm(clock::now() + LOOK_AGAIN);
        timer.fired().await;
        if route.upstream.learned() == Learned::Http && route.upstream.is_short() {
            return;
        }
    }
}

/// Waits until the upstream's side speaks or ends.
async fn listen(stream: &Stream) -> Spoke {
    let Some(tcp) = stream.tcp() else { return std::future::pending().await };
    let mut bytes = [0; 9];
    match tcp.peek(&mut bytes).await {
        Ok(0) | Err(_) => Spoke::Ended,
        Ok(length) => spoke(&bytes[..length]),
    }
}

fn spoke(bytes: &[u8]) -> Spoke {
    // RFC 9113, section 3.4: a SETTINGS frame, which is no ACK, of stream 0.
    match bytes {
        [_, _, _, 4, 0, 0, 0, 0, 0, ..] => Spoke::Http2,
        _ if bytes.starts_with(b"HTTP/") => Spoke::Gone,
        _ => Spoke::Itself,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_server_is_told_from_one_that_speaks_first() {
        assert!(matches!(spoke(b"\0\0\x12\x04\0\0\0\0\0"), Spoke::Http2));
        assert!(matches!(spoke(b"HTTP/1.1 "), Spoke::Gone));
        for greeting in [&b"220 mail "[..], b"J\0\0\0\x0a5.7", b"SSH-2.0-x", b"*", b"\0\0\0\x04\x01\0\0\0\0"]
        {
            assert!(matches!(spoke(greeting), Spoke::Itself), "{greeting:?}");
        }
    }
}
