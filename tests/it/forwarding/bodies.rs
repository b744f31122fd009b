//! Bodies, trailers and answers without one, on HTTP/1.

use std::io::Write;
use std::time::Duration;

use crate::support::wire::{Framing, Wire};
use crate::support::{Client, Recorder, Server, beside_others, call, request};

use super::before;

#[test]
fn answers_without_a_body_have_none() {
    let _turn = beside_others();
    let backend = Recorder::answering(|request| match (request.method.as_str(), request.target.as_str()) {
        ("HEAD", _) => b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".to_vec(),
        (_, "/204") => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        (_, "/304") => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: \"a\"\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
    });
    let sidecar = before(backend.address());
    let mut client = Client::connect(sidecar.at.outbound);
    let answer = client.send("HEAD / HTTP/1.1\r\nHost: users\r\n\r\n").read("HEAD");
    assert_eq!(answer.field("content-length").as_deref(), Some("1234"));
    let answer = client.get("users", "/204");
    assert_eq!(
        (answer.status, answer.field("content-length"), answer.field("transfer-encoding")),
        (204, None, None)
    );
    let answer = client.get("users", "/304");
    assert_eq!((answer.status, answer.field("etag").as_deref()), (304, Some("\"a\"")));
    assert_eq!(client.get("users", "/").framing, Framing::Length(0));
}

#[test]
fn chunks_and_trailers_go_both_ways() {
    let _turn = beside_others();
    let backend = Recorder::answering(|request| {
        assert_eq!(request.trailers, [("x-up".to_owned(), b"1".to_vec())]);
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-down\r\n\r\n2\r\nok\r\n0\r\nx-down: 2\r\n\r\n".to_vec()
    });
    let sidecar = before(backend.address());
    let answer = call(
        sidecar.at.outbound,
        "POST / HTTP/1.1\r\nHost: users\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nx-up: 1\r\n\r\n",
    );
    assert_eq!((answer.framing, answer.text().as_str()), (Framing::Chunked, "ok"));
    assert_eq!(answer.trailers, [("x-down".to_owned(), b"2".to_vec())]);
    let seen = backend.only();
    assert_eq!((seen.framing, seen.body.as_slice()), (Framing::Chunked, b"hello".as_slice()));
}

#[test]
fn a_body_streams_while_it_is_made() {
    let _turn = beside_others();
    // Sends the second half of its answer only when the caller's next byte has come.
    let backend = Server::start(|number, mut stream| {
        let mut wire = Wire::new(stream.try_clone().unwrap());
        let Ok(head) = request::read_head(&mut wire, number) else { return };
        assert_eq!(head.framing, Framing::Length(2));
        let mut step = 0;
        wire.body(head.framing, &mut |bytes| {
            for byte in bytes {
                if step == 0 {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").unwrap();
                }
                stream.write_all(&[*byte]).unwrap();
                step += 1;
            }
        })
        .unwrap();
    });
    let sidecar = before(backend.address());
    let mut client = Client::connect(sidecar.at.outbound);
    client.send("POST / HTTP/1.1\r\nHost: users\r\nContent-Length: 2\r\n\r\na");
    assert_eq!(client.read_head().unwrap().status, 200);
    let wire = client.wire();
    while wire.unread().is_empty() {
        assert!(wire.fill().unwrap());
    }
    assert_eq!(wire.unread(), b"a");
    client.send("b");
    client.wire().fill().unwrap();
    assert_eq!(client.wire().unread(), b"ab");
}

#[test]
fn a_caller_who_expects_100_gets_it_from_the_service() {
    let _turn = beside_others();
    let backend = Server::start(|number, mut stream| {
        let mut wire = Wire::new(stream.try_clone().unwrap());
        while let Ok(mut head) = request::read_head(&mut wire, number) {
            assert_eq!(head.field("expect").as_deref(), Some("100-continue"));
            assert_eq!(wire.unread(), b"", "the body was sent before it was asked for");
            if head.target == "/no" {
                stream.write_all(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n").unwrap();
                return;
            }
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
            request::finish(&mut wire, &mut head);
            assert_eq!(head.body, b"hello");
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
    });
    let sidecar = before(backend.address());
    let head = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: users\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    };
    let mut client = Client::connect(sidecar.at.outbound);
    assert_eq!(client.send(head("/yes")).read_head().unwrap().status, 100);
    assert_eq!(client.send("hello").read("POST").text(), "ok");
    let mut client = Client::connect(sidecar.at.outbound);
    let answer = client.send(head("/no")).read("POST");
    assert_eq!((answer.status, answer.interim.len()), (417, 0), "a final answer without 100");
}

#[test]
fn interim_answers_are_relayed() {
    let _turn = beside_others();
    let backend = Recorder::answering(|_| {
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b.js>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()
    });
    let sidecar = before(backend.address());
    let answer = crate::support::get(sidecar.at.outbound, "users", "/");
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    let links: Vec<_> =
        answer.interim.iter().map(|(status, fields)| (*status, fields[0].1.clone())).collect();
    assert_eq!(links, [(103, b"</a.css>".to_vec()), (103, b"</b.js>".to_vec())]);
}

#[test]
fn a_service_that_is_read_slowly_is_slowed_down() {
    let _turn = beside_others();
    let backend = crate::support::bulk::Bulk::start();
    let sidecar = before(backend.address());
    let mut client = Client::connect(sidecar.at.outbound);
    let size: u64 = 256 << 20;
    client.send(format!("GET /{size} HTTP/1.1\r\nHost: users\r\n\r\n"));
    assert_eq!(client.read_head().unwrap().status, 200);
    let mut last = (0, std::time::Instant::now());
    while last.1.elapsed() < Duration::from_millis(500) {
        if backend.written() != last.0 {
            last = (backend.written(), std::time::Instant::now());
        }
        std::thread::yield_now();
    }
    assert!(last.0 < 32 << 20, "{} bytes went ahead of a caller who does not read", last.0);
}
