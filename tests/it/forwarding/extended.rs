//! Upgrades where one side or both speak HTTP/2 (RFC 8441).

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::ext::Protocol;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use pillion::base::Protocol as Spoken;
use tokio::sync::oneshot;

use crate::support::frames::{self, Outcome, RawH2, frame, kind};
use crate::support::h2peer::{Answer, H2Backend, H2Client};
use crate::support::wire::{Framing, Wire};
use crate::support::{Client, Recorder, Server, Sidecar, beside_others, request, sidecar, until};

use super::before;

/// The key of RFC 6455's example, and what it becomes.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A stream of an HTTP/2 client that is a tunnel, or an answer.
struct Channel {
    head: Response<()>,
    send: h2::SendStream<Bytes>,
    receive: h2::RecvStream,
}

impl Channel {
    fn open(client: &H2Client, request: Request<()>) -> Result<Self, h2::Error> {
        client.block_on(async {
            let (answer, send) = client.sender.clone().ready().await?.send_request(request, false)?;
            let (head, receive) = answer.await?.into_parts();
            Ok(Self { head: Response::from_parts(head, ()), send, receive })
        })
    }

    fn write(&mut self, bytes: &'static [u8], ends: bool) {
        self.send.send_data(Bytes::from_static(bytes), ends).unwrap();
    }

    /// Reads so many bytes, or to the end.
    async fn read(&mut self, count: usize) -> Vec<u8> {
        let mut got = Vec::new();
        while got.len() < count
            && let Some(data) = self.receive.data().await
        {
            let data = data.unwrap();
            self.receive.flow_control().release_capacity(data.len()).unwrap();
            got.extend_from_slice(&data);
        }
        got
    }
}

pub fn connect(protocol: &str, uri: &str) -> Request<()> {
    let request = Request::connect(uri).extension(Protocol::from(protocol));
    request.header("sec-websocket-version", "13").body(()).unwrap()
}

/// A service of HTTP/1.1 that takes every upgrade, says FIRST, and then answers
/// in capitals.
fn shout(seen: &Mutex<Vec<request::Request>>, number: usize, mut stream: TcpStream) {
    let mut wire = Wire::new(stream.try_clone().unwrap());
    let Ok(head) = request::read_head(&mut wire, number) else { return };
    let protocol = head.field("upgrade").unwrap_or_default();
    let mut answer =
        format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n");
    if let Some(key) = head.field("sec-websocket-key") {
        answer.push_str(&format!("Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: v2\r\n", accept(&key)));
    }
    seen.lock().unwrap().push(head);
    stream.write_all(format!("{answer}\r\nFIRST").as_bytes()).unwrap();
    stream.write_all(&wire.unread().to_ascii_uppercase()).unwrap();
    let mut block = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut block) {
        stream.write_all(&block[..count].to_ascii_uppercase()).unwrap();
    }
    stream.write_all(b"END").unwrap();
}

