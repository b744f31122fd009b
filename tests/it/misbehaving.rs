//! Services that misbehave: each gives the right error, hurts no other
//! request, and leaves no connection poisoned.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pillion::base::Reason;
use pillion::config::model::Timeout;

use crate::support::h2peer::{Answer, H2Backend, H2Client};
use crate::support::scripts::{Expect, Misbehaving, Play, SCRIPTS, Script};
use crate::support::wire::{Framing, Wire};
use crate::support::{Client, Server, Sidecar, beside_others, get, request, sidecar, until};

const SHORT: Duration = Duration::from_secs(1);

fn before(at: SocketAddr) -> Sidecar {
    let edit = |model: &mut pillion::config::Model| {
        for policy in [&mut model.defaults, &mut model.inbound_defaults] {
            policy.timeout = Timeout::Head(SHORT);
            policy.idle_timeout = SHORT * 2;
        }
    };
    sidecar("front").upstream("users", at).service(at).with(edit).start()
}

#[test]
fn each_script_gives_its_error_and_hurts_nobody_outbound() {
    every_script(|sidecar| sidecar.at.outbound);
}

#[test]
fn each_script_gives_its_error_and_hurts_nobody_inbound() {
    every_script(|sidecar| sidecar.at.inbound);
}

fn every_script(listener: fn(&Sidecar) -> SocketAddr) {
    let _turn = beside_others();
    let mut failed = Vec::new();
    for script in SCRIPTS {
        let run = || one_script(script, listener);
        if std::panic::catch_unwind(run).is_err() {
            failed.push(script.name);
        }
    }
    assert!(failed.is_empty(), "failed, each as told above: {failed:#?}");
}

fn one_script(script: &'static Script, listener: fn(&Sidecar) -> SocketAddr) {
    let backend = Misbehaving::start(script);
    let sidecar = before(backend.address());
    let address = listener(&sidecar);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A script that plays before it reads would meet any connection.
        let others = !matches!(script.play, Play::BeforeReading(_));
        let other = others.then(|| scope.spawn(|| serve_on(address, &over)));
        let seen = std::panic::catch_unwind(|| {
            judge(script, address);
            // The pool holds what it will hold: none of it may be poisoned.
            for number in 0..6 {
                let path = format!("/after/{number}");
                assert_eq!(get(address, "users", &path).text(), path, "{}", script.name);
            }
        });
        over.store(true, Ordering::SeqCst);
        if let Some(other) = other {
            other.join().expect("another request was hurt");
        }
        if let Err(panic) = seen {
            std::panic::resume_unwind(panic);
        }
    });
    if let Expect::Error(reason) | Expect::Broken(reason) = script.expect {
        sidecar.metric_is("pillion_errors_total", &[("reason", reason.as_str())], 1.0);
    }
    sidecar.end();
    until("no connection is left", || backend.open() == 0);
}

/// Keeps a connection busy until `over`.
fn serve_on(address: SocketAddr, over: &AtomicBool) {
    let mut client = Client::connect(address);
    for number in 0.. {
        let path = format!("/beside/{number}");
        let answer = client.get("users", &path);
        assert_eq!((answer.status, answer.text()), (200, path));
        if over.load(Ordering::SeqCst) {
            return;
        }
    }
}

#[track_caller]
fn judge(script: &Script, address: SocketAddr) {
    let name = script.name;
    let mut client = Client::connect(address);
    client.send("GET /bad HTTP/1.1\r\nHost: users\r\n\r\n");
    let seen = client.try_read("GET");
    let said = |reason: Reason| {
        let answer = seen.as_ref().unwrap_or_else(|bad| panic!("{name}: {bad:?}"));
        let facts = reason.facts();
        assert_eq!(
            (answer.status, answer.reason().as_deref()),
            (facts.status, Some(facts.word)),
            "{name}: {}",
            answer.text()
        );
    };
    match script.expect {
        Expect::Served(status, body) => {
            let answer = seen.as_ref().unwrap_or_else(|bad| panic!("{name}: {bad:?}"));
            assert_eq!(
                (answer.status, answer.text().as_str(), answer.reason()),
                (status, body, None),
                "{name}"
            );
            check_more(name, answer);
        }
        Expect::Error(reason) => said(reason),
        Expect::ErrorIfSent(reason) => match &seen {
            Ok(answer) if answer.status == 200 => assert_eq!(answer.text(), "/bad"),
            // The reset may come within the handshake.
            Ok(answer) if answer.reason().as_deref() == Some("connect_failed") => {}
            _ => said(reason),
        },
        Expect::Broken(reason) => match &seen {
            Err(bad) => assert!(!bad.is_silence(), "{name}: the caller is left waiting"),
            Ok(_) => said(reason),
        },
        Expect::Either(status, reason) => match &seen {
            Ok(answer) if answer.status == status => assert_eq!(answer.body, b"", "{name}"),
            _ => said(reason),
        },
    }
}

