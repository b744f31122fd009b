//! What a request and an answer lose and gain on their way through
//! (RFC 9110, section 7.6).

use std::net::SocketAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{Response, StatusCode, request};

use super::connection::Door;
use super::retries::ATTEMPTS;
use super::stack::Call;
use crate::base::{Authority, ProxyError, Reason};
use crate::codec::{Body, Exchange, Upgrade};
use crate::policy::authorize::{CLIENT_BY, CLIENT_ID};
use crate::telemetry::propagate;
use crate::telemetry::record::Direction;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PROXY_AUTHORIZATION: HeaderName = HeaderName::from_static("proxy-authorization");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// What Pillion says of itself: the service that it fronts may not say it.
const PILLION_ERROR: HeaderName = HeaderName::from_static("pillion-error");

/// Makes a request ready to be sent on.
pub fn request(head: &mut request::Parts, door: &Door, exchange: &Exchange) -> Result<(), ProxyError> {
    let via = door.via();
    let seen = Seen::of(&head.headers);
    if seen.via && is_loop(&head.headers, via) {
        return Err(ProxyError::unsent(Reason::LoopDetected, "`Via` names this sidecar and this direction"));
    }
    strip(&mut head.headers, seen, exchange.upgrade == Upgrade::Protocol);
    head.headers.remove(CONTENT_LENGTH);
    set_host(head, exchange.authority.as_ref(), door);
    if door.direction == Direction::Inbound {
        if seen.client {
            head.headers.remove(&CLIENT_ID);
            head.headers.remove(&CLIENT_BY);
        }
        let host = head.headers.get(HOST).cloned();
        forwarded(&mut head.headers, door.peer, host, "http");
    }
    append(&mut head.headers, VIA, via, seen.via);
    let worker = &door.worker;
    propagate::ensure(
        &mut head.headers,
        &door.router().model.telemetry.propagate,
        &mut worker.random.borrow_mut(),
    );
    Ok(())
}

/// Makes an answer ready to be passed on.
pub fn response(response: &mut Response<Body>, door: &Door, call: &Call) {
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS && call.upgrade == Upgrade::Protocol;
    let headers = response.headers_mut();
    let seen = Seen::of(headers);
    strip(headers, seen, switching);
    if seen.error && door.direction == Direction::Inbound {
        headers.remove(&PILLION_ERROR);
    }
    if call.attempts() > 1 {
        headers.insert(ATTEMPTS, call.attempts().into());
    } else if seen.attempts {
        // Of another hop.
        headers.remove(ATTEMPTS);
    }
    if !seen.date {
        headers.insert(DATE, door.worker.date());
    }
    append(headers, VIA, door.via(), seen.via);
}

/// Which of the fields that matter here a head holds, found in one pass.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    connection: bool,
    upgrade: bool,
    te: bool,
    /// Fields that are dropped whatever they say.
    dropped: bool,
    via: bool,
    date: bool,
    error: bool,
    attempts: bool,
    /// Who calls: only this sidecar may say it to its service.
    client: bool,
}

impl Seen {
    fn of(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "connection" => seen.connection = true,
                "upgrade" => seen.upgrade = true,
                "te" => seen.te = true,
                "via" => seen.via = true,
                "date" => seen.date = true,
                "keep-alive"
                | "proxy-connection"
                | "proxy-authorization"
                | "transfer-encoding"
                | "http2-settings" => seen.dropped = true,
                "pillion-error" => seen.error = true,
                "pillion-attempts" => seen.attempts = true,
                "pillion-client-id" | "pillion-client-by" => seen.client = true,
                _ => {}
            }
        }
        seen
    }
}

