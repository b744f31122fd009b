//! Answers that break off after their head: what the caller reads.

use std::future::poll_fn;
use std::io::Read;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use pillion::config::model::{RoutePolicy, Timeout};

use super::peer::{Peer, Rules};
use super::{call, message};
use crate::support::h2peer::{Got, H2Client};
use crate::support::{Client, Sidecar, beside_others, sidecar};

const LATE: Timeout = Timeout::Whole(Duration::from_millis(300));

/// Says this and no more; with `ends` the connection ends then. Tells the code of each reset.
fn says(bytes: Bytes, ends: bool) -> (Peer, std::sync::mpsc::Receiver<Option<h2::Reason>>) {
    let (tell, told) = std::sync::mpsc::channel();
    let peer = Peer::start(Rules { ends, ..Rules::default() }, move || {
        move |_, mut respond: h2::server::SendResponse<Bytes>| {
            let (tell, bytes) = (tell.clone(), bytes.clone());
            Box::pin(async move {
                let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                let mut stream = respond.send_response(head, false).unwrap();
                stream.send_data(bytes, false).unwrap();
                let ended = poll_fn(|cx| stream.poll_reset(cx)).await;
                // The test may be over.
                let _ = tell.send(ended.ok());
            })
        }
    });
    (peer, told)
}

fn front(peer: &Peer, timeout: Timeout, idle: Duration) -> Sidecar {
    sidecar("front")
        .upstream("users", peer.address)
        .service(peer.address)
        .with(|model| {
            for policy in [&mut model.defaults, &mut model.inbound_defaults] {
                (policy.timeout, policy.idle_timeout, policy.grpc_web) = (timeout, idle, true);
            }
        })
        .start()
}

#[track_caller]
fn ended_with(got: &Got, code: &str, word: &str) {
    assert_eq!((got.status(), got.trailer("grpc-status")), (200, Some(code)), "{got:?}");
    assert!(got.trailer("grpc-message").unwrap().starts_with(word), "{got:?}");
    assert!(got.trailer("grpc-status-details-bin").is_some(), "{got:?}");
}

#[test]
fn a_call_that_is_late_within_its_answer_ends_with_a_status() {
    let _turn = beside_others();
    // Between two messages, and within one.
    for said in [message(b"first"), message(b"first").slice(..7)] {
        let (peer, told) = says(said.clone(), false);
        let sidecar = front(&peer, LATE, Duration::from_secs(60));
        for address in [sidecar.at.outbound, sidecar.at.inbound] {
            let client = H2Client::connect(address);
            let got = client.call(call(), vec![message(b"x")], None);
            assert_eq!(got.body, said);
            ended_with(&got, "4", "timeout: ");
            assert_eq!(told.recv_timeout(Duration::from_secs(15)).unwrap(), Some(h2::Reason::CANCEL));
        }
        sidecar.metric_is("pillion_active_requests", &[], 0.0);
        let count = sidecar.metrics().get("pillion_errors_total", &[("reason", "timeout")]);
        assert_eq!(count, 2.0);
    }
}

#[test]
fn a_silent_service_and_one_that_goes_end_with_a_status_of_their_own() {
    let _turn = beside_others();
    let (peer, _told) = says(message(b"first"), false);
    let sidecar = front(&peer, Timeout::Head(Duration::from_secs(60)), Duration::from_millis(300));
    let client = H2Client::connect(sidecar.at.outbound);
    ended_with(&client.call(call(), vec![message(b"x")], None), "14", "stream_idle: ");
    let (peer, _told) = says(message(b"first"), true);
    let sidecar = front(&peer, LATE, Duration::from_secs(60));
    let client = H2Client::connect(sidecar.at.outbound);
    ended_with(&client.call(call(), vec![message(b"x")], None), "14", "reset_after_headers: ");
}

/// All that comes on a connection of HTTP/1.
fn web1(sidecar: &Sidecar, kind: &str) -> Vec<u8> {
    let mut client = Client::connect(sidecar.at.inbound);
    client.send(format!(
        "POST /pay.v1.Pay/Charge HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: 8\r\n\r\nAAAAAAA="
    ));
    let mut bytes = Vec::new();
    // A connection that is cut may be reset.
    let _ = client.stream().read_to_end(&mut bytes);
    bytes
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn a_late_answer_of_grpc_web_ends_with_trailers_where_they_can_stand() {
    let _turn = beside_others();
    let (peer, _told) = says(message(b"first"), false);
    let sidecar = front(&peer, LATE, Duration::from_secs(60));
    let web = |kind: &str| {
        let request = Request::post("http://a/pay.v1.Pay/Charge").header("content-type", kind.to_owned());
        let client = H2Client::connect(sidecar.at.inbound);
        client.call(request.body(()).unwrap(), vec!["AAAAAAA=".into()], None).body
    };
    let first = message(b"first");
    let body = web("application/grpc-web");
    assert_eq!((&body[..first.len()], body[first.len()]), (&first[..], 0x80));
    assert!(holds(&body, b"grpc-status: 4\r\n") && holds(&body, b"grpc-message: timeout: "), "{body:?}");
    let text = web("application/grpc-web-text");
    let body: Vec<u8> = text.chunks(4).flat_map(|quantum| STANDARD.decode(quantum).unwrap()).collect();
    assert_eq!((&body[..first.len()], body[first.len()]), (&first[..], 0x80));
    assert!(holds(&body, b"grpc-status: 4\r\n"), "{body:?}");
    let whole = web1(&sidecar, "application/grpc-web");
    assert!(holds(&whole, b"grpc-status: 4\r\n") && whole.ends_with(b"\r\n0\r\n\r\n"), "{whole:?}");
    // Within a message nothing can be said.
    let (peer, _told) = says(message(b"first").slice(..7), false);
    let sidecar = front(&peer, LATE, Duration::from_secs(60));
    let cut = web1(&sidecar, "application/grpc-web");
    assert!(!holds(&cut, b"grpc-status") && !cut.ends_with(b"0\r\n\r\n"), "{cut:?}");
}

#[test]
fn the_time_that_a_caller_with_json_gives_bounds_the_whole_call() {
    let _turn = beside_others();
    let (peer, told) = says(message(b"first").slice(..7), false);
    let mut policy = RoutePolicy { json: Some(crate::transcode::shop("")), ..RoutePolicy::default() };
    policy.timeout = Timeout::Whole(Duration::from_secs(60));
    let sidecar =
        sidecar("front").service(peer.address).with(|model| model.inbound_defaults = policy).start();
    let request = "GET /v1/users/7 HTTP/1.1\r\nHost: a\r\nGrpc-Timeout: 300m\r\n\r\n";
    let answer = crate::support::call(sidecar.at.inbound, request);
    assert_eq!((answer.status, answer.reason().as_deref()), (504, Some("timeout")), "{}", answer.text());
    assert_eq!(told.recv_timeout(Duration::from_secs(15)).unwrap(), Some(h2::Reason::CANCEL));
}
