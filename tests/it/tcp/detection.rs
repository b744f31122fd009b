//! What is spoken is found out without a stall, and every silence and all
//! noise has an end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use pillion::base::Protocol;

use crate::support::{Client, Recorder, Server, beside_others, call, sidecar, until};

use super::{echo, expect, greeted, greeter, port, port_of};

/// Takes all that comes, says nothing, and tells how much it was.
fn silent(counts: std::sync::mpsc::Sender<Vec<u8>>) -> Server {
    let counts = std::sync::Mutex::new(counts);
    Server::start(move |_, mut stream| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let _ = counts.lock().unwrap().send(all);
    })
}

#[test]
fn a_server_that_speaks_first_is_heard_without_a_stall() {
    let _turn = beside_others();
    let backend = greeter();
    let sidecar = sidecar("front")
        .upstream("mail", backend.address())
        .service(backend.address())
        .with(|model| port(model, "mail", |_| {}))
        .start();
    for address in [sidecar.at.inbound, port_of(&sidecar, "mail")] {
        let mut best = Duration::MAX;
        for _ in 0..5 {
            let mut client = Client::connect(address);
            best = best.min(greeted(&mut client));
            client.send("helo\r\n");
            expect(&mut client, b"HELO\r\n");
        }
        assert!(best < Duration::from_millis(100), "{best:?} until the greeting");
    }
    let mut client = Client::connect(sidecar.at.outbound);
    client.send("CONNECT mail:80 HTTP/1.1\r\nHost: mail:80\r\n\r\n");
    assert_eq!(client.read("CONNECT").status, 200);
    assert!(greeted(&mut client) < Duration::from_millis(500));
}

#[test]
fn a_caller_that_is_silent_for_a_while_is_still_served_as_http() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = sidecar("front").service(backend.address()).start();
    let mut client = Client::connect(sidecar.at.inbound);
    until("the service is dialled ahead", || backend.connections() == 1);
    assert_eq!(client.get("users", "/a").text(), "ok");
    assert!(backend.only().has("via"), "it is proxied, not copied");
    assert_eq!(backend.connections(), 1, "the connection that was made ahead is used");
    // HTTP is expected from now on: nobody is dialled for a short silence.
    let second = Client::connect(sidecar.at.inbound);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(backend.connections(), 1);
    drop((client, second));
}

