//! Connections that stop being HTTP, or that begin within HTTP.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::wire::Wire;
use crate::support::{Client, Recorder, Server, Sidecar, beside_others, request, sidecar, until};

use super::before;

/// Takes an upgrade to `echo` and then sends back in capitals what it reads.
fn echo_upgrade(number: usize, mut stream: TcpStream) {
    let mut wire = Wire::new(stream.try_clone().unwrap());
    let Ok(head) = request::read_head(&mut wire, number) else { return };
    assert_eq!(head.field("upgrade").as_deref(), Some("echo"));
    assert_eq!(head.field("connection").map(|v| v.to_ascii_lowercase()).as_deref(), Some("upgrade"));
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nFIRST";
    stream.write_all(answer).unwrap();
    let early = wire.unread().to_ascii_uppercase();
    stream.write_all(&early).unwrap();
    echo(stream);
}

fn echo(mut stream: TcpStream) {
    let mut block = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut block) {
        if stream.write_all(&block[..count].to_ascii_uppercase()).is_err() {
            return;
        }
    }
}

#[track_caller]
fn expect(client: &mut Client, wanted: &[u8]) {
    let wire = client.wire();
    let mut got = Vec::new();
    wire.body(crate::support::wire::Framing::Length(wanted.len() as u64), &mut |bytes| got.extend(bytes))
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(wanted));
}

#[test]
fn an_upgrade_carries_bytes_both_ways() {
    let _turn = beside_others();
    let backend = Server::start(echo_upgrade);
    let sidecar = before(backend.address());
    for address in [sidecar.at.outbound, sidecar.at.inbound] {
        let mut client = Client::connect(address);
        client.send("GET /chat HTTP/1.1\r\nHost: users\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
        let head = client.read_head().unwrap();
        assert_eq!((head.status, head.field("upgrade").as_deref()), (101, Some("echo")));
        expect(&mut client, b"FIRST");
        for _ in 0..10 {
            client.send("hello");
            expect(&mut client, b"HELLO");
        }
        client.close_sending();
        assert!(client.is_ended(), "the end of one side ends the other");
    }
    drop(sidecar);
    until("no connection is left", || backend.open() == 0);
}

#[test]
fn an_upgrade_to_another_protocol_than_asked_for_is_refused() {
    let _turn = beside_others();
    let backend = Recorder::answering(|_| {
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n".to_vec()
    });
    let sidecar = before(backend.address());
    let raw = "GET /chat HTTP/1.1\r\nHost: users\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    let answer = crate::support::call(sidecar.at.outbound, raw);
    assert_eq!((answer.status, answer.reason().as_deref()), (502, Some("malformed_response")));
}

fn tunnel(sidecar: &Sidecar, authority: &str) -> Client {
    let mut client = Client::connect(sidecar.at.outbound);
    client.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"));
    let answer = client.read("CONNECT");
    assert_eq!(
        (answer.status, answer.field("content-length"), answer.field("transfer-encoding")),
        (200, None, None)
    );
    client
}

#[test]
fn a_tunnel_carries_http1_with_policy() {
    let _turn = beside_others();
    let backend = Recorder::start();
    // Port 80 goes without saying.
    let sidecar = sidecar("front").upstream("users", backend.address()).start();
    let mut client = tunnel(&sidecar, "users:80");
    for path in ["/a", "/b"] {
        assert_eq!(client.get("users", path).text(), "ok");
        let seen = backend.only();
        assert_eq!(seen.target, path);
        assert!(seen.has("via"), "what is in the tunnel is proxied, not copied: {seen:?}");
    }
    assert_eq!(client.send("GET / HTTP/1.1\r\n\r\n").read("GET").status, 400, "the guard stands here too");
}

#[test]
fn a_tunnel_carries_http2_with_policy() {
    let _turn = beside_others();
    let backend = crate::support::h2peer::H2Backend::start();
    let sidecar = sidecar("front").upstream("users:50051", backend.address()).start();
    let client = tunnel(&sidecar, "users:50051");
    let mut raw = crate::support::frames::RawH2::over(client.stream().try_clone().unwrap(), &[]);
    raw.send(&crate::support::frames::get(1, "users:50051")).unwrap();
    assert_eq!(raw.outcome(1), crate::support::frames::Outcome::Answer(200));
    assert!(backend.only().head.headers.contains_key("via"));
}

#[test]
fn a_tunnel_carries_opaque_bytes_and_half_closes() {
    let _turn = beside_others();
    // Reads to the end, and only then answers.
    let backend = Server::start(|_, mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all.reverse();
        stream.write_all(&all).unwrap();
    });
    let sidecar = sidecar("front").upstream("db:5432", backend.address()).start();
    let mut client = tunnel(&sidecar, "db:5432");
    client.send(b"\x00\x00\x00\x08\x04\xd2\x16\x2f").close_sending();
    assert_eq!(client.rest(), b"\x2f\x16\xd2\x04\x08\x00\x00\x00");
    sidecar.metric_is("pillion_tcp_bytes_total", &[], 16.0);
}

#[test]
fn a_service_that_speaks_first_is_heard_in_a_tunnel() {
    let _turn = beside_others();
    let backend = Server::start(|_, mut stream| {
        stream.write_all(b"220 ready\r\n").unwrap();
        echo(stream);
    });
    let sidecar = sidecar("front").upstream("mail:25", backend.address()).start();
    let mut client = tunnel(&sidecar, "mail:25");
    expect(&mut client, b"220 ready\r\n");
    client.send("helo\r\n");
    expect(&mut client, b"HELO\r\n");
}

#[test]
fn a_quiet_tunnel_has_a_limit_of_its_own() {
    let _turn = beside_others();
    const SHORT: Duration = Duration::from_millis(150);
    let backend = Server::start(echo_upgrade);
    let setup = sidecar("front").upstream("users", backend.address());
    let sidecar = setup.with(|model| {
        model.defaults.idle_timeout = SHORT;
        model.defaults.tunnel_idle = SHORT * 6;
    });
    let sidecar = sidecar.start();
    let mut client = Client::connect(sidecar.at.outbound);
    client.send("GET /chat HTTP/1.1\r\nHost: users\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(client.read_head().unwrap().status, 101);
    expect(&mut client, b"FIRST");
    std::thread::sleep(SHORT * 3);
    client.send("hello");
    expect(&mut client, b"HELLO");
    let quiet = Instant::now();
    assert!(client.is_ended());
    assert!(quiet.elapsed() >= SHORT * 5, "{:?}", quiet.elapsed());
    until("the backend is told", || backend.open() == 0);
}
