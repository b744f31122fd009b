//! Bounds the wait for the head of an answer. What the policy says of the rest
//! of the answer is kept by [`super::Answer`].

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Response, request};
use pin_project_lite::pin_project;
use tower::Service;

use super::router::Route;
use super::stack::Attempt;
use super::worker::Worker;
use crate::base::timers::Timer;
use crate::base::{ProxyError, Reason, grpc};
use crate::codec::Body;
use crate::codec::pace::Moved;
use crate::config::model::{RoutePolicy, Timeout};

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

/// How long a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The end of the whole, whatever moves.
    pub end: Option<Instant>,
    /// Whether the end is the caller's own (`grpc-timeout`).
    pub caller: bool,
    /// How long nothing may move before the head of the answer.
    wait: Duration,
    /// Whether that is the `idle_timeout`.
    idle: bool,
}

/// How long a wait may take.
pub struct Patience {
    /// The end, whatever moves.
    end: Option<Instant>,
    /// Whether the end is the caller's own.
    caller: bool,
    /// How long nothing may move.
    quiet: Duration,
    /// The request's body, and how far it had come when the timer fired last.
    moved: Option<(Moved, u64)>,
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

impl Bounds {
    /// What a policy says of a call that began at `received`, and its caller.
    /// The smaller of both travels on to the service.
    pub fn of(policy: &RoutePolicy, received: Instant, head: &mut request::Parts) -> Self {
        let idle = policy.idle_timeout;
        let (end, wait) = match policy.timeout {
            Timeout::Whole(timeout) => (Some(received + timeout), timeout),
            // The wait for an answer begins when the request is there.
            Timeout::Head(timeout) => (None, timeout),
        };
        let bounds = Self { end, wait: wait.min(idle), caller: false, idle: idle < wait };
        if !grpc::is_call(head) {
            return bounds;
        }
        let callers = grpc::timeout(&head.headers);
        match (policy.timeout, callers) {
            (Timeout::Whole(timeout), callers) if callers.is_none_or(|callers| timeout < callers) => {
                head.headers.insert(grpc::TIMEOUT, grpc::write_timeout(timeout));
                bounds
            }
            (_, Some(callers)) => {
                let end = received.checked_add(callers);
                Self { end, wait: idle, caller: end.is_some(), idle: true }
            }
            // A service of gRPC may send its head with its first message, which
            // may be long in coming.
            (_, None) => Self { wait: idle, idle: true, ..bounds },
        }
    }
}

impl Bounds {
    /// What is left, at `now`, for the head of the answer to a call that began
    /// at `received`.
    pub fn left(&self, received: Instant, now: Instant) -> Option<Duration> {
        let end = self.end.or_else(|| received.checked_add(self.wait))?;
        Some(end.saturating_duration_since(now))
    }
}

impl Patience {
    /// The wait for the head of an answer.
    fn of(bounds: Bounds, moved: Option<Moved>) -> Self {
        Self {
            end: bounds.end,
            caller: bounds.caller,
            quiet: bounds.wait,
            moved: moved.map(|moved| (moved, 0)),
            reason: if bounds.idle { Reason::StreamIdle } else { Reason::Timeout },
        }
    }

    /// What `retry.per_try` says of an attempt.
    pub fn per_try(limit: Duration, moved: Option<Moved>) -> Self {
        let moved = moved.map(|moved| (moved, 0));
        Self { end: None, caller: false, quiet: limit, moved, reason: Reason::PerTryTimeout }
    }

    /// The timer has fired at `now`: until when to go on waiting, or why not.
    fn on(&mut self, now: Instant, policy: &RoutePolicy) -> Result<Instant, ProxyError> {
        if self.end.is_some_and(|end| now >= end) {
            return Err(self.over(Reason::Timeout, policy));
        }
        match &mut self.moved {
            Some((moved, before)) if moved.count() > *before => *before = moved.count(),
            _ => return Err(self.over(self.reason, policy)),
        }
        let next = now + self.quiet;
        Ok(self.end.map_or(next, |end| end.min(next)))
    }

