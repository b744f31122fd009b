//! Circuit breakers over the wire.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use pillion::base::{Origin, Protocol, UpstreamName};
use pillion::config::model::{
    CircuitBreaker, Fallback, Fitness, Mode, Pattern, Retry, RetryOn, Route, RoutePolicy, Rules, Scope,
    Segment, Upstream,
};
use tokio::sync::mpsc;

use crate::health::faulty::{Faulty, Mood};
use crate::support::h2peer::{Answer, Got, H2Backend, H2Client};
use crate::support::sidecar::Setup;
use crate::support::{
    Client, Recorder, Response, Server, beside_others, get, request, sidecar, until, wire::Wire,
};

const OPEN: Duration = Duration::from_millis(400);

/// Opens after three failures in a row, and closes after one good probe.
fn rules() -> Rules {
    let open_for = (OPEN, OPEN);
    Rules { consecutive_failures: 3, open_for, half_open_requests: 1, close_after: 1, ..Rules::default() }
}

fn of_route(rules: Rules) -> CircuitBreaker {
    CircuitBreaker { scope: Scope::Route, ..CircuitBreaker::new(rules) }
}

/// A sidecar with one route for every call to `users`, which ejects nobody.
fn routed(servers: &[SocketAddr], edit: impl FnOnce(&mut RoutePolicy)) -> Setup {
    let mut policy = RoutePolicy::default();
    edit(&mut policy);
    let pattern = Pattern {
        methods: Vec::new(),
        template: "/**".into(),
        segments: vec![Segment::Rest],
        host: None,
        headers: Vec::new(),
        query: Vec::new(),
        grpc: false,
    };
    let name = UpstreamName::new("users");
    let origin = Origin { file: "users.yaml".into(), line: 3, column: 5 };
    let route = Route { to: Some(name.clone()), pattern, policy, origin };
    let fitness = Fitness { ejection: None, panic: 0.0, ..Fitness::default() };
    let setup = servers.iter().fold(sidecar("front"), |setup, at| setup.upstream("users", *at));
    setup.with(|model| {
        model.upstreams.insert(name, Upstream { fitness, ..Upstream::default() });
        model.outbound.push(route);
    })
}

fn open(answer: &Response) -> bool {
    answer.reason().as_deref() == Some("circuit_open")
}

fn breaker_of(admin: SocketAddr, address: SocketAddr) -> serde_json::Value {
    let all: serde_json::Value =
        serde_json::from_slice(&get(admin, &admin.to_string(), "/clusters").body).unwrap();
    let users = all["upstreams"].as_array().unwrap().iter().find(|one| one["upstream"] == "users").unwrap();
    let endpoints = users["endpoints"].as_array().unwrap();
    let found = endpoints.iter().find(|one| one["address"] == address.to_string()).unwrap();
    found["breaker"].clone()
}

#[test]
fn it_opens_refuses_tries_and_closes() {
    let _turn = beside_others();
    let server = Faulty::start();
    let sidecar =
        routed(&[server.address()], |policy| policy.circuit_breaker = Some(of_route(rules()))).start();
    let call = || get(sidecar.at.outbound, "users", "/call");
    assert_eq!(call().status, 200);
    server.is(Mood::Says503);
    server.take();
    for _ in 0..3 {
        let answer = call();
        assert_eq!((answer.status, answer.reason()), (503, None), "the service's own");
    }
    let refused = call();
    assert!(open(&refused), "{}", refused.text());
    assert_eq!((refused.status, refused.field("retry-after").as_deref()), (503, Some("1")));
    let detail = refused.text();
    assert!(detail.contains("consecutive_failures") && detail.contains("users.yaml:3:5"), "{detail}");
    let seen = server.take();
    (0..20).for_each(|_| assert!(open(&call())));
    assert_eq!((seen, server.take()), (3, 0), "what is refused is not sent");
    let labels = [("upstream", "users"), ("route", "/**")];
    let at = |state| [labels[0], labels[1], ("state", state)];
    sidecar.metric_is("pillion_circuit_breakers", &at("open"), 1.0);
    sidecar.metric_is("pillion_circuit_breaker_refused_total", &labels, 21.0);
    std::thread::sleep(OPEN);
    assert!(!open(&call()), "a probe");
    assert!(open(&call()), "which failed");
    server.is(Mood::Well);
    std::thread::sleep(OPEN);
    (0..10).for_each(|_| assert_eq!(call().status, 200));
    let to = |state| [labels[0], labels[1], ("to", state)];
    for (state, times) in [("open", 2.0), ("half_open", 2.0), ("closed", 1.0)] {
        sidecar.metric_is("pillion_circuit_breaker_transitions_total", &to(state), times);
    }
    sidecar.metric_is("pillion_circuit_breakers", &labels, 0.0);
}

