//! gRPC's interoperability cases
//! (<https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md>)
//! with the libraries of Go, Python and Rust on both sides, through two
//! sidecars: caller, its outbound, the callee's inbound, server.

mod errors;
mod health;
pub mod programs;

use std::net::SocketAddr;
use std::process::Output;

use pillion::base::UpstreamName;

use crate::support::{Sidecar, process, sidecar};
use programs::{Language, Running};

/// What every library has.
const COMMON: [&str; 14] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
];
/// What only grpc-go's client has, for any server.
const SOAK: [&str; 2] = ["rpc_soak", "channel_soak"];
/// What only grpc-go's client and server have together.
const ORCA: [&str; 2] = ["orca_per_rpc", "orca_oob"];

/// How a call comes to the sidecar of its caller.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Without sidecars: what a case does here it must do through them.
    Direct,
    /// To the port of the upstream, or with its authority to the port for all.
    Straight,
    /// Through CONNECT, as the proxy variables make the libraries do.
    Connect,
}

/// A server and the two sidecars before it.
struct Mesh {
    server: SocketAddr,
    /// Fronts the server.
    callee: Sidecar,
    /// Fronts the caller.
    caller: Sidecar,
    _running: Running,
}

impl Mesh {
    fn start(language: Language) -> Self {
        let running = programs::server(language);
        let server = running.address;
        let callee = sidecar("users").service(server).start();
        let caller = sidecar("shop").upstream("users", callee.at.inbound).local_port("users").start();
        Self { server, callee, caller, _running: running }
    }

    /// The caller's port for the server alone.
    fn port(&self) -> SocketAddr {
        self.caller.at.upstreams[&UpstreamName::new("users")]
    }

    /// Runs `cases` of a client, one by one or side by side as the client can,
    /// and returns what failed.
    fn run(&self, client: Language, way: Way, cases: &[&str]) -> Vec<String> {
        let outbound = self.caller.at.outbound;
        match client {
            Language::Go => {
                let (target, proxy) = match way {
                    Way::Direct => (self.server.to_string(), None),
                    Way::Straight => (self.port().to_string(), None),
                    // Go sends nothing to loopback through a proxy; a name it does.
                    Way::Connect => ("users:50051".to_owned(), Some(outbound)),
                };
                programs::go_cases(&target, proxy, cases)
            }
            Language::Python | Language::Rust => {
                let (target, authority, proxy) = match way {
                    Way::Direct => (self.server.to_string(), "-", None),
                    Way::Straight => (outbound.to_string(), "users", None),
                    Way::Connect => ("users:50051".to_owned(), "-", Some(outbound)),
                };
                programs::cases(client, &target, authority, proxy, cases)
            }
        }
    }
}

/// Every client against one server, in each way.
fn all_clients(server: Language) {
    let mesh = Mesh::start(server);
    let mut failed = Vec::new();
    for client in Language::ALL {
        let mut cases = COMMON.to_vec();
        if client == Language::Go {
            cases.extend(SOAK);
            if server == Language::Go {
                cases.extend(ORCA);
            }
        }
        let direct = mesh.run(client, Way::Direct, &cases);
        assert!(direct.is_empty(), "{client:?} to {server:?} fails without sidecars: {direct:#?}");
        for way in [Way::Straight, Way::Connect] {
            let told = mesh.run(client, way, &cases);
            failed.extend(told.into_iter().map(|why| format!("{client:?} to {server:?}, {way:?}: {why}")));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    // All of it went through both sidecars.
    for (sidecar, side) in [(&mesh.caller, "client"), (&mesh.callee, "server")] {
        let name = format!("http_{side}_request_duration_seconds_count");
        let count = sidecar.metrics().get(&name, &[("http_request_method", "POST")]);
        assert!(count >= 2.0 * (3 * COMMON.len()) as f64, "{count} calls of the {side}");
    }
}

#[test]
fn every_case_to_a_server_of_grpc_go_passes_through_two_sidecars() {
    all_clients(Language::Go);
}

#[test]
fn every_case_to_a_server_of_grpcio_passes_through_two_sidecars() {
    all_clients(Language::Python);
}

#[test]
fn every_case_to_a_server_of_tonic_passes_through_two_sidecars() {
    all_clients(Language::Rust);
}

#[test]
fn calls_through_connect_meet_the_same_route_and_count_the_same() {
    let server = programs::server(Language::Go);
    let route = "/grpc.testing.TestService/UnaryCall";
    let policy = format!("version: 1\noutbound:\n- {{to: users, route: 'POST {route}', timeout: 30s}}\n");
    let sidecar = process("shop").upstream("users", &[server.address]).policy(policy).start();
    let (target, cases) = (sidecar.outbound.to_string(), ["large_unary"]);
    let named = "users:50051";
    for client in [Language::Python, Language::Rust] {
        assert_eq!(programs::cases(client, &target, "users", None, &cases), Vec::<String>::new());
        assert_eq!(programs::cases(client, named, "-", Some(sidecar.outbound), &cases), Vec::<String>::new());
    }
    assert_eq!(programs::go_cases(named, Some(sidecar.outbound), &cases), Vec::<String>::new());
    let name = "http_client_request_duration_seconds_count";
    let metrics = sidecar.metrics();
    let labels =
        [("http_request_method", "POST"), ("http_route", route), ("http_response_status_code", "200")];
    assert_eq!(metrics.get(name, &labels), 5.0, "{}", metrics.show(name));
    assert_eq!(metrics.get("pillion_errors_total", &[]), 0.0);
}

/// The standard output of a program that ended well.
#[track_caller]
fn said(output: &Output) -> String {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {told}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
