//! What browsers are told of other origins.

use super::{both, with_policy};
use crate::support::{Deaf, beside_others, call, sidecar};

const CORS: &str = r#"
inbound:
  - route: PUT /v1/carts/{id}
    cors:
      origins: ["https://app.example", "https://*.shop.example"]
      methods: [GET, PUT]
      headers: [Content-Type, X-Cart]
      expose: [X-Total]
      credentials: true
      max_age: 5m
  - {route: "/open/**", cors: {origins: ["*"], methods: ["*"], headers: ["*"]}}
"#;

const ASKED: (&str, &str) = ("access-control-request-method", "PUT");

#[test]
fn a_browsers_question_is_answered_here() {
    let _turn = beside_others();
    both(CORS, &[], |way| {
        for origin in ["https://app.example", "https://a.shop.example"] {
            let answer = way.into("OPTIONS", "/v1/carts/7", &[("origin", origin), ASKED]);
            assert_eq!((answer.status, answer.body.len()), (204, 0));
            for (name, value) in [
                ("access-control-allow-origin", origin),
                ("access-control-allow-methods", "GET, PUT"),
                ("access-control-allow-headers", "content-type, x-cart"),
                ("access-control-allow-credentials", "true"),
                ("access-control-max-age", "300"),
                ("vary", "Origin"),
            ] {
                assert_eq!(answer.field(name), Some(value), "{name}");
            }
        }
        let answer = way.into("OPTIONS", "/v1/carts/7", &[("origin", "https://evil.example"), ASKED]);
        assert_eq!((answer.status, answer.field("access-control-allow-origin")), (204, None));
        assert_eq!(
            (answer.field("access-control-allow-methods"), answer.field("vary")),
            (None, Some("Origin"))
        );
        let answer = way.into("OPTIONS", "/open/x", &[("origin", "null"), ASKED]);
        assert_eq!((answer.field("access-control-allow-origin"), answer.field("vary")), (Some("*"), None));
        assert_eq!(answer.field("access-control-allow-methods"), Some("*"));
        assert_eq!(way.seen().len(), 0, "the service hears of none of it");
        // No question of a browser, and one about a route without `cors`.
        assert_eq!(way.into("OPTIONS", "/v1/carts/7", &[]).status, 200);
        assert_eq!(way.into("OPTIONS", "/v1/else", &[("origin", "https://app.example"), ASKED]).status, 200);
        assert_eq!(way.seen().len(), 2, "those are for the service");
    });
}

#[test]
fn every_answer_says_who_may_read_it() {
    let _turn = beside_others();
    let service = [("access-control-allow-origin", "*"), ("vary", "accept")];
    both(CORS, &service, |way| {
        let answer = way.into("PUT", "/v1/carts/7", &[("origin", "https://app.example")]);
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        assert_eq!(answer.field("access-control-allow-origin"), Some("https://app.example"));
        assert_eq!(answer.field("access-control-allow-credentials"), Some("true"));
        assert_eq!(answer.field("access-control-expose-headers"), Some("x-total"));
        let vary: Vec<_> = answer.fields.get_all("vary").iter().cloned().collect();
        assert_eq!(vary, ["accept", "Origin"]);
        for fields in [&[("origin", "https://evil.example")][..], &[]] {
            let answer = way.into("PUT", "/v1/carts/7", fields);
            assert_eq!((answer.status, answer.field("access-control-allow-origin")), (200, None));
        }
        let answer = way.into("GET", "/else", &[("origin", "https://app.example")]);
        assert_eq!(answer.field("access-control-allow-origin"), Some("*"), "the service's own word");
    });
}

#[test]
fn a_page_can_read_why_its_call_failed() {
    let _turn = beside_others();
    let nobody = Deaf::new();
    let sidecar = with_policy(sidecar("front").service(nobody.address()), CORS).start();
    let raw =
        "PUT /v1/carts/7 HTTP/1.1\r\nHost: users\r\nOrigin: https://app.example\r\nContent-Length: 0\r\n\r\n";
    let answer = call(sidecar.at.inbound, raw);
    assert_eq!(answer.reason().as_deref(), Some("connect_refused"));
    assert_eq!(answer.field("access-control-allow-origin").as_deref(), Some("https://app.example"));
}
