//! The harness is worth what its own parts see: these tests look at them
//! without a sidecar between.

use std::net::TcpStream;

use bytes::Bytes;
use http::{HeaderMap, Request};

use crate::support::frames::{self, Outcome, RawH2};
use crate::support::h2peer::{Answer, H2Backend, H2Client};
use crate::support::scripts::{Expect, Misbehaving, Play, SCRIPTS, Script};
use crate::support::wire::{Bad, Framing};
use crate::support::{Client, Recorder, call};

#[test]
fn the_recorder_takes_what_is_strict_and_tells_of_the_rest() {
    let backend = Recorder::start();
    let answer = call(
        backend.address(),
        "POST /a HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n",
    );
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    let seen = backend.only();
    assert_eq!((seen.body.as_slice(), seen.framing), (b"abc".as_slice(), Framing::Chunked));
    assert_eq!(seen.trailers, [("x-sum".to_owned(), b"1".to_vec())]);
    for bad in [
        "GET / HTTP/1.0\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: b\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\nHost: b\n\n",
        "GET http://b/ HTTP/1.1\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: b\r\nKeep-Alive: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: b\r\nConnection: x-a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        "POST / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\na\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 1\r\n\r\n",
    ] {
        Client::connect(backend.address()).send(bad).rest();
        let seen = backend.wait(1);
        assert!(matches!(seen[0].bad, Some(Bad::Rule(_))), "{bad:?} was taken: {seen:?}");
    }
    Client::connect(backend.address())
        .send("POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 9\r\n\r\nfive!")
        .close_sending()
        .rest();
    assert!(matches!(backend.wait(1)[0].bad, Some(Bad::Cut(_))));
}

#[test]
fn a_second_request_that_was_smuggled_is_recorded() {
    let backend = Recorder::start();
    let one = "GET /one HTTP/1.1\r\nHost: b\r\n\r\n";
    Client::connect(backend.address()).send(one.repeat(2)).close_sending().rest();
    assert_eq!(backend.wait(2).len(), 2);
    assert_eq!(backend.connections(), 1);
}

#[test]
fn every_script_can_be_told_from_good_behaviour() {
    assert!(SCRIPTS.len() >= 50, "{}", SCRIPTS.len());
    let silent = |script: &&Script| matches!(script.play, Play::SayAndWait(_) | Play::Do(_));
    for script in SCRIPTS.iter().filter(|script| !silent(script)) {
        let backend = Misbehaving::start(script);
        // A reset at once may be there before the connection is.
        let seen =
            TcpStream::connect(backend.address()).map_err(|error| error.to_string()).and_then(|stream| {
                let mut client = Client::over(stream);
                let _ = client.try_send("GET /bad HTTP/1.1\r\nHost: b\r\n\r\n");
                client.try_read("GET").map_err(|bad| format!("{bad:?}"))
            });
        match script.expect {
            Expect::Served(status, body) => {
                let seen = seen.unwrap_or_else(|bad| panic!("{}: {bad}", script.name));
                assert_eq!((seen.status, seen.text().as_str()), (status, body), "{}", script.name);
            }
            // Only a server's own reader knows that HTTP/1.0 has no chunks.
            _ if script.name == "chunked in HTTP/1.0" => {}
            _ => assert!(seen.is_err(), "{}: {seen:?}", script.name),
        }
        assert!(!backend.is_armed());
        assert_eq!(Client::connect(backend.address()).get("b", "/good").text(), "/good");
    }
}

#[test]
fn http2_goes_through_both_peers() {
    let backend = H2Backend::answering(|seen| Answer {
        interim: vec![http::Response::builder().status(103).body(()).unwrap()],
        body: vec![Bytes::from(seen.body.clone())],
        trailers: seen.trailers.clone(),
        ..Answer::default()
    });
    let client = H2Client::connect(backend.address());
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    let body = vec![Bytes::from(vec![b'a'; 300_000]), Bytes::from_static(b"b")];
    let got = client.call(Request::post("http://b/x").body(()).unwrap(), body, Some(trailers));
    assert_eq!((got.status(), got.body.len(), got.trailer("x-sum")), (200, 300_001, Some("7")));
    assert_eq!(got.interim[0].status(), 103);
    let seen = backend.only();
    assert_eq!(seen.head.uri, "http://b/x");
}

#[test]
fn hand_made_frames_are_understood() {
    let backend = H2Backend::start();
    let mut raw = RawH2::connect(backend.address());
    raw.send(&frames::get(1, "b")).unwrap();
    assert_eq!(raw.outcome(1), Outcome::Answer(200));
    let long = "v".repeat(1000);
    let mut fields = vec![(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "b")];
    fields.push(("x-long", &long));
    let flags = frames::END_HEADERS | frames::END_STREAM;
    raw.send(&frames::frame(frames::kind::HEADERS, flags, 3, &frames::block(&fields))).unwrap();
    assert_eq!(raw.outcome(3), Outcome::Answer(200));
    raw.send(&frames::frame(frames::kind::DATA, 0, 0, b"x")).unwrap();
    assert_eq!(raw.ended(), (true, Some(1)), "DATA on stream 0 is an error of the protocol");
}
