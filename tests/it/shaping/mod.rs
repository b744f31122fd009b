//! What a route changes of a call and what it answers itself, over HTTP/1.1 and
//! HTTP/2, by policies as the files write them.

mod cors;
mod direct;
mod faults;
mod headers;
mod sizes;
mod split;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use pillion::config::{Environment, load_str};

use crate::support::h2peer::{Answer, Got, H2Backend, H2Client};
use crate::support::sidecar::Setup;
use crate::support::{Client, Recorder, Sidecar, sidecar};

/// A sidecar with a policy, and one service behind it that is both `users` and
/// the fronted one.
pub struct Way {
    pub sidecar: Sidecar,
    backend: Backend,
}

enum Backend {
    Http1(Recorder),
    Http2(H2Backend),
}

/// One request as the service saw it.
#[derive(Debug)]
pub struct Seen {
    pub target: String,
    pub host: String,
    pub fields: HeaderMap,
}

/// One answer as the caller saw it.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub fields: HeaderMap,
    pub body: Vec<u8>,
}

/// The model's routes are those of this policy.
pub fn with_policy(setup: Setup, policy: &str) -> Setup {
    let text = format!("version: 1\nservice: {{name: front, port: 1, environment: test}}\n{policy}");
    let model = load_str("f", &text, &Environment::default()).unwrap_or_else(|error| panic!("{error}")).model;
    let model = (*model).clone();
    setup.with(|into| {
        into.inbound = model.inbound;
        into.inbound_defaults = model.inbound_defaults;
        into.outbound = model.outbound;
        into.upstreams = model.upstreams;
    })
}

/// Runs a test for callers of HTTP/1.1 and of HTTP/2, each with a service that
/// speaks the same and answers with these fields.
pub fn both(policy: &str, fields: &[(&'static str, &'static str)], test: impl Fn(&Way)) {
    for http2 in [false, true] {
        test(&Way::start(http2, policy, fields));
    }
}

impl Way {
    fn start(http2: bool, policy: &str, fields: &[(&'static str, &'static str)]) -> Self {
        let fields = fields.to_vec();
        let backend = match http2 {
            false => Backend::Http1(Recorder::answering(move |_| {
                let fields: String =
                    fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok").into_bytes()
            })),
            true => Backend::Http2(H2Backend::answering(move |_| {
                let mut head = Response::new(());
                for (name, value) in &fields {
                    head.headers_mut().append(*name, HeaderValue::from_static(value));
                }
                Answer { head, ..Answer::text("ok") }
            })),
        };
        let address = match &backend {
            Backend::Http1(backend) => backend.address(),
            Backend::Http2(backend) => backend.address(),
        };
        let setup = sidecar("front").upstream("users", address).service(address);
        Self { sidecar: with_policy(setup, policy).start(), backend }
    }

    /// A call that the service makes.
    pub fn out(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Reply {
        self.ask(self.sidecar.at.outbound, method, path, fields)
    }

    /// A call to the service.
    pub fn into(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Reply {
        self.ask(self.sidecar.at.inbound, method, path, fields)
    }

    pub fn ask(&self, at: std::net::SocketAddr, method: &str, path: &str, fields: &[(&str, &str)]) -> Reply {
        match self.backend {
            Backend::Http1(_) => {
                let fields: String =
                    fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                let mut client = Client::connect(at);
                client.send(format!("{method} {path} HTTP/1.1\r\nHost: users\r\n{fields}\r\n"));
                let answer = client.read(method);
                let name = |name: &str| HeaderName::try_from(name).unwrap();
                let fields =
                    answer.fields.iter().map(|(n, value)| (name(n), HeaderValue::from_bytes(value).unwrap()));
                let mut map = HeaderMap::new();
                fields.for_each(|(name, value): (HeaderName, HeaderValue)| _ = map.append(name, value));
                Reply { status: answer.status, fields: map, body: answer.body }
            }
            Backend::Http2(_) => {
                let mut request = Request::builder().method(method).uri(format!("http://users{path}"));
                for (name, value) in fields {
                    request = request.header(*name, *value);
                }
                H2Client::connect(at).call(request.body(()).unwrap(), Vec::new(), None).into()
            }
        }
    }

    /// What the service saw since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        match &self.backend {
            Backend::Http1(backend) => backend.take().into_iter().map(Seen::from).collect(),
            Backend::Http2(backend) => backend.take().into_iter().map(Seen::from).collect(),
        }
    }

    /// The one request that the service saw.
    #[track_caller]
    pub fn only(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:#?}");
        seen.remove(0)
    }
}

/// A call of gRPC to this sidecar.
pub fn grpc(at: std::net::SocketAddr, path: &str, fields: &[(&str, &str)]) -> Reply {
    let mut request = Request::post(format!("http://users{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let body = vec![Bytes::from_static(b"\0\0\0\0\0")];
    H2Client::connect(at).call(request.body(()).unwrap(), body, None).into()
}

impl Reply {
    /// The only value of a field.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.get_all(name).iter();
        let value = values.next().map(|value| value.to_str().unwrap());
        assert!(values.next().is_none(), "{name} stands there more than once: {self:?}");
        value
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl From<Got> for Reply {
    fn from(got: Got) -> Self {
        Self { status: got.status(), fields: got.head.headers, body: got.body }
    }
}

impl From<crate::support::Request> for Seen {
    fn from(request: crate::support::Request) -> Self {
        assert_eq!(request.bad, None, "{request:?}");
        let mut fields = HeaderMap::new();
        for (name, value) in &request.fields {
            fields.append(
                HeaderName::try_from(name.as_str()).unwrap(),
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        let host = request.field("host").unwrap_or_default();
        Self { target: request.target, host, fields }
    }
}

impl From<crate::support::h2peer::Seen> for Seen {
    fn from(seen: crate::support::h2peer::Seen) -> Self {
        let uri = &seen.head.uri;
        Self {
            target: uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            host: uri.authority().map(ToString::to_string).unwrap_or_default(),
            fields: seen.head.headers,
        }
    }
}
