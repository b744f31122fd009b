//! Limits of rates: who counts together, what is refused, and what callers are told.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use pillion::base::{Origin, UpstreamName};
use pillion::config::Model;
use pillion::config::model::{
    KEYS, Pattern, Per, Place, Quota, Rate, RateHeaders, RateLimit, Route, RoutePolicy,
};

use crate::errors::grpc::Status;
use crate::support::h2peer::H2Client;
use crate::support::sidecar::Setup;
use crate::support::{Client, Recorder, Sidecar, beside_others, call, get, process, sidecar, until};

const HOUR: Duration = Duration::from_secs(3600);

/// `count` calls in `period`, called by `per`.
pub fn limit(count: u32, period: Duration, per: Per) -> RateLimit {
    let count = NonZeroU32::new(count).unwrap();
    RateLimit {
        name: "calls".into(),
        quota: Quota { rate: Rate { count, period }, burst: count, per, keys: KEYS },
        shadow: false,
        headers: RateHeaders::default(),
        shared: None,
        service: None,
        place: Arc::new(Place {
            gateway: None,
            to: Some(UpstreamName::new("users")),
            route: "/**".into(),
            conditions: "".into(),
        }),
        origin: Origin { file: "users.yaml".into(), line: 8, column: 7 },
    }
}

/// A route of calls to `users` with these limits.
fn route(model: &mut Model, route: &str, limits: Vec<RateLimit>) {
    let policy = RoutePolicy { rate_limits: limits, ..RoutePolicy::default() };
    model.outbound.push(Route {
        to: Some(UpstreamName::new("users")),
        pattern: Pattern::parse(route).unwrap(),
        policy,
        origin: Origin { file: "users.yaml".into(), line: 3, column: 5 },
    });
}

fn limited(backend: &Recorder, limits: Vec<RateLimit>) -> Setup {
    sidecar("front").upstream("users", backend.address()).with(|model| route(model, "/**", limits))
}

/// How many of `count` calls with these fields pass.
fn passed(sidecar: &Sidecar, count: usize, target: &str, fields: &str) -> usize {
    let mut client = Client::connect(sidecar.at.outbound);
    let raw = format!("GET {target} HTTP/1.1\r\nHost: users\r\n{fields}\r\n");
    let one = |client: &mut Client| match client.send(&raw).read("GET").status {
        200 => 1,
        429 => 0,
        other => panic!("{other}"),
    };
    (0..count).map(|_| one(&mut client)).sum()
}

#[test]
fn nothing_but_http_passes_where_callers_are_held_to_a_limit() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let held = |shadow| {
        let one = RateLimit { shadow, ..limit(1, HOUR, Per::All) };
        sidecar("front")
            .service(backend.address())
            .with(|model| {
                let policy = RoutePolicy { rate_limits: vec![one], ..RoutePolicy::default() };
                model.inbound.push(Route {
                    to: None,
                    pattern: Pattern::parse("/**").unwrap(),
                    policy,
                    origin: Origin { file: "users.yaml".into(), line: 3, column: 5 },
                });
            })
            .start()
    };
    for raw in ["get /a HTTP/1.1\r\nHost: users\r\n\r\n", "\r\n\r\nGET /b HTTP/1.1\r\nHost: users\r\n\r\n"] {
        let sidecar = held(false);
        let status = |_| Client::connect(sidecar.at.inbound).send(raw).read("GET").status;
        let statuses: Vec<u16> = (0..3).map(status).collect();
        let passed = statuses.iter().filter(|status| **status == 200).count();
        assert!(passed <= 1, "{raw:?}: {statuses:?}");
        assert_eq!(backend.take().len(), passed, "{raw:?}");
    }
    // A limit that only looks on changes nothing.
    let sidecar = held(true);
    let before = backend.connections();
    Client::connect(sidecar.at.inbound).send("hello\r\n");
    until("it has passed", || backend.connections() > before);
}

#[test]
fn who_calls_too_often_is_told_when_to_come_back() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar =
        limited(&backend, vec![RateLimit { headers: RateHeaders::All, ..limit(2, HOUR, Per::All) }]).start();
    let first = get(sidecar.at.outbound, "users", "/");
    assert_eq!((first.status, first.field("ratelimit").as_deref()), (200, Some("\"calls\";r=1;t=1800")));
    assert_eq!(first.field("ratelimit-policy").as_deref(), Some("\"calls\";q=2;w=3600"));
    assert_eq!(
        get(sidecar.at.outbound, "users", "/").field("ratelimit").as_deref(),
        Some("\"calls\";r=0;t=3600")
    );
    let refused = get(sidecar.at.outbound, "users", "/");
    assert_eq!((refused.status, refused.reason().as_deref()), (429, Some("rate_limited")));
    assert_eq!(refused.field("ratelimit-policy").as_deref(), Some("\"calls\";q=2;w=3600"));
    assert_eq!(refused.field("ratelimit").as_deref(), Some("\"calls\";r=0;t=3600"));
    let after: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((1790..=1800).contains(&after), "{after}");
    assert!(refused.text().contains("lets 2/h pass, at most 2 at once"), "{}", refused.text());
    assert_eq!(backend.take().len(), 2);
    let labels = [("limit", "calls"), ("mode", "enforce"), ("upstream", "users"), ("route", "/**")];
    sidecar.metric_is("pillion_rate_limited_total", &labels, 1.0);
}

