//! A connection from accept to close: what is spoken on it, and by whose rules
//! it is served.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use http::{HeaderValue, Request, Response};
use tokio::net::TcpStream;

use super::detect::{self, First};
use super::router::Router;
use super::worker::{OpenConnection, Worker};
use super::{Answer, reply, request, tunnel};
use crate::base::{Protocol, ProxyError, UpstreamName};
use crate::codec::{Body, Exchange, Handler, ServerContext, Stream, http1, http2};
use crate::telemetry::names;
use crate::telemetry::record::{Direction, Record};

/// What a listener is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// Calls to the service.
    Inbound,
    /// Calls of the service, to whomever they name.
    Outbound,
    /// Calls of the service to this upstream.
    Upstream(UpstreamName),
}

/// What the requests of one connection have in common.
pub struct Door {
    /// The worker that serves it.
    pub worker: Rc<Worker>,
    /// Which way its requests go.
    pub direction: Direction,
    /// The caller.
    pub peer: SocketAddr,
    /// Where every request goes, whatever its authority.
    pub fixed: Option<UpstreamName>,
    /// Where it was going before the kernel turned it to us.
    pub original: Option<SocketAddr>,
    /// The limits in force when it was accepted.
    pub context: Rc<ServerContext>,
}

/// Answers the requests of a connection.
#[derive(Clone)]
struct Requests(Rc<Door>);

impl Gate {
    /// Which way its requests go.
    pub fn direction(&self) -> Direction {
        match self {
            Self::Inbound => Direction::Inbound,
            Self::Outbound | Self::Upstream(_) => Direction::Outbound,
        }
    }
}

impl Door {
    /// The routes in force.
    pub fn router(&self) -> Rc<Router> {
        self.worker.router()
    }

    /// This sidecar's element of `Via`.
    pub fn via(&self) -> &HeaderValue {
        self.worker.via(self.direction)
    }

    /// A door within a tunnel, through which every request goes to `upstream`.
    pub fn within(&self, upstream: UpstreamName) -> Self {
        Self {
            worker: self.worker.clone(),
            direction: self.direction,
            peer: self.peer,
            fixed: Some(upstream),
            original: None,
            context: self.context.clone(),
        }
    }
}

/// Serves a connection until it ends.
pub async fn serve(tcp: TcpStream, peer: SocketAddr, gate: Gate, open: OpenConnection) {
    // A socket that can't be told still works.
    let _ = tcp.set_nodelay(true);
    let (direction, worker) = (gate.direction(), open.worker().clone());
    let context = worker.context();
    let protocol = declared(&gate, &worker);
    let fixed = match gate {
        Gate::Upstream(name) => Some(name),
        Gate::Inbound | Gate::Outbound => None,
    };
    let only_http = protocol != Protocol::Auto || (direction == Direction::Outbound && fixed.is_none());
    let (first, begun) = match protocol {
        Protocol::Tcp => (First::Opaque, None),
        _ => detect::first(&tcp, &context, only_http).await,
    };
    let door = Rc::new(Door { worker, direction, peer, fixed, original: None, context });
    count(&door, first);
    match first {
        First::Nothing => {
            let limit = door.context.limits.header_timeout;
            if begun.is_some_and(|begun| begun.elapsed() >= limit) {
                door.worker.limited("header_timeout");
            }
        }
        First::Http1 | First::Http2 => http(door, Stream::from(tcp), first, begun).await,
        First::Opaque => Box::pin(opaque(&door, Stream::from(tcp))).await,
    }
    drop(open);
}

/// Serves a stream on which HTTP is spoken. The first head began at `begun`, if
/// some of it has been seen.
pub async fn http(door: Rc<Door>, stream: Stream, version: First, begun: Option<Instant>) {
    let context = door.context.clone();
    let requests = Requests(door);
    match version {
        // Boxed, so that a connection of HTTP/1 does not hold room for it.
        First::Http2 => Box::pin(http2::server::serve(stream, context, Rc::new(requests), begun)).await,
        _ => http1::server::serve(stream, &context, &requests, begun).await,
    }
}

/// What the configuration says is spoken here.
fn declared(gate: &Gate, worker: &Worker) -> Protocol {
    let router = worker.router();
    match gate {
        Gate::Inbound => router.model.service.protocol,
        Gate::Outbound => Protocol::Auto,
        Gate::Upstream(name) => {
            router.model.upstreams.get(name).map_or(Protocol::Auto, |block| block.protocol)
        }
    }
}

async fn opaque(door: &Rc<Door>, stream: Stream) {
    let router = door.router();
    let route = match &door.fixed {
        None => router.service_route(),
        Some(name) => router.route_to(name, door).ok(),
    };
    drop(router);
    if let Some(route) = route {
        tunnel::opaque(door, &route, stream).await;
    }
}

/// Counts a connection by what is spoken on it.
pub fn count(door: &Door, first: First) {
    let protocol = match first {
        First::Http1 => "http1",
        First::Http2 => "http2",
        First::Opaque => "tcp",
        First::Nothing => "none",
    };
    let labels = [door.direction.as_str(), protocol];
    door.worker.metrics.counter(&names::CONNECTIONS, &labels).increment(1);
}

impl Handler for Requests {
    type Body = Answer;

    fn call(
        &self,
        request: Request<Body>,
        exchange: Exchange,
    ) -> impl Future<Output = Response<Answer>> + 'static {
        request::serve(self.0.clone(), request, exchange)
    }

    fn refuse(&self, error: ProxyError) -> Response<Answer> {
        let unrouted = self.0.worker.unrouted(self.0.direction);
        let record = Record::begin(unrouted, &http::Method::GET, Instant::now());
        reply::answer(&self.0, &error, reply::Form::Http, record)
    }

    fn limited(&self, limit: &'static str) {
        self.0.worker.limited(limit);
    }
}
