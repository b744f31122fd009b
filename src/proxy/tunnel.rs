//! Connections that are not HTTP, or not yet: a tunnel asked for with CONNECT,
//! in which the protocol is detected, and opaque streams.

use std::rc::Rc;
use std::time::Instant;

use super::connection::{self, Door};
use super::original::Mark;
use super::router::Route;
use super::{authorize, captured, egress, relay};
use crate::base::clock;
use crate::base::{Protocol, ProxyError, Reason, UpstreamName};
use crate::codec::{Stream, Takeover, proxy_protocol};
use crate::policy::outcome::{Class, Outcome};
use crate::telemetry::names;
use crate::telemetry::record::Direction;
use crate::upstream::{self, Endpoint};

/// Endpoints that are tried for one opaque stream.
const MAX_TRIES: usize = 4;

/// A connection to an upstream.
pub struct Dialled {
    /// The connection.
    pub stream: Stream,
    /// Whether it began with the address of its caller.
    pub told: bool,
    /// The request that it counts as.
    pub active: upstream::Active,
    /// The upstream that it was made to.
    to: UpstreamName,
    /// By which it is known should it come back.
    mark: Option<Mark>,
}

/// Opens a tunnel to the upstream that a CONNECT names.
pub async fn open(door: &Rc<Door>, route: Rc<Route>, since: Instant) -> Result<Takeover, ProxyError> {
    if door.direction != Direction::Outbound {
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
    let speaks = route.speaks();
    let may_steer = speaks == Protocol::Tls && door.router().sni.has_claims();
    if speaks.is_opaque() && !may_steer {
        let upstream = dial(door, &route).await?;
        let door = door.clone();
        return Ok(Box::new(move |caller| {
            Box::pin(async move { copy(&door, &route, caller, upstream).await })
        }));
    }
    let inner = Rc::new(door.within(route.upstream.name.clone()));
    Ok(Box::new(move |caller| Box::pin(connection::detected(inner, caller))))
}

/// Connects an opaque stream to an endpoint of the route's upstream, unless
/// that was done already. A connection to another upstream, to which the stream
/// was going before its name or a reload was known, is dropped.
pub async fn opaque(door: &Door, route: &Route, caller: Stream, upstream: Option<Box<Dialled>>) {
    if let Err(error) = authorize::admit_opaque(door, route) {
        return closed(door, route, &error);
    }
    let dialled = match upstream.filter(|upstream| upstream.to == route.upstream.name) {
        Some(upstream) => Ok(*upstream),
        None => dial(door, route).await,
    };
    match dialled {
        Ok(upstream) => copy(door, route, caller, upstream).await,
        Err(error) => closed(door, route, &error),
    }
}

/// A connection can't be served; there is no way to tell the caller but to close.
pub fn closed(door: &Door, route: &Route, error: &ProxyError) {
    let name = route.upstream.name.as_str();
    if let Some(untold) = door.worker.notices.due(error.reason, name, clock::now()) {
        tracing::warn!(upstream = name, %error, untold, "an opaque connection was closed");
    }
    route.metrics.failed(error.reason);
}

/// Connects to one of the upstream's endpoints.
pub async fn dial(door: &Door, route: &Route) -> Result<Dialled, ProxyError> {
    egress::admit(door, route).await?;
    let worker = &door.worker;
    let mut tried: Vec<Rc<Endpoint>> = Vec::new();
    let mut last = None;
    while tried.len() < MAX_TRIES {
        let now = clock::now();
        let picker = route.upstream.picker(now, &worker.timers).await?;
        let picked = picker.pick(&route.policy.balance, None, &tried, now, &mut worker.random.borrow_mut());
        let Some(endpoint) = picked else { break };
        let active = endpoint.begin(now);
        let header = header(door, route, &endpoint);
        match endpoint.connect(&header, route.policy.connect_timeout, &worker.timers).await {
            Ok(stream) => {
                active.answered(clock::now(), Class::Good);
                let mark = captured::mark(door, &stream);
                let (told, to) = (!header.is_empty(), route.upstream.name.clone());
                return Ok(Dialled { stream, told, active, to, mark });
            }
            Err(error) if error.reason == Reason::ConnectionLimit => {
                active.forget();
                return Err(error);
            }
            Err(error) => {
                active.failed(clock::now(), Outcome::Failed(&error).class(), true);
                tried.push(endpoint);
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| ProxyError::unsent(Reason::NoEndpoint, "no endpoint is left")))
}

/// What tells the endpoint of the caller.
fn header(door: &Door, route: &Route, endpoint: &Endpoint) -> Vec<u8> {
    let Some(version) = route.upstream.proxy_protocol() else { return Vec::new() };
    let destination = door.original.unwrap_or(endpoint.facts.address);
    proxy_protocol::write(version, Some((door.peer, destination)))
}

async fn copy(door: &Door, route: &Route, caller: Stream, upstream: Dialled) {
    let Dialled { stream: upstream, active, mark: _mark, .. } = upstream;
    let idle = route.policy.tunnel_idle;
    let _open = door.worker.tunnel(door.direction);
    let relayed = relay::run(caller, upstream, &door.worker.timers, idle).await;
    drop(active);
    if relayed.end == relay::End::Idle {
        route.metrics.failed(Reason::StreamIdle);
    }
    let name = door.worker.metrics.label(route.upstream.name.as_str());
    let count = |direction, bytes| {
        door.worker.metrics.counter(&names::TCP_BYTES, &[&name, direction]).increment(bytes);
    };
    count("sent", relayed.sent);
    count("received", relayed.received);
}
