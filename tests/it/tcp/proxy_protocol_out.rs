//! The service and upstreams are told who the caller is.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pillion::base::{Protocol, ProxyProtocol};
use pillion::codec::proxy_protocol::{Header, read, write};
use pillion::config::model::{Health, HealthQuestion};

use crate::support::h2peer::H2Client;
use crate::support::{Client, Server, Sidecar, beside_others, sidecar, until};

use super::{echo, expect, port, port_of};

const BOTH: [ProxyProtocol; 2] = [ProxyProtocol::V1, ProxyProtocol::V2];

/// A server that begins with a header, and what these were.
struct Told {
    server: Server,
    headers: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Told {
    fn serving(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let headers = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let seen = headers.clone();
        let server = Server::start(move |_, mut stream| {
            let mut header = Vec::new();
            loop {
                match read(&header) {
                    Header::Whole { .. } => break,
                    Header::Wrong => return seen.lock().unwrap().push(header),
                    Header::More => {}
                }
                let mut byte = [0];
                let Ok(1) = stream.read(&mut byte) else { return };
                header.push(byte[0]);
            }
            seen.lock().unwrap().push(header);
            serve(stream);
        });
        Self { server, headers }
    }

    /// The headers so far, at least `count`.
    #[track_caller]
    fn headers(&self, count: usize) -> Vec<Vec<u8>> {
        until("the server has its headers", || self.headers.lock().unwrap().len() >= count);
        std::mem::take(&mut *self.headers.lock().unwrap())
    }

    /// The one header names `caller`.
    #[track_caller]
    fn is_told(&self, version: ProxyProtocol, caller: SocketAddr) {
        assert_eq!(self.headers(1), [write(version, Some((caller, self.server.address())))]);
    }

    fn upstream(&self, version: ProxyProtocol, protocol: Protocol) -> Sidecar {
        let setup = sidecar("front").upstream("users", self.server.address());
        setup
            .with(|model| {
                port(model, "users", |upstream| {
                    upstream.proxy_protocol = Some(version);
                    upstream.protocol = protocol;
                });
            })
            .start()
    }
}

fn http1(mut stream: TcpStream) {
    let mut head = Vec::new();
    let mut block = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut block) {
        head.extend_from_slice(&block[..count]);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                return;
            }
        }
    }
}

fn http2(stream: TcpStream) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    stream.set_nonblocking(true).unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let _ = respond.send_response(http::Response::new(()), true);
        }
    });
}

fn greeting(mut stream: TcpStream) {
    if stream.write_all(b"220 ready\r\n").is_ok() {
        echo(stream);
    }
}

fn local(client: &Client) -> SocketAddr {
    client.stream().local_addr().unwrap()
}

#[test]
fn an_opaque_stream_tells_its_caller_before_the_first_byte() {
    let _turn = beside_others();
    let server = Told::serving(echo);
    for version in BOTH {
        for protocol in [Protocol::Tcp, Protocol::Auto] {
            let sidecar = server.upstream(version, protocol);
            let mut client = Client::connect(port_of(&sidecar, "users"));
            client.send(b"\xffhello");
            expect(&mut client, b"\xffHELLO");
            server.is_told(version, local(&client));
            // A tunnel.
            let mut client = Client::connect(sidecar.at.outbound);
            client.send("CONNECT users:80 HTTP/1.1\r\nHost: users:80\r\n\r\n");
            assert_eq!(client.read("CONNECT").status, 200);
            client.send(b"\xffhello");
            expect(&mut client, b"\xffHELLO");
            server.is_told(version, local(&client));
        }
    }
}

#[test]
fn a_caller_over_ipv6_is_told_as_such() {
    let _turn = beside_others();
    let server = Told::serving(echo);
    for version in BOTH {
        let sidecar = sidecar("front")
            .upstream("users", server.server.address())
            .with(|model| {
                port(model, "users", |upstream| {
                    upstream.listen = Some("[::1]:0".parse().unwrap());
                    upstream.proxy_protocol = Some(version);
                    upstream.protocol = Protocol::Tcp;
                });
            })
            .start();
        let mut client = Client::connect(port_of(&sidecar, "users"));
        client.send("hello");
        expect(&mut client, b"HELLO");
        assert!(local(&client).is_ipv6());
        server.is_told(version, local(&client));
    }
}

