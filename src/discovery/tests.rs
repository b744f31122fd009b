use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Discovery;
use super::counts::Counts;
use super::dns::server::{Reply, Server};
use super::local::register;
use super::local::tests::{child, folder};
use crate::base::directory::{Directory, MAX_UPSTREAMS};
use crate::base::readiness::{Readiness, State};
use crate::base::{Protocol, Resolution, Said, UpstreamName};
use crate::config::Model;
use crate::config::model::{self, Source, StaticEndpoint, Upstream, WhenEmpty};
use crate::telemetry::Metrics;

/// Discovery that runs, and what a worker would see of it.
pub(super) struct Running {
    pub(super) directory: Directory,
    config: watch::Sender<Arc<Model>>,
    metrics: Metrics,
    readiness: Readiness,
    task: JoinHandle<()>,
}

pub(super) fn start(model: Model) -> Running {
    let (directory, names) = Directory::new();
    let (config, receiver) = watch::channel(Arc::new(model));
    let (metrics, readiness) = (Metrics::new(), Readiness::default());
    let discovery =
        Discovery { config: receiver, names, directory: directory.clone(), metrics: metrics.clone() };
    let task = tokio::spawn(discovery.run(readiness.condition("discovery")));
    Running { directory, config, metrics, readiness, task }
}

impl Running {
    pub(super) fn watch(&self, name: &str) -> watch::Receiver<Resolution> {
        self.directory.watch(&UpstreamName::new(name)).unwrap()
    }

    fn reload(&self, sources: Vec<Source>) {
        self.config.send_modify(|model| Arc::make_mut(model).discovery = sources);
    }

    /// The value of a metric, by its name and labels as they are rendered.
    pub(super) fn metric(&self, series: &str) -> Option<f64> {
        let text = self.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(series))?;
        line.trim().parse().ok()
    }

    pub(super) async fn stop(self) {
        self.task.abort();
        if let Err(error) = self.task.await {
            assert!(error.is_cancelled(), "discovery panicked: {error}");
        }
    }
}

pub(super) fn model(sources: Vec<Source>) -> Model {
    Model { discovery: sources, ..Model::minimal("test") }
}

fn local(directory: &Path) -> Source {
    Source::Local(model::Local { directory: directory.into(), register: true })
}

pub(super) fn dns(server: &Server) -> Source {
    let min_ttl = Duration::from_millis(100);
    Source::Dns(model::Dns {
        servers: vec![server.address],
        timeout: Duration::from_millis(200),
        min_ttl,
        ..model::Dns::default()
    })
}

fn with(source: Source, edit: impl FnOnce(&mut model::Dns)) -> Source {
    let Source::Dns(mut dns) = source else { panic!("this is no dns") };
    edit(&mut dns);
    Source::Dns(dns)
}

