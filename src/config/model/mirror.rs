//! `mirror`: copies of calls for another service.

use std::time::Duration;

use http::header::{HeaderName, HeaderValue};

use crate::base::UpstreamName;

/// `mirror`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Who gets the copies.
    pub to: UpstreamName,
    /// Share of the calls, 0 to 1; default 1.
    pub share: f64,
    /// The `Host` of copies; default that of the call.
    pub host: Option<HeaderValue>,
    /// Copies at one time, of all workers; default 100.
    pub max: usize,
    /// Bytes of one request's body; default 64 KiB.
    pub buffer: usize,
    /// For a copy and the whole answer to it; default 10 s.
    pub timeout: Duration,
    /// What both answers must have in common; default: they are not compared.
    pub compare: Option<Compare>,
}

/// `mirror.compare`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The status, and that of gRPC; default true.
    pub status: bool,
    /// These header fields; default none.
    pub headers: Vec<HeaderName>,
    /// The body; default false.
    pub body: bool,
}

impl Mirror {
    /// Every call, to this service.
    pub fn new(to: UpstreamName) -> Self {
        let timeout = Duration::from_secs(10);
        Self { to, share: 1.0, host: None, max: 100, buffer: 64 << 10, timeout, compare: None }
    }
}

impl Default for Compare {
    fn default() -> Self {
        Self { status: true, headers: Vec::new(), body: false }
    }
}
