//! An upstream has no more connections than its entry says, over all workers.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pillion::base::Protocol;
use pillion::config::model::Connections;

use crate::support::h2peer::{H2Backend, H2Client};
use crate::support::{Client, Recorder, Server, Sidecar, beside_others, get, sidecar, until};

use super::{echo, expect, port, port_of};

fn limited(at: SocketAddr, workers: usize, protocol: Protocol, connections: Connections) -> Sidecar {
    sidecar("front")
        .upstream("users", at)
        .with(|model| {
            model.workers = workers;
            port(model, "users", |upstream| {
                upstream.protocol = protocol;
                upstream.connections = Some(connections);
            });
        })
        .start()
}

#[test]
fn opaque_streams_wait_and_are_refused() {
    let _turn = beside_others();
    let backend = Server::start(|_, stream| echo(stream));
    let wait = Duration::from_millis(600);
    let sidecar = limited(backend.address(), 2, Protocol::Tcp, Connections { max: 2, pending: 1, wait });
    let open = || Client::connect(port_of(&sidecar, "users"));
    let works = |client: &mut Client| {
        client.send("a");
        expect(client, b"A");
    };
    let (mut first, mut second) = (open(), open());
    works(&mut first);
    works(&mut second);
    sidecar.metric_is("pillion_upstream_connections_open", &[("upstream", "users")], 2.0);
    let start = Instant::now();
    let mut third = open();
    sidecar.metric_is("pillion_upstream_connections_waiting", &[], 1.0);
    assert!(open().is_ended(), "one waits already");
    assert!(start.elapsed() < wait);
    assert!(third.is_ended());
    assert!(start.elapsed() >= wait);
    for why in ["pending", "wait"] {
        sidecar.metric_is("pillion_upstream_connections_refused_total", &[("why", why)], 1.0);
    }
    sidecar.metric_is("pillion_errors_total", &[("reason", "connection_limit")], 2.0);
    assert_eq!(backend.accepted(), 2);
    let mut fourth = open();
    drop(first);
    works(&mut fourth);
    works(&mut second);
    drop((second, fourth));
    sidecar.metric_is("pillion_upstream_connections_open", &[], 0.0);
}

#[test]
fn http1_calls_of_all_workers_share_the_connections() {
    let _turn = beside_others();
    let (counted, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let highest = most.clone();
    let backend = Recorder::answering(move |_| {
        highest.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(2));
        counted.fetch_sub(1, Ordering::SeqCst);
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()
    });
    let wait = Duration::from_secs(20);
    let sidecar = limited(backend.address(), 4, Protocol::Http1, Connections { max: 3, pending: 100, wait });
    let address = sidecar.at.outbound;
    std::thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(move || {
                let mut client = Client::connect(address);
                for _ in 0..20 {
                    assert_eq!(client.get("users", "/").status, 200);
                }
            });
        }
    });
    assert_eq!(backend.take().len(), 24 * 20);
    let most = most.load(Ordering::SeqCst);
    assert!((2..=3).contains(&most), "{most} at one time");
    assert!(sidecar.metrics().get("pillion_upstream_connections_open", &[]) <= 3.0);
    sidecar.metric_is("pillion_upstream_connections_waiting", &[], 0.0);
}

#[test]
fn connections_that_stand_idle_starve_nobody() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let connections = Connections { max: 1, ..Connections::default() };
    let sidecar = limited(backend.address(), 4, Protocol::Http1, connections);
    // The kernel spreads these over the workers; each leaves an idle connection.
    for _ in 0..40 {
        assert_eq!(get(sidecar.at.outbound, "users", "/").status, 200);
    }
    assert!(sidecar.metrics().get("pillion_upstream_connections_open", &[]) <= 1.0);
    assert!(backend.connections() > 1, "more than one worker had a turn");
}

#[test]
fn http2_calls_share_one_connection() {
    let _turn = beside_others();
    let backend = H2Backend::start();
    let connections = Connections { max: 1, ..Connections::default() };
    let sidecar = limited(backend.address(), 2, Protocol::Http2, connections);
    let address = sidecar.at.outbound;
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(move || {
                let client = H2Client::connect(address);
                for _ in 0..3 {
                    let request = http::Request::get("http://users/").body(()).unwrap();
                    assert_eq!(client.call(request, Vec::new(), None).status(), 200);
                }
            });
        }
    });
    assert!(sidecar.metrics().get("pillion_upstream_connections_open", &[]) <= 1.0);
}

#[test]
fn a_call_beyond_the_limit_is_told_so() {
    let _turn = beside_others();
    let backend = Server::start(|_, mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        let _ = std::io::Read::read_to_end(&mut stream, &mut Vec::new());
    });
    let wait = Duration::from_millis(100);
    let sidecar = limited(backend.address(), 1, Protocol::Http1, Connections { max: 1, pending: 1, wait });
    let mut holds = Client::connect(sidecar.at.outbound);
    holds.send("GET / HTTP/1.1\r\nHost: users\r\n\r\n");
    until("the backend has it", || backend.accepted() == 1);
    let answer = get(sidecar.at.outbound, "users", "/");
    assert_eq!((answer.status, answer.reason().as_deref()), (503, Some("connection_limit")));
    drop(holds);
}

