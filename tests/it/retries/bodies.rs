//! Bodies that are sent again.

use std::io::Write as _;
use std::sync::mpsc;

use bytes::Bytes;

use super::{answer, eager};
use crate::policy::routed;
use crate::support::h2peer::{H2Backend, H2Client};
use crate::support::server::reset_on_close;
use crate::support::wire::Wire;
use crate::support::{Client, Recorder, Server, beside_others, call, request};

/// Answers 503 to the first `failures` of each `failures` + 1 requests.
fn failing(failures: usize) -> Recorder {
    let count = std::sync::atomic::AtomicUsize::new(0);
    Recorder::answering(move |_| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        answer(if number % (failures + 1) == failures { 200 } else { 503 }, "")
    })
}

#[test]
fn every_attempt_has_the_same_body_however_it_is_cut() {
    let _turn = beside_others();
    // Every other call fails once.
    let count = std::sync::atomic::AtomicUsize::new(0);
    let backend = Recorder::answering(move |_| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        answer(if number.is_multiple_of(3) { 503 } else { 200 }, "")
    });
    let sidecar = routed(backend.address(), |policy| policy.retry = Some(eager(2))).start();
    let mut random = fastrand::Rng::with_seed(7);
    for number in 0..120 {
        // A call earns its retry a moment later.
        std::thread::sleep(std::time::Duration::from_millis(10));
        let length = random.usize(0..60_000);
        let body: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
        let mut raw = b"PUT / HTTP/1.1\r\nHost: users\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let mut rest = &body[..];
        while !rest.is_empty() {
            let (part, left) = rest.split_at(random.usize(1..=rest.len().min(9_000)));
            raw.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
            raw.extend_from_slice(part);
            raw.extend_from_slice(b"\r\n");
            rest = left;
        }
        raw.extend_from_slice(b"0\r\nx-sum: 7\r\n\r\n");
        let answer = call(sidecar.at.outbound, raw);
        let attempts = 2 - number % 2;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("pillion-attempts"), (attempts > 1).then(|| attempts.to_string()));
        let seen = backend.take();
        assert_eq!(seen.len(), attempts);
        for request in seen {
            assert!(request.bad.is_none() && request.body == body, "{length} bytes: {:?}", request.bad);
            assert_eq!(request.trailers, [("x-sum".to_owned(), b"7".to_vec())], "{length} bytes");
        }
    }
}

#[test]
fn a_body_of_known_length_keeps_it() {
    let _turn = beside_others();
    let backend = failing(2);
    let sidecar = routed(backend.address(), |policy| policy.retry = Some(eager(2))).start();
    let body = "b".repeat(50_000);
    let raw = format!("PUT / HTTP/1.1\r\nHost: users\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(call(sidecar.at.outbound, raw).status, 200);
    for request in backend.take() {
        assert_eq!(request.field("content-length").as_deref(), Some("50000"));
        assert_eq!(request.body, body.as_bytes());
    }
}

#[test]
fn what_is_longer_than_the_buffer_is_sent_once_and_counted() {
    let _turn = beside_others();
    let backend = failing(2);
    let sidecar = routed(backend.address(), |policy| policy.retry = Some(eager(2))).start();
    let body = "b".repeat(70_000);
    let raw = format!("PUT / HTTP/1.1\r\nHost: users\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(call(sidecar.at.outbound, raw).status, 503);
    let seen = backend.take();
    assert!(seen.len() == 1 && seen[0].body == body.as_bytes());
    sidecar.metric_is("pillion_retries_skipped_total", &[("why", "body")], 1.0);
}

#[test]
fn a_body_that_still_streams_goes_on_into_the_next_attempt() {
    let _turn = beside_others();
    let (failed, told) = mpsc::channel();
    let failed = std::sync::Mutex::new(failed);
    let backend = Server::start(move |number, mut stream| {
        let mut wire = Wire::new(stream.try_clone().unwrap());
        if number == 0 {
            // The head and the first part, and then it fails.
            while !wire.unread().ends_with(b"first ") {
                assert!(wire.fill().unwrap());
            }
            reset_on_close(&stream);
            drop((wire, stream));
            return failed.lock().unwrap().send(()).unwrap();
        }
        let request = request::read(&mut wire, number).unwrap();
        assert_eq!((request.bad, request.body.as_slice()), (None, &b"first second"[..]));
        stream.write_all(&answer(200, "")).unwrap();
    });
    let sidecar = routed(backend.address(), |policy| policy.retry = Some(eager(2))).start();
    let mut client = Client::connect(sidecar.at.outbound);
    client.send("PUT / HTTP/1.1\r\nHost: users\r\nContent-Length: 12\r\n\r\nfirst ");
    told.recv().unwrap();
    assert_eq!(client.send("second").read("PUT").status, 200);
}

#[test]
fn bodies_of_http2_are_sent_again_with_their_trailers() {
    let _turn = beside_others();
    let count = std::sync::atomic::AtomicUsize::new(0);
    let backend = H2Backend::answering(move |_| {
        let mut answer = crate::support::h2peer::Answer::text("ok");
        if count.fetch_add(1, std::sync::atomic::Ordering::SeqCst).is_multiple_of(2) {
            *answer.head.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        }
        answer
    });
    let sidecar = routed(backend.address(), |policy| policy.retry = Some(eager(2))).start();
    let client = H2Client::connect(sidecar.at.outbound);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", 7.into());
    let head = http::Request::put("http://users/").body(()).unwrap();
    let parts = vec![Bytes::from_static(b"one "), Bytes::from_static(b"two")];
    let got = client.call(head, parts, Some(trailers.clone()));
    assert_eq!((got.status(), got.field("pillion-attempts")), (200, Some("2")));
    let seen = backend.take();
    assert_eq!(seen.len(), 2);
    for request in seen {
        assert_eq!((request.body.as_slice(), request.trailers.as_ref()), (&b"one two"[..], Some(&trailers)));
    }
}
