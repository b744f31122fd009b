//! The phases of a request, in order.
//!
//! The codec has read the head and the guard has let it pass. Every phase that
//! can refuse does so with a [`ProxyError`], and whatever happens the request
//! is recorded once: the [`Record`] travels with the answer, and counts also
//! when it is dropped on the way.

use std::rc::Rc;
use std::time::Instant;

use http::{Request, Response, request};
use tower::{Service as _, ServiceExt as _};

use super::connection::Door;
use super::router::Route;
use super::stack::{self, Call};
use super::transcode::{self, Translation};
use super::waits::Begun;
use super::{Answer, answer, prepare, reply, tunnel};
use crate::base::{Protocol, ProxyError};
use crate::codec::{Body, Exchange, Upgrade};
use crate::telemetry::record::Record;

/// What a request becomes once it is known where it goes.
pub enum Prepared {
    /// A call of its route's upstream.
    Call(Rc<Call>),
    /// The same, for a caller of gRPC-Web or JSON.
    Translated(Rc<Call>, Translation),
    /// A tunnel to it.
    Tunnel(Rc<Route>, Instant),
}

impl Prepared {
    /// Where it goes.
    pub fn route(&self) -> &Route {
        match self {
            Self::Call(call) | Self::Translated(call, _) => &call.route,
            Self::Tunnel(route, _) => route,
        }
    }
}

/// Answers one request. What needs no waiting is done at once, so that the
/// future that waits holds the call and little else.
pub fn serve(
    door: Rc<Door>,
    request: Request<Body>,
    exchange: Exchange,
) -> impl Future<Output = Response<Answer>> + 'static {
    let (head, body) = request.into_parts();
    let mut record = Record::begin(door.worker.unrouted(door.direction), &head.method, exchange.received);
    let form = reply::Form::of(&head);
    let begun = Begun::new(&door, head, exchange, &mut record);
    async move {
        let prepared = match begun {
            Begun::Prepared(prepared) => prepared,
            Begun::Waits(waits) => Box::pin(waits.end(&door, &mut record)).await,
        };
        let answered = match prepared {
            Ok(Prepared::Call(call)) => attempt(&door, call, body).await.map(Ok),
            Ok(Prepared::Translated(call, how)) => {
                Box::pin(transcode::call(door.clone(), call, body, how)).await.map(Ok)
            }
            Ok(Prepared::Tunnel(route, since)) => Box::pin(tunnel::open(&door, route, since)).await.map(Err),
            Err(error) => Err(error),
        };
        match answered {
            Ok(Ok((response, call))) => answer::pass_on(response, call, record),
            Ok(Err(takeover)) => answer::tunnel(takeover, record),
            Err(error) => reply::answer(&door, &error, form, record),
        }
    }
}

/// The phases before the first attempt.
pub fn prepare(
    door: &Rc<Door>,
    mut head: request::Parts,
    exchange: Exchange,
    record: &mut Record,
) -> Result<Prepared, ProxyError> {
    // Match.
    let mut route = door.router().find(door, &head, exchange.authority.as_ref())?;
    record.set_route(route.metrics.clone());
    if exchange.upgrade == Upgrade::Connect {
        return Ok(Prepared::Tunnel(route, exchange.received));
    }
    // Translate.
    let policy = &route.policy;
    let translation = match policy.grpc_web || policy.json.is_some() {
        true => transcode::head(door, &mut route, &mut head, &exchange)?,
        false => None,
    };
    // Prepare.
    prepare::request(&mut head, door, &exchange)?;
    let Some(how) = translation else {
        let call = Call::new(door, route, head, exchange);
        call.in_time()?;
        return Ok(Prepared::Call(Rc::new(call)));
    };
    record.set_route(route.metrics.clone());
    let mut call = Call::new(door, route, head, exchange);
    call.protocol = Protocol::Grpc;
    call.in_time()?;
    Ok(Prepared::Translated(Rc::new(call), how))
}

/// Attempts, as often as the policy says, and the answer made ready.
pub async fn attempt(
    door: &Door,
    call: Rc<Call>,
    body: Body,
) -> Result<(Response<Body>, Rc<Call>), ProxyError> {
    let mut stack = stack::of(&call.route, &door.worker);
    let request = stack::Attempt { call: call.clone(), body };
    let answered = match &door.worker.layer {
        None => {
            std::future::poll_fn(|cx| stack.poll_ready(cx)).await?;
            stack.call(request).await
        }
        Some(layer) => layer(stack::BoxedStack::new(stack)).oneshot(request).await,
    };
    let mut response = answered.map_err(|error| {
        call.gave_up(&error);
        ProxyError { attempts: call.attempts(), ..error }
    })?;
    // Stream the answer back.
    call.answered(response.status());
    prepare::response(&mut response, door, &call);
    Ok((response, call))
}
