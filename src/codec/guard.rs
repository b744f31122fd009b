//! The strict check between parse and route, on requests and on answers.
//!
//! A parser accepts what it can make sense of; a proxy must refuse what another
//! parser could make a different sense of (request smuggling, RFC 9112,
//! section 11.2). What passes here has one length, one authority and a target
//! that means the same to everybody.

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, StatusCode, Uri, Version, request, response};

use super::{Upgrade, handshake};
use crate::base::{Authority, ProxyError, Reason};

/// Where a message's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
    /// Where the connection ends (answers only).
    UntilClose,
}

/// What the guard learned of a request.
#[derive(Debug)]
pub struct RequestFacts {
    /// Where the body ends; meaningless for HTTP/2.
    pub framing: Framing,
    /// The target's authority, else Host.
    pub authority: Option<Authority>,
    /// Whether the connection may serve another request.
    pub keep_alive: bool,
    /// Whether a tunnel is asked for.
    pub upgrade: Upgrade,
    /// `Expect: 100-continue`.
    pub expects_continue: bool,
}

/// Refuses an HTTP/1 request that could be read in two ways.
pub fn check_http1_request(head: &request::Parts) -> Result<RequestFacts, ProxyError> {
    let old = head.version == Version::HTTP_10;
    let framing = match transfer_encoding(&head.headers, old).map_err(malformed)? {
        Some(framing) => framing,
        None => match content_length(&head.headers).map_err(malformed)? {
            Some(0) | None => Framing::None,
            Some(length) => Framing::Length(length),
        },
    };
    check_target(&head.method, &head.uri).map_err(malformed)?;
    let authority = http1_authority(head, old)?;
    let connection = ConnectionField::read(&head.headers);
    let upgrade = match head.method {
        Method::CONNECT if framing != Framing::None => return Err(malformed("CONNECT with a body")),
        Method::CONNECT => Upgrade::Connect,
        _ if !old && connection.upgrade && asks_for_a_protocol(&head.headers) => Upgrade::Protocol,
        _ => Upgrade::No,
    };
    if upgrade == Upgrade::Protocol && framing != Framing::None && handshake::is_websocket(&head.headers) {
        return Err(malformed("a WebSocket's request with a body"));
    }
    Ok(RequestFacts {
        framing,
        authority,
        keep_alive: if old { connection.keep_alive && !connection.close } else { !connection.close },
        upgrade,
        expects_continue: !old && framing != Framing::None && expects_continue(&head.headers),
    })
}

/// Refuses an HTTP/2 request that could be read in two ways once it is sent on
/// as HTTP/1.
pub fn check_http2_request(head: &request::Parts) -> Result<RequestFacts, ProxyError> {
    let headers = &head.headers;
    for name in [&CONNECTION, &TRANSFER_ENCODING, &UPGRADE] {
        if headers.contains_key(name) {
            return Err(malformed("a connection-specific field in HTTP/2"));
        }
    }
    check_http2_fields(headers).map_err(malformed)?;
    content_length(headers).map_err(malformed)?;
    check_http2_path(&head.uri).map_err(malformed)?;
    check_target(&head.method, &head.uri).map_err(malformed)?;
    let host = single_host(headers)?;
    let authority = match head.uri.authority() {
        Some(authority) => Some(
            Authority::parse(authority.as_str()).ok_or_else(|| malformed(":authority is not host[:port]"))?,
        ),
        None => None,
    };
    if let (Some(authority), Some(host)) = (&authority, &host)
        && !same_authority(authority, host, head.uri.scheme_str())
    {
        return Err(malformed(":authority and Host disagree"));
    }
    let upgrade = if head.method == Method::CONNECT { Upgrade::Connect } else { Upgrade::No };
    let authority = authority.or(host);
    if authority.is_none() {
        return Err(malformed("neither :authority nor Host"));
    }
    Ok(RequestFacts { framing: Framing::None, authority, keep_alive: true, upgrade, expects_continue: false })
}