pub fn accept(key: &str) -> String {
    use base64::Engine as _;
    use sha1::Digest as _;
    let digest = sha1::Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// A service of HTTP/2 that takes every extended CONNECT and does the same.
struct Shouter {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<http::request::Parts>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Shouter {
    /// Answers with `status`.
    fn start(status: u16) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<_>>> = Arc::default();
        let (stop, stopped) = oneshot::channel();
        let record = seen.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let serve = async {
                    while let Ok((tcp, _)) = listener.accept().await {
                        tokio::spawn(shout_h2(tcp, record.clone(), status));
                    }
                };
                tokio::select! { () = serve => {}, _ = stopped => {} }
            });
        });
        Self { address, seen, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Shouter {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

async fn shout_h2(tcp: tokio::net::TcpStream, seen: Arc<Mutex<Vec<http::request::Parts>>>, status: u16) {
    let mut builder = h2::server::Builder::new();
    let Ok(mut connection) = builder.enable_connect_protocol().handshake::<_, Bytes>(tcp).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (head, mut receive) = request.into_parts();
        seen.lock().unwrap().push(head);
        let answer = Response::builder().status(status).header("sec-websocket-protocol", "v2");
        let mut send = respond.send_response(answer.body(()).unwrap(), false).unwrap();
        tokio::spawn(async move {
            let _ = send.send_data(Bytes::from_static(b"FIRST"), status != 200);
            while let Some(Ok(data)) = receive.data().await {
                let _ = receive.flow_control().release_capacity(data.len());
                let _ = send.send_data(data.to_ascii_uppercase().into(), false);
            }
            let _ = send.send_data(Bytes::from_static(b"END"), true);
        });
    }
}

/// A sidecar whose upstream `users` speaks HTTP/2.
fn before_http2(address: SocketAddr) -> Sidecar {
    let setup = sidecar("front").upstream("users", address).service(address);
    setup.with(|model| model.service.protocol = Spoken::Http2).start()
}

fn talk(client: &H2Client, channel: &mut Channel) {
    client.block_on(async {
        assert_eq!(channel.read(5).await, b"FIRST");
        for _ in 0..3 {
            channel.write(b"hello", false);
            assert_eq!(channel.read(5).await, b"HELLO");
        }
        channel.write(b"bye", true);
        assert_eq!(channel.read(99).await, b"BYEEND", "each direction has its own end");
    });
}

#[test]
fn an_http2_caller_reaches_a_websocket_of_http1() {
    let _turn = beside_others();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = seen.clone();
    let backend = Server::start(move |number, stream| shout(&record, number, stream));
    let sidecar = before(backend.address());
    for address in [sidecar.at.outbound, sidecar.at.inbound] {
        let client = H2Client::connect(address);
        let mut request = connect("websocket", "http://users/chat?room=1");
        // HTTP/2 has no keys: one that is sent all the same says nothing.
        request.headers_mut().insert("sec-websocket-key", KEY.parse().unwrap());
        let mut channel = Channel::open(&client, request).unwrap();
        assert_eq!(channel.head.status(), 200);
        for gone in ["connection", "upgrade", "sec-websocket-accept", "content-length"] {
            assert!(!channel.head.headers().contains_key(gone), "{gone}: {:?}", channel.head);
        }
        assert_eq!(channel.head.headers()["sec-websocket-protocol"], "v2");
        talk(&client, &mut channel);
        let head = seen.lock().unwrap().pop().unwrap();
        assert_eq!((head.method.as_str(), head.target.as_str()), ("GET", "/chat?room=1"));
        assert_eq!(head.field("connection").as_deref(), Some("upgrade"));
        assert_eq!(head.field("upgrade").as_deref(), Some("websocket"));
        assert_eq!(head.field("sec-websocket-version").as_deref(), Some("13"));
        assert!(head.has("via") && head.field("sec-websocket-key").is_some_and(|key| key != KEY), "{head:?}");
    }
    until("no connection is left", || backend.open() == 0);
}

#[test]
fn an_answer_that_is_no_change_of_protocol_is_not_taken_for_one() {
    let _turn = beside_others();
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n";
    let cases = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(), 502),
        ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), 502),
        (format!("{switch}Upgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"), 502),
        (format!("{switch}Upgrade: websocket\r\n\r\n"), 502),
        (format!("{switch}Upgrade: other\r\n\r\n"), 502),
        (format!("{switch}\r\n"), 502),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno".to_owned(), 403),
        ("HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n".to_owned(), 426),
        ("HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n".to_owned(), 302),
    ];
    for (answer, status) in cases {
        let bytes = answer.clone().into_bytes();
        let backend = Recorder::answering(move |_| bytes.clone());
        let sidecar = before(backend.address());
        let client = H2Client::connect(sidecar.at.outbound);
        let mut channel = Channel::open(&client, connect("websocket", "http://users/chat")).unwrap();
        assert_eq!(channel.head.status(), status, "{answer}");
        if status == 502 {
            assert_eq!(channel.head.headers()["pillion-error"].to_str().unwrap(), "malformed_response");
        } else if status == 403 {
            assert_eq!(client.block_on(channel.read(99)), b"no");
        }
        drop(channel);
        let again = Channel::open(&client, connect("websocket", "http://users/chat")).unwrap();
        assert_eq!(again.head.status(), status, "the connection goes on");
    }
}

fn ask(client: &mut Client, protocol: &str) -> crate::support::Response {
    client.send(format!(
        "GET /chat?a=1 HTTP/1.1\r\nHost: users\r\nConnection: keep-alive, Upgrade\r\nUpgrade: {protocol}\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\nearly"
    ));
    client.read_head().unwrap()
}

#[track_caller]
fn expect(client: &mut Client, wanted: &str) {
    let mut got = Vec::new();
    let framing = Framing::Length(wanted.len() as u64);
    client.wire().body(framing, &mut |bytes| got.extend(bytes)).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), wanted);
}

