//! Extended CONNECT (RFC 8441): how HTTP/2 asks for another protocol on one of
//! its streams.
//!
//! The phases of a request see it in HTTP/1.1's way, whatever the caller and
//! the service speak: a GET with `Upgrade`, answered with 101. Here one form
//! becomes the other.

use h2::ext::Protocol;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::{Method, Request, StatusCode, Version, request, response};
use http_body::Body as _;

use crate::base::ProxyError;
use crate::codec::guard::{self, RequestFacts};
use crate::codec::{Body, handshake};

/// Checks a request's head. An extended CONNECT becomes a GET with `Upgrade`.
pub fn check(head: &mut request::Parts) -> Result<RequestFacts, ProxyError> {
    let Some(protocol) = head.extensions.remove::<Protocol>() else {
        return guard::check_http2_request(head);
    };
    head.method = Method::GET;
    let facts = guard::check_extended_connect(head, protocol.as_str())?;
    // The guard has found it to be a token.
    let protocol = HeaderValue::from_str(protocol.as_str()).unwrap_or(HeaderValue::from_static(""));
    head.headers.remove(SEC_WEBSOCKET_KEY);
    switch(&mut head.headers, protocol);
    Ok(facts)
}

/// The answer to an extended CONNECT whose stream is a tunnel from now on.
pub fn accepted(head: &mut response::Parts) {
    head.status = StatusCode::OK;
    for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT, CONTENT_LENGTH] {
        head.headers.remove(name);
    }
}

/// Whether an upgrade can be asked for over HTTP/2: the stream that would carry
/// a body is the tunnel.
pub fn can_carry(request: &request::Parts, body: &Body) -> bool {
    request.method == Method::GET && body.is_end_stream()
}

/// Makes an extended CONNECT of a head that was translated to HTTP/2.
pub fn ask(head: &mut Request<()>) {
    let headers = head.headers_mut();
    let websocket = handshake::is_websocket(headers);
    let protocol = headers.remove(UPGRADE);
    headers.remove(CONNECTION);
    headers.remove(SEC_WEBSOCKET_KEY);
    *head.method_mut() = Method::CONNECT;
    let protocol = protocol.as_ref().and_then(|name| name.to_str().ok()).unwrap_or_default();
    // The name is registered in this case, and HTTP/2 compares it as it stands.
    let protocol = if websocket { "websocket" } else { protocol };
    head.extensions_mut().insert(Protocol::from(protocol));
}

/// The answer of a service that took an extended CONNECT, in the form of HTTP/1.1.
pub fn switched(head: &mut response::Parts, request: &request::Parts) {
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    head.version = Version::HTTP_11;
    head.headers.remove(CONTENT_LENGTH);
    head.headers.remove(SEC_WEBSOCKET_ACCEPT);
    if let Some(protocol) = request.headers.get(UPGRADE) {
        switch(&mut head.headers, protocol.clone());
    }
    if handshake::is_websocket(&request.headers)
        && let Some(key) = request.headers.get(SEC_WEBSOCKET_KEY)
    {
        head.headers.insert(SEC_WEBSOCKET_ACCEPT, handshake::accept(key));
    }
}

fn switch(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}
