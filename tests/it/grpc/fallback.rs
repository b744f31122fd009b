//! Services that speak only HTTP/1, asked by callers that speak HTTP/2.

use std::io::Write;

use http::Request;

use super::{call, message};
use crate::support::h2peer::H2Client;
use crate::support::wire::Wire;
use crate::support::{Server, beside_others, request, sidecar};

/// A service of HTTP/1. What it says to the preface of HTTP/2 is `refusal`.
fn http1_only(refusal: &'static [u8]) -> Server {
    Server::start(move |number, mut stream| {
        let mut wire = Wire::new(stream.try_clone().unwrap());
        loop {
            if wire.unread().is_empty() && !wire.fill().is_ok_and(|more| more) {
                return;
            }
            if wire.unread().starts_with(b"PRI") {
                // Nobody may be listening any more.
                let _ = stream.write_all(refusal);
                return;
            }
            let Some(request) = request::read(&mut wire, number) else { return };
            assert_eq!(request.bad, None, "{request:?}");
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
    })
}

const REFUSALS: [&[u8]; 3] = [
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.0 505 HTTP Version Not Supported\r\n\r\n",
    b"",
];

#[test]
fn a_service_of_http1_serves_callers_of_http2_by_itself() {
    let _turn = beside_others();
    for refusal in REFUSALS {
        let server = http1_only(refusal);
        let sidecar = sidecar("front").upstream("users", server.address()).service(server.address()).start();
        for address in [sidecar.at.outbound, sidecar.at.inbound] {
            let client = H2Client::connect(address);
            for _ in 0..20 {
                assert_eq!(client.get("http://users/").body, b"ok");
                let post = Request::post("http://users/").body(()).unwrap();
                assert_eq!(client.call(post, vec!["hello".into()], None).body, b"ok");
            }
        }
        // One that was refused for each of two upstreams, and those that served.
        assert!(server.accepted() <= 6, "{} connections", server.accepted());
    }
}

#[test]
fn a_call_of_grpc_to_a_service_of_http1_is_told_what_to_do() {
    let _turn = beside_others();
    let server = http1_only(REFUSALS[0]);
    let sidecar = sidecar("front").upstream("users", server.address()).start();
    let client = H2Client::connect(sidecar.at.outbound);
    let got = client.call(call(), vec![message(b"x")], None);
    assert_eq!((got.field("grpc-status"), got.field("pillion-error")), (Some("14"), Some("no_http2")));
    assert!(got.field("grpc-message").unwrap().contains("HTTP/2 was not spoken"), "{got:?}");
}

#[test]
fn a_service_that_never_says_what_it_speaks_is_left() {
    let _turn = beside_others();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let left = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(15))).unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).is_ok()
    });
    let sidecar = sidecar("front")
        .upstream("users", address)
        .with(|model| model.defaults.connect_timeout = std::time::Duration::from_millis(300))
        .start();
    let client = H2Client::connect(sidecar.at.outbound);
    let got = client.call(call(), vec![message(b"x")], None);
    assert_eq!((got.field("grpc-status"), got.field("pillion-error")), (Some("14"), Some("connect_timeout")));
    assert!(left.join().unwrap(), "its connection was not closed");
}
