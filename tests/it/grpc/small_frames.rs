//! DATA frames that are small or empty: legal, and what a peer sends of them
//! over the life of a connection must not end it.

use std::io::{Read, Write};
use std::net::TcpStream;

use http::Request;

use super::goaway::{greet, next};
use super::{message, post};
use crate::support::frames::{END_HEADERS, END_STREAM, frame, kind};
use crate::support::h2peer::{Got, H2Client, exchange};
use crate::support::{Server, beside_others, sidecar};

fn get() -> Request<()> {
    Request::get("http://users/").body(()).unwrap()
}

#[test]
fn empty_frames_end_no_connection() {
    let _turn = beside_others();
    let server = Server::start(|_, mut stream| {
        greet(&mut stream);
        while let Some((kind, flags, id)) = next(&mut stream) {
            if !matches!(kind, kind::HEADERS | kind::DATA) || flags & END_STREAM == 0 {
                continue;
            }
            let mut answer = frame(kind::HEADERS, END_HEADERS, id, &[0x88]);
            for _ in 0..5 {
                answer.extend(frame(kind::DATA, 0, id, b""));
                answer.extend(frame(kind::DATA, 0, id, b"part "));
            }
            answer.extend(frame(kind::DATA, 0, id, b""));
            answer.extend(frame(kind::DATA, END_STREAM, id, b""));
            stream.write_all(&answer).unwrap();
        }
    });
    let sidecar = sidecar("front").upstream("users", server.address()).start();
    let client = H2Client::connect(sidecar.at.outbound);
    for _ in 0..300 {
        let answer = client.call(get(), Vec::new(), None);
        assert_eq!((answer.status(), &answer.body[..]), (200, &b"part part part part part "[..]));
    }
    assert_eq!(server.accepted(), 1, "1,800 empty frames later it is the same connection");
}

/// Answers what has a body whole, and what has none with one small frame; when
/// that stream is given up, many more of its frames are on their way.
fn watched(stream: &mut TcpStream) {
    greet(stream);
    loop {
        let mut head = [0; 9];
        let Ok(()) = stream.read_exact(&mut head) else { return };
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).unwrap();
        let id = u32::from_be_bytes(head[5..9].try_into().unwrap());
        let answer = match head[3] {
            kind::HEADERS if head[4] & END_STREAM != 0 => {
                [frame(kind::HEADERS, END_HEADERS, id, &[0x88]), frame(kind::DATA, 0, id, b"event")].concat()
            }
            kind::DATA if head[4] & END_STREAM != 0 => {
                frame(kind::HEADERS, END_STREAM | END_HEADERS, id, &[0x88])
            }
            kind::RST_STREAM => frame(kind::DATA, 0, id, b"event").repeat(50),
            kind::SETTINGS if head[4] == 0 => frame(kind::SETTINGS, 1, 0, &[]),
            _ => continue,
        };
        let Ok(()) = stream.write_all(&answer) else { return };
    }
}

#[test]
fn streams_that_are_given_up_cost_no_other_call() {
    let _turn = beside_others();
    const CALLS: usize = 600;
    let server = Server::start(|_, mut stream| watched(&mut stream));
    let sidecar = sidecar("front").upstream("users", server.address()).start();
    let client = H2Client::connect(sidecar.at.outbound);
    let answers: Vec<Got> = client.block_on(async {
        let mut answers = Vec::new();
        for _ in 0..CALLS {
            let mut sender = client.sender.clone().ready().await.unwrap();
            let (answer, _) = sender.send_request(get(), true).unwrap();
            let mut body = answer.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "event");
            drop(body);
            let whole = exchange(client.sender.clone(), post("http://users/"), vec![message(b"x")], None);
            answers.push(whole.await.unwrap());
        }
        answers
    });
    for answer in answers {
        assert_eq!((answer.status(), answer.field("pillion-error")), (200, None), "{answer:?}");
    }
    let connections = server.accepted();
    assert!((2..6).contains(&connections), "{connections}: one grows old after 256 such streams");
}
