//! Many services with many instances each, all of them coming and going.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::agent::{self, Agent};
use crate::support::{Client, Process, process, until};

const INSTANCES: usize = 20;

/// How many services, and for how long they change.
fn sizes() -> (usize, Duration) {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let seconds = number("PILLION_TEST_CONSUL_SECONDS", 6);
    (number("PILLION_TEST_CONSUL_SERVICES", 60) as usize, Duration::from_secs(seconds))
}

/// Writes many things at once, 60 to a call.
fn put_all(agent: &Agent, operations: &[Value]) {
    for some in operations.chunks(60) {
        agent.put("/v1/txn", &json!(some).to_string());
    }
}

fn node(instance: usize) -> Value {
    let address = format!("127.0.0.{}", instance + 1);
    json!({"Node": {"Verb": "set", "Node": {"Node": format!("n{instance}"), "Address": address}}})
}

fn entry(verb: &str, service: usize, instance: usize, port: u16) -> Value {
    json!({"Service": {"Verb": verb, "Node": format!("n{instance}"), "Service": {
        "ID": format!("s{service}"), "Service": format!("s{service}"), "Port": port,
    }}})
}

/// A server on many addresses of loopback, at one port. Ends with its runtime.
fn servers() -> (u16, Runtime) {
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = first.local_addr().unwrap().port();
    let more = |n: usize| TcpListener::bind((Ipv4Addr::new(127, 0, 0, n as u8 + 1), port)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for listener in std::iter::once(first).chain((1..INSTANCES).map(more)) {
        listener.set_nonblocking(true).unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream));
            }
        });
    }
    (port, runtime)
}

/// One call, so that ten thousand endpoints hold no connections.
async fn answer(mut stream: TcpStream) {
    let mut head = vec![0; 4096];
    if stream.read(&mut head).await.is_ok_and(|read| read > 0) {
        let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
        let _ = stream.write_all(answer).await;
    }
}

/// A caller's sidecar that asks `agent`.
#[track_caller]
fn front(agent: &Agent, connections: usize) -> Process {
    let front = process("front").start();
    let file = front.folder.path().join("pillion.yaml");
    let consul = format!("consul: {{address: 'http://{}', connections: {connections}}}", agent.at);
    let text = std::fs::read_to_string(&file).unwrap();
    let changed = text.replace("static: {}", &consul);
    assert_ne!(changed, text);
    std::fs::write(&file, changed).unwrap();
    until("the file is read", || {
        front.metrics().get("pillion_config_reloads_total", &[("result", "applied")]) > 0.0
    });
    front
}

/// Answers that Consul has given: one a question.
fn questions(front: &Process) -> f64 {
    front.metrics().get("pillion_discovery_updates_total", &[("source", "consul")])
}

/// Calls one service after the other until it is told to end. Every call must
/// be answered.
fn call(at: SocketAddr, services: usize, over: &AtomicBool, answered: &AtomicUsize) {
    let mut client = Client::connect(at);
    while !over.load(Ordering::Relaxed) {
        let service = fastrand::usize(..services);
        let answer = client.get(&format!("s{service}"), "/");
        assert_eq!(answer.status, 200, "s{service}: {:?} {}", answer.reason(), answer.text());
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes instances out and puts them in again, never more than half of those of
/// a service, until it is told to end. Returns how many changes that were.
fn churn(agent: &Agent, services: usize, port: u16, over: &AtomicBool) -> usize {
    let (mut out, mut changes) = (BTreeSet::new(), 0);
    while !over.load(Ordering::Relaxed) {
        let some: BTreeSet<(usize, usize)> =
            (0..50).map(|_| (fastrand::usize(..services), fastrand::usize(..INSTANCES / 2))).collect();
        let toggle = |(service, instance): &(usize, usize)| match out.remove(&(*service, *instance)) {
            true => entry("set", *service, *instance, port),
            false => {
                out.insert((*service, *instance));
                entry("delete", *service, *instance, port)
            }
        };
        let operations: Vec<Value> = some.iter().map(toggle).collect();
        put_all(agent, &operations);
        changes += operations.len();
        std::thread::sleep(Duration::from_millis(50));
    }
    changes
}

/// With a question for each service, and with far fewer than there are services.
#[test]
fn churn_fails_no_call_and_costs_little() {
    let (services, time) = sizes();
    let limits = json!({"limits": {"http_max_conns_per_client": services + 500}});
    let agent = agent::dev().set(&limits.to_string()).start();
    let (port, _runtime) = servers();
    put_all(&agent, &(0..INSTANCES).map(node).collect::<Vec<_>>());
    let all = (0..services).flat_map(|service| (0..INSTANCES).map(move |n| entry("set", service, n, port)));
    put_all(&agent, &all.collect::<Vec<_>>());
    for connections in [services + 10, services / 5] {
        let front = front(&agent, connections);
        let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
        let mut client = Client::connect(front.outbound);
        for service in 0..services {
            assert_eq!(client.get(&format!("s{service}"), "/").status, 200);
        }
        let (each, grown, changes) = std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| call(front.outbound, services, &over, &answered));
            }
            let churn = scope.spawn(|| churn(&agent, services, port, &over));
            // Until the few questions that may follow each other at once are used up.
            std::thread::sleep(Duration::from_secs(6));
            let (asked, memory, begun) = (questions(&front), front.resident(), Instant::now());
            std::thread::sleep(time);
            let each = (questions(&front) - asked) / services as f64 / begun.elapsed().as_secs_f64();
            let grown = front.resident().saturating_sub(memory) >> 20;
            over.store(true, Ordering::Relaxed);
            (each, grown, churn.join().unwrap())
        });
        let calls = answered.load(Ordering::Relaxed);
        println!(
            "{connections} connections, {services} services: {changes} changes, {calls} calls answered, \
             {each:.2} questions a second for each service, {grown} MiB more, {} MiB in the end",
            front.resident() >> 20
        );
        assert!(changes > services && calls > 100);
        // Five at once, and less than one a second over time.
        assert!(each < 1.0 + 5.0 / time.as_secs_f64(), "{each} questions a second for each service");
        assert!(grown < 48, "{grown} MiB more");
        // What came of it all is known in the end.
        let known = |service: usize| {
            let name = format!("s{service}");
            front.metrics().get("pillion_endpoints", &[("upstream", &name)])
        };
        let stands = |service: usize| agent.healthy(&format!("s{service}")).len() as f64;
        for service in 0..services.min(20) {
            until("the last change is followed", || known(service) == stands(service));
        }
        let put_back = (0..services).flat_map(|s| (0..INSTANCES / 2).map(move |n| entry("set", s, n, port)));
        put_all(&agent, &put_back.collect::<Vec<_>>());
    }
}
