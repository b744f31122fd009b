//! The checked model: what the rest of the program reads. Every value is
//! resolved, in range and in one unit; nothing here is optional unless its
//! absence means something.
//!
//! The file's own shape is in `form.rs`; the way from there to here is
//! `resolve.rs`. Where each value was written stands in [`Model::sources`].

mod authorize;
mod breaker;
mod concurrency;
mod consul;
mod failures;
mod fitness;
mod gateway;
mod hedge;
mod json;
mod mirror;
mod rate;
mod register;
mod retry;
pub mod shaping;
mod source;
mod test;
mod upstream;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::HeaderName;

pub use self::authorize::{
    Algorithm, Allow, Allowed, ApiKeys, Authentication, Issuer, KeySet, Keys, KeysUrl, TokenFrom, TokenRule,
    Who,
};
pub use self::breaker::{CircuitBreaker, Fallback, Mode, Rules, Scope, Style};
pub use self::concurrency::{Bounds, Ceiling, Concurrency, Occupancy, Priority};
pub use self::consul::{Consistency, Consul, ConsulInstances, ConsulTls, ConsulToken};
pub use self::failures::Failures;
pub use self::fitness::{Ejection, Fitness, HealthCheck, Question, SuccessRate};
pub use self::gateway::{Gateway, Tls};
pub use self::hedge::{After, Hedge, HedgeIf};
pub use self::json::{Binding, Json, MAX_MESSAGE, Part, RequestBody, Template, Variable};
pub use self::mirror::{Compare, Mirror};
pub use self::rate::{
    Asked, Entry as RateEntry, KEYS, OnError, Part as RatePart, Per, Place, Quota, Rate, RateHeaders,
    RateLimit, RateServer, RateService, Shared,
};
pub use self::register::{Check, Reach, Register};
pub use self::retry::{MAX_BUFFER, OnlyIf, Retry, RetryOn};
pub use self::source::{Dns, KEEP_FOR, Kubernetes, Local, Source, StaticEndpoint, WhenEmpty};
pub use self::test::{Answer, Expect, Outcome, Status, Step, Test};
pub use self::upstream::{Connections, Upstream};
pub use crate::base::Limits;
use crate::base::{Network, Origin, Protocol, ProxyProtocol, UpstreamName};

/// One immutable version of the whole configuration.
#[derive(Clone, Debug)]
pub struct Model {
    /// The fronted service.
    pub service: Service,
    /// The addresses to bind.
    pub listen: Listen,
    /// Number of workers; at least 1.
    pub workers: usize,
    /// What one caller or upstream may take.
    pub limits: Limits,
    /// The pace of a shutdown.
    pub drain: Drain,
    /// Sources in the order in which they are asked.
    pub discovery: Vec<Source>,
    /// What the service may call.
    pub egress: Egress,
    /// Metrics, traces, logs.
    pub telemetry: Telemetry,
    /// What counts for all sidecars; `None` where each counts for itself.
    pub rate_server: Option<RateServer>,
    /// How callers prove who they are.
    pub authentication: Authentication,
    /// The server that decides by rules of its own.
    pub rate_service: Option<RateService>,
    /// The upstreams that a policy names.
    pub upstreams: BTreeMap<UpstreamName, Upstream>,
    /// Routes of calls to the service, in the order of the files.
    pub inbound: Vec<Route>,
    /// Routes of calls that the service makes, in the order of the files.
    pub outbound: Vec<Route>,
    /// Listeners for callers from outside.
    pub gateways: Vec<Gateway>,
    /// What `pillion test` tries, in the order of the files.
    pub tests: Vec<Test>,
    /// What applies to calls to the service that no route takes.
    pub inbound_defaults: RoutePolicy,
    /// What applies to calls of the service to an upstream that no policy names.
    pub defaults: RoutePolicy,
    /// Where each value was written, by path (`service.port`,
    /// `policies/orders.yaml#outbound[2].timeout`); a path that is missing was
    /// left to its default.
    pub sources: Arc<BTreeMap<String, Origin>>,
}

/// The service that the sidecar fronts.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name; what others write in `to:`.
    pub name: UpstreamName,
    /// Where it listens. Its host is 127.0.0.1 unless the file says otherwise.
    /// `None` for a service that only calls.
    pub address: Option<SocketAddr>,
    /// What it speaks; default auto.
    pub protocol: Protocol,
    /// How it is told of its caller; default not at all.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How its health is asked; `None` means that an accepted connection is health.
    pub health: Option<Health>,
    /// Free words for discovery.
    pub tags: Vec<Arc<str>>,
    /// Where it runs, as far as the file tells.
    pub locality: Locality,
    /// Which of several like it this is, such as `dev`.
    pub environment: Option<Arc<str>>,
}

