//! Real Consul agents, alone and in clusters, each on free ports of 127.0.0.1.

use std::net::SocketAddr;
use std::time::Instant;

use serde_json::Value;

use crate::databases::chain::free_port;
use crate::server::Server;
use crate::support::{Client, Response, until};

/// The token that may do all, where there are rules.
pub const TOKEN: &str = "0b3e6f1c-9a4d-4e0a-8b57-2f0c6d1e7a90";

/// One agent. Ended by its drop.
pub struct Agent {
    pub server: Server,
    /// Of its HTTP API; stays the same when it is started again.
    pub at: SocketAddr,
    serf: u16,
    token: Option<String>,
}

/// What an agent is, before it starts.
#[derive(Clone, Default)]
pub struct Setup {
    options: Vec<String>,
    acl: bool,
}

/// The version under test.
pub fn version() -> String {
    std::env::var("PILLION_TEST_CONSUL").unwrap_or_else(|_| "1.8.7".into())
}

/// A server of its own that forgets everything when it ends.
pub fn dev() -> Setup {
    Setup::default().option("--dev")
}

/// A server of its own that finds its state again.
pub fn lone() -> Setup {
    Setup::default()
}

/// Three servers that know each other, with a leader.
#[track_caller]
pub fn cluster(setup: &Setup) -> Vec<Agent> {
    let serfs: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let begin = |serf: &u16| {
        let others = serfs.iter().filter(|other| *other != serf);
        let join = others.map(|other| format!("--join=127.0.0.1:{other}"));
        let options = setup.options.iter().cloned().chain(join).chain(["--expect=3".into()]);
        Setup { options: options.collect(), ..setup.clone() }.begin(*serf)
    };
    let agents: Vec<Agent> = serfs.iter().map(begin).collect();
    agents.iter().for_each(Agent::leads);
    agents
}

impl Setup {
    /// Denies what no token allows; [`TOKEN`] may do all.
    pub fn acl(mut self) -> Self {
        self.acl = true;
        self.option(&format!("--acl={TOKEN}"))
    }

    /// More of Consul's own configuration, as JSON.
    pub fn set(self, json: &str) -> Self {
        self.option(&format!("--set={json}"))
    }

    fn option(mut self, option: &str) -> Self {
        self.options.push(option.into());
        self
    }

    /// Starts it, and waits until it has a leader.
    #[track_caller]
    pub fn start(&self) -> Agent {
        let agent = self.begin(free_port());
        agent.leads();
        agent
    }

    /// An agent that asks `servers`. Waits until it knows their leader.
    #[track_caller]
    pub fn client_of(&self, servers: &[Agent]) -> Agent {
        let mut setup = self.clone().option("--client");
        for server in servers {
            setup = setup.option(&format!("--join=127.0.0.1:{}", server.serf));
        }
        setup.start()
    }

    #[track_caller]
    fn begin(&self, serf: u16) -> Agent {
        let own =
            [format!("--version={}", version()), format!("--serf={serf}"), format!("--rpc={}", free_port())];
        let options: Vec<&str> = own.iter().chain(&self.options).map(String::as_str).collect();
        let server = Server::start("consul", &options);
        Agent { at: server.at, server, serf, token: self.acl.then(|| TOKEN.into()) }
    }
}

impl Agent {
    /// Whether it knows a leader.
    pub fn has_leader(&self) -> bool {
        let answer = self.try_call("GET", "/v1/status/leader", "");
        answer.is_ok_and(|answer| answer.status == 200 && answer.text().contains(':'))
    }

    /// Waits until it knows a leader and answers from it.
    #[track_caller]
    pub fn leads(&self) {
        until("Consul has a leader", || {
            self.has_leader() && self.call("GET", "/v1/catalog/nodes", "").text().contains("Node")
        });
    }

    /// SIGKILL.
    #[track_caller]
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it again after [`Agent::kill`] or a stop, at its ports.
    #[track_caller]
    pub fn again(&mut self) {
        self.server.again();
    }

    /// One call of its API with its token.
    #[track_caller]
    pub fn call(&self, method: &str, path: &str, body: &str) -> Response {
        self.try_call(method, path, body).unwrap_or_else(|why| panic!("{why}"))
    }

    /// The same by somebody with this token.
    #[track_caller]
    pub fn call_as(&self, token: &str, method: &str, path: &str, body: &str) -> Response {
        call(self.at, Some(token), method, path, body).unwrap_or_else(|why| panic!("{why}"))
    }

    fn try_call(&self, method: &str, path: &str, body: &str) -> Result<Response, String> {
        call(self.at, self.token.as_deref(), method, path, body)
    }

    /// What it answers to a GET.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let answer = self.call("GET", path, "");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// A PUT, which must succeed.
    #[track_caller]
    pub fn put(&self, path: &str, body: &str) -> String {
        let answer = self.call("PUT", path, body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.text()
    }

    /// The instances of a service that are healthy, as `address:port`, sorted;
    /// or what it says instead.
    #[track_caller]
    pub fn healthy(&self, service: &str) -> Vec<String> {
        let answer = self.call("GET", &format!("/v1/health/service/{service}?passing=1"), "");
        let Ok(Value::Array(found)) = serde_json::from_slice(&answer.body) else {
            return vec![answer.text()];
        };
        let mut all: Vec<String> = found.iter().map(address).collect();
        all.sort();
        all
    }

    /// Enters an instance with no check.
    #[track_caller]
    pub fn register(&self, service: &str, at: SocketAddr) {
        let body = serde_json::json!({
            "ID": format!("{service}-{at}"), "Name": service, "Address": at.ip(), "Port": at.port(),
        });
        self.put("/v1/agent/service/register", &body.to_string());
    }

    /// A new token for what these rules allow. Returns its secret and its name.
    #[track_caller]
    pub fn token(&self, rules: &str) -> (String, String) {
        let name = format!("p{:08x}", fastrand::u32(..));
        let policy = serde_json::json!({"Name": name, "Rules": rules});
        self.put("/v1/acl/policy", &policy.to_string());
        let token = serde_json::json!({"Policies": [{"Name": name}]});
        let made: Value = serde_json::from_str(&self.put("/v1/acl/token", &token.to_string())).unwrap();
        let text = |key: &str| made[key].as_str().unwrap().to_owned();
        (text("SecretID"), text("AccessorID"))
    }

    /// Takes a token back, by its name.
    #[track_caller]
    pub fn revoke(&self, name: &str) {
        let answer = self.call("DELETE", &format!("/v1/acl/token/{name}"), "");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

fn address(entry: &Value) -> String {
    let service = &entry["Service"];
    format!("{}:{}", service["Address"].as_str().unwrap(), service["Port"])
}

fn call(
    at: SocketAddr,
    token: Option<&str>,
    method: &str,
    path: &str,
    body: &str,
) -> Result<Response, String> {
    let token = token.map(|token| format!("X-Consul-Token: {token}\r\n")).unwrap_or_default();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: {at}\r\n{token}Content-Length: {}\r\n\r\n", body.len());
    let begun = Instant::now();
    let failed = |what: &dyn std::fmt::Debug| {
        format!("{method} {path} of {at} failed after {:?}: {what:?}", begun.elapsed())
    };
    let stream = std::net::TcpStream::connect(at).map_err(|error| failed(&error))?;
    let mut client = Client::over(stream);
    client.try_send(head + body).map_err(|error| failed(&error))?;
    client.try_read(method).map_err(|error| failed(&error))
}
