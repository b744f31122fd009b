//! `${consul:key}` in the files, followed live.

use std::time::Duration;

use super::agent::{self, Agent};
use crate::support::process::Setup;
use crate::support::{Process, Recorder, get, process, until};

const POLICY: &str = "version: 1\ninbound:\n  - route: /v1/${consul:config/users/path}\n    timeout: ${consul:config/users/timeout:-2s}\n";

fn setup(agent: &Agent, service: &Recorder, policy: &str) -> Setup {
    process("users")
        .service(service.address(), "http1")
        .discovery(&format!("consul: {{address: 'http://{}'}}", agent.at))
        .policy(policy)
}

/// Waits until the only route is this one.
#[track_caller]
fn route_is(sidecar: &Process, path: &str, timeout: &str) {
    let wanted = [format!("/v1/{path}"), format!("\"{timeout}\"")];
    let dump = || get(sidecar.admin, &sidecar.admin.to_string(), "/config_dump").text();
    until(&format!("{wanted:?}"), || wanted.iter().all(|wanted| dump().contains(wanted)));
}

fn rejected(sidecar: &Process) -> f64 {
    sidecar.metrics().get("pillion_config_rejected", &[])
}

#[test]
fn values_are_there_at_the_start_and_followed() {
    let mut agent = agent::lone().start();
    let key = |name: &str| format!("/v1/kv/config/users/{name}");
    agent.put(&key("path"), "one\n");
    let service = Recorder::start();
    let users = setup(&agent, &service, POLICY).start();
    route_is(&users, "one", "2s");
    agent.put(&key("path"), "two");
    route_is(&users, "two", "2s");
    agent.put(&key("timeout"), "700ms");
    route_is(&users, "two", "700ms");

    // What is wrong stays out, and is said with its place and without the value.
    agent.put(&key("timeout"), "s3cr3t");
    until("the value is refused", || rejected(&users) == 1.0);
    until("its place is said", || users.said().contains("routes.yaml:4:14: "));
    assert!(!users.said().contains("s3cr3t"), "{}", users.said());
    route_is(&users, "two", "700ms");
    agent.put(&key("timeout"), "800ms");
    route_is(&users, "two", "800ms");
    assert_eq!(rejected(&users), 0.0);

    // Gone: the default, and where there is none what was there.
    assert_eq!(agent.call("DELETE", &key("timeout"), "").status, 200);
    route_is(&users, "two", "2s");
    assert_eq!(agent.call("DELETE", &key("path"), "").status, 200);
    until("a value that is missing is refused", || rejected(&users) == 1.0);
    until("and which one", || {
        users.said().contains("routes.yaml:3:12: Consul has no key `config/users/path`")
    });
    route_is(&users, "two", "2s");
    agent.put(&key("path"), "three");
    route_is(&users, "three", "2s");

    // Consul that is down changes nothing, and is followed when it is back.
    agent.kill();
    std::thread::sleep(Duration::from_secs(1));
    route_is(&users, "three", "2s");
    assert_eq!(rejected(&users), 0.0);
    agent.again();
    agent.leads();
    agent.put(&key("path"), "four");
    route_is(&users, "four", "2s");

    // A reload may name another key.
    agent.put("/v1/kv/other", "five");
    users.policy("version: 1\ninbound:\n  - route: /v1/${consul:other}\n    timeout: 2s\n");
    route_is(&users, "five", "2s");
    let asked = |what| users.metrics().get("pillion_config_reloads_total", &[("result", what)]);
    assert_eq!(asked("rejected"), 2.0, "{}", users.said());
}

#[test]
fn a_consul_that_forgets_takes_nothing_away() {
    let mut agent = agent::dev().start();
    agent.put("/v1/kv/config/users/path", "one");
    agent.put("/v1/kv/config/users/timeout", "1s");
    let service = Recorder::start();
    let users = setup(&agent, &service, POLICY).start();
    route_is(&users, "one", "1s");
    agent.kill();
    agent.again();
    agent.leads();
    until("the loss is told", || users.said().contains("seems to have lost a value"));
    route_is(&users, "one", "1s");
    assert_eq!(rejected(&users), 0.0);
    agent.put("/v1/kv/config/users/timeout", "3s");
    route_is(&users, "one", "3s");
}

#[test]
fn without_consul_it_starts_with_defaults_or_not_at_all() {
    let mut agent = agent::dev().start();
    agent.kill();
    let service = Recorder::start();
    let policy = POLICY.replace("path}", "path:-none}");
    let users = setup(&agent, &service, &policy).start();
    route_is(&users, "none", "2s");
    until("it is said", || users.said().contains("its default is used"));
    let (code, said) = setup(&agent, &service, POLICY).refused();
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("routes.yaml:3:12: Consul did not tell the key `config/users/path`"), "{said}");
    // The value comes when Consul does.
    agent.again();
    agent.leads();
    agent.put("/v1/kv/config/users/path", "one");
    route_is(&users, "one", "2s");
}
