//! Which route takes a call from outside.

use super::Gate;
use crate::support::beside_others;
use crate::support::h2peer::H2Client;

const SHOP: &str = "
    - {route: GET /healthz, respond: {body: fine}}
    - {host: shop.example, route: '/api/users/{rest...}', to: users, rewrite: {prefix: /users}}
    - {host: shop.example, route: 'POST /api/orders', to: orders}
    - {host: '*.shop.example', route: /**, to: orders}
    - {host: deep.shop.example, route: /only, to: users}
    - {route: /any, to: users}";

#[test]
fn the_host_comes_first_and_then_the_path() {
    let _turn = beside_others();
    let gate = Gate::new(SHOP);
    for (method, host, path, wanted) in [
        ("GET", "shop.example", "/api/users/7?x=1", "/users/7?x=1"),
        ("GET", "SHOP.example:8080", "/api/users/7", "/users/7"),
        ("GET", "shop.example.", "/api/users/7", "/users/7"),
        ("POST", "shop.example", "/api/orders", "orders /api/orders"),
        ("GET", "a.shop.example", "/any", "orders /any"),
        ("GET", "deep.shop.example", "/only", "/only"),
        ("GET", "deep.shop.example", "/else", "orders /else"),
        ("GET", "whoever", "/any", "/any"),
        ("GET", "shop.example", "/any", "/any"),
        ("GET", "whoever", "/healthz", "fine"),
    ] {
        let reply = gate.ask(method, host, path, &[]);
        assert_eq!((reply.status, &*reply.text()), (200, wanted), "{method} {host} {path}");
    }
    let client = H2Client::connect(gate.at());
    let got = client.get("http://shop.example/api/users/8");
    assert_eq!((got.status(), &got.body[..]), (200, &b"/users/8"[..]));
    gate.sidecar.metric_is("pillion_gateway_request_duration_seconds_count", &[("upstream", "orders")], 3.0);
    gate.sidecar.metric_is("pillion_connections_total", &[("direction", "gateway")], 11.0);
    assert_eq!(gate.sidecar.metrics().get("http_client_request_duration_seconds_count", &[]), 0.0);
}

#[test]
fn what_no_route_takes_is_told_apart() {
    let _turn = beside_others();
    let gate = Gate::new("- {host: shop.example, route: GET /api, to: users}");
    for (method, host, path, status, reason) in [
        ("GET", "other.example", "/api", 404, "unknown_host"),
        ("GET", "a.shop.example", "/api", 404, "unknown_host"),
        ("GET", "shop.example", "/else", 404, "no_route"),
        ("POST", "shop.example", "/api", 404, "no_route"),
        ("CONNECT", "shop.example:80", "shop.example:80", 404, "no_route"),
    ] {
        let reply = gate.ask(method, host, path, &[]);
        assert_eq!(
            (reply.status, reply.field("pillion-error")),
            (status, Some(reason)),
            "{method} {host} {path}"
        );
        assert_eq!(reply.field("content-type"), Some("application/problem+json"));
    }
    assert_eq!(gate.users.take().len(), 0);
}

#[test]
fn a_route_cannot_be_avoided_by_another_way_to_write_its_path() {
    let _turn = beside_others();
    let routes = "- {route: /admin/**, respond: {status: 403}}\n- {route: /**, to: users}";
    let gate = Gate::new(routes);
    for path in [
        "/admin/x",
        "/%61dmin/x",
        "//admin/x",
        "/./admin",
        "/a/../admin/x",
        "/a/%2e%2e/admin",
        "/admin/%2e/x",
        "/admin",
        "/a/.././/admin/",
    ] {
        assert_eq!(gate.get("shop", path).status, 403, "{path}");
    }
    for path in
        ["/a/..%2fadmin", "/..;/admin", "/a\\..\\admin", "/a%5c..%5cadmin", "/../admin", "/a%00", "/%zz"]
    {
        let reply = gate.get("shop", path);
        assert_eq!((reply.status, reply.field("pillion-error")), (400, Some("malformed_request")), "{path}");
    }
    assert_eq!(gate.users.take().len(), 0);
    for (path, sent) in [("//a/./b/../%7ec%c3%a9?x=/../%61", "/a/~c%C3%A9?x=/../%61"), ("/a/", "/a/")] {
        assert_eq!(gate.get("shop", path).text(), sent);
    }
    let gate = Gate::with("    encoded_slashes: keep", routes);
    assert_eq!(gate.get("shop", "/groups/a%2fb").text(), "/groups/a%2Fb");
    assert_eq!(gate.get("shop", "/a/..%2fadmin").status, 400);
}
