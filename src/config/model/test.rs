//! `tests`: calls that nobody sends, and what comes of them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::base::{Origin, Reason, UpstreamName};
use crate::config::Call;

/// One entry of `tests`.
#[derive(Clone, Debug)]
pub struct Test {
    /// What it shows.
    pub name: Arc<str>,
    /// Where it was written.
    pub origin: Origin,
    /// Addresses of each called service; default 1.
    pub endpoints: u8,
    /// The calls, one after the other.
    pub steps: Vec<Step>,
}

/// Some calls that are alike.
#[derive(Clone, Debug)]
pub struct Step {
    /// Time that passes first.
    pub after: Duration,
    /// The call.
    pub call: Call,
    /// Its body.
    pub body: Bytes,
    /// What becomes of each attempt from now on, where this step says so; the
    /// last one holds on.
    pub upstream: Option<Vec<Outcome>>,
    /// How often it is made.
    pub times: u32,
    /// The pause between two of them.
    pub every: Duration,
    /// What holds for each.
    pub expect: Expect,
    /// Where `expect` was written, or the step.
    pub origin: Origin,
}

/// What becomes of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The connection is refused.
    Connect,
    /// The connection ends before an answer.
    Reset,
    /// Nothing ever comes.
    Silence,
    /// An answer.
    Answer(Answer),
}

/// An answer of the called service.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Its status.
    pub status: Status,
    /// How long it takes.
    pub after: Duration,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// A status, or a code of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// A status, 200 to 599.
    Http(u16),
    /// A code of gRPC.
    Grpc(u8),
}

/// What the caller gets; what is `None` is not looked at.
#[derive(Clone, Debug, Default)]
pub struct Expect {
    /// The status.
    pub status: Option<Status>,
    /// How often the call came to the called service.
    pub attempts: Option<u32>,
    /// Why Pillion answers itself, or that it does not.
    pub reason: Option<Option<Reason>>,
    /// The route that takes it, as the file writes it.
    pub route: Option<Arc<str>>,
    /// The service that it goes to.
    pub to: Option<UpstreamName>,
    /// The service that gets a copy of it, or that none does.
    pub mirrored: Option<Option<UpstreamName>>,
    /// From when to when the answer is there.
    pub took: Option<(Duration, Duration)>,
    /// Headers of the answer; `None` for one that must not be there.
    pub headers: Vec<(HeaderName, Option<HeaderValue>)>,
    /// The body of the answer.
    pub body: Option<Bytes>,
}