#[test]
fn a_fallback_is_answered_in_place_of_an_error() {
    let _turn = beside_others();
    let server = Faulty::start();
    server.is(Mood::Says503);
    let fallback = Fallback {
        status: http::StatusCode::OK,
        body: (*b"[]").into(),
        headers: vec![(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"))],
    };
    let breaker = CircuitBreaker { fallback: Some(Arc::new(fallback)), ..of_route(rules()) };
    // It is no failure of an attempt: nobody tries it again.
    let on = vec![RetryOn::Status(200)];
    let sidecar = routed(&[server.address()], |policy| {
        policy.circuit_breaker = Some(breaker);
        policy.retry = Some(Retry { on, ..Retry::default() });
    });
    let sidecar = sidecar.start();
    let call = || get(sidecar.at.outbound, "users", "/call");
    (0..3).for_each(|_| assert_eq!(call().status, 503));
    let answer = call();
    assert_eq!((answer.status, answer.text().as_str(), answer.reason()), (200, "[]", None));
    assert_eq!(answer.field("content-type").as_deref(), Some("application/json"));
    assert_eq!(answer.field("pillion-fallback").as_deref(), Some("circuit_open"));
    assert!(answer.field("date").is_some());
    assert_eq!(server.take(), 3);
}

#[test]
fn a_shadow_counts_and_lets_all_through() {
    let _turn = beside_others();
    for scope in [Scope::Route, Scope::Endpoint] {
        let server = Faulty::start();
        server.is(Mood::Says503);
        let breaker = CircuitBreaker { mode: Mode::Shadow, scope, ..of_route(rules()) };
        let sidecar = routed(&[server.address()], |policy| policy.circuit_breaker = Some(breaker)).start();
        (0..10).for_each(|_| assert_eq!(get(sidecar.at.outbound, "users", "/call").reason(), None));
        assert_eq!(server.take(), 10, "{scope:?}");
        let labels = [("upstream", "users"), ("mode", "shadow")];
        sidecar.metric_is("pillion_circuit_breaker_refused_total", &labels, 7.0);
        sidecar.metric_is("pillion_errors_total", &[], 0.0);
    }
}

#[test]
fn an_endpoint_that_fails_is_not_picked_and_comes_back() {
    let _turn = beside_others();
    let servers: Vec<_> = (0..3).map(|_| Faulty::start()).collect();
    let addresses: Vec<_> = servers.iter().map(Faulty::address).collect();
    let sidecar = routed(&addresses, |policy| {
        policy.circuit_breaker = Some(CircuitBreaker::new(rules()));
        policy.balance = pillion::config::model::Balance::RoundRobin;
    });
    let sidecar = sidecar.start();
    let call = || get(sidecar.at.outbound, "users", "/call");
    servers[1].is(Mood::Says503);
    let failed = (0..60).filter(|_| call().status == 503).count();
    assert!((3..=6).contains(&failed), "three, and a probe or two where it takes long: {failed}");
    assert_eq!(breaker_of(sidecar.at.admin, addresses[1]), "open");
    assert_eq!(breaker_of(sidecar.at.admin, addresses[0]), serde_json::Value::Null);
    servers.iter().for_each(|server| _ = server.take());
    servers[1].is(Mood::Well);
    until("it is called again", || {
        assert_eq!(call().status, 200);
        servers[1].take() > 0
    });
    assert_eq!(breaker_of(sidecar.at.admin, addresses[1]), serde_json::Value::Null);
    servers.iter().for_each(|server| server.is(Mood::Says503));
    let answers: Vec<_> = (0..30).map(|_| call()).collect();
    assert!(answers.iter().filter(|answer| !open(answer)).count() >= 9);
    servers.iter().for_each(|server| _ = server.take());
    let refused = call();
    assert!(open(&refused) && refused.text().contains("every endpoint"), "{}", refused.text());
    servers.iter().for_each(|server| server.is(Mood::Well));
    until("all serve", || call().status == 200);
}

#[test]
fn many_callers_at_one_time_make_no_more_probes_than_told() {
    let _turn = beside_others();
    let (at_once, most, failing) = <(AtomicUsize, AtomicUsize, AtomicUsize)>::default();
    let counts = Arc::new((at_once, most, failing));
    counts.2.store(1, SeqCst);
    let seen = counts.clone();
    let server = Server::start(move |number, stream| {
        let mut wire = Wire::new(&stream);
        while request::read(&mut wire, number).is_some() {
            let (at_once, most, failing) = &*seen;
            most.fetch_max(at_once.fetch_add(1, SeqCst) + 1, SeqCst);
            let fails = failing.load(SeqCst) == 1;
            if !fails {
                std::thread::sleep(Duration::from_millis(100));
            }
            at_once.fetch_sub(1, SeqCst);
            let status = if fails { "503 No" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            let _ = std::io::Write::write_all(&mut &stream, answer.as_bytes());
        }
    });
    for scope in [Scope::Route, Scope::Endpoint] {
        counts.2.store(1, SeqCst);
        let rules = Rules { half_open_requests: 3, close_after: 3, ..rules() };
        let breaker = CircuitBreaker { scope, ..of_route(rules) };
        let setup = routed(&[server.address()], |policy| policy.circuit_breaker = Some(breaker));
        let sidecar = setup.with(|model| model.workers = 2).start();
        let call = || get(sidecar.at.outbound, "users", "/call");
        until("it is open", || open(&call()));
        counts.2.store(0, SeqCst);
        std::thread::sleep(OPEN);
        counts.1.store(0, SeqCst);
        let answers: Vec<_> = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..200).map(|_| scope.spawn(call)).collect();
            callers.into_iter().map(|caller| caller.join().unwrap()).collect()
        });
        let served = answers.iter().filter(|answer| answer.status == 200).count();
        assert!(answers.iter().all(|answer| answer.status == 200 || open(answer)));
        // Once it has closed, all go through at one time.
        assert!(served >= 3, "{served}");
        if served == 3 {
            assert_eq!(counts.1.load(SeqCst), 3, "probes at one time");
        }
        assert_eq!(call().status, 200);
    }
}

