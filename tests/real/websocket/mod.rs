//! A WebSocket echo between real clients and real servers, through two sidecars:
//! what each of them sends and compares is in `tests/parts/websocket/README.md`.

mod browser;
mod rust;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use pillion::base::{Protocol, UpstreamName};
use pillion::config::model::{RoutePolicy, Upstream};

use crate::grpc::programs::{self, Running, command};
use crate::parts::installed;
use crate::support::{Sidecar, beside_others, sidecar};

/// A library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Library {
    /// `github.com/coder/websocket`.
    Go,
    /// `websockets`.
    Python,
    /// `tokio-tungstenite`.
    Rust,
    /// Node's HTTP/2: WebSockets by extended CONNECT.
    Node,
}

/// Those that speak HTTP/1.1.
const OF_HTTP1: [Library; 3] = [Library::Go, Library::Python, Library::Rust];

/// A server, for as long as it is held.
enum Server {
    Program(Running),
    Here(rust::Server),
}

/// Messages of each client; `PILLION_TEST_MESSAGES=10000` for the full number.
fn messages() -> usize {
    std::env::var("PILLION_TEST_MESSAGES").map_or(500, |text| text.parse().expect("a number"))
}

fn file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parts/websocket").join(name)
}

impl Library {
    fn program(self) -> Command {
        match self {
            Self::Go => command(&installed("bin/websocket-go")),
            Self::Python => {
                let mut python = command(&installed("python/bin/python"));
                python.arg(file("echo.py"));
                python
            }
            Self::Node => {
                let mut node = command(Path::new("node"));
                node.arg(file("http2.mjs"));
                node
            }
            Self::Rust => unreachable!("it runs in this process"),
        }
    }

    fn server(self) -> Server {
        match self {
            Self::Rust => Server::Here(rust::Server::start()),
            library => Server::Program(programs::listening(library.program().arg("server"))),
        }
    }

    /// Runs the client against `address`; what went wrong.
    fn call(self, address: SocketAddr, count: usize) -> Result<(), String> {
        let scheme = if self == Self::Node { "http" } else { "ws" };
        let url = format!("{scheme}://{address}/echo?of={self:?}");
        if self == Self::Rust {
            return rust::call(&url, count);
        }
        let output = programs::finish(self.program().args(["client", &url, &count.to_string()]));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let pings = (count + 24) / 50;
        if said.trim() == format!("ok {count}, {pings} pings") {
            return Ok(());
        }
        Err(format!("{}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

impl Server {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Program(running) => running.address,
            Self::Here(server) => server.address,
        }
    }
}

/// The sidecar of a caller, with a local port to `echo`, and that of the server.
struct Chain {
    at: SocketAddr,
    front: Sidecar,
    back: Sidecar,
}

impl Chain {
    fn to(server: SocketAddr, protocol: Protocol) -> Self {
        let back = sidecar("echo").service(server).with(|model| model.service.protocol = protocol).start();
        let entry = Upstream {
            protocol: Protocol::Auto,
            listen: Some("127.0.0.1:0".parse().unwrap()),
            policy: RoutePolicy::default(),
            ..Upstream::default()
        };
        let echo = UpstreamName::new("echo");
        let setup = sidecar("caller").upstream("echo", back.at.inbound);
        let front = setup.with(|model| drop(model.upstreams.insert(echo.clone(), entry))).start();
        Self { at: front.at.upstreams[&echo], front, back }
    }

    /// Nothing but tunnels has passed, and none was cut short by a sidecar.
    #[track_caller]
    fn carried(&self, tunnels: usize) {
        for (sidecar, name) in [
            (&self.front, "http_client_request_duration_seconds_count"),
            (&self.back, "http_server_request_duration_seconds_count"),
        ] {
            let metrics = sidecar.metrics();
            assert_eq!(metrics.get(name, &[("http_response_status_code", "101")]), tunnels as f64);
            assert_eq!(
                metrics.get("pillion_errors_total", &[]),
                0.0,
                "{}",
                metrics.show("pillion_errors_total")
            );
        }
    }
}

/// Runs every client against one server, through two sidecars.
#[track_caller]
fn echoes(server: Library, clients: &[Library]) {
    let _turn = beside_others();
    let running = server.server();
    let protocol = if server == Library::Node { Protocol::Http2 } else { Protocol::Http1 };
    let chain = Chain::to(running.address(), protocol);
    for client in clients {
        client.call(chain.at, messages()).unwrap_or_else(|why| panic!("{client:?} → {server:?}: {why}"));
    }
    chain.carried(clients.len());
}

#[test]
fn every_client_hears_what_it_said_from_go() {
    echoes(Library::Go, &OF_HTTP1);
}

#[test]
fn every_client_hears_what_it_said_from_python() {
    echoes(Library::Python, &OF_HTTP1);
}

#[test]
fn every_client_hears_what_it_said_from_rust() {
    echoes(Library::Rust, &OF_HTTP1);
}

#[test]
fn a_client_of_http2_reaches_every_server() {
    for server in OF_HTTP1 {
        echoes(server, &[Library::Node]);
    }
}

#[test]
fn every_client_reaches_a_server_of_http2() {
    echoes(Library::Node, &[Library::Go, Library::Python, Library::Rust, Library::Node]);
}

#[test]
fn a_browser_reaches_every_server() {
    let _turn = beside_others();
    let servers = OF_HTTP1.map(Library::server);
    let chains: Vec<_> = servers.iter().map(|server| Chain::to(server.address(), Protocol::Http1)).collect();
    let urls: Vec<_> = chains.iter().map(|chain| format!("ws://{}/echo", chain.at)).collect();
    assert_eq!(browser::call(&urls, messages()), format!("ok {}", messages()));
    chains.iter().for_each(|chain| chain.carried(1));
}
