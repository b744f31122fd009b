//! Every metric, declared once with its unit, its labels and its help.
//!
//! `docs/metrics.md` lists the same names; a test holds the two together.
//! Histograms follow OpenTelemetry's HTTP conventions with the names that its
//! Prometheus form gives them.

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Seconds, in [`DURATION_BUCKETS`].
    Histogram,
}

/// One metric.
#[derive(Debug)]
pub struct Name {
    /// As it is exposed.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The labels it carries, all of them bounded.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

/// Upper bounds in seconds (OpenTelemetry's advice for HTTP durations, with two finer steps).
pub const DURATION_BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

macro_rules! names {
    ($($(#[$doc:meta])* $id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $($(#[$doc])* pub const $id: Name =
            Name { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*
        /// All of them.
        pub const ALL: &[Name] = &[$($id),*];
    };
}

names! {
    /// Calls to the service.
    SERVER_DURATION = Histogram "http_server_request_duration_seconds"
        ["http_request_method", "http_route", "http_response_status_code", "error_type"]
        "Time from the head of a call to the service until the end of its answer.";
    /// Calls that the service makes.
    CLIENT_DURATION = Histogram "http_client_request_duration_seconds"
        ["upstream", "http_request_method", "http_route", "http_response_status_code", "error_type"]
        "Time from the head of a call that the service makes until the end of its answer.";
    /// Calls from outside.
    GATEWAY_DURATION = Histogram "pillion_gateway_request_duration_seconds"
        ["upstream", "http_request_method", "http_route", "http_response_status_code", "error_type"]
        "Time from the head of a call to a gateway until the end of its answer.";
    /// Requests at hand.
    ACTIVE_REQUESTS = Gauge "pillion_active_requests" ["direction"]
        "Requests that are being served now.";
    /// Answers that Pillion made.
    ERRORS = Counter "pillion_errors_total" ["direction", "upstream", "reason", "side"]
        "Answers that Pillion made itself or ended early, by reason.";
    /// Calls that `allow` denied.
    DENIED = Counter "pillion_denied_total" ["direction", "upstream", "route", "cause", "mode"]
        "Calls that `allow` denied (enforce), or would have denied (shadow), by what was missing or wrong.";
    /// Keys that were fetched.
    JWKS_FETCHES = Counter "pillion_jwks_fetches_total" ["url", "result"]
        "Times that the keys of an issuer were fetched, or could not be: fetched, failed.";
    /// Keys that are there.
    JWKS_KEYS = Gauge "pillion_jwks_keys" ["url"]
        "Keys of an issuer, as they were fetched last.";
    /// Breakers that are not closed.
    BREAKERS = Gauge "pillion_circuit_breakers" ["upstream", "route", "state"]
        "Circuit breakers of a route, one for each endpoint or one in all, that are open or half_open now.";
    /// What breakers became.
    BREAKER_TRANSITIONS = Counter "pillion_circuit_breaker_transitions_total" ["upstream", "route", "to"]
        "Times that a circuit breaker became closed, open or half_open.";
    /// Limits of calls at one time.
    CONCURRENCY_LIMIT = Gauge "pillion_concurrency_limit" ["direction", "upstream", "route"]
        "Calls that a `concurrency` lets in at one time, looked at every second.";
    /// Calls within them.
    CONCURRENCY_IN_USE = Gauge "pillion_concurrency_in_use" ["direction", "upstream", "route"]
        "Calls that are within a `concurrency`, looked at every second.";
    /// Calls that wait for room.
    CONCURRENCY_WAITING = Gauge "pillion_concurrency_waiting" ["direction", "upstream", "route"]
        "Calls that wait for room in a `concurrency`, looked at every second.";
    /// Calls that found no room.
    CONCURRENCY_REFUSED = Counter "pillion_concurrency_refused_total" ["direction", "upstream", "route", "priority", "mode"]
        "Calls that a `concurrency` refused (enforce), or would have refused (shadow), by the level of `priority`.";
    /// Calls that breakers refused.
    BREAKER_REFUSED = Counter "pillion_circuit_breaker_refused_total" ["upstream", "route", "mode"]
        "Calls that a circuit breaker refused (enforce), or would have refused (shadow).";
    /// Attempts beside the first.
    RETRIES = Counter "pillion_retries_total" ["upstream", "why"]
        "Attempts beside the first one of a call, by what made them necessary.";
    /// Attempts that were not made.
    RETRIES_SKIPPED = Counter "pillion_retries_skipped_total" ["upstream", "why"]
        "Failures that `retry` names and that were passed on: max, budget, deadline, pushback, method, body, circuit, begun.";
    /// Faults made on purpose.
    FAULTS = Counter "pillion_faults_total" ["upstream", "kind"]
        "Calls that a `fault` has struck: delay, abort. One that waits and is then aborted counts twice.";
    /// Attempts beside one that was slow.
    HEDGES = Counter "pillion_hedges_total" ["upstream", "result"]
        "Attempts beside one that was slow: won, lost; and those that were not made: budget, body, circuit.";
    /// Copies of calls.
    MIRRORED = Counter "pillion_mirrored_total" ["upstream", "route", "to", "result"]
        "Copies of calls for another service: answered, failed, late; and those that were not sent: full, too_large, \
         unfinished (the request never became whole).";
    /// Answers to copies.
    MIRROR_COMPARED = Counter "pillion_mirror_compared_total" ["upstream", "route", "to", "result"]
        "Answers to copies beside the caller's own: equal; or the first that differs of status, headers and body; \
         unknown where one of them never became whole.";
    /// Connections accepted.
    CONNECTIONS = Counter "pillion_connections_total" ["direction", "protocol"]
        "Connections accepted, by what was spoken on them.";
    /// Handshakes of TLS.
    TLS_HANDSHAKES = Counter "pillion_tls_handshakes_total" ["direction", "result"]
        "Handshakes of TLS with callers, by how they ended: ok, refused, slow, gone, plain (no TLS came), limit.";
    /// Connections captured.
    CAPTURED = Counter "pillion_captured_connections_total" ["direction", "target"]
        "Connections that the kernel turned to the sidecar, by where they went: http, endpoint, address, sni, service, loop, denied.";
    /// Connections open.
    CONNECTIONS_OPEN = Gauge "pillion_connections_open" ["direction"]
        "Connections that are open now.";
    /// Connections refused or ended by a limit.
    LIMITED = Counter "pillion_limited_total" ["limit"]
        "Times that a limit of the section `limits` was hit.";
    /// Calls that were too many.
    RATE_LIMITED = Counter "pillion_rate_limited_total" ["direction", "upstream", "route", "limit", "mode"]
        "Calls that a `rate_limit` refused (enforce), or would have refused (shadow).";
    /// Keys of limits.
    RATE_LIMIT_KEYS = Gauge "pillion_rate_limit_keys" ["direction", "upstream", "route", "limit"]
        "Values of `per` that a `rate_limit` holds a count for, looked at every second.";
    /// Calls whose key had no room.
    RATE_LIMIT_OVERFLOW = Counter "pillion_rate_limit_overflow_total" ["direction", "upstream", "route", "limit"]
        "Calls with a new value of `per` while as many were held as `keys` allows: they shared one count.";
    /// Calls of shared limits.
    RATE_LIMIT_SHARED = Counter "pillion_rate_limit_shared_total" ["shared", "result"]
        "Calls of a `rate_limit` that is `shared`, by what the server that counts for all sidecars did: answered, \
         late, failed, gone (it was not asked).";
    /// The wait for the server.
    RATE_LIMIT_SHARED_WAIT = Histogram "pillion_rate_limit_shared_wait_seconds" ["shared"]
        "How long calls waited for the server that counts for all sidecars.";
    /// Questions to a rate-limit service.
    RATE_SERVICE = Counter "pillion_rate_limit_service_total" ["result"]
        "Calls with a `descriptor`, by what the rate-limit service did: answered, late, failed, gone (it was not asked).";
    /// The wait for it.
    RATE_SERVICE_WAIT = Histogram "pillion_rate_limit_service_wait_seconds" []
        "How long calls waited for the rate-limit service.";
    /// Bytes of opaque streams.
    TCP_BYTES = Counter "pillion_tcp_bytes_total" ["upstream", "direction"]
        "Bytes of tunnels, upgraded connections and opaque streams, to (sent) and from (received) the upstream.";
    /// Tunnels open.
    TUNNELS_OPEN = Gauge "pillion_tunnels_open" ["direction"]
        "Upgraded connections, opaque CONNECT tunnels and opaque streams that are open now.";
    /// Upstream connections made.
    UPSTREAM_CONNECTS = Counter "pillion_upstream_connects_total" ["upstream", "result"]
        "Connections to endpoints, by how they ended: ok, refused, timeout, failed.";
    /// Upstream connections open.
    UPSTREAM_OPEN = Gauge "pillion_upstream_connections_open" ["upstream"]
        "Connections to an upstream that are open now, used and idle.";
    /// Callers that wait for an upstream connection.
    UPSTREAM_WAITING = Gauge "pillion_upstream_connections_waiting" ["upstream"]
        "Callers that wait for a connection that `connections.max` does not allow yet.";
    /// Callers that were refused an upstream connection.
    UPSTREAM_REFUSED = Counter "pillion_upstream_connections_refused_total" ["upstream", "why"]
        "Callers that got no connection because of `connections`: pending (too many wait), wait (it took too long).";
    /// Endpoints known.
    ENDPOINTS = Gauge "pillion_endpoints" ["upstream", "source"]
        "Endpoints that discovery holds for an upstream, by the source that told them.";
    /// Endpoints that take calls.
    ENDPOINTS_IN_USE = Gauge "pillion_endpoints_in_use" ["upstream"]
        "Endpoints of an upstream that take calls: neither ejected nor without an answer to their health check.";
    /// Ejections.
    EJECTIONS = Counter "pillion_ejections_total" ["upstream", "cause"]
        "Endpoints that were ejected, by what they did: consecutive_failures, gateway_errors, success_rate.";
    /// Ejections that were not allowed.
    EJECTIONS_DENIED = Counter "pillion_ejections_denied_total" ["upstream", "cause"]
        "Endpoints that failed and were kept, because as many were ejected as may be or they were the last; \
         once for as long as one goes on failing.";
    /// Alarm: all endpoints are used, whatever their health.
    PANIC = Gauge "pillion_panic" ["upstream"]
        "1 while so few endpoints can be used that all are used, whatever their health.";
    /// Discovery's questions.
    DISCOVERY_UPDATES = Counter "pillion_discovery_updates_total" ["source", "result"]
        "Answers of a source of discovery: changed, same, empty, unknown, failed.";
    /// The age of what is in use.
    DISCOVERY_AGE = Gauge "pillion_discovery_age_seconds" ["upstream", "source"]
        "Time since the source of an upstream's endpoints named them for the last time, looked at every 5 s.";
    /// What is used although its source says otherwise.
    DISCOVERY_KEPT = Gauge "pillion_discovery_kept_upstreams" ["source", "why"]
        "Upstreams whose endpoints are used although their source does not name them now: failed, empty, unknown.";
    /// Registration of the service.
    REGISTERED = Gauge "pillion_registered" ["source"]
        "1 while the service is entered in this source of discovery.";
    /// Health of the service.
    SERVICE_HEALTHY = Gauge "pillion_service_healthy" []
        "1 while the service answers its `service.health`; others find it only then.";
    /// Reloads.
    CONFIG_RELOADS = Counter "pillion_config_reloads_total" ["result"]
        "Times that the configuration was read anew: applied, unchanged, rejected.";
    /// Alarm: the file on disk is bad.
    CONFIG_REJECTED = Gauge "pillion_config_rejected" []
        "1 while the files on disk are refused and the earlier configuration stays in force.";
    /// Version of the configuration in force.
    CONFIG_VERSION = Gauge "pillion_config_version" []
        "Number of the configuration in force, from 1.";
    /// Build.
    BUILD_INFO = Gauge "pillion_build_info" ["version"]
        "Always 1; the label carries the version.";
    /// Readiness.
    READY = Gauge "pillion_ready" []
        "1 while /readyz answers 200.";
    /// Resident memory.
    RESIDENT_BYTES = Gauge "process_resident_memory_bytes" []
        "Resident memory of the sidecar in bytes.";
    /// CPU time.
    CPU_SECONDS = Gauge "process_cpu_seconds_total" []
        "Processor time that the sidecar has used, user and system, in seconds.";
    /// File descriptors.
    OPEN_FDS = Gauge "process_open_fds" []
        "File descriptors that are open now.";
}
