//! One call: what is passed untouched, large messages, and its end from either
//! side.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};

use super::peer::{Peer, Rules};
use super::{call, message, post};
use crate::support::h2peer::{Answer, H2Backend, H2Client};
use crate::support::{alone, beside_others, resident, sidecar, until};

#[test]
fn metadata_compression_and_trailers_pass_as_they_are() {
    let _turn = beside_others();
    let compressed = Bytes::from_static(b"\x01\x00\x00\x00\x03\x1f\x8b\x00");
    let backend = H2Backend::answering(|seen| Answer {
        head: Response::builder()
            .header("content-type", "application/grpc+proto")
            .header("grpc-encoding", "gzip")
            .header("x-sums-bin", "AAEC/w,AQ")
            .body(())
            .unwrap(),
        body: vec![Bytes::from(seen.body.clone())],
        trailers: Some(HeaderMap::from_iter([
            ("grpc-status".parse().unwrap(), "7".parse().unwrap()),
            ("grpc-message".parse().unwrap(), "no%20%E2%98%BA".parse().unwrap()),
            ("grpc-status-details-bin".parse().unwrap(), "CAcSAm5v".parse().unwrap()),
        ])),
        ..Answer::default()
    });
    let sidecar = sidecar("front").upstream("users", backend.address()).service(backend.address()).start();
    for address in [sidecar.at.outbound, sidecar.at.inbound] {
        let client = H2Client::connect(address);
        let fields = [
            ("content-type", "application/grpc+proto"),
            ("te", "trailers"),
            ("grpc-encoding", "gzip"),
            ("grpc-accept-encoding", "identity,gzip"),
            ("grpc-timeout", "10S"),
            ("x-key-bin", "AAEC/w,AQ"),
            ("user-agent", "grpc-go/1.85.0"),
        ];
        let mut head = Request::post("http://users/pay.v1.Pay/Charge");
        for (name, value) in fields {
            head = head.header(name, value);
        }
        let got = client.call(head.body(()).unwrap(), vec![compressed.clone()], None);
        assert_eq!(got.body, compressed);
        assert_eq!(got.field("grpc-encoding"), Some("gzip"));
        assert_eq!(got.field("x-sums-bin"), Some("AAEC/w,AQ"));
        assert_eq!(got.trailer("grpc-status"), Some("7"));
        assert_eq!(got.trailer("grpc-message"), Some("no%20%E2%98%BA"));
        assert_eq!(got.trailer("grpc-status-details-bin"), Some("CAcSAm5v"));
        let seen = backend.only();
        for (name, value) in fields.into_iter().filter(|(name, _)| *name != "grpc-timeout") {
            assert_eq!(seen.head.headers[name], value);
        }
        // What is left of it.
        assert!(seen.head.headers["grpc-timeout"].to_str().unwrap().starts_with("99"));
        assert_eq!(seen.body, compressed);
    }
}

#[test]
fn an_answer_of_trailers_only_stays_one() {
    let _turn = beside_others();
    let backend = H2Backend::answering(|_| {
        let head = Response::builder().header("content-type", "application/grpc").header("grpc-status", "5");
        Answer { head: head.body(()).unwrap(), ..Answer::default() }
    });
    let sidecar = sidecar("front").upstream("users", backend.address()).start();
    let client = H2Client::connect(sidecar.at.outbound);
    client.block_on(async {
        let mut sender = client.sender.clone().ready().await.unwrap();
        let (answer, mut stream) = sender.send_request(call(), false).unwrap();
        stream.send_data(message(b"x"), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "5");
        assert!(answer.body().is_end_stream(), "nothing follows its head");
    });
}

