//! How long WebSockets and other tunnels live, and how they end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pillion::base::UpstreamName;
use pillion::config::model::{RoutePolicy, Upstream};

use crate::support::h2peer::H2Client;
use crate::support::server::PATIENCE;
use crate::support::wire::Wire;
use crate::support::{Client, Server, Sidecar, beside_others, request, sidecar, until};

use super::extended::{accept, connect};

/// A drain's deadline, and other times that are waited for.
const SHORT: Duration = Duration::from_millis(400);

/// A frame whose mask, if any, changes nothing.
fn frame(opcode: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mask_bit = if masked { 0x80 } else { 0 };
    let mut bytes = vec![0x80 | opcode];
    match payload.len() {
        short @ ..126 => bytes.push(short as u8 | mask_bit),
        long => {
            bytes.push(126 | mask_bit);
            bytes.extend(u16::try_from(long).unwrap().to_be_bytes());
        }
    }
    bytes.extend_from_slice(if masked { &[0; 4] } else { &[] });
    bytes.extend_from_slice(payload);
    bytes
}

/// The frames in `bytes`, unmasked, and what is left.
fn frames(mut bytes: &[u8], masked: bool) -> (Vec<(u8, Vec<u8>)>, Vec<u8>) {
    let mut all = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<2>() {
        assert_eq!(head[1] & 0x80 != 0, masked, "{head:x?}");
        let (length, rest) = match head[1] & 0x7f {
            126 => match rest.split_first_chunk::<2>() {
                Some((length, rest)) => (usize::from(u16::from_be_bytes(*length)), rest),
                None => break,
            },
            short => (short.into(), rest),
        };
        let (mask, rest) = match rest.split_first_chunk::<4>() {
            Some((mask, rest)) if masked => (*mask, rest),
            None if masked => break,
            _ => ([0; 4], rest),
        };
        let Some(payload) = rest.get(..length) else { break };
        all.push((
            head[0],
            payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect(),
        ));
        bytes = &rest[length..];
    }
    (all, bytes.to_vec())
}

/// 1001, going away.
fn going_away() -> (u8, Vec<u8>) {
    (0x88, vec![3, 0xe9])
}

/// A service that takes every upgrade, echoes all, and tells what it has read
/// when a connection ends. A close frame is answered with one.
fn echo() -> (Server, Receiver<Vec<u8>>) {
    let (ended, ends) = channel();
    let backend = Server::start(move |number, mut stream| {
        let mut wire = Wire::new(stream.try_clone().unwrap());
        let Ok(head) = request::read_head(&mut wire, number) else { return };
        let protocol = head.field("upgrade").unwrap();
        let mut answer =
            format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n");
        if let Some(key) = head.field("sec-websocket-key") {
            answer.push_str(&format!("Sec-WebSocket-Accept: {}\r\n", accept(&key)));
        }
        stream.write_all(format!("{answer}\r\n").as_bytes()).unwrap();
        let (mut all, mut left) = (Vec::new(), wire.unread().to_vec());
        let mut block = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut block) {
            all.extend_from_slice(&block[..count]);
            if protocol != "websocket" {
                stream.write_all(&block[..count]).unwrap();
                continue;
            }
            left.extend_from_slice(&block[..count]);
            let (whole, rest) = frames(&left, true);
            left = rest;
            for (opcode, payload) in whole {
                let _ = stream.write_all(&frame(opcode & 0x0f, &payload, false));
            }
        }
        let _ = ended.send(all);
    });
    (backend, ends)
}

fn open(address: SocketAddr, protocol: &str) -> Client {
    let mut client = Client::connect(address);
    client.send(format!(
        "GET /chat HTTP/1.1\r\nHost: users\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ));
    assert_eq!(client.read_head().unwrap().status, 101);
    client
}

#[track_caller]
fn expect(client: &mut Client, wanted: &[u8]) {
    let mut got = Vec::new();
    let framing = crate::support::wire::Framing::Length(wanted.len() as u64);
    client.wire().body(framing, &mut |bytes| got.extend_from_slice(bytes)).unwrap();
    assert_eq!(got, wanted);
}

fn says_hello(client: &mut Client) {
    client.send(frame(1, b"hello", true));
    expect(client, &frame(1, b"hello", false));
}

fn before(address: SocketAddr) -> Sidecar {
    let setup = sidecar("front").upstream("users", address);
    setup.with(|model| model.drain.deadline = SHORT).start()
}

/// Drains in the background; gives the time at which that began.
fn drain(sidecar: &Arc<Sidecar>) -> (Instant, JoinHandle<bool>) {
    let sidecar = sidecar.clone();
    let drain = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(sidecar.app().drain())
    });
    (Instant::now(), drain)
}

