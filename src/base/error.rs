//! The one error of the request path, and the one map from a reason to every
//! form in which somebody meets it: a status, a gRPC code, a title, a remedy.
//!
//! A new way to fail is a new [`Reason`]; the compiler then asks for its row in
//! [`Reason::facts`] (`facts.rs`), and the reply, the metric label, the span attribute and
//! the access log follow from that row.

mod code;
mod facts;
mod side;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use http::HeaderMap;

pub use self::code::GrpcCode;
pub use self::facts::Facts;
pub use self::side::Side;
use super::Origin;

/// Why Pillion answered in place of the service, or ended an answer early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The head could not be read in only one way.
    MalformedRequest,
    /// The target is longer than `limits.target`.
    TargetTooLong,
    /// The head is larger than `limits.header_bytes` or `limits.header_fields`.
    HeaderTooLarge,
    /// The head or the body came too slowly.
    RequestTimeout,
    /// The caller went away before the answer was complete.
    ClientClosed,
    /// A message of a translated call does not fit its type.
    InvalidMessage,
    /// A message of a translated call is larger than `json.max_message`.
    MessageTooLarge,
    /// The body of the request is larger than the route's `max_request_body`.
    RequestTooLarge,
    /// A translated call whose body is no JSON.
    UnsupportedMediaType,
    /// No route takes this request.
    NoRoute,
    /// A gateway serves nothing for this host.
    UnknownHost,
    /// `egress` does not let the service call this.
    EgressDenied,
    /// The request has passed through this sidecar already.
    LoopDetected,
    /// The route's `allow` asks who calls, and the caller has not proven it.
    Unauthenticated,
    /// The route's `allow` does not let this caller in.
    PermissionDenied,
    /// The caller's token can't be checked: its issuer's keys are not there.
    KeysUnavailable,
    /// The caller has called more often than the route's `rate_limit` lets it.
    RateLimited,
    /// A limit of the sidecar itself is reached.
    Overload,
    /// The route's `fault` has struck.
    FaultInjected,
    /// The sidecar is ending.
    ShuttingDown,
    /// No source of discovery knows the name.
    UnknownUpstream,
    /// The name is known and has no endpoint now.
    NoEndpoint,
    /// No source of discovery could answer.
    DiscoveryFailed,
    /// The endpoint refused the connection.
    ConnectRefused,
    /// The connection was not made in time.
    ConnectTimeout,
    /// The connection failed in another way: no route to the host, no port left.
    ConnectFailed,
    /// The endpoint does not speak HTTP/2, which the call needs.
    NoHttp2,
    /// The circuit breaker of the route or of every endpoint is open.
    CircuitOpen,
    /// The upstream may not have one more connection.
    ConnectionLimit,
    /// The route, the upstream or the service may not have one more call now.
    ConcurrencyLimit,
    /// The connection ended before the head of the answer.
    ResetBeforeHeaders,
    /// The connection ended within the answer.
    ResetAfterHeaders,
    /// The answer breaks the rules of HTTP.
    MalformedResponse,
    /// The answer of a translated call can't be put into the caller's form.
    UntranslatableResponse,
    /// The head of the answer is larger than the limits allow.
    ResponseHeaderTooLarge,
    /// The caller's own time was over before the call began, or can't suffice.
    DeadlinePassed,
    /// The body of the answer is larger than the route's `max_response_body`.
    ResponseTooLarge,
    /// The route's `timeout` passed.
    Timeout,
    /// Every attempt ran into the route's `retry.per_try`.
    PerTryTimeout,
    /// Nothing moved in either direction for the route's `idle_timeout`.
    StreamIdle,
}

/// Whether the request may have reached the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Not one byte of it: any request is safe to send again.
    No,
    /// Some of it, on a connection that had served before and was closed
    /// before any byte of an answer: an idempotent request is safe to send
    /// again (RFC 9112, section 9.3.1).
    OnReused,
    /// Some of it.
    Yes,
}

