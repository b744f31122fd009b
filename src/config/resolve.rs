//! From what the files say to the checked model. Every value that is missing
//! gets its default here, and what no single value shows is checked: ports
//! that collide, routes that tie, names that nothing can find.

mod breaker;
mod concurrency;
mod consul;
mod discovery;
mod fitness;
mod hedge;
mod mirror;
mod ports;
mod rate;
mod register;
mod retry;
mod routes;
mod shaping;
mod test;
mod whole;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use self::ports::Port;
use super::expand::Environment;
use super::form;
use super::model::{
    Allow, Authentication, Dns, Drain, Egress, Health, HealthQuestion, Json, Limits, Listen, Local, Locality,
    Model, Propagator, RoutePolicy, Service, Source, Telemetry, Tls,
};
use super::problem::{Problem, Problems};
use super::text::Size;
use super::tree::{File, Kind, Node, Span};
use crate::base::{Origin, Protocol, UpstreamName};

/// A value of a file: what a problem is reported at.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    file: &'a File,
    node: &'a Node,
    span: Span,
}

/// One file with routes.
pub(super) struct Routes {
    /// The file.
    pub file: File,
    /// Its tree.
    pub root: Node,
    /// Its entries.
    pub inbound: Vec<form::Inbound>,
    /// Its entries.
    pub outbound: Vec<form::Outbound>,
    /// Its listeners for callers from outside.
    pub gateway: Vec<form::Gateway>,
    /// Its tests.
    pub tests: Vec<form::Test>,
    /// What `json` of these entries says, by their number.
    pub inbound_json: BTreeMap<usize, Arc<Json>>,
    /// The same.
    pub outbound_json: BTreeMap<usize, Arc<Json>>,
    /// What `allow` of these entries says, by their number.
    pub inbound_allow: BTreeMap<usize, Arc<Allow>>,
    /// What `tls` of these listeners says, by their number.
    pub gateway_tls: BTreeMap<usize, Tls>,
    /// As of entries, by the numbers of the listener and of its entry.
    pub gateway_json: BTreeMap<(usize, usize), Arc<Json>>,
    /// The same.
    pub gateway_allow: BTreeMap<(usize, usize), Arc<Allow>>,
}

impl<'a> At<'a> {
    pub(super) fn root(file: &'a File, node: &'a Node) -> Self {
        Self { file, node, span: node.span }
    }

    /// The file that it stands in.
    pub(super) fn file_name(self) -> &'a str {
        &self.file.name
    }

    /// The value of `key`; where it is missing, this value.
    pub(super) fn key(self, key: &str) -> Self {
        match self.node.get(key) {
            Some(node) => Self { file: self.file, node, span: node.span },
            None => self,
        }
    }

    /// The key itself.
    pub(super) fn word(self, key: &str) -> Self {
        match self.node.entry(key) {
            Some(entry) => Self { file: self.file, node: &entry.value, span: entry.span },
            None => self,
        }
    }

    pub(super) fn item(self, index: usize) -> Self {
        match self.node.item(index) {
            Some(node) => Self { file: self.file, node, span: node.span },
            None => self,
        }
    }

    pub(super) fn origin(self) -> Origin {
        self.file.origin(self.span)
    }

    pub(super) fn problem(self, message: impl Into<String>) -> Problem {
        self.file.problem(self.span, message)
    }

    /// Whether `key` was written and found wrong.
    pub(super) fn lost(self, key: &str) -> bool {
        self.node.lost(key)
    }

    /// How a message shows the value: never the outcome of an expansion.
    pub(super) fn shown(self) -> &'a str {
        match &self.node.kind {
            Kind::Scalar(scalar) => scalar.shown(),
            _ => "",
        }
    }

    /// Whether the value is as the file has it.
    fn literal(self) -> bool {
        matches!(&self.node.kind, Kind::Scalar(scalar) if scalar.written.is_none())
    }
}

