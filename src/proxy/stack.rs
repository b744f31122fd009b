//! The policy of a route: a stack of `tower` layers, in one visible order.
//!
//! The stack is put together for each request from what the route holds
//! already, so its type is concrete and its cost that of a function call. A
//! layer is thin: what it decides is a type in `policy/`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use http::{Response, StatusCode, request};
use tower::util::UnsyncBoxService;
use tower::{Service, ServiceBuilder};

use super::breaker;
use super::bulkheads::Inside;
use super::concurrency::Bulkheading;
use super::connection::Door;
use super::deadline::Deadline;
use super::ending::Ending;
use super::gateway::Client;
use super::mirror::Mirrors;
use super::rate::RateLimits;
use super::retries::{self, Retries};
use super::router::Route;
use super::worker::Worker;
use crate::base::clock;
use crate::base::timers::{Timer, Timers};
use crate::base::{Protocol, ProxyError, Reason, Side};
use crate::codec::pace::Moved;
use crate::codec::{Body, Exchange, Interim, SendContext, Upgrade};
use crate::config::model::{Balance, HashOn};
use crate::policy::authorize::Identity;
use crate::policy::deadline::Bounds;
use crate::policy::outcome::{Class, Outcome};
use crate::policy::shaping::split::cookie;
use crate::upstream::{self, Endpoint, Upstream};

/// A stream that has lasted so long has begun well: no breaker waits for its end.
const ENOUGH: Duration = Duration::from_secs(1);

/// A stack whose type is hidden, for [`Layer`].
pub type BoxedStack = UnsyncBoxService<Attempt, Response<Body>, ProxyError>;

/// A layer that a user of the library puts around the policy of every route.
/// It is called for each request.
pub type Layer = Arc<dyn Fn(BoxedStack) -> BoxedStack + Send + Sync>;

/// One call: what every layer and every attempt of it needs.
pub struct Call {
    /// The head, as it is sent on.
    pub head: request::Parts,
    /// Its route.
    pub route: Rc<Route>,
    /// When its head came.
    pub received: Instant,
    /// Whether the caller asks to change the protocol.
    pub upgrade: Upgrade,
    /// What is spoken to the upstream.
    pub protocol: Protocol,
    /// How long its head may wait, and the whole of it.
    pub bounds: Bounds,
    /// How its answer ends where it breaks off.
    pub ending: RefCell<Ending>,
    /// Who calls, where that is proven.
    pub identity: Option<Rc<Identity>>,
    /// Attempts so far.
    attempts: Cell<u32>,
    interim: Interim,
    moved: Option<Moved>,
    worker: Rc<Worker>,
    peer: std::net::SocketAddr,
    /// Endpoints that failed it.
    tried: RefCell<Vec<Rc<Endpoint>>>,
    /// Where attempts wait for their answers, by their number.
    at: RefCell<[Option<Rc<Endpoint>>; AT_ONCE]>,
    /// What hears how these attempts go.
    pub(super) guards: RefCell<[Option<Rc<upstream::Guard>>; AT_ONCE]>,
    /// When a stream that a breaker waits for has gone on for long enough.
    enough: RefCell<Option<Timer>>,
    /// Held from the attempt that was answered until the answer ends.
    active: RefCell<Option<upstream::Active>>,
    /// The same, of limits of calls at one time.
    inside: RefCell<Vec<Inside>>,
}

/// Attempts of one call at a time: the first, and `hedge.max` beside it.
const AT_ONCE: usize = 4;

/// What goes through the stack: a call and its body.
pub struct Attempt {
    /// The call.
    pub call: Rc<Call>,
    /// The body, which only one attempt can take.
    pub body: Body,
}

impl Call {
    /// A call of which no attempt was made.
    pub fn new(door: &Door, route: Rc<Route>, mut head: request::Parts, exchange: Exchange) -> Self {
        let peer = head.extensions.get::<Client>().map_or(door.peer, |client| client.0);
        Self {
            bounds: Bounds::of(&route.policy, exchange.received, &mut head),
            head,
            protocol: route.protocol,
            route,
            received: exchange.received,
            upgrade: exchange.upgrade,
            ending: RefCell::default(),
            identity: None,
            attempts: Cell::new(0),
            interim: exchange.interim,
            moved: exchange.moved,
            worker: door.worker.clone(),
            peer,
            tried: RefCell::default(),
            at: RefCell::default(),
            guards: RefCell::default(),
            enough: RefCell::default(),
            active: RefCell::default(),
            inside: RefCell::default(),
        }
    }

    /// The worker's timers.
    pub fn timers(&self) -> &Timers {
        &self.worker.timers
    }

    /// The caller.
    pub fn peer(&self) -> std::net::SocketAddr {
        self.peer
    }

