//! One attempt of a call: pick an endpoint, lease a connection, send, await the
//! head of the answer. What was surely not sent goes to another endpoint at
//! once, whatever the policy says of retries.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Response, Version, request};

use super::endpoint::{Active, Endpoint, Room};
use super::fuse::{Guard, Panel};
use super::picker::Picker;
use super::quota::Place;
use super::{Key, Upstream};
use crate::base::clock;
use crate::base::{Protocol, ProxyError, Reason, Sent, Side, grpc};
use crate::codec::http1::client::Connection as Http1;
use crate::codec::http2::client::{Connection as Http2, Lease};
use crate::codec::{Body, Failed, SendContext, Upgrade};
use crate::config::model::{Balance, Failures};
use crate::policy::outcome::{self, Outcome};
use crate::policy::retry;

/// How long what was sent on an HTTP/2 connection may stay unacknowledged.
const VANISHED: Duration = Duration::from_secs(20);
/// Endpoints that one attempt tries while nothing was sent.
const MAX_TRIES: usize = 4;

/// What a call needs to be sent.
pub struct Call<'a> {
    /// The head; it is only read.
    pub head: &'a request::Parts,
    /// How an endpoint is picked.
    pub balance: &'a Balance,
    /// For a consistent hash.
    pub key: Key<'a>,
    /// What the policy says the upstream speaks.
    pub protocol: Protocol,
    /// For making one connection.
    pub connect_timeout: Duration,
    /// Holds the endpoint at which an attempt waits for its answer, for several
    /// at a time.
    pub at: &'a RefCell<[Option<Rc<Endpoint>>]>,
    /// Holds what hears how each of them goes.
    pub guards: &'a RefCell<[Option<Rc<Guard>>]>,
    /// Which of them this one is.
    pub slot: usize,
    /// What counts as a failure.
    pub failures: &'a Failures,
    /// Breakers of the endpoints, where each has one.
    pub panel: Option<&'a Panel>,
    /// For the codec.
    pub send: SendContext<'a>,
}

impl Call<'_> {
    /// The breaker hears how an attempt went.
    fn tell(&self, class: outcome::Class, now: Instant) {
        let guard = self.guards.borrow_mut()[self.slot].take();
        if let Some(guard) = guard {
            guard.tell(class, now);
        }
    }

    /// Whether another attempt of the same call waits for its answer.
    fn is_beside(&self) -> bool {
        self.at.borrow().iter().enumerate().any(|(slot, at)| slot != self.slot && at.is_some())
    }

    /// From now on it is up to this endpoint; before, the call has waited for us.
    fn reaches(&self, endpoint: &Rc<Endpoint>) {
        self.at.borrow_mut()[self.slot] = Some(endpoint.clone());
    }
}

/// Sends one request. `tried` holds endpoints that failed before and learns of
/// more. An error leaves the body, where it can be sent again.
pub async fn send(
    upstream: &Upstream,
    call: &Call<'_>,
    mut body: Body,
    tried: &RefCell<Vec<Rc<Endpoint>>>,
    random: &RefCell<fastrand::Rng>,
) -> Result<(Response<Body>, Active), Failed> {
    let mut fresh = false;
    let mut tries = 0;
    loop {
        tries += 1;
        let now = clock::now();
        let picker = match upstream.picker(now, call.send.timers).await {
            Ok(picker) => picker,
            Err(error) => return Err(Failed { error, body: Some(body) }),
        };
        // With every endpoint tried, the best of them gets another chance, but
        // not beside an attempt that waits there.
        let picked = {
            let random = &mut *random.borrow_mut();
            let by = (call.balance, call.key);
            let picked = picker.pick_by(call.panel, by, &tried.borrow(), now, random);
            let again = || picker.pick_by(call.panel, by, &[], now, random);
            if call.is_beside() { picked } else { picked.or_else(again) }
        };
        let Some(endpoint) = picked else {
            let error = match call.panel {
                Some(panel) if picker.count() > 0 => panel.refused(None, now),
                _ => ProxyError::unsent(Reason::NoEndpoint, none_left(upstream, &picker)),
            };
            return Err(Failed { error, body: Some(body) });
        };
        if let (Some(panel), Some(member)) = (call.panel, picker.fleet().layout.member(endpoint.slot)) {
            match panel.admit_at(&endpoint, member, now) {
                Ok(guard) => call.guards.borrow_mut()[call.slot] = guard,
                // Others were quicker.
                Err(_) => continue,
            }
        }
        let replay = body.replay();
        let active = endpoint.begin(now);
        let sent = send_to(&endpoint, call, body, fresh, now).await;
        call.at.borrow_mut()[call.slot] = None;
        let failed = match sent {
            Ok(response) => {
                let (status, headers) = (response.status(), response.headers());
                match call.failures.class(Outcome::Head(status, headers)) {
                    // Also how quickly it came says nothing.
                    outcome::Class::Nothing => active.forget(),
                    class => active.began(clock::now(), class, outcome::is_open(status, headers)),
                }
                return Ok((response, active));
            }
            Err(failed) => failed,
        };
        let unreachable = is_unreachable(failed.error.reason);
        if failed.error.reason.facts().side == Side::Client {
            // Says nothing of the endpoint, and would fail again.
            active.forget();
            return Err(Failed { error: failed.error, body: None });
        }
        let limited = failed.error.reason == Reason::ConnectionLimit;
        let had_died = has_gone(&failed.error) || failed.error.sent == Sent::OnReused;
        if limited || (had_died && !fresh) {
            // A connection that had died in the pool says nothing of its endpoint,
            // nor to its breaker.
            active.forget();
            if call.panel.is_some() {
                call.guards.borrow_mut()[call.slot] = None;
            }
        } else {
            let (now, class) = (clock::now(), call.failures.class(Outcome::Failed(&failed.error)));
            active.failed(now, class, unreachable);
            if call.panel.is_some() {
                call.tell(class, now);
            }
        }
        let again = failed.body.or(replay).filter(Body::is_whole);
        // A service that refuses streams is busy: the second time it is for the policy to judge.
        let most = if failed.error.reset.is_some() { 2 } else { MAX_TRIES };
        let may = retry::is_free(&failed.error, &call.head.method) && tries < most && !limited;
        let others = picker.count() > tried.borrow().len() + 1;
        match again {
            Some(kept) if may && (others || !unreachable) => body = kept,
            again => {
                if !limited {
                    tried.borrow_mut().push(endpoint);
                }
                return Err(Failed { error: failed.error, body: again });
            }
        }
        if unreachable || fresh {
            tried.borrow_mut().push(endpoint);
        }
        fresh = !unreachable;
    }
}

