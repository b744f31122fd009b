//! For each reason, a sidecar and a request that must fail by it.

use std::any::Any;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pillion::base::{Origin, Reason, UpstreamName};
use pillion::config::Model;
use pillion::config::model::shaping::{Fault, Shaping, Sizes, told_by_status};
use pillion::config::model::{
    Algorithm, Allow, Allowed, CircuitBreaker, Connections, Dns, Egress, Gateway, Issuer, Keys, KeysUrl,
    Pattern, Retry, RetryOn, Route, RoutePolicy, Rules, Segment, Source, Timeout, TokenFrom, TokenRule,
    Upstream, Who,
};

use crate::support::h2peer::{Answer, H2Backend};
use crate::support::sidecar::Setup;
use crate::support::wire::Wire;
use crate::support::{Deaf, Recorder, Server, Sidecar, get, request, sidecar, until};

/// What is needed to see one failure.
pub struct Scene {
    pub reason: Reason,
    pub sidecar: Sidecar,
    /// Where to send it.
    pub address: SocketAddr,
    pub direction: &'static str,
    /// The request of an HTTP/1 caller.
    pub raw: Vec<u8>,
    /// Whether an HTTP/2 caller can make the same request.
    pub any_version: bool,
    /// What happens while the caller waits.
    pub then: fn(&Scene),
    /// The rule that the answer must name.
    pub rule: Option<&'static str>,
    /// Errors that were counted before the request.
    pub noise: f64,
    asked: Arc<AtomicUsize>,
    /// What must live as long as the scene.
    _held: Vec<Box<dyn Any + Send + Sync>>,
}

type Builder = fn() -> Scene;

const SHORT: Duration = Duration::from_millis(200);

