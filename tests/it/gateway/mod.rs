//! Gateways: callers from outside, whose calls are routed by host and path to
//! services, by a policy as the file writes it.

mod edge;
mod policies;
mod reload;
mod routes;
mod tls;

use std::net::SocketAddr;

use pillion::config::{Environment, Model, load_str};

use crate::shaping::Reply;
use crate::support::sidecar::Setup;
use crate::support::{Client, Recorder, Sidecar, sidecar};

/// A gateway with services that tell what they saw.
pub struct Gate {
    pub sidecar: Sidecar,
    pub users: Recorder,
    pub orders: Recorder,
}

/// The model of a gateway with these keys on a free port, and of what stands below it.
pub fn model(keys: &str, more: &str) -> Model {
    let text =
        format!("version: 1\nservice: {{name: edge}}\ngateway:\n  - listen: 127.0.0.1:0\n{keys}\n{more}\n");
    let loaded = load_str("f", &text, &Environment::default()).unwrap_or_else(|error| panic!("{error}"));
    (*loaded.model).clone()
}

/// A sidecar with the gateways and upstreams of this model.
pub fn with_gateways(setup: Setup, model: Model) -> Setup {
    setup.with(|into| {
        into.gateways = model.gateways;
        into.upstreams = model.upstreams;
        into.outbound = model.outbound;
    })
}

impl Gate {
    /// The routes are those of this list, each line of which is one.
    pub fn new(routes: &str) -> Self {
        Self::with("", routes)
    }

    /// The same, with further keys of the listener.
    pub fn with(keys: &str, routes: &str) -> Self {
        let users = Recorder::answering(crate::support::backend::echo_path);
        let orders = Recorder::answering(|request| {
            let body = format!("orders {}", request.target);
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
        });
        let lines: String = routes.lines().map(|line| format!("      {}\n", line.trim_start())).collect();
        let model = model(&format!("{keys}\n    routes:\n{lines}"), "");
        let setup = sidecar("edge").upstream("users", users.address()).upstream("orders", orders.address());
        Self { sidecar: with_gateways(setup, model).start(), users, orders }
    }

    pub fn at(&self) -> SocketAddr {
        *self.sidecar.at.gateways.values().next().unwrap()
    }

    pub fn get(&self, host: &str, path: &str) -> Reply {
        self.ask("GET", host, path, &[])
    }

    pub fn ask(&self, method: &str, host: &str, path: &str, fields: &[(&str, &str)]) -> Reply {
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let mut client = Client::connect(self.at());
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"));
        client.read(method).into()
    }
}

impl From<crate::support::Response> for Reply {
    fn from(answer: crate::support::Response) -> Self {
        let mut fields = http::HeaderMap::new();
        for (name, value) in &answer.fields {
            let name = http::HeaderName::try_from(name.as_str()).unwrap();
            fields.append(name, http::HeaderValue::from_bytes(value).unwrap());
        }
        Self { status: answer.status, fields, body: answer.body }
    }
}
