//! Heads of HTTP/1 messages: found, read and written (RFC 9112).

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri, Version, request, response};

use crate::base::Limits;
use crate::base::{ProxyError, Reason};

/// Fields that are read without asking the allocator.
const FIELDS_ON_THE_STACK: usize = 128;

/// Looks for the end of a head in a buffer that grows. Every byte is looked at
/// once, however slowly they come.
#[derive(Debug, Default)]
pub struct HeadScanner {
    /// Empty lines before the head, skipped (RFC 9112, section 2.2).
    start: usize,
    /// Where the line at hand begins.
    line: usize,
    /// Where the search goes on.
    seen: usize,
}

/// Bytes of the longest method that is served; the longest that is registered
/// has 17.
const MAX_METHOD: usize = 64;

/// Where a head stands in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadSpan {
    /// Its first byte.
    pub start: usize,
    /// The byte after its last.
    pub end: usize,
}

/// Empty lines that a client may send before a request.
const MAX_EMPTY_LINES: usize = 4;

impl HeadScanner {
    /// The head's place once it is complete. Lines end in CR LF; a bare LF is
    /// refused, because not everybody reads it as an end.
    pub fn scan(&mut self, buffer: &[u8]) -> Result<Option<HeadSpan>, &'static str> {
        while let Some(offset) = memchr::memchr(b'\n', &buffer[self.seen..]) {
            let end = self.seen + offset;
            if end == self.line || buffer[end - 1] != b'\r' {
                return Err("a line that does not end in CR LF");
            }
            let empty = end == self.line + 1;
            self.seen = end + 1;
            if empty && self.line == self.start {
                self.start = self.seen;
                if self.start > 2 * MAX_EMPTY_LINES {
                    return Err("empty lines before the head");
                }
            } else if empty {
                return Ok(Some(HeadSpan { start: self.start, end: self.seen }));
            }
            self.line = self.seen;
        }
        self.seen = buffer.len();
        Ok(None)
    }

    /// Whether the first line is complete.
    pub fn past_first_line(&self) -> bool {
        self.line > self.start
    }
}

/// Reads a request's head. `head` holds it whole.
pub fn parse_request(head: &[u8], limits: &Limits) -> Result<request::Parts, ProxyError> {
    let too_long = || {
        ProxyError::unsent(Reason::TargetTooLong, "the target is longer than limits.target").over("target")
    };
    let bad = |detail| ProxyError::unsent(Reason::MalformedRequest, detail);
    with_fields(limits.header_fields, |fields| {
        let mut parsed = httparse::Request::new(&mut []);
        let done = parsed.parse_with_uninit_headers(head, fields);
        complete(done, head.len()).map_err(|problem| match problem {
            Problem::TooMany => ProxyError::unsent(Reason::HeaderTooLarge, TOO_MANY).over("header_fields"),
            Problem::Bad(detail) => bad(detail),
        })?;
        let target = parsed.path.unwrap_or_default().as_bytes();
        if target.len() > limits.target {
            return Err(too_long());
        }
        if target.iter().any(|b| !b.is_ascii_graphic() || *b == b'#') {
            return Err(bad("a target with a byte that does not belong there"));
        }
        let method = parsed.method.unwrap_or_default().as_bytes();
        if method.len() > MAX_METHOD {
            return Err(bad("a method that is too long"));
        }
        let shared = Bytes::copy_from_slice(head);
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = Method::from_bytes(method).map_err(|_| bad("a method that is not a token"))?;
        parts.uri = Uri::from_maybe_shared(shared.slice_ref_in(head, target))
            .map_err(|_| bad("a target that is no URI"))?;
        if parts.method == Method::OPTIONS && is_bare_authority(&parts.uri, target) {
            parts.uri = of_the_whole_server(parts.uri).map_err(|_| bad("a target that is no URI"))?;
        }
        parts.version = version(parsed.version);
        parts.headers = headers(parsed.headers, head, &shared).map_err(bad)?;
        Ok(parts)
    })
}

/// Reads an answer's head. `head` holds it whole.
pub fn parse_response(head: &[u8], limits: &Limits) -> Result<response::Parts, ProxyError> {
    let bad = |detail| ProxyError::new(Reason::MalformedResponse, detail);
    with_fields(limits.header_fields, |fields| {
        let mut parsed = httparse::Response::new(&mut []);
        let done =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, head, fields);
        complete(done, head.len()).map_err(|problem| match problem {
            Problem::TooMany => {
                ProxyError::new(Reason::ResponseHeaderTooLarge, TOO_MANY).over("header_fields")
            }
            Problem::Bad(detail) => bad(detail),
        })?;
        let shared = Bytes::copy_from_slice(head);
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = match parsed.code {
            Some(code @ 100..=599) => StatusCode::from_u16(code).map_err(|_| bad(BAD_STATUS))?,
            _ => return Err(bad(BAD_STATUS)),
        };
        parts.version = version(parsed.version);
        parts.headers = headers(parsed.headers, head, &shared).map_err(bad)?;
        Ok(parts)
    })
}