#[test]
fn a_server_that_speaks_first_is_told_before_it_does() {
    let _turn = beside_others();
    let server = Told::serving(greeting);
    for version in BOTH {
        let sidecar = server.upstream(version, Protocol::Auto);
        for _ in 0..2 {
            let mut client = Client::connect(port_of(&sidecar, "users"));
            expect(&mut client, b"220 ready\r\n");
            server.is_told(version, local(&client));
        }
    }
}

#[test]
fn a_connection_that_names_one_caller_serves_nobody_else() {
    let _turn = beside_others();
    let server = Told::serving(http1);
    for version in BOTH {
        let sidecar = server.upstream(version, Protocol::Auto);
        // The caller is silent until its upstream is dialled, in its name.
        let mut client = Client::connect(port_of(&sidecar, "users"));
        server.is_told(version, local(&client));
        assert_eq!(client.get("users", "/a").text(), "ok");
        assert_eq!(client.get("users", "/b").text(), "ok");
        let mut other = Client::connect(sidecar.at.outbound);
        assert_eq!(other.get("users", "/c").text(), "ok");
        // Workers have pools of their own.
        for header in server.headers(1) {
            assert_eq!(header, version.own_header(), "no caller in particular");
        }
    }
}

#[test]
fn connections_of_many_callers_name_none() {
    let _turn = beside_others();
    for version in BOTH {
        let server = Told::serving(http2);
        let sidecar = server.upstream(version, Protocol::Http2);
        let client = H2Client::connect(sidecar.at.outbound);
        assert_eq!(client.get("http://users/a").status(), 200);
        assert_eq!(client.get("http://users/b").status(), 200);
        assert_eq!(server.headers(1), [version.own_header()]);
        let server = Told::serving(http1);
        let sidecar = server.upstream(version, Protocol::Http1);
        let mut client = Client::connect(sidecar.at.outbound);
        assert_eq!(client.get("users", "/a").text(), "ok");
        assert_eq!(client.get("users", "/b").text(), "ok");
        assert_eq!(server.headers(1), [version.own_header()]);
    }
}

#[test]
fn the_service_is_told_whom_the_header_at_the_door_has_named() {
    let _turn = beside_others();
    let server = Told::serving(echo);
    for (inward, version) in [BOTH, [BOTH[1], BOTH[0]]].into_iter().map(|[a, b]| (a, b)) {
        let sidecar = sidecar("front")
            .service(server.server.address())
            .with(|model| {
                model.listen.proxy_protocol = vec!["127.0.0.1".parse().unwrap()];
                model.service.proxy_protocol = Some(version);
            })
            .start();
        for caller in ["192.0.2.7:4711", "[2001:db8::7]:4711"] {
            let caller: SocketAddr = caller.parse().unwrap();
            let mut client = Client::connect(sidecar.at.inbound);
            client.send([&write(inward, Some((caller, sidecar.at.inbound))), &b"\xffhello"[..]].concat());
            expect(&mut client, b"\xffHELLO");
            server.is_told(version, caller);
        }
    }
}

#[test]
fn questions_for_health_name_nobody() {
    let _turn = beside_others();
    for version in BOTH {
        for (protocol, server) in
            [(Protocol::Http1, Told::serving(http1)), (Protocol::Http2, Told::serving(http2))]
        {
            let sidecar = sidecar("front")
                .service(server.server.address())
                .with(|model| {
                    model.service.protocol = protocol;
                    model.service.proxy_protocol = Some(version);
                    model.service.health = Some(Health {
                        question: HealthQuestion::Path("/health".into()),
                        interval: Duration::from_millis(20),
                        timeout: Duration::from_secs(3),
                    });
                })
                .start();
            // More than may be missed in a row.
            for header in server.headers(5) {
                assert_eq!(header, version.own_header());
            }
            assert_eq!(sidecar.metrics().get("pillion_service_healthy", &[]), 1.0);
            sidecar.end();
        }
    }
}