/// `service.health`.
#[derive(Clone, Debug)]
pub struct Health {
    /// What is asked.
    pub question: HealthQuestion,
    /// Default 10 s.
    pub interval: Duration,
    /// Default 3 s.
    pub timeout: Duration,
}

/// `service.health.path` or `service.health.grpc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthQuestion {
    /// A GET of this path, which answers 2xx.
    Path(Arc<str>),
    /// `grpc.health.v1.Health/Check` for this service; empty for the server as a
    /// whole.
    Grpc(Arc<str>),
}

/// `service.locality`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locality {
    /// Such as `eu`.
    pub region: Option<Arc<str>>,
    /// Such as `eu-1a`.
    pub zone: Option<Arc<str>>,
}

/// `listen`. Port 0 binds a free port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Default 0.0.0.0:8702.
    pub inbound: SocketAddr,
    /// Default 127.0.0.1:8701.
    pub outbound: SocketAddr,
    /// Default 127.0.0.1:8700.
    pub admin: SocketAddr,
    /// Default 0.0.0.0:8790.
    pub probes: SocketAddr,
    /// Callers whose connections to `inbound` begin with a header of the PROXY
    /// protocol; default none.
    pub proxy_protocol: Vec<Network>,
}

/// `drain`.
#[derive(Clone, Debug, PartialEq)]
pub struct Drain {
    /// From failing readiness to closing the listeners; default 2 s.
    pub delay: Duration,
    /// From closing the listeners to ending what still runs; default 20 s.
    pub deadline: Duration,
}

/// `egress`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Egress {
    /// Everything; the default.
    #[default]
    Allow,
    /// What a policy names, and what a source of discovery other than DNS knows.
    RegisteredOnly,
}

/// `telemetry`.
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// The trace contexts that are written; all that are known are read.
    pub propagate: Vec<Propagator>,
}

/// One entry of `telemetry.propagate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagator {
    /// W3C `traceparent` and `tracestate`.
    TraceContext,
    /// W3C `baggage`.
    Baggage,
}

/// A match and its policy.
#[derive(Clone, Debug)]
pub struct Route {
    /// `None` for an inbound route, and one of a gateway that answers itself.
    pub to: Option<UpstreamName>,
    /// Which requests it takes.
    pub pattern: Pattern,
    /// What it does with them.
    pub policy: RoutePolicy,
    /// Where it stands.
    pub origin: Origin,
}

/// Which requests a route takes.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// Empty takes every method.
    pub methods: Vec<Method>,
    /// As written (`/v1/users/{id}`): the value of `http.route`.
    pub template: Arc<str>,
    /// The template, taken apart at each `/`.
    pub segments: Vec<Segment>,
    /// `host:`; for inbound and gateway routes. In lower case; a leading `*.`
    /// takes every name below.
    pub host: Option<Arc<str>>,
    /// `headers:`; all must match.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// `query:`; all must match.
    pub query: Vec<(Arc<str>, ValueMatch)>,
    /// Written as `grpc package.Service/Method`.
    pub grpc: bool,
}

/// One part of a path template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Equal bytes.
    Literal(Arc<str>),
    /// `{name}`: any one non-empty segment.
    Parameter(Arc<str>),
    /// `{name...}` or `**`: all that is left, also nothing; only at the end.
    Rest,
}

/// A condition on a header's or query parameter's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// `x-user: alice`.
    Exact(Arc<str>),
    /// `x-user: {prefix: al}`.
    Prefix(Arc<str>),
    /// `x-user: {present: true}`, or false.
    Present(bool),
}

/// What a route does besides forwarding.
#[derive(Clone, Debug, PartialEq)]
pub struct RoutePolicy {
    /// The whole call. As long as the file does not set it, only the wait for
    /// the head of the answer is bounded.
    pub timeout: Timeout,
    /// Nothing moves in either direction for this long; default 5 min.
    pub idle_timeout: Duration,
    /// The same for upgraded connections, CONNECT tunnels and opaque streams;
    /// default 1 h.
    pub tunnel_idle: Duration,
    /// Making one connection; default 1 s.
    pub connect_timeout: Duration,
    /// `None`: only what was surely not sent is sent again.
    pub retry: Option<Retry>,
    /// `None`: one attempt at a time.
    pub hedge: Option<Hedge>,
    /// Copies of its calls for another service; default none.
    pub mirror: Option<Arc<Mirror>>,
    /// Refuses calls of what fails; default none.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// What counts as a failure.
    pub failures: Failures,
    /// How an endpoint is picked.
    pub balance: Balance,
    /// Whether calls of gRPC-Web become gRPC calls; default false.
    pub grpc_web: bool,
    /// How calls with JSON become gRPC calls; `None`: they don't.
    pub json: Option<Arc<Json>>,
    /// Who may call; `None`: everyone.
    pub allow: Option<Arc<Allow>>,
    /// How many calls there may be; all must hold. Empty: any number.
    pub rate_limits: Vec<RateLimit>,
    /// How many calls there may be at one time: of the route, and of the entry
    /// without one; both must hold. Empty: any number.
    pub concurrency: Vec<Concurrency>,
    /// What is changed of its calls, or answered in place of the upstream;
    /// `None`: nothing.
    pub shaping: Option<Arc<shaping::Shaping>>,
}