/// Refuses an extended CONNECT (RFC 8441) that HTTP/1 can't carry as an
/// `Upgrade` to `protocol`. The head's method is GET already.
pub fn check_extended_connect(head: &request::Parts, protocol: &str) -> Result<RequestFacts, ProxyError> {
    if !is_protocol(protocol.as_bytes()) {
        return Err(malformed("a :protocol that `Upgrade` can't name"));
    }
    if head.headers.contains_key(CONTENT_LENGTH) {
        return Err(malformed("an extended CONNECT with a Content-Length"));
    }
    if head.uri.scheme().is_none() || head.uri.path_and_query().is_none() {
        return Err(malformed("an extended CONNECT without :scheme or :path"));
    }
    Ok(RequestFacts { upgrade: Upgrade::Protocol, ..check_http2_request(head)? })
}

/// Finds where an HTTP/1 answer ends, or refuses it. `method` is the request's.
pub fn check_http1_response(head: &response::Parts, method: &Method) -> Result<Framing, ProxyError> {
    let old = head.version == Version::HTTP_10;
    let bad = |detail: &'static str| ProxyError::new(Reason::MalformedResponse, detail);
    let encoding = transfer_encoding(&head.headers, old).map_err(bad)?;
    let length = content_length(&head.headers).map_err(bad)?;
    Ok(match (encoding, length) {
        _ if has_no_body(method, head.status) => Framing::None,
        (Some(framing), _) => framing,
        (None, Some(0)) => Framing::None,
        (None, Some(length)) => Framing::Length(length),
        (None, None) => Framing::UntilClose,
    })
}

/// Whether an answer ends with its head, whatever its fields say
/// (RFC 9112, section 6.3).
pub fn has_no_body(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Refuses an HTTP/2 answer whose lengths disagree.
pub fn check_http2_response(headers: &HeaderMap) -> Result<(), ProxyError> {
    let checked = check_http2_fields(headers).and_then(|()| content_length(headers));
    checked.map(|_| ()).map_err(|detail| ProxyError::new(Reason::MalformedResponse, detail))
}

/// What `h2` lets through and HTTP/1 can't carry: a quotation mark in a name,
/// white space at the ends of a value (RFC 9113, section 8.2.1).
pub fn check_http2_fields(headers: &HeaderMap) -> Result<(), &'static str> {
    let edge = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    for (name, value) in headers {
        let value = value.as_bytes();
        if name.as_str().contains('"') {
            return Err("a field name that is not a token");
        }
        if edge(value.first()) || edge(value.last()) {
            return Err("white space at the end of a field value");
        }
    }
    Ok(())
}

/// What the `Connection` fields of a head say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionField {
    /// `close`.
    pub close: bool,
    /// `keep-alive`.
    pub keep_alive: bool,
    /// `upgrade`.
    pub upgrade: bool,
}

impl ConnectionField {
    /// Reads every `Connection` field.
    pub fn read(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for value in headers.get_all(CONNECTION) {
            for token in value.as_bytes().split(|b| *b == b',') {
                let token = token.trim_ascii();
                found.close |= token.eq_ignore_ascii_case(b"close");
                found.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                found.upgrade |= token.eq_ignore_ascii_case(b"upgrade");
            }
        }
        found
    }
}

fn malformed(detail: &'static str) -> ProxyError {
    ProxyError::unsent(Reason::MalformedRequest, detail)
}

/// `None` where there is no such field.
fn transfer_encoding(headers: &HeaderMap, old: bool) -> Result<Option<Framing>, &'static str> {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        Err("more than one Transfer-Encoding")
    } else if old {
        Err("Transfer-Encoding in HTTP/1.0")
    } else if headers.contains_key(CONTENT_LENGTH) {
        Err("both Transfer-Encoding and Content-Length")
    } else if !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
        Err("a Transfer-Encoding that is not exactly `chunked`")
    } else {
        Ok(Some(Framing::Chunked))
    }
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, &'static str> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err("more than one Content-Length");
    }
    let digits = value.as_bytes();
    // 18 digits stay below 2^63, where signed readers end.
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return Err("a Content-Length that is not a plain number");
    }
    let length = digits.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Ok(Some(length))
}

/// A `:path` as it came; `h2` has cut off a fragment, if there was one.
fn check_http2_path(uri: &Uri) -> Result<(), &'static str> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let begins = matches!(path.as_bytes().first(), None | Some(b'/' | b'*'));
    if !begins || !path.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(":path is not a path");
    }
    Ok(())
}

