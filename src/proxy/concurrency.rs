//! Refuses what is more than the route's `concurrency` lets in at one time, after
//! a wait where calls may wait. A route without one pays a branch.
//!
//! A call is inside until its answer has ended: what holds it travels with the
//! [`Call`], as the request at hand does.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::{Response, StatusCode};
use pin_project_lite::pin_project;
use tower::Service;

use super::bulkheads::{Bulkhead, Inside};
use super::router::Route;
use super::stack::{self, Attempt, Call};
use crate::base::clock;
use crate::base::{ProxyError, Reason};
use crate::codec::Body;
use crate::config::model::Concurrency;
use crate::policy::concurrency::Sample;
use crate::policy::outcome::{self, Class, Outcome};

/// When it makes sense for a refused call to come back.
const COME_BACK: Duration = Duration::from_secs(1);

/// The layer's service.
pub struct Bulkheading<S> {
    inner: S,
    route: Rc<Route>,
}

pin_project! {
    /// Lets a call in, or not.
    #[project = BoundedProjection]
    pub enum Held<F> {
        /// Nothing is limited.
        Free { #[pin] inner: F },
        /// It is inside.
        Entered { #[pin] inner: F, inside: Vec<Inside>, call: Rc<Call> },
        /// It waits.
        Waits { #[pin] inner: F, entering: Option<Entering>, inside: Vec<Inside>, call: Rc<Call> },
        /// It is not let in.
        Refused { error: Option<ProxyError> },
    }
}

type Entering = Pin<Box<dyn Future<Output = Result<Vec<Inside>, ProxyError>>>>;

impl<S> Bulkheading<S> {
    /// Limits `inner` as the route's policy says.
    pub fn new(inner: S, route: &Rc<Route>) -> Self {
        Self { inner, route: route.clone() }
    }
}

impl<S> Service<Attempt> for Bulkheading<S>
where
    S: Service<Attempt, Response = Response<Body>, Error = ProxyError>,
{
    type Response = Response<Body>;
    type Error = ProxyError;
    type Future = Held<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, attempt: Attempt) -> Self::Future {
        if self.route.bulkheads.is_empty() {
            return Held::Free { inner: self.inner.call(attempt) };
        }
        let call = attempt.call.clone();
        match enter(&call) {
            Ok(inside) => Held::Entered { inner: self.inner.call(attempt), inside, call },
            Err((limit, bulkhead)) if limit.rules.pending == 0 => {
                Held::Refused { error: Some(refusal(&call, limit, bulkhead)) }
            }
            Err(_) => {
                let entering = Some(Box::pin(wait(call.clone())) as Entering);
                // The call itself does nothing before it is polled.
                Held::Waits { inner: self.inner.call(attempt), entering, inside: Vec::new(), call }
            }
        }
    }
}

impl<F: Future<Output = Result<Response<Body>, ProxyError>>> Future for Held<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let (inner, inside, call) = match self.project() {
            BoundedProjection::Free { inner } => return inner.poll(cx),
            BoundedProjection::Entered { inner, inside, call } => (inner, inside, call),
            BoundedProjection::Waits { inner, entering, inside, call } => {
                if let Some(waits) = entering {
                    *inside = ready!(waits.as_mut().poll(cx))?;
                    *entering = None;
                }
                (inner, inside, call)
            }
            BoundedProjection::Refused { error } => {
                return Poll::Ready(Err(error.take().unwrap_or_else(again)));
            }
        };
        let result = ready!(inner.poll(cx));
        answered(call, std::mem::take(inside), &result);
        Poll::Ready(result)
    }
}

/// Nobody polls a future twice that has ended.
fn again() -> ProxyError {
    ProxyError::unsent(Reason::ConcurrencyLimit, "the limit of calls at one time was asked twice")
}

fn limits(call: &Call) -> impl Iterator<Item = (&Concurrency, &Arc<Bulkhead>)> {
    call.route.policy.concurrency.iter().zip(&call.route.bulkheads)
}

