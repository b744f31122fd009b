//! What a route does besides forwarding: layers, retries, timeouts.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::HeaderValue;
use pillion::base::{Origin, UpstreamName};
use pillion::config::model::{Pattern, Retry, RetryOn, Route, RoutePolicy, Segment, Timeout};
use pillion::proxy::BoxedStack;
use tower::ServiceExt as _;

use crate::support::sidecar::Setup;
use crate::support::wire::Wire;
use crate::support::{Client, Recorder, Server, beside_others, call, get, request, sidecar, until};

const SHORT: Duration = Duration::from_millis(300);

/// A sidecar with one route for every call to `users`.
pub fn routed(at: std::net::SocketAddr, edit: impl FnOnce(&mut RoutePolicy)) -> Setup {
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
    let origin = Origin { file: "users.yaml".into(), line: 3, column: 5 };
    let route = Route { to: Some(UpstreamName::new("users")), pattern, policy, origin };
    sidecar("front").upstream("users", at).with(|model| model.outbound.push(route))
}

#[test]
fn a_layer_of_the_user_wraps_every_route() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let layer = move |inner: BoxedStack| {
        let count = count.clone();
        BoxedStack::new(
            inner
                .map_request(move |attempt| {
                    count.fetch_add(1, Ordering::SeqCst);
                    attempt
                })
                .map_response(|mut response: http::Response<pillion::codec::Body>| {
                    response.headers_mut().insert("x-layer", HeaderValue::from_static("seen"));
                    response
                }),
        )
    };
    let sidecar = sidecar("front")
        .upstream("users", backend.address())
        .service(backend.address())
        .options(|options| options.layer = Some(Arc::new(layer)))
        .start();
    for (address, times) in [(sidecar.at.outbound, 1), (sidecar.at.inbound, 2)] {
        let answer = get(address, "users", "/");
        assert_eq!((answer.status, answer.field("x-layer").as_deref()), (200, Some("seen")));
        assert_eq!(calls.load(Ordering::SeqCst), times);
    }
}

/// Answers 503 to the first request of each path, and then 200.
fn stumbling() -> Recorder {
    let seen = std::sync::Mutex::new(std::collections::HashSet::new());
    Recorder::answering(move |request| {
        let first = seen.lock().unwrap().insert(request.target.clone());
        let status = if first { "503 Service Unavailable" } else { "200 OK" };
        format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes()
    })
}

#[test]
fn a_get_is_sent_again_and_a_post_that_was_sent_never() {
    let _turn = beside_others();
    let backend = stumbling();
    let on = vec![RetryOn::ServerError, RetryOn::Reset, RetryOn::Timeout];
    let retry = Retry { max: 3, on, budget: 1.0, ..Retry::default() };
    let sidecar = routed(backend.address(), |policy| policy.retry = Some(retry)).start();
    assert_eq!(get(sidecar.at.outbound, "users", "/get").status, 200);
    assert_eq!(backend.take().len(), 2);
    sidecar.metric_is("pillion_retries_total", &[("upstream", "users")], 1.0);
    for (path, rest) in [("/empty", "\r\n"), ("/full", "Content-Length: 2\r\n\r\nhi")] {
        let raw = format!("POST {path} HTTP/1.1\r\nHost: users\r\n{rest}");
        assert_eq!(call(sidecar.at.outbound, raw).status, 503, "the answer of the only attempt");
        assert_eq!(backend.take().len(), 1, "{path}");
    }
    sidecar.metric_is("pillion_retries_total", &[("upstream", "users")], 1.0);
    sidecar.metric_is("pillion_retries_skipped_total", &[("upstream", "users"), ("why", "method")], 2.0);
}

/// Reads a request and then plays, with the number of the connection.
fn playing(play: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> Server {
    Server::start(move |number, stream| {
        let mut wire = Wire::new(stream.try_clone().unwrap());
        if request::read(&mut wire, number).is_some() {
            play(number, stream);
        }
    })
}

/// Waits until the peer ends.
fn hang(mut stream: TcpStream) {
    let mut block = [0; 1024];
    while stream.read(&mut block).is_ok_and(|count| count > 0) {}
}

#[test]
fn a_try_that_takes_too_long_is_made_anew() {
    let _turn = beside_others();
    let backend = playing(|number, mut stream| match number {
        0 => hang(stream),
        _ => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap(),
    });
    let retry = Retry { per_try: Some(SHORT), on: vec![RetryOn::Timeout], ..Retry::default() };
    let sidecar = routed(backend.address(), |policy| policy.retry = Some(retry)).start();
    let began = Instant::now();
    assert_eq!(get(sidecar.at.outbound, "users", "/").text(), "ok");
    assert!(began.elapsed() >= SHORT);
    assert_eq!(backend.accepted(), 2);
    until("the first try is given up", || backend.open() == 0);
}

/// A chunk every few milliseconds, until the peer ends or `over`.
fn drip(stream: &mut TcpStream, over: impl Fn(Duration) -> bool) {
    stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let began = Instant::now();
    while !over(began.elapsed()) && stream.write_all(b"1\r\na\r\n").is_ok() {
        // The pause: nothing comes.
        match stream.read(&mut [0]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => return,
        }
    }
    let _ = stream.write_all(b"0\r\n\r\n");
}

#[test]
fn the_whole_timeout_cuts_an_answer_that_still_moves() {
    let _turn = beside_others();
    let backend = playing(|_, mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        drip(&mut stream, |_| false);
    });
    let setup = routed(backend.address(), |policy| policy.timeout = Timeout::Whole(SHORT));
    let sidecar = setup.start();
    let mut client = Client::connect(sidecar.at.outbound);
    let began = Instant::now();
    client.send("GET / HTTP/1.1\r\nHost: users\r\n\r\n");
    assert_eq!(client.read_head().unwrap().status, 200);
    let mut length = 0;
    let framing = crate::support::wire::Framing::Chunked;
    let ended = client.wire().body(framing, &mut |bytes| length += bytes.len());
    assert!(ended.is_err_and(|bad| !bad.is_silence()), "an answer that was cut must not look whole");
    assert!(length > 0 && began.elapsed() >= SHORT, "{length} bytes in {:?}", began.elapsed());
    sidecar.metric_is("pillion_errors_total", &[("reason", "timeout")], 1.0);
    until("the backend is told", || backend.open() == 0);
}

#[test]
fn the_whole_timeout_leaves_a_stream_of_events_alone() {
    let _turn = beside_others();
    let backend = playing(|_, mut stream| {
        let head =
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head).unwrap();
        drip(&mut stream, |passed| passed > SHORT * 2);
    });
    let setup = routed(backend.address(), |policy| policy.timeout = Timeout::Whole(SHORT));
    let sidecar = setup.start();
    let began = Instant::now();
    let answer = get(sidecar.at.outbound, "users", "/");
    assert_eq!(answer.status, 200);
    assert!(!answer.body.is_empty() && began.elapsed() >= SHORT * 2);
}

#[test]
fn an_answer_that_stops_moving_is_cut() {
    let _turn = beside_others();
    let backend = playing(|_, mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").unwrap();
        hang(stream);
    });
    let sidecar = routed(backend.address(), |policy| policy.idle_timeout = SHORT).start();
    let mut client = Client::connect(sidecar.at.outbound);
    client.send("GET / HTTP/1.1\r\nHost: users\r\n\r\n");
    let answer = client.try_read("GET");
    assert!(answer.is_err_and(|bad| !bad.is_silence()), "cut, and not left waiting");
    sidecar.metric_is("pillion_errors_total", &[("reason", "stream_idle")], 1.0);
    until("the backend is told", || backend.open() == 0);
}
