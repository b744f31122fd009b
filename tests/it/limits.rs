//! The limits of one sidecar: each holds, is counted, and leaves others served.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use pillion::base::{Protocol, UpstreamName};
use pillion::config::Model;
use pillion::config::model::{Limits, RoutePolicy, Upstream};

use crate::support::bulk::Bulk;
use crate::support::frames::{self, Outcome, RawH2, frame, kind};
use crate::support::{
    Client, PATIENCE, Recorder, Sidecar, alone, beside_others, call, get, resident, sidecar, until,
};

const SHORT: Duration = Duration::from_millis(300);

fn limited(backend: &Recorder, edit: impl FnOnce(&mut Limits)) -> Sidecar {
    before(backend.address(), edit)
}

/// Before a backend that speaks HTTP/1, whatever the caller speaks.
fn before(at: std::net::SocketAddr, edit: impl FnOnce(&mut Limits)) -> Sidecar {
    sidecar("front")
        .upstream("users", at)
        .service(at)
        .with(|model: &mut Model| {
            model.service.protocol = Protocol::Http1;
            let http1 = Upstream {
                protocol: Protocol::Http1,
                listen: None,
                policy: RoutePolicy::default(),
                ..pillion::config::model::Upstream::default()
            };
            model.upstreams.insert(UpstreamName::new("users"), http1);
            edit(&mut model.limits);
        })
        .start()
}

#[track_caller]
fn counted(sidecar: &Sidecar, limit: &str, times: f64) {
    sidecar.metric_is("pillion_limited_total", &[("limit", limit)], times);
}

#[test]
fn heads_are_limited_in_bytes_fields_and_target() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = limited(&backend, |limits| {
        (limits.header_bytes, limits.header_fields, limits.target) = (4096, 16, 100);
    });
    let get = |target: &str, fields: &str| {
        call(sidecar.at.outbound, format!("GET {target} HTTP/1.1\r\nHost: users\r\n{fields}\r\n"))
    };
    let fields = |count: usize| (0..count).map(|n| format!("x{n}: 1\r\n")).collect::<String>();
    assert_eq!(get("/", &fields(15)).status, 200);
    assert_eq!(get("/", &fields(16)).status, 431);
    counted(&sidecar, "header_fields", 1.0);
    assert_eq!(get("/", &format!("x: {}\r\n", "a".repeat(3_900))).status, 200);
    assert_eq!(get("/", &format!("x: {}\r\n", "a".repeat(4_200))).status, 431);
    counted(&sidecar, "header_bytes", 1.0);
    assert_eq!(get(&format!("/{}", "a".repeat(99)), "").status, 200);
    assert_eq!(get(&format!("/{}", "a".repeat(100)), "").status, 414);
    counted(&sidecar, "target", 1.0);
}

#[test]
fn three_hundred_slow_clients_are_cut_while_others_are_served() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let limit = Duration::from_secs(2);
    let sidecar = limited(&backend, |limits| limits.header_timeout = limit);
    let began = Instant::now();
    let mut slow: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut stream = TcpStream::connect(sidecar.at.outbound).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: users\r\nx-slow: ").unwrap();
            stream
        })
        .collect();
    let mut served = 0;
    // A byte now and then on each, until all are cut.
    while !slow.is_empty() {
        assert!(began.elapsed() < limit * 4, "{} are not cut", slow.len());
        let round = Instant::now();
        slow.retain_mut(|stream| stream.write_all(b"a").is_ok());
        while round.elapsed() < limit / 10 {
            assert_eq!(get(sidecar.at.outbound, "users", "/").status, 200);
            served += 1;
        }
    }
    assert!(began.elapsed() >= limit, "cut before the time");
    assert!(served > 10, "others were served {served} times");
    counted(&sidecar, "header_timeout", 300.0);
    sidecar.metric_is("pillion_connections_open", &[("direction", "outbound")], 0.0);
}

#[test]
fn a_body_that_stops_is_cut() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = limited(&backend, |limits| limits.body_idle = SHORT);
    let mut client = Client::connect(sidecar.at.outbound);
    client.send("POST / HTTP/1.1\r\nHost: users\r\nContent-Length: 5\r\n\r\nhe");
    let answer = client.read("POST");
    assert_eq!((answer.status, answer.reason().as_deref()), (408, Some("request_timeout")));
    assert!(client.is_ended());
    counted(&sidecar, "body_idle", 1.0);
    until("the backend is told", || backend.open() == 0);
    assert!(backend.take().iter().all(|one| one.bad.is_some()), "a part of a body passed for the whole");
}

#[test]
fn a_stream_whose_caller_takes_nothing_is_reset() {
    let _turn = beside_others();
    let backend = Bulk::start();
    let sidecar = before(backend.address(), |limits| limits.stream_idle = SHORT);
    let mut raw = RawH2::connect(sidecar.at.outbound);
    // More than the window, which is never opened any further.
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/1000000"), (":authority", "users")];
    let ends = frames::END_STREAM | frames::END_HEADERS;
    raw.send(&frame(kind::HEADERS, ends, 1, &frames::block(&fields))).unwrap();
    assert_eq!(raw.outcome(1), Outcome::Answer(200));
    let began = Instant::now();
    assert_eq!(raw.outcome(1), Outcome::Reset(8), "CANCEL");
    assert!(began.elapsed() > SHORT / 2);
    counted(&sidecar, "stream_idle", 1.0);
    until("the backend is told", || backend.open() == 0);
}