    /// The worker that serves it.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// Counts how the request's body comes, where it has one.
    pub fn upload(&self) -> Option<Moved> {
        self.moved.clone()
    }

    /// Parts of the request's body that have come.
    pub fn moved(&self) -> u64 {
        self.moved.as_ref().map_or(0, Moved::count)
    }

    /// The request's body may pause for longer than `limits.body_idle`.
    pub fn may_pause(&self) {
        if let Some(moved) = &self.moved {
            moved.wait_for_ever();
        }
    }

    /// Whether the caller speaks HTTP/2.
    pub fn is_of_http2(&self) -> bool {
        matches!(self.interim, Interim::Http2(_))
    }

    /// Takes the request at hand out of the call, to be held by a tunnel that
    /// outlives it.
    pub fn take_active(&self) -> Option<upstream::Active> {
        self.active.take()
    }

    /// Holds what counts the call until its answer ends.
    pub fn hold(&self, inside: Vec<Inside>) {
        self.inside.replace(inside);
    }

    /// The same as [`Self::take_active`], for what counts the call.
    pub fn take_inside(&self) -> Vec<Inside> {
        self.inside.take()
    }

    /// Refuses what nobody can answer in the time that the caller has left.
    pub fn in_time(&self) -> Result<(), ProxyError> {
        match self.bounds.caller {
            Some(_) => self.bounds.check(&self.route.quickest.get(), clock::now()),
            None => Ok(()),
        }
    }

    /// An answer has come: what the quickest take is known where callers give a time.
    pub fn answered(&self, status: StatusCode) {
        if self.bounds.caller.is_some() && !status.is_server_error() {
            let (now, mut quickest) = (clock::now(), self.route.quickest.get());
            quickest.observe(now, now.saturating_duration_since(self.received));
            self.route.quickest.set(quickest);
        }
    }

    /// Attempts so far that the policy made; what was surely not sent and went
    /// elsewhere at once is none of its own.
    pub fn attempts(&self) -> u32 {
        self.attempts.get()
    }

    /// Another attempt follows: it goes to another endpoint than the last one,
    /// if there is one.
    pub fn again(&self) {
        if let Some(active) = self.active.take() {
            self.tried.borrow_mut().push(active.endpoint().clone());
        }
    }

    /// Whether there is an endpoint that has not failed it.
    pub fn has_others(&self) -> bool {
        self.route.upstream.count() > self.tried.borrow().len() + 1
    }

    /// The wait for an answer was given up for `error`: if that is the fault of
    /// an endpoint, and not of a caller who is slow to send, it counts as one.
    pub fn gave_up(&self, error: &ProxyError) {
        let callers = (self.bounds.caller.is_some() && error.reason == Reason::Timeout)
            || self.moved.as_ref().is_some_and(Moved::is_awaited);
        // The one that has waited longest, of those that are hedged. Untold, a
        // breaker hears nothing.
        let (mut all, mut guards) = (self.at.take(), self.guards.take());
        let next = self.attempts.get() as usize;
        let mut numbers = (0..AT_ONCE).map(|number| (next + number) % AT_ONCE);
        let number = numbers.find(|number| all[*number].is_some());
        let at = number.and_then(|number| all[number].take());
        let guard = number.and_then(|number| guards[number].take());
        let class = self.route.policy.failures.class(Outcome::Failed(error));
        if let Some(endpoint) = at.filter(|_| !callers && class == Class::Silent) {
            endpoint.was_silent();
            self.tried.borrow_mut().push(endpoint);
            if let Some(guard) = guard {
                guard.tell(class, clock::now());
            }
        }
    }

    /// Whether its answer has begun and says with its end how it went.
    pub fn is_open(&self) -> bool {
        self.active.borrow().as_ref().is_some_and(upstream::Active::is_open)
    }

    /// Its answer has begun. A breaker that waits for the end of it waits no
    /// longer than [`ENOUGH`].
    pub fn wait_for_end(&self) {
        if self.active.borrow().as_ref().is_some_and(upstream::Active::is_open_probe) {
            self.enough.replace(Some(self.timers().at(clock::now() + ENOUGH)));
        }
    }

    /// Looks whether its answer has gone well for long enough.
    pub fn poll_enough(&self, cx: &mut Context<'_>) {
        let mut enough = self.enough.borrow_mut();
        if enough.as_mut().is_some_and(|enough| enough.poll_fired(cx).is_ready()) {
            *enough = None;
            self.settle(|| Class::Good);
        }
    }

    /// The answer has ended with these trailers.
    pub fn trailed(&self, trailers: &http::HeaderMap) {
        self.settle(|| self.route.policy.failures.class_of_trailers(trailers));
    }