#[test]
fn a_caller_who_goes_away_gives_a_probe_back_and_a_timeout_is_a_failure() {
    let _turn = beside_others();
    for scope in [Scope::Route, Scope::Endpoint] {
        let server = Faulty::start();
        let breaker = CircuitBreaker { scope, ..of_route(rules()) };
        let setup = routed(&[server.address()], |policy| {
            policy.circuit_breaker = Some(breaker);
            policy.timeout = pillion::config::model::Timeout::Whole(Duration::from_millis(150));
        });
        let sidecar = setup.start();
        let call = || get(sidecar.at.outbound, "users", "/call");
        server.is(Mood::Hangs);
        (0..3).for_each(|_| assert_eq!(call().reason().as_deref(), Some("timeout")));
        assert!(open(&call()), "{scope:?}");
        std::thread::sleep(OPEN);
        let mut probe = Client::connect(sidecar.at.outbound);
        server.take();
        probe.send("GET /call HTTP/1.1\r\nHost: users\r\n\r\n");
        until("the probe is there", || server.take() > 0);
        drop(probe);
        server.is(Mood::Well);
        // Its place is free as soon as the sidecar has seen that it is gone.
        until("another probe closes it", || call().status == 200);
        let labels = [("upstream", "users"), ("to", "open")];
        let reopened = sidecar.metrics().get("pillion_circuit_breaker_transitions_total", &labels);
        assert_eq!(reopened, 1.0, "{scope:?}: nobody held it against the service");
    }
}

#[test]
fn a_404_is_no_failure_unless_the_route_says_so() {
    let _turn = beside_others();
    let backend = Recorder::answering(|_| b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n".to_vec());
    for (statuses, opens) in [(vec![], false), (vec![404], true)] {
        let setup = routed(&[backend.address()], |policy| {
            policy.circuit_breaker = Some(of_route(rules()));
            policy.failures.statuses = statuses;
        });
        let sidecar = setup.start();
        (0..3).for_each(|_| assert_eq!(get(sidecar.at.outbound, "users", "/").status, 404));
        assert_eq!(open(&get(sidecar.at.outbound, "users", "/")), opens);
    }
}

fn grpc_call(client: &H2Client) -> Got {
    let request = Request::post("http://users/shop.v1.Users/Get").header("content-type", "application/grpc");
    client.call(request.body(()).unwrap(), vec![Bytes::from_static(b"\0\0\0\0\0")], None)
}

/// Ends each call with this code, in trailers after a message.
fn grpc_backend(code: &'static str) -> H2Backend {
    H2Backend::answering(move |_| Answer {
        head: http::Response::builder().header("content-type", "application/grpc").body(()).unwrap(),
        body: vec![Bytes::from_static(b"\0\0\0\0\0")],
        trailers: Some(HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static(code),
        )])),
        ..Answer::default()
    })
}