pub(super) async fn eventually(what: &str, met: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !met() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(super) fn fixed(name: &str, endpoints: &[(&str, u16)]) -> Source {
    let endpoint = |(host, port): &(&str, u16)| StaticEndpoint {
        host: (*host).into(),
        port: *port,
        weight: u32::from(*port % 100).max(1),
        locality: model::Locality { region: None, zone: Some("z".into()) },
    };
    let endpoints = endpoints.iter().map(endpoint).collect();
    Source::Static(BTreeMap::from([(UpstreamName::new(name), endpoints)]))
}

/// Waits for a resolution and returns it in a short form, with the time it took.
pub(super) async fn until(receiver: &mut watch::Receiver<Resolution>, wanted: &str) -> Duration {
    let start = Instant::now();
    let met = timeout(Duration::from_secs(10), receiver.wait_for(|now| short(now) == wanted)).await.is_ok();
    assert!(met, "{wanted} is wanted, {} is there", short(&receiver.borrow()));
    start.elapsed()
}

pub(super) fn short(resolution: &Resolution) -> String {
    match resolution {
        Resolution::Found(set) => {
            let all: Vec<_> = set.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
            format!("{} {}", set.source, all.join(" "))
        }
        Resolution::Empty { source } => format!("empty {source}"),
        Resolution::Failed { why } => format!("failed {why}"),
        other => format!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_is_its_own_answer() {
    let running = start(model(Vec::new()));
    for (name, wanted) in [
        ("10.0.0.7:8080", "address 10.0.0.7:8080"),
        ("[::1]:80", "address [::1]:80"),
        ("10.0.0.7", "address 10.0.0.7:80"),
        ("users", "Unknown"),
    ] {
        until(&mut running.watch(name), wanted).await;
    }
    assert!(!running.metrics.render().contains("10.0.0.7"), "addresses make no series");
    running.stop().await;
}

#[tokio::test]
async fn an_instance_on_this_machine_is_followed_within_a_second() {
    let (folder, server) = (folder(), Server::start().await);
    server.addresses("victim.", 60, &["10.0.0.9"]);
    let running = start(model(vec![local(folder.path()), dns(&server), fixed("late", &[("10.0.0.1", 1)])]));
    let mut victim = running.watch("victim");
    let first = until(&mut victim, "dns 10.0.0.9:80").await;
    assert!(first < Duration::from_millis(500), "the next source is asked at once, not after {first:?}");
    until(&mut running.watch("late"), "static 10.0.0.1:1").await;

    let mut process = child(folder.path());
    let appeared = until(&mut victim, "local 127.0.0.1:4242").await;
    let asked = server.times("victim.", hickory_resolver::proto::rr::RecordType::A);
    assert_eq!(running.metric("pillion_endpoints{upstream=\"victim\",source=\"local\"}"), Some(1.0));
    assert_eq!(running.metric("pillion_endpoints{upstream=\"victim\",source=\"dns\"}"), Some(0.0));
    // A name with a port finds the service as well: it has one address here.
    until(&mut running.watch("victim:50051"), "local 127.0.0.1:4242").await;

    process.kill().unwrap();
    process.wait().unwrap();
    let vanished = until(&mut victim, "dns 10.0.0.9:80").await;
    assert!(appeared.max(vanished) < Duration::from_millis(1500), "{appeared:?} {vanished:?}");
    assert_eq!(server.times("victim.", hickory_resolver::proto::rr::RecordType::A), asked + 1);
    running.stop().await;
}

#[tokio::test]
async fn what_a_source_took_back_does_not_wait_for_a_silent_one() {
    let (folder, server) = (folder(), Server::start().await);
    server.both("users.", &Reply::Silence);
    let slow = model::Dns {
        servers: vec![server.address],
        timeout: Duration::from_secs(1),
        ..model::Dns::default()
    };
    let running = start(model(vec![local(folder.path()), Source::Dns(slow)]));
    let mut model = model(vec![local(folder.path())]);
    model.service.name = UpstreamName::new("users");
    model.service.address = Some(([127, 0, 0, 1], 1).into());
    let (_config, receiver) = watch::channel(Arc::new(model));
    let registration = register(receiver, ([127, 0, 0, 1], 7).into(), &running.metrics);
    let mut users = running.watch("users");
    until(&mut users, "local 127.0.0.1:7").await;
    registration.withdraw();
    let took = until(&mut users, "empty local").await;
    assert!(took < Duration::from_millis(1500), "{took:?}");
    until(&mut users, "failed dns: no answer in time").await;
    running.stop().await;
}

#[tokio::test]
async fn the_last_good_answer_outlives_the_source() {
    let server = Server::start().await;
    server.addresses("users.", 0, &["10.0.0.1"]);
    let running = start(model(vec![dns(&server), fixed("users", &[("10.9.9.9", 9)])]));
    let mut users = running.watch("users:8080");
    until(&mut users, "dns 10.0.0.1:8080").await;
    let failures = "pillion_discovery_updates_total{source=\"dns\",result=\"failed\"}";
    for reply in [Reply::ServFail, Reply::Silence] {
        let before = running.metric(failures).unwrap_or_default();
        server.both("users.", &reply);
        let deadline = Instant::now() + Duration::from_secs(10);
        while running.metric(failures).unwrap_or_default() == before {
            assert!(Instant::now() < deadline, "the failure is counted");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(short(&users.borrow()), "dns 10.0.0.1:8080");
    }
    server.addresses("users.", 0, &["10.0.0.2", "10.0.0.3"]);
    until(&mut users, "dns 10.0.0.2:8080 10.0.0.3:8080").await;
    // A true answer does evict: the name is known no more, and the next source knows it.
    server.both("users.", &Reply::NoSuchName(0));
    until(&mut users, "static 10.9.9.9:9").await;
    server.addresses("users.", 0, &["10.0.0.4"]);
    until(&mut users, "dns 10.0.0.4:8080").await;
    running.stop().await;
}

#[tokio::test]
async fn what_a_source_takes_back_is_kept_for_a_while_or_not_at_all() {
    let server = Server::start().await;
    for reply in [Reply::NoData, Reply::NoSuchName(0)] {
        let (word, gone) = match reply {
            Reply::NoData => ("empty", "empty dns"),
            _ => ("unknown", "Unknown"),
        };
        for when_empty in [WhenEmpty::Keep(Duration::from_millis(1200)), WhenEmpty::Fail] {
            server.addresses("users.", 0, &["10.0.0.1"]);
            let running = start(model(vec![with(dns(&server), |dns| dns.when_empty = when_empty)]));
            let mut users = running.watch("users");
            until(&mut users, "dns 10.0.0.1:80").await;
            server.both("users.", &reply);
            let took = until(&mut users, gone).await;
            let kept = format!("pillion_discovery_kept_upstreams{{source=\"dns\",why=\"{word}\"}}");
            if when_empty == WhenEmpty::Fail {
                assert!(took < Duration::from_secs(1), "{took:?} {gone}");
                assert_eq!(running.metric(&kept), None);
            } else {
                assert!(took > Duration::from_millis(1100), "{took:?} {gone}");
                assert_eq!(running.metric(&kept), Some(0.0), "it was counted");
            }
            server.addresses("users.", 0, &["10.0.0.2"]);
            until(&mut users, "dns 10.0.0.2:80").await;
            running.stop().await;
        }
    }
}

#[tokio::test]
async fn a_lie_that_passes_harms_nothing_and_is_shown() {
    let server = Server::start().await;
    server.addresses("users.", 0, &["10.0.0.1"]);
    let running = start(model(vec![dns(&server), fixed("other", &[("10.0.0.2", 2)])]));
    let mut users = running.watch("users");
    until(&mut users, "dns 10.0.0.1:80").await;
    users.mark_unchanged();
    server.both("users.", &Reply::NoSuchName(0));
    let trail = || running.directory.dump().remove(0).trail;
    let said = || trail().told.into_iter().map(|told| told.said).collect::<Vec<_>>();
    eventually("the lie is seen", || said() == [Said::Unknown, Said::Unknown]).await;
    let age = "pillion_discovery_age_seconds{upstream=\"users\",source=\"dns\"}";
    assert!(running.metric(age).is_some_and(|age| age > 0.0), "{}", running.metrics.render());
    let told = trail().told.remove(0);
    assert!(told.kept_until.is_some() && told.named_at < told.at, "{told:?}");
    assert_eq!(running.metric("pillion_discovery_kept_upstreams{source=\"dns\",why=\"unknown\"}"), Some(1.0));
    server.addresses("users.", 0, &["10.0.0.1"]);
    eventually("it says the truth again", || said() == [Said::Found(1), Said::NotAsked]).await;
    assert_eq!(running.metric("pillion_discovery_kept_upstreams{source=\"dns\",why=\"unknown\"}"), Some(0.0));
    assert!(!users.has_changed().unwrap(), "no reader was woken");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_source_does_not_hold_up_the_next_for_long() {
    let server = Server::start().await;
    server.both("users.", &Reply::Silence);
    let slow = with(dns(&server), |dns| dns.timeout = Duration::from_secs(60));
    let running = start(model(vec![slow, fixed("users", &[("10.0.0.1", 1)])]));
    let start = tokio::time::Instant::now();
    until(&mut running.watch("users"), "static 10.0.0.1:1").await;
    assert_eq!(start.elapsed().as_millis() / 100, 25);
    running.stop().await;
}

#[tokio::test]
async fn what_was_known_of_a_name_that_was_let_go_serves_while_its_source_is_down() {
    let server = Server::start().await;
    server.addresses("users.", 60, &["10.0.0.1"]);
    let running = start(model(vec![dns(&server)]));
    let mut users = running.watch("users");
    until(&mut users, "dns 10.0.0.1:80").await;
    drop(users);
    server.both("users.", &Reply::Silence);
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(75)).await;
    assert!(running.directory.dump().is_empty(), "it was let go");
    let mut again = running.watch("users");
    until(&mut again, "dns 10.0.0.1:80").await;
    let asked = server.names().len();
    server.addresses("users.", 60, &["10.0.0.2"]);
    tokio::time::resume();
    until(&mut again, "dns 10.0.0.2:80").await;
    assert!(server.names().len() >= asked);
    running.stop().await;
}

#[tokio::test]
async fn unknown_empty_and_failed_are_told_apart() {
    let server = Server::start().await;
    server.both("empty.", &Reply::NoData);
    server.both("broken.", &Reply::ServFail);
    let running = start(model(vec![dns(&server), fixed("empty", &[("10.0.0.1", 1)])]));
    until(&mut running.watch("nobody"), "Unknown").await;
    until(&mut running.watch("empty"), "empty dns").await;
    let mut broken = running.watch("broken");
    until(&mut broken, "failed dns: the server answered Server Failure").await;
    server.addresses("broken.", 9, &["10.0.0.2"]);
    until(&mut broken, "dns 10.0.0.2:80").await;
    for (result, at_least) in [("unknown", 1.0), ("empty", 1.0), ("failed", 1.0), ("changed", 1.0)] {
        let series = format!("pillion_discovery_updates_total{{source=\"dns\",result=\"{result}\"}}");
        assert!(running.metric(&series).is_some_and(|value| value >= at_least), "{series}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_reload_drops_nothing_that_is_known() {
    let (server, dead) = (Server::start().await, Server::start().await);
    server.addresses("users.", 60, &["10.0.0.1"]);
    dead.both("users.", &Reply::ServFail);
    let running = start(model(vec![dns(&server)]));
    let mut users = running.watch("users");
    until(&mut users, "dns 10.0.0.1:80").await;
    users.mark_unchanged();

    // What concerns other sources does not ask this one again.
    let asked = server.names().len();
    running.reload(vec![dns(&server), fixed("other", &[("10.0.0.5", 5)])]);
    until(&mut running.watch("other"), "static 10.0.0.5:5").await;
    assert_eq!(server.times("users.", hickory_resolver::proto::rr::RecordType::A), 1, "{asked}");

    // A chain that fails keeps the answer of the one before.
    running.reload(vec![dns(&dead)]);
    let failures = "pillion_discovery_updates_total{source=\"dns\",result=\"failed\"}";
    let deadline = Instant::now() + Duration::from_secs(10);
    while running.metric(failures).is_none() {
        assert!(Instant::now() < deadline, "the new chain is asked");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(short(&users.borrow()), "dns 10.0.0.1:80");
    assert!(!users.has_changed().unwrap(), "and no reader was woken");

    // One that answers takes over.
    running.reload(vec![fixed("users", &[("10.0.0.2", 2)])]);
    until(&mut users, "static 10.0.0.2:2").await;
    running.reload(Vec::new());
    until(&mut users, "Unknown").await;
    running.stop().await;
}

#[tokio::test]
async fn a_host_in_the_file_may_be_a_name() {
    let server = Server::start().await;
    server.addresses("db.test.", 0, &["10.0.0.1"]);
    let hosts = [("10.0.0.7", 8080), ("db.test", 5432), ("[fd00::1]", 81)];
    let running = start(model(vec![fixed("db", &hosts), dns(&server)]));
    let mut db = running.watch("db");
    until(&mut db, "static 10.0.0.1:5432 10.0.0.7:8080 [fd00::1]:81").await;
    if let Resolution::Found(set) = &*db.borrow() {
        let first = &set.endpoints[0];
        assert_eq!((first.weight, first.zone.as_deref(), first.protocol), (32, Some("z"), Protocol::Auto));
    }
    server.addresses("db.test.", 0, &["10.0.0.2"]);
    until(&mut db, "static 10.0.0.2:5432 10.0.0.7:8080 [fd00::1]:81").await;
    server.both("db.test.", &Reply::ServFail);
    let asked = server.times("db.test.", hickory_resolver::proto::rr::RecordType::A);
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.times("db.test.", hickory_resolver::proto::rr::RecordType::A) < asked + 3 {
        assert!(Instant::now() < deadline, "it is asked again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until(&mut db, "static 10.0.0.2:5432 10.0.0.7:8080 [fd00::1]:81").await;
    server.both("db.test.", &Reply::NoSuchName(0));
    until(&mut db, "static 10.0.0.7:8080 [fd00::1]:81").await;
    until(&mut running.watch("db:9999"), "static 10.0.0.7:8080 [fd00::1]:81").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_nobody_reads_is_let_go_and_found_again() {
    let running = start(model(vec![fixed("users", &[("10.0.0.1", 1)])]));
    let (mut used, mut unused) = (running.watch("users"), running.watch("users:2"));
    until(&mut used, "static 10.0.0.1:1").await;
    until(&mut unused, "static 10.0.0.1:1").await;
    let gauge = "pillion_endpoints{upstream=\"users:2\",source=\"static\"}";
    assert_eq!(running.metric(gauge), Some(1.0));
    let known =
        || running.directory.dump().into_iter().map(|known| known.name.to_string()).collect::<Vec<_>>();
    drop(unused);
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(known(), ["users", "users:2"], "not before a minute has passed");
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(known(), ["users"]);
    assert_eq!(running.metric(gauge), Some(0.0));
    until(&mut running.watch("users:2"), "static 10.0.0.1:1").await;
    assert_eq!(running.metric(gauge), Some(1.0));
    running.stop().await;
}

fn upstream() -> Upstream {
    Upstream {
        protocol: Protocol::Auto,
        listen: None,
        policy: model::RoutePolicy::default(),
        ..Upstream::default()
    }
}

#[tokio::test(start_paused = true)]
async fn ready_when_every_upstream_has_its_first_answer() {
    let mut model = model(vec![fixed("users", &[("10.0.0.1", 1)])]);
    model.upstreams = ["users", "nobody"].map(|name| (UpstreamName::new(name), upstream())).into();
    let running = start(model);
    let start = tokio::time::Instant::now();
    assert_eq!(running.readiness.ready().await, State::Ready);
    assert!(start.elapsed() < Duration::from_millis(100), "an answer is an answer, also `unknown`");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn ready_after_five_seconds_in_any_case() {
    let server = Server::start().await;
    server.both("users.", &Reply::Silence);
    let slow = model::Dns {
        servers: vec![server.address],
        timeout: Duration::from_secs(60),
        ..model::Dns::default()
    };
    let mut model = model(vec![Source::Dns(slow)]);
    model.upstreams = BTreeMap::from([(UpstreamName::new("users"), upstream())]);
    let running = start(model);
    let start = tokio::time::Instant::now();
    assert_eq!(running.readiness.ready().await, State::Ready);
    assert_eq!(start.elapsed().as_secs(), 5);
    running.stop().await;
}

#[test]
fn made_up_names_make_no_series_without_end() {
    let counts = Counts::new(Metrics::new());
    for index in 0..MAX_UPSTREAMS {
        assert!(counts.gauges(&UpstreamName::new(&format!("s{index}")), "dns").is_some());
    }
    assert!(counts.gauges(&UpstreamName::new("one-more"), "dns").is_none());
    assert!(counts.gauges(&UpstreamName::new("s7"), "local").is_some(), "those that have one keep it");
}
