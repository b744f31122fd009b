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
use super::shaping::{self, Afterwards, Struck};
use super::stack::{self, Call};
use super::transcode::{self, Translation};
use super::waits::Begun;
use super::{Answer, answer, authorize, breaker, gateway, prepare, reply, sizes, tunnel};
use crate::base::{Protocol, ProxyError};
use crate::codec::{Body, Exchange, Takeover, Upgrade};
use crate::policy::authorize::Identity;
use crate::telemetry::record::{Direction, Record};

/// What a request becomes once it is known where it goes.
pub enum Prepared {
    /// A call of its route's upstream.
    Call(Rc<Call>),
    /// The same, for a caller of gRPC-Web or JSON.
    Translated(Rc<Call>, Translation),
    /// A tunnel to it.
    Tunnel(Rc<Route>, Instant),
    /// The route has answered it.
    Answered(Rc<Route>, Box<Response<Body>>),
}

/// Who has answered.
enum Answered {
    /// The upstream.
    Upstream(Response<Body>, Rc<Call>),
    /// It, with a tunnel.
    Tunnel(Takeover),
    /// The policy of the route.
    Policy(Response<Body>),
}

impl Prepared {
    /// Where it goes.
    pub fn route(&self) -> &Route {
        match self {
            Self::Call(call) | Self::Translated(call, _) => &call.route,
            Self::Tunnel(route, _) | Self::Answered(route, _) => route,
        }
    }

