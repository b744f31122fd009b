//! Header fields and targets that are changed on their way.

use super::{both, grpc, with_policy};
use crate::support::h2peer::{Answer, H2Backend};
use crate::support::{Deaf, beside_others, get, sidecar};

const EDITS: &str = "
outbound:
  - to: users
    request_headers: {remove: [x-secret], set: {x-team: shop}, add: {x-hop: front}}
    response_headers: {remove: [server], set: {x-frame-options: DENY}, add: {x-hop: front}}
inbound:
  - request_headers: {set: {x-team: here}}
    response_headers: {remove: [server]}
";

#[test]
fn fields_go_are_set_and_are_added_both_ways() {
    let _turn = beside_others();
    both(EDITS, &[("server", "backend"), ("x-hop", "back"), ("x-frame-options", "ALLOW")], |way| {
        let sent = [("x-secret", "1"), ("x-team", "mine"), ("x-hop", "caller"), ("x-kept", "1")];
        let answer = way.out("GET", "/", &sent);
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        assert_eq!((answer.field("server"), answer.field("x-frame-options")), (None, Some("DENY")));
        let all = |fields: &http::HeaderMap| fields.get_all("x-hop").iter().cloned().collect::<Vec<_>>();
        assert_eq!(all(&answer.fields), ["back", "front"]);
        let seen = way.only();
        assert_eq!((seen.fields.get("x-secret"), &seen.fields["x-team"]), (None, &"shop".parse().unwrap()));
        assert_eq!(all(&seen.fields), ["caller", "front"]);
        assert!(seen.fields.contains_key("x-kept"));
        let answer = way.into("GET", "/", &sent);
        assert_eq!(answer.field("server"), None);
        assert_eq!(way.only().fields["x-team"], "here");
    });
}

#[test]
fn an_answer_of_pillions_own_is_edited_as_well() {
    let _turn = beside_others();
    let nobody = Deaf::new();
    let policy = "outbound: [{to: users, response_headers: {set: {x-frame-options: DENY}}}]";
    let sidecar = with_policy(sidecar("front").upstream("users", nobody.address()), policy).start();
    let answer = get(sidecar.at.outbound, "users", "/");
    assert_eq!(answer.reason().as_deref(), Some("connect_refused"));
    assert_eq!(answer.field("x-frame-options").as_deref(), Some("DENY"));
}

const REWRITES: &str = "
outbound:
  - {to: users, route: 'GET /v1/users/{id}', rewrite: {path: '/people/{id}.json', host: people.internal}}
  - {to: users, route: '/files/{rest...}', rewrite: {path: '/public/{rest}'}}
  - {to: users, route: '/api/v2/**', rewrite: {prefix: /}}
  - {to: users, route: '/old/{id}/x', rewrite: {prefix: /new/}}
  - {to: users, route: 'grpc old.Users/*', rewrite: {path: '/new.Users/{method}'}}
";

#[test]
fn a_target_is_written_anew() {
    let _turn = beside_others();
    both(REWRITES, &[], |way| {
        for (path, target, host) in [
            ("/v1/users/7?x=1", "/people/7.json?x=1", "people.internal"),
            ("/v1/users/a%2Fb", "/people/a%2Fb.json", "people.internal"),
            ("/files/a/b/", "/public/a/b/", "users"),
            ("/api/v2/users/7?q", "/users/7?q", "users"),
            ("/api/v2", "/", "users"),
            ("/old/7/x", "/new/7/x", "users"),
            ("/other", "/other", "users"),
        ] {
            assert_eq!(way.out("GET", path, &[]).status, 200, "{path}");
            let seen = way.only();
            assert_eq!((seen.target.as_str(), seen.host.as_str()), (target, host), "{path}");
        }
        for path in ["/files/../admin", "/files/a/%2e%2E/b", "/v1/users/.."] {
            // The whole segment `..json` is none of the two.
            let wanted = if path.starts_with("/v1") { 200 } else { 400 };
            let answer = way.out("GET", path, &[]);
            assert_eq!(answer.status, wanted, "{path}");
            assert_eq!(way.seen().len(), usize::from(wanted == 200), "{path}");
        }
        let long = format!("/files/{}", "a".repeat(8 * 1024 - 7));
        let answer = way.out("GET", &long, &[]);
        assert_eq!((answer.status, answer.field("pillion-error")), (414, Some("target_too_long")));
        assert_eq!(way.seen().len(), 0);
    });
}

#[test]
fn a_call_of_grpc_goes_to_another_service() {
    let _turn = beside_others();
    let backend = H2Backend::answering(|_| Answer {
        head: http::Response::builder().header("content-type", "application/grpc").body(()).unwrap(),
        trailers: Some(http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        )])),
        ..Answer::default()
    });
    let sidecar = with_policy(sidecar("front").upstream("users", backend.address()), REWRITES).start();
    assert_eq!(grpc(sidecar.at.outbound, "/old.Users/Get", &[]).status, 200);
    assert_eq!(backend.only().head.uri.path(), "/new.Users/Get");
}

/// `ok`, as gzip writes it.
const GZIP: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\xcf\x06\0\x47\xdd\xdc\x79\x02\0\0\0";

#[test]
fn what_is_compressed_passes_as_it_is() {
    let _turn = beside_others();
    let backend = H2Backend::answering(|seen| Answer {
        head: http::Response::builder()
            .header("content-encoding", "gzip")
            .header("vary", "accept-encoding")
            .body(())
            .unwrap(),
        body: vec![bytes::Bytes::from(seen.body.clone())],
        ..Answer::default()
    });
    let sidecar = with_policy(sidecar("front").upstream("users", backend.address()), EDITS).start();
    let request = http::Request::post("http://users/")
        .header("content-encoding", "gzip")
        .header("accept-encoding", "gzip, br")
        .body(())
        .unwrap();
    let client = crate::support::h2peer::H2Client::connect(sidecar.at.outbound);
    let got = client.call(request, vec![bytes::Bytes::from_static(GZIP)], None);
    assert_eq!((got.body.as_slice(), got.field("content-encoding")), (GZIP, Some("gzip")));
    let seen = backend.only();
    assert_eq!(seen.body, GZIP);
    assert_eq!(
        (&seen.head.headers["content-encoding"], &seen.head.headers["accept-encoding"]),
        (&"gzip".parse().unwrap(), &"gzip, br".parse().unwrap())
    );
}