#[test]
fn a_complaint_of_an_http_server_is_not_passed_on() {
    let _turn = beside_others();
    let backend = Server::start(|number, mut stream| {
        if number == 0 {
            let _ = stream.write_all(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        let mut head = [0; 4096];
        if let Ok(1..) = stream.read(&mut head) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let sidecar = sidecar("front").service(backend.address()).start();
    let mut client = Client::connect(sidecar.at.inbound);
    until("the service has complained", || backend.accepted() == 1 && backend.open() == 0);
    assert_eq!(client.get("users", "/a").text(), "ok");
}

#[test]
fn two_that_are_silent_for_ever_are_parted() {
    let _turn = beside_others();
    let (sender, received) = std::sync::mpsc::channel();
    let backend = silent(sender);
    let sidecar = sidecar("front")
        .service(backend.address())
        .with(|model| model.limits.connection_idle = Duration::from_millis(400))
        .start();
    let start = Instant::now();
    let mut client = Client::connect(sidecar.at.inbound);
    assert!(client.is_ended());
    assert!(start.elapsed() >= Duration::from_millis(400));
    assert_eq!(received.recv_timeout(Duration::from_secs(10)).unwrap(), b"");
    sidecar.metric_is("pillion_connections_open", &[], 0.0);
}

#[test]
fn no_more_than_a_bounded_number_is_dialled_ahead() {
    let _turn = beside_others();
    let (sender, _received) = std::sync::mpsc::channel();
    let backend = silent(sender);
    let sidecar = sidecar("front").service(backend.address()).start();
    let silent: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(sidecar.at.inbound).unwrap()).collect();
    until("some are dialled", || backend.accepted() >= 128);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(backend.accepted(), 128);
    drop(silent);
    until("all are given up", || backend.open() == 0);
}

#[test]
fn a_service_that_is_away_ends_a_silent_caller() {
    let _turn = beside_others();
    let nobody = crate::support::Deaf::new();
    let sidecar = sidecar("front").service(nobody.address()).start();
    let mut client = Client::connect(sidecar.at.inbound);
    assert!(client.is_ended());
    let labels = [("direction", "inbound"), ("reason", "connect_refused")];
    sidecar.metric_is("pillion_errors_total", &labels, 1.0);
}

#[test]
fn one_byte_at_a_time_is_understood() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = sidecar("front").upstream("users", backend.address()).service(backend.address()).start();
    for address in [sidecar.at.inbound, sidecar.at.outbound] {
        let mut client = Client::connect(address);
        for byte in b"GET /slow HTTP/1.1\r\nHost: users\r\n\r\n" {
            client.send([*byte]);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(client.read("GET").text(), "ok");
    }
    // The preface, and SETTINGS that answer it.
    let mut client = Client::connect(sidecar.at.outbound);
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0" {
        client.send([*byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut kind: Vec<u8> = Vec::new();
    let head = crate::support::wire::Framing::Length(4);
    client.wire().body(head, &mut |bytes| kind.extend(bytes)).unwrap();
    assert_eq!(kind[3], 4, "SETTINGS come first");
}

#[test]
fn what_never_becomes_clear_is_passed_on_or_told_so() {
    let _turn = beside_others();
    let (sender, received) = std::sync::mpsc::channel();
    let backend = silent(sender);
    let sidecar = sidecar("front")
        .upstream("db", backend.address())
        .service(backend.address())
        .with(|model| {
            model.limits.header_timeout = Duration::from_millis(300);
            port(model, "db", |_| {});
        })
        .start();
    let mut half = Client::connect(sidecar.at.outbound);
    half.send("PRI * HT").rest();
    for part in ["P", "GE", "GET / HT"] {
        let mut client = Client::connect(sidecar.at.outbound);
        let answer = client.send(part).read("GET");
        assert_eq!((answer.status, answer.reason().as_deref()), (408, Some("request_timeout")), "{part}");
        assert!(client.is_ended());
    }
    for address in [sidecar.at.inbound, port_of(&sidecar, "db")] {
        for part in ["P", "GE", "\u{16}"] {
            let mut client = Client::connect(address);
            client.send(part);
            // It takes the limit until it is passed on.
            std::thread::sleep(Duration::from_millis(400));
            client.send("x").close_sending();
            assert_eq!(
                received.recv_timeout(Duration::from_secs(10)).unwrap(),
                format!("{part}x").as_bytes()
            );
            assert!(client.is_ended());
        }
    }
}

#[test]
fn noise_has_a_clear_outcome() {
    let _turn = beside_others();
    let (sender, received) = std::sync::mpsc::channel();
    let backend = silent(sender);
    let sidecar = sidecar("front").upstream("db", backend.address()).service(backend.address()).start();
    let junk = vec![b'A'; 16 << 20];
    let mut client = Client::connect(sidecar.at.inbound);
    client.send(&junk).close_sending();
    assert_eq!(received.recv_timeout(Duration::from_secs(20)).unwrap().len(), junk.len());
    let mut client = Client::connect(sidecar.at.outbound);
    let _ = client.try_send(&junk);
    if let Ok(answer) = client.try_read("GET") {
        assert!((400..500).contains(&answer.status), "{answer:?}");
    }
    for (index, noise) in [&b"\x00\x01\x02\x03"[..], b"\xff\xf4\xff\xfd\x06", b"\x01"].iter().enumerate() {
        let mut client = Client::connect(sidecar.at.outbound);
        client.send(noise);
        assert!(client.is_ended(), "{noise:?}");
        let labels = [("direction", "outbound"), ("reason", "no_route")];
        sidecar.metric_is("pillion_errors_total", &labels, index as f64 + 1.0);
    }
}

#[test]
fn tls_and_postgresql_are_known_by_their_first_bytes() {
    let _turn = beside_others();
    let backend = Server::start(|_, stream| echo(stream));
    let sidecar = sidecar("front").service(backend.address()).start();
    for (bytes, protocol) in [
        (&b"\x00\x00\x00\x08\x04\xd2\x16\x2f"[..], "postgres"),
        (b"\x00\x00\x00\x50\x00\x03\x00\x00USER", "postgres"),
        (b"\x16\x03\x01\x00\x05", "tls"),
        (b"*1\r\n$4\r\nPING\r\n", "tcp"),
    ] {
        let counted = || {
            let labels = [("direction", "inbound"), ("protocol", protocol)];
            sidecar.metrics().get("pillion_connections_total", &labels)
        };
        let before = counted();
        let mut client = Client::connect(sidecar.at.inbound);
        client.send(bytes);
        expect(&mut client, bytes);
        until(protocol, || counted() == before + 1.0);
    }
}

#[test]
fn a_protocol_that_is_named_is_not_guessed() {
    let _turn = beside_others();
    let backend = Server::start(|_, stream| echo(stream));
    let names = Protocol::ALL.into_iter().filter(|protocol| protocol.is_opaque());
    for protocol in names {
        let sidecar = sidecar("front")
            .upstream("db", backend.address())
            .service(backend.address())
            .with(|model| {
                model.service.protocol = protocol;
                port(model, "db", |upstream| upstream.protocol = protocol);
            })
            .start();
        for address in [sidecar.at.inbound, port_of(&sidecar, "db")] {
            let before = backend.accepted();
            let mut client = Client::connect(address);
            until("the upstream is dialled before a byte came", || backend.accepted() > before);
            client.send("GET / http/1.1\r\n");
            expect(&mut client, b"GET / HTTP/1.1\r\n");
        }
        let tunnel = call(sidecar.at.outbound, "CONNECT db:80 HTTP/1.1\r\nHost: db:80\r\n\r\n");
        assert_eq!(tunnel.status, 200);
    }
}

#[test]
fn a_well_known_port_is_not_guessed() {
    let _turn = beside_others();
    let backend = Server::start(|_, stream| echo(stream));
    let sidecar = sidecar("front")
        .upstream("db:5432", backend.address())
        .with(|model| port(model, "db:5432", |_| {}))
        .start();
    let mut client = Client::connect(port_of(&sidecar, "db:5432"));
    until("the upstream is dialled before a byte came", || backend.accepted() == 1);
    client.send("GET / http/1.1\r\n");
    expect(&mut client, b"GET / HTTP/1.1\r\n");
}

#[test]
fn silent_callers_of_an_http_server_leave_room_for_others() {
    let _turn = beside_others();
    let complains = Server::start(|_, mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n");
    });
    let mail = greeter();
    let sidecar = sidecar("front")
        .upstream("mail", mail.address())
        .service(complains.address())
        .with(|model| {
            model.workers = 1;
            port(model, "mail", |_| {});
        })
        .start();
    let silent: Vec<TcpStream> = (0..150).map(|_| TcpStream::connect(sidecar.at.inbound).unwrap()).collect();
    until("all have heard the complaint", || complains.accepted() >= 128 && complains.open() == 0);
    assert!(greeted(&mut Client::connect(port_of(&sidecar, "mail"))) < Duration::from_secs(1));
    drop(silent);
}

#[test]
fn a_stray_http_caller_does_not_stall_the_callers_of_a_server_that_speaks_first() {
    let _turn = beside_others();
    let backend = greeter();
    let sidecar = sidecar("front").service(backend.address()).with(|model| model.workers = 1).start();
    greeted(&mut Client::connect(sidecar.at.inbound));
    let answer = call(sidecar.at.inbound, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answer.status, 502, "it is no HTTP server");
    assert!(greeted(&mut Client::connect(sidecar.at.inbound)) < Duration::from_millis(500));
}

#[test]
fn the_end_of_a_server_that_speaks_first_is_passed_on() {
    let _turn = beside_others();
    let backend = Server::start(|number, mut stream| {
        if number == 0 {
            let _ = stream.write_all(b"220 ready\r\n");
        }
    });
    let sidecar = sidecar("front").service(backend.address()).with(|model| model.workers = 1).start();
    greeted(&mut Client::connect(sidecar.at.inbound));
    let start = Instant::now();
    assert!(Client::connect(sidecar.at.inbound).is_ended());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