#[test]
fn an_idle_connection_is_closed() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = limited(&backend, |limits| limits.connection_idle = SHORT);
    for request in ["", "GET / HTTP/1.1\r\nHost: users\r\n\r\n"] {
        let mut client = Client::connect(sidecar.at.outbound);
        if !request.is_empty() {
            client.send(request).read("GET");
        }
        let began = Instant::now();
        assert!(client.is_ended(), "closed without a word after {request:?}");
        assert!(began.elapsed() > SHORT / 2);
    }
    let mut raw = RawH2::connect(sidecar.at.outbound);
    raw.send(&frames::get(1, "users")).unwrap();
    assert_eq!(raw.outcome(1), Outcome::Answer(200));
    assert_eq!(raw.ended(), (true, Some(0)), "GOAWAY without an error");
}

#[test]
fn an_old_connection_is_closed_after_the_request_at_hand() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = limited(&backend, |limits| limits.connection_age = SHORT);
    let mut client = Client::connect(sidecar.at.outbound);
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE, "it lives on");
        let answer = client.get("users", "/");
        assert_eq!(answer.status, 200);
        if answer.field("connection").as_deref() == Some("close") {
            break;
        }
    }
    assert!(began.elapsed() > SHORT / 2);
    assert!(client.is_ended());
}

#[test]
fn connections_are_limited() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = limited(&backend, |limits| limits.connections = 10);
    let mut held: Vec<Client> = (0..10).map(|_| Client::connect(sidecar.at.outbound)).collect();
    for client in &mut held {
        assert_eq!(client.get("users", "/").status, 200);
    }
    let mut refused = Client::connect(sidecar.at.outbound);
    let _ = refused.try_send("GET / HTTP/1.1\r\nHost: users\r\n\r\n");
    match refused.try_read("GET") {
        Ok(answer) => assert_eq!((answer.status, answer.reason().as_deref()), (503, Some("overload"))),
        Err(bad) => assert!(!bad.is_silence(), "left waiting"),
    }
    counted(&sidecar, "connections", 1.0);
    for client in &mut held {
        assert_eq!(client.get("users", "/").status, 200, "those who are in are served on");
    }
    held.truncate(5);
    until("there is room again", || {
        let mut client = Client::connect(sidecar.at.outbound);
        let _ = client.try_send("GET / HTTP/1.1\r\nHost: users\r\n\r\n");
        client.try_read("GET").is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn streams_are_limited() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = limited(&backend, |limits| limits.streams = 5);
    let mut raw = RawH2::connect(sidecar.at.outbound);
    let settings = raw.next().unwrap().expect("SETTINGS");
    assert_eq!(settings.kind, kind::SETTINGS);
    assert!(
        settings.payload.chunks(6).any(|one| one == [0, 3, 0, 0, 0, 5]),
        "MAX_CONCURRENT_STREAMS: {settings:?}"
    );
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "users")];
    for stream in (1..=11).step_by(2) {
        let open = frame(kind::HEADERS, frames::END_HEADERS, stream, &frames::block(&fields));
        raw.send(&open).unwrap();
    }
    assert_eq!(raw.outcome(11), Outcome::Reset(7), "REFUSED_STREAM");
    raw.send(&frame(kind::DATA, frames::END_STREAM, 1, b"x")).unwrap();
    assert_eq!(raw.outcome(1), Outcome::Answer(200), "the others go on");
}

/// Opens `count` downloads at `address` that nobody reads, and returns the growth of memory.
fn unread(address: std::net::SocketAddr, backend: &Bulk, count: usize) -> (u64, Vec<Client>) {
    let before = resident();
    let clients: Vec<Client> = (0..count)
        .map(|_| {
            let mut client = Client::connect(address);
            client.send("GET /1073741824 HTTP/1.1\r\nHost: users\r\n\r\n");
            client
        })
        .collect();
    let mut last = (backend.written(), Instant::now());
    while last.1.elapsed() < SHORT {
        if backend.written() != last.0 {
            last = (backend.written(), Instant::now());
        }
        std::thread::yield_now();
    }
    (resident().saturating_sub(before), clients)
}

#[test]
fn a_slow_reader_of_a_large_answer_holds_little() {
    let _turn = alone();
    const COUNT: usize = 100;
    let backend = Bulk::start();
    let sidecar = sidecar("front").upstream("users", backend.address()).start();
    assert_eq!(get(sidecar.at.outbound, "users", "/1000000").body.len(), 1_000_000);
    // What the test's own threads and sockets take.
    let (own, clients) = unread(backend.address(), &backend, COUNT);
    drop(clients);
    until("the backend is quiet", || backend.open() <= 1);
    let (grown, _clients) = unread(sidecar.at.outbound, &backend, COUNT);
    let each = grown.saturating_sub(own / 2) / COUNT as u64;
    assert!(each < 128 << 10, "{each} bytes for each of {COUNT}; the test's own part was {own}");
}

#[test]
fn an_idle_connection_holds_little() {
    let _turn = alone();
    const COUNT: usize = 1_000;
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, files).unwrap();
    let backend = Recorder::start();
    let sidecar = limited(&backend, |_| {});
    get(sidecar.at.outbound, "users", "/");
    let before = resident();
    let connections: Vec<_> = (0..COUNT)
        .map(|_| {
            let mut stream = TcpStream::connect(sidecar.at.outbound).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: users\r\n\r\n").unwrap();
            stream
        })
        .collect();
    backend.wait(COUNT);
    sidecar.metric_is("pillion_active_requests", &[], 0.0);
    let each = resident().saturating_sub(before) / COUNT as u64;
    drop(connections);
    // 48 MiB with 2,000, of which 14 MiB are there without any.
    assert!(each < 17 << 10, "{each} bytes for each idle connection");
}
