//! Makes further attempts of a call, as the route's `retry` says. What was
//! surely not sent has been tried elsewhere already, below this layer.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::Response;
use pin_project_lite::pin_project;
use tower::{Service, ServiceExt as _};

use super::deadline::{Bounded, Patience};
use super::router::Route;
use super::stack::{Attempt, Call};
use crate::base::{ProxyError, Reason};
use crate::codec::Body;
use crate::config::model::Retry;
use crate::policy::outcome::Outcome;
use crate::policy::retry::{is_free, is_idempotent};

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
        match &self.route.policy.retry {
            None => Retrying::Once { inner: self.inner.call(attempt) },
            Some(_) => Retrying::Often { inner: Box::pin(retry(self.inner.clone(), attempt)) },
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

async fn retry<S>(inner: S, first: Attempt) -> Result<Response<Body>, ProxyError>
where
    S: Service<Attempt, Response = Response<Body>, Error = ProxyError> + Clone,
{
    let call = first.call.clone();
    let Some(policy) = &call.route.policy.retry else { return inner.oneshot(first).await };
    call.route.budget.borrow_mut().deposit(Instant::now());
    let mut body = first.body;
    for attempt in 1.. {
        let again = body.replay();
        let result = one_try(inner.clone(), Attempt { call: call.clone(), body }, policy).await;
        let why = match &result {
            Ok(response) => policy.wants(Outcome::Head(response.status(), response.headers())),
            Err(error) => policy.wants(Outcome::Failed(error)),
        };
        match (why, again) {
            (Some(why), Some(again)) if attempt <= policy.max && may_retry(&call, &result) => {
                call.again();
                call.route.metrics.retried(why);
                body = again;
            }
            _ => return result,
        }
        let pause = policy.pause(attempt + 1, &mut call.worker().random.borrow_mut());
        call.worker().timers.at(Instant::now() + pause).fired().await;
    }
    Err(ProxyError::new(Reason::Overload, "no attempt was made"))
}

/// Idempotent, or surely not sent; and within the budget.
fn may_retry(call: &Call, result: &Result<Response<Body>, ProxyError>) -> bool {
    let method = &call.head.method;
    let harmless = is_idempotent(method) || result.as_ref().is_err_and(|error| is_free(error, method));
    harmless && call.route.budget.borrow_mut().withdraw(Instant::now())
}

async fn one_try<S>(inner: S, attempt: Attempt, policy: &Retry) -> Result<Response<Body>, ProxyError>
where
    S: Service<Attempt, Response = Response<Body>, Error = ProxyError>,
{
    let Some(limit) = policy.per_try else { return inner.oneshot(attempt).await };
    let call = attempt.call.clone();
    let inner = inner.oneshot(attempt);
    let patience = Patience::per_try(limit, call.upload());
    let bounded = Bounded::new(inner, Instant::now(), patience, &call.route, call.worker()).await;
    bounded.inspect_err(|error| call.gave_up(error))
}
