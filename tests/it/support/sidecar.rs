//! A sidecar in this process, on free ports.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use pillion::app::{Addresses, App, Options};
use pillion::base::readiness::State;
use pillion::base::{Protocol, UpstreamName};
use pillion::config::Model;
use pillion::config::model::{Locality, RoutePolicy, Source, StaticEndpoint, Upstream};

use super::client;
use super::server::until;

/// A running sidecar. It must be ended with [`Sidecar::end`] or by its drop:
/// both fail the test when one of its threads panicked.
pub struct Sidecar {
    app: Option<App>,
    pub at: Addresses,
}

/// What to start.
pub struct Setup {
    pub model: Model,
    pub options: Options,
    known: BTreeMap<UpstreamName, Vec<StaticEndpoint>>,
}

/// Metrics at one moment.
pub struct Samples(Vec<Sample>);

/// A name, its labels and its value.
type Sample = (String, Vec<(String, String)>, f64);

/// A sidecar called `name` on free ports.
pub fn sidecar(name: &str) -> Setup {
    let mut model = Model::minimal(name);
    model.drain.delay = std::time::Duration::ZERO;
    Setup { model, options: Options::default(), known: BTreeMap::new() }
}

impl Setup {
    /// One more endpoint of an upstream.
    pub fn upstream(mut self, name: &str, address: SocketAddr) -> Self {
        self.known.entry(UpstreamName::new(name)).or_default().push(endpoint(address));
        self
    }

    /// An upstream that is known and has no endpoint.
    pub fn empty(mut self, name: &str) -> Self {
        self.known.entry(UpstreamName::new(name)).or_default();
        self
    }

    /// A local port whose every connection goes to this upstream.
    pub fn local_port(mut self, name: &str) -> Self {
        let listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let (protocol, policy) = (Protocol::Auto, RoutePolicy::default());
        let block = Upstream { protocol, listen, policy, ..Upstream::default() };
        self.model.upstreams.insert(UpstreamName::new(name), block);
        self
    }

    /// The service that it fronts.
    pub fn service(mut self, address: SocketAddr) -> Self {
        self.model.service.address = Some(address);
        self
    }

    /// Anything else.
    pub fn with(mut self, edit: impl FnOnce(&mut Model)) -> Self {
        edit(&mut self.model);
        self
    }

    pub fn options(mut self, edit: impl FnOnce(&mut Options)) -> Self {
        edit(&mut self.options);
        self
    }

    /// The model as it will run.
    pub fn finished_model(&self) -> Model {
        let mut model = self.model.clone();
        if !self.known.is_empty() {
            model.discovery.push(Source::Static(self.known.clone()));
        }
        model
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    pub fn start(self) -> Sidecar {
        let model = Arc::new(self.finished_model());
        let app = App::start(model, self.options).unwrap_or_else(|error| panic!("{error}"));
        until("the sidecar is ready", || app.readiness.state() == State::Ready);
        Sidecar { at: app.addresses.clone(), app: Some(app) }
    }
}

pub fn endpoint(address: SocketAddr) -> StaticEndpoint {
    StaticEndpoint {
        host: address.ip().to_string().into(),
        port: address.port(),
        weight: 1,
        locality: Locality::default(),
    }
}

impl Sidecar {
    pub fn app(&self) -> &App {
        self.app.as_ref().expect("not ended")
    }

    /// Scrapes `/metrics`.
    #[track_caller]
    pub fn metrics(&self) -> Samples {
        Samples::at(self.at.probes)
    }

    /// Waits until a metric is `wanted`.
    #[track_caller]
    pub fn metric_is(&self, name: &str, labels: &[(&str, &str)], wanted: f64) {
        until(&format!("{name} {labels:?} is {wanted}"), || self.metrics().get(name, labels) == wanted);
    }

    /// Ends it now.
    #[track_caller]
    pub fn end(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        let Some(app) = self.app.take() else { return };
        let ended = app.stop();
        if !std::thread::panicking() {
            ended.unwrap_or_else(|panic| panic!("a thread of the sidecar panicked: {panic}"));
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Samples {
    /// Scrapes the port for probes at `address`.
    #[track_caller]
    pub fn at(address: SocketAddr) -> Self {
        let answer = client::get(address, "probes", "/metrics");
        assert_eq!(answer.status, 200);
        Self::parse(&answer.text())
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Self(lines.map(sample).collect())
    }

    /// The sum of all series of `name` that carry `labels`; 0 where there is none.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted = |have: &[(String, String)]| {
            labels.iter().all(|(key, value)| have.iter().any(|(k, v)| k == key && v == value))
        };
        self.0.iter().filter(|(n, have, _)| n == name && wanted(have)).map(|(_, _, value)| value).sum()
    }

    /// Every series of `name`, for messages.
    pub fn show(&self, name: &str) -> String {
        let series = self.0.iter().filter(|(n, _, _)| n == name);
        series.map(|(n, labels, value)| format!("{n}{labels:?} {value}\n")).collect()
    }
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
    let Some((name, labels)) = series.split_once('{') else {
        return (series.to_owned(), Vec::new(), value);
    };
    let labels = labels.trim_end_matches('}').split("\",").filter(|part| !part.is_empty());
    let pair = |part: &str| {
        let (key, value) = part.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
        (key.to_owned(), value.trim_end_matches('"').to_owned())
    };
    (name.to_owned(), labels.map(pair).collect(), value)
}

/// Whether a test may run beside others. A test that measures memory may not.
static TURN: RwLock<()> = RwLock::new(());

/// Held by every ordinary test while it runs.
pub fn beside_others() -> RwLockReadGuard<'static, ()> {
    TURN.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Held by a test that measures the memory of the whole process.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    TURN.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Resident bytes of this process.
pub fn resident() -> u64 {
    resident_of("self")
}

/// Resident bytes of the process that `/proc` has under `name`.
pub fn resident_of(name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{name}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
