//! The service stands in Consul as long as its sidecar says so, and as it is.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::agent::{self, Agent, TOKEN};
use super::clients::{caller, known};
use crate::grpc::programs;
use crate::support::process::Setup;
use crate::support::{Process, Recorder, get, process, until};

/// A service whose health can be told.
struct Service {
    recorder: Recorder,
    status: Arc<AtomicU16>,
}

impl Service {
    fn start() -> Self {
        let status = Arc::new(AtomicU16::new(200));
        let told = status.clone();
        let recorder = Recorder::answering(move |request| {
            let status = if request.target == "/health" { told.load(Ordering::SeqCst) } else { 200 };
            format!("HTTP/1.1 {status} -\r\nContent-Length: 4\r\n\r\nwell").into_bytes()
        });
        Self { recorder, status }
    }

    fn at(&self) -> SocketAddr {
        self.recorder.address()
    }
}

/// The sidecar of `users` in front of `service`, registered with `agent`.
fn sidecar(agent: SocketAddr, service: &Service, more: &str, register: &str) -> Setup {
    process("users")
        .health(&format!("{{path: /health, interval: 100ms}}{more}"))
        .service(service.at(), "http1")
        .discovery(&format!("consul: {{address: 'http://{agent}', register: {register}}}"))
}

/// How long until it is so.
#[track_caller]
fn took(what: &str, check: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    until(what, check);
    begun.elapsed()
}

fn gauge(sidecar: &Process) -> f64 {
    sidecar.metrics().get("pillion_registered", &[("source", "consul")])
}

/// The only entry of `users` at the agent.
#[track_caller]
fn entry(agent: &Agent) -> serde_json::Value {
    let all = agent.get("/v1/agent/services?filter=Service==users");
    let all = all.as_object().unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    all.values().next().unwrap().clone()
}

fn is_at<'a>(agent: &'a Agent, sidecar: &Process) -> impl Fn() -> bool + use<'a> {
    let wanted = sidecar.inbound.to_string();
    move || agent.healthy("users") == [wanted.clone()]
}

#[test]
fn it_is_found_where_its_sidecar_listens_as_long_as_it_is_well() {
    let (agent, service) = (agent::dev().start(), Service::start());
    let more = ", tags: [v2, blue], locality: {region: eu, zone: eu-1a}";
    let register = "{weight: 7, metadata: {team: shop}}";
    let mut users = sidecar(agent.at, &service, more, register).start();
    until("it is found", is_at(&agent, &users));
    until("the metric says so", || gauge(&users) == 1.0);
    let entry = entry(&agent);
    assert_eq!(entry["Tags"], serde_json::json!(["v2", "blue"]));
    assert_eq!(entry["Weights"], serde_json::json!({"Passing": 7, "Warning": 7}));
    let meta = &entry["Meta"];
    let told = ["team", "region", "zone", "protocol", "pillion-for"].map(|key| meta[key].as_str().unwrap());
    assert_eq!(told, ["shop", "eu", "eu-1a", "http1", &service.at().to_string()]);

    service.status.store(503, Ordering::SeqCst);
    let sick = took("nobody finds it", || agent.healthy("users").is_empty());
    let check = &agent.get("/v1/health/checks/users")[0];
    assert_eq!((&check["Status"], &check["Output"]), (&"critical".into(), &"status 503".into()));
    service.status.store(200, Ordering::SeqCst);
    let well = took("it is found again", is_at(&agent, &users));
    // Three questions each 100 ms.
    assert!(sick.max(well) < Duration::from_secs(2), "{sick:?} {well:?}");

    users.signal(Signal::TERM);
    let left = took("it is gone", || agent.get("/v1/catalog/service/users") == serde_json::json!([]));
    assert!(left < Duration::from_secs(1), "{left:?}");
    assert!(users.ended().success(), "{}", users.said());
}

