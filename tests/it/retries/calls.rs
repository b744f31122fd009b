//! Which calls are sent again.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use pillion::config::model::OnlyIf;

use super::{answer, eager, to};
use crate::policy::routed;
use crate::support::server::reset_on_close;
use crate::support::wire::Wire;
use crate::support::{Client, Recorder, Server, beside_others, call, get, request, sidecar, until};

#[test]
fn a_key_makes_a_post_one_that_may_be_sent_again_where_the_policy_says_so() {
    let _turn = beside_others();
    let backend = Recorder::answering(|_| answer(503, ""));
    for (only_if, key, attempts) in [
        (OnlyIf::Idempotent, "Idempotency-Key: 7\r\n", 1),
        (OnlyIf::IdempotencyKey, "Idempotency-Key: 7\r\n", 2),
        (OnlyIf::IdempotencyKey, "Idempotency-Key: \r\n", 1),
        (OnlyIf::IdempotencyKey, "", 1),
        (OnlyIf::Always, "", 2),
    ] {
        let retry = pillion::config::model::Retry { only_if, ..eager(1) };
        let sidecar = routed(backend.address(), |policy| policy.retry = Some(retry)).start();
        let raw = format!("POST /pay HTTP/1.1\r\nHost: users\r\n{key}Content-Length: 2\r\n\r\nhi");
        let answer = call(sidecar.at.outbound, raw);
        assert_eq!(answer.status, 503);
        let told = (attempts > 1).then(|| attempts.to_string());
        assert_eq!(answer.field("pillion-attempts"), told, "{only_if:?} {key:?}");
        let seen = backend.take();
        assert_eq!(to(&seen, "/pay"), attempts, "{only_if:?} {key:?}");
        assert!(seen.iter().all(|request| request.body == b"hi"), "{seen:?}");
    }
}

#[test]
fn the_answer_says_how_many_attempts_it_took_at_this_hop() {
    let _turn = beside_others();
    let backend = Recorder::answering(|request| match request.target.as_str() {
        "/of-another-hop" => answer(200, "Pillion-Attempts: 5\r\n"),
        _ => answer(500, ""),
    });
    let sidecar = routed(backend.address(), |policy| policy.retry = Some(eager(2))).start();
    assert_eq!(get(sidecar.at.outbound, "users", "/").field("pillion-attempts").as_deref(), Some("3"));
    assert_eq!(get(sidecar.at.outbound, "users", "/of-another-hop").field("pillion-attempts"), None);
    sidecar.metric_is("pillion_retries_skipped_total", &[("why", "max")], 1.0);
    drop(backend);
    let failed = get(sidecar.at.outbound, "users", "/");
    assert_eq!(failed.status, 502);
    assert_eq!(failed.field("pillion-attempts").as_deref(), Some("3"), "{}", failed.text());
}

#[test]
fn an_answer_that_has_begun_is_not_taken_back() {
    let _turn = beside_others();
    let backend = Server::start(|number, mut stream| {
        if request::read(&mut Wire::new(stream.try_clone().unwrap()), number).is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfive!").unwrap();
        }
    });
    let sidecar = routed(backend.address(), |policy| policy.retry = Some(eager(2))).start();
    let mut client = Client::connect(sidecar.at.outbound);
    client.send("GET / HTTP/1.1\r\nHost: users\r\n\r\n");
    assert!(client.try_read("GET").is_err_and(|bad| !bad.is_silence()), "cut");
    assert_eq!(backend.accepted(), 1);
    sidecar.metric_is("pillion_retries_skipped_total", &[("why", "begun")], 1.0);
}

/// How many calls the long tests make.
fn calls() -> usize {
    std::env::var("PILLION_TEST_CALLS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_500)
}

#[test]
fn a_post_is_sent_once_whatever_is_reset() {
    let _turn = beside_others();
    let seen = std::sync::Arc::new(std::sync::Mutex::new(std::collections::HashMap::<String, usize>::new()));
    let record = seen.clone();
    let backend = Server::start(move |number, mut stream| {
        let mut wire = Wire::new(stream.try_clone().unwrap());
        while let Some(request) = request::read(&mut wire, number) {
            if request.bad.is_some() {
                return;
            }
            *record.lock().unwrap().entry(request.target).or_default() += 1;
            match fastrand::u8(..4) {
                0 => return reset_on_close(&stream),
                1 => return,
                2 => {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                    // And goes away while the connection stands idle.
                    return;
                }
                _ => {
                    if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                        return;
                    }
                }
            }
        }
    });
    let sidecar = routed(backend.address(), |policy| policy.retry = Some(eager(3))).start();
    let (next, answered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = Client::connect(sidecar.at.outbound);
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= calls() {
                        break;
                    }
                    let body = "x".repeat(number % 2_000);
                    let length = body.len();
                    let head = format!("POST /{number} HTTP/1.1\r\nHost: users\r\nContent-Length: {length}");
                    let status = client.send(format!("{head}\r\n\r\n{body}")).read("POST").status;
                    answered.fetch_add(usize::from(status == 200), Ordering::SeqCst);
                }
            });
        }
    });
    let seen = seen.lock().unwrap();
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    assert_eq!(twice, [], "sent more than once");
    assert!(seen.len() >= calls() / 2 && answered.load(Ordering::SeqCst) >= calls() / 4, "{}", seen.len());
}

#[test]
fn one_of_three_endpoints_that_fails_fails_no_idempotent_call() {
    let _turn = beside_others();
    for kind in ["resets", "refuses", "503"] {
        let good: Vec<_> = (0..2).map(|_| Recorder::start()).collect();
        let bad = Server::start(move |number, mut stream| {
            let mut wire = Wire::new(stream.try_clone().unwrap());
            while request::read(&mut wire, number).is_some_and(|request| request.bad.is_none()) {
                if kind == "resets" {
                    return reset_on_close(&stream);
                }
                let _ = stream.write_all(&answer(503, ""));
            }
        });
        let setup = routed(bad.address(), |policy| {
            policy.retry = Some(pillion::config::model::Retry { budget: 0.2, ..eager(2) });
        });
        let sidecar = good.iter().fold(setup, |setup, good| setup.upstream("users", good.address())).start();
        if kind == "refuses" {
            bad.end();
        }
        let mut clients: Vec<_> = (0..8).map(|_| Client::connect(sidecar.at.outbound)).collect();
        for number in 0..calls() {
            let client = &mut clients[number % 8];
            assert_eq!(client.get("users", &format!("/{number}")).status, 200, "{kind}, call {number}");
        }
        until("both others were used", || good.iter().all(|good| good.take().len() > 50));
    }
}

#[test]
fn a_call_without_retries_is_made_once() {
    let _turn = beside_others();
    let backend = Recorder::answering(|_| answer(503, ""));
    let sidecar = sidecar("front").upstream("users", backend.address()).start();
    assert_eq!(get(sidecar.at.outbound, "users", "/").field("pillion-attempts"), None);
    assert_eq!(backend.take().len(), 1);
}