/// Makes the model of the main file and all files with routes.
pub(super) fn resolve(
    main: &form::Main,
    at: At<'_>,
    routes: &[Routes],
    environment: &Environment,
    problems: &mut Problems,
) -> Model {
    let mut model = model(UpstreamName::new(""), None, environment);
    let mut ports = Vec::new();
    if let Some(service) = &main.service {
        model.service = self::service(service, at.key("service"), &mut ports, problems);
    }
    if let Some(listen) = &main.listen {
        self::listen(listen, &mut model.listen);
    }
    ports::of_listeners(&model.listen, at.key("listen"), &mut ports);
    model.workers = main.workers.unwrap_or(model.workers);
    if let Some(limits) = &main.limits {
        self::limits(limits, at.key("limits"), &mut model.limits, problems);
    }
    if let Some(drain) = &main.drain {
        set(&mut model.drain.delay, drain.delay.as_ref().map(|d| d.0));
        set(&mut model.drain.deadline, drain.deadline.as_ref().map(|d| d.0));
    }
    if let Some(sources) = &main.discovery {
        model.discovery =
            discovery::discovery(sources, at.key("discovery"), environment, &model.service, problems);
    }
    if let Some(form::Egress::RegisteredOnly) = main.egress {
        model.egress = Egress::RegisteredOnly;
    }
    if let Some(propagate) = main.telemetry.as_ref().and_then(|telemetry| telemetry.propagate.as_ref()) {
        model.telemetry.propagate = self::propagate(propagate);
    }
    model.rate_server = main.rate_limits.as_ref().and_then(|form| rate::server(form, at, problems));
    model.rate_service = main.rate_limits.as_ref().and_then(|form| rate::service(form, at, problems));
    let known = routes::Known::of(&model.discovery, at.node.lost("discovery"));
    routes::resolve(routes, &known, &mut model, &mut ports, problems);
    // A policy file by itself does not say what stands in pillion.yaml.
    if main.service.is_some() && !at.lost("rate_limits") {
        rate::needs_server(routes, &model, problems);
    }
    test::tests(routes, &mut model, problems);
    ports::collisions(&ports, problems);
    model
}