/// Enters all limits at once, or none: then the one that has no room.
fn enter(call: &Call) -> Result<Vec<Inside>, (&Concurrency, &Arc<Bulkhead>)> {
    let mut inside = Vec::with_capacity(call.route.bulkheads.len());
    for (limit, bulkhead) in limits(call) {
        match bulkhead.enter(bulkhead.who(&call.head), limit.mode) {
            Some(entered) => inside.push(entered),
            None => {
                says_nothing(&inside);
                return Err((limit, bulkhead));
            }
        }
    }
    Ok(inside)
}

/// Enters one limit after the other, each when there is room.
async fn wait(call: Rc<Call>) -> Result<Vec<Inside>, ProxyError> {
    let mut inside = Vec::with_capacity(call.route.bulkheads.len());
    for (limit, bulkhead) in limits(&call) {
        match one(&call, limit, bulkhead).await {
            Some(entered) => inside.push(entered),
            None => {
                says_nothing(&inside);
                return Err(refusal(&call, limit, bulkhead));
            }
        }
    }
    Ok(inside)
}

async fn one(call: &Call, limit: &Concurrency, bulkhead: &Arc<Bulkhead>) -> Option<Inside> {
    let who = bulkhead.who(&call.head);
    if let Some(entered) = bulkhead.enter(who, limit.mode) {
        return Some(entered);
    }
    let waiting = bulkhead.queue(who)?;
    let until = clock::now() + limit.rules.wait;
    let mut timer = call.timers().at(call.bounds.end.map_or(until, |end| until.min(end)));
    loop {
        let mut turn = std::pin::pin!(waiting.turn());
        // From here on it hears of room, so that none is missed.
        turn.as_mut().enable();
        if let Some(entered) = waiting.enter(bulkhead) {
            return Some(entered);
        }
        tokio::select! {
            biased;
            () = turn => {}
            () = timer.fired() => return waiting.enter(bulkhead),
        }
    }
}

/// Calls that entered one limit and found no room in the next never began.
fn says_nothing(inside: &[Inside]) {
    inside.iter().for_each(|entered| entered.tell(Sample::Nothing, clock::now()));
}

fn refusal(call: &Call, limit: &Concurrency, bulkhead: &Bulkhead) -> ProxyError {
    bulkhead.refused(bulkhead.who(&call.head));
    let error = ProxyError::unsent(Reason::ConcurrencyLimit, bulkhead.shown());
    ProxyError { retry_after: Some(COME_BACK), ..error.by(limit.origin.clone()) }
}

/// The head of an answer has come, or none will: what it says of the load; and
/// what stays inside until the answer ends.
fn answered(call: &Call, mut inside: Vec<Inside>, result: &Result<Response<Body>, ProxyError>) {
    let now = clock::now();
    for entered in &inside {
        entered.tell(sample(call, entered, result, now), now);
    }
    let Ok(response) = result else { return };
    if stack::is_stream(response.status(), response.headers()) {
        // It may last for days and do nothing: a limit that follows the latency
        // would take it for load.
        inside.retain(Inside::outlasts_streams);
    }
    call.hold(inside);
}

/// What the outcome of a call says of the load.
fn sample(
    call: &Call,
    entered: &Inside,
    result: &Result<Response<Body>, ProxyError>,
    now: Instant,
) -> Sample {
    // What its caller took to send it is not the service's time.
    let whole = call.upload().and_then(|upload| upload.last());
    let since = whole.map_or(entered.since(), |whole| whole.max(entered.since()));
    let took = now.saturating_duration_since(since);
    match result {
        Ok(response) if outcome::is_overload(response.status(), response.headers()) => Sample::Dropped,
        // Another attempt was made, after a pause.
        Ok(_) if call.attempts() > 1 => Sample::Nothing,
        Ok(response) if response.status() == StatusCode::TOO_MANY_REQUESTS => Sample::Nothing,
        Ok(response) => match Outcome::Head(response.status(), response.headers()).class() {
            Class::Good => Sample::Answered(took),
            _ => Sample::Nothing,
        },
        Err(error) => match error.reason {
            Reason::Timeout if call.bounds.caller.is_some() => Sample::GivenUp(took),
            Reason::Timeout | Reason::PerTryTimeout => Sample::Dropped,
            Reason::ClientClosed => Sample::GivenUp(took),
            _ => Sample::Nothing,
        },
    }
}
