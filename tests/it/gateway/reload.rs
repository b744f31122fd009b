//! Gateways that come, stay and go with a reload, and a gateway as a process of
//! its own.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use pillion::base::UpstreamName;
use pillion::config::model::Gateway;

use super::{model, with_gateways};
use crate::support::{Client, Recorder, beside_others, get, process, sidecar, until};

fn free() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
}

#[test]
fn a_listener_that_stays_keeps_its_connections() {
    let _turn = beside_others();
    let users = Recorder::start();
    let (stays, goes, comes) = (free(), free(), free());
    let (models, reloads) = tokio::sync::mpsc::channel(1);
    let mut first = model("    routes: [{route: /a, to: users}]", "");
    let routes = first.gateways[0].routes.clone();
    let at = |listen| Gateway { routes: routes.clone(), ..Gateway::new(listen) };
    first.gateways = vec![at(stays), at(goes)];
    let setup = with_gateways(sidecar("edge").upstream("users", users.address()), first);
    let setup = setup.options(|options| options.reloads = Some(reloads));
    let mut next = setup.finished_model();
    let sidecar = setup.start();
    let mut client = Client::connect(stays);
    assert_eq!(client.get("shop", "/a").status, 200);
    let mut leaving = Client::connect(goes);
    assert_eq!(leaving.get("shop", "/a").status, 200);
    let other = model("    routes: [{route: /b, to: users}]", "").gateways[0].routes.clone();
    next.gateways = vec![Gateway { routes: other, ..Gateway::new(stays) }, at(comes)];
    models.blocking_send(Arc::new(next)).unwrap();
    until("the new listener is served", || std::net::TcpStream::connect(comes).is_ok());
    assert_eq!(get(comes, "shop", "/a").status, 200);
    // The same connection, by the new routes.
    assert_eq!(client.get("shop", "/b").status, 200);
    assert_eq!(client.get("shop", "/a").status, 404);
    until("the old listener is gone", || std::net::TcpStream::connect(goes).is_err());
    assert_eq!(leaving.get("shop", "/a").status, 404);
    sidecar.end();
}

#[test]
fn an_upstream_of_a_gateway_is_followed() {
    let model = model("    routes: [{route: /a, to: users, split: {users: 1, more: 1}}]", "");
    for name in ["users", "more"] {
        assert!(model.upstreams.contains_key(&UpstreamName::new(name)), "{name}");
    }
}

#[test]
fn a_gateway_needs_no_service() {
    let _turn = beside_others();
    let users = Recorder::start();
    let at = free();
    let gateway = format!("gateway:\n  - listen: {at}\n    routes:\n      - {{route: /a, to: users}}\n");
    let process = process("edge").upstream("users", &[users.address()]).with(&gateway).start();
    assert_eq!(get(at, "shop", "/a").status, 200);
    assert_eq!(get(at, "shop", "/b").status, 404);
    process.edit("route: /a", "route: /b");
    until("the new route is served", || get(at, "shop", "/b").status == 200);
    drop(process);
}
