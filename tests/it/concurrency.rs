//! Limits of calls at one time: what counts, until when, who is refused first.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use http::Request;
use pillion::base::{Origin, UpstreamName};
use pillion::config::Model;
use pillion::config::model::{
    Bounds, Ceiling, CircuitBreaker, Concurrency, Mode, Occupancy, Pattern, Place, Priority, Retry, Route,
    RoutePolicy, Rules, Scope,
};
use tokio::sync::mpsc;

use crate::errors::grpc::Status;
use crate::support::h2peer::H2Client;
use crate::support::sidecar::Setup;
use crate::support::{Client, Recorder, Response, Server, Sidecar, beside_others, get, sidecar, until};

/// So many calls to `users` at one time.
pub fn limit(max: usize) -> Concurrency {
    Concurrency {
        rules: Occupancy {
            limit: Ceiling::Fixed(max),
            pending: 0,
            wait: Duration::from_millis(100),
            priority: None,
        },
        mode: Mode::Enforce,
        place: Arc::new(Place {
            gateway: None,
            to: Some(UpstreamName::new("users")),
            route: "/**".into(),
            conditions: "".into(),
        }),
        origin: Origin { file: "users.yaml".into(), line: 8, column: 7 },
    }
}

fn with(rules: impl FnOnce(&mut Occupancy), max: usize) -> Concurrency {
    let mut limit = limit(max);
    rules(&mut limit.rules);
    limit
}

/// A route of calls to `users`.
fn route(model: &mut Model, template: &str, edit: impl FnOnce(&mut RoutePolicy)) {
    let mut policy = RoutePolicy::default();
    edit(&mut policy);
    model.outbound.push(Route {
        to: Some(UpstreamName::new("users")),
        pattern: Pattern::parse(template).unwrap(),
        policy,
        origin: Origin { file: "users.yaml".into(), line: 3, column: 5 },
    });
}

fn limited(address: SocketAddr, limits: Vec<Concurrency>) -> Setup {
    let setup = sidecar("front").upstream("users", address);
    setup.with(|model| route(model, "/**", |policy| policy.concurrency = limits))
}

/// A service that answers when it is told to: the head and half of the body, and
/// later the other half.
struct Slow {
    server: Server,
    told: Arc<Told>,
}

#[derive(Default)]
struct Told {
    came: AtomicUsize,
    heads: AtomicUsize,
    tails: AtomicUsize,
    stream: AtomicBool,
    ended: AtomicBool,
}

/// More than there are calls.
const ALL: usize = 1 << 30;