    fn over(&self, reason: Reason, policy: &RoutePolicy) -> ProxyError {
        let (Timeout::Head(timeout) | Timeout::Whole(timeout)) = policy.timeout;
        let detail = match reason {
            Reason::StreamIdle => format!("nothing moved for the {:?} of `idle_timeout`", self.quiet),
            Reason::PerTryTimeout => format!("no answer within the {:?} of `retry.per_try`", self.quiet),
            Reason::Timeout if self.caller => {
                "no answer within the time that the caller gave with `grpc-timeout`".to_owned()
            }
            _ => format!("no answer within the {timeout:?} of `timeout`"),
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
            match this.patience.on(Instant::now(), &this.route.policy) {
                Ok(until) => this.timer.arm(until),
                Err(error) => {
                    let callers = this.patience.caller && error.reason == Reason::Timeout;
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

    #[test]
    fn a_whole_timeout_ends_the_wait_and_a_head_timeout_waits_for_what_moves() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(Timers::new(), None);
        let whole = policy(Timeout::Whole(Duration::from_secs(10)), 60);
        let mut patience = waiting(&whole, start, Some(pace.counter()));
        pace.moved();
        assert_eq!(patience.on(at(10), &whole).unwrap_err().reason, Reason::Timeout);
        let head = policy(Timeout::Head(Duration::from_secs(10)), 60);
        let mut patience = waiting(&head, start, Some(pace.counter()));
        assert_eq!(patience.on(at(10), &head).unwrap(), at(20), "the body has moved");
        assert_eq!(patience.on(at(20), &head).unwrap_err().reason, Reason::Timeout);
    }

    #[test]
    fn silence_is_told_from_slowness() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(Timers::new(), None);
        let whole = policy(Timeout::Whole(Duration::from_secs(10)), 4);
        let mut patience = waiting(&whole, start, Some(pace.counter()));
        pace.moved();
        assert_eq!(patience.on(at(4), &whole).unwrap(), at(8));
        pace.moved();
        assert_eq!(patience.on(at(8), &whole).unwrap(), at(10), "not beyond the end");
        let mut patience = waiting(&whole, start, None);
        assert_eq!(patience.on(at(4), &whole).unwrap_err().reason, Reason::StreamIdle);
        let mut one = Patience::per_try(Duration::from_secs(1), None);
        assert_eq!(one.on(at(1), &whole).unwrap_err().reason, Reason::PerTryTimeout);
    }

    #[test]
    fn the_smaller_of_both_times_bounds_a_call_of_grpc_and_travels_on() {
        let start = Instant::now();
        let bounds = |timeout, callers: Option<&'static str>| {
            let mut head = http::Request::new(()).into_parts().0;
            head.headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
            if let Some(callers) = callers {
                head.headers.insert(grpc::TIMEOUT, http::HeaderValue::from_static(callers));
            }
            let bounds = Bounds::of(&policy(timeout, 300), start, &mut head);
            let sent = head.headers.get(grpc::TIMEOUT).map(|value| value.to_str().unwrap().to_owned());
            (bounds.end.map(|end| end - start), bounds.caller, sent)
        };
        let seconds = Duration::from_secs;
        let (whole, head) = (Timeout::Whole(seconds(2)), Timeout::Head(seconds(30)));
        assert_eq!(bounds(whole, Some("1S")), (Some(seconds(1)), true, Some("1S".into())));
        assert_eq!(bounds(whole, Some("3S")), (Some(seconds(2)), false, Some("2000000u".into())));
        assert_eq!(bounds(whole, None), (Some(seconds(2)), false, Some("2000000u".into())));
        assert_eq!(bounds(head, Some("1S")), (Some(seconds(1)), true, Some("1S".into())));
        assert_eq!(
            bounds(head, Some("soon")),
            (None, false, Some("soon".into())),
            "for the service to judge"
        );
        assert_eq!(bounds(head, None), (None, false, None));
    }
}
