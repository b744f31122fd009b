//! Limits that a server of Envoy's protocol decides, here one of the test's own.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes};
use http::{HeaderMap, Response};
use pillion::clients::ratelimit::{self, Code, Header, Limit, Question, Span, Status};
use pillion::config::{Environment, load_str};
use prost::Message;

use crate::support::h2peer::{Answer, H2Backend, H2Client};
use crate::support::sidecar::Setup;
use crate::support::{Deaf, Recorder, Server, Sidecar, beside_others, call, get, sidecar, until};

/// A server that answers so, and what it is asked.
fn service(
    answer: impl Fn(&Question) -> ratelimit::Answer + Send + Sync + 'static,
) -> (H2Backend, Receiver<Question>) {
    let (sender, asked) = channel();
    let sender = Mutex::new(sender);
    let backend = H2Backend::answering(move |seen| {
        assert_eq!(seen.head.uri.path(), "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit");
        assert_eq!(seen.head.headers["content-type"], "application/grpc");
        let question = Question::decode(&seen.body[5..]).unwrap();
        let message = answer(&question).encode_to_vec();
        let _ = sender.lock().unwrap().send(question);
        let mut framed = vec![0];
        framed.put_u32(message.len() as u32);
        framed.extend(message);
        Answer {
            head: Response::builder().header("content-type", "application/grpc").body(()).unwrap(),
            body: vec![Bytes::from(framed)],
            trailers: Some(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())])),
            ..Answer::default()
        }
    });
    (backend, asked)
}

fn over(count: u32, seconds: i64) -> Status {
    Status {
        code: Code::OverLimit as i32,
        current_limit: Some(Limit { requests_per_unit: count, unit: 2 }),
        limit_remaining: 0,
        duration_until_reset: Some(Span { seconds, nanos: 1 }),
    }
}

fn fine(left: u32) -> Status {
    Status { code: Code::Ok as i32, limit_remaining: left, ..over(5, 30) }
}

fn setup(at: std::net::SocketAddr, backend: &Recorder, timeout: &str, limits: &str) -> Setup {
    let text = format!(
        "version: 1
service: {{name: front, port: 1}}
rate_limits: {{service: {{address: '{at}', domain: shop, timeout: {timeout}}}}}
inbound: [{{route: '/v1/users/{{id}}', rate_limit: {limits}}}]
"
    );
    let model = load_str("f", &text, &Environment::default()).unwrap_or_else(|error| panic!("{error}")).model;
    sidecar("front").service(backend.address()).with(|into| {
        into.inbound = model.inbound.clone();
        into.rate_service = model.rate_service.clone();
    })
}

fn asked(sidecar: &Sidecar, result: &str) -> f64 {
    sidecar.metrics().get("pillion_rate_limit_service_total", &[("result", result)])
}

/// Until then the sidecar decides by itself.
fn reach(sidecar: &Sidecar) {
    until("the service is reached", || {
        get(sidecar.at.inbound, "front", "/v1/users/0");
        asked(sidecar, "answered") > 0.0
    });
}

const LIMITS: &str = "[
  {name: whole, rate: 5/min, headers: all, descriptor: [{key: api, value: users}]},
  {name: user, rate: 5/min, headers: all, descriptor: [{key: user, header: x-user}, {key: id, path: id}]},
  {name: from, rate: 5/min, mode: shadow, descriptor: [{key: remote_address, source: true}]},
]";

