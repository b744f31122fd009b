//! /config_dump: the model in force, each value with the place it was written.
//!
//! Values are named one by one: what is not named here is not shown, so that a
//! secret that the model comes to hold does not leak by itself.

mod breaker;
mod concurrency;
mod gateway;
mod policy;
mod shaping;

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};

pub use self::gateway::gateway_policy;
pub use self::policy::policy;
use super::AdminState;
use crate::base::{Origin, ProxyProtocol, UpstreamName};
use crate::config::Model;
use crate::config::model::{
    Check, Consul, ConsulToken, Fitness, HealthQuestion, Propagator, Question, Reach, Register, Route,
    Source, StaticEndpoint, ValueMatch, WhenEmpty,
};

pub(super) async fn config_dump(State(state): State<AdminState>) -> impl IntoResponse {
    super::json(&dump(&(state.model)()))
}

/// Values under the keys of the files, `{"value": …, "origin": …}` each.
struct Values<'a> {
    sources: &'a BTreeMap<String, Origin>,
    /// Put before each key when its origin is looked up: the first under which
    /// it was written counts.
    prefixes: Vec<String>,
    shown: Map<String, Value>,
}

impl<'a> Values<'a> {
    fn new(model: &'a Model, prefix: &str) -> Self {
        Self::within(model, &[prefix])
    }

    fn within(model: &'a Model, prefixes: &[&str]) -> Self {
        let prefixes = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
        Self { sources: &model.sources, prefixes, shown: Map::new() }
    }

    fn put(&mut self, key: &str, value: impl Into<Value>) {
        let mut places = self.prefixes.iter().map(|prefix| origin(self.sources, &format!("{prefix}{key}")));
        let origin = places.find_map(|place| place).unwrap_or_else(|| "default".to_owned());
        self.shown.insert(key.to_owned(), json!({ "value": value.into(), "origin": origin }));
    }
}

/// The place of `path`, or of the nearest value that holds it: an entry of a
/// list may have been written as one word.
fn origin(sources: &BTreeMap<String, Origin>, path: &str) -> Option<String> {
    let within = sources.range(path.to_owned()..).next().filter(|(key, _)| {
        key.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    });
    within.map(|(_, origin)| origin.to_string())
}

pub(super) fn dump(model: &Model) -> Value {
    let mut values = Values::new(model, "");
    general(&mut values, model);
    limits(&mut values, model);
    let discovery: Vec<Value> =
        model.discovery.iter().enumerate().map(|(index, one)| source(model, index, one)).collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "service": model.service.name.as_str(),
        "values": values.shown,
        "discovery": discovery,
        "defaults": policy(model, &["defaults."], &model.defaults),
        "upstreams": upstreams(model),
        "inbound_defaults": inbound_policy(model),
        "inbound": routes(model, &model.inbound),
        "outbound": routes(model, &model.outbound),
        "gateways": gateway::gateways(model),
    })
}

fn general(values: &mut Values<'_>, model: &Model) {
    let service = &model.service;
    values.put("service.name", service.name.as_str());
    values.put("service.port", service.address.map(|address| address.port()));
    values.put("service.host", service.address.map(|address| address.ip().to_string()));
    values.put("service.protocol", service.protocol.as_str());
    values.put("service.proxy_protocol", service.proxy_protocol.map(ProxyProtocol::as_str));
    let (path, grpc) = match service.health.as_ref().map(|health| &health.question) {
        Some(HealthQuestion::Path(path)) => (Some(path.to_string()), None),
        Some(HealthQuestion::Grpc(name)) => (None, Some(name.to_string())),
        None => (None, None),
    };
    values.put("service.health.path", path);
    values.put("service.health.grpc", grpc);
    values.put("service.health.interval", service.health.as_ref().map(|health| text(health.interval)));
    values.put("service.health.timeout", service.health.as_ref().map(|health| text(health.timeout)));
    values.put("service.tags", service.tags.iter().map(|tag| tag.to_string()).collect::<Vec<_>>());
    values.put("service.locality.region", service.locality.region.as_deref());
    values.put("service.locality.zone", service.locality.zone.as_deref());
    values.put("service.environment", service.environment.as_deref());
    values.put("listen.inbound", model.listen.inbound.to_string());
    values.put("listen.outbound", model.listen.outbound.to_string());
    values.put("listen.admin", model.listen.admin.to_string());
    values.put("listen.probes", model.listen.probes.to_string());
    let told = model.listen.proxy_protocol.iter().map(ToString::to_string);
    values.put("listen.proxy_protocol", told.collect::<Vec<_>>());
    values.put("workers", model.workers);
    values.put("drain.delay", text(model.drain.delay));
    values.put("drain.deadline", text(model.drain.deadline));
    values.put("egress", model.egress.as_str());
    let propagate = model.telemetry.propagate.iter().map(|propagator| match propagator {
        Propagator::TraceContext => "tracecontext",
        Propagator::Baggage => "baggage",
    });
    values.put("telemetry.propagate", propagate.collect::<Vec<_>>());
}

