//! One attempt of a call: pick an endpoint, lease a connection, send, await the
//! head of the answer. What was surely not sent goes to another endpoint at
//! once, whatever the policy says of retries.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Response, Version, request};

use super::endpoint::{Active, Endpoint};
use super::{Key, Upstream};
use crate::base::{Protocol, ProxyError, Reason, Sent, Side};
use crate::codec::http1::client::Connection as Http1;
use crate::codec::http2::client::Connection as Http2;
use crate::codec::{Body, Failed, SendContext, Stream, Upgrade};
use crate::config::model::Balance;
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
    /// For the codec.
    pub send: SendContext<'a>,
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
        let now = Instant::now();
        let picker = match upstream.picker(now, call.send.timers).await {
            Ok(picker) => picker,
            Err(error) => return Err(Failed { error, body: Some(body) }),
        };
        // With every endpoint tried, the best of them gets another chance.
        let picked = {
            let random = &mut *random.borrow_mut();
            let picked = picker.pick(call.balance, call.key, &tried.borrow(), now, random);
            picked.or_else(|| picker.pick(call.balance, call.key, &[], now, random))
        };
        let Some(endpoint) = picked else {
            let error = ProxyError::unsent(Reason::NoEndpoint, "no endpoint is left");
            return Err(Failed { error, body: Some(body) });
        };
        let replay = body.replay();
        let active = endpoint.begin(now);
        let failed = match send_to(&endpoint, call, body, fresh, now).await {
            Ok(response) => {
                active.answered(Instant::now(), response.status());
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
        if failed.error.sent == Sent::OnReused && !fresh {
            // A connection that had died in the pool says nothing of its endpoint.
            active.forget();
        } else {
            active.failed(Instant::now(), unreachable);
        }
        let again = failed.body.or(replay);
        let may = retry::is_free(&failed.error, &call.head.method) && tries < MAX_TRIES;
        let others = picker.endpoints().len() > tried.borrow().len() + 1;
        match again {
            Some(kept) if may && (others || !unreachable) => body = kept,
            again => return Err(Failed { error: failed.error, body: again }),
        }
        if unreachable || fresh {
            tried.borrow_mut().push(endpoint);
        }
        fresh = !unreachable;
    }
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
            Ok(Some(connection)) => return connection.send(call.head, body, &call.send).await,
            Ok(None) => {}
            Err(error) => return Err(Failed { error, body: Some(body) }),
        }
    }
    if speaks_http2(endpoint, call) && call.send.upgrade != Upgrade::Protocol {
        let connection = match http2(endpoint, call, fresh).await {
            Ok(connection) => connection,
            Err(error) => return Err(Failed { error, body: Some(body) }),
        };
        connection.send(call.head, body, &call.send).await
    } else {
        let connection = match http1(endpoint, call, fresh, now).await {
            Ok(connection) => connection,
            Err(error) => return Err(Failed { error, body: Some(body) }),
        };
        connection.send(call.head, body, &call.send, endpoint.home()).await
    }
}

fn speaks_http2(endpoint: &Endpoint, call: &Call<'_>) -> bool {
    let protocol = match call.protocol {
        Protocol::Auto => endpoint.protocol(),
        told => told,
    };
    match protocol {
        Protocol::Http2 | Protocol::Grpc => true,
        Protocol::Auto => call.head.version == Version::HTTP_2,
        _ => false,
    }
}

/// A connection on which an upgrade can be asked for in HTTP/2's way; `None`
/// where that has to be HTTP/1.1's.
async fn upgradable(
    endpoint: &Endpoint,
    call: &Call<'_>,
    body: &Body,
    fresh: bool,
    now: Instant,
) -> Result<Option<Http2>, ProxyError> {
    if !speaks_http2(endpoint, call) || !Http2::can_upgrade(call.head, body) || endpoint.declines(now) {
        return Ok(None);
    }
    let connection = http2(endpoint, call, fresh).await?;
    let mut timer = call.send.timers.at(now + call.connect_timeout);
    let takes = tokio::select! {
        biased;
        takes = connection.takes_upgrades() => takes,
        () = timer.fired() => false,
    };
    if !takes {
        endpoint.declined(now);
    }
    Ok(takes.then_some(connection))
}

async fn http1(endpoint: &Endpoint, call: &Call<'_>, fresh: bool, now: Instant) -> Result<Http1, ProxyError> {
    // A tunnel takes its connection for good; nobody else may hold on to it.
    let reuse = !fresh && call.send.upgrade != Upgrade::Protocol;
    // What must not be sent twice goes only where the kernel says that somebody listens.
    let ask = !retry::is_idempotent(&call.head.method);
    if reuse && let Some(connection) = endpoint.take_idle(now, ask) {
        return Ok(connection);
    }
    // Boxed: most requests find a connection and should not hold room for making one.
    let made = Box::pin(endpoint.connect(call.connect_timeout, call.send.timers));
    let stream = made.await?;
    Ok(Http1::new(Stream::from(stream)))
}

async fn http2(endpoint: &Endpoint, call: &Call<'_>, fresh: bool) -> Result<Http2, ProxyError> {
    if !fresh && let Some(connection) = endpoint.http2() {
        return Ok(connection);
    }
    Box::pin(connect_http2(endpoint, call)).await
}

async fn connect_http2(endpoint: &Endpoint, call: &Call<'_>) -> Result<Http2, ProxyError> {
    // Others may have made one, or failed to, while this call waited for its turn.
    let asked = Instant::now();
    let _turn = endpoint.may_connect().await;
    if let Some(connection) = endpoint.http2() {
        return Ok(connection);
    }
    if endpoint.is_away(Instant::now()) && asked.elapsed() > Duration::from_millis(10) {
        let detail = format!("{} did not take a connection a moment ago", endpoint.facts.address);
        return Err(ProxyError::unsent(Reason::ConnectTimeout, detail));
    }
    let limit = call.connect_timeout;
    let stream = endpoint.connect(limit, call.send.timers).await?;
    // Calls share it: a host that has vanished must not take them all.
    let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(VANISHED));
    let mut timer = call.send.timers.at(Instant::now() + limit);
    let connection = tokio::select! {
        biased;
        connection = Http2::handshake(Stream::from(stream), call.send.limits) => connection?,
        () = timer.fired() => {
            let detail = "the HTTP/2 preface was not taken in time";
            return Err(ProxyError { sent: Sent::No, ..ProxyError::new(Reason::ConnectTimeout, detail) });
        }
    };
    endpoint.add_http2(connection.clone());
    Ok(connection)
}
