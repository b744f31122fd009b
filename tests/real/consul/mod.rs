//! Real Consul agents around sidecars. The version is that of
//! `PILLION_TEST_CONSUL`, else 1.8.7.

pub mod agent;
mod clients;
mod found;
mod many;
mod queries;
mod reached;
mod registered;
mod values;

use std::net::SocketAddr;

use agent::Agent;

use crate::support::until;

const INSTANCE: &str = "127.0.0.1:4321";

#[track_caller]
fn is_found(agent: &Agent) {
    until("the instance is found", || agent.healthy("users") == [INSTANCE]);
}

fn instance() -> SocketAddr {
    INSTANCE.parse().unwrap()
}

#[test]
fn an_agent_forgets_or_keeps_its_state() {
    for (setup, kept) in [(agent::dev(), 0), (agent::lone(), 1)] {
        let mut agent = setup.start();
        agent.register("users", instance());
        is_found(&agent);
        agent.kill();
        agent.again();
        agent.leads();
        until("its state is there again, or gone", || agent.healthy("users").len() == kept);
    }
}

#[test]
fn three_servers_outlive_their_leader_and_a_client_follows() {
    let setup = agent::lone();
    let mut servers = agent::cluster(&setup);
    let client = setup.client_of(&servers);
    client.register("users", instance());
    servers.iter().for_each(is_found);
    let leader = |asked: &Agent| asked.get("/v1/operator/raft/configuration")["Servers"].clone();
    let found = leader(&client);
    let led = found.as_array().unwrap().iter().find(|server| server["Leader"] == true).unwrap();
    let name = led["Node"].as_str().unwrap().to_owned();
    let index = servers.iter().position(|server| name == format!("node-{}", server.at.port())).unwrap();
    servers[index].kill();
    let others = [(index + 1) % 3, (index + 2) % 3].map(|index| &servers[index]);
    until("another leads", || others.iter().all(|server| server.has_leader()));
    is_found(&client);
    servers[index].again();
    is_found(&servers[index]);
}

#[test]
fn rules_deny_what_no_token_allows() {
    let agent = agent::dev().acl().set(r#"{"acl": {"token_ttl": "0s"}}"#).start();
    agent.register("users", instance());
    is_found(&agent);
    let path = "/v1/health/service/users";
    let (secret, name) =
        agent.token("service_prefix \"\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" }");
    let seen = |token: &str| agent.call_as(token, "GET", path, "");
    until("the token allows", || seen(&secret).text().contains("4321"));
    assert_eq!(
        (seen("").status, seen("").text().trim().to_owned()),
        (200, "[]".into()),
        "nobody is told nothing"
    );
    agent.revoke(&name);
    until("the token is refused", || seen(&secret).status == 403);
}
