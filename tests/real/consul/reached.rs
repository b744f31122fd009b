//! How an agent is reached: by TLS with certificates of Consul's own making, and
//! by a socket of this machine.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::agent::{self, Agent};
use crate::databases::chain::free_port;
use crate::grpc::programs::command;
use crate::parts::installed;
use crate::support::{Process, Recorder, get, process, until};

/// An authority, with a certificate for the agent and one for its clients.
struct Authority {
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let make = |words: &[&str]| {
            let mut consul: Command = command(&installed(&format!("consul/{}/consul", agent::version())));
            let output = consul.arg("tls").args(words).current_dir(folder.path()).output().unwrap();
            assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        make(&["ca", "create"]);
        make(&["cert", "create", "-server", "-additional-ipaddress=127.0.0.1"]);
        make(&["cert", "create", "-client"]);
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn own(&self) -> String {
        self.path("consul-agent-ca.pem")
    }

    /// What an agent is set to, to be asked by TLS at `port` by known clients alone.
    fn agent(&self, port: u16) -> String {
        serde_json::json!({
            "ports": {"https": port},
            "ca_file": self.own(),
            "cert_file": self.path("dc1-server-consul-0.pem"),
            "key_file": self.path("dc1-server-consul-0-key.pem"),
            "verify_incoming_https": true,
        })
        .to_string()
    }

    fn client(&self) -> String {
        let (cert, key) = (self.path("dc1-client-consul-0.pem"), self.path("dc1-client-consul-0-key.pem"));
        format!("cert_file: '{cert}', key_file: '{key}'")
    }
}

fn users(agent: &str, service: &Recorder) -> Process {
    process("users")
        .health("{path: /health, interval: 100ms}")
        .service(service.address(), "http1")
        .discovery(&format!("consul: {{{agent}, register: true}}"))
        .start()
}

/// A caller's sidecar that finds `users` where it is registered.
#[track_caller]
fn finds(agent: &Agent, how: &str, service: &Recorder) {
    let users = users(how, service);
    until("it is registered", || agent.healthy("users") == [users.inbound.to_string()]);
    let front = process("front").discovery(&format!("consul: {{{how}}}")).start();
    until("it is found", || get(front.outbound, "users", "/").status == 200);
}

/// What a caller is told, and what the log says.
#[track_caller]
fn is_refused(how: &str, why: &str) {
    let front = process("front").discovery(&format!("consul: {{{how}}}")).start();
    let answer = get(front.outbound, "users", "/");
    assert_eq!((answer.status, answer.reason().as_deref()), (503, Some("discovery_failed")), "{how}");
    let text = answer.text();
    assert!(text.contains(why) && text.contains("https://"), "{how}: {text}");
    until("the log says so", || front.said().contains(why));
}

#[test]
fn by_tls_with_files_of_an_authority() {
    let (authority, other, port) = (Authority::new(), Authority::new(), free_port());
    let agent = agent::dev().set(&authority.agent(port)).start();
    let service = Recorder::start();
    let how = |host: &str, ca: &str, more: &str| {
        format!("address: 'https://{host}:{port}', tls: {{ca_file: '{ca}'{more}}}")
    };
    let known = format!(", {}", authority.client());
    finds(&agent, &how("127.0.0.1", &authority.own(), &known), &service);
    let named = format!("{known}, server_name: server.dc1.consul");
    finds(&agent, &how("127.0.0.1", &authority.own(), &named), &service);
    is_refused(&how("127.0.0.1", &other.own(), &known), "UnknownIssuer");
    let strange = format!("{known}, server_name: elsewhere.example");
    is_refused(&how("127.0.0.1", &authority.own(), &strange), "elsewhere.example");
    is_refused(&how("127.0.0.1", &authority.own(), ""), "received fatal alert");
}

#[test]
fn by_a_socket_of_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let socket: &Path = &folder.path().join("consul.sock");
    let both = format!("127.0.0.1 unix://{}", socket.display());
    let agent = agent::dev().set(&serde_json::json!({"addresses": {"http": both}}).to_string()).start();
    finds(&agent, &format!("address: 'unix://{}'", socket.display()), &Recorder::start());
}