fn limits(values: &mut Values<'_>, model: &Model) {
    let limits = &model.limits;
    values.put("limits.header_bytes", limits.header_bytes);
    values.put("limits.header_fields", limits.header_fields);
    values.put("limits.target", limits.target);
    values.put("limits.header_timeout", text(limits.header_timeout));
    values.put("limits.body_idle", text(limits.body_idle));
    values.put("limits.stream_idle", text(limits.stream_idle));
    values.put("limits.connection_idle", text(limits.connection_idle));
    values.put("limits.connection_age", text(limits.connection_age));
    values.put("limits.connections", limits.connections);
    values.put("limits.streams", limits.streams);
    values.put("limits.resets", limits.resets);
    values.put("limits.control_frames", limits.control_frames);
}

fn source(model: &Model, index: usize, source: &Source) -> Value {
    let kind = match source {
        Source::Local(_) => "local",
        Source::Static(_) => "static",
        Source::Consul(_) => "consul",
        Source::Kubernetes(_) => "kubernetes",
        Source::Dns(_) => "dns",
    };
    let mut values = Values::new(model, &format!("discovery[{index}].{kind}."));
    match source {
        Source::Local(local) => {
            values.put("directory", local.directory.display().to_string());
            values.put("register", local.register);
        }
        Source::Static(upstreams) => {
            for (name, endpoints) in upstreams {
                values.put(name.as_str(), endpoints.iter().map(static_endpoint).collect::<Vec<_>>());
            }
        }
        Source::Consul(consul) => self::consul(&mut values, consul),
        Source::Kubernetes(kubernetes) => {
            let path = kubernetes.kubeconfig.as_ref().map(|path| path.display().to_string());
            values.put("kubeconfig", path);
            values.put("context", kubernetes.context.as_deref());
            values.put("namespace", kubernetes.namespace.as_deref());
            values.put("cluster_domain", &*kubernetes.cluster_domain);
            put_when_empty(&mut values, kubernetes.when_empty);
        }
        Source::Dns(dns) => {
            values.put("servers", dns.servers.iter().map(ToString::to_string).collect::<Vec<_>>());
            values.put("min_ttl", text(dns.min_ttl));
            values.put("max_ttl", text(dns.max_ttl));
            values.put("timeout", text(dns.timeout));
            values.put("default_port", dns.default_port);
            put_when_empty(&mut values, dns.when_empty);
        }
    }
    json!({ "kind": kind, "values": values.shown })
}

fn put_when_empty(values: &mut Values<'_>, when_empty: WhenEmpty) {
    match when_empty {
        WhenEmpty::Fail => values.put("when_empty", "fail"),
        WhenEmpty::Keep(time) => {
            values.put("when_empty", "keep");
            values.put("keep_for", text(time));
        }
    }
}

/// How the service is entered.
fn register(values: &mut Values<'_>, register: Option<&Register>) {
    let Some(register) = register else { return values.put("register", false) };
    let reach = |reach: &Reach| match reach.port {
        Some(port) => format!("{} port {port}", reach.host),
        None => reach.host.to_string(),
    };
    values.put("register.address", register.address.as_ref().map(reach));
    let (check, ttl) = match register.check {
        Check::Ttl(ttl) => ("ttl", Some(text(ttl))),
        Check::Http => ("http", None),
        Check::Grpc => ("grpc", None),
    };
    values.put("register.check", check);
    values.put("register.ttl", ttl);
    values.put("register.deregister_after", text(register.deregister_after));
    values.put("register.weight", register.weight);
    let metadata = register.metadata.iter().map(|(k, v)| (k.to_string(), json!(**v)));
    values.put("register.metadata", metadata.collect::<Map<_, _>>());
}