#[test]
fn an_agent_that_is_down_or_forgets_is_no_obstacle() {
    let service = Service::start();
    let mut agent = agent::dev().start();
    agent.kill();
    // It is ready without Consul.
    let users = sidecar(agent.at, &service, "", "true").start();
    assert_eq!((gauge(&users), get(users.probes, "p", "/readyz").status), (0.0, 200));
    agent.again();
    agent.leads();
    until("it is found when the agent is there", is_at(&agent, &users));
    agent.kill();
    agent.again();
    agent.leads();
    until("it is entered again where the agent has forgotten it", is_at(&agent, &users));
    // Somebody else takes it out.
    let id = entry(&agent)["ID"].as_str().unwrap().to_owned();
    agent.put(&format!("/v1/agent/service/deregister/{id}"), "");
    until("it is entered again where somebody took it out", is_at(&agent, &users));
    assert_eq!(entry(&agent)["ID"], id.as_str());
}

#[test]
fn a_crash_and_a_restart_leave_no_ghost() {
    let (agent, service) = (agent::dev().start(), Service::start());
    let mut first = sidecar(agent.at, &service, "", "true").start();
    until("it is found", is_at(&agent, &first));
    let id = entry(&agent)["ID"].clone();
    first.kill();
    let second = sidecar(agent.at, &service, "", "true").start();
    assert_ne!(first.inbound, second.inbound);
    until("only the new one is found", is_at(&agent, &second));
    assert_eq!(entry(&agent)["ID"], id);
}