/// Reads the trailer section that ends a chunked body; `section` holds it with
/// its last empty line. Fields that would change how the message is read are
/// dropped (RFC 9110, section 6.5.1).
pub fn parse_trailers(section: &[u8], fields: usize) -> Result<HeaderMap, &'static str> {
    let mut trailers = with_fields(fields, |uninit| {
        // httparse reads bare fields only through a request's head.
        let mut fields = vec![httparse::EMPTY_HEADER; uninit.len()];
        match httparse::parse_headers(section, &mut fields) {
            Ok(httparse::Status::Complete((length, parsed))) if length == section.len() => {
                headers(parsed, section, &Bytes::copy_from_slice(section))
            }
            Ok(_) => Err("a trailer section that does not end"),
            Err(_) => Err("a malformed trailer field"),
        }
    })?;
    super::super::guard::strip_trailers(&mut trailers);
    Ok(trailers)
}

/// Writes an answer's first line and fields, without the empty line at the end.
pub fn write_response(out: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("-").as_bytes());
    out.extend_from_slice(b"\r\n");
    write_fields(out, headers);
}

/// Writes the length of a body.
pub fn write_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes fields, each with its line end.
pub fn write_fields(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        write_field(out, name, value);
    }
}

/// One field.
pub fn write_field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Whether the target is of the form `http://host`, with nothing behind it.
fn is_bare_authority(uri: &Uri, target: &[u8]) -> bool {
    uri.scheme().is_some() && uri.path() == "/" && uri.query().is_none() && !target.ends_with(b"/")
}

/// OPTIONS of a bare authority asks about the server itself (RFC 9112, section 3.2.4).
fn of_the_whole_server(uri: Uri) -> Result<Uri, http::uri::InvalidUriParts> {
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(http::uri::PathAndQuery::from_static("*"));
    Uri::from_parts(parts)
}

enum Problem {
    TooMany,
    Bad(&'static str),
}

const TOO_MANY: &str = "more fields than limits.header_fields";
const BAD_STATUS: &str = "a status that is not 100 to 599";

fn with_fields<'h, T>(limit: usize, read: impl FnOnce(&mut [MaybeUninit<httparse::Header<'h>>]) -> T) -> T {
    if limit <= FIELDS_ON_THE_STACK {
        let mut fields = [const { MaybeUninit::uninit() }; FIELDS_ON_THE_STACK];
        read(&mut fields[..limit])
    } else {
        let mut fields: Vec<_> = (0..limit).map(|_| MaybeUninit::uninit()).collect();
        read(&mut fields)
    }
}

fn complete(done: Result<httparse::Status<usize>, httparse::Error>, length: usize) -> Result<(), Problem> {
    use httparse::Error as E;
    Err(Problem::Bad(match done {
        Ok(httparse::Status::Complete(read)) if read == length => return Ok(()),
        Ok(_) => "a head that does not end where it should",
        Err(E::TooManyHeaders) => return Err(Problem::TooMany),
        Err(E::Version) => "a version other than HTTP/1.0 and HTTP/1.1",
        Err(E::HeaderName) => "a malformed field name",
        Err(E::HeaderValue) => "a malformed field value",
        Err(E::NewLine) => "a malformed line end",
        Err(E::Status) => BAD_STATUS,
        Err(E::Token) => "a malformed first line",
    }))
}

fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 }
}

fn headers(parsed: &[httparse::Header<'_>], head: &[u8], shared: &Bytes) -> Result<HeaderMap, &'static str> {
    let mut headers = HeaderMap::with_capacity(parsed.len() + 4);
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| "a malformed field name")?;
        let value = HeaderValue::from_maybe_shared(shared.slice_ref_in(head, field.value))
            .map_err(|_| "a malformed field value")?;
        headers.append(name, value);
    }
    Ok(headers)
}

trait SliceIn {
    /// The part of `self`, a copy of `whole`, that stands where `part` stands in `whole`.
    fn slice_ref_in(&self, whole: &[u8], part: &[u8]) -> Bytes;
}

impl SliceIn for Bytes {
    fn slice_ref_in(&self, whole: &[u8], part: &[u8]) -> Bytes {
        if part.is_empty() {
            return Bytes::new();
        }
        let start = part.as_ptr() as usize - whole.as_ptr() as usize;
        self.slice(start..start + part.len())
    }
}
