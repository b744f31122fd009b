//! Hostile and legal HTTP/1 heads and bodies, sent to both listeners. None
//! may reach the backend in a form that two parsers could read differently;
//! every legal one is served.

mod bodies;
mod fields;
mod framing;
mod hosts;
mod lines;
mod targets;

use std::net::SocketAddr;

use pillion::base::Protocol;

use crate::support::{Client, Recorder, Request, beside_others, sidecar};

/// What must become of the bytes.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// So many requests reach the backend, whole and strict, and are answered.
    Served(usize),
    /// So many are served; the next is refused with a status of the list and
    /// the connection ends.
    Refused(usize, &'static [u16]),
    /// The head is legal and the body is not: no whole request reaches the
    /// backend, and the connection ends, perhaps after a 4xx.
    Cut,
    /// Legal or not by the reading of the rules: served strictly, or refused.
    Either,
}

struct Case {
    name: String,
    raw: Vec<u8>,
    expect: Expect,
    check: Option<fn(&Request)>,
}

impl Case {
    /// What must be true of the request that the backend saw.
    fn check(mut self, check: fn(&Request)) -> Self {
        self.check = Some(check);
        self
    }
}

fn case(name: impl Into<String>, raw: impl AsRef<[u8]>, expect: Expect) -> Case {
    Case { name: name.into(), raw: raw.as_ref().to_vec(), expect, check: None }
}

fn served(name: impl Into<String>, raw: impl AsRef<[u8]>) -> Case {
    case(name, raw, Expect::Served(1))
}

fn refused(name: impl Into<String>, raw: impl AsRef<[u8]>) -> Case {
    case(name, raw, Expect::Refused(0, &[400]))
}

fn either(name: impl Into<String>, raw: impl AsRef<[u8]>) -> Case {
    case(name, raw, Expect::Either)
}

fn cut(name: impl Into<String>, raw: impl AsRef<[u8]>) -> Case {
    case(name, raw, Expect::Cut)
}

/// A GET with fields, each ended by CRLF.
fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: backend\r\n{fields}\r\n")
}

/// A POST with fields and what follows the head.
fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: backend\r\n{fields}\r\n{body}")
}

/// All tables together.
fn all() -> Vec<Case> {
    let tables = [
        framing::table(),
        hosts::table(),
        targets::table(),
        lines::table(),
        fields::table(),
        bodies::table(),
    ];
    tables.into_iter().flatten().collect()
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Outbound,
    Inbound,
}

