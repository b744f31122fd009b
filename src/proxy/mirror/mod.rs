//! Sends copies of calls to another service, as the route's `mirror` says, and
//! throws away what it answers. A route without one pays a branch.
//!
//! A copy is sent when the request is whole: what the other service does with
//! it can't hold up the caller, and no part of a request is ever sent. Nobody
//! waits for a copy.

mod compare;
mod tee;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{EXPECT, HOST, HeaderName, HeaderValue};
use http::{Response, request};
use http_body::Body as _;
use metrics::Counter;
use pin_project_lite::pin_project;
use tower::Service;

use self::compare::{Pair, Side};
use super::router::Route;
use super::stack::{self, Attempt, Call};
use super::worker::Worker;
use crate::base::{Limits, Protocol, ProxyError, clock};
use crate::codec::{Body, Interim, SendContext, Upgrade};
use crate::config::Model;
use crate::config::model::{self, Balance, Failures};
use crate::policy::deadline::Bounds;
use crate::policy::mirror::{Held, Room};
use crate::telemetry::names;
use crate::upstream::{self, Upstream};

/// Of a copy: the service whose call it copies.
pub const MIRRORED: HeaderName = HeaderName::from_static("pillion-mirrored");

/// The copies of one route.
pub struct Mirror {
    policy: Arc<model::Mirror>,
    /// Whose calls they copy.
    real: HeaderValue,
    upstream: Rc<Upstream>,
    protocol: Protocol,
    balance: Balance,
    failures: Failures,
    connect_timeout: Duration,
    limits: Rc<Limits>,
    room: Arc<Room>,
    ends: [Counter; 6],
    compared: compare::Counts,
}

/// What becomes of a copy; the words are metric labels.
#[derive(Clone, Copy)]
enum End {
    Answered,
    Failed,
    Late,
    Full,
    TooLarge,
    Unfinished,
}

const ENDS: [&str; 6] = ["answered", "failed", "late", "full", "too_large", "unfinished"];

impl Mirror {
    /// The copies of a route with this policy, if it wants any. `place` is its
    /// upstream, what tells it from other routes there, and its template.
    pub fn new(
        policy: Option<&Arc<model::Mirror>>,
        (upstream, pattern, template): (&Upstream, &str, &str),
        model: &Model,
        worker: &Worker,
        limits: &Rc<Limits>,
    ) -> Option<Rc<Self>> {
        let policy = policy.filter(|policy| policy.share > 0.0)?;
        let metrics = &worker.metrics;
        let [real, to] = [&upstream.name, &policy.to].map(|name| metrics.label(name.as_str()));
        // How calls of that service are sent is said in its own entry.
        let block = model.upstreams.get(&policy.to);
        let own = block.map_or(&model.defaults, |block| &block.policy);
        Some(Rc::new(Self {
            real: HeaderValue::from_str(upstream.name.as_str()).unwrap_or(HeaderValue::from_static("")),
            upstream: worker.table.named(&policy.to),
            protocol: block.map_or(Protocol::Auto, |block| block.protocol),
            balance: own.balance.clone(),
            failures: own.failures.clone(),
            connect_timeout: own.connect_timeout,
            limits: limits.clone(),
            room: worker.rooms().get(&upstream.name, pattern),
            ends: ENDS.map(|end| metrics.counter(&names::MIRRORED, &[&real, template, &to, end])),
            compared: compare::Counts::new(metrics, [&real, template, &to]),
            policy: policy.clone(),
        }))
    }

    fn count(&self, end: End) {
        self.ends[end as usize].increment(1);
    }

    /// Sees to a copy of this call, if there is to be one; what compares the
    /// answers then, if they are compared.
    fn copy(self: &Rc<Self>, attempt: &mut Attempt) -> Option<Rc<Pair>> {
        let Attempt { call, body } = attempt;
        let chosen = || call.worker().random.borrow_mut().f64() < self.policy.share;
        // A copy is not copied: mirrors that face each other would never end.
        let wanted = call.upgrade == Upgrade::No && !call.head.headers.contains_key(MIRRORED);
        if !wanted || !chosen() {
            return None;
        }
        if body.size_hint().lower() > self.policy.buffer as u64 {
            self.count(End::TooLarge);
            return None;
        }
        let Some(held) = self.room.enter(self.policy.max) else {
            self.count(End::Full);
            return None;
        };
        let pair = self.policy.compare.as_ref().map(|_| Pair::new(self));
        let copy = Copy::new(self, call, held, pair.clone());
        match if body.is_end_stream() { Some(Body::Empty) } else { body.replay() } {
            Some(whole) => copy.send(whole),
            None => *body = tee::tee(std::mem::take(body), copy),
        }
        pair
    }
}

