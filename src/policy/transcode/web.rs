//! gRPC-Web's two forms, and the base64 of the second
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md>).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};

use super::Fault;

/// A call of gRPC-Web.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Web {
    /// The request is base64.
    pub text_in: bool,
    /// The answer is base64.
    pub text_out: bool,
}

const PLAIN: &str = "application/grpc-web";
const TEXT: &str = "application/grpc-web-text";

impl Web {
    /// The form of a request with these fields, if it is one of gRPC-Web.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let text_in = is_text(headers.get(CONTENT_TYPE)?)?;
        let wanted = headers.get(ACCEPT).and_then(is_text);
        Some(Self { text_in, text_out: wanted.unwrap_or(text_in) })
    }

    /// The form of an answer of this content type, if it is one of gRPC-Web.
    pub fn answered(kind: &HeaderValue) -> Option<Self> {
        is_text(kind).map(|text| Self { text_in: text, text_out: text })
    }

    /// gRPC's own content type for the one of the caller: what the messages
    /// are, stays.
    pub fn inner_type(kind: &HeaderValue) -> HeaderValue {
        let rest = kind.to_str().ok().and_then(|kind| tail(kind, TEXT).or_else(|| tail(kind, PLAIN)));
        typed("application/grpc", rest.unwrap_or_default())
    }

    /// The content type of the answer for gRPC's own.
    pub fn outer_type(self, kind: Option<&HeaderValue>) -> HeaderValue {
        let rest = kind.and_then(|kind| kind.to_str().ok()).and_then(|kind| tail(kind, "application/grpc"));
        let rest = rest.filter(|rest| !rest.is_empty()).unwrap_or("+proto");
        typed(if self.text_out { TEXT } else { PLAIN }, rest)
    }

    /// A piece of the answer.
    pub fn encode(self, bytes: Bytes) -> Bytes {
        // Each piece is padded, so that it can be read when it comes.
        if self.text_out { STANDARD.encode(bytes).into() } else { bytes }
    }
}

/// Whether a content type is gRPC-Web's, and the one in base64.
fn is_text(kind: &HeaderValue) -> Option<bool> {
    let kind = kind.to_str().ok()?.trim();
    if tail(kind, TEXT).is_some() {
        return Some(true);
    }
    tail(kind, PLAIN).map(|_| false)
}

/// What follows `name`, if the content type is of this name.
fn tail<'a>(kind: &'a str, name: &str) -> Option<&'a str> {
    let (head, tail) = kind.split_at_checked(name.len())?;
    let ends = tail.is_empty() || tail.starts_with(['+', ';', ' ', ',']);
    (head.eq_ignore_ascii_case(name) && ends).then_some(tail)
}

fn typed(name: &'static str, rest: &str) -> HeaderValue {
    let rest = rest.strip_prefix('+').map_or("", |rest| rest.split([';', ' ', ',']).next().unwrap_or(rest));
    if rest.is_empty() {
        return HeaderValue::from_static(name);
    }
    HeaderValue::from_str(&format!("{name}+{rest}")).unwrap_or(HeaderValue::from_static(name))
}

/// Reads base64 that comes in pieces, each of which may be padded.
#[derive(Debug, Default)]
pub struct Decoder {
    rest: Vec<u8>,
}

impl Decoder {
    /// What `bytes` and what was left before stand for.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Bytes, Fault> {
        self.rest.extend_from_slice(bytes);
        let whole = self.rest.len() / 4 * 4;
        let mut plain = Vec::with_capacity(whole / 4 * 3);
        let mut left = &self.rest[..whole];
        while !left.is_empty() {
            // A padded quantum ends a piece.
            let end = left.iter().position(|b| *b == b'=').map_or(left.len(), |at| (at / 4 + 1) * 4);
            let (piece, after) = left.split_at(end);
            STANDARD
                .decode_vec(piece, &mut plain)
                .map_err(|error| Fault::Invalid(format!("the body is not base64: {error}")))?;
            left = after;
        }
        self.rest.drain(..whole);
        Ok(plain.into())
    }

    /// The bytes have ended: nothing may be left.
    pub fn end(&self) -> Result<(), Fault> {
        match self.rest.is_empty() {
            true => Ok(()),
            false => Err(Fault::Invalid("the body is not base64: it is cut off".into())),
        }
    }
}
