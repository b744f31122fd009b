//! A connection that the kernel turned to us: where it goes.
//!
//! Inbound: calls for the service's own port are served as always; others go
//! on to the address that they were for. Outbound: HTTP request by request
//! (see [`Router::find`]), anything else to the upstream that has its
//! destination as an endpoint, and where there is none to that destination.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::TcpStream;

use super::connection::{self, Door, Gate};
use super::detect::{First, Look};
use super::original::{self, Mark};
use super::router::{Route, Router};
use super::worker::{OpenConnection, Worker};
use super::{egress, steer, tunnel};
use crate::base::Reason;
use crate::base::clock;
use crate::codec::Stream;
use crate::telemetry::names;

/// Serves a connection that was going to `original`.
pub async fn serve(tcp: TcpStream, peer: SocketAddr, gate: Gate, open: OpenConnection, original: SocketAddr) {
    let worker = open.worker().clone();
    let router = worker.router();
    let direction = gate.direction();
    let metrics = worker.metrics.clone();
    let count = |target| metrics.counter(&names::CAPTURED, &[direction.as_str(), target]).increment(1);
    if gate == Gate::Inbound {
        let service = router.model.service.address.map(|address| address.port());
        if service == Some(original.port()) || !original::is_local(&tcp, original.ip()) {
            count("service");
            return connection::serve(tcp, peer, gate, open).await;
        }
    }
    if original::is_own(&gate, original, peer, &router.model) || worker.dialled().holds(peer, original) {
        count("loop");
        return refuse_loop(&worker, &gate, original, peer);
    }
    let _ = tcp.set_nodelay(true);
    let context = worker.context(direction);
    let target = Some(original);
    let door = Rc::new(Door {
        worker,
        direction,
        peer,
        gateway: None,
        fixed: None,
        original: target,
        tunnel: false,
        context,
    });
    if gate == Gate::Inbound {
        count("address");
        connection::count(&door, First::Opaque);
        let route = router.to_address(original, direction, &door.worker);
        drop(router);
        return tunnel::opaque(&door, &route, Stream::from(tcp), None).await;
    }
    drop(router);
    let mut look = Look::new(Stream::from(tcp));
    let (first, upstream) = connection::first(&door, &mut look).await;
    connection::count(&door, first);
    match first {
        First::Nothing | First::Silent => {}
        First::Http1 | First::Http2 => {
            count("http");
            let (begun, stream) = (look.begun(), look.into_stream());
            connection::http(door, stream, first, begun).await;
        }
        _ => {
            let (mut route, mut target) = door.router().to_original(original, &door);
            if let Some(other) = steer::route(&door, first, &mut look).await
                && other.upstream.name != route.upstream.name
            {
                (route, target) = (other, "sni");
            }
            match egress::admit(&door, &route).await {
                Ok(()) => {
                    count(target);
                    Box::pin(tunnel::opaque(&door, &route, look.into_stream(), upstream)).await;
                }
                Err(error) => {
                    count("denied");
                    route.metrics.failed(error.reason);
                }
            }
        }
    }
    drop(open);
}

/// Remembers a connection that continues a captured one.
pub fn mark(door: &Door, upstream: &Stream) -> Option<Mark> {
    door.original?;
    door.worker.dialled().mark(upstream.tcp()?)
}

fn refuse_loop(worker: &Worker, gate: &Gate, original: SocketAddr, peer: SocketAddr) {
    worker.unrouted(gate.direction()).failed(Reason::LoopDetected);
    let to = original.to_string();
    let Some(untold) = worker.notices.due(Reason::LoopDetected, &to, clock::now()) else { return };
    tracing::warn!(
        %original, %peer, untold,
        "loop_detected: a captured connection leads back to this sidecar; it must run as a user that \
         `pillion redirect --skip-uid` names"
    );
}

impl Router {
    /// The route of a captured connection that is not HTTP, and how it was found.
    pub fn to_original(&self, original: SocketAddr, door: &Door) -> (Rc<Route>, &'static str) {
        let found = door.worker.table.at(original).and_then(|name| self.route_to(&name, door).ok());
        match found {
            Some(route) => (route, "endpoint"),
            None => (self.to_address(original, door.direction, &door.worker), "address"),
        }
    }
}