#[test]
fn silent_callers_take_no_connection_from_those_who_call() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let wait = Duration::from_secs(5);
    let sidecar = limited(backend.address(), 1, Protocol::Auto, Connections { max: 1, pending: 1, wait });
    let mut first = Client::connect(port_of(&sidecar, "users"));
    until("it is dialled ahead", || backend.connections() == 1);
    let mut second = Client::connect(port_of(&sidecar, "users"));
    let start = Instant::now();
    assert_eq!(second.get("users", "/b").status, 200);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(first.get("users", "/a").status, 200, "who was silent is served all the same");
    // HTTP is expected from now on: nobody queues for a caller that is silent.
    let silent = Client::connect(port_of(&sidecar, "users"));
    std::thread::sleep(Duration::from_millis(1200));
    sidecar.metric_is("pillion_upstream_connections_waiting", &[], 0.0);
    assert_eq!(second.get("users", "/c").status, 200);
    drop(silent);
}

#[test]
fn opaque_streams_and_http_share_the_connections() {
    let _turn = beside_others();
    // An HTTP server that echoes what is no HTTP.
    let backend = Server::start(|_, mut stream| {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = std::io::Read::read(&mut stream, &mut bytes) {
            let ok = &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..];
            let said = if bytes.starts_with(b"GET ") { ok } else { &bytes[..count] };
            if stream.write_all(said).is_err() {
                return;
            }
        }
    });
    let wait = Duration::from_secs(5);
    let sidecar = limited(backend.address(), 2, Protocol::Auto, Connections { max: 2, pending: 20, wait });
    let address = port_of(&sidecar, "users");
    std::thread::scope(|scope| {
        for caller in 0..8 {
            scope.spawn(move || {
                for _ in 0..10 {
                    let mut client = Client::connect(address);
                    if caller % 2 == 0 {
                        client.send(b"\x01\x02");
                        expect(&mut client, b"\x01\x02");
                    } else {
                        assert_eq!(client.get("users", "/").status, 200);
                    }
                }
            });
        }
    });
    assert!(sidecar.metrics().get("pillion_upstream_connections_open", &[]) <= 2.0);
    sidecar.metric_is("pillion_upstream_connections_waiting", &[], 0.0);
    sidecar.metric_is("pillion_upstream_connections_refused_total", &[], 0.0);
}

#[test]
fn http2_calls_wait_no_longer_than_they_may_for_what_others_make() {
    let _turn = beside_others();
    let backend = Server::start(|_, stream| echo(stream));
    let wait = Duration::from_millis(600);
    let sidecar = limited(backend.address(), 1, Protocol::Auto, Connections { max: 1, pending: 10, wait });
    let address = port_of(&sidecar, "users");
    let mut holds = Client::connect(address);
    holds.send(b"\x01");
    expect(&mut holds, b"\x01");
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(move || {
                let client = H2Client::connect(address);
                let start = Instant::now();
                let answer = client.get("http://users/");
                let took = start.elapsed();
                assert_eq!(
                    (answer.status(), answer.field("pillion-error")),
                    (503, Some("connection_limit")),
                    "after {took:?}"
                );
                assert!((wait..wait + Duration::from_millis(300)).contains(&took), "{took:?}");
            });
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    sidecar.metric_is("pillion_upstream_connections_waiting", &[], 0.0);
}

#[test]
fn an_endpoint_that_has_gone_holds_no_connection_idle() {
    let _turn = beside_others();
    let backend = || {
        Recorder::answering(|request| {
            if request.target.contains("slow") {
                std::thread::sleep(Duration::from_secs(3));
            }
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()
        })
    };
    let (old, new) = (backend(), backend());
    let model = |at: SocketAddr| {
        let wait = Duration::from_millis(200);
        let connections = Some(Connections { max: 2, pending: 5, wait });
        let setup = sidecar("front").upstream("users", at).with(|model| model.workers = 1);
        setup.with(|model| port(model, "users", |upstream| upstream.connections = connections))
    };
    let (models, reloads) = tokio::sync::mpsc::channel(1);
    let next = model(new.address()).finished_model();
    let sidecar = model(old.address()).options(|options| options.reloads = Some(reloads)).start();
    let mut slow = Client::connect(sidecar.at.outbound);
    slow.send("GET /slow HTTP/1.1\r\nHost: users\r\n\r\n");
    until("the old one has the slow call", || old.connections() == 1);
    let mut client = Client::connect(sidecar.at.outbound);
    assert_eq!(client.get("users", "/").status, 200);
    models.blocking_send(Arc::new(next)).unwrap();
    until("calls reach the new one", || {
        assert_eq!(client.get("users", "/").status, 200);
        !new.take().is_empty()
    });
    assert_eq!(slow.read("GET").status, 200, "what was at hand is answered");
}
