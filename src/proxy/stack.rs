//! The policy of a route: a stack of `tower` layers, in one visible order.
//!
//! The stack is put together for each request from what the route holds
//! already, so its type is concrete and its cost that of a function call. A
//! layer is thin: what it decides is a type in `policy/`.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Response, StatusCode, request};
use pin_project_lite::pin_project;
use tower::util::UnsyncBoxService;
use tower::{Service, ServiceBuilder, ServiceExt as _};

use super::connection::Door;
use super::router::Route;
use super::worker::Worker;
use crate::base::timers::{Timer, Timers};
use crate::base::{ProxyError, Reason};
use crate::codec::pace::Moved;
use crate::codec::{Body, Exchange, Interim, SendContext, Upgrade};
use crate::config::model::{Balance, HashOn, Retry, Timeout};
use crate::policy::retry::Outcome;
use crate::upstream::{self, Endpoint, Upstream};

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
    interim: Interim,
    moved: Option<Moved>,
    worker: Rc<Worker>,
    peer: std::net::SocketAddr,
    /// Endpoints that failed it.
    tried: RefCell<Vec<Rc<Endpoint>>>,
    /// Held from the attempt that was answered until the answer ends.
    active: RefCell<Option<upstream::Active>>,
    /// Attempts made.
    attempts: Cell<u32>,
}

/// What goes through the stack: a call and its body.
pub struct Attempt {
    /// The call.
    pub call: Rc<Call>,
    /// The body, which only one attempt can take.
    pub body: Body,
}

impl Call {
    /// A call of which no attempt was made.
    pub fn new(door: &Door, route: Rc<Route>, head: request::Parts, exchange: Exchange) -> Self {
        Self {
            head,
            route,
            received: exchange.received,
            upgrade: exchange.upgrade,
            interim: exchange.interim,
            moved: exchange.moved,
            worker: door.worker.clone(),
            peer: door.peer,
            tried: RefCell::default(),
            active: RefCell::default(),
            attempts: Cell::new(0),
        }
    }

    /// The worker's timers.
    pub fn timers(&self) -> &Timers {
        &self.worker.timers
    }

    /// Parts of the request's body that have come.
    pub fn moved(&self) -> u64 {
        self.moved.as_ref().map_or(0, Moved::count)
    }

    /// Takes the request at hand out of the call, to be held by a tunnel that
    /// outlives it.
    pub fn take_active(&self) -> Option<upstream::Active> {
        self.active.take()
    }

    /// The answer has ended: the endpoint has one request less at hand.
    pub fn ended(&self) {
        *self.active.borrow_mut() = None;
    }
}

/// The stack of a route: outermost first.
pub fn of(
    route: &Rc<Route>,
    worker: &Rc<Worker>,
) -> impl Service<Attempt, Response = Response<Body>, Error = ProxyError, Future: 'static> + 'static {
    ServiceBuilder::new()
        .layer_fn(|inner| Deadline { inner, limit: route.policy.timeout, worker: worker.clone() })
        .layer_fn(|inner| Retries { inner, route: route.clone() })
        .service(tower::service_fn(attempt))
}

/// One attempt.
async fn attempt(Attempt { call, body }: Attempt) -> Result<Response<Body>, ProxyError> {
    call.attempts.set(call.attempts.get() + 1);
    let policy = &call.route.policy;
    let key = match &policy.balance {
        Balance::Hash(on) => hash_key(on, &call),
        _ => None,
    };
    let send = upstream::Call {
        head: &call.head,
        balance: &policy.balance,
        key: key.as_deref(),
        protocol: call.route.protocol,
        connect_timeout: policy.connect_timeout,
        send: SendContext {
            limits: &call.route.limits,
            timers: &call.worker.timers,
            interim: &call.interim,
            upgrade: call.upgrade,
        },
    };
    let upstream: &Upstream = &call.route.upstream;
    let mut tried = call.tried.take();
    let result = upstream::send(upstream, &send, body, &mut tried, &call.worker.random).await;
    call.tried.replace(tried);
    match result {
        Ok((response, active)) => {
            call.active.replace(Some(active));
            Ok(response)
        }
        Err(failed) => Err(failed.error),
    }
}

