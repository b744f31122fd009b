//! Retries of calls of gRPC.

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use pillion::config::model::{OnlyIf, Retry};

use super::eager;
use crate::policy::routed;
use crate::support::beside_others;
use crate::support::h2peer::{Answer, Got, H2Backend, H2Client, Seen};

fn status(code: u8, fields: &[(&'static str, &'static str)]) -> Answer {
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    head.headers_mut().insert("grpc-status", u16::from(code).into());
    for (name, value) in fields {
        head.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    Answer { head, ..Answer::default() }
}

fn previous(seen: &Seen) -> Option<&str> {
    seen.head.headers.get("grpc-previous-rpc-attempts").map(|value| value.to_str().unwrap())
}

/// Calls a service that answers UNAVAILABLE with `fields` until its third attempt.
fn charged(only_if: OnlyIf, fields: &'static [(&'static str, &'static str)]) -> (Got, Vec<Seen>) {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let backend =
        H2Backend::answering(move |_| match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 | 1 => status(14, fields),
            _ => status(0, &[]),
        });
    let retry = Retry { only_if, ..eager(2) };
    let sidecar = routed(backend.address(), |policy| policy.retry = Some(retry)).start();
    let client = H2Client::connect(sidecar.at.outbound);
    let head = Request::post("http://users/pay.v1.Pay/Charge").header("content-type", "application/grpc");
    let got = client.call(head.body(()).unwrap(), vec![Bytes::from_static(b"\0\0\0\0\x01a")], None);
    (got, backend.take())
}

#[test]
fn a_call_of_grpc_is_sent_again_where_the_policy_says_that_it_may_be() {
    let _turn = beside_others();
    let (got, seen) = charged(OnlyIf::Always, &[]);
    assert_eq!((got.field("grpc-status"), got.field("pillion-attempts")), (Some("0"), Some("3")));
    let previous: Vec<_> = seen.iter().map(previous).collect();
    assert_eq!(previous, [None, Some("1"), Some("2")]);
    assert!(seen.iter().all(|seen| seen.body == b"\0\0\0\0\x01a"));
    let (got, seen) = charged(OnlyIf::IdempotencyKey, &[]);
    assert_eq!((got.field("grpc-status"), seen.len()), (Some("14"), 1), "a charge without a key");
}

#[test]
fn pushback_is_obeyed() {
    let _turn = beside_others();
    let (got, seen) = charged(OnlyIf::Always, &[("grpc-retry-pushback-ms", "-1")]);
    assert_eq!((got.field("grpc-status"), seen.len()), (Some("14"), 1));
    let began = std::time::Instant::now();
    let (got, seen) = charged(OnlyIf::Always, &[("grpc-retry-pushback-ms", "300")]);
    assert_eq!((got.field("grpc-status"), seen.len()), (Some("0"), 3));
    assert!(began.elapsed().as_millis() >= 600, "{:?}", began.elapsed());
}

/// The shop's descriptor says nothing; this one says that a method reads.
#[test]
fn the_proto_says_which_calls_only_read() {
    let _turn = beside_others();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("pay.proto"),
        "syntax = \"proto3\"; package pay.v1; message M {} service Pay {\n\
         rpc List(M) returns (M) { option idempotency_level = NO_SIDE_EFFECTS; }\n\
         rpc Cancel(M) returns (M) { option idempotency_level = IDEMPOTENT; }\n\
         rpc Charge(M) returns (M); }",
    )
    .unwrap();
    let set = protox::Compiler::new([folder.path()])
        .unwrap()
        .include_imports(true)
        .open_file("pay.proto")
        .unwrap()
        .encode_file_descriptor_set();
    std::fs::write(folder.path().join("pay.pb"), set).unwrap();
    let policy = "version: 1\nservice: {name: front}\noutbound:\n  - to: users\n    json: {descriptor: pay.pb}\n    \
                  retry: {max: 2, budget: 100%, on: [UNAVAILABLE], backoff: 1ms..2ms}\n";
    std::fs::write(folder.path().join("pillion.yaml"), policy).unwrap();
    let loaded =
        pillion::config::load(&folder.path().join("pillion.yaml"), &pillion::config::Environment::default());
    let loaded = loaded.unwrap_or_else(|problems| panic!("{problems}")).model;
    let backend = H2Backend::answering(|_| status(14, &[]));
    let sidecar = crate::support::sidecar("front")
        .upstream("users", backend.address())
        .with(|model| model.upstreams.clone_from(&loaded.upstreams))
        .start();
    let client = H2Client::connect(sidecar.at.outbound);
    for (method, attempts) in [("List", 3), ("Cancel", 3), ("Charge", 1), ("Other", 1)] {
        let url = format!("http://users/pay.v1.Pay/{method}");
        let head = Request::post(url).header("content-type", "application/grpc").body(()).unwrap();
        client.call(head, vec![Bytes::from_static(b"\0\0\0\0\0")], None);
        assert_eq!(backend.take().len(), attempts, "{method}");
    }
}