#[test]
fn at_the_end_of_a_drain_both_sides_are_told_to_close() {
    let _turn = beside_others();
    let (backend, ends) = echo();
    let sidecar = Arc::new(before(backend.address()));
    let mut client = open(sidecar.at.outbound, "websocket");
    says_hello(&mut client);
    let (began, drain) = drain(&sidecar);
    std::thread::sleep(SHORT / 2);
    says_hello(&mut client);
    expect(&mut client, &[0x88, 2, 3, 0xe9]);
    assert!(began.elapsed() >= SHORT, "{:?}", began.elapsed());
    client.send(frame(8, &[3, 0xe9], true));
    assert_eq!(client.rest(), b"", "the end of the connection, and nothing more");
    let (told, left) = frames(&ends.recv_timeout(PATIENCE).unwrap(), true);
    let hello = (0x81, b"hello".to_vec());
    assert_eq!((told, left), (vec![hello.clone(), hello, going_away()], Vec::new()));
    assert!(!drain.join().unwrap(), "it was not over by itself");
    assert!(began.elapsed() < SHORT + Duration::from_secs(3), "{:?}", began.elapsed());
    sidecar.metric_is("pillion_errors_total", &[("reason", "shutting_down")], 1.0);
}

#[test]
fn a_side_that_is_within_a_frame_is_not_told_to_close() {
    let _turn = beside_others();
    let (backend, ends) = echo();
    let sidecar = Arc::new(before(backend.address()));
    let mut client = open(sidecar.at.outbound, "websocket");
    let whole = frame(2, &[7; 100], true);
    client.send(&whole[..50]);
    let (_, drain) = drain(&sidecar);
    assert_eq!(client.rest(), [0x88, 2, 3, 0xe9]);
    assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), &whole[..50]);
    drain.join().unwrap();
}

#[test]
fn frames_at_hand_pass_whole_before_the_close() {
    let _turn = beside_others();
    let (backend, ends) = echo();
    let sidecar = Arc::new(before(backend.address()));
    let client = open(sidecar.at.outbound, "websocket");
    let mut sender = client.stream().try_clone().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let (told, reader) = (over.clone(), client.stream().try_clone().unwrap());
    let sender = std::thread::spawn(move || {
        let mut pieces = 0;
        'all: for length in (0..).map(|number| 1 + number * 37 % 3000) {
            // A frame is nearly always under way.
            for piece in frame(2, &vec![5; length], true).chunks(500) {
                if told.load(Ordering::Relaxed) || sender.write_all(piece).is_err() {
                    break 'all;
                }
                pieces += 1;
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        pieces
    });
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = (&reader).read_to_end(&mut all);
        all
    });
    let (_, drain) = drain(&sidecar);
    let seen = ends.recv_timeout(PATIENCE).unwrap();
    over.store(true, Ordering::Relaxed);
    let (mut told, left) = frames(&seen, true);
    assert_eq!((told.pop(), left), (Some(going_away()), Vec::new()), "{} bytes", seen.len());
    for (number, (opcode, payload)) in told.iter().enumerate() {
        assert_eq!((*opcode, payload.len()), (0x82, 1 + number * 37 % 3000));
    }
    assert!(sender.join().unwrap() > 10 && !told.is_empty());
    let (heard, left) = frames(&reader.join().unwrap(), false);
    assert_eq!((heard.last(), left), (Some(&going_away()), Vec::new()));
    drain.join().unwrap();
}

#[test]
fn what_is_no_websocket_is_ended_without_a_word() {
    let _turn = beside_others();
    // An opcode that means nothing to anybody.
    let (sent, echoed) = (frame(11, b"x", true), frame(11, b"x", false));
    let hello = b"hello".to_vec();
    let text = frame(1, b"hi", true);
    for (protocol, bytes, answer) in
        [("websocket", &sent, &echoed), ("echo", &hello, &hello), ("echo", &text, &text)]
    {
        let (backend, ends) = echo();
        let sidecar = Arc::new(before(backend.address()));
        let mut client = open(sidecar.at.outbound, protocol);
        client.send(bytes);
        expect(&mut client, answer);
        let (began, drain) = drain(&sidecar);
        assert_eq!(client.rest(), b"");
        assert!(began.elapsed() >= SHORT, "{:?}", began.elapsed());
        assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), *bytes);
        drain.join().unwrap();
    }
}