/// All that end in an answer of Pillion's.
pub const BUILDERS: &[(Reason, Builder)] = &[
    (Reason::MalformedRequest, || plain("GET / HTTP/1.1\r\n\r\n", Reason::MalformedRequest)),
    (Reason::TargetTooLong, || {
        let raw = format!("GET /{} HTTP/1.1\r\nHost: users\r\n\r\n", "a".repeat(9000));
        plain(&raw, Reason::TargetTooLong)
    }),
    (Reason::HeaderTooLarge, || {
        let raw = format!("GET / HTTP/1.1\r\nHost: users\r\nx: {}\r\n\r\n", "a".repeat(70_000));
        plain(&raw, Reason::HeaderTooLarge)
    }),
    (Reason::RequestTimeout, || {
        let setup = sidecar("front").with(|model| model.limits.header_timeout = SHORT);
        scene(Reason::RequestTimeout, setup).raw("GET / HTTP/1.1\r\nHos").only_http1()
    }),
    (Reason::InvalidMessage, || translated(Reason::InvalidMessage, "", "{")),
    (Reason::MessageTooLarge, || translated(Reason::MessageTooLarge, "", &"a".repeat(2000))),
    (Reason::RequestTooLarge, || {
        let setup = sidecar("front").empty("users").with(|model| {
            routed(model, |policy| policy.shaping = sized(Sizes { request: Some(4), response: None }));
        });
        let raw = "POST / HTTP/1.1\r\nHost: users\r\nContent-Length: 5\r\n\r\nhello";
        let scene = scene(Reason::RequestTooLarge, setup).raw(raw).only_http1();
        Scene { rule: Some("users.yaml:7:5"), ..scene }
    }),
    (Reason::ResponseTooLarge, || {
        backed(
            Reason::ResponseTooLarge,
            |model| {
                routed(model, |policy| policy.shaping = sized(Sizes { request: None, response: Some(4) }));
            },
            |mut stream| {
                // The sidecar may have had enough before the end.
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
            },
        )
    }),
    (Reason::UnsupportedMediaType, || translated(Reason::UnsupportedMediaType, "text/plain", "{}")),
    (Reason::UntranslatableResponse, untranslatable),
    (Reason::RateLimited, rate_limited),
    (Reason::Unauthenticated, || denied(Reason::Unauthenticated, Who::Jwt(TokenRule::default()))),
    (Reason::PermissionDenied, || denied(Reason::PermissionDenied, Who::Source(Vec::new()))),
    (Reason::KeysUnavailable, keys_unavailable),
    (Reason::NoRoute, no_route),
    (Reason::UnknownHost, || {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let setup = sidecar("front").with(|model| model.gateways.push(Gateway::new(listen)));
        let scene = scene(Reason::UnknownHost, setup);
        Scene { address: scene.sidecar.at.gateways[&listen], direction: "gateway", ..scene }
    }),
    (Reason::EgressDenied, || {
        let only = |model: &mut Model| model.egress = Egress::RegisteredOnly;
        scene(Reason::EgressDenied, sidecar("front").empty("others").with(only))
    }),
    (Reason::LoopDetected, loop_detected),
    (Reason::Overload, overload),
    (Reason::FaultInjected, || {
        let told = told_by_status(503);
        let fault = Fault { delay: None, abort: Some(told), share: 1.0, if_header: None };
        let shaping = Shaping { fault: Some(fault), ..Shaping::default() };
        let setup = sidecar("front").empty("users").with(|model| {
            routed(model, |policy| policy.shaping = Some(Arc::new(shaping)));
        });
        let scene = scene(Reason::FaultInjected, setup);
        Scene { rule: Some("users.yaml:7:5"), ..scene }
    }),
    (Reason::ShuttingDown, shutting_down),
    (Reason::UnknownUpstream, || scene(Reason::UnknownUpstream, sidecar("front").empty("others"))),
    (Reason::NoEndpoint, || scene(Reason::NoEndpoint, sidecar("front").empty("users"))),
    (Reason::DiscoveryFailed, discovery_failed),
    (Reason::ConnectRefused, || {
        let nobody = Deaf::new();
        scene(Reason::ConnectRefused, sidecar("front").upstream("users", nobody.address())).hold(nobody)
    }),
    (Reason::ConnectTimeout, connect_timeout),
    (Reason::ConnectFailed, || {
        // The system refuses to connect to the broadcast address.
        let address = SocketAddr::from(([255, 255, 255, 255], 9));
        scene(Reason::ConnectFailed, sidecar("front").upstream("users", address))
    }),
    (Reason::NoHttp2, no_http2),
    (Reason::CircuitOpen, circuit_open),
    (Reason::ConnectionLimit, || {
        let connections = Connections { max: 0, pending: 0, ..Connections::default() };
        let setup = sidecar("front").upstream("users", ([127, 0, 0, 1], 9).into()).with(|model| {
            let block = Upstream { connections: Some(connections), ..Upstream::default() };
            model.upstreams.insert(UpstreamName::new("users"), block);
        });
        scene(Reason::ConnectionLimit, setup)
    }),
    (Reason::ConcurrencyLimit, || {
        let setup = sidecar("front").empty("users").with(|model| {
            routed(model, |policy| policy.concurrency = vec![crate::concurrency::limit(0)]);
        });
        Scene { rule: Some("users.yaml:8:7"), ..scene(Reason::ConcurrencyLimit, setup) }
    }),
    (Reason::ResetBeforeHeaders, || saying(Reason::ResetBeforeHeaders, b"")),
    (Reason::MalformedResponse, || saying(Reason::MalformedResponse, b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n")),
    (Reason::ResponseHeaderTooLarge, || {
        let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(70_000));
        saying(Reason::ResponseHeaderTooLarge, head.leak().as_bytes())
    }),
    (Reason::DeadlinePassed, || {
        let raw = "GET / HTTP/1.1\r\nHost: users\r\nPillion-Deadline: 0\r\n\r\n";
        plain(raw, Reason::DeadlinePassed)
    }),
    (Reason::Timeout, || {
        let mut scene =
            silent(Reason::Timeout, |model| routed(model, |policy| policy.timeout = Timeout::Whole(SHORT)));
        scene.rule = Some("users.yaml:7:5");
        scene
    }),
    (Reason::PerTryTimeout, || {
        silent(Reason::PerTryTimeout, |model| {
            routed(model, |policy| {
                policy.retry =
                    Some(Retry { per_try: Some(SHORT), on: vec![RetryOn::Timeout], ..Retry::default() });
            });
        })
    }),
    (Reason::StreamIdle, || {
        let idle = |policy: &mut RoutePolicy| policy.idle_timeout = SHORT;
        silent(Reason::StreamIdle, |model| routed(model, idle))
    }),
];

fn sized(sizes: Sizes) -> Option<Arc<Shaping>> {
    Some(Arc::new(Shaping { sizes, ..Shaping::default() }))
}

/// The scene of one reason.
pub fn build(reason: Reason) -> Scene {
    BUILDERS.iter().find(|(other, _)| *other == reason).expect("a scene").1()
}

impl Scene {
    fn raw(self, raw: &str) -> Self {
        Self { raw: raw.as_bytes().to_vec(), ..self }
    }

    fn only_http1(self) -> Self {
        Self { any_version: false, ..self }
    }

    fn hold(mut self, value: impl Any + Send + Sync) -> Self {
        self._held.push(Box::new(value));
        self
    }

    fn inbound(self) -> Self {
        Self { address: self.sidecar.at.inbound, direction: "inbound", ..self }
    }

    /// The URL of the same request for an HTTP/2 caller.
    pub fn url(&self) -> Option<String> {
        self.any_version.then(|| "http://users/pay.v1.Pay/Charge".to_owned())
    }

    /// Waits until the backend has a request.
    pub fn wait_for_request(&self) {
        until("the backend has a request", || self.asked.load(Ordering::SeqCst) > 0);
    }
}

fn scene(reason: Reason, setup: Setup) -> Scene {
    let sidecar = setup.start();
    Scene {
        reason,
        address: sidecar.at.outbound,
        sidecar,
        direction: "outbound",
        raw: b"GET /pay.v1.Pay/Charge HTTP/1.1\r\nHost: users\r\n\r\n".to_vec(),
        any_version: true,
        then: |_| {},
        rule: None,
        noise: 0.0,
        asked: Arc::default(),
        _held: Vec::new(),
    }
}

/// A request that fails without an upstream.
fn plain(raw: &str, reason: Reason) -> Scene {
    scene(reason, sidecar("front").empty("users")).raw(raw).only_http1()
}

/// A backend that takes the request, says `bytes` and closes.
pub fn saying(reason: Reason, bytes: &'static [u8]) -> Scene {
    backed(
        reason,
        |_| {},
        move |mut stream| {
            // The sidecar may have had enough before the end.
            let _ = stream.write_all(bytes);
        },
    )
}

/// A backend that takes the request and says nothing.
pub fn silent(reason: Reason, edit: impl FnOnce(&mut Model)) -> Scene {
    backed(reason, edit, |stream| {
        let mut wire = Wire::new(stream);
        while wire.fill().is_ok_and(|more| more) {}
    })
}

/// A backend of HTTP/1, whatever the caller speaks.
fn backed(
    reason: Reason,
    edit: impl FnOnce(&mut Model),
    play: impl Fn(TcpStream) + Send + Sync + 'static,
) -> Scene {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server = Server::start(move |number, stream| {
        let mut wire = Wire::new(stream.try_clone().unwrap());
        if let Some(request) = request::read(&mut wire, number) {
            assert_eq!(request.bad, None, "{request:?}");
            count.fetch_add(1, Ordering::SeqCst);
            play(stream);
        }
    });
    let setup = sidecar("front").upstream("users", server.address()).with(|model| {
        model.upstreams.insert(UpstreamName::new("users"), http1_upstream());
        edit(model);
    });
    Scene { asked, ..scene(reason, setup).hold(server) }
}

fn http1_upstream() -> pillion::config::model::Upstream {
    spoken(pillion::base::Protocol::Http1)
}

fn spoken(protocol: pillion::base::Protocol) -> pillion::config::model::Upstream {
    pillion::config::model::Upstream { protocol, ..pillion::config::model::Upstream::default() }
}

/// One route that takes every call to `users`.
fn routed(model: &mut Model, edit: impl FnOnce(&mut RoutePolicy)) {
    let mut policy = RoutePolicy::default();
    edit(&mut policy);
    model.outbound.push(Route {
        to: Some(UpstreamName::new("users")),
        pattern: pattern("/**", vec![Segment::Rest]),
        policy,
        origin: Origin { file: "users.yaml".into(), line: 7, column: 5 },
    });
}

fn pattern(template: &str, segments: Vec<Segment>) -> Pattern {
    Pattern {
        methods: Vec::new(),
        template: template.into(),
        segments,
        host: None,
        headers: Vec::new(),
        query: Vec::new(),
        grpc: false,
    }
}

/// A call with JSON that fails before it is sent.
fn translated(reason: Reason, kind: &str, body: &str) -> Scene {
    let kind = if kind.is_empty() { "application/json" } else { kind };
    let length = body.len();
    let raw = format!(
        "POST /v1/users HTTP/1.1\r\nHost: users\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let json = crate::transcode::shop(", max_message: 1KiB");
    let setup = sidecar("front").empty("users").with(|model| model.defaults.json = Some(json));
    scene(reason, setup).raw(&raw).only_http1()
}

/// A service that answers with a compressed message.
fn untranslatable() -> Scene {
    let backend = H2Backend::answering(|_| Answer {
        head: http::Response::builder().header("content-type", "application/grpc").body(()).unwrap(),
        body: vec![bytes::Bytes::from_static(b"\x01\0\0\0\0")],
        ..Answer::default()
    });
    let json = crate::transcode::shop("");
    let setup = sidecar("front").upstream("users", backend.address());
    let setup = setup.with(|model| model.defaults.json = Some(json));
    let raw = "GET /v1/users/1 HTTP/1.1\r\nHost: users\r\n\r\n";
    scene(Reason::UntranslatableResponse, setup).raw(raw).only_http1().hold(backend)
}

/// A route that lets nobody in but `who`.
fn denied(reason: Reason, who: Who) -> Scene {
    let setup = sidecar("front").empty("users").with(|model| allowing(model, who));
    Scene { rule: Some("users.yaml:9:5"), ..scene(reason, setup) }
}

fn allowing(model: &mut Model, who: Who) {
    let origin = Origin { file: "users.yaml".into(), line: 9, column: 5 };
    let any = vec![Allowed { who, origin: origin.clone() }];
    routed(model, |policy| policy.allow = Some(Arc::new(Allow { any, shadow: false, origin })));
}

/// A token of somebody whose keys nobody can fetch.
fn keys_unavailable() -> Scene {
    let nobody = Deaf::new();
    let setup = sidecar("front").empty("users").with(|model| {
        allowing(model, Who::Jwt(TokenRule::default()));
        let url = format!("http://{}/keys", nobody.address()).into();
        model.authentication.jwt.push(Arc::new(Issuer {
            name: "id".into(),
            keys: Keys::Remote(KeysUrl { url, ca_file: None }),
            algorithms: Algorithm::ASYMMETRIC.to_vec(),
            skew: Duration::ZERO,
            from: vec![TokenFrom::Header(http::header::AUTHORIZATION)],
            forward: Vec::new(),
            origin: Origin { file: "pillion.yaml".into(), line: 3, column: 5 },
        }));
    });
    let token = crate::support::tokens::Signer::new("a", "ES256").sign(&serde_json::json!({"iss": "id"}));
    let raw = format!("GET / HTTP/1.1\r\nHost: users\r\nAuthorization: Bearer {token}\r\n\r\n");
    let scene = scene(Reason::KeysUnavailable, setup).raw(&raw).only_http1().hold(nobody);
    Scene { rule: Some("users.yaml:9:5"), ..scene }
}

/// A limit that the first call has used up.
fn rate_limited() -> Scene {
    let backend = crate::support::Recorder::start();
    let limit = crate::rate_limits::limit(1, Duration::from_secs(3600), pillion::config::model::Per::All);
    let setup = sidecar("front").upstream("users", backend.address());
    let setup = setup.with(|model| routed(model, |policy| policy.rate_limits = vec![limit]));
    let scene = scene(Reason::RateLimited, setup).hold(backend);
    assert_eq!(crate::support::get(scene.address, "users", "/").status, 200);
    Scene { rule: Some("users.yaml:8:7"), ..scene }
}

/// One call fails, and the next is not made.
fn circuit_open() -> Scene {
    let backend = Recorder::answering(|_| b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_vec());
    let rules = Rules { consecutive_failures: 1, ..Rules::default() };
    let setup = sidecar("front").upstream("users", backend.address()).with(|model| {
        routed(model, |policy| policy.circuit_breaker = Some(CircuitBreaker::new(rules)));
    });
    let mut scene = scene(Reason::CircuitOpen, setup).hold(backend);
    assert_eq!(get(scene.address, "users", "/").reason(), None, "the service's own");
    scene.rule = Some("users.yaml:7:5");
    scene
}

fn no_route() -> Scene {
    // A sidecar that fronts nothing has no route for a call from outside.
    scene(Reason::NoRoute, sidecar("front")).inbound()
}

fn loop_detected() -> Scene {
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let own = port.local_addr().unwrap();
    drop(port);
    let setup = sidecar("front").upstream("users", own).with(|model| model.listen.outbound = own);
    scene(Reason::LoopDetected, setup)
}

fn overload() -> Scene {
    // Every upstream that is asked for is followed; there is a most of them.
    let mut scene = scene(Reason::Overload, sidecar("front").empty("others"));
    let limit = pillion::base::directory::MAX_UPSTREAMS;
    let mut wire = crate::support::Client::connect(scene.address);
    for number in 0..limit {
        wire.send(format!("HEAD / HTTP/1.1\r\nHost: s{number}\r\n\r\n")).read("HEAD");
    }
    scene.noise = scene.sidecar.metrics().get("pillion_errors_total", &[]);
    scene
}

fn shutting_down() -> Scene {
    let mut scene = silent(Reason::ShuttingDown, |model| model.drain.deadline = SHORT);
    scene.then = |scene| {
        scene.wait_for_request();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let app = scene.sidecar.app();
        let draining = || runtime.block_on(app.drain());
        let all_done = std::thread::scope(|scope| scope.spawn(draining).join()).expect("drain");
        assert!(!all_done, "a request was left");
    };
    scene
}

fn discovery_failed() -> Scene {
    // A name server that never answers.
    let silent = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let server = silent.local_addr().unwrap();
    let dns = Dns { servers: vec![server], timeout: SHORT, ..Dns::default() };
    let setup = sidecar("front").with(|model| model.discovery.push(Source::Dns(dns)));
    scene(Reason::DiscoveryFailed, setup).hold(silent)
}

fn no_http2() -> Scene {
    let server = Server::start(|_, mut stream| {
        // The sidecar may have had enough before the end.
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    let http2 = |model: &mut Model| {
        model.upstreams.insert(UpstreamName::new("users"), spoken(pillion::base::Protocol::Http2));
    };
    scene(Reason::NoHttp2, sidecar("front").upstream("users", server.address()).with(http2)).hold(server)
}

fn connect_timeout() -> Scene {
    // Where the queue of a listener is full, a further SYN is left unanswered.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, SHORT) {
        waiting.push(stream);
        assert!(waiting.len() < 100, "the queue is never full");
    }
    let setup =
        sidecar("front").upstream("users", address).with(|model| model.defaults.connect_timeout = SHORT);
    scene(Reason::ConnectTimeout, setup).hold((socket, waiting))
}