fn none_left(upstream: &Upstream, picker: &Picker) -> String {
    match picker.fleet().counts {
        (all, 0) if all > 0 => {
            format!(
                "all {all} endpoints of `{}` are ejected or do not answer their health check",
                upstream.name
            )
        }
        _ => "no endpoint is left".into(),
    }
}

/// Whether a connection was left by its peer in good order, before the request.
fn has_gone(error: &ProxyError) -> bool {
    error.reason == Reason::ResetBeforeHeaders && error.sent == Sent::No && error.reset.is_none()
}

fn is_unreachable(reason: Reason) -> bool {
    matches!(reason, Reason::ConnectRefused | Reason::ConnectTimeout | Reason::ConnectFailed)
}

async fn send_to(
    endpoint: &Rc<Endpoint>,
    call: &Call<'_>,
    body: Body,
    fresh: bool,
    now: Instant,
) -> Result<Response<Body>, Failed> {
    if call.send.upgrade == Upgrade::Protocol {
        match upgradable(endpoint, call, &body, fresh, now).await {
            Ok(Some(lease)) => {
                call.reaches(endpoint);
                return lease.send(call.head, body, &call.send).await;
            }
            Ok(None) => {}
            Err(error) => return Err(Failed { error, body: Some(body) }),
        }
    }
    if speaks_http2(endpoint, call, now) && call.send.upgrade != Upgrade::Protocol {
        match http2(endpoint, call, fresh).await {
            Ok(lease) => {
                call.reaches(endpoint);
                return lease.send(call.head, body, &call.send).await;
            }
            // Nothing was sent, and the caller does not care how it is.
            Err(error) if error.reason == Reason::NoHttp2 && may_be_http1(endpoint, call) => {
                endpoint.speaks_http1(now);
            }
            Err(error) => return Err(Failed { error, body: Some(body) }),
        }
    }
    let connection = match http1(endpoint, call, fresh, now).await {
        Ok(connection) => connection,
        Err(error) => return Err(Failed { error, body: Some(body) }),
    };
    call.reaches(endpoint);
    connection.send(call.head, body, &call.send, endpoint.home()).await
}

fn speaks_http2(endpoint: &Endpoint, call: &Call<'_>, now: Instant) -> bool {
    match protocol(endpoint, call) {
        Protocol::Http2 | Protocol::Grpc => true,
        Protocol::Auto => {
            call.head.version == Version::HTTP_2 && !(endpoint.is_http1(now) && may_be_http1(endpoint, call))
        }
        _ => false,
    }
}

fn protocol(endpoint: &Endpoint, call: &Call<'_>) -> Protocol {
    match call.protocol {
        Protocol::Auto => endpoint.protocol(),
        told => told,
    }
}

/// Whether the call can be sent over HTTP/1 to an endpoint that refuses HTTP/2.
fn may_be_http1(endpoint: &Endpoint, call: &Call<'_>) -> bool {
    protocol(endpoint, call) == Protocol::Auto && !grpc::is_call(call.head)
}