impl Told {
    fn wait(&self, permits: &AtomicUsize) -> bool {
        while permits.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_err() {
            if self.ended.load(SeqCst) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    fn serve(&self, stream: TcpStream) {
        let mut wire = crate::support::wire::Wire::new(stream.try_clone().unwrap());
        let mut stream = stream;
        while wire.line(true).is_ok_and(|line| !line.is_empty()) && wire.fields().is_ok() {
            self.came.fetch_add(1, SeqCst);
            if !self.wait(&self.heads) {
                return;
            }
            let head: &[u8] = match self.stream.load(SeqCst) {
                true => b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 4\r\n\r\nab",
                false => b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab",
            };
            if stream.write_all(head).is_err() || !self.wait(&self.tails) || stream.write_all(b"cd").is_err()
            {
                return;
            }
        }
    }
}

impl Slow {
    fn start() -> Self {
        let told = Arc::new(Told::default());
        let server = Server::start({
            let told = told.clone();
            move |_, stream| told.serve(stream)
        });
        Self { server, told }
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn came(&self, count: usize) {
        until(&format!("{count} calls at the service"), || self.told.came.load(SeqCst) >= count);
        assert_eq!(self.told.came.load(SeqCst), count);
    }

    fn go_on(&self) {
        self.told.heads.store(ALL, SeqCst);
        self.told.tails.store(ALL, SeqCst);
    }

    fn stop(&self) {
        self.told.heads.store(0, SeqCst);
        self.told.tails.store(0, SeqCst);
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.told.ended.store(true, SeqCst);
    }
}

/// Sends a call, whose answer is read later.
fn send(sidecar: &Sidecar, fields: &str) -> Client {
    let mut client = Client::connect(sidecar.at.outbound);
    client.send(format!("GET / HTTP/1.1\r\nHost: users\r\n{fields}\r\n"));
    client
}

fn refused(answer: &Response) -> bool {
    let refused = answer.reason().as_deref() == Some("concurrency_limit");
    assert_eq!(answer.status, if refused { 503 } else { 200 }, "{}", answer.text());
    refused
}

fn count_refused(clients: &mut [Client]) -> usize {
    clients.iter_mut().map(|client| usize::from(refused(&client.read("GET")))).sum()
}

fn call(sidecar: &Sidecar) -> Response {
    get(sidecar.at.outbound, "users", "/")
}

const LABELS: [(&str, &str); 3] = [("direction", "outbound"), ("upstream", "users"), ("route", "/**")];

/// Until nobody is inside: a call that has ended may be told of a moment later.
fn empty(sidecar: &Sidecar) {
    sidecar.metric_is("pillion_concurrency_in_use", &LABELS, 0.0);
}

#[test]
fn as_many_calls_are_let_in_as_the_limit_says_over_all_workers() {
    let _turn = beside_others();
    let slow = Slow::start();
    let setup = limited(slow.address(), vec![limit(5)]).with(|model| model.workers = 2);
    let sidecar = setup.start();
    for round in 1..=3 {
        slow.stop();
        let mut clients: Vec<_> = (0..30).map(|_| send(&sidecar, "")).collect();
        sidecar.metric_is("pillion_concurrency_refused_total", &LABELS, f64::from(25 * round));
        slow.came(5 * round as usize);
        slow.go_on();
        let count = count_refused(&mut clients);
        assert_eq!(count, 25);
        empty(&sidecar);
    }
    sidecar.metric_is("pillion_concurrency_limit", &LABELS, 5.0);
    let answer = call(&sidecar);
    assert!(!refused(&answer));
}

#[test]
fn a_refused_caller_is_told_why_and_when_to_come_back() {
    let _turn = beside_others();
    let slow = Slow::start();
    let sidecar = limited(slow.address(), vec![limit(1)]).start();
    let mut first = send(&sidecar, "");
    slow.came(1);
    let answer = call(&sidecar);
    assert!(refused(&answer));
    assert_eq!(answer.field("retry-after").as_deref(), Some("1"));
    let text = answer.text();
    assert!(text.contains("at most 1 calls at one time") && text.contains("users.yaml:8:7"), "{text}");
    let head = Request::post("http://users/pay.v1.Pay/Charge").header("content-type", "application/grpc");
    let got = H2Client::connect(sidecar.at.outbound).call(head.body(()).unwrap(), Vec::new(), None);
    assert_eq!((got.status(), got.field("grpc-status")), (200, Some("14")));
    let status = Status::decode(got.field("grpc-status-details-bin").unwrap());
    assert_eq!(status.error_info.unwrap().reason, "CONCURRENCY_LIMIT");
    assert_eq!(status.retry_delay, Some(1));
    slow.go_on();
    assert_eq!(first.read("GET").status, 200);
}

#[test]
fn a_call_counts_until_its_answer_has_ended() {
    let _turn = beside_others();
    let slow = Slow::start();
    let sidecar = limited(slow.address(), vec![limit(1)]).start();
    let mut first = send(&sidecar, "");
    slow.told.heads.store(1, SeqCst);
    assert_eq!(first.read_head().unwrap().status, 200);
    assert!(refused(&call(&sidecar)), "the answer has begun, and not ended");
    slow.go_on();
    until("room", || !refused(&call(&sidecar)));
}

#[test]
fn a_caller_that_goes_away_makes_room() {
    let _turn = beside_others();
    let slow = Slow::start();
    let sidecar = limited(slow.address(), vec![limit(1)]).start();
    // Before the head of the answer, within its body, and by a reset of its stream.
    for round in 0..3 {
        slow.stop();
        let before = slow.told.came.load(SeqCst);
        match round {
            0 => drop({
                let client = send(&sidecar, "");
                slow.came(before + 1);
                client
            }),
            1 => {
                slow.told.heads.store(1, SeqCst);
                let mut client = send(&sidecar, "");
                client.read_head().unwrap();
            }
            _ => {
                let client = H2Client::connect(sidecar.at.outbound);
                client.block_on(async {
                    let head = Request::get("http://users/").body(()).unwrap();
                    let mut sender = client.sender().ready().await.unwrap();
                    let (answer, _) = sender.send_request(head, true).unwrap();
                    let _ = tokio::time::timeout(Duration::from_millis(200), answer).await;
                });
                slow.came(before + 1);
            }
        }
        slow.go_on();
        until("room", || !refused(&call(&sidecar)));
        empty(&sidecar);
    }
}

#[test]
fn what_matters_less_is_refused_first() {
    let _turn = beside_others();
    let slow = Slow::start();
    let priority = Priority::of("x-priority".parse().unwrap());
    let limits = vec![with(|rules| rules.priority = Some(priority), 10)];
    let sidecar = limited(slow.address(), limits).start();
    let mut sent = Vec::new();
    for (level, inside, count) in [("low", 5, 8), ("other", 3, 8), ("HIGH", 2, 8)] {
        let before = slow.told.came.load(SeqCst);
        sent.extend((0..count).map(|_| send(&sidecar, &format!("x-priority: {level}\r\n"))));
        let name = if level == "other" { "others" } else { &level.to_lowercase() };
        let labels = [LABELS[1], ("priority", name)];
        sidecar.metric_is("pillion_concurrency_refused_total", &labels, f64::from(count - inside));
        slow.came(before + inside as usize);
    }
    slow.go_on();
    assert_eq!(count_refused(&mut sent), 14);
}

#[test]
fn some_may_wait_for_a_while() {
    let _turn = beside_others();
    let slow = Slow::start();
    let waits = |rules: &mut Occupancy| {
        rules.pending = 2;
        rules.wait = Duration::from_millis(700);
    };
    let setup = limited(slow.address(), vec![with(waits, 1)]).with(|model| model.workers = 2);
    let sidecar = setup.start();
    let mut first = send(&sidecar, "");
    slow.came(1);
    let mut others: Vec<_> = (0..3).map(|_| send(&sidecar, "")).collect();
    sidecar.metric_is("pillion_concurrency_refused_total", &LABELS, 1.0);
    slow.told.heads.store(1, SeqCst);
    slow.told.tails.store(1, SeqCst);
    assert_eq!(first.read("GET").status, 200);
    slow.came(2);
    // One was served, and one has waited for too long.
    sidecar.metric_is("pillion_concurrency_refused_total", &LABELS, 2.0);
    slow.go_on();
    assert_eq!(count_refused(&mut others), 2);
    slow.stop();
    let mut again = [send(&sidecar, ""), send(&sidecar, ""), send(&sidecar, "")];
    let begun = Instant::now();
    slow.go_on();
    assert_eq!(count_refused(&mut again), 0);
    assert!(begun.elapsed() < Duration::from_millis(500), "each is let in when another has ended");
    empty(&sidecar);
}

#[test]
fn whoever_goes_away_while_it_waits_leaves_no_trace() {
    let _turn = beside_others();
    let slow = Slow::start();
    let waits = |rules: &mut Occupancy| {
        rules.pending = 5;
        rules.wait = Duration::from_secs(10);
    };
    let sidecar = limited(slow.address(), vec![with(waits, 1)]).start();
    let first = send(&sidecar, "");
    slow.came(1);
    let waiting: Vec<_> = (0..5).map(|_| send(&sidecar, "")).collect();
    sidecar.metric_is("pillion_concurrency_waiting", &LABELS, 5.0);
    drop(waiting);
    sidecar.metric_is("pillion_concurrency_waiting", &LABELS, 0.0);
    drop(first);
    slow.go_on();
    empty(&sidecar);
    assert!(!refused(&call(&sidecar)));
}

#[test]
fn a_route_and_its_upstream_both_limit() {
    let _turn = beside_others();
    let slow = Slow::start();
    let place = |route: &str| Arc::new(Place { route: route.into(), ..Place::clone(&limit(1).place) });
    let whole = Concurrency { place: place(""), ..limit(3) };
    let narrow = Concurrency { place: place("/narrow"), ..limit(1) };
    let setup = sidecar("front").upstream("users", slow.address()).with(|model| {
        route(model, "/narrow", |policy| policy.concurrency = vec![narrow, whole.clone()]);
        route(model, "/**", |policy| policy.concurrency = vec![whole]);
    });
    let sidecar = setup.start();
    let to = |path: &str| {
        let mut client = Client::connect(sidecar.at.outbound);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: users\r\n\r\n"));
        client
    };
    let mut sent = vec![to("/narrow")];
    slow.came(1);
    assert!(refused(&to("/narrow").read("GET")), "by the route");
    sent.extend([to("/a"), to("/b")]);
    slow.came(3);
    assert!(refused(&to("/c").read("GET")), "by the upstream");
    slow.go_on();
    sent.iter_mut().for_each(|client| assert!(!refused(&client.read("GET"))));
}

#[test]
fn a_shadow_counts_and_refuses_nobody() {
    let _turn = beside_others();
    let slow = Slow::start();
    let shadow = Concurrency { mode: Mode::Shadow, ..limit(1) };
    let sidecar = limited(slow.address(), vec![shadow]).start();
    let mut sent: Vec<_> = (0..4).map(|_| send(&sidecar, "")).collect();
    slow.came(4);
    sidecar.metric_is("pillion_concurrency_refused_total", &[LABELS[1], ("mode", "shadow")], 3.0);
    slow.go_on();
    sent.iter_mut().for_each(|client| assert!(!refused(&client.read("GET"))));
    empty(&sidecar);
}

#[test]
fn a_stream_without_an_end_counts_for_a_fixed_limit_only() {
    let _turn = beside_others();
    let bounds = Bounds { min: 1, start: 1, max: 1, tolerance: 2.0 };
    for (ceiling, counts) in [(Ceiling::Fixed(1), true), (Ceiling::Adaptive(bounds), false)] {
        let slow = Slow::start();
        slow.told.stream.store(true, SeqCst);
        slow.told.heads.store(ALL, SeqCst);
        let sidecar = limited(slow.address(), vec![with(|rules| rules.limit = ceiling, 0)]).start();
        let mut first = send(&sidecar, "");
        assert_eq!(first.read_head().unwrap().status, 200);
        let mut second = send(&sidecar, "");
        assert_eq!(second.read_head().unwrap().status, if counts { 503 } else { 200 });
        slow.go_on();
    }
}

#[test]
fn a_reload_that_does_not_change_it_keeps_its_count() {
    let _turn = beside_others();
    let slow = Slow::start();
    let model = |max| limited(slow.address(), vec![limit(max)]);
    let (models, reloads) = mpsc::channel(1);
    let sidecar = model(1).options(|options| options.reloads = Some(reloads)).start();
    let mut first = send(&sidecar, "");
    slow.came(1);
    let reload = |setup: Setup, version: f64| {
        models.blocking_send(Arc::new(setup.finished_model())).unwrap();
        sidecar.metric_is("pillion_config_version", &[], version);
    };
    reload(model(1).with(|model| model.limits.target = 9000), 2.0);
    (0..5).for_each(|_| assert!(refused(&call(&sidecar))));
    slow.go_on();
    assert_eq!(first.read("GET").status, 200);
    reload(model(0).with(|model| model.limits.target = 9000), 3.0);
    until("the new limit", || refused(&call(&sidecar)));
}

#[test]
fn an_endpoint_that_is_full_is_passed_over_and_not_blamed() {
    let _turn = beside_others();
    let full = Recorder::answering(|_| {
        let head = "HTTP/1.1 503 No\r\npillion-error: concurrency_limit\r\nRetry-After: 1\r\n";
        format!("{head}Content-Length: 0\r\n\r\n").into_bytes()
    });
    let free = Recorder::start();
    let setup = [full.address(), free.address()]
        .iter()
        .fold(sidecar("front"), |setup, at| setup.upstream("users", *at));
    let rules = Rules { consecutive_failures: 1, ..Rules::default() };
    let setup = setup.with(|model| {
        route(model, "/**", |policy| {
            policy.retry = Some(Retry { max: 1, budget: 1.0, ..Retry::default() });
            policy.balance = pillion::config::model::Balance::RoundRobin;
            let scope = Scope::Route;
            policy.circuit_breaker = Some(CircuitBreaker { scope, ..CircuitBreaker::new(rules) });
        });
    });
    let sidecar = setup.start();
    let begun = Instant::now();
    for _ in 0..10 {
        let raw = "POST / HTTP/1.1\r\nHost: users\r\nContent-Length: 2\r\n\r\nhi";
        let answer = crate::support::call(sidecar.at.outbound, raw);
        assert_eq!(answer.status, 200, "it was never sent, so it may be tried elsewhere at once");
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(!full.take().is_empty());
    assert_eq!(free.take().len(), 10);
}

/// A service with so many workers; how long each call takes can be changed.
fn workers(count: usize, micros: Arc<AtomicUsize>) -> Server {
    let free = Arc::new(AtomicUsize::new(count));
    Server::start(move |_, stream| {
        let mut wire = crate::support::wire::Wire::new(stream.try_clone().unwrap());
        let mut stream = stream;
        while wire.line(true).is_ok_and(|line| !line.is_empty()) && wire.fields().is_ok() {
            while free.fetch_update(SeqCst, SeqCst, |free| free.checked_sub(1)).is_err() {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_micros(micros.load(SeqCst) as u64));
            free.fetch_add(1, SeqCst);
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                return;
            }
        }
    })
}

/// Lets callers end, whatever becomes of the test.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn a_limit_that_follows_the_latency_shrinks_and_grows_back() {
    let _turn = beside_others();
    let micros = Arc::new(AtomicUsize::new(40_000));
    let server = workers(4, micros.clone());
    let adaptive = with(|rules| rules.limit = Ceiling::Adaptive(Bounds::default()), 0);
    let sidecar = limited(server.address(), vec![adaptive]).with(|model| model.workers = 2).start();
    let state = || {
        let admin = sidecar.at.admin;
        let all: serde_json::Value =
            serde_json::from_slice(&get(admin, &admin.to_string(), "/clusters").body).unwrap();
        let users = all["upstreams"].as_array().unwrap().iter().find(|one| one["upstream"] == "users");
        let one = users.unwrap()["concurrency"][0].clone();
        assert_eq!(one["adaptive"], true);
        one["limit"].as_u64().unwrap()
    };
    let (stop, calls, callers) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(3));
    std::thread::scope(|scope| {
        let _ends = Ends(&stop);
        for number in 0..60 {
            let (stop, calls, callers, sidecar) = (&stop, &calls, &callers, &sidecar);
            scope.spawn(move || {
                let mut client = Client::connect(sidecar.at.outbound);
                while !stop.load(SeqCst) {
                    if number >= callers.load(SeqCst) || refused(&client.get("users", "/")) {
                        std::thread::sleep(Duration::from_millis(20));
                    } else {
                        calls.fetch_add(1, SeqCst);
                    }
                }
            });
        }
        until("a calm time", || calls.load(SeqCst) > 150);
        assert_eq!(state(), 50);
        micros.store(160_000, SeqCst);
        callers.store(60, SeqCst);
        until("a smaller limit", || state() < 25);
        micros.store(1_000, SeqCst);
        // How soon is held by the simulation, where no processor is missing: here 60
        // callers in turns take far less than 40 ms even where the machine is busy.
        until("as many as before", || state() >= 50);
    });
    empty(&sidecar);
}