#[test]
fn an_http1_caller_reaches_a_websocket_of_http2() {
    let _turn = beside_others();
    let backend = Shouter::start(200);
    let sidecar = before_http2(backend.address);
    for (asked, told) in [("WebSocket", "websocket"), ("other/2", "other/2")] {
        let mut client = Client::connect(sidecar.at.inbound);
        let head = ask(&mut client, asked);
        assert_eq!(head.status, 101);
        assert_eq!(head.field("connection").as_deref(), Some("upgrade"));
        assert_eq!(head.field("upgrade").as_deref(), Some(asked));
        let accept = (told == "websocket").then_some(ACCEPT);
        assert_eq!(head.field("sec-websocket-accept").as_deref(), accept);
        assert_eq!(head.field("sec-websocket-protocol").as_deref(), Some("v2"));
        // What was sent before the answer came is not lost.
        expect(&mut client, "FIRSTEARLY");
        client.send("hello");
        expect(&mut client, "HELLO");
        client.close_sending();
        assert_eq!(client.rest(), b"END");
        let head = backend.seen.lock().unwrap().pop().unwrap();
        assert_eq!(
            (&head.method, head.uri.to_string().as_str()),
            (&Method::CONNECT, "http://users/chat?a=1")
        );
        assert_eq!(head.extensions.get::<Protocol>().unwrap().as_str(), told);
        for gone in ["connection", "upgrade", "host", "sec-websocket-key"] {
            assert!(!head.headers.contains_key(gone), "{gone}: {head:?}");
        }
    }
}

#[test]
fn a_refusal_of_http2_is_passed_on() {
    let _turn = beside_others();
    let backend = Shouter::start(403);
    let sidecar = before_http2(backend.address);
    let mut client = Client::connect(sidecar.at.inbound);
    let answer = ask(&mut client, "websocket");
    assert_eq!((answer.status, answer.field("upgrade")), (403, None));
    let mut got: Vec<u8> = Vec::new();
    client.wire().body(Framing::Chunked, &mut |bytes| got.extend(bytes)).unwrap();
    assert_eq!(got, b"FIRST");
}

#[test]
fn http2_on_both_sides_carries_any_protocol() {
    let _turn = beside_others();
    let backend = Shouter::start(200);
    let inner = before_http2(backend.address);
    let outer = sidecar("outer").upstream("users", inner.at.inbound).start();
    for protocol in ["websocket", "connect-udp", "something/1.0"] {
        let client = H2Client::connect(outer.at.outbound);
        let mut channel = Channel::open(&client, connect(protocol, "http://users/a/b")).unwrap();
        assert_eq!(channel.head.status(), 200, "{protocol}");
        talk(&client, &mut channel);
        let head = backend.seen.lock().unwrap().pop().unwrap();
        assert_eq!(head.extensions.get::<Protocol>().unwrap().as_str(), protocol);
    }
    assert_eq!(outer.metrics().get("pillion_upstream_connects_total", &[]), 1.0, "one connection for all");
}

#[test]
fn a_service_without_extended_connect_is_asked_in_the_way_of_http1() {
    let _turn = beside_others();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = seen.clone();
    let backend = Server::start(move |number, stream| shout(&record, number, stream));
    let sidecar = before_http2(backend.address());
    let mut client = Client::connect(sidecar.at.inbound);
    assert_eq!(ask(&mut client, "websocket").status, 101);
    expect(&mut client, "FIRSTEARLY");
    let key = seen.lock().unwrap().iter().find_map(|head| head.field("sec-websocket-key"));
    assert_eq!(key.as_deref(), Some(KEY), "the caller's own");
    // A service of HTTP/2 alone takes none at all.
    let backend = H2Backend::start();
    let sidecar = before_http2(backend.address());
    let mut client = Client::connect(sidecar.at.inbound);
    let answer = ask(&mut client, "websocket");
    assert_eq!((answer.status, answer.reason().as_deref()), (502, Some("reset_before_headers")));
    assert!(backend.take().is_empty());
}

#[test]
fn an_extended_connect_must_be_one() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = before(backend.address());
    let path = (":path", "/chat");
    let method = (":method", "CONNECT");
    let scheme = (":scheme", "http");
    let authority = (":authority", "users");
    let protocol = (":protocol", "websocket");
    let whole = [method, scheme, path, authority, protocol];
    let reset = Outcome::Reset(1);
    let bad = Outcome::Answer(400);
    let without = |name: &str| whole.into_iter().filter(|field| field.0 != name).collect::<Vec<_>>();
    let with = |name: &str, value: &'static str| {
        let mut fields = without(name);
        fields.insert(0, (Box::leak(name.to_owned().into_boxed_str()), value));
        fields
    };
    let and = |field| whole.into_iter().chain([field]).collect::<Vec<_>>();
    let cases: Vec<(Vec<(&str, &str)>, &Outcome)> = vec![
        (with(":method", "GET"), &reset),
        (with(":method", "POST"), &reset),
        (without(":path"), &reset),
        (with(":path", ""), &reset),
        (without(":scheme"), &reset),
        (with(":protocol", ""), &bad),
        (with(":protocol", "web socket"), &bad),
        (with(":protocol", "websocket, other"), &bad),
        (with(":protocol", "a/"), &bad),
        (with(":protocol", "h2c"), &bad),
        (with(":path", "chat"), &reset),
        (with(":scheme", "ftp"), &bad),
        (with(":authority", "us ers"), &reset),
        (and(("content-length", "5")), &bad),
        (and(("connection", "upgrade")), &reset),
        (and(("upgrade", "websocket")), &reset),
        (and(protocol), &reset),
    ];
    for (fields, wanted) in cases {
        let mut raw = RawH2::connect(sidecar.at.outbound);
        raw.send(&frame(kind::HEADERS, frames::END_HEADERS, 1, &frames::block(&fields))).unwrap();
        let outcome = raw.outcome(1);
        let refused = |outcome: &Outcome| {
            matches!(outcome, Outcome::Reset(1) | Outcome::GoAway(1) | Outcome::Answer(400))
        };
        assert!(outcome == *wanted || (*wanted == reset && refused(&outcome)), "{fields:?}: {outcome:?}");
    }
    assert!(backend.take().is_empty());
}

