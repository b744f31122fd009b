//! Makes further attempts of a call, as the route's `retry` says. What was
//! surely not sent has been tried elsewhere already, below this layer.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use http::{HeaderName, HeaderValue, Response, request};
use pin_project_lite::pin_project;
use tower::Service;

use super::deadline::{Bounded, Patience};
use super::hedges;
use super::router::Route;
use super::stack::{Attempt, Call};
use crate::base::clock;
use crate::base::{ProxyError, Reason, grpc};
use crate::codec::Body;
use crate::config::model::Retry;
use crate::policy::advice::Advice;
use crate::policy::outcome::{Outcome, is_busy};
use crate::policy::retry::{Failure, Harm, Next};

/// Of an answer: how many attempts it took, where that is more than one.
pub const ATTEMPTS: HeaderName = HeaderName::from_static("pillion-attempts");
/// Of a request of gRPC: attempts before this one (gRFC A6).
const PREVIOUS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// The layer's service.
pub struct Retries<S> {
    inner: S,
    route: Rc<Route>,
}

impl<S> Retries<S> {
    /// Retries `inner` as the route's policy says.
    pub fn new(inner: S, route: &Rc<Route>) -> Self {
        Self { inner, route: route.clone() }
    }
}

impl<S> Service<Attempt> for Retries<S>
where
    S: Service<Attempt, Response = Response<Body>, Error = ProxyError> + Clone + 'static,
    S::Future: 'static,
{
    type Response = Response<Body>;
    type Error = ProxyError;
    type Future = Retrying<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, attempt: Attempt) -> Self::Future {
        match (&self.route.policy.retry, &self.route.policy.hedge) {
            (None, None) => Retrying::Once { inner: self.inner.call(attempt) },
            _ => Retrying::Often { inner: Box::pin(retry(self.inner.clone(), attempt)) },
        }
    }
}

pin_project! {
    #[project = RetryingProjection]
    /// One attempt, or as many as the policy allows.
    pub enum Retrying<F> {
        Once { #[pin] inner: F },
        Often { inner: Pin<Box<dyn Future<Output = Result<Response<Body>, ProxyError>>>> },
    }
}

impl<F: Future<Output = Result<Response<Body>, ProxyError>>> Future for Retrying<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project() {
            RetryingProjection::Once { inner } => inner.poll(cx),
            RetryingProjection::Often { inner } => inner.as_mut().poll(cx),
        }
    }
}

/// What a request of gRPC says of the attempts before it: the caller's own, and
/// `attempts` of ours.
pub fn previous(head: &request::Parts, attempts: u32) -> Option<(HeaderName, HeaderValue)> {
    if attempts == 0 || !grpc::is_call(head) {
        return None;
    }
    let callers = head.headers.get(PREVIOUS).and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    Some((PREVIOUS, callers.unwrap_or(0).saturating_add(attempts).into()))
}

async fn retry<S>(inner: S, first: Attempt) -> Result<Response<Body>, ProxyError>
where
    S: Service<Attempt, Response = Response<Body>, Error = ProxyError> + Clone,
{
    let call = first.call.clone();
    let Some(policy) = &call.route.policy.retry else {
        call.route.budget.deposit(Retry::default().budget, call.received);
        return hedges::race(inner, first).await;
    };
    call.route.budget.deposit(policy.budget, call.received);
    let mut body = first.body.taped(policy.buffer);
    for attempts in 1.. {
        let again = if attempts <= policy.max { body.replay() } else { None };
        let result = one_try(inner.clone(), Attempt { call: call.clone(), body }, policy).await;
        let again = again.filter(Body::is_whole);
        let pause = match (next(policy, &call, &result, attempts, again.is_some()), again) {
            (Next::Again(why, pause), Some(again)) => {
                call.again();
                call.route.metrics.retried(why);
                body = again;
                pause
            }
            (Next::Stop(why), _) => {
                call.route.metrics.not_retried(why);
                return result;
            }
            _ => return result,
        };
        drop(result);
        call.worker().timers.at(clock::now() + pause).fired().await;
    }
    Err(ProxyError::new(Reason::Overload, "no attempt was made"))
}

fn next(
    policy: &Retry,
    call: &Call,
    result: &Result<Response<Body>, ProxyError>,
    attempts: u32,
    replayable: bool,
) -> Next {
    let outcome = match result {
        Ok(response) => Outcome::Head(response.status(), response.headers()),
        Err(error) => Outcome::Failed(error),
    };
    let grpc = grpc::is_call(&call.head);
    if policy.wants(outcome, grpc).is_none() {
        return Next::Done;
    }
    let now = clock::now();
    // The answer at hand is better than a refusal.
    if call.route.panel.as_ref().is_some_and(|panel| !panel.allows_route(now)) {
        return Next::Stop("circuit");
    }
    let failure = Failure {
        outcome,
        attempts,
        harm: Harm::of(&call.head, call.route.policy.json.as_deref()),
        grpc,
        replayable,
        advice: match result {
            // One endpoint has no room, and there are others.
            Ok(response) if is_busy(response.headers()) && call.has_others() => Advice::None,
            Ok(response) => Advice::of(response.headers(), wall_clock()),
            Err(_) => Advice::None,
        },
        left: call.bounds.left(call.received, now),
    };
    policy.next(&failure, || call.route.budget.withdraw(now), &mut call.worker().random.borrow_mut())
}

#[allow(clippy::disallowed_methods, reason = "the edge: a wall clock for a wall-clock field")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

async fn one_try<S>(inner: S, attempt: Attempt, policy: &Retry) -> Result<Response<Body>, ProxyError>
where
    S: Service<Attempt, Response = Response<Body>, Error = ProxyError> + Clone,
{
    let call = attempt.call.clone();
    let inner = hedges::race(inner, attempt);
    let Some(limit) = policy.per_try else { return inner.await };
    let patience = Patience::per_try(limit, call.upload());
    let bounded = Bounded::new(inner, clock::now(), patience, &call.route, call.worker()).await;
    bounded.inspect_err(|error| call.gave_up(error))
}
