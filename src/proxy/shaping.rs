//! What a route changes of a call, and what it answers itself, at its places in
//! the phases of a request. What is decided stands in `policy::shaping`.
//!
//! A route that shapes nothing pays one question at each place.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::{HOST, HeaderMap, HeaderValue, LOCATION};
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode, Uri, request};

use super::connection::Door;
use super::router::Route;
use super::stack::Call;
use crate::base::clock;
use crate::base::error::Told;
use crate::base::{Authority, ProxyError, Reason};
use crate::codec::{Body, Exchange};
use crate::config::model::shaping::{Direct, Redirect, Shaping};
use crate::policy::shaping::{cors, fault, headers, path, redirect};
use crate::telemetry::record::Direction;

/// What is written into the answer of a call, whoever makes it.
pub struct Afterwards(Box<Fields>);

#[derive(Default)]
struct Fields {
    /// Of the route that the caller's own request met, and the origin to name.
    cors: Option<(Arc<Shaping>, Option<HeaderValue>)>,
    /// Of the route that takes the call.
    edit: Option<Arc<Shaping>>,
}

/// A fault that strikes a call.
pub struct Struck {
    delay: Option<Duration>,
    abort: Option<Told>,
}

/// The route of a request, and whether the request is a browser's question
/// about it, which its `cors` answers.
pub fn find(
    door: &Door,
    head: &mut request::Parts,
    exchange: &Exchange,
) -> Result<(Rc<Route>, bool), ProxyError> {
    let (router, authority) = (door.router(), exchange.authority.as_ref());
    if head.method != Method::OPTIONS || door.direction == Direction::Outbound {
        return Ok((router.find(door, head, authority)?, false));
    }
    let has_cors =
        |route: &Rc<Route>| route.policy.shaping.as_ref().is_some_and(|shaping| shaping.cors.is_some());
    let asked = cors::asked(head);
    if let Some(asked) = asked.clone() {
        let own = std::mem::replace(&mut head.method, asked);
        let found = router.find(door, head, authority);
        head.method = own;
        if let Some(route) = found.ok().filter(has_cors) {
            return Ok((route, true));
        }
    }
    let route = router.find(door, head, authority)?;
    let preflight = asked.is_some() && has_cors(&route);
    Ok((route, preflight))
}

/// The answer that a route makes itself, if it does. From here on `after` holds
/// what every answer to the request says.
pub fn answer(
    shaping: &Arc<Shaping>,
    route: &Route,
    (door, head): (&Door, &request::Parts),
    preflight: bool,
    after: &mut Option<Afterwards>,
) -> Result<Option<Response<Body>>, ProxyError> {
    let mut response = Response::new(Body::Empty);
    let origin = shaping.cors.as_ref().map(|cors| cors::allowed(cors, &head.headers));
    if let (Some(cors), Some(origin), true) = (&shaping.cors, &origin, preflight) {
        *response.status_mut() = StatusCode::NO_CONTENT;
        cors::preflight(cors, origin.clone(), response.headers_mut());
        return Ok(Some(response));
    }
    Afterwards::hold(after, shaping, origin);
    match &shaping.direct {
        None => Ok(None),
        Some(Direct::Redirect(redirect)) => {
            *response.status_mut() = redirect.status;
            response.headers_mut().insert(LOCATION, location(redirect, route, (door, head))?);
            Ok(Some(response))
        }
        Some(Direct::Respond(respond)) => {
            *response.status_mut() = respond.status;
            response.headers_mut().extend(respond.headers.iter().cloned());
            *response.body_mut() = Body::full(respond.body.clone());
            Ok(Some(response))
        }
    }
}

fn location(
    redirect: &Redirect,
    route: &Route,
    (door, head): (&Door, &request::Parts),
) -> Result<HeaderValue, ProxyError> {
    let scheme = door.gateway.as_ref().map_or("http", |entry| entry.scheme());
    let named = || head.headers.get(HOST).and_then(Authority::of);
    let host = head.uri.authority().map(ToString::to_string).or_else(|| named().map(|host| host.to_string()));
    let host = host.unwrap_or_else(|| route.upstream.name.to_string());
    let location = redirect::location(redirect, (scheme, &host), head.uri.path(), head.uri.query());
    let location = location.map_err(|detail| refused(detail, route))?;
    HeaderValue::from_str(&location).map_err(|_| refused("the redirect leads to no URL", route))
}