#[test]
fn a_websocket_asks_without_a_body() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = before(backend.address());
    for body in ["Content-Length: 2\r\n\r\nok", "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"] {
        let head = "GET /chat HTTP/1.1\r\nHost: users\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
        let answer = crate::support::call(sidecar.at.outbound, format!("{head}{body}"));
        assert_eq!((answer.status, answer.reason().as_deref()), (400, Some("malformed_request")));
    }
    assert!(backend.take().is_empty());
}

#[test]
fn another_upgrade_may_have_a_body_which_is_whole_before_the_change() {
    let _turn = beside_others();
    let backend = Server::start(|number, mut stream| {
        let mut wire = Wire::new(stream.try_clone().unwrap());
        let Ok(head) = request::read_head(&mut wire, number) else { return };
        if head.target == "/late" {
            let mut request = head;
            request::finish(&mut wire, &mut request);
            assert_eq!(request.body, b"{}");
        }
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\r\n";
        let _ = stream.write_all(switch);
        let mut block = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut block) {
            let _ = stream.write_all(&block[..count]);
        }
    });
    let sidecar = before(backend.address());
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: users\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n"
        )
    };
    let mut client = Client::connect(sidecar.at.outbound);
    client.send(head("/late") + "{}");
    assert_eq!(client.read_head().unwrap().status, 101);
    client.send("raw");
    expect(&mut client, "raw");
    let mut client = Client::connect(sidecar.at.outbound);
    client.send(head("/early"));
    let answer = client.read("POST");
    assert_eq!((answer.status, answer.reason().as_deref()), (502, Some("malformed_response")));
}

#[test]
fn http2_has_no_101() {
    let _turn = beside_others();
    let backend = H2Backend::answering(|_| Answer {
        interim: vec![Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).body(()).unwrap()],
        ..Answer::text("ok")
    });
    let sidecar = before_http2(backend.address());
    let answer = crate::support::get(sidecar.at.inbound, "users", "/");
    assert_eq!((answer.status, answer.reason().as_deref()), (502, Some("malformed_response")));
}

#[test]
fn a_reset_ends_the_tunnel_on_both_sides() {
    let _turn = beside_others();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let backend = Server::start(move |number, stream| shout(&seen, number, stream));
    let sidecar = before(backend.address());
    let client = H2Client::connect(sidecar.at.outbound);
    let mut channel = Channel::open(&client, connect("websocket", "http://users/chat")).unwrap();
    assert_eq!(client.block_on(channel.read(5)), b"FIRST");
    channel.send.send_reset(h2::Reason::CANCEL);
    until("the service is told", || backend.open() == 0);
    let backend = Server::start(|number, stream| {
        let mut wire = Wire::new(stream.try_clone().unwrap());
        let Ok(head) = request::read_head(&mut wire, number) else { return };
        let accept = accept(&head.field("sec-websocket-key").unwrap());
        let mut stream = &stream;
        stream.write_all(format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n").as_bytes()).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        crate::support::server::reset_on_close(stream);
    });
    let sidecar = before(backend.address());
    let client = H2Client::connect(sidecar.at.outbound);
    let mut channel = Channel::open(&client, connect("websocket", "http://users/chat")).unwrap();
    channel.write(b"x", false);
    let code = client.block_on(poll_fn(|cx| channel.send.poll_reset(cx))).unwrap();
    assert!(code != h2::Reason::NO_ERROR, "{code:?}");
    let trailers: Option<HeaderMap> = None;
    assert!(
        client.call(Request::get("http://probe/").body(()).unwrap(), Vec::new(), trailers).status() >= 500
    );
}
