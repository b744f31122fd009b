//! Hostile and legal HTTP/2, made of raw frames, on its way to an HTTP/1
//! backend: the direction in which a head can be read in two ways.

mod floods;
mod heads;
mod protocol;

use std::net::SocketAddr;

use pillion::base::Protocol;

use crate::support::frames::{self, END_HEADERS, END_STREAM, Outcome, RawH2, frame, kind};
use crate::support::wire::Bad;
use crate::support::{Recorder, Request, Sidecar, beside_others, sidecar};

/// What must become of the frames.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// One request reaches the backend, whole and strict, and is answered.
    Served,
    /// No whole request reaches the backend: a 4xx or 5xx of the sidecar's
    /// own, RST_STREAM, GOAWAY or the end of the connection.
    Refused,
    /// One or the other.
    Either,
}

struct Case {
    name: String,
    /// Sent after the preface.
    raw: Vec<u8>,
    expect: Expect,
    check: Option<fn(&Request)>,
}

impl Case {
    fn check(mut self, check: fn(&Request)) -> Self {
        self.check = Some(check);
        self
    }
}

fn case(name: impl Into<String>, raw: impl Into<Vec<u8>>, expect: Expect) -> Case {
    Case { name: name.into(), raw: raw.into(), expect, check: None }
}

type Fields<'a> = &'a [(&'a str, &'a str)];

/// The HEADERS frame of a call without a body on stream 1.
fn head(fields: Fields<'_>) -> Vec<u8> {
    frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, &frames::block(fields))
}

/// The HEADERS frame of a call with a body on stream 1, and what follows it.
fn body(fields: Fields<'_>, rest: &[Vec<u8>]) -> Vec<u8> {
    let mut raw = frame(kind::HEADERS, END_HEADERS, 1, &frames::block(fields));
    raw.extend(rest.concat());
    raw
}

/// A GET with more fields.
fn get(more: Fields<'_>) -> Vec<u8> {
    head(&with(":method", "GET", more))
}

/// A POST with more fields and what follows.
fn post(more: Fields<'_>, rest: &[Vec<u8>]) -> Vec<u8> {
    body(&with(":method", "POST", more), rest)
}

/// A legal head in which one pseudo-header has another value.
fn with<'a>(name: &str, value: &'a str, more: Fields<'a>) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "backend")];
    let place = fields.iter_mut().find(|(n, _)| *n == name).expect("a pseudo-header");
    place.1 = value;
    fields.extend(more);
    fields
}

/// The same head without one pseudo-header.
fn without<'a>(name: &str, more: Fields<'a>) -> Vec<(&'a str, &'a str)> {
    let mut fields = with(":method", "GET", more);
    fields.retain(|(n, _)| *n != name);
    fields
}

/// DATA on stream 1.
fn data(bytes: &str, flags: u8) -> Vec<u8> {
    frame(kind::DATA, flags, 1, bytes.as_bytes())
}

/// A second HEADERS frame on stream 1.
fn trailers(fields: Fields<'_>, flags: u8) -> Vec<u8> {
    frame(kind::HEADERS, flags | END_HEADERS, 1, &frames::block(fields))
}

/// A sidecar that speaks HTTP/1 with `at` on both ways.
fn before(at: SocketAddr) -> Sidecar {
    let http1 = pillion::config::model::Upstream {
        protocol: Protocol::Http1,
        listen: None,
        policy: pillion::config::model::RoutePolicy::default(),
        ..pillion::config::model::Upstream::default()
    };
    sidecar("front")
        .service(at)
        .upstream("backend", at)
        .upstream("backend:8080", at)
        .with(|model| {
            model.service.protocol = Protocol::Http1;
            for name in ["backend", "backend:8080"] {
                model.upstreams.insert(pillion::base::UpstreamName::new(name), http1.clone());
            }
        })
        .start()
}

fn run(cases: &[Case], listener: fn(&Sidecar) -> SocketAddr) {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = before(backend.address());
    let listener = listener(&sidecar);
    let mut wrong = Vec::new();
    for case in cases {
        if let Err(why) = judge(case, listener, &backend) {
            wrong.push(format!("{}: {why}", case.name));
        }
    }
    let mut last = RawH2::connect(listener);
    last.send(&frames::get(1, "backend")).unwrap();
    assert_eq!(last.outcome(1), Outcome::Answer(200), "the sidecar serves on");
    backend.take();
    drop((last, sidecar));
    for request in backend.end() {
        if !matches!(request.bad, Some(Bad::Cut(_))) {
            wrong.push(format!("reached the backend unasked: {request:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} went wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn judge(case: &Case, listener: SocketAddr, backend: &Recorder) -> Result<(), String> {
    let mut raw = RawH2::connect(listener);
    // The peer may refuse before everything was sent.
    let _ = raw.send(&case.raw);
    let outcome = raw.outcome(1);
    let seen: Vec<_> =
        backend.take().into_iter().filter(|one| !matches!(one.bad, Some(Bad::Cut(_)))).collect();
    let served = || match (&outcome, seen.as_slice()) {
        (Outcome::Answer(200), [one]) if one.bad.is_none() => {
            if let Some(check) = case.check {
                let held = std::panic::catch_unwind(|| check(one));
                held.map_err(|_| format!("does not hold of {one:?}"))?;
            }
            Ok(())
        }
        _ => Err(format!("{outcome:?}, and the backend has {seen:?}")),
    };
    let refused = || match (&outcome, seen.as_slice()) {
        (Outcome::Silent | Outcome::Answer(..400), _) => Err(format!("{outcome:?}, {seen:?}")),
        (_, []) => Ok(()),
        _ => Err(format!("{outcome:?}, but the backend has {seen:?}")),
    };
    match case.expect {
        Expect::Served => served(),
        Expect::Refused => refused(),
        Expect::Either => served().or_else(|_| refused()),
    }
}

fn all() -> Vec<Case> {
    let mut cases = heads::table();
    cases.extend(protocol::table());
    cases
}

#[test]
fn the_tables_are_large_and_name_every_case_once() {
    let cases = all();
    let names: std::collections::HashSet<_> = cases.iter().map(|case| case.name.clone()).collect();
    assert_eq!(names.len(), cases.len());
    assert!(cases.len() >= 100, "{}", cases.len());
}

#[test]
fn outbound() {
    run(&all(), |sidecar| sidecar.at.outbound);
}

#[test]
fn inbound() {
    run(&all(), |sidecar| sidecar.at.inbound);
}
