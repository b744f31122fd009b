//! Services that stand in a real Consul are found, and what happens to Consul
//! happens to nobody's calls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pillion::config::model::{self, ConsulToken, Source};

use super::agent::{self, Agent};
use crate::support::backend::echo_path;
use crate::support::load::Load;
use crate::support::sidecar::Setup;
use crate::support::{Recorder, Sidecar, get, sidecar, until};

const SECOND: Duration = Duration::from_secs(1);
/// Between two calls: Consul needs the processor too.
const REST: Duration = Duration::from_millis(3);

/// A caller's sidecar that asks `agent`.
#[track_caller]
pub fn front(agent: &Agent, edit: impl FnOnce(&mut model::Consul)) -> Sidecar {
    setup(agent, edit).start()
}

fn setup(agent: &Agent, edit: impl FnOnce(&mut model::Consul)) -> Setup {
    let mut consul =
        model::Consul { address: format!("http://{}", agent.at).into(), ..model::Consul::default() };
    edit(&mut consul);
    sidecar("front").with(|model| model.discovery = vec![Source::Consul(Box::new(consul))])
}

/// Enters an instance with a check that the test tells.
#[track_caller]
pub fn register(agent: &Agent, at: SocketAddr) {
    let body = serde_json::json!({
        "ID": id(at), "Name": "users", "Address": at.ip(), "Port": at.port(),
        "Check": {"CheckID": id(at), "TTL": "10m", "Status": "passing"},
    });
    agent.put("/v1/agent/service/register", &body.to_string());
}

pub fn id(at: SocketAddr) -> String {
    format!("users-{at}")
}

pub fn known(front: &Sidecar) -> f64 {
    front.metrics().get("pillion_endpoints", &[("upstream", "users"), ("source", "consul")])
}

/// Waits until so many endpoints are in use, and returns how long that took.
#[track_caller]
pub fn until_known(front: &Sidecar, count: usize) -> Duration {
    let begun = Instant::now();
    until(&format!("{count} endpoints are known"), || known(front) == count as f64);
    begun.elapsed()
}

pub fn backends() -> [Recorder; 2] {
    [Recorder::answering(echo_path), Recorder::answering(echo_path)]
}