/// Changes a request that is ready to be sent on. The path of one that was
/// `called` with JSON is not the one that the route has matched.
pub fn request(
    shaping: &Shaping,
    route: &Route,
    head: &mut request::Parts,
    called: bool,
) -> Result<(), ProxyError> {
    if let Some(rewrite) = &shaping.rewrite {
        let fixed = head.uri.path() == "*" || (called && !route.grpc);
        if let Some(template) = rewrite.path.as_ref().filter(|_| !fixed) {
            let new = path::expand(template, head.uri.path()).map_err(|detail| refused(detail, route))?;
            let new = path::with_query(new, head.uri.query());
            if new.len() > route.limits.target {
                let detail = "the target is longer than `limits.target` once it is rewritten";
                return Err(ProxyError::unsent(Reason::TargetTooLong, detail));
            }
            super::rate::keep_path(route, head);
            let mut parts = std::mem::take(&mut head.uri).into_parts();
            let target = PathAndQuery::from_maybe_shared(new);
            parts.path_and_query = Some(target.map_err(|_| refused("the new path is none", route))?);
            head.uri = Uri::from_parts(parts).map_err(|_| refused("the new path is none", route))?;
        }
        if let Some(host) = &rewrite.host {
            head.headers.insert(HOST, host.clone());
        }
    }
    headers::apply(&shaping.request, &mut head.headers);
    Ok(())
}

/// The fault that strikes a call, if one does. One that need not wait fails it
/// here.
pub fn fault(
    shaping: &Shaping,
    route: &Route,
    door: &Door,
    head: &request::Parts,
) -> Result<Option<Box<Struck>>, ProxyError> {
    let Some(fault) = &shaping.fault else { return Ok(None) };
    if !fault::strikes(fault, &head.headers, &mut door.worker.random.borrow_mut()) {
        return Ok(None);
    }
    for (kind, made) in [("delay", fault.delay.is_some()), ("abort", fault.abort.is_some())] {
        if made {
            route.metrics.struck(kind);
        }
    }
    let struck = Struck { delay: fault.delay, abort: fault.abort };
    match struck.delay {
        None => struck.end(route).map(|()| None),
        Some(_) => Ok(Some(Box::new(struck))),
    }
}

impl Struck {
    /// Waits, and fails the call if it is to be aborted. The wait counts as the
    /// service's own: the call's `timeout` may end it.
    pub async fn strike(self, route: &Route, door: &Door, call: Option<&Call>) -> Result<(), ProxyError> {
        let now = clock::now();
        let until = now + self.delay.unwrap_or_default();
        let end = call.and_then(|call| call.bounds.end).filter(|end| *end < until);
        let mut timer = door.worker.timers.at(end.unwrap_or(until));
        poll_fn(|cx| {
            if door.worker.is_stopping(door.direction) {
                let detail = "the time that `drain.deadline` gives was over";
                return Poll::Ready(Err(ProxyError::unsent(Reason::ShuttingDown, detail)));
            }
            timer.poll_fired(cx).map(Ok)
        })
        .await?;
        match end {
            Some(_) => {
                let detail = "the route's `fault` held the call until its time was over";
                Err(by(ProxyError::unsent(Reason::Timeout, detail), route))
            }
            None => self.end(route),
        }
    }

    fn end(&self, route: &Route) -> Result<(), ProxyError> {
        let Some(told) = self.abort else { return Ok(()) };
        let error = ProxyError::unsent(Reason::FaultInjected, "the route's `fault` has aborted the call");
        Err(by(error.told(told), route))
    }
}

impl Afterwards {
    /// The caller's request has met a route with this policy.
    fn hold(after: &mut Option<Self>, shaping: &Arc<Shaping>, origin: Option<Option<HeaderValue>>) {
        let fields = Fields {
            cors: origin.map(|origin| (shaping.clone(), origin)),
            edit: (!shaping.response.is_empty()).then(|| shaping.clone()),
        };
        *after = (fields.cors.is_some() || fields.edit.is_some()).then(|| Self(Box::new(fields)));
    }

    /// Another route takes the call that was made of the request.
    pub fn other(after: &mut Option<Self>, shaping: Option<&Arc<Shaping>>) {
        let edit = shaping.filter(|shaping| !shaping.response.is_empty()).cloned();
        match after {
            Some(after) => after.0.edit = edit,
            None => *after = edit.map(|edit| Self(Box::new(Fields { edit: Some(edit), cors: None }))),
        }
    }

    /// Writes them.
    pub fn apply(self, into: &mut HeaderMap) {
        if let Some(shaping) = &self.0.edit {
            headers::apply(&shaping.response, into);
        }
        if let Some((shaping, origin)) = self.0.cors
            && let Some(cors) = &shaping.cors
        {
            cors::answer(cors, origin, into);
        }
    }
}

fn refused(detail: &'static str, route: &Route) -> ProxyError {
    by(ProxyError::unsent(Reason::MalformedRequest, detail), route)
}

fn by(error: ProxyError, route: &Route) -> ProxyError {
    ProxyError { rule: route.origin.clone(), ..error }
}
