//! `grpc-timeout` and the route's `timeout`: the smaller bounds the call.

use std::time::{Duration, Instant};

use http::Request;
use pillion::config::model::Timeout;

use super::peer::{Peer, Rules};
use super::{call, message};
use crate::support::h2peer::{Got, H2Backend, H2Client};
use crate::support::{Sidecar, beside_others, sidecar, until};

const LONG: Duration = Duration::from_secs(15);

/// Never answers; tells the code of each reset.
fn silent() -> (Peer, std::sync::mpsc::Receiver<Option<h2::Reason>>) {
    let (tell, told) = std::sync::mpsc::channel();
    let peer = Peer::start(Rules::default(), move || {
        move |_, mut respond: h2::server::SendResponse<bytes::Bytes>| {
            let tell = tell.clone();
            Box::pin(async move {
                let ended = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                // The test may be over.
                let _ = tell.send(ended.ok());
            })
        }
    });
    (peer, told)
}

fn within(peer: &Peer, timeout: Timeout) -> Sidecar {
    sidecar("front")
        .upstream("users", peer.address)
        .service(peer.address)
        .with(|model| (model.defaults.timeout, model.inbound_defaults.timeout) = (timeout, timeout))
        .start()
}

fn timed(timeout: &str) -> Request<()> {
    let mut head = call();
    head.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
    head
}

#[track_caller]
fn exceeded(got: &Got) {
    assert_eq!((got.status(), got.field("grpc-status")), (200, Some("4")), "{got:?}");
    assert_eq!(got.field("pillion-error"), Some("timeout"));
}

#[test]
fn the_time_that_the_caller_gives_ends_the_call_on_both_sides() {
    let _turn = beside_others();
    let (peer, told) = silent();
    let sidecar = within(&peer, Timeout::Head(LONG * 2));
    for address in [sidecar.at.outbound, sidecar.at.inbound] {
        let client = H2Client::connect(address);
        let began = Instant::now();
        let got = client.call(timed("200m"), vec![message(b"x")], None);
        assert!((Duration::from_millis(200)..LONG).contains(&began.elapsed()), "{:?}", began.elapsed());
        exceeded(&got);
        assert!(got.field("grpc-message").unwrap().contains("grpc-timeout"), "{got:?}");
        assert_eq!(told.recv_timeout(LONG).unwrap(), Some(h2::Reason::CANCEL));
    }
}

#[test]
fn the_smaller_of_both_times_holds() {
    let _turn = beside_others();
    let (peer, _told) = silent();
    for (policy, callers) in [(Duration::from_millis(200), "60S"), (Duration::from_secs(60), "200m")] {
        let sidecar = within(&peer, Timeout::Whole(policy));
        let client = H2Client::connect(sidecar.at.outbound);
        let began = Instant::now();
        exceeded(&client.call(timed(callers), vec![message(b"x")], None));
        assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
    }
}

#[test]
fn the_service_hears_the_smaller_time_and_a_malformed_one_as_it_is() {
    let _turn = beside_others();
    let backend = H2Backend::start();
    let sidecar = sidecar("front")
        .upstream("users", backend.address())
        .with(|model| model.defaults.timeout = Timeout::Whole(Duration::from_secs(2)))
        .start();
    let client = H2Client::connect(sidecar.at.outbound);
    for (sent, least) in [("1S", 1_000_000), ("3S", 2_000_000), ("123456789S", 2_000_000)] {
        client.call(timed(sent), vec![message(b"x")], None);
        let head = backend.only().head;
        let heard = head.headers["grpc-timeout"].to_str().unwrap();
        let micros: u32 = heard.strip_suffix('u').expect(heard).parse().unwrap();
        assert!((least - 900_000..=least).contains(&micros), "{sent}: {heard}");
    }
    drop(sidecar);
    let sidecar = crate::support::sidecar("front").upstream("users", backend.address()).start();
    let client = H2Client::connect(sidecar.at.outbound);
    client.call(timed("soon"), vec![message(b"x")], None);
    assert_eq!(backend.only().head.headers["grpc-timeout"], "soon");
    until("nothing is left", || sidecar.metrics().get("pillion_active_requests", &[]) == 0.0);
}