/// A connection on which an upgrade can be asked for in HTTP/2's way; `None`
/// where that has to be HTTP/1.1's.
async fn upgradable(
    endpoint: &Rc<Endpoint>,
    call: &Call<'_>,
    body: &Body,
    fresh: bool,
    now: Instant,
) -> Result<Option<Lease>, ProxyError> {
    if !speaks_http2(endpoint, call, now) || !Http2::can_upgrade(call.head, body) || endpoint.declines(now) {
        return Ok(None);
    }
    let lease = match http2(endpoint, call, fresh).await {
        Ok(lease) => Some(lease).filter(Lease::takes_upgrades),
        Err(error) if error.reason == Reason::NoHttp2 => None,
        Err(error) => return Err(error),
    };
    if lease.is_none() {
        endpoint.declined(now);
    }
    Ok(lease)
}

async fn http1(
    endpoint: &Rc<Endpoint>,
    call: &Call<'_>,
    fresh: bool,
    now: Instant,
) -> Result<Http1, ProxyError> {
    // A tunnel takes its connection for good; nobody else may hold on to it.
    let reuse = !fresh && call.send.upgrade != Upgrade::Protocol;
    // What must not be sent twice goes only where the kernel says that somebody listens.
    let ask = !retry::is_idempotent(&call.head.method);
    if reuse && let Some(connection) = endpoint.take_idle(now, ask) {
        return Ok(connection);
    }
    // Boxed: most requests find a connection and should not hold room for making one.
    Box::pin(connect_http1(endpoint, call, reuse, ask)).await
}

async fn connect_http1(
    endpoint: &Rc<Endpoint>,
    call: &Call<'_>,
    reuse: bool,
    ask: bool,
) -> Result<Http1, ProxyError> {
    let timers = call.send.timers;
    let idle = || reuse.then(|| endpoint.take_idle(clock::now(), ask)).flatten();
    match endpoint.place(clock::now(), timers, idle).await? {
        Room::Found(connection) => Ok(connection),
        Room::Place(place) => {
            call.reaches(endpoint);
            Ok(Http1::new(endpoint.connect_at(place, call.connect_timeout, timers).await?))
        }
    }
}

async fn http2(endpoint: &Rc<Endpoint>, call: &Call<'_>, fresh: bool) -> Result<Lease, ProxyError> {
    if !fresh && let Some(lease) = endpoint.http2() {
        return Ok(lease);
    }
    Box::pin(connect_http2(endpoint, call)).await
}

/// Waits for a connection with room. As many are made at one time as it takes
/// for all who wait, so that nobody waits for somebody else's call to end.
async fn connect_http2(endpoint: &Rc<Endpoint>, call: &Call<'_>) -> Result<Lease, ProxyError> {
    let asked = clock::now();
    let waiting = endpoint.wait();
    loop {
        // Others may have made one, or failed to, meanwhile.
        if let Some(lease) = endpoint.http2() {
            return Ok(lease);
        }
        if endpoint.is_away(clock::now()) && clock::since(asked) > Duration::from_millis(10) {
            let detail = format!("{} did not take a connection a moment ago", endpoint.facts.address);
            return Err(ProxyError::unsent(Reason::ConnectTimeout, detail));
        }
        endpoint.check_wait(asked)?;
        match waiting.begin() {
            Some(_making) => {
                let place = match endpoint.place(asked, call.send.timers, || endpoint.http2()).await? {
                    Room::Found(lease) => return Ok(lease),
                    Room::Place(place) => place,
                };
                call.reaches(endpoint);
                let connection = make_http2(endpoint, call, place).await?;
                // Its own first of all: those who wait are woken when this returns.
                let lease = connection.lease();
                endpoint.add_http2(connection);
                let closing =
                    || ProxyError::unsent(Reason::ResetBeforeHeaders, "the HTTP/2 connection is closing");
                return lease.ok_or_else(closing);
            }
            None => endpoint.news(&waiting, asked, call.send.timers).await,
        }
    }
}

async fn make_http2(endpoint: &Endpoint, call: &Call<'_>, place: Place) -> Result<Http2, ProxyError> {
    let limit = call.connect_timeout;
    let stream = endpoint.connect_at(place, limit, call.send.timers).await?;
    // Calls share it: a host that has vanished must not take them all.
    if let Some(tcp) = stream.tcp() {
        let _ = socket2::SockRef::from(tcp).set_tcp_user_timeout(Some(VANISHED));
    }
    let mut timer = call.send.timers.at(clock::now() + limit);
    tokio::select! {
        biased;
        connection = Http2::handshake(stream, call.send.limits) => connection,
        () = timer.fired() => {
            let detail = format!("no HTTP/2 SETTINGS that allow a stream came within {limit:?}");
            Err(ProxyError::unsent(Reason::ConnectTimeout, detail))
        }
    }
}