/// A model of defaults.
pub(super) fn model(name: UpstreamName, address: Option<SocketAddr>, environment: &Environment) -> Model {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let own = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Model {
        service: Service {
            name,
            address,
            protocol: Protocol::Auto,
            proxy_protocol: None,
            health: None,
            tags: Vec::new(),
            locality: Locality::default(),
            environment: None,
        },
        listen: Listen {
            inbound: SocketAddr::new(any, 8702),
            outbound: SocketAddr::new(own, 8701),
            admin: SocketAddr::new(own, 8700),
            probes: SocketAddr::new(any, 8790),
            proxy_protocol: Vec::new(),
        },
        workers: std::thread::available_parallelism().map_or(1, |n| n.get().min(256)),
        limits: Limits::default(),
        drain: Drain::default(),
        discovery: vec![
            Source::Local(Local { directory: discovery::local_directory(environment), register: true }),
            Source::Dns(Dns::default()),
        ],
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

fn service(form: &form::Service, at: At<'_>, ports: &mut Vec<Port>, problems: &mut Problems) -> Service {
    let address = match (&form.address, form.port) {
        (Some(_), Some(_)) => {
            problems.push(at.word("address").problem("`port` and `address` say the same: keep one of them"));
            None
        }
        (Some(address), None) => Some((address.0, "address")),
        (None, Some(port)) => Some((SocketAddr::from((Ipv4Addr::LOCALHOST, port)), "port")),
        (None, None) => None,
    };
    if let Some((address, key)) = address {
        if address.port() == 0 {
            problems.push(at.key("address").problem("the service's own port can't be 0"));
        }
        let what = format!("the service's `{key}`");
        ports.push(Port::new(address, what, Some(at.key(key))));
    }
    let health = form.health.as_ref().and_then(|health| self::health(health, at.key("health"), problems));
    let nowhere = address.is_none() && !at.node.lost("port") && !at.node.lost("address");
    for (key, written) in [("health", health.is_some()), ("proxy_protocol", form.proxy_protocol.is_some())] {
        if written && nowhere {
            problems.push(at.word(key).problem(format!("`{key}` needs the `port` of the service")));
        }
    }
    let text = |word: &Option<super::text::Word>| word.as_ref().map(|word| Arc::from(word.0.as_str()));
    Service {
        name: form.name.as_ref().map_or_else(|| UpstreamName::new(""), |name| name.0.clone()),
        address: address.map(|(address, _)| address),
        protocol: protocol(form.protocol),
        proxy_protocol: form.proxy_protocol.map(Into::into),
        health,
        tags: form.tags.iter().flatten().map(|tag| Arc::from(tag.0.as_str())).collect(),
        locality: form.locality.as_ref().map_or_else(Locality::default, |locality| Locality {
            region: text(&locality.region),
            zone: text(&locality.zone),
        }),
        environment: text(&form.environment),
    }
}

fn health(form: &form::Health, at: At<'_>, problems: &mut Problems) -> Option<Health> {
    let question = match (&form.path, &form.grpc) {
        (Some(_), Some(_)) => {
            problems.push(at.word("grpc").problem("`path` and `grpc` ask the same: keep one of them"));
            return None;
        }
        (Some(path), None) => HealthQuestion::Path(path.0.as_str().into()),
        (None, Some(service)) => HealthQuestion::Grpc(service.0.as_str().into()),
        (None, None) => {
            if !at.lost("path") && !at.lost("grpc") {
                problems.push(at.problem("the key `path` or `grpc` is missing"));
            }
            return None;
        }
    };
    let health = Health {
        question,
        interval: form.interval.as_ref().map_or(Duration::from_secs(10), |d| d.0),
        timeout: form.timeout.as_ref().map_or(Duration::from_secs(3), |d| d.0),
    };
    if health.timeout > health.interval {
        let problem = at.key("timeout").problem("`timeout` is longer than `interval`");
        problems.push(problem.help("the next question waits for the end of the one before").warn());
    }
    Some(health)
}

fn protocol(form: Option<form::Protocol>) -> Protocol {
    form.map_or(Protocol::Auto, Into::into)
}

fn listen(form: &form::Listen, listen: &mut Listen) {
    set(&mut listen.inbound, form.inbound.as_ref().map(|bind| bind.0));
    set(&mut listen.outbound, form.outbound.as_ref().map(|bind| bind.0));
    set(&mut listen.admin, form.admin.as_ref().map(|bind| bind.0));
    set(&mut listen.probes, form.probes.as_ref().map(|bind| bind.0));
    listen.proxy_protocol.extend(form.proxy_protocol.iter().flatten().map(|network| network.0));
}

fn limits(form: &form::Limits, at: At<'_>, limits: &mut Limits, problems: &mut Problems) {
    let mut size = |to: &mut usize, form: &Option<Size>, key: &str, least: u64| {
        let Some(Size(bytes)) = form else { return };
        if (least..=1 << 20).contains(bytes) {
            *to = usize::try_from(*bytes).unwrap_or(*to);
        } else {
            let least = if least < 1024 { format!("{least}B") } else { format!("{}KiB", least / 1024) };
            let at = at.key(key);
            problems.push(
                at.problem(format!("`{}` is out of range: it must be from {least} to 1MiB", at.shown())),
            );
        }
    };
    size(&mut limits.header_bytes, &form.header_bytes, "header_bytes", 1024);
    size(&mut limits.target, &form.target, "target", 64);
    set(&mut limits.header_fields, form.header_fields);
    set(&mut limits.header_timeout, form.header_timeout.as_ref().map(|d| d.0));
    set(&mut limits.body_idle, form.body_idle.as_ref().map(|d| d.0));
    set(&mut limits.stream_idle, form.stream_idle.as_ref().map(|d| d.0));
    set(&mut limits.connection_idle, form.connection_idle.as_ref().map(|d| d.0));
    set(&mut limits.connection_age, form.connection_age.as_ref().map(|d| d.0));
    set(&mut limits.connections, form.connections);
    set(&mut limits.streams, form.streams);
    set(&mut limits.resets, form.resets);
    set(&mut limits.control_frames, form.control_frames);
    if limits.target > limits.header_bytes {
        let written = if form.target.is_some() { "target" } else { "header_bytes" };
        problems.push(at.key(written).problem("`target` is larger than `header_bytes`, which holds it"));
    }
}

fn propagate(forms: &[form::Propagator]) -> Vec<Propagator> {
    let mut list = Vec::new();
    for form in forms {
        let word = match form {
            form::Propagator::TraceContext => Propagator::TraceContext,
            form::Propagator::Baggage => Propagator::Baggage,
        };
        if !list.contains(&word) {
            list.push(word);
        }
    }
    list
}

fn set<T>(to: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *to = value;
    }
}