fn check_target(method: &Method, uri: &Uri) -> Result<(), &'static str> {
    if *method == Method::CONNECT {
        let plain = uri.scheme().is_none() && uri.path_and_query().is_none();
        return match uri.authority() {
            Some(authority) if plain && authority.port_u16().is_some() => Ok(()),
            _ => Err("CONNECT needs a target of the form host:port"),
        };
    }
    if let Some(scheme) = uri.scheme_str()
        && !matches!(scheme, "http" | "https")
    {
        return Err("a target whose scheme is neither http nor https");
    }
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    if !target.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Err("a target with a byte that does not belong there");
    }
    match uri.path() {
        "*" if *method == Method::OPTIONS => Ok(()),
        path if path.starts_with('/') => Ok(()),
        "" if uri.scheme().is_some() => Ok(()),
        _ => Err("a target that is not a path"),
    }
}

fn http1_authority(head: &request::Parts, old: bool) -> Result<Option<Authority>, ProxyError> {
    let host = single_host(&head.headers)?;
    if host.is_none() && !old {
        return Err(malformed("no Host"));
    }
    let Some(target) = head.uri.authority() else { return Ok(host) };
    if head.uri.scheme_str() == Some("https") {
        return Err(malformed("an https target in the clear: ask for a tunnel with CONNECT"));
    }
    let target = Authority::parse(target.as_str())
        .ok_or_else(|| malformed("the target's authority is not host[:port]"))?;
    match host {
        Some(host) if !same_authority(&target, &host, head.uri.scheme_str()) => {
            Err(malformed("the target and Host disagree"))
        }
        _ => Ok(Some(target)),
    }
}

fn single_host(headers: &HeaderMap) -> Result<Option<Authority>, ProxyError> {
    let mut values = headers.get_all(HOST).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(malformed("more than one Host"));
    }
    Authority::of(value).map(Some).ok_or_else(|| malformed("a Host that is not host[:port]"))
}

/// Equal up to a default port that one of them leaves out. CONNECT names a port
/// that Host need not repeat.
fn same_authority(target: &Authority, host: &Authority, scheme: Option<&str>) -> bool {
    let default = match scheme {
        Some("https") => Some(443),
        Some(_) => Some(80),
        None => None,
    };
    let ports_agree = match default {
        Some(_) => target.port().or(default) == host.port().or(default),
        None => host.port().is_none() || host.port() == target.port(),
    };
    target.host() == host.host() && ports_agree
}

/// `Upgrade: h2c` is not a request for another protocol here: HTTP/2 in the
/// clear is spoken by prior knowledge (RFC 9113, section 3.1).
fn asks_for_a_protocol(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(UPGRADE).iter();
    match (protocols.next(), protocols.next()) {
        (Some(value), None) => is_protocol(value.as_bytes().trim_ascii()),
        _ => false,
    }
}

/// A name with or without a version (RFC 9110, section 7.8), other than that of
/// HTTP/2.
fn is_protocol(value: &[u8]) -> bool {
    let mut parts = value.splitn(2, |byte| *byte == b'/');
    let token = |part: &[u8]| !part.is_empty() && part.iter().all(|byte| is_token_byte(*byte));
    parts.all(token) && !value.eq_ignore_ascii_case(b"h2c") && !value.eq_ignore_ascii_case(b"h2")
}

/// RFC 9110, section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Drops the trailer fields that would change how the message is read, routed
/// or trusted if somebody merged them into its head (RFC 9110, section 6.5.1).
pub fn strip_trailers(trailers: &mut HeaderMap) {
    const FORBIDDEN: [http::HeaderName; 14] = [
        CONTENT_LENGTH,
        TRANSFER_ENCODING,
        HOST,
        CONNECTION,
        UPGRADE,
        EXPECT,
        http::header::TE,
        http::header::TRAILER,
        http::header::CONTENT_ENCODING,
        http::header::CONTENT_TYPE,
        http::header::CONTENT_RANGE,
        http::header::AUTHORIZATION,
        http::header::SET_COOKIE,
        http::header::COOKIE,
    ];
    for name in &FORBIDDEN {
        trailers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "proxy-authorization", "http2-settings"] {
        trailers.remove(name);
    }
}