/// So many seconds without a Consul that answers.
fn outage() -> Duration {
    let seconds = std::env::var("PILLION_TEST_OUTAGE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(6))
}

#[test]
fn changes_are_followed_within_a_second() {
    let agent = agent::dev().start();
    let [one, two] = backends();
    register(&agent, one.address());
    let front = front(&agent, |_| {});
    let load = Load::new().resting(REST).http1(3, front.at.outbound, "users").running();
    until_known(&front, 1);
    for _ in 0..3 {
        register(&agent, two.address());
        assert!(until_known(&front, 2) < SECOND, "an instance that was added");
        two.take();
        until("it takes calls", || !two.take().is_empty());
        agent.put(&format!("/v1/agent/check/fail/{}", id(two.address())), "");
        assert!(until_known(&front, 1) < SECOND, "a check that failed");
        agent.put(&format!("/v1/agent/check/warn/{}", id(two.address())), "");
        assert!(until_known(&front, 2) < SECOND, "a check that warns");
        agent.put(&format!("/v1/agent/service/deregister/{}", id(two.address())), "");
        assert!(until_known(&front, 1) < SECOND, "a deregistration");
        until("calls of before have ended", || two.take().is_empty());
        load.more(50);
        assert!(two.take().is_empty(), "it is called no more");
        // A few questions may follow each other at once, then one a second.
        std::thread::sleep(SECOND * 4);
    }
    load.end().none_failed();
}

#[test]
fn a_service_of_which_none_is_well_is_empty_and_a_strange_name_unknown() {
    let agent = agent::dev().start();
    let [one, _] = backends();
    register(&agent, one.address());
    let front = front(&agent, |_| {});
    assert_eq!(get(front.at.outbound, "strangers", "/").reason().as_deref(), Some("unknown_upstream"));
    for name in ["users", "users:1234", "users.service.consul"] {
        assert_eq!(get(front.at.outbound, name, "/").status, 200, "{name}");
    }
    agent.put(&format!("/v1/agent/check/fail/{}", id(one.address())), "");
    let reason = |name| get(front.at.outbound, name, "/").reason();
    until("none is well", || reason("users").as_deref() == Some("no_endpoint"));
}

#[test]
fn an_agent_that_has_forgotten_everything_evicts_nobody() {
    let mut agent = agent::dev().start();
    let [one, two] = backends();
    let both = [one.address(), two.address()];
    // An index well beyond that of a new agent.
    (0..100).for_each(|number| _ = agent.put(&format!("/v1/kv/{number}"), ""));
    both.iter().for_each(|at| register(&agent, *at));
    let front = front(&agent, |_| {});
    let load = Load::new().resting(REST).http1(3, front.at.outbound, "users").running();
    until_known(&front, 2);
    for _ in 0..2 {
        agent.kill();
        load.more(200);
        agent.again();
        agent.leads();
        assert!(agent.healthy("users").is_empty());
        let over = Instant::now() + SECOND * 4;
        while Instant::now() < over {
            load.more(20);
            assert_eq!(known(&front), 2.0, "it says nothing, and means that it does not know");
        }
        // One comes again: the other may only be late.
        register(&agent, one.address());
        std::thread::sleep(SECOND * 2);
        assert_eq!(known(&front), 2.0);
        register(&agent, two.address());
        std::thread::sleep(SECOND * 3);
        // What it has named again is believed as ever.
        agent.put(&format!("/v1/agent/check/fail/{}", id(two.address())), "");
        assert!(until_known(&front, 1) < SECOND * 2);
        agent.put(&format!("/v1/agent/check/pass/{}", id(two.address())), "");
        until_known(&front, 2);
        (0..100).for_each(|number| _ = agent.put(&format!("/v1/kv/{number}"), ""));
        agent.put(&format!("/v1/agent/check/warn/{}", id(two.address())), "");
        std::thread::sleep(SECOND * 2);
    }
    load.end().none_failed();
}

#[test]
fn a_token_that_is_revoked_and_replaced_costs_nothing() {
    let agent = agent::dev().acl().set(r#"{"acl": {"token_ttl": "0s"}}"#).start();
    let [one, two] = backends();
    register(&agent, one.address());
    let rules = "service_prefix \"\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" }";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let (secret, name) = agent.token(rules);
    std::fs::write(&file, secret).unwrap();
    let front = front(&agent, |consul| {
        consul.token = ConsulToken::File(file.clone());
        consul.wait = SECOND * 2;
    });
    let load = Load::new().resting(REST).http1(3, front.at.outbound, "users").running();
    until_known(&front, 1);
    agent.revoke(&name);
    until("the token is refused", || {
        front.metrics().get("pillion_discovery_updates_total", &[("result", "failed")]) > 0.0
    });
    register(&agent, two.address());
    load.more(200);
    assert_eq!(known(&front), 1.0);
    let (secret, _) = agent.token(rules);
    std::fs::write(&file, secret).unwrap();
    assert!(until_known(&front, 2) < SECOND * 2, "the new token is used");
    // Nobody is told nothing: a file that says nothing is not that.
    std::fs::write(&file, "").unwrap();
    std::thread::sleep(SECOND * 4);
    load.more(100);
    assert_eq!(known(&front), 2.0);
    load.end().none_failed();
}

#[test]
fn to_become_nobody_by_a_reload_evicts_nothing() {
    let agent = agent::dev().acl().set(r#"{"acl": {"token_ttl": "0s"}}"#).start();
    let [one, two] = backends();
    [&one, &two].iter().for_each(|backend| register(&agent, backend.address()));
    let (models, reloads) = tokio::sync::mpsc::channel(1);
    let setup = setup(&agent, |consul| consul.token = ConsulToken::Text(agent::TOKEN.into()));
    let mut model = setup.finished_model();
    let front = setup.options(|options| options.reloads = Some(reloads)).start();
    let load = Load::new().resting(REST).http1(3, front.at.outbound, "users").running();
    until_known(&front, 2);
    let Source::Consul(consul) = &mut model.discovery[0] else { panic!() };
    consul.token = ConsulToken::None;
    models.blocking_send(Arc::new(model)).unwrap();
    std::thread::sleep(SECOND * 3);
    load.more(100);
    assert_eq!(known(&front), 2.0);
    load.end().none_failed();
}

#[test]
fn a_cluster_without_a_leader_and_without_servers_harms_nobody() {
    let setup = agent::lone();
    let mut servers = agent::cluster(&setup);
    let client = setup.client_of(&servers);
    let [one, two] = backends();
    register(&client, one.address());
    let front = front(&client, |_| {});
    let load = Load::new().resting(REST).http1(3, front.at.outbound, "users").running();
    until_known(&front, 1);
    let found = client.get("/v1/operator/raft/configuration")["Servers"].clone();
    let led = found.as_array().unwrap().iter().find(|server| server["Leader"] == true).unwrap();
    let name = led["Node"].as_str().unwrap().to_owned();
    let leader = servers.iter().position(|server| name == format!("node-{}", server.at.port())).unwrap();
    servers[leader].kill();
    load.more(500);
    until("another leads", || servers.iter().enumerate().any(|(i, s)| i != leader && s.has_leader()));
    client.leads();
    register(&client, two.address());
    until_known(&front, 2);
    servers[leader].again();
    servers.iter_mut().for_each(|server| server.server.stop());
    let over = Instant::now() + outage();
    while Instant::now() < over {
        load.more(100);
        assert_eq!(known(&front), 2.0);
    }
    servers.iter_mut().for_each(Agent::again);
    servers.iter().for_each(Agent::leads);
    client.leads();
    std::thread::sleep(SECOND * 9);
    assert_eq!(known(&front), 2.0, "Consul itself names {:?}", client.healthy("users"));
    agent_fails(&client, two.address());
    // An agent that could not tell the servers tries again after 15 to 30 s.
    let patience = Instant::now() + SECOND * 60;
    while client.healthy("users") != [one.address().to_string()] {
        assert!(Instant::now() < patience, "the agent never told of the check");
        load.more(10);
    }
    assert!(until_known(&front, 1) < SECOND * 2, "it is followed again");
    load.end().none_failed();
}

fn agent_fails(agent: &Agent, at: SocketAddr) {
    agent.put(&format!("/v1/agent/check/fail/{}", id(at)), "");
}