/// Sends what comes back, piece by piece.
fn echo(rules: Rules) -> Peer {
    Peer::start(rules, || {
        |request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>| {
            Box::pin(async move {
                let mut body = request.into_body();
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                while let Some(Ok(mut bytes)) = body.data().await {
                    body.flow_control().release_capacity(bytes.len()).unwrap();
                    while !bytes.is_empty() {
                        stream.reserve_capacity(bytes.len());
                        let Some(Ok(room)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
                        let part = bytes.split_to(room.min(bytes.len()));
                        stream.send_data(part, false).unwrap();
                    }
                }
                let _ = stream.send_data(Bytes::new(), true);
            })
        }
    })
}

#[test]
fn a_large_message_goes_both_ways_through_small_windows_in_little_memory() {
    let _turn = alone();
    const SIZE: usize = 64 << 20;
    const PIECE: usize = 16 << 10;
    let peer = echo(Rules { window: Some(65_535), ..Rules::default() });
    let sidecar = sidecar("front").upstream("users", peer.address).start();
    let client = H2Client::connect(sidecar.at.outbound);
    let before = resident();
    let (got, most) = client.block_on(async {
        let mut sender = client.sender.clone().ready().await.unwrap();
        let (answer, mut stream) = sender.send_request(call(), false).unwrap();
        let piece = Bytes::from(vec![b'x'; PIECE]);
        let sending = tokio::spawn(async move {
            for _ in 0..SIZE / PIECE {
                let mut piece = piece.clone();
                while !piece.is_empty() {
                    stream.reserve_capacity(piece.len());
                    let room = poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
                    stream.send_data(piece.split_to(room.min(piece.len())), false).unwrap();
                }
            }
            stream.send_data(Bytes::new(), true).unwrap();
        });
        let mut body = answer.await.unwrap().into_body();
        let (mut got, mut most, mut looked) = (0, 0, 0);
        while let Some(bytes) = body.data().await {
            let bytes = bytes.unwrap();
            assert!(bytes.iter().all(|byte| *byte == b'x'));
            got += bytes.len();
            body.flow_control().release_capacity(bytes.len()).unwrap();
            if got - looked > 1 << 20 {
                (looked, most) = (got, most.max(resident()));
            }
        }
        sending.await.unwrap();
        (got, most)
    });
    assert_eq!(got, SIZE);
    let grown = most.saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes for a message of {SIZE}");
}

/// Notes how each call ended: the code of its reset, or none.
fn noting(answer: bool) -> (Peer, Arc<Mutex<Vec<Option<h2::Reason>>>>) {
    let notes: Arc<Mutex<Vec<_>>> = Arc::default();
    let note = notes.clone();
    let peer = Peer::start(Rules::default(), move || {
        let note = Rc::new(note);
        move |_: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>| {
            let note = note.clone();
            Box::pin(async move {
                let ended = if answer {
                    let mut stream = respond.send_response(Response::new(()), false).unwrap();
                    stream.send_data(message(b"first"), false).unwrap();
                    poll_fn(|cx| stream.poll_reset(cx)).await
                } else {
                    poll_fn(|cx| respond.poll_reset(cx)).await
                };
                note.lock().unwrap().push(ended.ok());
            })
        }
    });
    (peer, notes)
}

#[test]
fn a_caller_that_cancels_is_heard_by_the_service_at_once() {
    let _turn = beside_others();
    for answered in [false, true] {
        for ends in [false, true] {
            let (peer, notes) = noting(answered);
            let sidecar = sidecar("front").upstream("users", peer.address).start();
            let client = H2Client::connect(sidecar.at.outbound);
            client.block_on(async {
                let mut sender = client.sender.clone().ready().await.unwrap();
                let (answer, mut stream) = sender.send_request(call(), false).unwrap();
                stream.send_data(message(b"x"), ends).unwrap();
                let mut body = None;
                if answered {
                    let mut receive = answer.await.unwrap().into_body();
                    assert_eq!(receive.data().await.unwrap().unwrap(), message(b"first"));
                    body = Some(receive);
                } else {
                    while peer.connections() == 0 {
                        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                    }
                }
                stream.send_reset(h2::Reason::CANCEL);
                drop(body);
            });
            until("the service hears it", || !notes.lock().unwrap().is_empty());
            let heard = notes.lock().unwrap()[0];
            assert_eq!(heard, Some(h2::Reason::CANCEL), "answered {answered}, whole {ends}");
            sidecar.metric_is("pillion_active_requests", &[], 0.0);
        }
    }
}

#[test]
fn a_reset_of_the_service_reaches_the_caller_with_its_code() {
    let _turn = beside_others();
    let codes = [h2::Reason::CANCEL, h2::Reason::ENHANCE_YOUR_CALM, h2::Reason::INTERNAL_ERROR];
    for (code, status) in codes.into_iter().zip(["1", "8", "13"]) {
        let backend = H2Backend::answering(move |seen| {
            // More than a window, so that the head has arrived before the reset.
            let body = match seen.head.uri.path() {
                "/s/before" => Vec::new(),
                _ => vec![Bytes::from(vec![b'a'; 256 * 1024])],
            };
            Answer { reset: Some(code), body, ..Answer::default() }
        });
        let sidecar = sidecar("front").upstream("users", backend.address()).start();
        let client = H2Client::connect(sidecar.at.outbound);
        let got = client.call(post("http://users/s/before"), vec![message(b"x")], None);
        assert_eq!((got.field("grpc-status"), got.status()), (Some(status), 200), "{code:?}");
        assert_eq!(got.field("pillion-error"), Some("reset_before_headers"));
        let ended = client.try_call(post("http://users/s/within"), vec![message(b"x")], None);
        assert_eq!(ended.unwrap_err().reason(), Some(code));
    }
}