/// All but the token.
fn consul(values: &mut Values<'_>, consul: &Consul) {
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    values.put("address", &*consul.address);
    values.put("token", matches!(consul.token, ConsulToken::Text(_)).then_some("(not shown)"));
    if let ConsulToken::File(file) = &consul.token {
        values.put("token_file", file.display().to_string());
    }
    values.put("tls.ca_file", path(&consul.tls.ca_file));
    values.put("tls.cert_file", path(&consul.tls.cert_file));
    values.put("tls.key_file", path(&consul.tls.key_file));
    values.put("tls.server_name", consul.tls.server_name.as_deref());
    values.put("datacenter", consul.datacenter.as_deref());
    values.put("namespace", consul.namespace.as_deref());
    let instances = &consul.instances;
    values.put("tags", instances.tags.iter().map(|tag| &**tag).collect::<Vec<_>>());
    values.put(
        "metadata",
        instances.metadata.iter().map(|(k, v)| (k.to_string(), json!(**v))).collect::<Map<_, _>>(),
    );
    values.put("filter", instances.filter.as_deref());
    values.put("near", instances.near.as_deref());
    values.put("limit", instances.limit);
    values.put("only_passing", instances.only_passing);
    register(values, consul.register.as_ref());
    values.put(
        "queries",
        consul.queries.iter().map(|(k, v)| (k.to_string(), json!(**v))).collect::<Map<_, _>>(),
    );
    values.put("query_interval", text(consul.query_interval));
    values.put("consistency", consul.consistency.as_str());
    values.put("wait", text(consul.wait));
    values.put("keep_lost", text(consul.keep_lost));
    values.put("connections", consul.connections);
    put_when_empty(values, consul.when_empty);
}

fn static_endpoint(endpoint: &StaticEndpoint) -> Value {
    let address = format!("{}:{}", endpoint.host, endpoint.port);
    json!({ "address": address, "weight": endpoint.weight,
        "region": endpoint.locality.region.as_deref(), "zone": endpoint.locality.zone.as_deref() })
}

fn upstreams(model: &Model) -> Value {
    let one = |(name, upstream): (&UpstreamName, &crate::config::model::Upstream)| {
        let prefix = upstream.origin.as_ref().map_or(String::new(), |origin| entry_prefix(model, origin));
        let mut values = Values::new(model, &prefix);
        values.put("protocol", upstream.protocol.as_str());
        values.put("proxy_protocol", upstream.proxy_protocol.map(ProxyProtocol::as_str));
        values.put("listen", upstream.listen.map(|listen| listen.to_string()));
        values.put("sni", upstream.sni.iter().map(|name| name.to_string()).collect::<Vec<_>>());
        let connections = upstream.connections.as_ref();
        values.put("connections.max", connections.map(|connections| connections.max));
        values.put("connections.pending", connections.map(|connections| connections.pending));
        values.put("connections.wait", connections.map(|connections| text(connections.wait)));
        fitness(&mut values, &upstream.fitness);
        let mut shown = values.shown;
        shown.append(&mut outbound_policy(model, name));
        (
            name.to_string(),
            json!({ "origin": upstream.origin.as_ref().map(ToString::to_string), "values": shown }),
        )
    };
    Value::Object(model.upstreams.iter().map(one).collect())
}

fn fitness(values: &mut Values<'_>, fitness: &Fitness) {
    let check = fitness.check.as_ref();
    let question = |wanted: &str| {
        check.and_then(|check| match (&check.question, wanted) {
            (Question::Path(path), "path") => Some(path.to_string()),
            (Question::Grpc(service), "grpc") => Some(service.to_string()),
            _ => None,
        })
    };
    values.put("health_check.path", question("path"));
    values.put("health_check.grpc", question("grpc"));
    values.put("health_check.tcp", check.map(|check| check.question == Question::Tcp));
    values.put("health_check.interval", check.map(|check| text(check.interval)));
    values.put("health_check.timeout", check.map(|check| text(check.timeout)));
    values.put("health_check.healthy", check.map(|check| check.healthy));
    values.put("health_check.unhealthy", check.map(|check| check.unhealthy));
    values.put("health_check.port", check.and_then(|check| check.port));
    let ejection = fitness.ejection.as_ref();
    values.put("ejection.enabled", ejection.is_some());
    values.put("ejection.consecutive_failures", ejection.map(|rules| rules.consecutive_failures));
    values.put("ejection.gateway_errors", ejection.map(|rules| rules.gateway_errors));
    values.put(
        "ejection.time",
        ejection.map(|rules| format!("{}..{}", text(rules.time.0), text(rules.time.1))),
    );
    values.put("ejection.max_percent", ejection.map(|rules| share(rules.max_percent)));
    let rate = ejection.and_then(|rules| rules.success_rate.as_ref());
    values.put("ejection.success_rate.enabled", rate.is_some());
    values.put("ejection.success_rate.interval", rate.map(|rate| text(rate.interval)));
    values.put("ejection.success_rate.requests", rate.map(|rate| rate.requests));
    values.put("ejection.success_rate.endpoints", rate.map(|rate| rate.endpoints));
    values.put(
        "ejection.success_rate.stdev_factor",
        rate.map(|rate| format!("{:.0}", rate.stdev_factor * 1000.0)),
    );
    values.put("slow_start", fitness.slow_start.map(text));
    values.put("locality", if fitness.prefer_near { "prefer" } else { "any" });
    values.put("panic", share(fitness.panic));
}

