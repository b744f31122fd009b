//! The phases of a request, in order.
//!
//! The codec has read the head and the guard has let it pass. Every phase that
//! can refuse does so with a [`ProxyError`], and whatever happens the request
//! is recorded once: the [`Record`] travels with the answer, and counts also
//! when it is dropped on the way.

use std::rc::Rc;

use http::{Request, Response, request};
use tower::{Service as _, ServiceExt as _};

use super::connection::Door;
use super::stack::{self, Call};
use super::{Answer, answer, prepare, reply, tunnel};
use crate::base::ProxyError;
use crate::codec::{Body, Exchange, Takeover, Upgrade};
use crate::telemetry::record::Record;

/// How the phases end.
#[expect(clippy::large_enum_variant, reason = "it lives for one match")]
enum Outcome {
    /// The upstream has answered.
    Answered(Response<Body>, Rc<Call>),
    /// The connection becomes a tunnel.
    Tunnel(Takeover),
}

/// Answers one request.
pub async fn serve(door: Rc<Door>, request: Request<Body>, exchange: Exchange) -> Response<Answer> {
    let (head, body) = request.into_parts();
    let mut record = Record::begin(door.worker.unrouted(door.direction), &head.method, exchange.received);
    let form = reply::Form::of(&head);
    match phases(&door, head, body, exchange, &mut record).await {
        Ok(Outcome::Answered(response, call)) => answer::pass_on(response, call, record),
        Ok(Outcome::Tunnel(takeover)) => answer::tunnel(takeover, record),
        Err(error) => reply::answer(&door, &error, form, record),
    }
}

async fn phases(
    door: &Rc<Door>,
    mut head: request::Parts,
    body: Body,
    exchange: Exchange,
    record: &mut Record,
) -> Result<Outcome, ProxyError> {
    // Match.
    let route = door.router().find(door, &head, exchange.authority.as_ref())?;
    record.set_route(route.metrics.clone());
    if exchange.upgrade == Upgrade::Connect {
        return tunnel::open(door, route, &exchange).await.map(Outcome::Tunnel);
    }
    // Prepare.
    prepare::request(&mut head, door, &exchange)?;
    // Attempt, as often as the policy says.
    let call = Rc::new(Call::new(door, route, head, exchange));
    let mut response = attempt(door, &call, body).await?;
    // Stream the answer back.
    prepare::response(&mut response, door, &call);
    Ok(Outcome::Answered(response, call))
}

async fn attempt(door: &Door, call: &Rc<Call>, body: Body) -> Result<Response<Body>, ProxyError> {
    let mut stack = stack::of(&call.route, &door.worker);
    let request = stack::Attempt { call: call.clone(), body };
    match &door.worker.layer {
        None => {
            std::future::poll_fn(|cx| stack.poll_ready(cx)).await?;
            stack.call(request).await
        }
        Some(layer) => layer(stack::BoxedStack::new(stack)).oneshot(request).await,
    }
}
