//! The sidecar in a cluster: a real kube-apiserver, pods and the sidecar in
//! network namespaces of their own. No controller runs: the test writes the
//! EndpointSlices itself.
//!
//! It takes root, and the API server of tests/parts/kube-apiserver, which takes
//! minutes to build: `tests/parts/slow/kubernetes.sh` builds it and runs this.
#![allow(missing_docs)]
// A test fails by a panic.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod load;
#[allow(dead_code, reason = "shared with the tests of capture")]
#[path = "../netns/place.rs"]
mod place;
#[allow(dead_code, unused_imports, reason = "shared with the tests in process")]
#[path = "../it/support/mod.rs"]
mod support;
mod world;

use std::time::{Duration, Instant};

use world::{World, within};

/// How often each change is made and measured.
const ROUNDS: usize = 10;
const SECOND: Duration = Duration::from_secs(1);

/// How long the API server is away; 2 minutes in `make test-all`.
fn away() -> Duration {
    let seconds = std::env::var("PILLION_TEST_AWAY").ok().map(|text| text.parse().unwrap());
    Duration::from_secs(seconds.unwrap_or(20))
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    println!(
        "{what}: median {:?}, longest {:?} of {}",
        times[times.len() / 2],
        times[times.len() - 1],
        times.len()
    );
    assert!(*times.last().unwrap() < SECOND, "{what}: {times:?}");
}

#[test]
fn endpoints_are_followed_within_a_second() {
    let mut world = World::new();
    world.slice("users-a", &[(11, "ready")]);
    world.start();
    let load = world.load("users");
    within("the first answer", || load.saw("pod11", Instant::now() - SECOND));
    let (mut created, mut changed, mut ended, mut deleted) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        world.slice("users-b", &[(12, "ready")]);
        created.push(load.first("pod12", began));
        let began = Instant::now();
        world.slice("users-b", &[(12, "ready"), (13, "ready")]);
        changed.push(load.first("pod13", began));
        let began = Instant::now();
        world.slice("users-b", &[(12, "ready"), (13, "ends")]);
        ended.push(load.last("pod13", began));
        let began = Instant::now();
        world.delete("users-b");
        deleted.push(load.last("pod12", began));
    }
    show("a slice created", created);
    show("an endpoint added", changed);
    show("an endpoint that ends", ended);
    show("a slice deleted", deleted);
    // Where none is ready, one that ends is used.
    world.slice("users-a", &[(11, "ends")]);
    std::thread::sleep(SECOND);
    assert!(load.saw("pod11", Instant::now() - SECOND / 2));
    load.end_without_failures();
    let asked = world.asked();
    assert_eq!(asked.len(), 4, "two lists and two watches: {asked:#?}");
}

#[test]
fn many_services_are_followed_at_once() {
    // Two watches each; the server allows 100 on a connection.
    const SERVICES: usize = 120;
    let mut world = World::new();
    world.slice("users-a", &[(11, "ready")]);
    let names: Vec<String> = (0..SERVICES).map(|number| format!("many{number}")).collect();
    for name in &names {
        world.service(name);
        world.slice_of(name, name, &[(11, "ready")]);
    }
    world.start();
    let began = Instant::now();
    for name in &names {
        assert_eq!(world.get(name), (200, "pod11".into()), "{name}");
    }
    println!("{SERVICES} Services found one after the other in {:?}", began.elapsed());
    let mut followed = Vec::new();
    for name in names.iter().step_by(7).chain(names.last()) {
        let began = Instant::now();
        world.slice_of(name, name, &[(12, "ready")]);
        within(name, || world.get(name) == (200, "pod12".into()));
        followed.push(began.elapsed());
    }
    show("an endpoint replaced, of 120 Services", followed);
    let connections = world.connections();
    println!("{connections} connections to the server");
    assert!((6..=8).contains(&connections), "{connections}");
}

#[test]
fn an_api_server_may_be_away_and_forget() {
    let mut world = World::new();
    world.slice("users-a", &[(11, "ready"), (12, "ready")]);
    world.start();
    let load = world.load("users");
    within("the first answer", || load.saw("pod12", Instant::now() - SECOND));

    // It is stopped, and then its machine is gone too.
    let away = away();
    world.server = None;
    std::thread::sleep(away / 2);
    world.link_to_server("down");
    std::thread::sleep(away / 2);
    // It comes back elsewhere first, so that the history is gone when we see it.
    world.start_server();
    world.slice("users-a", &[(12, "ready"), (13, "ready")]);
    for round in 0..20 {
        world.slice("users-other", &[(12, if round % 2 == 0 { "ready" } else { "ends" })]);
    }
    world.compact();
    // What a server has seen itself it also remembers without etcd.
    world.server = None;
    world.start_server();
    world.forget_asked();
    assert!(!load.saw("pod13", Instant::now() - SECOND), "nobody has told");
    let began = Instant::now();
    world.link_to_server("up");
    println!("known {:?} after the server was back", load.first("pod13", began));
    std::thread::sleep(SECOND);
    assert!(!load.saw("pod11", Instant::now() - SECOND / 2));
    std::thread::sleep(Duration::from_secs(10));
    let asked = world.asked();
    println!("requests after the server was back: {asked:#?}");
    assert!(asked.len() <= 12, "{asked:#?}");
    assert_eq!(
        asked.iter().filter(|line| line.starts_with("list")).count(),
        2,
        "both versions are forgotten"
    );
    // And it is followed as before.
    let began = Instant::now();
    world.slice("users-a", &[(12, "ready"), (14, "ready")]);
    let written = began.elapsed();
    let first = load.first("pod14", began);
    println!("written in {written:?}, followed after {first:?}");
    assert!(first < SECOND);
    load.end_without_failures();
}

#[test]
fn a_token_is_replaced_and_the_role_is_enough() {
    let mut world = World::new();
    world.slice("users-a", &[(11, "ready")]);
    world.start();
    let load = world.load("users");
    within("the first answer", || load.saw("pod11", Instant::now() - SECOND));
    // Nothing but what the docs allow was asked for, and nothing was refused.
    assert_eq!(world.refused(), 0, "{:#?}", world.asked());
    // Another namespace is not in the role.
    let (status, answer) = world.get("users.kube-system");
    assert_eq!(status, 503, "{answer}");
    assert!(answer.contains("forbidden"), "{answer}");

    // The account is made anew: its tokens hold no more, and the watches end.
    world.new_account();
    world.server = None;
    world.start_server();
    within("the old token is refused", || world.says("Unable to authenticate the request"));
    let began = Instant::now();
    world.new_token();
    world.slice("users-a", &[(11, "ready"), (12, "ready")]);
    println!("known {:?} after the token was replaced", load.first("pod12", began));
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    load.end_without_failures();
}