/// A failure of one request.
#[derive(Debug)]
pub struct ProxyError {
    /// Why.
    pub reason: Reason,
    /// What exactly, for a person; holds no secret and no body.
    pub detail: Cow<'static, str>,
    /// Whether the request may have reached the upstream.
    pub sent: Sent,
    /// The rule that decided, if one did.
    pub rule: Option<Origin>,
    /// When it makes sense to come back.
    pub retry_after: Option<Duration>,
    /// The key under `limits` of the limit that was hit.
    pub limit: Option<&'static str>,
    /// Fields that the answer carries beside those of every refusal.
    pub fields: Option<Box<HeaderMap>>,
    /// The code with which the peer reset the stream (RFC 9113, section 7),
    /// where it did.
    pub reset: Option<u32>,
    /// Attempts that were made; 0 where nobody has counted.
    pub attempts: u16,
    /// What the caller is told in place of what the reason says.
    pub told: Option<Told>,
}

/// The two forms in which a caller is told of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The HTTP status.
    pub status: u16,
    /// The gRPC status code.
    pub grpc: GrpcCode,
}

impl Reason {
    /// Every reason, for the documentation's and the tests' sake.
    pub const ALL: [Self; 40] = [
        Self::MalformedRequest,
        Self::TargetTooLong,
        Self::HeaderTooLarge,
        Self::RequestTimeout,
        Self::ClientClosed,
        Self::InvalidMessage,
        Self::MessageTooLarge,
        Self::RequestTooLarge,
        Self::UnsupportedMediaType,
        Self::NoRoute,
        Self::UnknownHost,
        Self::EgressDenied,
        Self::LoopDetected,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::KeysUnavailable,
        Self::RateLimited,
        Self::Overload,
        Self::FaultInjected,
        Self::ShuttingDown,
        Self::UnknownUpstream,
        Self::NoEndpoint,
        Self::DiscoveryFailed,
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::ConnectFailed,
        Self::NoHttp2,
        Self::CircuitOpen,
        Self::ConnectionLimit,
        Self::ConcurrencyLimit,
        Self::ResetBeforeHeaders,
        Self::ResetAfterHeaders,
        Self::MalformedResponse,
        Self::UntranslatableResponse,
        Self::ResponseHeaderTooLarge,
        Self::DeadlinePassed,
        Self::ResponseTooLarge,
        Self::Timeout,
        Self::PerTryTimeout,
        Self::StreamIdle,
    ];

    /// The value of `pillion-error`.
    pub const fn as_str(self) -> &'static str {
        self.facts().word
    }
}

impl ProxyError {
    /// A failure of a request that may have been sent.
    pub fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            sent: Sent::Yes,
            rule: None,
            retry_after: None,
            limit: None,
            fields: None,
            reset: None,
            attempts: 0,
            told: None,
        }
    }

    /// A failure of a request of which nothing was sent.
    pub fn unsent(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { sent: Sent::No, ..Self::new(reason, detail) }
    }

    /// The same, decided by `rule`.
    #[must_use]
    pub fn by(self, rule: Origin) -> Self {
        Self { rule: Some(rule), ..self }
    }

    /// The same, told in this way.
    #[must_use]
    pub fn told(self, told: Told) -> Self {
        Self { told: Some(told), ..self }
    }

    /// The HTTP status of the answer.
    pub fn status(&self) -> u16 {
        self.told.map_or_else(|| self.reason.facts().status, |told| told.status)
    }

    /// The same, because of the limit with this key under `limits`. Whoever
    /// answers with the error counts it.
    #[must_use]
    pub fn over(self, limit: &'static str) -> Self {
        Self { limit: Some(limit), ..self }
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.detail)
    }
}

impl std::error::Error for ProxyError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_a_word_of_its_own_and_a_fitting_status() {
        let words: HashSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            let facts = reason.facts();
            assert!((400..600).contains(&facts.status), "{}", facts.word);
            assert_eq!(facts.side == Side::Upstream, facts.status >= 502 && reason.blames_upstream());
            assert!(facts.remedy.ends_with(['.', '?']), "{}: a remedy is a sentence", facts.word);
        }
    }

    impl Reason {
        fn blames_upstream(self) -> bool {
            self.facts().side == Side::Upstream
        }
    }
}
