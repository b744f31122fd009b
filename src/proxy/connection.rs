//! A connection from accept to close: what is spoken on it, and by whose rules
//! it is served.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use http::{HeaderValue, Request, Response};
use tokio::net::TcpStream;

use super::detect::{Expect, First, Look};
use super::gateway::Entry;
use super::router::{Route, Router};
use super::worker::{OpenConnection, Worker};
use super::{Answer, ahead, announced, egress, reply, request, steer, tunnel};
use crate::base::clock;
use crate::base::{Protocol, ProxyError, Reason, UpstreamName};
use crate::codec::{Body, Exchange, Handler, ServerContext, Stream, http1, http2};
use crate::telemetry::names;
use crate::telemetry::record::{Direction, Record};
use crate::upstream::Learned;

/// What a listener is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// Calls to the service.
    Inbound,
    /// Calls of the service, to whomever they name.
    Outbound,
    /// Calls of the service to this upstream.
    Upstream(UpstreamName),
    /// Calls from outside, to the gateway that the model has at this address.
    Gateway(SocketAddr),
}

/// What the requests of one connection have in common.
pub struct Door {
    /// The worker that serves it.
    pub worker: Rc<Worker>,
    /// Which way its requests go.
    pub direction: Direction,
    /// The caller.
    pub peer: SocketAddr,
    /// The gateway that it came to.
    pub gateway: Option<Box<Entry>>,
    /// Where every request goes, whatever its authority.
    pub fixed: Option<UpstreamName>,
    /// Where it was going before the kernel turned it to us.
    pub original: Option<SocketAddr>,
    /// Whether it is within a tunnel that the caller asked for.
    pub tunnel: bool,
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
            Self::Gateway(_) => Direction::Gateway,
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

    /// Where a connection goes that is not HTTP; `None` where that is not known.
    pub fn destination(&self) -> Option<Rc<Route>> {
        let router = self.router();
        match (&self.fixed, self.original, self.direction) {
            (Some(name), ..) => router.route_to(name, self).ok(),
            (None, Some(original), _) => Some(router.to_original(original, self).0),
            (None, None, Direction::Inbound) => router.service_route(),
            (None, None, Direction::Outbound | Direction::Gateway) => None,
        }
    }

    /// A door within a tunnel, through which every request goes to `upstream`.
    pub fn within(&self, upstream: UpstreamName) -> Self {
        Self {
            worker: self.worker.clone(),
            direction: self.direction,
            peer: self.peer,
            gateway: None,
            fixed: Some(upstream),
            original: None,
            tunnel: true,
            context: self.context.clone(),
        }
    }
}

/// Serves a connection until it ends.
pub fn serve(
    tcp: TcpStream,
    peer: SocketAddr,
    gate: Gate,
    open: OpenConnection,
) -> impl Future<Output = ()> + 'static {
    // A socket that can't be told still works.
    let _ = tcp.set_nodelay(true);
    let direction = gate.direction();
    let fixed = match gate {
        Gate::Upstream(name) => Some(name),
        Gate::Inbound | Gate::Outbound | Gate::Gateway(_) => None,
    };
    async move {
        let worker = open.worker().clone();
        if let Some(door) = door(&tcp, peer, worker, direction, fixed).await {
            detected(door, Stream::from(tcp)).await;
        }
        drop(open);
    }
}

async fn door(
    tcp: &TcpStream,
    peer: SocketAddr,
    worker: Rc<Worker>,
    direction: Direction,
    fixed: Option<UpstreamName>,
) -> Option<Rc<Door>> {
    let inbound = direction == Direction::Inbound;
    // Boxed: few connections have such a header.
    let peer = match inbound && announced::is_due(&worker.router().model.listen.proxy_protocol, peer) {
        false => peer,
        true => Box::pin(announced::caller(tcp, peer, &worker, direction)).await?,
    };
    let (context, gateway, original) = (worker.context(direction), None, None);
    Some(Rc::new(Door { worker, direction, peer, gateway, fixed, original, tunnel: false, context }))
}

/// Finds out what is spoken on a stream and serves it.
pub async fn detected(door: Rc<Door>, stream: Stream) {
    let mut look = Look::new(stream);
    let (first, upstream) = first(&door, &mut look).await;
    if !door.tunnel {
        count(&door, first);
    }
    match first {
        First::Http1 | First::Http2 => {
            let (begun, stream) = (look.begun(), look.into_stream());
            http(door, stream, first, begun).await;
        }
        First::Nothing | First::Silent => {}
        _ => Box::pin(opaque(&door, first, look, upstream)).await,
    }
}

/// Finds out what is spoken; and a connection to the upstream where it took one to find out.
pub async fn first(door: &Rc<Door>, look: &mut Look) -> (First, Option<Box<tunnel::Dialled>>) {
    let context = &door.context;
    let Some(route) = door.destination() else {
        return (look.first(context, Expect::Addressed, None).await, None);
    };
    let protocol = match route.speaks() {
        // Discovery may say what it speaks.
        Protocol::Auto => {
            route.upstream.answered(egress::ANSWER, &door.worker.timers).await;
            route.speaks()
        }
        told => told,
    };
    if protocol == Protocol::Tls && steer::is_open(door) {
        return (First::Tls, None);
    }
    if protocol.is_opaque() {
        return (First::Opaque, None);
    }
    if protocol.is_http() || (door.direction == Direction::Inbound && door.router().takes_http_only(&route)) {
        return (look.first(context, Expect::Http, None).await, None);
    }
    let pause = ahead::pause(&route);
    let (first, upstream) = match look.first(context, Expect::Any, Some(pause)).await {
        First::Silent => Box::pin(ahead::race(door, &route, look)).await,
        first => (first, None),
    };
    // One stray caller does not make others wait for a server that speaks first.
    if matches!(first, First::Http1 | First::Http2) && route.upstream.learned() != Learned::ServerFirst {
        route.upstream.learn(Learned::Http);
    }
    (first, upstream)
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

async fn opaque(door: &Rc<Door>, first: First, mut look: Look, upstream: Option<Box<tunnel::Dialled>>) {
    // Asked anew: a reload may have come while the caller was silent.
    let Some(route) = steer::route(door, first, &mut look).await else { return refuse(door) };
    tunnel::opaque(door, &route, look.into_stream(), upstream).await;
}

/// There is no way to tell the caller but to close.
fn refuse(door: &Door) {
    let detail = match door.direction {
        Direction::Inbound => "`service.port` is not set: nothing is served here",
        Direction::Outbound | Direction::Gateway => {
            "it is neither HTTP nor TLS with a name, so nobody knows where it is to go"
        }
    };
    if let Some(untold) = door.worker.notices.due(Reason::NoRoute, door.direction.as_str(), clock::now()) {
        tracing::warn!(peer = %door.peer, untold, "a connection was closed: {detail}");
    }
    door.worker.unrouted(door.direction).failed(Reason::NoRoute);
}

/// Counts a connection by what is spoken on it.
pub fn count(door: &Door, first: First) {
    let protocol = match first {
        First::Http1 => "http1",
        First::Http2 => "http2",
        First::Tls => "tls",
        First::Postgres => "postgres",
        First::Opaque => "tcp",
        First::Nothing | First::Silent => "none",
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
        let record = Record::begin(unrouted, &http::Method::GET, clock::now());
        reply::answer(&self.0, &error, reply::Form::Http, record)
    }

    fn limited(&self, limit: &'static str) {
        self.0.worker.limited(limit);
    }
}
