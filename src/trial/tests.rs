use std::time::Duration;

use super::*;
use crate::config::{Environment, load_str};

const POLICY: &str = "
version: 1
service: {name: orders, port: 8080}
inbound:
  - {route: 'POST /v1/orders/{id}', timeout: 3s}
outbound:
  - {to: users, timeout: 2s, retry: {max: 2, per_try: 500ms, on: [connect, reset, 5xx, timeout]}}
  - {to: carts, mirror: {to: carts-next}}
  - {to: payments, route: grpc pay.v1.Pay/Charge, retry: {max: 2, on: [connect, UNAVAILABLE], only_if: idempotency-key}}
tests:
";

fn tried(tests: &str) -> Vec<Result<(), String>> {
    let loaded = load_str("pillion.yaml", &format!("{POLICY}{tests}"), &Environment::of([("", ""); 0]));
    let model = loaded.unwrap_or_else(|problems| panic!("{problems}")).model;
    let one = |test| run(&model, test).map_err(|failure| format!("{}: {}", failure.origin, failure.why));
    model.tests.iter().map(one).collect()
}

#[test]
fn a_token_is_good_until_its_time_is_over() {
    use crate::base::clock;
    use crate::policy::authorize::signer::{Signer, set};
    let signer = Signer::new("a", "ES256");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("keys.json"), set(&[&signer])).unwrap();
    let claims = serde_json::json!({"iss": "id", "sub": "alice", "exp": clock::wall() + 3600.0});
    let (token, path) = (signer.sign(&claims), folder.path().join("pillion.yaml"));
    let text = format!(
        "
version: 1
service: {{name: orders, port: 8080}}
authentication: {{jwt: [{{issuer: id, jwks: {{file: keys.json}}, skew: 0s}}]}}
inbound: [{{route: GET /v1, allow: [{{jwt: {{}}}}], rate_limit: {{rate: 1/min, per: {{claim: sub}}}}}}]
tests:
  - name: as time goes by
    call: GET /v1
    headers: {{authorization: 'Bearer {token}'}}
    expect: {{status: 200}}
    then:
      - {{expect: {{status: 429, reason: rate_limited}}}}
      - {{after: 58m, expect: {{status: 200}}}}
      - {{after: 3m, expect: {{status: 401, reason: unauthenticated}}}}
"
    );
    std::fs::write(&path, text).unwrap();
    let model = crate::config::load(&path, &Environment::of([("", ""); 0])).unwrap().model;
    let said = run(&model, &model.tests[0]).map_err(|failure| failure.why);
    assert_eq!(said, Ok(()));
}

#[test]
fn what_is_expected_comes() {
    let began = std::time::Instant::now();
    let all = tried(
        "
  - {name: plain, call: GET http://users/v1, expect: {status: 200, attempts: 1, reason: none, to: users}}
  - {name: tried anew, call: GET http://users/v1, upstream: [503, reset, 200], expect: {status: 200, attempts: 3}}
  - {name: sent once, call: POST http://users/v1, body: x, upstream: [503, 200], expect: {status: 503, attempts: 1}}
  - name: without a key
    call: grpc payments pay.v1.Pay/Charge
    upstream: [UNAVAILABLE, OK]
    expect: {attempts: 1, status: UNAVAILABLE, route: grpc pay.v1.Pay/Charge}
    then:
      - {headers: {idempotency-key: a}, upstream: [UNAVAILABLE, OK], expect: {attempts: 2, status: OK}}
  - name: time passes
    call: GET http://users/slow
    upstream: [silence]
    expect: {status: 504, reason: per_try_timeout, attempts: 3, took: 1500ms..2s}
    then: [{after: 2h, upstream: [200], expect: {took: 10ms}}]
  - {name: copied, call: POST http://carts/v1, body: x, upstream: [503], expect: {status: 503, attempts: 1, to: carts, mirrored: carts-next}}
  - {name: copied and refused, call: GET http://carts/v1, upstream: [connect], expect: {status: 502, to: none, mirrored: carts-next}}
  - {name: not copied, call: GET http://users/v1, expect: {status: 200, mirrored: none}}
  - name: nobody is there any more
    call: POST http://users/v1
    body: x
    then: [{upstream: [connect, 200], expect: {status: 200, attempts: 1}}]
  - {name: nobody is there, call: GET http://users/, upstream: [connect], expect: {status: 502, reason: connect_refused, attempts: 0}}
  - name: to the service
    call: POST /v1/orders/7
    body: hello
    upstream: [{status: 201, after: 1s, headers: {x-id: '7'}, body: done}]
    expect: {status: 201, headers: {x-id: '7', x-none: ''}, body: done, took: 1s..1100ms, route: 'POST /v1/orders/{id}'}
",
    );
    assert!(all.iter().all(Result::is_ok), "{all:#?}");
    assert!(began.elapsed() < Duration::from_secs(20), "no time passes outside");
}

#[test]
fn what_is_not_expected_is_told_with_its_place() {
    let all = tried(
        "
  - {name: a, call: GET http://users/v1, expect: {status: 404}}
  - {name: b, call: GET http://users/v1, upstream: [503], times: 3, expect: {attempts: 1}}
  - {name: c, call: GET http://users/v1, upstream: [{status: 200, after: 1900ms}], expect: {took: 1s}}
  - {name: d, call: GET http://users/v1, expect: {headers: {x-a: b}}}
  - {name: e, call: GET http://users/v1, expect: {reason: timeout}}
",
    );
    let all: Vec<String> = all.into_iter().map(Result::unwrap_err).collect();
    assert_eq!(all[0], "pillion.yaml:12:50: the status is 200, not 404");
    assert!(all[1].ends_with("call 1 of 3: the number of attempts is 3, not 1"), "{}", all[1]);
    assert!(all[2].contains("the answer is there after"), "{}", all[2]);
    assert!(all[3].ends_with("the header `x-a` is none, not `b`"), "{}", all[3]);
    assert!(all[4].ends_with("the reason is none, not timeout"), "{}", all[4]);
}

#[test]
fn a_test_goes_the_same_way_each_time() {
    let once = || {
        tried(
            "  - {name: a, call: GET http://users/v1, endpoints: 5, upstream: [503, 503, 200], expect: {took: 1us}}\n",
        )
    };
    let first = once();
    assert!(first[0].is_err() && (0..3).all(|_| once() == first), "{first:?}");
}

/// The annotated reference and the shop hold what they say.
#[test]
fn the_tests_of_our_own_files_pass() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, least) in [
        ("config/policies/reference.yaml", 2),
        ("examples/shop/policies/orders.yaml", 2),
        ("examples/shop/policies/orders-full.yaml", 1),
    ] {
        let loaded = crate::config::load_policy(&root.join(file), &Environment::of([("", ""); 0]));
        let model = loaded.unwrap_or_else(|problems| panic!("{problems}")).model;
        assert!(model.tests.len() >= least, "{file}");
        for test in &model.tests {
            assert_eq!(run(&model, test), Ok(()), "{file}: {}", test.name);
        }
    }
}