fn hash_key(on: &HashOn, call: &Call) -> Option<Vec<u8>> {
    match on {
        HashOn::Header(name) => call.head.headers.get(name).map(|value| value.as_bytes().to_vec()),
        HashOn::Source => Some(call.peer.ip().to_string().into_bytes()),
        HashOn::Cookie(name) => call.head.headers.get_all(http::header::COOKIE).iter().find_map(|field| {
            field.to_str().ok()?.split(';').find_map(|pair| {
                let (key, value) = pair.trim().split_once('=')?;
                (key == &**name).then(|| value.as_bytes().to_vec())
            })
        }),
    }
}

/// Bounds the wait for the head of the answer. What the policy says of the
/// rest of the answer is kept by [`super::Answer`].
struct Deadline<S> {
    inner: S,
    limit: Timeout,
    worker: Rc<Worker>,
}

pin_project! {
    struct Bounded<F> {
        #[pin]
        inner: F,
        timer: Timer,
        limit: Duration,
        // The request's body, and how far it had come when the timer fired last.
        uploading: Option<(Moved, u64)>,
        worker: Rc<Worker>,
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
        let (Timeout::Head(limit) | Timeout::Whole(limit)) = self.limit;
        let timer = self.worker.timers.at(attempt.call.received + limit);
        let uploading = match self.limit {
            Timeout::Head(_) => attempt.call.moved.clone().map(|moved| (moved, 0)),
            Timeout::Whole(_) => None,
        };
        Bounded { inner: self.inner.call(attempt), timer, limit, uploading, worker: self.worker.clone() }
    }
}

impl<F: Future<Output = Result<Response<Body>, ProxyError>>> Future for Bounded<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if let Poll::Ready(result) = this.inner.poll(cx) {
            return Poll::Ready(result);
        }
        if this.worker.is_stopping() {
            let detail = "the time that `drain.deadline` gives was over";
            return Poll::Ready(Err(ProxyError::new(Reason::ShuttingDown, detail)));
        }
        while this.timer.poll_fired(cx).is_ready() {
            match this.uploading {
                // The wait for an answer begins when the request is there.
                Some((moved, before)) if moved.count() > *before => {
                    *before = moved.count();
                    this.timer.arm(Instant::now() + *this.limit);
                }
                _ => {
                    let detail = format!("no answer within the route's {:?}", this.limit);
                    return Poll::Ready(Err(ProxyError::new(Reason::Timeout, detail)));
                }
            }
        }
        Poll::Pending
    }
}

/// Makes further attempts, as the route's `retry` says.
struct Retries<S> {
    inner: S,
    route: Rc<Route>,
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
    enum Retrying<F> {
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
        let again = match &body {
            Body::Empty => Some(Body::Empty),
            Body::Full(bytes) => Some(Body::Full(bytes.clone())),
            _ => None,
        };
        let result = one_try(inner.clone(), Attempt { call: call.clone(), body }, policy).await;
        let why = match &result {
            Ok(response) => policy.wants(Outcome::Status(response.status())),
            Err(error) => policy.wants(Outcome::Failed(error)),
        };
        match (why, again) {
            (Some(why), Some(again)) if attempt <= policy.max && may_retry(&call, &result) => {
                call.ended();
                call.route.metrics.retried(why);
                body = again;
            }
            _ => return result,
        }
        let pause = policy.pause(attempt + 1, &mut call.worker.random.borrow_mut());
        call.worker.timers.at(Instant::now() + pause).fired().await;
    }
    Err(ProxyError::new(Reason::Overload, "no attempt was made"))
}

/// Idempotent, or surely not sent; and within the budget.
fn may_retry(call: &Call, result: &Result<Response<Body>, ProxyError>) -> bool {
    use crate::policy::retry::{is_free, is_idempotent};
    let method = &call.head.method;
    let harmless = is_idempotent(method) || result.as_ref().is_err_and(|error| is_free(error, method));
    harmless && call.route.budget.borrow_mut().withdraw(Instant::now())
}

async fn one_try<S>(inner: S, attempt: Attempt, policy: &Retry) -> Result<Response<Body>, ProxyError>
where
    S: Service<Attempt, Response = Response<Body>, Error = ProxyError>,
{
    let Some(limit) = policy.per_try else { return inner.oneshot(attempt).await };
    let worker = attempt.call.worker.clone();
    let timer = worker.timers.at(Instant::now() + limit);
    let bounded = Bounded { inner: inner.oneshot(attempt), timer, limit, uploading: None, worker };
    bounded.await.map_err(|error| match error.reason {
        Reason::Timeout => ProxyError::new(
            Reason::PerTryTimeout,
            format!("no answer within the {limit:?} of `retry.per_try`"),
        ),
        _ => error,
    })
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
