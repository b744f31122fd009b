//! What a service may call: `egress`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use pillion::base::{Protocol, UpstreamName};
use pillion::config::Model;
use pillion::config::model::{Egress, RoutePolicy, Upstream};

use crate::support::{Client, Recorder, beside_others, get, sidecar};

/// A policy that names one upstream.
fn named(name: &str) -> BTreeMap<UpstreamName, Upstream> {
    let block = Upstream {
        protocol: Protocol::Auto,
        listen: None,
        policy: RoutePolicy::default(),
        ..Upstream::default()
    };
    [(UpstreamName::new(name), block)].into()
}

fn registered_only(model: &mut Model) {
    model.egress = Egress::RegisteredOnly;
}

#[test]
fn a_registered_name_is_called_and_an_address_is_not() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let front = sidecar("front").upstream("users", backend.address()).with(registered_only).start();
    assert_eq!(get(front.at.outbound, "users", "/").status, 200);
    let literal = backend.address().to_string();
    let answer = get(front.at.outbound, &literal, "/");
    assert_eq!((answer.status, answer.reason().as_deref()), (403, Some("egress_denied")));
    let line = format!("- to: \\\"{literal}\\\"");
    assert!(answer.text().contains(&line), "it tells the line that allows it: {}", answer.text());
    front.metric_is("pillion_errors_total", &[("reason", "egress_denied")], 1.0);
}

#[test]
fn a_policy_that_names_an_address_lets_it_be_called() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let literal = backend.address().to_string();
    let front = sidecar("front")
        .with(|model| model.upstreams = named(&literal))
        .empty("others")
        .with(registered_only)
        .start();
    assert_eq!(get(front.at.outbound, &literal, "/").status, 200);
}

#[test]
fn a_tunnel_to_what_is_not_registered_is_refused() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let connect = |address: SocketAddr| {
        let literal = backend.address();
        let mut client = Client::connect(address);
        client.send(format!("CONNECT {literal} HTTP/1.1\r\nHost: {literal}\r\n\r\n")).read("CONNECT")
    };
    let open = sidecar("front").empty("others").start();
    assert_eq!(connect(open.at.outbound).status, 200, "nothing is said of `egress`");
    let closed = sidecar("front").empty("others").with(registered_only).start();
    assert_eq!(connect(closed.at.outbound).reason().as_deref(), Some("egress_denied"));
}