#[test]
fn answers_that_pass_say_nothing_unless_they_are_to() {
    let _turn = beside_others();
    let backend = Recorder::start();
    for (headers, on_refusal) in [(RateHeaders::Refusals, true), (RateHeaders::None, false)] {
        let sidecar = limited(&backend, vec![RateLimit { headers, ..limit(1, HOUR, Per::All) }]).start();
        assert_eq!(get(sidecar.at.outbound, "users", "/").field("ratelimit"), None);
        let refused = get(sidecar.at.outbound, "users", "/");
        assert_eq!((refused.status, refused.field("ratelimit").is_some()), (429, on_refusal));
        assert!(refused.field("retry-after").is_some(), "always");
    }
}

#[test]
fn a_caller_of_grpc_gets_retry_info() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = limited(&backend, vec![limit(2, HOUR, Per::All)]).start();
    assert_eq!(passed(&sidecar, 2, "/", ""), 2);
    let head = Request::post("http://users/pay.v1.Pay/Charge").header("content-type", "application/grpc");
    let got = H2Client::connect(sidecar.at.outbound).call(head.body(()).unwrap(), Vec::new(), None);
    assert_eq!((got.status(), got.field("grpc-status")), (200, Some("8")));
    let status = Status::decode(got.field("grpc-status-details-bin").unwrap());
    assert_eq!(status.error_info.unwrap().reason, "RATE_LIMITED");
    assert!(status.retry_delay.is_some_and(|delay| (1790..=1800).contains(&delay)));
    assert_eq!(got.field("ratelimit-policy"), Some("\"calls\";q=2;w=3600"));
}

#[test]
fn a_shadow_counts_and_lets_pass() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let shadow = RateLimit { shadow: true, headers: RateHeaders::All, ..limit(1, HOUR, Per::All) };
    let sidecar = limited(&backend, vec![shadow]).start();
    assert_eq!(passed(&sidecar, 5, "/", ""), 5);
    assert_eq!(get(sidecar.at.outbound, "users", "/").field("ratelimit"), None, "nobody is told");
    sidecar.metric_is("pillion_rate_limited_total", &[("mode", "shadow")], 5.0);
    assert_eq!(sidecar.metrics().get("pillion_rate_limited_total", &[("mode", "enforce")]), 0.0);
}

#[test]
fn all_limits_of_a_route_hold() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let named = |name: &str, limit| RateLimit { name: name.into(), headers: RateHeaders::All, ..limit };
    let key = Per::Header("x-api-key".parse().unwrap());
    let limits = vec![named("each", limit(2, HOUR, key)), named("all", limit(3, HOUR, Per::All))];
    let sidecar = limited(&backend, limits).start();
    assert_eq!(passed(&sidecar, 3, "/", "x-api-key: a\r\n"), 2, "`each`");
    assert_eq!(passed(&sidecar, 3, "/", "x-api-key: b\r\n"), 1, "`all`");
    let refused = call(sidecar.at.outbound, "GET / HTTP/1.1\r\nHost: users\r\nx-api-key: c\r\n\r\n");
    assert_eq!(refused.field("ratelimit").as_deref(), Some("\"each\";r=1;t=1800, \"all\";r=0;t=3600"));
    assert_eq!(refused.field("ratelimit-policy").as_deref(), Some("\"each\";q=2;w=3600, \"all\";q=3;w=3600"));
}

#[test]
fn each_value_of_a_header_has_its_count_over_all_workers() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let key = Per::Header("x-api-key".parse().unwrap());
    let setup = limited(&backend, vec![limit(10, HOUR, key)]).with(|model| model.workers = 4);
    let sidecar = setup.start();
    let fields = ["x-api-key: a\r\n", "x-api-key: b\r\n", ""];
    // Each call of `passed` is a connection of its own, on any worker.
    for fields in fields {
        assert_eq!((0..8).map(|_| passed(&sidecar, 2, "/", fields)).sum::<usize>(), 10, "{fields:?}");
    }
    sidecar.metric_is("pillion_rate_limit_keys", &[("limit", "calls")], 3.0);
}

#[test]
fn a_parameter_of_the_path_counts_in_whatever_way_it_is_written() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let limits = vec![limit(2, HOUR, Per::Path(2))];
    let setup = sidecar("front").upstream("users", backend.address());
    let sidecar = setup.with(|model| route(model, "/v1/users/{id}", limits)).start();
    assert_eq!(passed(&sidecar, 2, "/v1/users/7?a", ""), 2);
    assert_eq!(passed(&sidecar, 2, "/v1/users/%37", ""), 0);
    assert_eq!(passed(&sidecar, 3, "/v1/users/8", ""), 2);
}