#[test]
fn what_nothing_is_heard_of_is_critical() {
    let (agent, service) = (agent::dev().start(), Service::start());
    let mut users = sidecar(agent.at, &service, "", "{ttl: 3s, deregister_after: 1m}").start();
    until("it is found", is_at(&agent, &users));
    // Longer than the `ttl`.
    std::thread::sleep(Duration::from_secs(4));
    assert!(is_at(&agent, &users)(), "{:?}", agent.healthy("users"));
    users.kill();
    until("its check has failed", || agent.healthy("users").is_empty());
    if std::env::var_os("PILLION_TEST_REAPED").is_none() {
        return;
    }
    // Consul looks for them every half minute.
    let begun = Instant::now();
    while agent.get("/v1/catalog/service/users") != serde_json::json!([]) {
        assert!(begun.elapsed() < Duration::from_secs(120), "it is still there");
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("taken out by Consul {:?} after it was critical", begun.elapsed());
}

#[test]
fn the_agent_may_ask_itself() {
    let (mut agent, service) = (agent::dev().start(), Service::start());
    let users = sidecar(agent.at, &service, "", "{check: http}").start();
    until("it is found", is_at(&agent, &users));
    let asked = |request: &crate::support::Request| {
        request.field("user-agent").is_some_and(|agent| agent.starts_with("Consul"))
    };
    let mut seen = false;
    until("Consul asks through the sidecar", || {
        seen |= service.recorder.take().iter().any(asked);
        seen
    });
    service.status.store(503, Ordering::SeqCst);
    until("nobody finds it", || agent.healthy("users").is_empty());
    service.status.store(200, Ordering::SeqCst);
    until("it is found again", is_at(&agent, &users));
    agent.kill();
    agent.again();
    agent.leads();
    until("it is entered again where the agent has forgotten it", is_at(&agent, &users));
}

#[test]
fn the_agent_may_ask_by_grpc() {
    let agent = agent::dev().start();
    let mut service = programs::listening(programs::python().arg("health").stdin(Stdio::piped()));
    let mut stdin = service.child.stdin.take().unwrap();
    let mut say = |status: &str| {
        writeln!(stdin, "shop.v1.Users {status}").unwrap();
        stdin.flush().unwrap();
    };
    say("SERVING");
    let users = process("users")
        .health("{grpc: shop.v1.Users, interval: 100ms}")
        .service(service.address, "grpc")
        .discovery(&format!("consul: {{address: 'http://{}', register: {{check: grpc}}}}", agent.at))
        .start();
    until("it is found", is_at(&agent, &users));
    // The catalog is told of no more than a change of the status.
    let output = || {
        let checks = agent.get("/v1/agent/checks");
        let check = checks.as_object().and_then(|all| all.values().next()).cloned().unwrap_or_default();
        check["Output"].as_str().unwrap_or_default().to_owned()
    };
    until("the agent has asked", || output().contains("success"));
    say("NOT_SERVING");
    until("nobody finds it", || agent.healthy("users").is_empty());
    assert!(!output().contains("success"), "{}", output());
    say("SERVING");
    until("it is found again", is_at(&agent, &users));
}

#[test]
fn a_drain_hides_a_plain_entry_too_though_the_agent_asks() {
    let (agent, service) = (agent::dev().start(), Service::start());
    agent.register("users", service.at());
    let caller = caller(&agent);
    until("it is found without a sidecar", || known(&caller) == [service.at()]);
    let mut users = sidecar(agent.at, &service, "", "{check: http}").start();
    until("it is found once", || known(&caller) == [users.inbound]);
    users.signal(Signal::TERM);
    let hidden = took("nobody is found", || known(&caller).is_empty());
    assert!(hidden < Duration::from_secs(1), "{hidden:?}");
    // The service goes on to answer, and the agent does not ask any more.
    let end = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < end {
        assert_eq!(known(&caller), []);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(users.ended().success(), "{}", users.said());
    until("only the plain entry is left", || agent.healthy("users") == [service.at().to_string()]);
    assert_eq!(entry(&agent)["ID"], format!("users-{}", service.at()));
}

#[test]
fn a_token_may_be_revoked_and_replaced() {
    let agent = agent::dev().acl().set(r#"{"acl": {"token_ttl": "0s"}}"#).start();
    let service = Service::start();
    let rules = "service \"users\" { policy = \"write\" } node_prefix \"\" { policy = \"read\" }";
    let (first, first_name) = agent.token(rules);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, &first).unwrap();
    let source = format!(
        "consul: {{address: 'http://{}', token_file: '{}', register: {{ttl: 3s}}}}",
        agent.at,
        file.display()
    );
    let users = process("users")
        .health("{path: /health, interval: 100ms}")
        .service(service.at(), "http1")
        .discovery(&source)
        .start();
    let found = || agent.healthy("users") == [users.inbound.to_string()];
    until("it is found", found);
    agent.revoke(&first_name);
    until("the sidecar says that it may not", || gauge(&users) == 0.0);
    let (second, second_name) = agent.token(rules);
    std::fs::write(&file, second).unwrap();
    until("it may with the new token", || gauge(&users) == 1.0);
    service.status.store(503, Ordering::SeqCst);
    until("what changes is told with it", || agent.healthy("users").is_empty());
    service.status.store(200, Ordering::SeqCst);
    until("it is found", found);

    // A token that is replaced in time is no reason to be gone for a moment,
    // and the agent goes on with the new one.
    let (third, _) = agent.token(rules);
    std::fs::write(&file, third).unwrap();
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        assert!(found());
        std::thread::sleep(Duration::from_millis(50));
    }
    agent.revoke(&second_name);
    service.status.store(503, Ordering::SeqCst);
    until("what changes is told with the new token", || agent.healthy("users").is_empty());
    assert!(!users.said().contains(TOKEN) && !users.said().contains(&first));
}

#[test]
fn a_reload_changes_the_entry() {
    let (agent, other, service) = (agent::dev().start(), agent::dev().start(), Service::start());
    let users = sidecar(agent.at, &service, ", tags: [one]", "true").start();
    until("it is found", is_at(&agent, &users));
    users.edit("tags: [one]", "tags: [two]");
    until("the tag is another one", || entry(&agent)["Tags"] == serde_json::json!(["two"]));
    users.edit("register: true", "register: {address: users.example:9999}");
    until("the address is another one", || agent.healthy("users") == ["users.example:9999"]);
    users.edit(&agent.at.to_string(), &other.at.to_string());
    until("it stands in the other Consul", || other.healthy("users") == ["users.example:9999"]);
    until("and only there", || agent.healthy("users").is_empty());
    users.edit("register: {address: users.example:9999}", "register: false");
    until("it stands nowhere", || other.healthy("users").is_empty());
}
