//! What counts as a failure of gRPC.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use pillion::config::model::Fitness;

use super::faulty::{before, quick, states};
use crate::support::h2peer::{Answer, H2Backend, H2Client};
use crate::support::{beside_others, until};

/// A server that answers every call with this status and no message.
fn answering(code: &'static str) -> H2Backend {
    H2Backend::answering(move |_| {
        let head = Response::builder().header("content-type", "application/grpc").header("grpc-status", code);
        Answer { head: head.body(()).unwrap(), ..Answer::default() }
    })
}

fn call(outbound: SocketAddr) -> Option<String> {
    let request = Request::post("http://users/pay.v1.Pay/Charge").header("content-type", "application/grpc");
    let message = Bytes::from_static(&[0, 0, 0, 0, 0]);
    let got = H2Client::connect(outbound).call(request.body(()).unwrap(), vec![message], None);
    got.field("grpc-status").map(str::to_owned)
}

fn is_ejected(admin: SocketAddr, address: SocketAddr) -> bool {
    states(admin).iter().any(|(at, state, _)| *at == address && state == "ejected")
}

#[test]
fn unavailable_ejects_and_an_answer_of_the_service_does_not() {
    let _turn = beside_others();
    let fitness = || Fitness { ejection: Some(quick()), ..Fitness::default() };
    let (well, bad) = (answering("0"), answering("14"));
    let sidecar = before(&[], fitness()).upstream("users", well.address()).upstream("users", bad.address());
    let sidecar = sidecar.start();
    until("the one that is unavailable is ejected", || {
        call(sidecar.at.outbound);
        is_ejected(sidecar.at.admin, bad.address())
    });
    assert_eq!(sidecar.metrics().get("pillion_ejections_total", &[("cause", "gateway_errors")]), 1.0);
    for code in ["5", "7", "8"] {
        let servers = [answering("0"), answering(code)];
        let mut setup = before(&[], fitness());
        for server in &servers {
            setup = setup.upstream("users", server.address());
        }
        let sidecar = setup.start();
        let seen: Vec<_> = (0..20).filter_map(|_| call(sidecar.at.outbound)).collect();
        assert_eq!(seen.iter().filter(|seen| *seen == code).count(), 10, "its share of {code}: {seen:?}");
        assert!(!is_ejected(sidecar.at.admin, servers[1].address()), "{code}");
    }
}
