//! What a route changes of a call, and what it answers itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};

use crate::base::UpstreamName;
use crate::base::error::{GrpcCode, Told};

/// The part of a route's policy that shapes its traffic.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shaping {
    /// `request_headers`.
    pub request: HeaderEdit,
    /// `response_headers`.
    pub response: HeaderEdit,
    /// `rewrite`; `None` leaves the target alone.
    pub rewrite: Option<Rewrite>,
    /// `redirect` or `respond`; `None` forwards.
    pub direct: Option<Direct>,
    /// `cors`; `None` leaves it to the service.
    pub cors: Option<Cors>,
    /// `fault`, where it holds in this environment.
    pub fault: Option<Fault>,
    /// `split`; `None` sends every call to the route's own upstream.
    pub split: Option<Split>,
    /// `max_request_body` and `max_response_body`.
    pub sizes: Sizes,
}

/// `split`.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Upstreams and their weights, of which one is more than 0.
    pub targets: Vec<(UpstreamName, u32)>,
    /// What keeps a caller's calls together.
    pub sticky: Option<Sticky>,
}

/// `sticky`.
#[derive(Clone, Debug, PartialEq)]
pub enum Sticky {
    /// The value of a header.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(Arc<str>),
}

/// The most bytes of bodies; `None` for any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Of a request.
    pub request: Option<u64>,
    /// Of an answer.
    pub response: Option<u64>,
}

/// What becomes of header fields, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderEdit {
    /// Taken out.
    pub remove: Vec<HeaderName>,
    /// These have exactly this value then.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Added to what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

/// `rewrite`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewrite {
    /// The new path.
    pub path: Option<PathTemplate>,
    /// The new `Host`.
    pub host: Option<HeaderValue>,
}

/// A path with parts of the request's path in it.
#[derive(Clone, Debug, PartialEq)]
pub struct PathTemplate(pub Vec<Piece>);

/// One part of a [`PathTemplate`].
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// As it stands here.
    Text(Arc<str>),
    /// The segment of the request's path with this number, from 0.
    Segment(usize),
    /// All that is left of the request's path from this segment on.
    Rest(usize),
    /// The same with the `/` before it, if there is one.
    Tail(usize),
}

/// An answer of the policy's own.
#[derive(Clone, Debug, PartialEq)]
pub enum Direct {
    /// `redirect`.
    Redirect(Redirect),
    /// `respond`.
    Respond(Respond),
}

/// `redirect`.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// Default 302.
    pub status: StatusCode,
    /// With `host` missing, that of the request.
    pub scheme: Option<&'static str>,
    /// With `scheme` missing, `http`; with both missing the location is a path.
    pub host: Option<Arc<str>>,
    /// `None`: that of the request.
    pub path: Option<PathTemplate>,
}

/// `respond`.
#[derive(Clone, Debug, PartialEq)]
pub struct Respond {
    /// Default 200.
    pub status: StatusCode,
    /// Default none.
    pub body: Bytes,
    /// The type of the body, if there is one, and what else is written.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// `cors`.
#[derive(Clone, Debug, PartialEq)]
pub struct Cors {
    /// Whose pages.
    pub origins: Vec<OriginPattern>,
    /// For `Access-Control-Allow-Methods`.
    pub methods: Vec<Method>,
    /// Whether every method is allowed.
    pub any_method: bool,
    /// For `Access-Control-Allow-Headers`; empty: none.
    pub headers: Option<HeaderValue>,
    /// For `Access-Control-Expose-Headers`; empty: none.
    pub expose: Option<HeaderValue>,
    /// Default false.
    pub credentials: bool,
    /// Default 10 min.
    pub max_age: Duration,
}

/// One entry of `cors.origins`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    /// `*`.
    Any,
    /// `https://app.example`, in lower case.
    Exact(Arc<str>),
    /// `https://*.example:8443`: what stands before and behind the `*`.
    Below(Arc<str>, Arc<str>),
}

/// `fault`.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Before the call is sent, or aborted.
    pub delay: Option<Duration>,
    /// Instead of sending it.
    pub abort: Option<Told>,
    /// Share of the calls, 0 to 1; default 1.
    pub share: f64,
    /// Only calls with this header.
    pub if_header: Option<HeaderName>,
}

impl Shaping {
    /// Whether it does nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl HeaderEdit {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// What `abort: {status: …}` means to everyone.
pub fn told_by_status(status: u16) -> Told {
    Told { status, grpc: GrpcCode::of_http(status) }
}

/// What `abort: {grpc: …}` means to everyone.
pub fn told_by_code(grpc: GrpcCode) -> Told {
    Told { status: grpc.http(), grpc }
}