fn share(share: f64) -> String {
    format!("{}%", (share * 1e4).round() / 100.0)
}

fn routes(model: &Model, routes: &[Route]) -> Value {
    routes_by(routes, |route| route_policy(model, route))
}

/// Routes, with what `policy` says of each.
fn routes_by(routes: &[Route], policy: impl Fn(&Route) -> Map<String, Value>) -> Value {
    let one = |route: &Route| {
        json!({
            "to": route.to.as_ref().map(|name| name.as_str()),
            "route": route.pattern.to_string(),
            "http_route": route.pattern.template.as_ref(),
            "host": route.pattern.host.as_deref(),
            "headers": route.pattern.headers.iter()
                .map(|(name, value)| json!({ "name": name.as_str(), "value": condition(value) }))
                .collect::<Vec<_>>(),
            "query": route.pattern.query.iter()
                .map(|(name, value)| json!({ "name": name.as_ref(), "value": condition(value) }))
                .collect::<Vec<_>>(),
            "origin": route.origin.to_string(),
            "values": policy(route),
        })
    };
    routes.iter().map(one).collect()
}

/// The policy of a route: what it does not say itself may be written in the
/// entry without `route` of its upstream, or of `inbound`.
pub fn route_policy(model: &Model, route: &Route) -> Map<String, Value> {
    let shared = match &route.to {
        Some(to) => model
            .upstreams
            .get(to)
            .and_then(|upstream| upstream.origin.as_ref())
            .map(|origin| entry_prefix(model, origin)),
        None => inbound_prefix(model),
    };
    let own = entry_prefix(model, &route.origin);
    let prefixes = [Some(&own), shared.as_ref()];
    let prefixes: Vec<&str> = prefixes.into_iter().flatten().map(String::as_str).collect();
    policy(model, &prefixes, &route.policy)
}

/// What applies to calls to the service that no route takes.
pub fn inbound_policy(model: &Model) -> Map<String, Value> {
    policy(model, &[inbound_prefix(model).as_deref().unwrap_or(NOWHERE)], &model.inbound_defaults)
}

/// The same for calls of the service to `to`.
pub fn outbound_policy(model: &Model, to: &UpstreamName) -> Map<String, Value> {
    let block = model.upstreams.get(to);
    let origin = block.and_then(|block| block.origin.as_ref());
    let prefix = origin.map_or_else(|| NOWHERE.to_owned(), |origin| entry_prefix(model, origin));
    policy(model, &[&prefix], block.map_or(&model.defaults, |block| &block.policy))
}

/// The path of the entry of `inbound` without `route`, with a dot.
fn inbound_prefix(model: &Model) -> Option<String> {
    let entry = |path: &str| {
        let list = path.find("inbound[").filter(|at| path[..*at].is_empty() || path[..*at].ends_with('#'))?;
        Some(path[..=list + path[list..].find(']')?].to_owned())
    };
    let entries: std::collections::BTreeSet<_> =
        model.sources.keys().filter_map(|path| entry(path)).collect();
    let is_shared = |entry: &String| !model.sources.contains_key(&format!("{entry}.route"));
    entries.into_iter().find(is_shared).map(|entry| format!("{entry}."))
}

/// A prefix that no path has: everything below it was left to its default.
const NOWHERE: &str = "?.";

/// The path of the entry that stands at `origin`, with a dot: `p.yaml#outbound[2].`.
fn entry_prefix(model: &Model, origin: &Origin) -> String {
    let at = model.sources.iter().filter(|(_, place)| *place == origin);
    let entry =
        at.filter_map(|(path, _)| path.rfind(']').map(|end| &path[..=end])).min_by_key(|path| path.len());
    entry.map_or_else(|| NOWHERE.to_owned(), |entry| format!("{entry}."))
}

fn condition(value: &ValueMatch) -> Value {
    match value {
        ValueMatch::Exact(text) => text.as_ref().into(),
        ValueMatch::Prefix(text) => json!({ "prefix": text.as_ref() }),
        ValueMatch::Present(present) => json!({ "present": present }),
    }
}

/// A duration as a file writes it.
fn text(time: Duration) -> String {
    match (time.as_secs(), time.subsec_millis()) {
        (seconds, 0) => format!("{seconds}s"),
        _ => format!("{}ms", time.as_millis()),
    }
}
