//! Peers that go, and peers that allow fewer streams than a moment ago: no call
//! is lost that was not begun, and none that does no harm twice.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::Request;

use super::peer::{self, Peer, Rules};
use super::{message, post};
use crate::support::frames::{ACK, END_HEADERS, END_STREAM, frame, kind};
use crate::support::h2peer::{Got, H2Client, exchange};
use crate::support::{Server, beside_others, sidecar};

const CALLS: usize = 1_000;
/// Calls at hand at one time.
const AT_ONCE: usize = 50;

type Seen = Arc<Mutex<HashMap<String, usize>>>;

/// Counts each call by its path, reads it whole and answers.
fn counting(rules: Rules) -> (Peer, Seen) {
    let seen = Seen::default();
    let count = seen.clone();
    let peer = Peer::start(rules, move || {
        move |request: Request<h2::RecvStream>, respond| {
            let count = count.clone();
            Box::pin(async move {
                *count.lock().unwrap().entry(request.uri().path().to_owned()).or_default() += 1;
                let _ = crate::support::h2peer::collect(request.into_body()).await;
                peer::ok(respond);
            })
        }
    });
    (peer, seen)
}

/// Makes all calls, `AT_ONCE` at a time.
fn all(client: &H2Client, request: impl Fn(usize) -> (Request<()>, bool)) -> Vec<Result<Got, h2::Error>> {
    client.block_on(async {
        let (mut running, mut answers) = (tokio::task::JoinSet::new(), Vec::new());
        for number in 0..CALLS {
            if running.len() == AT_ONCE {
                answers.push(running.join_next().await.unwrap().unwrap());
            }
            let (head, with_body) = request(number);
            let body = if with_body { vec![message(&[b'x'; 2000])] } else { Vec::new() };
            running.spawn(exchange(client.sender.clone(), head, body, None));
        }
        while let Some(answer) = running.join_next().await {
            answers.push(answer.unwrap());
        }
        answers
    })
}

#[test]
fn a_peer_that_leaves_in_good_order_loses_no_call() {
    let _turn = beside_others();
    let (peer, seen) = counting(Rules { leaves_after: Some((60, None)), ..Rules::default() });
    let sidecar = sidecar("front").upstream("users", peer.address).start();
    let client = H2Client::connect(sidecar.at.outbound);
    for answer in all(&client, |number| (post(&format!("http://users/s/{number}")), true)) {
        let answer = answer.unwrap();
        assert_eq!(answer.trailer("grpc-status"), Some("0"), "{answer:?}");
    }
    let seen = seen.lock().unwrap();
    assert!(seen.len() == CALLS && seen.values().all(|count| *count == 1), "each reached it once");
    // It serves more than it says, until the sidecar has heard it.
    assert!(peer.connections() >= 5, "{} connections", peer.connections());
    assert_eq!(sidecar.metrics().get("pillion_errors_total", &[]), 0.0);
}

#[test]
fn a_peer_that_breaks_off_loses_no_call_that_does_no_harm_twice() {
    let _turn = beside_others();
    let leaves_after = Some((60, Some(h2::Reason::INTERNAL_ERROR)));
    let (peer, _) = counting(Rules { leaves_after, ..Rules::default() });
    let sidecar = sidecar("front").upstream("users", peer.address).start();
    let client = H2Client::connect(sidecar.at.outbound);
    let get = |number| (Request::get(format!("http://users/s/{number}")).body(()).unwrap(), false);
    for answer in all(&client, get) {
        let answer = answer.unwrap();
        assert_eq!((answer.status(), answer.field("pillion-error")), (200, None));
    }
}

#[test]
fn a_peer_that_breaks_off_gets_no_call_twice_that_may_do_harm() {
    let _turn = beside_others();
    let leaves_after = Some((60, Some(h2::Reason::INTERNAL_ERROR)));
    let (peer, seen) = counting(Rules { leaves_after, ..Rules::default() });
    let sidecar = sidecar("front").upstream("users", peer.address).start();
    let client = H2Client::connect(sidecar.at.outbound);
    let answers = all(&client, |number| (post(&format!("http://users/s/{number}")), true));
    let good = answers.iter().flatten().filter(|answer| answer.trailer("grpc-status") == Some("0")).count();
    assert!(good > CALLS / 2, "{good} of {CALLS}");
    assert!(seen.lock().unwrap().values().all(|count| *count == 1), "each reached it at most once");
}

