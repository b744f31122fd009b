//! The grammar of routes, their order and their ties.

use std::cmp::Ordering;

use http::Method;

use super::model;
use crate::config::model::{Pattern, Segment};

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap_or_else(|error| panic!("{text}: {}", error.message))
}

#[test]
fn a_route_is_methods_and_a_template() {
    let get = pattern(" GET,HEAD  /v1/{id}/x/{rest...} ");
    assert_eq!(get.methods, [Method::GET, Method::HEAD]);
    assert_eq!(&*get.template, "/v1/{id}/x/{rest...}");
    let literal = |text: &str| Segment::Literal(text.into());
    assert_eq!(get.segments, [literal("v1"), Segment::Parameter("id".into()), literal("x"), Segment::Rest]);
    assert_eq!(pattern("/").segments, [literal("")]);
    assert_eq!(pattern("/a/").segments, [literal("a"), literal("")]);
    assert_eq!(pattern("/**").segments, [Segment::Rest]);
    let grpc = pattern("grpc a.b.C/*");
    assert_eq!(
        (grpc.grpc, &*grpc.template, &grpc.methods[..]),
        (true, "/a.b.C/{method}", &[Method::POST][..])
    );
    assert_eq!(grpc.segments, [literal("a.b.C"), Segment::Parameter("method".into())]);
    assert_eq!(&*pattern("grpc /a.b.C/Do").template, "/a.b.C/Do");
}

#[test]
fn an_error_knows_its_place_in_the_text() {
    for (text, offset, width) in
        [("  GET /a/{x}/{x}", 13, 3), ("GET,get /a", 4, 3), ("/a b", 2, 1), ("grpc  nope", 6, 4), ("", 0, 0)]
    {
        let error = Pattern::parse(text).expect_err(text);
        assert_eq!((error.offset, error.width), (offset, width), "{text}: {}", error.message);
    }
}

#[test]
fn the_more_specific_route_wins() {
    // From the most specific to the least.
    let order = [
        "GET /a/b/c",
        "/a/b/c",
        "/a/b/{x}",
        "/a/b",
        "/a/b/{rest...}",
        "GET /a/{x}",
        "/a/{x}",
        "/a/**",
        "POST /{x}/b",
        "/{x}/b",
        "/{x}/{y}",
        "/{x}",
        "/**",
    ];
    for (index, winner) in order.iter().enumerate() {
        assert_eq!(pattern(winner).specificity(&pattern(winner)), Ordering::Equal);
        for loser in &order[index + 1..] {
            assert_eq!(
                pattern(winner).specificity(&pattern(loser)),
                Ordering::Greater,
                "{winner} over {loser}"
            );
            assert_eq!(pattern(loser).specificity(&pattern(winner)), Ordering::Less, "{winner} over {loser}");
        }
    }
}

#[test]
fn host_headers_and_query_tell_routes_apart_and_rank_them() {
    let model = model(
        r#"
version: 1
service: {name: a}
inbound:
  - {route: /a, host: x.example}
  - {route: /a, host: y.example}
  - {route: /a, host: "*.b.example"}
  - {route: /a, host: "*.example"}
  - {route: /a, headers: {x-a: "1", x-b: "1"}}
  - {route: /a, headers: {x-a: "1"}, query: {q: {present: true}}}
  - {route: /a, headers: {x-a: "1"}}
  - {route: /a, headers: {x-a: {prefix: "2"}}}
  - {route: /a, headers: {x-a: {present: false}}}
  - {route: /a, query: {q: "1"}}
  - {route: /a}
  - {route: POST /a}
"#,
    );
    let find = |at: usize| &model.inbound[at].pattern;
    for (winner, loser) in [(0, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 9), (9, 10), (11, 0)] {
        assert_eq!(find(winner).specificity(find(loser)), Ordering::Greater, "{winner} over {loser}");
    }
    for (a, b) in [(0, 1), (6, 7), (7, 8), (6, 8)] {
        assert_eq!(find(a).specificity(find(b)), Ordering::Equal, "{a} and {b}");
        assert!(!find(a).ties_with(find(b)), "no request meets both {a} and {b}");
    }
}

#[test]
fn the_same_route_to_two_upstreams_is_no_tie() {
    let model = model("version: 1\nservice: {name: a}\noutbound: [{to: b, route: /a}, {to: c, route: /a}]\n");
    assert_eq!(model.outbound.len(), 2);
}

#[test]
fn a_route_takes_what_it_does_not_say_from_its_upstream() {
    let model = model(
        r#"
version: 1
service: {name: a}
inbound: [{tunnel_idle: 10m}, {route: /socket, tunnel_idle: 3m}, {route: /other}]
outbound:
  - {to: b, route: /first}
  - {to: b, timeout: 4s, tunnel_idle: 2h, connect_timeout: 2s, retry: {max: 3, on: [5xx]}, balance: {by: round_robin}}
  - {to: b, route: /second, timeout: 1s, retry: {max: 0}, balance: {by: ewma}}
  - {to: c, route: /third}
"#,
    );
    let policy = |at: usize| &model.outbound[at].policy;
    assert_eq!(policy(0), &model.upstreams["b"].policy);
    let retry = policy(1).retry.as_ref().unwrap();
    assert_eq!((retry.max, retry.on.len(), policy(1).connect_timeout.as_secs()), (0, 1, 2));
    assert_eq!(policy(1).tunnel_idle.as_secs(), 7200);
    assert_eq!(policy(1).balance, crate::config::model::Balance::Ewma);
    assert_eq!(policy(2), &crate::config::model::RoutePolicy::default());
    assert!(model.upstreams["c"].origin.is_none());
    let inbound: Vec<_> = model.inbound.iter().map(|route| route.policy.tunnel_idle.as_secs()).collect();
    assert_eq!(inbound, [180, 600]);
}