    /// The call, where it is one.
    pub fn call(&self) -> Option<&Call> {
        match self {
            Self::Call(call) | Self::Translated(call, _) => Some(call),
            Self::Tunnel(..) | Self::Answered(..) => None,
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
    let mut after = None;
    let begun = Begun::new(&door, head, exchange, &mut record, &mut after);
    async move {
        let prepared = match begun {
            Begun::Prepared(prepared) => prepared,
            Begun::Waits(waits) => Box::pin(waits.end(&door, &mut record, &mut after)).await,
        };
        let answered = match prepared {
            Ok(Prepared::Call(call)) => attempt(&door, call, body).await.map(upstream),
            Ok(Prepared::Translated(call, how)) => {
                Box::pin(transcode::call(door.clone(), call, body, how)).await.map(upstream)
            }
            Ok(Prepared::Tunnel(route, since)) => {
                Box::pin(tunnel::open(&door, route, since)).await.map(Answered::Tunnel)
            }
            Ok(Prepared::Answered(_, response)) => Ok(Answered::Policy(*response)),
            Err(error) => Err(error),
        };
        let mut response = match answered {
            Ok(Answered::Upstream(response, call)) => answer::pass_on(response, call, record),
            Ok(Answered::Tunnel(takeover)) => answer::tunnel(takeover, record),
            Ok(Answered::Policy(response)) => reply::own(&door, response, record),
            Err(error) => reply::answer(&door, &error, form, record),
        };
        if let Some(after) = after {
            after.apply(response.headers_mut());
        }
        response
    }
}

fn upstream((response, call): (Response<Body>, Rc<Call>)) -> Answered {
    Answered::Upstream(response, call)
}

/// The phases before the first attempt, and the fault that delays it.
pub fn prepare(
    door: &Rc<Door>,
    mut head: request::Parts,
    exchange: Exchange,
    record: &mut Record,
    after: &mut Option<Afterwards>,
) -> Result<(Prepared, Option<Box<Struck>>), ProxyError> {
    if let Some(entry) = &door.gateway {
        gateway::enter(entry, door, &mut head, &exchange)?;
    }
    // Match.
    if door.direction != Direction::Outbound {
        door.router().porter.strip(&mut head.headers);
    }
    let (mut route, preflight) = shaping::find(door, &mut head, &exchange)?;
    record.set_route(route.metrics.clone());
    if exchange.upgrade == Upgrade::Connect {
        return Ok((Prepared::Tunnel(route, exchange.received), None));
    }
    // Answer, where the route does so itself.
    let own = match &route.policy.shaping {
        Some(shaping) => shaping::answer(shaping, &route, (door, &head), preflight, after)?,
        None => None,
    };
    // Authorize: but a browser asks about a route without showing who it is.
    let mut identity = if preflight { None } else { authorize::admit(door, &route, &mut head)? };
    if let Some(own) = own {
        return Ok((Prepared::Answered(route, Box::new(own)), None));
    }
    let translation = translate(door, &mut route, &mut head, &exchange, &mut identity)?;
    if translation.is_some() {
        record.set_route(route.metrics.clone());
        Afterwards::other(after, route.policy.shaping.as_ref());
    }
    // Split.
    if let Some(way) = route.split.as_ref().and_then(|ways| ways.pick(&head.headers, &door.worker)) {
        route = way;
        record.set_route(route.metrics.clone());
    }
    // Prepare.
    prepare::request(&mut head, door, &exchange)?;
    if let Some(identity) = &identity {
        identity.write(&mut head.headers);
    }
    let mut struck = None;
    if let Some(shaping) = &route.policy.shaping {
        struck = shaping::fault(shaping, &route, door, &head)?;
        let called = matches!(translation, Some(Translation::Json(_)));
        shaping::request(shaping, &route, &mut head, called)?;
    }
    let mut call = Call::new(door, route, head, exchange);
    call.identity = identity;
    call.in_time()?;
    let prepared = match translation {
        None => Prepared::Call(Rc::new(call)),
        Some(how) => {
            call.protocol = Protocol::Grpc;
            Prepared::Translated(Rc::new(call), how)
        }
    };
    Ok((prepared, struck))
}

/// Makes a gRPC call of another one, where the route says so. The route that takes
/// the call then may let in others than the one that the request has met.
fn translate(
    door: &Rc<Door>,
    route: &mut Rc<Route>,
    head: &mut request::Parts,
    exchange: &Exchange,
    identity: &mut Option<Rc<Identity>>,
) -> Result<Option<Translation>, ProxyError> {
    if !route.policy.grpc_web && route.policy.json.is_none() {
        return Ok(None);
    }
    let met = route.clone();
    let translation = transcode::head(door, route, head, exchange)?;
    if !Rc::ptr_eq(&met, route)
        && let Some(found) = authorize::admit(door, route, head)?
    {
        *identity = Some(found);
    }
    Ok(translation)
}

/// Attempts, as often as the policy says, and the answer made ready.
pub async fn attempt(
    door: &Door,
    call: Rc<Call>,
    body: Body,
) -> Result<(Response<Body>, Rc<Call>), ProxyError> {
    let mut stack = stack::of(&call.route, &door.worker);
    let shaped = call.route.policy.shaping.is_some();
    let body = if shaped { sizes::request(&call.route, body)? } else { body };
    let request = stack::Attempt { call: call.clone(), body };
    let answered = match &door.worker.layer {
        None => {
            std::future::poll_fn(|cx| stack.poll_ready(cx)).await?;
            stack.call(request).await
        }
        Some(layer) => layer(stack::BoxedStack::new(stack)).oneshot(request).await,
    };
    let mut response = match answered {
        Ok(response) => {
            // Attempts beside the one that was answered say nothing.
            drop(call.guards.take());
            response
        }
        Err(error) => {
            call.gave_up(&error);
            let attempts = u16::try_from(call.attempts()).unwrap_or(u16::MAX);
            let mut response = breaker::fallback(&call, &error).ok_or(ProxyError { attempts, ..error })?;
            prepare::response(&mut response, door, &call);
            return Ok((response, call));
        }
    };
    if shaped {
        let body = std::mem::take(response.body_mut());
        *response.body_mut() = sizes::response(&call.route, body)?;
    }
    // Stream the answer back.
    call.answered(response.status());
    prepare::response(&mut response, door, &call);
    Ok((response, call))
}