#[test]
fn a_subscriber_of_ipv6_is_one_source() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let mut limit = limit(1, HOUR, Per::Source);
    limit.place = Arc::new(Place { gateway: None, to: None, route: "".into(), conditions: "".into() });
    let setup = sidecar("front").service(backend.address()).with(|model| {
        model.inbound_defaults.rate_limits = vec![limit];
        model.listen.proxy_protocol = vec!["127.0.0.0/8".parse().unwrap()];
    });
    let sidecar = setup.start();
    let passes = |family: &str, source: &str| {
        let target = if family == "TCP6" { "::1" } else { "127.0.0.1" };
        let raw = format!("PROXY {family} {source} {target} 1 2\r\nGET / HTTP/1.1\r\nHost: front\r\n\r\n");
        call(sidecar.at.inbound, raw).status == 200
    };
    assert!(passes("TCP4", "192.0.2.7") && !passes("TCP4", "192.0.2.7") && passes("TCP4", "192.0.2.8"));
    assert!(passes("TCP6", "2001:db8:0:1::1") && !passes("TCP6", "2001:db8:0:1:ffff::2"));
    assert!(passes("TCP6", "2001:db8:0:2::1"));
    assert!(!passes("TCP6", "::ffff:192.0.2.8"), "the same as its form of IPv4");
}

#[test]
fn callers_that_make_up_values_share_a_count_when_there_is_no_room() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let mut limit = limit(2, HOUR, Per::Header("x-api-key".parse().unwrap()));
    limit.quota.keys = 10;
    let sidecar = limited(&backend, vec![limit]).start();
    let made_up = |number| passed(&sidecar, 1, "/", &format!("x-api-key: {number}\r\n"));
    assert_eq!((0..50).map(made_up).sum::<usize>(), 12, "ten with a count, and one burst for all others");
    assert_eq!((0..10).map(made_up).sum::<usize>(), 10, "whoever was first is not harmed");
    sidecar.metric_is("pillion_rate_limit_keys", &[], 10.0);
    sidecar.metric_is("pillion_rate_limit_overflow_total", &[("limit", "calls")], 40.0);
}

#[test]
fn a_reload_keeps_the_counts_of_limits_that_it_does_not_change() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let (models, reloads) = tokio::sync::mpsc::channel(1);
    let setup = |count| limited(&backend, vec![limit(count, HOUR, Per::All)]).with(|model| model.workers = 2);
    let sidecar = setup(5).options(|options| options.reloads = Some(reloads)).start();
    assert_eq!(passed(&sidecar, 3, "/", ""), 3);
    let apply = |version: f64, mut model: Model, edit: &dyn Fn(&mut RoutePolicy)| {
        edit(&mut model.outbound[0].policy);
        models.blocking_send(Arc::new(model)).unwrap();
        sidecar.metric_is("pillion_config_version", &[], version);
    };
    apply(2.0, setup(5).finished_model(), &|policy| {
        policy.timeout = pillion::config::model::Timeout::Whole(HOUR);
        policy.rate_limits[0].origin.line += 1;
    });
    assert_eq!(passed(&sidecar, 6, "/", ""), 2, "two were left");
    apply(3.0, setup(7).finished_model(), &|_| {});
    // The workers have the new one a moment after its version is told.
    until("the new limit holds", || passed(&sidecar, 1, "/", "") == 1);
    assert_eq!(passed(&sidecar, 10, "/", ""), 6);
}

#[test]
fn files_say_who_counts_together() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let policy = "version: 1
outbound:
  - {to: users, rate_limit: {rate: 3/h}}
  - {to: users, route: /a}
  - {to: users, route: /b}
  - {to: users, route: '/c/{id}', rate_limit: [{rate: 4/h}, {rate: 1/h, per: {path: id}}]}
  - {to: users, route: /d, headers: {x: '1'}, rate_limit: {rate: 1/h}}
  - {to: users, route: /d, rate_limit: {rate: 1/h}}
  - {to: users, route: '/e/{id}', rewrite: {path: '/new/{id}/x'}, rate_limit: {rate: 1/h, per: {path: id}}}
";
    let front = process("front").upstream("users", &[backend.address()]).policy(policy).start();
    let status = |path: &str, fields: &str| {
        call(front.outbound, format!("GET {path} HTTP/1.1\r\nHost: users\r\n{fields}\r\n")).status
    };
    let shared: Vec<u16> = ["/a", "/b", "/other", "/a", "/b", "/x"].map(|path| status(path, "")).into();
    assert_eq!(
        shared,
        [200, 200, 200, 429, 429, 429],
        "the entry's limit counts all that have none of their own"
    );
    let own: Vec<u16> = ["/c/1", "/c/1", "/c/2", "/c/3", "/c/4"].map(|path| status(path, "")).into();
    assert_eq!(own, [200, 429, 200, 200, 429], "a refusal by the second limit counts in the first");
    let apart: Vec<u16> = ["x: 1\r\n", "", "x: 1\r\n", ""].map(|fields| status("/d", fields)).into();
    assert_eq!(apart, [200, 200, 429, 429], "two routes with one path are two routes");
    let rewritten: Vec<u16> = ["/e/1", "/e/2", "/e/1"].map(|path| status(path, "")).into();
    assert_eq!(rewritten, [200, 200, 429], "the path by which the call came");
}
