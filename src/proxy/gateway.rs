//! Callers from outside: what is believed of what they say, and which route of
//! the listener takes their calls.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use http::header::{FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Uri, request};
use tokio::net::TcpStream;

use super::connection::{self, Door};
use super::detect::{Expect, First, Look};
use super::router::{Route, Router};
use super::worker::OpenConnection;
use super::{announced, prepare, secure};
use crate::base::error::Told;
use crate::base::{Authority, ProxyError, Reason};
use crate::codec::{Exchange, Stream, Upgrade};
use crate::config::model::{Gateway, Tls};
use crate::policy::normal;
use crate::policy::routes::Matcher;
use crate::telemetry::record::Direction;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// How a connection came in.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The listener, as the model names it.
    pub listen: SocketAddr,
    /// Whether it is encrypted.
    pub secure: bool,
    /// The name that the caller asked for when it was encrypted.
    pub name: Option<Box<str>>,
}

/// The routes of one listener.
pub struct Entrance {
    matcher: Matcher,
    routes: Vec<Rc<Route>>,
}

/// The caller, where a proxy that is believed has named it.
#[derive(Clone, Copy)]
pub struct Client(pub SocketAddr);

impl Entry {
    /// The scheme that the caller used.
    pub fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }
}

impl Entrance {
    /// The entrance of `gateway`; `route` makes one of its routes.
    pub fn new(gateway: &Gateway, route: impl FnMut(&crate::config::model::Route) -> Rc<Route>) -> Self {
        let patterns = gateway.routes.iter().map(|route| route.pattern.clone()).zip(0..);
        Self { matcher: Matcher::by_host(patterns), routes: gateway.routes.iter().map(route).collect() }
    }

    /// The route of a request.
    pub fn find(&self, head: &request::Parts, host: &str) -> Result<Rc<Route>, ProxyError> {
        // The root of the DNS may be written (RFC 3986, section 3.2.2).
        let host = host.strip_suffix('.').unwrap_or(host);
        if let Some(index) = self.matcher.find(head, host) {
            return Ok(self.routes[index].clone());
        }
        if self.matcher.has_host(host) {
            let detail = format!("no route takes {} {}", head.method, head.uri.path());
            return Err(ProxyError::unsent(Reason::NoRoute, detail));
        }
        Err(ProxyError::unsent(Reason::UnknownHost, format!("nothing is served here for the host `{host}`")))
    }
}

/// Serves a connection to the gateway at `listen`.
pub async fn serve(tcp: TcpStream, peer: SocketAddr, listen: SocketAddr, open: OpenConnection) {
    // A socket that can't be told still works.
    let _ = tcp.set_nodelay(true);
    let worker = open.worker().clone();
    let direction = Direction::Gateway;
    let announced =
        rules(&worker.router(), listen).is_some_and(|rules| announced::is_due(&rules.proxy_protocol, peer));
    let peer = match announced {
        false => peer,
        true => match Box::pin(announced::caller(&tcp, peer, &worker, direction)).await {
            Some(caller) => caller,
            None => return,
        },
    };
    let context = worker.context(direction);
    let tls = rules(&worker.router(), listen).and_then(|rules| rules.tls.clone());
    let (stream, http2, name) = match tls {
        None => (Stream::from(tcp), false, None),
        Some(tls) => match Box::pin(secure::accept(tcp, &tls, &worker, direction)).await {
            Some(secure) => secure,
            None => return,
        },
    };
    let secure = matches!(stream, Stream::Boxed(_));
    let gateway = Some(Box::new(Entry { listen, secure, name }));
    let door = Rc::new(Door {
        worker,
        direction,
        peer,
        gateway,
        fixed: None,
        original: None,
        tunnel: false,
        context,
    });
    if http2 {
        connection::count(&door, First::Http2);
        connection::http(door, stream, First::Http2, None).await;
        return drop(open);
    }
    let mut look = Look::new(stream);
    let first = look.first(&door.context, Expect::Http, None).await;
    connection::count(&door, first);
    if matches!(first, First::Http1 | First::Http2) {
        let (begun, stream) = (look.begun(), look.into_stream());
        connection::http(door, stream, first, begun).await;
    }
    drop(open);
}

fn rules(router: &Router, listen: SocketAddr) -> Option<&Gateway> {
    router.model.gateways.iter().find(|gateway| gateway.listen == listen)
}

/// Makes of a request from outside one of ours, before a route is looked for:
/// its path in one form, without what callers may not say, and with who calls.
pub fn enter(
    entry: &Entry,
    door: &Door,
    head: &mut request::Parts,
    exchange: &Exchange,
) -> Result<(), ProxyError> {
    if exchange.upgrade == Upgrade::Connect {
        return Err(ProxyError::unsent(Reason::NoRoute, "CONNECT is served on the outbound listener"));
    }
    let router = door.router();
    let Some(rules) = rules(&router, entry.listen) else {
        return Err(ProxyError::unsent(Reason::NoRoute, "this listener was taken out of the configuration"));
    };
    if let Some(tls) = &rules.tls {
        secured(entry, tls, exchange)?;
    }
    normalize(head, rules)?;
    let trusted = rules.trusts(door.peer.ip().to_canonical());
    strip(&mut head.headers, trusted);
    let host = exchange.authority.as_ref().map(|host| host.as_value().clone());
    let host = host.or_else(|| head.headers.get(HOST).cloned());
    prepare::forwarded(&mut head.headers, door.peer, host, entry.scheme());
    if trusted && let Some(client) = client(&head.headers, rules) {
        head.extensions.insert(Client(SocketAddr::new(client, 0)));
    }
    Ok(())
}

