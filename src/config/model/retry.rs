//! `retry`: which failures are tried anew, how often, and what for.

use std::time::Duration;

use crate::base::grpc;

/// The largest `retry.buffer`.
pub const MAX_BUFFER: u64 = 1 << 20;

/// `retry`.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Attempts beside the first; default 1.
    pub max: u32,
    /// For one attempt, until the head of its answer.
    pub per_try: Option<Duration>,
    /// Which failures; default connect, refused, reset, gateway, UNAVAILABLE.
    pub on: Vec<RetryOn>,
    /// Which calls; default those that do no harm twice.
    pub only_if: OnlyIf,
    /// First and longest pause; default 25 ms..250 ms.
    pub backoff: (Duration, Duration),
    /// Share of calls that may be sent again, 0 to 1; default 0.2.
    pub budget: f64,
    /// Bytes of a request's body that are kept for another attempt; default
    /// 64 KiB, at most [`MAX_BUFFER`].
    pub buffer: usize,
}

/// One entry of `retry.on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// No connection could be made.
    Connect,
    /// The connection ended before the head of the answer.
    Reset,
    /// HTTP/2 REFUSED_STREAM.
    Refused,
    /// 500 to 599.
    ServerError,
    /// 502, 503 and 504.
    Gateway,
    /// `per_try` passed.
    Timeout,
    /// One status.
    Status(u16),
    /// A status of gRPC, by its number, in the head of the answer.
    Grpc(u8),
}

/// `retry.only_if`. What was surely not sent may always be sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnlyIf {
    /// The method is idempotent (RFC 9110, section 9.2.2), or the `.proto` says
    /// so of the called method; the default.
    #[default]
    Idempotent,
    /// The same, or the request carries an `Idempotency-Key`.
    IdempotencyKey,
    /// Any call.
    Always,
}

/// UNAVAILABLE.
const UNAVAILABLE: u8 = 14;

impl Default for Retry {
    fn default() -> Self {
        use RetryOn::{Connect, Gateway, Grpc, Refused, Reset};
        Self {
            max: 1,
            per_try: None,
            on: vec![Connect, Refused, Reset, Gateway, Grpc(UNAVAILABLE)],
            only_if: OnlyIf::Idempotent,
            backoff: (Duration::from_millis(25), Duration::from_millis(250)),
            budget: 0.2,
            buffer: 64 << 10,
        }
    }
}

impl RetryOn {
    /// As the file writes it.
    pub fn name(self) -> String {
        match self {
            Self::Connect => "connect".into(),
            Self::Reset => "reset".into(),
            Self::Refused => "refused".into(),
            Self::ServerError => "5xx".into(),
            Self::Gateway => "gateway".into(),
            Self::Timeout => "timeout".into(),
            Self::Status(status) => status.to_string(),
            Self::Grpc(code) => grpc::CODES.get(usize::from(code)).copied().unwrap_or("UNKNOWN").into(),
        }
    }
}

impl OnlyIf {
    /// As the file writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idempotent => "idempotent",
            Self::IdempotencyKey => "idempotency-key",
            Self::Always => "always",
        }
    }
}