    /// The answer was cut: whose fault that is says how the call went.
    pub fn cut(&self, error: &ProxyError) {
        let callers = self.bounds.caller.is_some() && error.reason == Reason::Timeout;
        self.settle(|| match self.route.policy.failures.class(Outcome::Failed(error)) {
            _ if callers => Class::Nothing,
            // It was not silent: its answer had begun.
            Class::Silent => Class::Server,
            class => class,
        });
    }

    /// How its answer ends says nothing of the endpoint.
    pub fn says_nothing(&self) {
        self.settle(|| Class::Nothing);
    }

    fn settle(&self, class: impl FnOnce() -> Class) {
        if let Some(active) = &*self.active.borrow() {
            active.settle(class);
        }
    }

    /// Whether an attempt waits at an endpoint while there is another to try; that
    /// one is not picked for the attempt that follows.
    pub fn is_waited_for_elsewhere(&self) -> bool {
        let waits: Vec<_> = self.at.borrow().iter().flatten().cloned().collect();
        let others = self.route.upstream.count() > waits.len();
        let known = !waits.is_empty() && others;
        if known {
            self.tried.borrow_mut().extend(waits);
        }
        known
    }

    /// No attempt waits any more.
    pub fn no_attempt_waits(&self) {
        self.at.take();
    }

    /// The answer broke off within: it is too late for another attempt.
    pub fn broke_off(&self, error: &ProxyError) {
        let retries = self.route.policy.retry.as_ref().is_some_and(|retry| retry.max > 0);
        if retries && error.reason.facts().side == Side::Upstream {
            self.route.metrics.not_retried("begun");
        }
    }

    /// The answer has ended: the endpoint has one request less at hand.
    pub fn ended(&self) {
        *self.active.borrow_mut() = None;
        drop(self.inside.take());
    }
}

/// The stack of a route: outermost first.
pub fn of(
    route: &Rc<Route>,
    worker: &Rc<Worker>,
) -> impl Service<Attempt, Response = Response<Body>, Error = ProxyError, Future: 'static> + 'static {
    ServiceBuilder::new()
        .layer_fn(|inner| RateLimits::new(inner, route))
        .layer_fn(|inner| Bulkheading::new(inner, route))
        .layer_fn(|inner| Deadline::new(inner, route, worker))
        .layer_fn(|inner| Mirrors::new(inner, route))
        .layer_fn(|inner| Retries::new(inner, route))
        .service(tower::service_fn(attempt))
}

/// One attempt.
async fn attempt(Attempt { call, body }: Attempt) -> Result<Response<Body>, ProxyError> {
    let slot = call.attempts() as usize % AT_ONCE;
    breaker::admit(&call, slot)?;
    let policy = &call.route.policy;
    let before = call.attempts.replace(call.attempts.get() + 1);
    let mut fields: Vec<_> = retries::previous(&call.head, before).into_iter().collect();
    if call.bounds.end.is_some() {
        call.bounds.tell(clock::now(), &mut fields);
    }
    let key = match &policy.balance {
        Balance::Hash(on) => hash_key(on, &call),
        _ => None,
    };
    let send = upstream::Call {
        head: &call.head,
        balance: &policy.balance,
        key: key.as_deref(),
        protocol: call.protocol,
        connect_timeout: policy.connect_timeout,
        at: &call.at,
        slot,
        failures: &policy.failures,
        panel: call.route.panel.as_deref().filter(|panel| panel.is_of_endpoints()),
        guards: &call.guards,
        send: SendContext {
            limits: &call.route.limits,
            timers: &call.worker.timers,
            interim: &call.interim,
            upgrade: call.upgrade,
            fields: &fields,
        },
    };
    let upstream: &Upstream = &call.route.upstream;
    match upstream::send(upstream, &send, body, &call.tried, &call.worker.random).await {
        Ok((response, active)) => {
            breaker::answered(&call, slot, &active, &response);
            call.active.replace(Some(active));
            // The answer has begun, while the request may go on.
            call.may_pause();
            Ok(response)
        }
        Err(failed) => {
            breaker::failed(&call, slot, &failed.error);
            Err(failed.error)
        }
    }
}

/// What a consistent hash goes by.
pub fn hash_key(on: &HashOn, call: &Call) -> Option<Vec<u8>> {
    match on {
        HashOn::Header(name) => call.head.headers.get(name).map(|value| value.as_bytes().to_vec()),
        HashOn::Source => Some(call.peer.ip().to_string().into_bytes()),
        HashOn::Cookie(name) => cookie(&call.head.headers, name).map(<[u8]>::to_vec),
    }
}

/// Whether an answer goes on without an end in sight, so that no total timeout
/// may cut it.
pub fn is_stream(status: StatusCode, headers: &http::HeaderMap) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS
        || headers.get(http::header::CONTENT_TYPE).is_some_and(|kind| {
            let kind = kind.as_bytes();
            kind.starts_with(b"text/event-stream") || kind.starts_with(b"multipart/x-mixed-replace")
        })
}