/// Takes out what belongs to one connection only.
fn strip(headers: &mut HeaderMap, seen: Seen, upgrading: bool) {
    if seen.connection {
        strip_named(headers, upgrading);
    } else if seen.upgrade && !upgrading {
        headers.remove(UPGRADE);
    }
    if seen.dropped {
        for name in
            [&KEEP_ALIVE, &PROXY_CONNECTION, &PROXY_AUTHORIZATION, &TRANSFER_ENCODING, &HTTP2_SETTINGS]
        {
            headers.remove(name);
        }
    }
    if seen.te
        && let Some(te) = headers.get(TE)
    {
        let trailers =
            te.as_bytes().split(|b| *b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(b"trailers"));
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
}

/// Takes out `Connection` and the fields that it names, except those that mean
/// something to whoever comes next: a caller must not make them vanish.
fn strip_named(headers: &mut HeaderMap, upgrading: bool) {
    const KEPT: [&str; 13] = [
        "host",
        "content-length",
        "content-type",
        "date",
        "te",
        "trailer",
        "authorization",
        "cookie",
        "forwarded",
        "x-forwarded-for",
        "traceparent",
        "via",
        "expect",
    ];
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(|name| !KEPT.contains(&name.as_str()))
        .collect();
    for name in named {
        if !(upgrading && name == UPGRADE) {
            headers.remove(name);
        }
    }
    headers.remove(CONNECTION);
    if upgrading {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
}

/// Exactly one Host: what the guard found the request to be for.
fn set_host(head: &mut request::Parts, authority: Option<&Authority>, door: &Door) {
    let from_target = head.uri.authority().is_some();
    if !from_target && head.headers.contains_key(HOST) {
        return;
    }
    let host = match authority {
        Some(authority) => Ok(authority.as_value().clone()),
        None => match &door.fixed {
            Some(upstream) => HeaderValue::from_str(upstream.as_str()),
            None => HeaderValue::from_str(door.router().model.service.name.as_str()),
        },
    };
    if let Ok(host) = host {
        head.headers.insert(HOST, host);
    }
}

/// `Forwarded` (RFC 7239) and its predecessors tell the service who calls, which
/// `host`, and by which scheme.
pub fn forwarded(headers: &mut HeaderMap, peer: SocketAddr, host: Option<HeaderValue>, scheme: &'static str) {
    let ip = peer.ip().to_canonical();
    let node = if ip.is_ipv6() { format!("for=\"[{ip}]\"") } else { format!("for={ip}") };
    let element = match host.as_ref().and_then(|host| host.to_str().ok()) {
        Some(host) => format!("{node};host=\"{host}\";proto={scheme}"),
        None => format!("{node};proto={scheme}"),
    };
    if let Ok(value) = HeaderValue::from_str(&element) {
        let present = headers.contains_key(FORWARDED);
        append(headers, FORWARDED, &value, present);
    }
    if let Ok(value) = HeaderValue::from_str(&ip.to_string()) {
        let present = headers.contains_key(&X_FORWARDED_FOR);
        append(headers, X_FORWARDED_FOR, &value, present);
    }
    if !headers.contains_key(&X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    if let Some(host) = host
        && !headers.contains_key(&X_FORWARDED_HOST)
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
}

/// Adds an element to a list field, behind what is there.
fn append(headers: &mut HeaderMap, name: HeaderName, element: &HeaderValue, present: bool) {
    if !present {
        headers.insert(name, element.clone());
        return;
    }
    let mut list = Vec::new();
    for value in headers.get_all(&name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element.as_bytes());
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(list)) {
        headers.insert(name, value);
    }
}

fn is_loop(headers: &HeaderMap, via: &HeaderValue) -> bool {
    headers.get_all(VIA).iter().any(|value| {
        value.as_bytes().split(|b| *b == b',').any(|element| element.trim_ascii() == via.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_belongs_to_one_connection_goes_and_the_rest_stays() {
        let mut headers = map(&[
            ("connection", "close, X-Hop,host , x-forwarded-for"),
            ("connection", "authorization"),
            ("x-hop", "1"),
            ("host", "users"),
            ("authorization", "secret"),
            ("x-forwarded-for", "1.2.3.4"),
            ("keep-alive", "5"),
            ("proxy-connection", "keep-alive"),
            ("upgrade", "h2c"),
            ("te", "gzip, trailers"),
            ("x-end", "2"),
        ]);
        let seen = Seen::of(&headers);
        strip(&mut headers, seen, false);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "host", "te", "x-end", "x-forwarded-for"]);
        assert_eq!(headers["te"], "trailers");
    }

    #[test]
    fn an_upgrade_keeps_its_two_fields() {
        let mut headers = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        let seen = Seen::of(&headers);
        strip(&mut headers, seen, true);
        assert_eq!(headers["connection"], "upgrade");
        assert_eq!(headers["upgrade"], "websocket");
    }

    #[test]
    fn the_caller_is_added_behind_those_before() {
        let mut headers =
            map(&[("host", "users:80"), ("x-forwarded-for", "9.9.9.9"), ("forwarded", "for=9.9.9.9")]);
        let host = headers.get(HOST).cloned();
        forwarded(&mut headers, "[::1]:4".parse().unwrap(), host, "http");
        assert_eq!(headers["forwarded"], "for=9.9.9.9, for=\"[::1]\";host=\"users:80\";proto=http");
        assert_eq!(headers["x-forwarded-for"], "9.9.9.9, ::1");
        assert_eq!(headers["x-forwarded-host"], "users:80");
    }

    #[test]
    fn a_loop_is_seen_in_via() {
        let via = HeaderValue::from_static("1.1 a");
        assert!(is_loop(&map(&[("via", "1.0 b,1.1 a , 1.1 c")]), &via));
        assert!(!is_loop(&map(&[("via", "1.1 ab")]), &via));
    }
}