impl RoutePolicy {
    /// Whether it refuses calls or changes them, which holds only for a caller
    /// whose calls can be told apart.
    pub fn holds(&self) -> bool {
        self.shaping.is_some()
            || self.rate_limits.iter().any(|limit| !limit.shadow)
            || self.allow.as_ref().is_some_and(|allow| allow.holds())
    }
}

/// `timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// Not set: the head of the answer must come within 30 s; the body may take
    /// as long as it moves.
    Head(Duration),
    /// Set: the answer must be complete by then, unless it is an event stream
    /// or an upgraded connection.
    Whole(Duration),
}

/// `balance`.
#[derive(Clone, Debug, PartialEq)]
pub enum Balance {
    /// The better of two by peak EWMA of latency; the default.
    Ewma,
    /// The one of two with fewer requests at hand.
    LeastRequest,
    /// By weight, in turn.
    RoundRobin,
    /// By consistent hash.
    Hash(HashOn),
}

/// What a consistent hash looks at.
#[derive(Clone, Debug, PartialEq)]
pub enum HashOn {
    /// A header's value.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(Arc<str>),
    /// The caller's address.
    Source,
}

impl Egress {
    /// The word that the file uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::RegisteredOnly => "registered_only",
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay: Duration::from_secs(2), deadline: Duration::from_secs(20) }
    }
}

impl Default for RoutePolicy {
    fn default() -> Self {
        Self {
            timeout: Timeout::Head(Duration::from_secs(30)),
            idle_timeout: Duration::from_secs(300),
            tunnel_idle: Duration::from_secs(3600),
            connect_timeout: Duration::from_secs(1),
            retry: None,
            hedge: None,
            mirror: None,
            circuit_breaker: None,
            failures: Failures::default(),
            balance: Balance::Ewma,
            grpc_web: false,
            json: None,
            allow: None,
            rate_limits: Vec::new(),
            concurrency: Vec::new(),
            shaping: None,
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { propagate: vec![Propagator::TraceContext, Propagator::Baggage] }
    }
}

impl ValueMatch {
    /// Whether `value`, or its absence, meets the condition.
    pub fn takes(&self, value: Option<&[u8]>) -> bool {
        match (self, value) {
            (Self::Exact(wanted), Some(value)) => wanted.as_bytes() == value,
            (Self::Prefix(wanted), Some(value)) => value.starts_with(wanted.as_bytes()),
            (Self::Present(wanted), value) => *wanted == value.is_some(),
            (_, None) => false,
        }
    }
}

/// For tests and library users who build a model without a file.
impl Model {
    /// The upstreams that entries and routes name.
    pub fn named(&self) -> BTreeSet<&UpstreamName> {
        let routes = self.outbound.iter().filter_map(|route| route.to.as_ref());
        self.upstreams.keys().chain(routes).collect()
    }

    /// A model of nothing but a service's name and defaults, on free ports of loopback.
    pub fn minimal(name: &str) -> Self {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            service: Service {
                name: UpstreamName::new(name),
                address: None,
                protocol: Protocol::Auto,
                proxy_protocol: None,
                health: None,
                tags: Vec::new(),
                locality: Locality::default(),
                environment: None,
            },
            listen: Listen {
                inbound: free,
                outbound: free,
                admin: free,
                probes: free,
                proxy_protocol: Vec::new(),
            },
            workers: 1,
            limits: Limits::default(),
            drain: Drain::default(),
            discovery: Vec::new(),
            egress: Egress::default(),
            telemetry: Telemetry::default(),
            rate_server: None,
            authentication: Authentication::default(),
            rate_service: None,
            upstreams: BTreeMap::new(),
            inbound: Vec::new(),
            outbound: Vec::new(),
            gateways: Vec::new(),
            tests: Vec::new(),
            inbound_defaults: RoutePolicy::default(),
            defaults: RoutePolicy::default(),
            sources: Arc::default(),
        }
    }
}