#[test]
fn the_status_that_ends_a_stream_counts() {
    let _turn = beside_others();
    for scope in [Scope::Route, Scope::Endpoint] {
        for (code, opens) in [("14", true), ("13", true), ("7", false), ("5", false), ("0", false)] {
            let backend = grpc_backend(code);
            let breaker = CircuitBreaker { scope, ..of_route(rules()) };
            let setup = routed(&[backend.address()], |policy| policy.circuit_breaker = Some(breaker));
            let sidecar = setup.start();
            let client = H2Client::connect(sidecar.at.outbound);
            for _ in 0..3 {
                assert_eq!(grpc_call(&client).trailer("grpc-status"), Some(code));
            }
            let last = grpc_call(&client);
            let refused = last.field("pillion-error") == Some("circuit_open");
            assert_eq!(refused, opens, "{code} {scope:?}: {last:?}");
            if opens {
                assert_eq!(last.field("grpc-status"), Some("14"));
                assert!(
                    last.field("retry-after").is_some() && last.field("grpc-status-details-bin").is_some()
                );
            }
        }
    }
}

#[test]
fn statuses_in_trailers_eject_an_endpoint() {
    let _turn = beside_others();
    let (bad, good) = (grpc_backend("14"), grpc_backend("0"));
    let ejection = pillion::config::model::Ejection { gateway_errors: 3, ..Default::default() };
    let setup = routed(&[bad.address(), good.address()], |policy| {
        policy.balance = pillion::config::model::Balance::RoundRobin;
    });
    let setup = setup.with(|model| {
        let block = model.upstreams.get_mut(&UpstreamName::new("users")).unwrap();
        block.fitness.ejection = Some(ejection);
        block.protocol = Protocol::Grpc;
    });
    let sidecar = setup.start();
    let client = H2Client::connect(sidecar.at.outbound);
    until("it is ejected", || {
        grpc_call(&client);
        sidecar.metrics().get("pillion_ejections_total", &[("cause", "gateway_errors")]) == 1.0
    });
    until("all are served", || (0..6).all(|_| grpc_call(&client).trailer("grpc-status") == Some("0")));
}

#[test]
fn a_reload_that_does_not_change_it_keeps_its_state() {
    let _turn = beside_others();
    let server = Faulty::start();
    server.is(Mood::Says503);
    let long = Rules { open_for: (Duration::from_secs(60), Duration::from_secs(60)), ..rules() };
    let model = |breaker: CircuitBreaker| {
        routed(&[server.address()], |policy| policy.circuit_breaker = Some(breaker))
    };
    let (models, reloads) = mpsc::channel(1);
    let sidecar = model(of_route(long.clone())).options(|options| options.reloads = Some(reloads)).start();
    let call = || get(sidecar.at.outbound, "users", "/call");
    until("it is open", || open(&call()));
    server.is(Mood::Well);
    let apply = |setup: Setup, version: f64| {
        let mut model = setup.finished_model();
        let now = sidecar.app().model().borrow().clone();
        model.listen = now.listen.clone();
        models.blocking_send(Arc::new(model)).unwrap();
        sidecar.metric_is("pillion_config_version", &[], version);
    };
    let began = Instant::now();
    let other = model(of_route(long.clone())).with(|model| model.limits.target = 9000);
    apply(other, 2.0);
    while began.elapsed() < Duration::from_millis(300) {
        assert!(open(&call()), "it is as open as before");
    }
    sidecar.metric_is("pillion_circuit_breakers", &[("state", "open")], 1.0);
    apply(model(of_route(Rules { consecutive_failures: 4, ..long })), 3.0);
    until("another policy begins anew", || call().status == 200);
    sidecar.metric_is("pillion_circuit_breakers", &[("state", "open")], 0.0);
}