#[test]
fn who_was_told_to_close_is_not_told_again() {
    let _turn = beside_others();
    let backend = Server::start(|number, mut stream| {
        let mut wire = Wire::new(stream.try_clone().unwrap());
        let Ok(head) = request::read_head(&mut wire, number) else { return };
        let accept = accept(&head.field("sec-websocket-key").unwrap());
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&frame(8, &[3, 0xe8], false)).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let sidecar = Arc::new(before(backend.address()));
    let mut client = open(sidecar.at.outbound, "websocket");
    let (_, drain) = drain(&sidecar);
    assert_eq!(client.rest(), [0x88, 2, 3, 0xe8]);
    drain.join().unwrap();
}

#[test]
fn a_websocket_that_is_quiet_for_too_long_is_closed_properly() {
    let _turn = beside_others();
    let (backend, ends) = echo();
    let setup = sidecar("front").upstream("users", backend.address());
    let sidecar = setup.with(|model| model.defaults.tunnel_idle = SHORT).start();
    let mut client = open(sidecar.at.outbound, "websocket");
    let began = Instant::now();
    says_hello(&mut client);
    let received = [("upstream", "users"), ("direction", "received")];
    // Counted as they pass.
    sidecar.metric_is("pillion_tcp_bytes_total", &received, 7.0);
    assert_eq!(client.rest(), [0x88, 2, 3, 0xe9]);
    assert!(began.elapsed() >= SHORT, "{:?}", began.elapsed());
    let (told, _) = frames(&ends.recv_timeout(PATIENCE).unwrap(), true);
    assert_eq!(told[1..], [going_away()]);
    sidecar.metric_is("pillion_errors_total", &[("reason", "stream_idle")], 1.0);
    until("no connection is left", || backend.open() == 0);
}

#[test]
fn an_http2_stream_is_told_to_close_too() {
    let _turn = beside_others();
    let (backend, ends) = echo();
    let sidecar = Arc::new(before(backend.address()));
    let client = H2Client::connect(sidecar.at.outbound);
    let (mut send, mut receive) = client.block_on(async {
        let request = connect("websocket", "http://users/chat");
        let (answer, send) =
            client.sender.clone().ready().await.unwrap().send_request(request, false).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        (send, answer.into_body())
    });
    let (_, drain) = drain(&sidecar);
    client.block_on(async {
        send.send_data(frame(1, b"hello", true).into(), false).unwrap();
        let mut got = Vec::new();
        while let Some(Ok(data)) = receive.data().await {
            got.extend_from_slice(&data);
            if got.ends_with(&[0x88, 2, 3, 0xe9]) {
                let _ = send.send_data(Bytes::from(frame(8, &[3, 0xe9], true)), true);
            }
        }
        assert_eq!(frames(&got, false).0, [(0x81, b"hello".to_vec()), going_away()]);
        assert!(receive.is_end_stream(), "a whole stream, and no reset");
    });
    let (told, _) = frames(&ends.recv_timeout(PATIENCE).unwrap(), true);
    assert_eq!(told[1..], [going_away()]);
    drain.join().unwrap();
}

/// Echoes until told to stop; returns how often.
fn chat(mut client: Client, over: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let over = over.clone();
    std::thread::spawn(move || {
        let mut rounds = 0;
        while !over.load(Ordering::Relaxed) {
            says_hello(&mut client);
            rounds += 1;
        }
        rounds
    })
}

#[test]
fn a_thousand_reloads_leave_open_tunnels_alone() {
    let _turn = beside_others();
    let (backend, _ends) = echo();
    let opaque = Server::start(|_, mut stream| {
        let mut block = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut block) {
            for (opcode, payload) in frames(&block[..count], true).0 {
                stream.write_all(&frame(opcode & 0x0f, &payload, false)).unwrap();
            }
        }
    });
    let (models, reloads) = tokio::sync::mpsc::channel(1);
    let port = |listen: Option<SocketAddr>| {
        let policy = RoutePolicy::default();
        Upstream { protocol: pillion::base::Protocol::Auto, listen, policy, ..Upstream::default() }
    };
    let users = UpstreamName::new("users");
    let setup = sidecar("front").upstream("users", backend.address()).upstream("db:5432", opaque.address());
    let setup = setup.with(|model| {
        model.upstreams.insert(users.clone(), port(Some("127.0.0.1:0".parse().unwrap())));
    });
    let first = setup.finished_model();
    // Its listener and its endpoints go away.
    let mut without = sidecar("front").upstream("db:5432", opaque.address()).finished_model();
    without.upstreams.insert(users, port(None));
    let sidecar = setup.options(|options| options.reloads = Some(reloads)).start();
    let mut tunnel = Client::connect(sidecar.at.outbound);
    tunnel.send("CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n");
    assert_eq!(tunnel.read("CONNECT").status, 200);
    let over = Arc::default();
    let at = &sidecar.at;
    let clients = [open(at.outbound, "websocket"), open(at.upstreams["users"], "websocket"), tunnel]
        .map(|client| chat(client, &over));
    for number in 0..1_000 {
        let model = if number % 2 == 0 { &without } else { &first };
        models.blocking_send(Arc::new(model.clone())).unwrap();
    }
    sidecar.metric_is("pillion_config_version", &[], 1_001.0);
    sidecar.metric_is("pillion_tunnels_open", &[("direction", "outbound")], 3.0);
    over.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.join().unwrap() > 100);
    }
    assert_eq!(sidecar.metrics().get("pillion_errors_total", &[]), 0.0);
}

#[test]
fn a_caller_that_vanishes_ends_the_tunnel() {
    let _turn = beside_others();
    let (backend, ends) = echo();
    let sidecar = before(backend.address());
    let client = open(sidecar.at.outbound, "websocket");
    sidecar.metric_is("pillion_tunnels_open", &[("direction", "outbound")], 1.0);
    let stream: TcpStream = client.stream().try_clone().unwrap();
    crate::support::server::reset_on_close(&stream);
    drop((client, stream));
    assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), b"", "and no close frame in its name");
    sidecar.metric_is("pillion_tunnels_open", &[], 0.0);
}
