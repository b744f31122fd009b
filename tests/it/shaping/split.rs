//! Calls that are divided among services.

use std::collections::BTreeMap;

use super::with_policy;
use crate::support::h2peer::{H2Backend, H2Client};
use crate::support::{Client, Deaf, Recorder, beside_others, sidecar};

const SPLIT: &str = "
outbound:
  - {to: users, split: {users: 80, users-v2: 20, users-v3: 0}}
  - {to: users, route: /v2/**, split: {users-v2: 1}}
  - {to: users, route: /by-header, split: {users: 1, users-v2: 1}, sticky: {header: x-user}}
  - {to: users, route: /by-cookie, split: {users: 1, users-v2: 1}, sticky: {cookie: session}}
";

#[test]
fn calls_follow_the_weights_and_count_where_they_went() {
    let _turn = beside_others();
    let (old, new) = (Recorder::start(), Recorder::start());
    let setup = sidecar("front").upstream("users", old.address()).upstream("users-v2", new.address());
    let sidecar = with_policy(setup.empty("users-v3"), SPLIT).start();
    let mut client = Client::connect(sidecar.at.outbound);
    for _ in 0..500 {
        assert_eq!(client.get("users", "/").status, 200);
    }
    let (first, second) = (old.take(), new.take());
    assert_eq!(first.len() + second.len(), 500);
    // Five standard deviations.
    assert!((55..=145).contains(&second.len()), "{}", second.len());
    assert_eq!(second[0].field("host").as_deref(), Some("users"), "the host is the caller's");
    for (name, count) in [("users", first.len()), ("users-v2", second.len()), ("users-v3", 0)] {
        let metric = "http_client_request_duration_seconds_count";
        sidecar.metric_is(metric, &[("upstream", name)], count as f64);
    }
    client.get("users", "/v2/x");
    assert_eq!((old.take().len(), new.take().len()), (0, 1));
    // The service that takes a share has its own name as well.
    client.get("users-v2", "/");
    assert_eq!((old.take().len(), new.take().len()), (0, 1));
}

#[test]
fn a_caller_stays_where_it_is() {
    let _turn = beside_others();
    let (old, new) = (H2Backend::start(), H2Backend::start());
    let setup = sidecar("front").upstream("users", old.address()).upstream("users-v2", new.address());
    let sidecar = with_policy(setup, SPLIT).start();
    let client = H2Client::connect(sidecar.at.outbound);
    for (path, header) in [("/by-header", "x-user"), ("/by-cookie", "cookie")] {
        let mut homes = BTreeMap::new();
        for _ in 0..3 {
            for user in 0..20 {
                let value =
                    if header == "cookie" { format!("a=b; session={user}") } else { user.to_string() };
                let request = http::Request::get(format!("http://users{path}")).header(header, value);
                assert_eq!(client.call(request.body(()).unwrap(), Vec::new(), None).status(), 200);
                let home = (old.take().len(), new.take().len());
                assert_eq!(*homes.entry(user).or_insert(home), home, "{path} {user}");
            }
        }
        let at_old = homes.values().filter(|home| **home == (1, 0)).count();
        assert!((1..20).contains(&at_old), "{path}: {at_old} of 20");
    }
}

#[test]
fn a_retry_keeps_the_choice() {
    let _turn = beside_others();
    let (fine, nobody) = (Recorder::start(), Deaf::new());
    let policy = "
outbound:
  - to: users
    split: {users: 1, users-v2: 1}
    retry: {max: 3, on: [connect, 503], backoff: 1ms..2ms, budget: 100%}
";
    let setup = sidecar("front").upstream("users", fine.address()).upstream("users-v2", nobody.address());
    let sidecar = with_policy(setup, policy).start();
    let mut client = Client::connect(sidecar.at.outbound);
    let mut failed = 0;
    for _ in 0..100 {
        let answer = client.get("users", "/");
        match answer.status {
            200 => {}
            _ => {
                assert_eq!(answer.reason().as_deref(), Some("connect_refused"), "{}", answer.text());
                failed += 1;
            }
        }
    }
    assert!((20..=80).contains(&failed), "{failed} of 100");
    assert_eq!(fine.take().len(), 100 - failed, "no attempt of a failed call came here");
    assert!(sidecar.metrics().get("pillion_retries_total", &[("upstream", "users-v2")]) > 0.0);
    assert_eq!(sidecar.metrics().get("pillion_retries_total", &[("upstream", "users")]), 0.0);
}