/// A copy of one call.
struct Copy {
    mirror: Rc<Mirror>,
    worker: Rc<Worker>,
    head: request::Parts,
    /// For a consistent hash.
    key: Option<Vec<u8>>,
    protocol: Protocol,
    _held: Held,
    pair: Option<Rc<Pair>>,
}

impl Copy {
    fn new(mirror: &Rc<Mirror>, call: &Call, held: Held, pair: Option<Rc<Pair>>) -> Self {
        // Not the call itself: it holds the caller's connection.
        let mut head = call.head.clone();
        head.headers.remove(EXPECT);
        head.headers.insert(MIRRORED, mirror.real.clone());
        if let Some(host) = &mirror.policy.host {
            head.headers.insert(HOST, host.clone());
        }
        let key = match &mirror.balance {
            Balance::Hash(on) => stack::hash_key(on, call),
            _ => None,
        };
        let protocol = match mirror.protocol {
            Protocol::Auto => call.protocol,
            told => told,
        };
        let (mirror, worker) = (mirror.clone(), call.worker().clone());
        Self { mirror, worker, head, key, protocol, _held: held, pair }
    }

    /// Sends it, beside everything else.
    fn send(self, body: Body) {
        tokio::task::spawn_local(async move {
            let end = clock::now() + self.mirror.policy.timeout;
            let mut timer = self.worker.timers.at(end);
            let ended = tokio::select! {
                biased;
                ended = self.exchange(body, Bounds::ending(end, &self.head)) => ended,
                () = timer.fired() => End::Late,
            };
            self.mirror.count(ended);
        });
    }

    async fn exchange(&self, body: Body, bounds: Bounds) -> End {
        let (mirror, worker) = (&self.mirror, &self.worker);
        let mut fields = Vec::new();
        bounds.tell(clock::now(), &mut fields);
        let (at, guards) = (RefCell::new([None]), RefCell::new([None]));
        let call = upstream::Call {
            head: &self.head,
            balance: &mirror.balance,
            key: self.key.as_deref(),
            protocol: self.protocol,
            connect_timeout: mirror.connect_timeout,
            at: &at,
            guards: &guards,
            slot: 0,
            failures: &mirror.failures,
            panel: None,
            send: SendContext {
                limits: &mirror.limits,
                timers: &worker.timers,
                interim: &Interim::None,
                upgrade: Upgrade::No,
                fields: &fields,
            },
        };
        let sent = upstream::send(&mirror.upstream, &call, body, &RefCell::default(), &worker.random).await;
        let Ok((response, active)) = sent else { return End::Failed };
        let (head, mut body) = response.into_parts();
        let mut print = self.pair.as_ref().map(|pair| pair.print(&head));
        loop {
            match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                None => break,
                Some(Err(_)) => return End::Failed,
                Some(Ok(frame)) => {
                    if let Some(print) = &mut print {
                        compare::follow(print, &frame);
                    }
                    if let Some(trailers) = frame.trailers_ref() {
                        active.settle(|| mirror.failures.class_of_trailers(trailers));
                    }
                }
            }
        }
        if let (Some(pair), Some(print)) = (&self.pair, print) {
            pair.set(Side::Copy, print);
        }
        End::Answered
    }
}

/// The layer's service.
pub struct Mirrors<S> {
    inner: S,
    route: Rc<Route>,
}

impl<S> Mirrors<S> {
    /// Mirrors the calls of `inner` as the route's policy says.
    pub fn new(inner: S, route: &Rc<Route>) -> Self {
        Self { inner, route: route.clone() }
    }
}

impl<S> Service<Attempt> for Mirrors<S>
where
    S: Service<Attempt, Response = Response<Body>, Error = ProxyError>,
{
    type Response = Response<Body>;
    type Error = ProxyError;
    type Future = Mirroring<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut attempt: Attempt) -> Self::Future {
        let pair = self.route.mirror.as_ref().and_then(|mirror| mirror.copy(&mut attempt));
        Mirroring { inner: self.inner.call(attempt), pair }
    }
}

pin_project! {
    /// A call, and what compares the answer to it.
    pub struct Mirroring<F> {
        #[pin]
        inner: F,
        pair: Option<Rc<Pair>>,
    }
}

impl<F: Future<Output = Result<Response<Body>, ProxyError>>> Future for Mirroring<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        Poll::Ready(Ok(match this.pair.take() {
            None => response,
            Some(pair) => compare::watch(response, pair),
        }))
    }
}
