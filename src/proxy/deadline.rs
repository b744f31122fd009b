//! Bounds the wait for the head of an answer. What the policy says of the rest
//! of the answer is kept by [`super::Answer`].

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::Response;
use pin_project_lite::pin_project;
use tower::Service;

use super::router::Route;
use super::stack::Attempt;
use super::worker::Worker;
use crate::base::clock;
use crate::base::timers::Timer;
use crate::base::{ProxyError, Reason};
use crate::codec::Body;
use crate::codec::pace::Moved;
use crate::config::model::{RoutePolicy, Timeout};
use crate::policy::deadline::Bounds;

/// The layer's service.
pub struct Deadline<S> {
    inner: S,
    route: Rc<Route>,
    worker: Rc<Worker>,
}

pin_project! {
    /// Waits for `inner`, not for ever.
    pub struct Bounded<F> {
        #[pin]
        inner: F,
        timer: Timer,
        patience: Patience,
        route: Rc<Route>,
        worker: Rc<Worker>,
    }
}

/// How long a wait may take.
pub struct Patience {
    /// The end, whatever moves.
    end: Option<Instant>,
    /// The field by which the caller gave the end.
    caller: Option<&'static str>,
    /// How long nothing may move.
    quiet: Duration,
    /// The request's body, and how far it had come when the timer fired last.
    moved: Option<Moved>,
    /// What it is when nothing has moved for so long.
    reason: Reason,
}

impl<S> Deadline<S> {
    /// Bounds `inner` as the route's policy says.
    pub fn new(inner: S, route: &Rc<Route>, worker: &Rc<Worker>) -> Self {
        Self { inner, route: route.clone(), worker: worker.clone() }
    }
}

impl<S> Service<Attempt> for Deadline<S>
where
    S: Service<Attempt, Response = Response<Body>, Error = ProxyError>,
{
    type Response = Response<Body>;
    type Error = ProxyError;
    type Future = Bounded<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, attempt: Attempt) -> Self::Future {
        let call = attempt.call.clone();
        let patience = Patience::of(call.bounds, call.upload());
        let inner = self.inner.call(attempt);
        Bounded::new(inner, call.received, patience, &self.route, &self.worker)
    }
}

impl Patience {
    /// The wait for the head of an answer.
    fn of(bounds: Bounds, moved: Option<Moved>) -> Self {
        Self {
            end: bounds.end,
            caller: bounds.caller,
            quiet: bounds.wait,
            moved,
            reason: if bounds.idle { Reason::StreamIdle } else { Reason::Timeout },
        }
    }

    /// What `retry.per_try` says of an attempt.
    pub fn per_try(limit: Duration, moved: Option<Moved>) -> Self {
        Self { end: None, caller: None, quiet: limit, moved, reason: Reason::PerTryTimeout }
    }

    /// The timer has fired at `now`: until when to go on waiting, or why not.
    fn on(&mut self, now: Instant, policy: &RoutePolicy) -> Result<Instant, ProxyError> {
        if self.end.is_some_and(|end| now >= end) {
            return Err(self.over(Reason::Timeout, policy));
        }
        // From the last part of the request's body on.
        let next = self.moved.as_ref().and_then(Moved::last).map(|last| last + self.quiet);
        match next.filter(|next| *next > now) {
            Some(next) => Ok(self.end.map_or(next, |end| end.min(next))),
            None => Err(self.over(self.reason, policy)),
        }
    }

    fn over(&self, reason: Reason, policy: &RoutePolicy) -> ProxyError {
        let (Timeout::Head(timeout) | Timeout::Whole(timeout)) = policy.timeout;
        let detail = match reason {
            Reason::StreamIdle => format!("nothing moved for the {:?} of `idle_timeout`", self.quiet),
            Reason::PerTryTimeout => format!("no answer within the {:?} of `retry.per_try`", self.quiet),
            _ => match self.caller {
                Some(field) => format!("no answer within the time that the caller gave with `{field}`"),
                None => format!("no answer within the {timeout:?} of `timeout`"),
            },
        };
        ProxyError::new(reason, detail)
    }
}

impl<F> Bounded<F> {
    /// Waits for `inner` since `start`.
    pub fn new(inner: F, start: Instant, patience: Patience, route: &Rc<Route>, worker: &Rc<Worker>) -> Self {
        let first = start + patience.quiet;
        let timer = worker.timers.at(patience.end.map_or(first, |end| end.min(first)));
        Self { inner, timer, patience, route: route.clone(), worker: worker.clone() }
    }
}

impl<F: Future<Output = Result<Response<Body>, ProxyError>>> Future for Bounded<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if let Poll::Ready(result) = this.inner.poll(cx) {
            return Poll::Ready(result);
        }
        if this.worker.is_stopping(this.route.metrics.direction()) {
            let detail = "the time that `drain.deadline` gives was over";
            return Poll::Ready(Err(ProxyError::new(Reason::ShuttingDown, detail)));
        }
        while this.timer.poll_fired(cx).is_ready() {
            match this.patience.on(clock::now(), &this.route.policy) {
                Ok(until) => this.timer.arm(until),
                Err(error) => {
                    let callers = this.patience.caller.is_some() && error.reason == Reason::Timeout;
                    let rule = this.route.origin.clone().filter(|_| !callers);
                    return Poll::Ready(Err(ProxyError { rule, ..error }));
                }
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::timers::Timers;
    use crate::codec::pace::Pace;

    fn waiting(policy: &RoutePolicy, start: Instant, moved: Option<Moved>) -> Patience {
        let mut head = http::Request::new(()).into_parts().0;
        Patience::of(Bounds::of(policy, start, &mut head), moved)
    }

    fn policy(timeout: Timeout, idle: u64) -> RoutePolicy {
        RoutePolicy { timeout, idle_timeout: Duration::from_secs(idle), ..RoutePolicy::default() }
    }

    async fn later(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_timeout_ends_the_wait_and_a_head_timeout_waits_for_what_moves() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(Timers::new(), None);
        later(3).await;
        pace.moved();
        let whole = policy(Timeout::Whole(Duration::from_secs(10)), 60);
        let mut patience = waiting(&whole, start, Some(pace.counter()));
        assert_eq!(patience.on(at(10), &whole).unwrap_err().reason, Reason::Timeout);
        let head = policy(Timeout::Head(Duration::from_secs(10)), 60);
        let mut patience = waiting(&head, start, Some(pace.counter()));
        assert_eq!(patience.on(at(10), &head).unwrap(), at(13), "from when the request was there");
        assert_eq!(patience.on(at(13), &head).unwrap_err().reason, Reason::Timeout);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_told_from_slowness() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(Timers::new(), None);
        let whole = policy(Timeout::Whole(Duration::from_secs(10)), 5);
        let mut patience = waiting(&whole, start, Some(pace.counter()));
        later(3).await;
        pace.moved();
        assert_eq!(patience.on(at(5), &whole).unwrap(), at(8));
        later(3).await;
        pace.moved();
        assert_eq!(patience.on(at(8), &whole).unwrap(), at(10), "not beyond the end");
        let mut patience = waiting(&whole, start, None);
        assert_eq!(patience.on(at(5), &whole).unwrap_err().reason, Reason::StreamIdle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_was_there_at_once_makes_no_try_longer() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(Timers::new(), None);
        pace.moved();
        let policy = policy(Timeout::Whole(Duration::from_secs(10)), 60);
        let mut one = Patience::per_try(Duration::from_secs(1), Some(pace.counter()));
        assert_eq!(one.on(at(1), &policy).unwrap_err().reason, Reason::PerTryTimeout);
    }
}
