//! Instances by a prepared query, and the nearest of them.

use std::time::Duration;

use pillion::base::UpstreamName;
use serde_json::json;

use super::agent::{self, Agent};
use super::found::{backends, front, id, register, until_known};
use crate::support::{Recorder, Sidecar, get, until};

const SECOND: Duration = Duration::from_secs(1);

/// Makes a prepared query. Returns its id.
#[track_caller]
fn prepare(agent: &Agent, query: &serde_json::Value) -> String {
    let answer = agent.call("POST", "/v1/query", &query.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    let made: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    made["ID"].as_str().unwrap().to_owned()
}

#[test]
fn a_prepared_query_is_followed() {
    let agent = agent::dev().start();
    let [one, two] = backends();
    register(&agent, one.address());
    let well = json!({"Name": "well-users", "Service": {"Service": "users", "OnlyPassing": true}});
    let query = prepare(&agent, &well);
    let front = front(&agent, |consul| {
        consul.queries.insert(UpstreamName::new("users"), "well-users".into());
        consul.query_interval = SECOND;
        consul.keep_lost = SECOND * 3;
    });
    assert_eq!(get(front.at.outbound, "users", "/").status, 200);
    register(&agent, two.address());
    let took = until_known(&front, 2);
    assert!(took < SECOND * 2, "the interval is a second: {took:?}");
    agent.put(&format!("/v1/agent/check/fail/{}", id(two.address())), "");
    let took = until_known(&front, 1);
    assert!(took < SECOND * 2, "{took:?}");
    // Somebody deletes the query: its instances are kept for `keep_lost`.
    let answer = agent.call("DELETE", &format!("/v1/query/{query}"), "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    std::thread::sleep(SECOND * 2);
    assert_eq!(get(front.at.outbound, "users", "/").status, 200);
    let reason = || get(front.at.outbound, "users", "/").reason();
    until("they are given up", || reason().as_deref() == Some("no_endpoint"));
    prepare(&agent, &well);
    until("the query is there again", || get(front.at.outbound, "users", "/").status == 200);
}

/// A node at a distance, in seconds, from the first of all coordinates, with one
/// instance of `users`.
#[track_caller]
fn node(agent: &Agent, name: &str, at: f64, instance: &Recorder) {
    let address = instance.address();
    let body = json!({
        "Node": name, "Address": address.ip(),
        "Service": {"ID": name, "Service": "users", "Address": address.ip(), "Port": address.port()},
    });
    agent.put("/v1/catalog/register", &body.to_string());
    let mut place = [0.0; 8];
    place[0] = at;
    let place = json!({"Vec": place, "Error": 0.1, "Adjustment": 0.0, "Height": 0.0001});
    agent.put("/v1/coordinate/update", &json!({"Node": name, "Coord": place}).to_string());
}

/// Waits until calls go to this one alone.
#[track_caller]
fn goes_to(front: &Sidecar, instance: &Recorder, other: &Recorder) {
    until("the nearest is called", || {
        instance.take();
        other.take();
        let answers = (0..4).filter(|_| get(front.at.outbound, "users", "/").status == 200).count();
        answers == 4 && other.take().is_empty() && instance.take().len() == 4
    });
}

#[test]
fn the_nearest_instances_are_used() {
    let agent = agent::dev().start();
    let [here, there] = backends();
    node(&agent, "here", 0.001, &here);
    node(&agent, "there", 0.5, &there);
    // Consul takes coordinates over every few seconds.
    until("the coordinates are known", || agent.get("/v1/coordinate/nodes").as_array().unwrap().len() >= 2);
    for (near, nearest, other) in [("here", &here, &there), ("there", &there, &here)] {
        let front = front(&agent, |consul| {
            consul.instances.near = Some(near.into());
            consul.instances.limit = Some(1);
        });
        goes_to(&front, nearest, other);
        assert_eq!(until_known(&front, 1).as_secs(), 0, "no more than `limit`");
    }
    let any = front(&agent, |consul| consul.instances.near = Some("_agent".into()));
    assert_eq!(get(any.at.outbound, "users", "/").status, 200);
    until_known(&any, 2);
}
