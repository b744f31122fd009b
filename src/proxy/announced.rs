//! Connections that begin with a header of the PROXY protocol: who the caller
//! is. It is taken off before anybody looks at what is spoken.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::worker::Worker;
use crate::base::clock;
use crate::base::{Network, Reason};
use crate::codec::proxy_protocol::{self, Header};
use crate::codec::{FAREWELL, ServerContext};
use crate::telemetry::names;
use crate::telemetry::record::Direction;

/// Bytes that are looked at in one go; most headers are shorter.
const LOOK: usize = 256;

/// Why a connection has no caller.
#[derive(Clone, Copy)]
enum Failed {
    /// It ended before it had said anything, as a check of a load balancer does.
    Silent,
    /// It ended within the header, or has none.
    Malformed,
    /// The header did not come in time.
    Slow,
}

/// Whether a connection of `peer` has to begin with a header, where those of
/// `networks` do.
pub fn is_due(networks: &[Network], peer: SocketAddr) -> bool {
    networks.iter().any(|network| network.contains(peer.ip()))
}

/// Takes the header off, and not one byte more: the caller that it names, or
/// `peer`. `None` where the connection is to end.
pub async fn caller(
    tcp: &TcpStream,
    peer: SocketAddr,
    worker: &Worker,
    direction: Direction,
) -> Option<SocketAddr> {
    let context = worker.context(direction);
    let taken = tokio::select! {
        biased;
        taken = take(tcp) => taken,
        () = too_long(&context) => Err(Failed::Slow),
    };
    match taken {
        Ok(Some(caller)) => Some(SocketAddr::new(caller.ip().to_canonical(), caller.port())),
        Ok(None) => Some(peer),
        Err(failed) => {
            refuse(worker, direction, peer, failed);
            None
        }
    }
}

async fn take(tcp: &TcpStream) -> Result<Option<SocketAddr>, Failed> {
    let mut header = Vec::new();
    loop {
        let mut bytes = [0; LOOK];
        let length = match tcp.peek(&mut bytes).await {
            Ok(length @ 1..) => length,
            _ if header.is_empty() => return Err(Failed::Silent),
            _ => return Err(Failed::Malformed),
        };
        let before = header.len();
        header.extend_from_slice(&bytes[..length]);
        let (end, caller) = match proxy_protocol::read(&header) {
            Header::More => (header.len(), None),
            Header::Whole { source, length } => (length, Some(source)),
            Header::Wrong => return Err(Failed::Malformed),
        };
        discard(tcp, &mut bytes[..end - before]).await?;
        if let Some(caller) = caller {
            return Ok(caller);
        }
    }
}

/// Reads over `seen`.
async fn discard(tcp: &TcpStream, mut seen: &mut [u8]) -> Result<(), Failed> {
    while !seen.is_empty() {
        tcp.readable().await.map_err(|_| Failed::Malformed)?;
        match tcp.try_read(seen) {
            Ok(read @ 1..) => seen = &mut seen[read..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => return Err(Failed::Malformed),
        }
    }
    Ok(())
}

/// Ready when no header can be waited for any more.
async fn too_long(context: &ServerContext) {
    let mut timer = context.timers.at(clock::now() + context.limits.header_timeout);
    let mut leaving = false;
    std::future::poll_fn(|cx| {
        if context.is_draining() && !leaving {
            leaving = true;
            timer.arm(clock::now() + FAREWELL);
        }
        timer.poll_fired(cx)
    })
    .await;
}

/// There is no way to tell the caller but to close.
fn refuse(worker: &Worker, direction: Direction, peer: SocketAddr, failed: Failed) {
    worker.metrics.counter(&names::CONNECTIONS, &[direction.as_str(), "none"]).increment(1);
    let (reason, what) = match failed {
        Failed::Silent => return,
        Failed::Malformed => (Reason::MalformedRequest, "does not begin with a header of the PROXY protocol"),
        Failed::Slow => (Reason::RequestTimeout, "did not send its header of the PROXY protocol in time"),
    };
    if matches!(failed, Failed::Slow) {
        worker.limited("header_timeout");
    }
    worker.unrouted(direction).failed(reason);
    let whom = peer.ip().to_string();
    if let Some(untold) = worker.notices.due(reason, &whom, clock::now()) {
        tracing::warn!(%peer, untold, "a connection was closed: it {what}; `proxy_protocol` names its caller");
    }
}
