//! The one map: what each reason means to whoever meets it. Its rows stand in
//! the order of [`Reason`].

use super::{GrpcCode, Reason, Side};

/// All that is fixed about a [`Reason`].
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The value of `pillion-error`, of the metric label and of the span attribute.
    pub word: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The gRPC status code.
    pub grpc: GrpcCode,
    /// Whose doing it is.
    pub side: Side,
    /// One line for a person (RFC 9457's `title`).
    pub title: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

impl Reason {
    /// The row of this reason in the one map.
    pub const fn facts(self) -> Facts {
        use GrpcCode as G;
        use Side::{Client, Proxy, Upstream};
        let (word, status, grpc, side, title, remedy) = match self {
            Self::MalformedRequest => (
                "malformed_request",
                400,
                G::Internal,
                Client,
                "The request can't be read in only one way",
                "Correct the client: `detail` names the field.",
            ),
            Self::TargetTooLong => (
                "target_too_long",
                414,
                G::Internal,
                Client,
                "The request target is too long",
                "Send less in the URL, or raise `limits.target`.",
            ),
            Self::HeaderTooLarge => (
                "header_too_large",
                431,
                G::ResourceExhausted,
                Client,
                "The request head is too large",
                "Send fewer or smaller header fields, or raise `limits.header_bytes` or `limits.header_fields`.",
            ),
            Self::RequestTimeout => (
                "request_timeout",
                408,
                G::DeadlineExceeded,
                Client,
                "The request came too slowly",
                "Send faster, or raise `limits.header_timeout` or `limits.body_idle`.",
            ),
            Self::ClientClosed => (
                "client_closed",
                499,
                G::Cancelled,
                Client,
                "The caller went away before the answer was complete",
                "Look at the caller's own timeout.",
            ),
            Self::InvalidMessage => (
                "invalid_message",
                400,
                G::InvalidArgument,
                Client,
                "A message does not fit its type",
                "Correct the client: `detail` says what does not fit the `.proto`.",
            ),
            Self::MessageTooLarge => (
                "message_too_large",
                413,
                G::ResourceExhausted,
                Client,
                "A message is too large",
                "Send less at a time, or raise `json.max_message`.",
            ),
            Self::UnsupportedMediaType => (
                "unsupported_media_type",
                415,
                G::InvalidArgument,
                Client,
                "The body is not in a form that is taken here",
                "Send JSON, not compressed, with `content-type: application/json`.",
            ),
            Self::NoRoute => (
                "no_route",
                404,
                G::Unimplemented,
                Client,
                "No route takes this request",
                "Add a route to the policy, or correct the path; `pillion check` lists the routes.",
            ),
            Self::EgressDenied => (
                "egress_denied",
                403,
                G::PermissionDenied,
                Client,
                "The service may not call this destination",
                "Add the line in `detail` to a policy file, register the service, or set `egress: allow`.",
            ),
            Self::LoopDetected => (
                "loop_detected",
                508,
                G::Internal,
                Proxy,
                "The request came back to the sidecar that sent it",
                "Look at the address that discovery holds for this service: it is the sidecar's own.",
            ),
            Self::RateLimited => (
                "rate_limited",
                429,
                G::ResourceExhausted,
                Client,
                "The caller has called more often than it may",
                "Call again after `Retry-After`, call less often, or raise the limit that `rule` names.",
            ),
            Self::Overload => (
                "overload",
                503,
                G::ResourceExhausted,
                Proxy,
                "A limit of the sidecar is reached",
                "`detail` names the limit; raise it under `limits`, or add instances.",
            ),
            Self::FaultInjected => (
                "fault_injected",
                503,
                G::Unavailable,
                Proxy,
                "A fault was made on purpose",
                "Nothing is broken: the route's `fault` says so, and `rule` says where it stands.",
            ),
            Self::ShuttingDown => (
                "shutting_down",
                503,
                G::Unavailable,
                Proxy,
                "The sidecar is ending",
                "Send it again: another instance takes it.",
            ),
            Self::UnknownUpstream => (
                "unknown_upstream",
                502,
                G::Unavailable,
                Client,
                "No source of discovery knows this service",
                "Correct the name, start the service with its sidecar, or add it under `discovery`.",
            ),
            Self::NoEndpoint => (
                "no_endpoint",
                503,
                G::Unavailable,
                Upstream,
                "The service is known and has no endpoint now",
                "Start an instance of it; /clusters on the admin port shows what discovery holds.",
            ),
            Self::DiscoveryFailed => (
                "discovery_failed",
                503,
                G::Unavailable,
                Proxy,
                "No source of discovery could answer, and no earlier answer is known",
                "`detail` names the source and its error.",
            ),
            Self::ConnectRefused => (
                "connect_refused",
                502,
                G::Unavailable,
                Upstream,
                "The endpoint refused the connection",
                "Is the service running, and does it listen on the port that discovery names?",
            ),
            Self::ConnectTimeout => (
                "connect_timeout",
                504,
                G::Unavailable,
                Upstream,
                "The connection to the endpoint was not made in time",
                "Look for a lost host or a firewall; `connect_timeout` bounds the wait.",
            ),
            Self::ConnectFailed => (
                "connect_failed",
                502,
                G::Unavailable,
                Upstream,
                "No connection to the endpoint could be made",
                "`detail` holds the system's error.",
            ),
            Self::NoHttp2 => (
                "no_http2",
                502,
                G::Unavailable,
                Upstream,
                "The endpoint does not speak HTTP/2, which the call needs",
                "Set `protocol: http1` for a service that speaks only HTTP/1; one of gRPC must speak HTTP/2 without TLS.",
            ),
            Self::CircuitOpen => (
                "circuit_open",
                503,
                G::Unavailable,
                Proxy,
                "Calls of this service failed, so none is sent for a while",
                "Look at why they failed; the log and pillion_circuit_breaker_transitions_total say when. Come back after `Retry-After`, or change `circuit_breaker`.",
            ),
            Self::ConnectionLimit => (
                "connection_limit",
                503,
                G::ResourceExhausted,
                Proxy,
                "The upstream may not have one more connection",
                "Look for connections that are held too long, or raise `connections` of the upstream.",
            ),
            Self::ResetBeforeHeaders => (
                "reset_before_headers",
                502,
                G::Unavailable,
                Upstream,
                "The service ended the connection before it answered",
                "Look at the service: it may have crashed or closed an idle connection. A `retry` with `on: [reset]` covers idempotent calls.",
            ),
            Self::ResetAfterHeaders => (
                "reset_after_headers",
                502,
                G::Unavailable,
                Upstream,
                "The service ended the connection within its answer",
                "Look at the service: the answer that was passed on is not complete.",
            ),
            Self::MalformedResponse => (
                "malformed_response",
                502,
                G::Internal,
                Upstream,
                "The service's answer breaks the rules of HTTP",
                "Correct the service: `detail` says what is wrong.",
            ),
            Self::UntranslatableResponse => (
                "untranslatable_response",
                502,
                G::Internal,
                Upstream,
                "The service's answer can't be put into JSON",
                "`detail` says why: make the descriptor anew from the service's `.proto`, or raise `json.max_message`.",
            ),
            Self::ResponseHeaderTooLarge => (
                "response_header_too_large",
                502,
                G::Internal,
                Upstream,
                "The head of the service's answer is too large",
                "Send fewer or smaller header fields, or raise `limits.header_bytes` or `limits.header_fields`.",
            ),
            Self::DeadlinePassed => (
                "deadline_passed",
                504,
                G::DeadlineExceeded,
                Client,
                "The caller's time was over before the call began, or can't suffice",
                "Look at what `detail` names: the caller gave too little time, or spent it elsewhere.",
            ),
            Self::Timeout => (
                "timeout",
                504,
                G::DeadlineExceeded,
                Upstream,
                "The call took longer than the route allows",
                "Look at the service's latency, or raise the route's `timeout`.",
            ),
            Self::PerTryTimeout => (
                "per_try_timeout",
                504,
                G::DeadlineExceeded,
                Upstream,
                "Every attempt took longer than the route allows for one",
                "Look at the service's latency, or raise the route's `retry.per_try`.",
            ),
            Self::StreamIdle => (
                "stream_idle",
                504,
                G::Unavailable,
                Upstream,
                "Nothing moved in either direction for too long",
                "Send something from time to time, or raise the route's `idle_timeout`; a tunnel's is `tunnel_idle`.",
            ),
        };
        Facts { word, status, grpc, side, title, remedy }
    }
}
