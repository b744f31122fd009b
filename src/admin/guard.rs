//! Who may use the admin port: programs on this machine, and no web page.
//!
//! A browser on this machine reaches loopback too. A page that makes its own
//! name resolve to 127.0.0.1 (DNS rebinding) sends that name as `Host`; a page
//! that posts across origins sends its `Origin`. Both are refused.

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::AdminState;
use crate::base::Authority;

/// The address of the caller, put into each request by the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub SocketAddr);

pub(super) async fn check(State(state): State<AdminState>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    match refusal(peer, state.allow_remote, &request) {
        None => next.run(request).await,
        Some(why) => (StatusCode::FORBIDDEN, format!("{why}\n")).into_response(),
    }
}

fn refusal(peer: Option<IpAddr>, allow_remote: bool, request: &Request<Body>) -> Option<&'static str> {
    let local = peer.is_some_and(|ip| ip.to_canonical().is_loopback());
    if !local && !allow_remote {
        return Some("the admin port answers callers on the same machine only");
    }
    if !host_is_plain(request) {
        return Some("the admin port answers to localhost and to IP addresses, not to names");
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !reads && !same_origin(request.headers()) {
        return Some("a web page of another origin may not change the sidecar");
    }
    None
}

/// `Host` is localhost or an IP address, and so is the authority of an absolute
/// target. HTTP/1.0 needs no `Host`, and no browser speaks it.
fn host_is_plain(request: &Request<Body>) -> bool {
    let target = request.uri().authority().map(|authority| authority.as_str());
    let mut hosts = request.headers().get_all(HOST).iter().map(|value| value.to_str().unwrap_or(""));
    hosts.by_ref().chain(target).all(is_plain)
}

fn is_plain(text: &str) -> bool {
    let Some(authority) = Authority::parse(text) else { return false };
    let host = authority.host();
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.ends_with(".localhost") || literal.parse::<IpAddr>().is_ok()
}

fn same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let (Ok(origin), Some(Ok(host))) = (origin.to_str(), headers.get(HOST).map(|host| host.to_str())) else {
        return false;
    };
    origin.strip_prefix("http://").is_some_and(|origin| origin.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(method: &str, target: &str, headers: &[(&str, &str)], peer: &str) -> Option<&'static str> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        refusal(Some(peer.parse().unwrap()), false, &request)
    }

    #[test]
    fn programs_on_this_machine_are_served() {
        for host in
            ["127.0.0.1:8700", "localhost:8700", "LOCALHOST", "[::1]:8700", "10.1.2.3", "a.localhost:1"]
        {
            assert_eq!(answer("GET", "/", &[("host", host)], "127.0.0.1"), None, "{host}");
        }
        assert_eq!(answer("GET", "/", &[], "::1"), None, "HTTP/1.0");
        assert_eq!(answer("GET", "/", &[("host", "127.0.0.1")], "::ffff:127.0.0.1"), None);
        let own = [("host", "127.0.0.1:8700"), ("origin", "http://127.0.0.1:8700")];
        assert_eq!(answer("POST", "/drain", &own, "127.0.0.1"), None);
        assert_eq!(answer("POST", "/drain", &own[..1], "127.0.0.1"), None);
    }

    #[test]
    fn names_other_machines_and_other_origins_are_refused() {
        for host in
            ["evil.example", "evil.example:8700", "localhost.evil.example", "", "a b", "127.0.0.1.nip.io"]
        {
            assert!(answer("GET", "/", &[("host", host)], "127.0.0.1").is_some(), "{host}");
        }
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert!(answer("GET", "/", &twice, "127.0.0.1").is_some());
        assert!(answer("GET", "http://evil.example/", &twice[..1], "127.0.0.1").is_some());
        assert!(answer("GET", "/", &[("host", "10.0.0.1")], "10.0.0.2").is_some());
        for origin in ["http://evil.example", "null", "https://127.0.0.1:8700", "http://127.0.0.1:1"] {
            let headers = [("host", "127.0.0.1:8700"), ("origin", origin)];
            assert!(answer("POST", "/drain", &headers, "127.0.0.1").is_some(), "{origin}");
        }
    }
}