#[test]
fn one_question_for_all_limits_of_a_route() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let (server, questions) = service(|question| {
        let one = |descriptor: &ratelimit::Descriptor| match descriptor.entries.last().unwrap().value.as_str()
        {
            "7" => over(5, 29),
            "127.0.0.1" => over(1, 1),
            _ => fine(3),
        };
        let header =
            |key: &str, value: &str| Header { key: key.into(), value: value.into(), raw_value: Vec::new() };
        ratelimit::Answer {
            overall_code: Code::OverLimit as i32,
            statuses: question.descriptors.iter().map(one).collect(),
            response_headers_to_add: vec![
                header("x-quota", "5"),
                header("content-length", "9"),
                header("grpc-status", "1"),
            ],
        }
    });
    let sidecar = setup(server.address(), &backend, "1s", LIMITS).start();
    reach(&sidecar);
    let _ = questions.try_iter().count();
    let answer = get(sidecar.at.inbound, "front", "/v1/users/7");
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (200, "ok"),
        "no `x-user`, and the third is only counted"
    );
    assert_eq!(answer.field("ratelimit").as_deref(), Some("\"whole\";r=3;t=31"));
    assert_eq!(answer.field("ratelimit-policy").as_deref(), Some("\"whole\";q=5;w=60"));
    assert_eq!(
        (answer.field("x-quota").as_deref(), answer.field("content-length").as_deref()),
        (Some("5"), Some("2"))
    );
    let question = questions.recv().unwrap();
    assert_eq!((question.domain.as_str(), question.descriptors.len()), ("shop", 2));
    let user = "GET /v1/users/%37 HTTP/1.1\r\nHost: front\r\nX-User: alice\r\n\r\n";
    let answer = call(sidecar.at.inbound, user);
    assert_eq!((answer.status, answer.reason().as_deref()), (429, Some("rate_limited")));
    assert_eq!(answer.field("retry-after").as_deref(), Some("30"));
    assert_eq!(answer.field("ratelimit").as_deref(), Some("\"whole\";r=3;t=31, \"user\";r=0;t=30"));
    assert_eq!(answer.field("x-quota").as_deref(), Some("5"));
    assert!(answer.text().contains("lets 5 calls pass in 1m by the limit `user`"), "{}", answer.text());
    let question = questions.recv().unwrap();
    let entries = &question.descriptors[1].entries;
    let pairs: Vec<_> = entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_str())).collect();
    assert_eq!(pairs, [("user", "alice"), ("id", "7")]);
    assert_eq!(question.descriptors[2].entries[0].value, "127.0.0.1");
    let labels = |limit| [("limit", limit), ("route", "/v1/users/{id}")];
    sidecar.metric_is(
        "pillion_rate_limited_total",
        &[labels("user"), [("mode", "enforce"), ("direction", "inbound")]].concat(),
        1.0,
    );
    assert!(
        sidecar.metrics().get("pillion_rate_limited_total", &[("limit", "from"), ("mode", "shadow")]) >= 1.0
    );
    // The same for gRPC.
    let client = H2Client::connect(sidecar.at.inbound);
    let request = http::Request::post("http://front/v1/users/7")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-user", "bob");
    let got = client.call(request.body(()).unwrap(), Vec::new(), None);
    assert_eq!((got.field("grpc-status"), got.field("pillion-error")), (Some("8"), Some("rate_limited")));
}

#[test]
fn what_says_only_the_whole_refuses() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let (server, _questions) = service(|_| ratelimit::Answer {
        overall_code: Code::OverLimit as i32,
        ..ratelimit::Answer::default()
    });
    let sidecar =
        setup(server.address(), &backend, "1s", "{rate: 1000/s, descriptor: [{key: a, value: b}]}").start();
    reach(&sidecar);
    assert_eq!(get(sidecar.at.inbound, "front", "/v1/users/7").status, 429);
}

#[test]
fn a_service_that_is_away_is_not_waited_for() {
    let _turn = beside_others();
    let (backend, nobody) = (Recorder::start(), Deaf::new());
    for (more, passes) in
        [("", 3), (", on_error: allow", 20), (", on_error: deny", 0), (", fallback: 70%", 2)]
    {
        let limits = format!("{{rate: 3/h, descriptor: [{{key: a, value: b}}]{more}}}");
        let sidecar = setup(nobody.address(), &backend, "1s", &limits).start();
        let began = Instant::now();
        let passed =
            (0..20).filter(|_| get(sidecar.at.inbound, "front", "/v1/users/7").status == 200).count();
        assert_eq!(passed, passes, "{more}");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(asked(&sidecar, "gone"), 20.0);
    }
}

#[test]
fn a_service_that_hangs_is_asked_no_more() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let (server, _questions) = service(|_| {
        std::thread::sleep(Duration::from_millis(700));
        ratelimit::Answer { statuses: vec![over(1, 1)], ..ratelimit::Answer::default() }
    });
    let sidecar = setup(
        server.address(),
        &backend,
        "50ms",
        "{rate: 3/s, on_error: allow, descriptor: [{key: a, value: b}]}",
    )
    .start();
    until("it is asked", || {
        assert_eq!(get(sidecar.at.inbound, "front", "/v1/users/7").status, 200);
        asked(&sidecar, "late") > 0.0
    });
    let began = Instant::now();
    (0..40).for_each(|_| assert_eq!(get(sidecar.at.inbound, "front", "/v1/users/7").status, 200));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(asked(&sidecar, "late") <= 12.0 && asked(&sidecar, "gone") >= 20.0);
}

#[test]
fn a_service_that_answers_nonsense_decides_nothing() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let server = Server::start(|_, mut stream| {
        use std::io::Write as _;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let limits = "{rate: 1000/s, descriptor: [{key: a, value: b}]}";
    let sidecar = setup(server.address(), &backend, "1s", limits).start();
    for _ in 0..20 {
        assert_eq!(get(sidecar.at.inbound, "front", "/v1/users/7").status, 200);
    }
    assert_eq!(asked(&sidecar, "gone"), 20.0);
    // Fewer answers than questions.
    let (server, _questions) =
        service(|_| ratelimit::Answer { statuses: vec![over(1, 1); 3], ..ratelimit::Answer::default() });
    let sidecar = setup(server.address(), &backend, "1s", limits).start();
    until("it is asked", || {
        assert_eq!(get(sidecar.at.inbound, "front", "/v1/users/7").status, 200);
        asked(&sidecar, "failed") > 0.0
    });
}
