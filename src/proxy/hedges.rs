//! Makes another attempt beside one that is slow to be answered, as the route's
//! `hedge` says. The first good answer is taken and the others are dropped,
//! which ends their streams; that says nothing of their endpoints.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use http::Response;
use tower::{Service, ServiceExt as _};

use super::stack::{Attempt, Call};
use crate::base::clock;
use crate::base::{ProxyError, Sent, grpc};
use crate::codec::{Body, Upgrade};
use crate::config::model::Hedge;
use crate::policy::outcome::{Class, Outcome};
use crate::policy::retry::Harm;

type Answered = Result<Response<Body>, ProxyError>;

/// One attempt, and more beside it while it is slow.
pub async fn race<S>(inner: S, first: Attempt) -> Answered
where
    S: Service<Attempt, Response = Response<Body>, Error = ProxyError> + Clone,
{
    let call = first.call.clone();
    let Some(hedge) = call.route.policy.hedge.as_ref().filter(|hedge| applies(hedge, &call)) else {
        return inner.oneshot(first).await;
    };
    let began = clock::now();
    let patience =
        call.route.latencies.as_ref().and_then(|known| hedge.patience(&mut known.borrow_mut(), began));
    let answered = match patience {
        None => inner.oneshot(first).await,
        Some(patience) => {
            let mut race = Race::new(inner, first, hedge);
            let answered = race.run(began, patience).await;
            drop(race);
            call.no_attempt_waits();
            answered
        }
    };
    if let (Ok(response), Some(known)) = (&answered, &call.route.latencies)
        && is_good(&call, Outcome::Head(response.status(), response.headers()))
    {
        let now = clock::now();
        known.borrow_mut().record(now, now.saturating_duration_since(began));
    }
    answered
}

/// Whether `hedge` means this call at all.
fn applies(hedge: &Hedge, call: &Call) -> bool {
    let json = call.route.policy.json.as_deref();
    hedge.max > 0 && call.upgrade == Upgrade::No && hedge.only_if.takes(Harm::of(&call.head, json))
}

/// Whether nobody would want another answer.
fn is_good(call: &Call, outcome: Outcome<'_>) -> bool {
    let wanted =
        |retry: &crate::config::model::Retry| retry.wants(outcome, grpc::is_call(&call.head)).is_some();
    matches!(outcome.class(), Class::Good | Class::Nothing)
        && !call.route.policy.retry.as_ref().is_some_and(wanted)
}

type Running<S> = Pin<Box<tower::util::Oneshot<S, Attempt>>>;

struct Race<'a, S: Service<Attempt>> {
    inner: S,
    call: std::rc::Rc<Call>,
    hedge: &'a Hedge,
    /// The body once more, for the next attempt.
    spare: Option<Body>,
    /// Those that are waited for, the first one first; `true` for a hedge.
    running: Vec<(bool, Running<S>)>,
    /// Hedges that were sent.
    sent: u32,
    /// What failed while others were waited for.
    failed: Option<Answered>,
}

impl<'a, S> Race<'a, S>
where
    S: Service<Attempt, Response = Response<Body>, Error = ProxyError> + Clone,
{
    fn new(inner: S, first: Attempt, hedge: &'a Hedge) -> Self {
        let call = first.call.clone();
        let buffer = call.route.policy.retry.as_ref().map_or(64 << 10, |retry| retry.buffer);
        let body = first.body.taped(buffer);
        let spare = body.replay();
        let first = Box::pin(inner.clone().oneshot(Attempt { body, ..first }));
        Self { inner, call, hedge, spare, running: vec![(false, first)], sent: 0, failed: None }
    }

    async fn run(&mut self, began: Instant, patience: std::time::Duration) -> Answered {
        let mut timer = self.call.timers().at(began + patience);
        let mut armed = true;
        loop {
            // The answer to take, or nothing when it is time for another attempt.
            let answered = poll_fn(|cx| {
                if let Poll::Ready(answered) = self.poll(cx) {
                    return Poll::Ready(Some(answered));
                }
                match armed && timer.poll_fired(cx).is_ready() {
                    true => Poll::Ready(None),
                    false => Poll::Pending,
                }
            });
            if let Some(answered) = answered.await {
                return answered;
            }
            armed = self.send() && self.sent < self.hedge.max;
            if armed {
                timer.arm(clock::now() + patience);
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Answered> {
        let mut index = 0;
        while index < self.running.len() {
            let Poll::Ready(answered) = self.running[index].1.as_mut().poll(cx) else {
                index += 1;
                continue;
            };
            let (hedge, _) = self.running.remove(index);
            let outcome = match &answered {
                Ok(response) => Outcome::Head(response.status(), response.headers()),
                Err(error) => Outcome::Failed(error),
            };
            // What we refuse ourselves is no answer to take while another is waited for.
            let good = answered.is_ok() && is_good(&self.call, outcome);
            if good || self.running.is_empty() {
                self.tell(good && hedge);
                return Poll::Ready(if good { answered } else { self.worse(answered) });
            }
            let worse = self.worse(answered);
            self.failed = Some(worse);
        }
        Poll::Pending
    }

    /// Of this failure and the one before, the one that says more: an answer,
    /// then what may have been sent, then what came first.
    fn worse(&mut self, answered: Answered) -> Answered {
        match (self.failed.take(), answered) {
            (Some(Err(before)), Err(now)) if before.sent == Sent::No && now.sent != Sent::No => Err(now),
            (Some(before), Err(_)) => before,
            (_, answered) => answered,
        }
    }

    /// Sends another attempt, if it may be; whether it was.
    fn send(&mut self) -> bool {
        let route = &self.call.route;
        let Some(spare) = self.spare.take().filter(Body::is_complete) else {
            route.metrics.hedged("body");
            return false;
        };
        // One that waits for us and not for an endpoint is not helped by another.
        if !self.call.is_waited_for_elsewhere() {
            return false;
        }
        let now = clock::now();
        if route.panel.as_ref().is_some_and(|panel| !panel.allows_route(now)) {
            route.metrics.hedged("circuit");
            return false;
        }
        if !route.budget.withdraw(now) {
            route.metrics.hedged("budget");
            return false;
        }
        self.spare = spare.replay();
        self.sent += 1;
        let attempt = Attempt { call: self.call.clone(), body: spare };
        self.running.push((true, Box::pin(self.inner.clone().oneshot(attempt))));
        true
    }
}

impl<S: Service<Attempt>> Race<'_, S> {
    /// Counts the hedges, once.
    fn tell(&mut self, won: bool) {
        for number in 0..std::mem::take(&mut self.sent) {
            self.call.route.metrics.hedged(if won && number == 0 { "won" } else { "lost" });
        }
    }
}

impl<S: Service<Attempt>> Drop for Race<'_, S> {
    fn drop(&mut self) {
        self.tell(false);
    }
}