/// A connection's first frames: the preface is read, SETTINGS are sent, and room
/// for all that comes.
pub(super) fn greet(stream: &mut TcpStream) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).unwrap();
    stream.write_all(&frame(kind::SETTINGS, 0, 0, &[])).unwrap();
    stream.write_all(&frame(kind::WINDOW_UPDATE, 0, 0, &[0x40, 0, 0, 0])).unwrap();
}

/// The next frame: its kind, flags and stream.
pub(super) fn next(stream: &mut TcpStream) -> Option<(u8, u8, u32)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).ok()?;
    if head[3] == kind::SETTINGS && head[4] & ACK == 0 {
        stream.write_all(&frame(kind::SETTINGS, ACK, 0, &[])).unwrap();
    }
    Some((head[3], head[4], u32::from_be_bytes(head[5..9].try_into().unwrap())))
}

/// Answers every call with 200 and nothing else, once it is whole.
fn answer_all(stream: &mut TcpStream) {
    while let Some((kind, flags, number)) = next(stream) {
        if matches!(kind, kind::HEADERS | kind::DATA) && flags & END_STREAM != 0 {
            let answer = frame(kind::HEADERS, END_STREAM | END_HEADERS, number, &[0x88]);
            stream.write_all(&answer).unwrap();
        }
    }
}

#[test]
fn streams_above_the_last_that_was_looked_at_are_made_anew_whole() {
    let _turn = beside_others();
    const FIRST: u32 = 10;
    let again = Arc::new(AtomicUsize::new(0));
    let count = again.clone();
    let server = Server::start(move |number, mut stream| {
        greet(&mut stream);
        if number > 0 {
            count.fetch_add(1, Ordering::SeqCst);
            return answer_all(&mut stream);
        }
        // Waits until all calls are here whole, and takes the first of them.
        let mut ended = 0;
        while ended < FIRST {
            let Some((_, flags, stream)) = next(&mut stream) else { panic!("an early end") };
            ended += u32::from(flags & END_STREAM != 0 && stream > 0);
        }
        let last = [0, 0, 0, 1, 0, 0, 0, 0];
        stream.write_all(&frame(kind::GOAWAY, 0, 0, &last)).unwrap();
        stream.write_all(&frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, &[0x88])).unwrap();
    });
    let sidecar = sidecar("front").upstream("users", server.address()).start();
    let client = H2Client::connect(sidecar.at.outbound);
    let answers = client.block_on(async {
        let calls = (0..FIRST).map(|number| {
            let head = post(&format!("http://users/s/{number}"));
            tokio::spawn(exchange(client.sender.clone(), head, vec![message(&[b'x'; 40_000])], None))
        });
        let mut answers = Vec::new();
        for call in calls.collect::<Vec<_>>() {
            answers.push(call.await.unwrap().unwrap());
        }
        answers
    });
    for answer in answers {
        assert_eq!((answer.status(), answer.field("pillion-error")), (200, None), "{answer:?}");
    }
    assert!(again.load(Ordering::SeqCst) >= 1);
}

#[test]
fn a_peer_that_allows_fewer_streams_by_and_by_keeps_nobody_waiting() {
    let _turn = beside_others();
    for fewer in [0_u8, 1] {
        // The first connection allows less after a few calls and answers on.
        let server = Server::start(move |number, mut stream| {
            greet(&mut stream);
            if number > 0 {
                return answer_all(&mut stream);
            }
            let mut answered = 0;
            while let Some((kind, flags, id)) = next(&mut stream) {
                if !matches!(kind, kind::HEADERS | kind::DATA) || flags & END_STREAM == 0 {
                    continue;
                }
                answered += 1;
                if answered == 20 {
                    let settings = frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, fewer]);
                    stream.write_all(&settings).unwrap();
                }
                let answer = frame(kind::HEADERS, END_STREAM | END_HEADERS, id, &[0x88]);
                stream.write_all(&answer).unwrap();
            }
        });
        let sidecar = sidecar("front").upstream("users", server.address()).start();
        let client = H2Client::connect(sidecar.at.outbound);
        for answer in all(&client, |number| (post(&format!("http://users/s/{number}")), true)) {
            let answer = answer.unwrap();
            assert_eq!((answer.status(), answer.field("pillion-error")), (200, None), "{answer:?}");
        }
        assert!(server.accepted() > 1, "another connection was made");
    }
}
