//! The circuit breaker of a route around one attempt, and what is answered in
//! place of an error while it is open. Breakers of endpoints are asked where an
//! endpoint is picked.

use http::{HeaderValue, Response};

use super::stack::Call;
use crate::base::clock;
use crate::base::{ProxyError, Reason, grpc};
use crate::codec::Body;
use crate::policy::outcome::{self, Outcome};
use crate::upstream::Active;

/// Asks the breaker of the call's route, if it has one for all endpoints.
pub fn admit(call: &Call, slot: usize) -> Result<(), ProxyError> {
    if let Some(panel) = call.route.panel.as_ref().filter(|panel| !panel.is_of_endpoints()) {
        call.guards.borrow_mut()[slot] = panel.admit_route(clock::now())?;
    }
    Ok(())
}

/// The head of an answer has come: it says how the attempt went, or the end of
/// the answer will.
pub fn answered(call: &Call, slot: usize, active: &Active, response: &Response<Body>) {
    let guard = call.guards.borrow_mut()[slot].take();
    let Some(guard) = guard else { return };
    guard.answered(clock::now(), call.upload().and_then(|upload| upload.last()));
    active.hold(guard);
    let (status, headers) = (response.status(), response.headers());
    if !outcome::is_open(status, headers) {
        active.tell(call.route.policy.failures.class(Outcome::Head(status, headers)));
    }
}

/// The attempt has failed.
pub fn failed(call: &Call, slot: usize, error: &ProxyError) {
    let guard = call.guards.borrow_mut()[slot].take();
    if let Some(guard) = guard {
        guard.tell(call.route.policy.failures.class(Outcome::Failed(error)), clock::now());
    }
}

/// What is answered in place of `error`, if the route has something for it.
pub fn fallback(call: &Call, error: &ProxyError) -> Option<Response<Body>> {
    let breaker = call.route.policy.circuit_breaker.as_ref()?;
    let fallback = breaker.fallback.as_ref().filter(|_| error.reason == Reason::CircuitOpen)?;
    // A call of gRPC has a status to tell it.
    if grpc::is_call(&call.head) {
        return None;
    }
    let mut response = Response::new(Body::full(bytes::Bytes::copy_from_slice(&fallback.body)));
    *response.status_mut() = fallback.status;
    let headers = response.headers_mut();
    headers.extend(fallback.headers.iter().cloned());
    headers.insert("pillion-fallback", HeaderValue::from_static(error.reason.as_str()));
    Some(response)
}