/// Refuses what came in the clear, and what came for a host that would have been
/// shown another certificate: a browser then makes a connection of its own for it
/// (RFC 9110, section 15.5.20).
fn secured(entry: &Entry, tls: &Tls, exchange: &Exchange) -> Result<(), ProxyError> {
    if !entry.secure {
        let detail = "this port takes TLS only: write https:// in place of http://";
        return Err(ProxyError::unsent(Reason::MalformedRequest, detail));
    }
    let host = exchange.authority.as_ref().map(Authority::host);
    let (Some(name), Some(host)) = (entry.name.as_deref(), host) else { return Ok(()) };
    let same = name.eq_ignore_ascii_case(host);
    if !same && tls.certificates.pick(Some(name)) != tls.certificates.pick(Some(host)) {
        let detail = format!("the connection was made for `{name}`, which has another certificate");
        let told = Told { status: 421, grpc: Reason::UnknownHost.facts().grpc };
        return Err(ProxyError::unsent(Reason::UnknownHost, detail).told(told));
    }
    Ok(())
}

fn normalize(head: &mut request::Parts, rules: &Gateway) -> Result<(), ProxyError> {
    let malformed = |detail| ProxyError::unsent(Reason::MalformedRequest, detail);
    let Some(mut path) = normal::path(head.uri.path(), rules.encoded_slashes).map_err(malformed)? else {
        return Ok(());
    };
    if let Some(query) = head.uri.query() {
        path.push('?');
        path.push_str(query);
    }
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.path_and_query = PathAndQuery::from_maybe_shared(path).ok();
    head.uri = Uri::from_parts(parts).map_err(|_| malformed("the path is none once it is resolved"))?;
    Ok(())
}

/// Takes out what means something within the mesh, and what only a proxy that is
/// believed may say.
fn strip(headers: &mut HeaderMap, trusted: bool) {
    let is_inner = |name: &str| {
        name.starts_with("pillion-") || name.starts_with("x-envoy-") || name == "x-forwarded-client-cert"
    };
    let is_of_proxy =
        |name: &str| name.starts_with("x-forwarded-") || name == "x-real-ip" || name == FORWARDED.as_str();
    let goes = |name: &&HeaderName| is_inner(name.as_str()) || (!trusted && is_of_proxy(name.as_str()));
    let gone: Vec<HeaderName> = headers.keys().filter(goes).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

/// The last address of `X-Forwarded-For` that is not of a proxy that is believed.
fn client(headers: &HeaderMap, rules: &Gateway) -> Option<IpAddr> {
    let values: Vec<&HeaderValue> = headers.get_all(&X_FORWARDED_FOR).iter().collect();
    let mut found = None;
    for node in values.iter().rev().flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b',')) {
        let Some(ip) = std::str::from_utf8(node).ok().and_then(|node| address(node.trim())) else { break };
        found = Some(ip);
        if !rules.trusts(ip) {
            break;
        }
    }
    found
}

/// An address, with or without a port.
fn address(node: &str) -> Option<IpAddr> {
    let plain = node.strip_prefix('[').and_then(|node| node.strip_suffix(']')).unwrap_or(node);
    let ip = plain.parse().ok().or_else(|| node.parse::<SocketAddr>().ok().map(|node| node.ip()))?;
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_whom_the_last_trusted_proxy_has_seen() {
        let mut rules = Gateway::new("127.0.0.1:1".parse().unwrap());
        rules.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        for (list, wanted) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("9.9.9.9, 10.0.0.1", Some("9.9.9.9")),
            ("1.2.3.4, 9.9.9.9, 10.0.0.2, 10.0.0.1", Some("9.9.9.9")),
            ("9.9.9.9:80, 10.0.0.1", Some("9.9.9.9")),
            ("[2001:db8::1]:80,10.0.0.1", Some("2001:db8::1")),
            ("9.9.9.9, unknown, 10.0.0.1", Some("10.0.0.1")),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(X_FORWARDED_FOR, HeaderValue::from_static(list));
            assert_eq!(client(&headers, &rules), wanted.map(|ip| ip.parse().unwrap()), "{list}");
        }
    }

    #[test]
    fn what_callers_may_not_say_is_gone() {
        let all = ["pillion-deadline", "x-envoy-expected-rq-timeout-ms", "x-forwarded-client-cert"];
        let proxies = ["x-forwarded-for", "x-forwarded-proto", "forwarded", "x-real-ip"];
        for trusted in [true, false] {
            let mut headers = HeaderMap::new();
            for name in all.iter().chain(&proxies).chain(&["accept", "grpc-timeout"]) {
                headers.insert(*name, HeaderValue::from_static("1"));
            }
            strip(&mut headers, trusted);
            assert!(!all.iter().any(|name| headers.contains_key(*name)));
            assert_eq!(
                proxies.iter().filter(|name| headers.contains_key(**name)).count(),
                if trusted { 4 } else { 0 }
            );
            assert!(headers.contains_key("accept") && headers.contains_key("grpc-timeout"));
        }
    }
}
