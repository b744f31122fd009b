//! Whole files, from text to model or report.

mod hostile;
mod reference;
mod report;
mod routes;

use std::time::Duration;

use super::model::{Balance, HashOn, RetryOn, Segment, Source, Timeout};
use super::*;

fn environment() -> Environment {
    Environment::of([("ZONE", "eu-1a"), ("PORT", "8080"), ("SECRET", "s3cr3t")])
}

fn model(text: &str) -> std::sync::Arc<Model> {
    load_str("pillion.yaml", text, &environment()).unwrap_or_else(|problems| panic!("{problems}")).model
}

#[test]
fn a_file_becomes_a_model() {
    let model = model(
        r#"
version: 1
service: {name: Orders, port: "${PORT}", protocol: grpc, health: {path: /health}, locality: {zone: "${ZONE}"}, tags: [v2, "5"]}
listen: {inbound: 127.0.0.1:0, outbound: "[::1]:8701"}
limits: {header_bytes: 32KiB, header_timeout: 5s}
drain: {delay: 0s}
discovery:
  - static: {users: [10.0.0.7:8080, {address: "users.example:80", weight: 2, zone: b}]}
  - dns: {servers: [10.0.0.2], max_ttl: 30s}
telemetry: {propagate: [tracecontext]}
inbound:
  - timeout: 9s
  - route: GET,POST /v1/orders/{id}
    headers: {x-user: {prefix: al}, x-no: {present: false}}
outbound:
  - to: users
    timeout: 3s
    listen: 127.0.0.1:9001
    retry: {max: 3, budget: 10%}
  - to: users
    route: grpc pkg.Users/Get
    retry: {per_try: 500ms, on: [connect, 5xx, 503]}
    balance: {by: {hash: {header: X-User}}}
"#,
    );
    assert_eq!(model.service.name.as_str(), "orders");
    assert_eq!(model.service.address, Some("127.0.0.1:8080".parse().unwrap()));
    assert_eq!(model.service.locality.zone.as_deref(), Some("eu-1a"));
    assert_eq!(model.listen.admin, "127.0.0.1:8700".parse().unwrap());
    assert_eq!((model.limits.header_bytes, model.limits.streams), (32 * 1024, 100));
    assert_eq!(model.drain.delay, Duration::ZERO);
    let Source::Static(names) = &model.discovery[0] else { panic!("{:?}", model.discovery) };
    assert_eq!(names["users"][1].weight, 2);
    assert_eq!(model.inbound[0].policy.timeout, Timeout::Whole(Duration::from_secs(9)));
    assert_eq!(model.inbound_defaults.timeout, Timeout::Whole(Duration::from_secs(9)));
    assert_eq!(model.inbound[0].pattern.segments[2], Segment::Parameter("id".into()));
    let route = &model.outbound[0];
    assert_eq!((&*route.pattern.template, route.pattern.grpc), ("/pkg.Users/Get", true));
    assert_eq!(route.policy.timeout, Timeout::Whole(Duration::from_secs(3)));
    let retry = route.policy.retry.as_ref().unwrap();
    assert_eq!((retry.max, retry.budget, retry.per_try), (3, 0.1, Some(Duration::from_millis(500))));
    assert_eq!(retry.on, [RetryOn::Connect, RetryOn::ServerError, RetryOn::Status(503)]);
    assert_eq!(route.policy.balance, Balance::Hash(HashOn::Header("x-user".parse().unwrap())));
    assert_eq!(model.upstreams["users"].listen, Some("127.0.0.1:9001".parse().unwrap()));
    assert_eq!(model.sources["outbound[1].retry.per_try"].to_string(), "pillion.yaml:22:22");
    assert_eq!(model.sources["service.port"].to_string(), "pillion.yaml:3:31");
}

#[test]
fn the_shortest_file_is_the_defaults() {
    let file = model("version: 1\nservice: {name: a, port: 8080}\n");
    let without = defaults("a", Some(8080), &environment());
    let plain = |model: &Model| format!("{:?}", Model { sources: Default::default(), ..model.clone() });
    assert_eq!(plain(&file), plain(&without));
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_make_no_difference() {
    let text =
        "\u{feff}version: 1\r\nservice: {name: a}\r\ninbound:\r\n  - route: GET /a\r\n    timeout: 5\r\n";
    let problems = load_str("f", text, &environment()).unwrap_err();
    let got: Vec<String> = problems.iter().map(Problem::headline).collect();
    assert_eq!(got, ["f:5:14: a duration needs a unit: write `5s` or `5ms`"]);
}

#[test]
fn the_environment_is_not_printed() {
    let text = format!("{:?}", environment());
    assert!(text.contains("SECRET") && !text.contains("s3cr3t"), "{text}");
}

/// `broken.txt` holds broken files; the lines that begin with `=> ` are what
/// must be said of them, and nothing else.
#[test]
fn every_broken_file_is_reported_at_its_place() {
    let mut number = 0;
    let mut wrong = String::new();
    for case in include_str!("tests/broken.txt").split("=== ").skip(1) {
        let (name, body) = case.split_once('\n').unwrap();
        let (told, text): (Vec<&str>, Vec<&str>) = body.lines().partition(|line| line.starts_with("=> "));
        let text = text.iter().map(|line| format!("{line}\n")).collect::<String>();
        let wanted: Vec<&str> = told.iter().map(|line| &line[3..]).collect();
        let problems = match load_str("f", &text, &environment()) {
            Ok(_) => Problems::default(),
            Err(problems) => problems,
        };
        let got: Vec<String> = problems.iter().map(Problem::headline).collect();
        assert!(!problems.to_string().contains("s3cr3t"), "{name}: a secret is shown\n{problems}");
        if got != wanted || wanted.is_empty() {
            wrong +=
                &format!("=== {name}\n{text}{}", got.iter().map(|l| format!("=> {l}\n")).collect::<String>());
        }
        number += 1;
    }
    assert!(number >= 60, "{number} cases");
    assert!(wrong.is_empty(), "these are reported in another way:\n{wrong}");
}