fn check_more(name: &str, answer: &crate::support::Response) {
    match name {
        "trailers" => assert_eq!(answer.trailers, [("x-sum".to_owned(), b"7".to_vec())]),
        "103 before 200" => assert_eq!(answer.interim.len(), 1),
        "framing fields in the trailers" => {
            assert_eq!(answer.trailers, [("x-a".to_owned(), b"1".to_vec())]);
        }
        _ => {}
    }
}

#[test]
fn an_early_answer_reaches_the_caller_who_still_sends() {
    let _turn = beside_others();
    // Answers as soon as it has the head, never reads the body, and closes.
    let backend = Server::start(|number, mut stream| {
        let mut wire = Wire::new(stream.try_clone().unwrap());
        if let Ok(head) = request::read_head(&mut wire, number) {
            assert_eq!(head.framing, Framing::Length(1 << 20));
            let answer =
                b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 5\r\n\r\nlarge";
            stream.write_all(answer).unwrap();
        }
    });
    let sidecar = before(backend.address());
    for _ in 0..5 {
        let mut client = Client::connect(sidecar.at.outbound);
        client.send(format!("POST / HTTP/1.1\r\nHost: users\r\nContent-Length: {}\r\n\r\n", 1 << 20));
        client.send([b'a'; 1000]);
        let answer = client.read("POST");
        assert_eq!((answer.status, answer.text().as_str()), (413, "large"));
        // What is left of the body must not be read as a request.
        let _ = client.try_send("GET /smuggled HTTP/1.1\r\nHost: users\r\n\r\n");
        assert!(matches!(client.rest().as_slice(), b""), "an answer to a part of the body");
    }
}

#[test]
fn a_connection_that_was_closed_while_idle_fails_nobody() {
    let _turn = beside_others();
    // Serves one request a connection and closes without telling so.
    let backend = Server::start(|number, mut stream| {
        let mut wire = Wire::new(stream.try_clone().unwrap());
        if request::read(&mut wire, number).is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
    });
    let sidecar = before(backend.address());
    let mut client = Client::connect(sidecar.at.outbound);
    for _ in 0..50 {
        assert_eq!(client.get("users", "/").status, 200);
        until("the backend has closed", || backend.open() == 0);
    }
    // A POST that was not sent may be sent again too.
    for _ in 0..50 {
        client.send("POST / HTTP/1.1\r\nHost: users\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!(client.read("POST").status, 200);
        until("the backend has closed", || backend.open() == 0);
    }
    assert_eq!(backend.accepted(), 100);
}

#[test]
fn an_http2_service_that_resets_gives_the_right_error() {
    let _turn = beside_others();
    let backend = H2Backend::answering(|seen| match seen.head.uri.path() {
        "/before" => Answer { reset: Some(h2::Reason::INTERNAL_ERROR), ..Answer::default() },
        // More than a window, so that the head has arrived before the reset.
        "/within" => {
            let body = vec![bytes::Bytes::from(vec![b'a'; 256 * 1024])];
            Answer { reset: Some(h2::Reason::INTERNAL_ERROR), body, ..Answer::default() }
        }
        _ => Answer::text("ok"),
    });
    let sidecar = before(backend.address());
    let client = H2Client::connect(sidecar.at.outbound);
    let got = client.get("http://users/before");
    assert_eq!((got.status(), got.field("pillion-error")), (502, Some("reset_before_headers")));
    let request = http::Request::get("http://users/within").body(()).unwrap();
    if let Ok(got) = client.try_call(request, Vec::new(), None) {
        assert_eq!(got.field("pillion-error"), Some("reset_after_headers"));
    }
    assert_eq!(client.get("http://users/good").body, b"ok", "the connection goes on");
    for reason in ["reset_before_headers", "reset_after_headers"] {
        sidecar.metric_is("pillion_errors_total", &[("reason", reason)], 1.0);
    }
}