/// Sends every case, collects all that goes wrong, and looks at what the
/// backend got when everything has ended.
fn run(way: Way, cases: &[Case]) {
    let _turn = beside_others();
    let backend = Recorder::start();
    let at = backend.address();
    let sidecar = sidecar("front")
        .service(at)
        .upstream("backend", at)
        .upstream("backend:8080", at)
        .with(|model| model.service.protocol = Protocol::Http1)
        .start();
    let listener = match way {
        Way::Outbound => sidecar.at.outbound,
        Way::Inbound => sidecar.at.inbound,
    };
    let mut wrong = Vec::new();
    for case in cases {
        let before = wrong.len();
        if let Err(why) = judge(case, listener, &backend) {
            wrong.push(why);
        }
        for why in &mut wrong[before..] {
            *why = format!("{way:?}, {}: {why}", case.name);
        }
    }
    let last = crate::support::get(listener, "backend", "/last");
    assert_eq!(last.status, 200, "the sidecar serves on");
    drop(sidecar);
    for request in backend.end() {
        let whole = request.bad.is_none();
        let cut = matches!(request.bad, Some(crate::support::wire::Bad::Cut(_)));
        if (whole && request.target != "/last") || (!whole && !cut) {
            wrong.push(format!("{way:?}: reached the backend unasked: {request:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} went wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn judge(case: &Case, listener: SocketAddr, backend: &Recorder) -> Result<(), String> {
    let mut client = Client::connect(listener);
    // A refusal may come before everything was sent.
    let _ = client.try_send(&case.raw);
    let method =
        String::from_utf8_lossy(case.raw.split(|b| *b == b' ').next().unwrap_or_default()).into_owned();
    let serve = |client: &mut Client, count: usize| {
        for _ in 0..count {
            let answer = client.try_read(&method).map_err(|bad| format!("no answer: {bad:?}"))?;
            if answer.status != 200 {
                return Err(format!("{} {:?} {}", answer.status, answer.reason(), answer.text()));
            }
        }
        let seen = backend.take();
        strict(&seen, count, case.check)
    };
    match case.expect {
        Expect::Served(count) => serve(&mut client, count),
        Expect::Refused(count, statuses) => {
            serve(&mut client, count)?;
            let answer = client.try_read("GET").map_err(|bad| format!("no refusal: {bad:?}"))?;
            if !statuses.contains(&answer.status) || answer.reason().is_none() {
                return Err(format!("{} {:?}, not {statuses:?}", answer.status, answer.reason()));
            }
            client.is_ended().then_some(()).ok_or_else(|| "refused, but not closed".to_owned())
        }
        Expect::Cut => match client.try_read("POST") {
            Ok(answer) if answer.status < 400 => Err(format!("answered {}", answer.status)),
            Ok(_) if !client.is_ended() => Err("not closed".into()),
            Err(bad) if bad.is_silence() => Err("neither refused nor closed".into()),
            _ => Ok(()),
        },
        Expect::Either => match client.try_read(&method) {
            Ok(answer) if answer.status == 200 => strict(&backend.take(), 1, case.check),
            Ok(answer) if (400..600).contains(&answer.status) && answer.reason().is_some() => Ok(()),
            other => Err(format!("neither served nor refused: {other:?}")),
        },
    }
}

fn strict(seen: &[Request], count: usize, check: Option<fn(&Request)>) -> Result<(), String> {
    // A request of an earlier case that was cut may come late.
    let seen: Vec<_> =
        seen.iter().filter(|one| !matches!(one.bad, Some(crate::support::wire::Bad::Cut(_)))).collect();
    if seen.len() != count || seen.iter().any(|one| one.bad.is_some()) {
        return Err(format!("the backend has {seen:?}"));
    }
    if let Some(check) = check {
        for request in &seen {
            let held = std::panic::catch_unwind(|| check(request));
            held.map_err(|_| format!("does not hold of {request:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn the_tables_are_large_and_name_every_case_once() {
    let cases = all();
    let names: std::collections::HashSet<_> = cases.iter().map(|case| case.name.clone()).collect();
    assert_eq!(names.len(), cases.len());
    assert!(cases.len() >= 200, "{}", cases.len());
    let legal = cases.iter().filter(|case| matches!(case.expect, Expect::Served(_))).count();
    assert!(legal >= 40, "{legal} are legal");
}

#[test]
fn outbound_framing() {
    run(Way::Outbound, &framing::table());
}

#[test]
fn inbound_framing() {
    run(Way::Inbound, &framing::table());
}

#[test]
fn outbound_hosts() {
    run(Way::Outbound, &hosts::table());
}

#[test]
fn inbound_hosts() {
    run(Way::Inbound, &hosts::table());
}

#[test]
fn outbound_targets() {
    run(Way::Outbound, &targets::table());
}

#[test]
fn inbound_targets() {
    run(Way::Inbound, &targets::table());
}

#[test]
fn outbound_lines() {
    run(Way::Outbound, &lines::table());
}

#[test]
fn inbound_lines() {
    run(Way::Inbound, &lines::table());
}

#[test]
fn outbound_fields() {
    run(Way::Outbound, &fields::table());
}

#[test]
fn inbound_fields() {
    run(Way::Inbound, &fields::table());
}

#[test]
fn outbound_bodies() {
    run(Way::Outbound, &bodies::table());
}

#[test]
fn inbound_bodies() {
    run(Way::Inbound, &bodies::table());
}
