//! Programs with the clients that Go and Python services use: they find what a
//! sidecar registered, and what they register is found, once.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::agent::{self, Agent, TOKEN};
use crate::databases::chain::free_port;
use crate::grpc::programs::command;
use crate::parts::installed;
use crate::support::{Client, Process, Recorder, get, process, until};

/// Which client.
#[derive(Clone, Copy, Debug)]
enum Language {
    /// `hashicorp/consul/api`.
    Go,
    /// `py-consul`.
    Python,
}

impl Language {
    fn program(self, agent: &Agent) -> Command {
        let mut command = match self {
            Self::Go => command(&installed("bin/consul-go")),
            Self::Python => {
                let mut python = command(&installed("python/bin/python"));
                python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parts/consul/service.py"));
                python
            }
        };
        command.env("CONSUL_HTTP_ADDR", agent.at.to_string()).env("CONSUL_HTTP_TOKEN", TOKEN);
        command
    }

    /// What its client finds of a service: `address:port tags` of each.
    #[track_caller]
    fn finds(self, agent: &Agent, name: &str) -> String {
        let found = self.program(agent).args(["find", name]).output().unwrap();
        assert!(found.status.success(), "{self:?}: {}", String::from_utf8_lossy(&found.stderr));
        String::from_utf8(found.stdout).unwrap().trim().to_owned()
    }
}

/// A service that registers itself. Killed by its drop.
struct Service {
    child: Child,
    at: SocketAddr,
}

impl Service {
    #[track_caller]
    fn start(language: Language, agent: &Agent, name: &str, address: &str) -> Self {
        let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = language.program(agent);
        command.args(["serve", name, address, &at.port().to_string()]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "registered\n", "{language:?}");
        Self { child, at }
    }

    /// SIGTERM, upon which it takes itself out.
    fn end(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn consul(agent: &Agent, register: bool) -> String {
    format!("consul: {{address: 'http://{}', token: {TOKEN}, register: {register}}}", agent.at)
}

pub fn caller(agent: &Agent) -> Process {
    process("front").discovery(&consul(agent, false)).policy("version: 1\noutbound:\n  - to: users\n").start()
}

/// The endpoints of `users` that the caller's sidecar knows, sorted.
pub fn known(caller: &Process) -> Vec<SocketAddr> {
    let text = get(caller.admin, &caller.admin.to_string(), "/clusters").text();
    let clusters: serde_json::Value = serde_json::from_str(&text).unwrap();
    let all = clusters["upstreams"].as_array().unwrap();
    let Some(users) = all.iter().find(|one| one["upstream"] == "users") else { return Vec::new() };
    let endpoints = users["endpoints"].as_array().unwrap().iter();
    let mut all: Vec<SocketAddr> =
        endpoints.map(|one| one["address"].as_str().unwrap().parse().unwrap()).collect();
    all.sort();
    all
}

#[test]
fn their_clients_find_what_a_sidecar_registered() {
    let (agent, service) = (agent::dev().acl().start(), Recorder::start());
    let users = process("users")
        .health("{path: /health}, tags: [a, b]")
        .service(service.address(), "http1")
        .discovery(&consul(&agent, true))
        .start();
    let wanted = format!("{} a,b", users.inbound);
    for language in [Language::Go, Language::Python] {
        until(&format!("{language:?} finds it"), || language.finds(&agent, "users") == wanted);
    }
    // And sees at once that it is gone.
    let mut follow =
        Language::Go.program(&agent).args(["follow", "users"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(lines.next(), Some(wanted));
    users.signal(Signal::TERM);
    assert_eq!(lines.next().as_deref(), Some(""));
    follow.kill().unwrap();
    follow.wait().unwrap();
}

#[test]
fn a_service_that_registers_itself_is_found_once() {
    let cases = [
        (Language::Go, "127.0.0.1"),
        (Language::Go, ""),
        (Language::Python, "localhost"),
        (Language::Python, ""),
    ];
    // Consul asks some seconds after an entry was made.
    std::thread::scope(|scope| {
        for (language, address) in cases {
            scope.spawn(move || found_once(language, address));
        }
    });
}

#[track_caller]
fn found_once(language: Language, address: &str) {
    let case = format!("{language:?} as `{address}`");
    let is = |what: &str, check: &dyn Fn() -> bool| until(&format!("{case}: {what}"), check);
    let agent = agent::dev().acl().start();
    let caller = caller(&agent);
    let plain = Service::start(language, &agent, "users", address);
    is("found without a sidecar", &|| known(&caller) == [plain.at]);
    let users = process("users")
        .health("{path: /health, interval: 100ms}")
        .service(plain.at, "http1")
        .discovery(&consul(&agent, true))
        .start();
    is("found once, behind its sidecar", &|| known(&caller) == [users.inbound]);
    let answer = Client::connect(caller.outbound).get("users", "/x");
    assert_eq!((answer.status, answer.text().as_str()), (200, "users /x\n"), "{case}");

    // One more elsewhere, with the same port, is another instance.
    let elsewhere = SocketAddr::from(([127, 9, 9, 9], plain.at.port()));
    let body = serde_json::json!({
        "Node": "elsewhere", "Address": "127.9.9.9",
        "Service": {"ID": "users-1", "Service": "users", "Port": elsewhere.port()},
    });
    agent.put("/v1/catalog/register", &body.to_string());
    let mut both = [users.inbound, elsewhere];
    both.sort();
    is("another instance is not hidden", &|| known(&caller) == both);
    agent.put("/v1/catalog/deregister", r#"{"Node": "elsewhere"}"#);
    is("that one is gone", &|| known(&caller) == [users.inbound]);

    // Both end: the plain entry does not come out when its sidecar leaves.
    users.signal(Signal::TERM);
    is("nobody is found", &|| known(&caller).is_empty());
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(known(&caller), [], "{case}");
    plain.end();
}
