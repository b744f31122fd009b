//! Connections that are not HTTP, or not yet: a tunnel asked for with CONNECT,
//! in which the protocol is detected, and opaque streams.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::StatusCode;
use tokio::io::{AsyncRead, ReadBuf};

use super::connection::{self, Door};
use super::detect::{self, First};
use super::router::Route;
use super::{captured, relay};
use crate::base::{Protocol, ProxyError, Reason};
use crate::codec::{Stream, Takeover};
use crate::telemetry::names;
use crate::telemetry::record::Direction;
use crate::upstream::{self, Endpoint};

/// How long a tunnel waits for the caller to speak before it is taken for a
/// protocol whose server speaks first.
const SPEAK: Duration = Duration::from_millis(150);
/// Endpoints that are tried for one opaque stream.
const MAX_TRIES: usize = 4;

/// Opens a tunnel to the upstream that a CONNECT names.
pub async fn open(door: &Rc<Door>, route: Rc<Route>, since: Instant) -> Result<Takeover, ProxyError> {
    if door.direction == Direction::Inbound {
        let detail = "CONNECT is served on the outbound listener";
        return Err(ProxyError::unsent(Reason::NoRoute, detail));
    }
    if door.fixed.is_some() {
        let detail = "CONNECT where every request goes to one upstream already";
        return Err(ProxyError::unsent(Reason::NoRoute, detail));
    }
    // A name that nobody knows is told now, while there still is an answer.
    let worker = &door.worker;
    route.upstream.picker(since, &worker.timers).await?;
    if route.protocol == Protocol::Tcp {
        let upstream = dial(door, &route).await?;
        let door = door.clone();
        return Ok(Box::new(move |caller| {
            Box::pin(async move { copy(&door, &route, caller, upstream).await })
        }));
    }
    let inner = Rc::new(door.within(route.upstream.name.clone()));
    Ok(Box::new(move |caller| Box::pin(async move { serve(inner, route, caller).await })))
}

/// Serves a stream whose protocol is not known yet.
async fn serve(door: Rc<Door>, route: Rc<Route>, caller: Stream) {
    let only_http = matches!(route.protocol, Protocol::Http1 | Protocol::Http2 | Protocol::Grpc);
    let (first, begun, caller) = look(caller, &door, only_http).await;
    match first {
        First::Http1 | First::Http2 => connection::http(door, caller, first, begun).await,
        First::Opaque => opaque(&door, &route, caller).await,
        First::Nothing => {}
    }
}

/// Reads the first bytes, tells when they came and puts them back.
async fn look(mut caller: Stream, door: &Door, only_http: bool) -> (First, Option<Instant>, Stream) {
    let timers = &door.worker.timers;
    let wait = if only_http { door.context.limits.header_timeout } else { SPEAK };
    let mut timer = timers.at(Instant::now() + wait);
    let (mut seen, mut begun) = (BytesMut::new(), None);
    let first = poll_fn(|cx| {
        loop {
            if let Some(first) = (!seen.is_empty()).then(|| detect::decide(&seen, only_http)).flatten() {
                return Poll::Ready(first);
            }
            let mut bytes = [0; 1024];
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut caller).poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    begun.get_or_insert_with(Instant::now);
                    seen.extend_from_slice(buffer.filled());
                }
                Poll::Ready(_) if seen.is_empty() => return Poll::Ready(First::Nothing),
                Poll::Ready(_) => return Poll::Ready(First::Opaque),
            }
        }
        timer.poll_fired(cx).map(|()| if only_http { First::Nothing } else { First::Opaque })
    })
    .await;
    (first, begun, caller.with_prefix(seen.freeze()))
}

/// Connects an opaque stream to an endpoint of the route's upstream.
pub async fn opaque(door: &Door, route: &Route, caller: Stream) {
    match dial(door, route).await {
        Ok(upstream) => {
            let _mark = captured::mark(door, &upstream.0);
            copy(door, route, caller, upstream).await;
        }
        Err(error) => {
            // There is no way to tell the caller but to close.
            tracing::warn!(upstream = %route.upstream.name, %error, "an opaque connection was closed");
            route.metrics.failed(error.reason);
        }
    }
}

/// A connection to one of the upstream's endpoints, and the request that it
/// counts as.
async fn dial(door: &Door, route: &Route) -> Result<(Stream, upstream::Active), ProxyError> {
    let worker = &door.worker;
    let mut tried: Vec<Rc<Endpoint>> = Vec::new();
    let mut last = None;
    while tried.len() < MAX_TRIES {
        let now = Instant::now();
        let picker = route.upstream.picker(now, &worker.timers).await?;
        let picked = picker.pick(&route.policy.balance, None, &tried, now, &mut worker.random.borrow_mut());
        let Some(endpoint) = picked else { break };
        let active = endpoint.begin(now);
        match endpoint.connect(route.policy.connect_timeout, &worker.timers).await {
            Ok(tcp) => {
                active.answered(Instant::now(), StatusCode::OK);
                return Ok((Stream::from(tcp), active));
            }
            Err(error) => {
                active.failed(Instant::now(), true);
                tried.push(endpoint);
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| ProxyError::unsent(Reason::NoEndpoint, "no endpoint is left")))
}

async fn copy(door: &Door, route: &Route, caller: Stream, upstream: (Stream, upstream::Active)) {
    let (upstream, active) = upstream;
    let idle = route.policy.tunnel_idle;
    let relayed = relay::run(caller, upstream, &door.worker.timers, idle).await;
    drop(active);
    let name = door.worker.metrics.label(route.upstream.name.as_str());
    let count = |direction, bytes| {
        door.worker.metrics.counter(&names::TCP_BYTES, &[&name, direction]).increment(bytes);
    };
    count("sent", relayed.sent);
    count("received", relayed.received);
}
